"""Start a child process with a Python interpreter, an end of a connection, and a file for its output."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
import socket
import subprocess
import sys
from multiprocessing import connection
from typing import Any

from ..errors import SDError
from .descriptors import lifted

__all__ = ["ADVICE", "HELLO", "connected", "launch"]

ADVICE = (
    "Set a Python interpreter with multiprocessing.set_executable(path), or use isolated=False to run without a process"
)
HELLO = f"sdcffi on Python {sys.version_info.major}.{sys.version_info.minor}".encode()
"""First message of the child, before it imports anything that takes long."""
# numpy starts OpenBLAS's threads at import, and the child does not need them.
_NO_BLAS_THREADS = {"OPENBLAS_NUM_THREADS": "1"}
_CHILD = "--sdcffi-child"
_BOOT = """\
import sys
sys.path[:] = sys.argv[3:]
from multiprocessing import connection
end = (connection.PipeConnection if sys.platform == "win32" else connection.Connection)(int(sys.argv[1]))
end.send_bytes(b"sdcffi on Python %d.%d" % sys.version_info[:2])
from sdcffi._process.child import main
main(end, int(sys.argv[2]))
"""


def connected() -> tuple[connection.Connection, connection.Connection]:
    """Return two connected ends, above the standard descriptors."""
    if sys.platform == "win32":
        return multiprocessing.Pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        first = connection.Connection(lifted(ours.detach()))
        try:
            return first, connection.Connection(lifted(theirs.detach()))
        except BaseException:
            first.close()
            raise


def launch(theirs: connection.Connection, output: int) -> tuple[subprocess.Popen[bytes], str]:
    """Start the child; return it, and its interpreter.

    Parameters
    ----------
    theirs : Connection
        Its end of the connection.
    output : int
        Descriptor for its standard output and error.

    Raises
    ------
    SDError
        If there is no interpreter.
    OSError
        If the system cannot start it.
    """
    executable, *arguments = _command(str(theirs.fileno()), str(os.getpid()))
    process = subprocess.Popen(
        [executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=_environment(),
        **_inherit(theirs),
    )
    return process, executable


def _command(end: str, parent: str) -> list[str]:
    if getattr(sys, "_starts_sdcffi_child", False):  # frozen with the hooks of `_pyinstaller`
        return [sys.executable, _CHILD, end, parent]
    return [_executable(), *_flags(), "-c", _BOOT, end, parent, *map(str, sys.path)]


def _executable() -> str:
    """Return the interpreter: what `multiprocessing.set_executable` set, else that of this process."""
    misleading = None if sys.platform == "darwin" else os.environ.get("PYTHONEXECUTABLE")  # says sys.executable
    given = multiprocessing.spawn.get_executable()
    if given and os.fsdecode(given) not in (sys.executable, misleading):
        return os.fsdecode(given)
    if getattr(sys, "frozen", False):  # it would start itself
        raise SDError(
            "a frozen program has no Python interpreter for the engine's process. Pack it with PyInstaller, which finds"
            f" the hooks of sdcffi by itself; or: {ADVICE[0].lower()}{ADVICE[1:]}"
        )
    for path in (sys.executable, getattr(sys, "_base_executable", None)):
        if path and path != misleading and os.path.isfile(path) and os.access(path, os.X_OK):
            return str(path)
    raise SDError(
        f"there is no Python interpreter for the engine's process: sys.executable is {sys.executable!r}. {ADVICE}"
    )


def _flags() -> list[str]:
    """Return the flags of this interpreter without which the child's would look for its library elsewhere."""
    return ["-E"] if sys.flags.ignore_environment else []


def _environment() -> dict[str, str]:
    variables = {**_NO_BLAS_THREADS, **os.environ}
    variables.pop("PYTHONEXECUTABLE", None)
    return variables


def _inherit(end: connection.Connection) -> dict[str, Any]:
    if sys.platform == "win32":
        os.set_handle_inheritable(end.fileno(), True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [end.fileno()]})
        return {"startupinfo": startup, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"pass_fds": [end.fileno()], "start_new_session": True}
