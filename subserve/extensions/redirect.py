"""Lead two functions of CPython that mean the main interpreter to the worker's interpreter.

A thread that Python does not know (of a Rust runtime, of a C library) calls ``PyGILState_Ensure``
to run Python code, and always gets the *main* interpreter, where the objects it came for do not
belong.  ``Py_AddPendingCall`` has its function called there as well: greenlet cleans up after a
thread that way, and the process ended with "double free or corruption".

A private copy belongs to one interpreter, so we know which one is meant.  The pointers by which it
calls the two functions lead to stubs that pass the interpreter on.  They run in threads that have
no thread state, hence without the GIL, and cannot be Python: they are machine code, a dozen
instructions each, listed below.  On a processor we have none for, pending calls are dropped,
and threads of an extension land in the main interpreter.

Outside of private copies nothing changes: a ctypes callback in a thread that Python does not know
still runs in the main interpreter.
"""

import _interpreters
import atexit
import ctypes
import os
import platform
from collections.abc import Mapping

from subserve.extensions import dynamic
from subserve.extensions.copies import CopyError

FUNCTIONS = ("Py_AddPendingCall", "PyGILState_Ensure")
"""What is redirected."""

# The stubs look for this table 64 KiB (the largest page size there is) after their beginning.
_TABLE_OFFSET = 1 << 16
_TABLE = (
    "interpreter",  # 0: null once it is being closed
    "host",  # 8: the thread that the interpreter runs in, by pthread_self()
    "_PyEval_AddPendingCall",  # 16
    "PyGILState_GetThisThreadState",  # 24
    "PyGILState_Ensure",  # 32
    "PyThreadState_New",  # 40
    "PyEval_RestoreThread",  # 48
    "pause",  # 56
    "pthread_self",  # 64
)

# The first stub, for Py_AddPendingCall, calls _PyEval_AddPendingCall with the interpreter, or says
# that all is well if that is being closed.  The second one, for PyGILState_Ensure, leaves threads
# that have a thread state to the real function.  For others it makes one, and enters it: it counts
# as entered once from the start, so that PyGILState_Release deletes it.  With the interpreter
# closed they wait forever, as CPython lets them do; except for the thread that held it, which ends
# now and is waited for.
_ENSURE_OFFSET = 0x30
MACHINE_CODE = {
    "x86_64": (
        "f30f1efa"  # pending: endbr64
        "488b05f5ff0000"  # mov    rax, [interpreter]
        "4885c0 7411"  # test   rax, rax; je dropped
        "4889f2 4889fe 4889c7"  # mov    rdx, rsi; mov rsi, rdi; mov rdi, rax
        "31c9"  # xor    ecx, ecx
        "ff25efff0000"  # jmp    [_PyEval_AddPendingCall]
        "31c0 c3"  # dropped: xor eax, eax; ret
        "cccccccccccccccccccccccc"
        "f30f1efa"  # ensure: endbr64
        "4883ec08"  # sub    rsp, 8
        "ff15daff0000"  # call   [PyGILState_GetThisThreadState]
        "4885c0 7539"  # test   rax, rax; jne real
        "488b3db6ff0000"  # mov    rdi, [interpreter]
        "4885ff 741e"  # test   rdi, rdi; je closed
        "ff15d3ff0000"  # call   [PyThreadState_New]
        "4885c0 7422"  # test   rax, rax; je real
        "4889c7"  # mov    rdi, rax
        "ff15cdff0000"  # call   [PyEval_RestoreThread]
        "b801000000"  # mov    eax, 1 (PyGILState_UNLOCKED)
        "4883c408 c3"  # add    rsp, 8; ret
        "ff15cdff0000"  # closed: call [pthread_self]
        "483b058eff0000"  # cmp    rax, [host]
        "750a"  # jne    hang
        "4883c408"  # real: add rsp, 8
        "ff259aff0000"  # jmp    [PyGILState_Ensure]
        "ff15acff0000"  # hang: call [pause]
        "ebf8"  # jmp    hang
    ),
    # Tried in an emulator only.
    "aarch64": (
        "5f2403d5"  # pending: bti c
        "e9ff0710"  # adr    x9, table
        "2a0140f9"  # ldr    x10, [x9]             interpreter
        "ea0000b4"  # cbz    x10, dropped
        "e20301aa e10300aa e0030aaa"  # mov    x2, x1; mov x1, x0; mov x0, x10
        "03008052"  # mov    w3, #0
        "300940f9 00021fd6"  # ldr    x16, [x9, #16]; br x16   _PyEval_AddPendingCall
        "00008052 c0035fd6"  # dropped: mov w0, #0; ret
        "5f2403d5"  # ensure: bti c
        "fd7bbea9 fd030091"  # stp    x29, x30, [sp, #-32]!; mov x29, sp
        "f30b00f9"  # str    x19, [sp, #16]
        "13fe0710"  # adr    x19, table
        "700e40f9 00023fd6"  # ldr    x16, [x19, #24]; blr x16  PyGILState_GetThisThreadState
        "200200b5"  # cbnz   x0, real
        "600240f9"  # ldr    x0, [x19]             interpreter
        "400100b4"  # cbz    x0, closed
        "701640f9 00023fd6"  # ldr    x16, [x19, #40]; blr x16  PyThreadState_New
        "800100b4"  # cbz    x0, real
        "701a40f9 00023fd6"  # ldr    x16, [x19, #48]; blr x16  PyEval_RestoreThread
        "20008052"  # mov    w0, #1                PyGILState_UNLOCKED
        "f30b40f9"  # ldr    x19, [sp, #16]
        "fd7bc2a8 c0035fd6"  # ldp    x29, x30, [sp], #32; ret
        "702240f9 00023fd6"  # closed: ldr x16, [x19, #64]; blr x16  pthread_self
        "690640f9"  # ldr    x9, [x19, #8]         host
        "1f0009eb a1000054"  # cmp    x0, x9; b.ne hang
        "701240f9"  # real: ldr x16, [x19, #32]    PyGILState_Ensure
        "f30b40f9"  # ldr    x19, [sp, #16]
        "fd7bc2a8 00021fd6"  # ldp    x29, x30, [sp], #32; br x16
        "701e40f9 00023fd6"  # hang: ldr x16, [x19, #56]; blr x16  pause
        "feffff17"  # b      hang
    ),
}


class Redirection:
    """The stubs of one interpreter, made when the first copy needs them.

    To be created by the thread that the interpreter runs in, the host's, before the app is there.
    `scratch` is the folder for the file that they are mapped from: like a library, so that it takes
    no other right than those of copies.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._host = _pthread_self()
        self._targets: dict[str, int] = {}
        self._table: ctypes.Array[ctypes.c_void_p] | None = None
        # What is registered first is called last, after all that may still need the interpreter.
        atexit.register(self._close)

    def apply(self, pointers: Mapping[str, tuple[dynamic.Pointer, ...]]) -> None:
        """Redirect what a copy calls; `pointers` are where it keeps the addresses, by function.

        Raises `CopyError` if the stubs cannot be made.
        """
        for name in FUNCTIONS:
            for pointer in pointers.get(name, ()):
                if not self._targets:
                    self._targets = self._make_targets()
                if (target := self._targets.get(name)) is not None:
                    dynamic.write_pointer(pointer, target)

    def _make_targets(self) -> dict[str, int]:
        functions = {name: _address_of(name) for name in _TABLE[2:]}
        code = bytes.fromhex(MACHINE_CODE.get(platform.machine(), ""))
        if not code or None in functions.values():
            # Says 0, as if the call had been accepted, takes no lock and needs no thread state.
            accept = _address_of("Py_IsFinalizing")
            assert accept is not None
            return {"Py_AddPendingCall": accept}
        try:
            path = os.path.join(self._scratch, f"{_interpreters.get_current()[0]:x}-stubs")
            base = dynamic.map_code(code, path, _TABLE_OFFSET)
        except OSError as error:
            raise CopyError(f"{error}; set TMPDIR to a folder that allows execution") from error
        self._table = (ctypes.c_void_p * len(_TABLE)).from_address(base + _TABLE_OFFSET)
        self._table[:] = [_current_interpreter(), self._host, *functions.values()]
        return {"Py_AddPendingCall": base, "PyGILState_Ensure": base + _ENSURE_OFFSET}

    def _close(self) -> None:
        """Have the interpreter left alone; the stubs stay, threads may be on their way to them."""
        if self._table is not None:
            self._table[0] = None


_process = ctypes.PyDLL(None)
_current_interpreter = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyInterpreterState_Get", _process))
_pthread_self = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("pthread_self", _process))


def _address_of(name: str) -> int | None:
    function = getattr(_process, name, None)
    return ctypes.cast(function, ctypes.c_void_p).value if function is not None else None
