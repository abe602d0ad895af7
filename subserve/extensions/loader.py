"""Load extension modules into a worker: as they are if they declare support, else as a copy.

Runs in a worker's interpreter, in any thread of it that imports something.

It takes the place of two methods of `ExtensionFileLoader` instead of standing beside it in
`sys.path_hooks`.  Each interpreter has an importlib of its own, so this changes nothing outside of
the worker, and it reaches every way to an extension module: the finders of `sys.path`, those of
editable installs, `spec_from_file_location`, and finders that were made before us.
"""

import _ctypes
import _imp
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType

from subserve.errors import ExtensionRefused
from subserve.extensions import capsules, context, init, process_wide
from subserve.extensions.copies import CopyError
from subserve.extensions.declared import FileKey, Findings, Verdict
from subserve.extensions.library import Libraries, Opened
from subserve.extensions.lock import LoadLock
from subserve.extensions.registry import LoadedExtension, Mode, Phases, loaded, record, step

_native_create = ExtensionFileLoader.create_module
_native_exec = ExtensionFileLoader.exec_module

# Where _ctypes is, the other extension modules of the standard library are; "" if it is built in,
# and then they are too.  All of them declare support (CPython 3.14 and 3.15).
_STANDARD_LIBRARY = os.path.dirname(getattr(_ctypes, "__file__", ""))


def isolate(scratch: str) -> None:
    """Load extension modules that do not declare own-GIL support from private copies.

    `scratch` is a folder that all workers of this process share, and no other process; copies are
    in it while they are being opened.  It must allow execution (no ``noexec``).
    Raises `RuntimeError` in the main interpreter.
    """
    # For good, not just while a module is made: many make others when they are executed, or later.
    _imp._override_multi_interp_extensions_check(-1)  # type: ignore[attr-defined]
    process_wide.tame()
    # NumPy warns of statics shared between interpreters; its copies share none.
    warnings.filterwarnings("ignore", "NumPy was imported from a Python sub-interpreter")
    isolation = _Isolation(scratch)

    def create_module(loader: ExtensionFileLoader, spec: ModuleSpec) -> ModuleType:
        with step(spec.name, spec.origin or "", "create"):
            return isolation.create_module(loader, spec)

    def exec_module(loader: ExtensionFileLoader, module: ModuleType) -> None:
        with step(module.__name__, loader.path, "execute"):
            isolation.exec_module(loader, module)

    setattr(ExtensionFileLoader, "create_module", create_module)  # noqa: B010
    setattr(ExtensionFileLoader, "exec_module", exec_module)  # noqa: B010


def native() -> None:
    """Leave extension modules to CPython; name the remedy where it refuses one."""

    def create_module(loader: ExtensionFileLoader, spec: ModuleSpec) -> ModuleType:
        path = os.path.abspath(spec.origin or "")
        with step(spec.name, path, "create"):
            try:
                module = _native_create(loader, spec)
            except ImportError as error:
                if "does not support loading in subinterpreters" not in str(error):
                    raise
                raise ExtensionRefused(
                    f"{spec.name} ({path}) does not declare support for interpreters with a GIL of "
                    "their own; --extensions isolate loads a private copy of it into each worker",
                    name=spec.name,
                    path=path,
                ) from error
            if os.path.dirname(path) != _STANDARD_LIBRARY:
                record(LoadedExtension(spec.name, path, Mode.NATIVE, 2, 0))
            return module

    def exec_module(loader: ExtensionFileLoader, module: ModuleType) -> None:
        with step(module.__name__, loader.path, "execute"):
            _native_exec(loader, module)

    setattr(ExtensionFileLoader, "create_module", create_module)  # noqa: B010
    setattr(ExtensionFileLoader, "exec_module", exec_module)  # noqa: B010


class _Isolation:
    """The loader of one interpreter; `scratch` is the folder shared by all of the process."""

    def __init__(self, scratch: str) -> None:
        self._lock = LoadLock(scratch)
        self._findings = Findings(scratch)
        self._libraries = Libraries(scratch)
        # Of single-phase modules that can be initialised only once, as they were just after that.
        self._dictionaries: dict[tuple[FileKey, str], dict[str, object]] = {}
        # Of modules that we loaded as they are, while it is open whether others may: whose C
        # functions they may call (see `capsules`).
        self._open: dict[str, tuple[FileKey, frozenset[str]]] = {}

    def create_module(self, loader: ExtensionFileLoader, spec: ModuleSpec) -> ModuleType:
        """Stand in for `ExtensionFileLoader.create_module`.

        Raises `ExtensionRefused` if no copy can be made, other `ImportError`s as CPython does, and
        what the module's init function raises.
        """
        path = os.path.abspath(spec.origin or "")
        with self._turn(spec.name, path):
            if os.path.dirname(path) == _STANDARD_LIBRARY:
                return _native_create(loader, spec)
            try:
                key = FileKey.of(path)
                verdict = self._findings.verdict(key, spec.name)
            except OSError as error:
                raise ImportError(str(error), name=spec.name, path=path) from error
            if verdict is Verdict.NATIVE:
                return _create_natively(loader, spec, path)
            return self._create(loader, spec, path, key, verdict)

    def exec_module(self, loader: ExtensionFileLoader, module: ModuleType) -> None:
        """Stand in for `ExtensionFileLoader.exec_module`: the same, in turn."""
        with self._turn(module.__name__, loader.path):
            _native_exec(loader, module)
            if (undecided := self._open.pop(module.__name__, None)) is not None:
                self._findings.add(undecided[0], module.__name__, Verdict.NATIVE)

    @contextmanager
    def _turn(self, name: str, path: str) -> Iterator[None]:
        """Keep other interpreters out; say so if there is no place for that, or for a copy."""
        try:
            with self._lock:
                yield
        except CopyError as error:
            raise ExtensionRefused(
                f"{name}: no private copy of {path}: {error}", name=name, path=path
            ) from error

    def _create(
        self,
        loader: ExtensionFileLoader,
        spec: ModuleSpec,
        path: str,
        key: FileKey,
        verdict: Verdict | None,
    ) -> ModuleType:
        if (kept := self._dictionaries.get((key, spec.name))) is not None:
            return _restore(spec, kept)
        sys.audit("import", spec.name, path, None, None, None)
        try:
            opened = self._libraries.open(path)
        except OSError as error:
            raise ImportError(str(error), name=spec.name, path=path) from error
        with context.full_name(opened.creators, spec.name):
            result = init.call_init(opened.library, spec)
        if isinstance(result, ModuleType):
            if init.keeps_state(result):
                self._dictionaries[key, spec.name] = dict(vars(result))
            self._record_copy(spec, path, 1, opened)
            return result
        if verdict is None and init.declares_own_gil(result):
            verdict = self._decide(spec, path, key)
            self._findings.add(key, spec.name, verdict)
            if verdict is not Verdict.COPY:
                # Known from a copy that is of no further use.  It stays in memory, with its text
                # shared, since the init function may have left pointers to it somewhere.
                return _create_natively(loader, spec, path)
        module = init.make_module(result, spec)
        self._record_copy(spec, path, 2, opened)
        return module

    def _decide(self, spec: ModuleSpec, path: str, key: FileKey) -> Verdict:
        """Decide how workers load a module that declares support.

        It may be loaded as it is unless it calls functions of a module that is copied.  If it calls
        any, whether those are copied may turn out only when it is executed: until then it is loaded
        as it is by us, and copied by others.
        """
        providers = capsules.providers(path)
        if not providers:
            return Verdict.NATIVE
        if any(module.name in providers for module in loaded() if module.mode is Mode.COPY):
            return Verdict.COPY
        self._open[spec.name] = (key, providers)
        return Verdict.OPEN

    def _record_copy(self, spec: ModuleSpec, path: str, phases: Phases, opened: Opened) -> None:
        record(LoadedExtension(spec.name, path, Mode.COPY, phases, opened.shared_bytes))
        for name, (key, providers) in tuple(self._open.items()):
            if spec.name in providers:
                self._findings.add(key, name, Verdict.COPY)
                del self._open[name]


def _create_natively(loader: ExtensionFileLoader, spec: ModuleSpec, path: str) -> ModuleType:
    module = _native_create(loader, spec)
    record(LoadedExtension(spec.name, path, Mode.NATIVE, 2, 0))
    return module


def _restore(spec: ModuleSpec, dictionary: dict[str, object]) -> ModuleType:
    """Make a module from the dictionary that its only initialisation left, as CPython does."""
    module = ModuleType(spec.name)
    vars(module).update(dictionary)
    sys.modules[spec.name] = module
    return module
