"""Give a single-phase module its full name while it is being made.

A module of this kind knows its short name only (``_core`` for ``package._core``).  CPython has a
variable, the package context, by which ``PyModule_Create2`` puts in the full name, so that classes
and functions made in the init function say where they are from, which pickle relies on.  The
variable is out of our reach: CPython exports neither it nor what sets it.

The copy is ours, though.  While its init function runs, the pointer by which *it* calls
``PyModule_Create2`` leads to a function that does what the variable would do.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from subserve.extensions import dynamic

FUNCTION = "PyModule_Create2"
"""What is replaced."""

_create_type = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_create = _create_type((FUNCTION, ctypes.pythonapi))
_create_address = ctypes.cast(_create, ctypes.c_void_p).value

# struct PyModuleDef: an object, then m_init, m_index, m_copy, m_name.
_NAME_OFFSET = object.__basicsize__ + 3 * ctypes.sizeof(ctypes.c_void_p)


class _Creator:
    """What stands in for ``PyModule_Create2`` during the init function of module `name`."""

    def __init__(self, name: str) -> None:
        self._full = name.encode()
        self._short = self._full.rpartition(b".")[2]
        self._done = False
        self.error: BaseException | None = None
        self.callback = _create_type(self._create)

    def _create(self, definition: int, api_version: int) -> int | None:
        name = ctypes.c_char_p.from_address(definition + _NAME_OFFSET)
        short = ctypes.c_void_p.from_address(definition + _NAME_OFFSET).value
        # The first module of that name, like in CPython: others that the function makes are not it.
        if not self._done and name.value == self._short:
            self._done = True
            name.value = self._full
        try:
            return _create(definition, api_version)  # type: ignore[no-any-return]
        except BaseException as error:  # noqa: BLE001
            self.error = error  # a callback cannot raise; `full_name` will
            return None
        finally:
            ctypes.c_void_p.from_address(definition + _NAME_OFFSET).value = short


@contextmanager
def full_name(pointers: tuple[dynamic.Pointer, ...], name: str) -> Iterator[None]:
    """Within, a library makes module `name` under this name.  Raises what making it raises.

    `pointers` are where the library keeps the address of `FUNCTION`.
    """
    if "." not in name or not pointers:
        yield
        return
    creator = _Creator(name)
    address = ctypes.cast(creator.callback, ctypes.c_void_p).value
    assert address is not None
    assert _create_address is not None
    for pointer in pointers:
        dynamic.write_pointer(pointer, address)
    try:
        yield
    except SystemError:
        if creator.error is not None:
            raise creator.error from None
        raise
    finally:
        for pointer in pointers:
            dynamic.write_pointer(pointer, _create_address)
