"""Make a module from a shared library in the interpreter that asks for it.

What CPython's ``_imp.create_dynamic`` does, with one difference that matters: since 3.13 that calls
the init function in the *main* interpreter, and a module of the old kind (single-phase) then shares
its objects with it.  Here it is called where the module is wanted.

There are three kinds of init function (PEP 489, PEP 793):

- ``PyInit_<name>`` that returns a definition: multi-phase.  CPython makes the module from it.
- ``PyInit_<name>`` that returns a module: single-phase.  It is made, and needs finishing touches.
- ``PyModExport_<name>``, from 3.15 on: returns slots, always multi-phase.
"""

import ctypes
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType

_pythonapi = ctypes.pythonapi
# Prototypes of our own: those of ctypes.pythonapi are shared with the app.
_from_definition = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_int
)(("PyModule_FromDefAndSpec2", _pythonapi))
_definition_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(
    ("PyModule_GetDef", _pythonapi)
)
_find_state = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
    ("PyState_FindModule", _pythonapi)
)
_add_state = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)(
    ("PyState_AddModule", _pythonapi)
)
_release = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_DecRef", _pythonapi))
_init_type = ctypes.PYFUNCTYPE(ctypes.c_void_p)

_POINTER_BYTES = ctypes.sizeof(ctypes.c_void_p)
# struct PyModuleDef, frozen by the stable ABI: an object, then m_init, m_index, m_copy, m_name,
# m_doc, m_size, m_methods, m_slots.
_SIZE_OFFSET = object.__basicsize__ + 5 * _POINTER_BYTES
_SLOTS_OFFSET = object.__basicsize__ + 7 * _POINTER_BYTES
_DEFINITION_TYPE = ctypes.addressof(ctypes.c_char.in_dll(_pythonapi, "PyModuleDef_Type"))


class _LegacySlot(ctypes.Structure):
    """``PyModuleDef_Slot`` (PEP 489)."""

    _fields_ = (("identifier", ctypes.c_int), ("value", ctypes.c_void_p))


class _Slot(ctypes.Structure):
    """``PySlot`` (PEP 820), from 3.15 on."""

    _fields_ = (
        ("identifier", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("reserved", ctypes.c_uint32),
        ("value", ctypes.c_void_p),
    )


# <slots_generated.h>: Py_mod_multiple_interpreters has an old and a new number, and slots nest.
_SLOT_END, _SLOTS_INTERPRETERS = 0, (3, 86)
_NESTED: dict[int, type[_Slot | _LegacySlot]] = {92: _Slot, 94: _LegacySlot}
_OWN_GIL = 2  # Py_MOD_PER_INTERPRETER_GIL_SUPPORTED
_MAX_SLOTS = 256  # a module has a handful; a bound for what is not what it seems

_HAS_EXPORTS = hasattr(_pythonapi, "PyModule_FromSlotsAndSpec")
if _HAS_EXPORTS:
    _from_slots = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object)(
        ("PyModule_FromSlotsAndSpec", _pythonapi)
    )


@dataclass(frozen=True, slots=True)
class Definition:
    """What a multi-phase init function returned: the address of a definition, or of slots.

    An address and not an object: the reference is borrowed, and PyO3's definition is freed when
    somebody gives back what he was not given.
    """

    address: int
    is_slots: bool


def call_init(library: ctypes.PyDLL, spec: ModuleSpec) -> Definition | ModuleType:
    """Call the module's init function; return its definition, or the finished module.

    What the function raises comes through.  Raises `ImportError` if there is no such function and
    `SystemError`, as CPython does, if it breaks the rules.
    """
    export_name, init_name = _symbols(spec.name)
    if _HAS_EXPORTS and (export := getattr(library, export_name, None)) is not None:
        return Definition(_call(export, spec), is_slots=True)
    if (init := getattr(library, init_name, None)) is None:
        raise ImportError(
            f"dynamic module does not define module export function ({init_name})",
            name=spec.name,
            path=spec.origin,
        )
    address = _call(init, spec)
    kind = ctypes.c_void_p.from_address(address + object.__basicsize__ - _POINTER_BYTES).value
    if kind is None:
        raise SystemError(f"init function of {spec.name} returned uninitialized object")
    if kind == _DEFINITION_TYPE:
        return Definition(address, is_slots=False)
    module = ctypes.cast(address, ctypes.py_object).value
    _release(module)  # the init function's reference; `module` is one of our own
    if not isinstance(module, ModuleType) or not init_name.startswith("PyInit_"):
        raise SystemError(f"initialization of {spec.name} did not return an extension module")
    _finish_single_phase(module, spec)
    return module


def make_module(definition: Definition, spec: ModuleSpec) -> ModuleType:
    """Make the module of a definition; it is yet to be executed.

    Raises whatever its create function raises.
    """
    if definition.is_slots:
        return _from_slots(definition.address, spec)  # type: ignore[no-any-return]
    return _from_definition(definition.address, spec, sys.api_version)  # type: ignore[no-any-return]


def declares_own_gil(definition: Definition) -> bool:
    """Say whether a definition has the slot by which a module supports own-GIL interpreters."""
    if definition.is_slots:
        return _slots_declare(definition.address, _Slot)
    slots = ctypes.c_void_p.from_address(definition.address + _SLOTS_OFFSET).value
    return _slots_declare(slots, _LegacySlot)


def keeps_state(module: ModuleType) -> bool:
    """Say whether a single-phase module can only be initialised once (``m_size == -1``)."""
    definition = _definition_of(module)
    return ctypes.c_ssize_t.from_address(definition + _SIZE_OFFSET).value == -1


def _slots_declare(address: int | None, kind: type[_Slot | _LegacySlot]) -> bool:
    if address is None:
        return False
    for number in range(_MAX_SLOTS):
        slot = kind.from_address(address + number * ctypes.sizeof(kind))
        if slot.identifier == _SLOT_END:
            return False
        if slot.identifier in _SLOTS_INTERPRETERS:
            return bool(slot.value == _OWN_GIL)
        nested = _NESTED.get(slot.identifier)
        if nested is not None and _slots_declare(slot.value, nested):
            return True
    return False


def _call(function: ctypes._FuncPointer, spec: ModuleSpec) -> int:
    """Call an init function; its exception is raised by ctypes, which looks for one after."""
    function.argtypes = ()
    function.restype = ctypes.c_void_p
    address: int | None = function()
    if address is None:
        raise SystemError(f"initialization of {spec.name} failed without raising an exception")
    return address


def _finish_single_phase(module: ModuleType, spec: ModuleSpec) -> None:
    definition = _definition_of(module)
    if definition is None:
        raise SystemError(f"initialization of {spec.name} did not return a valid extension module")
    if _find_state(definition) != id(module) and _add_state(module, definition) != 0:
        raise SystemError(f"{spec.name} could not be added to the interpreter's modules")
    module.__name__ = spec.name
    module.__file__ = spec.origin
    sys.modules[spec.name] = module


def _symbols(name: str) -> tuple[str, str]:
    """Return the names of the export and of the init function (PEP 489, "Export Hook Name")."""
    short = name.rpartition(".")[2]
    if short.isascii():
        return f"PyModExport_{short}", f"PyInit_{short}"
    encoded = short.encode("punycode").decode("ascii").replace("-", "_")
    return f"PyModExportU_{encoded}", f"PyInitU_{encoded}"
