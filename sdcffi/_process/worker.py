"""Run a session's operations in a child process, as `Engine` does by default.

The child is started with `subprocess`, so it never imports the program's main module: no ``if __name__ ==
"__main__"`` is needed, and notebooks and ``python -c`` work. It has the parent's `sys.path`, and inherits one end of
a socket pair and, as its standard output and error, a file without a name that is read after a crash. It is in a
process session of its own, so that Ctrl-C in the terminal reaches only the parent.

      Engine, calls                     child
      start(name, arguments) ------->   Session.<name>(job, *arguments)
      receive() <-------------------    events, then Done or Failed
      cancel() --------------------->   Job.cancel()
      closed socket ---------------->   ends
      Crashed <----------- closed socket
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from ..errors import SDError
from . import shared_memory
from .channel import Channel
from .messages import Crashed, Done, Failed, Message

__all__ = ["Worker"]

_NO_BLAS_THREADS = {"OPENBLAS_NUM_THREADS": "1"}  # numpy starts them at import, and the child does not need them
_BOOT = """\
import sys
sys.path[:] = sys.argv[3:]
from sdcffi._process.child import main
main(int(sys.argv[1]), int(sys.argv[2]))
"""
_END_SECONDS = 10.0  # for a process that has closed its socket; a core dump takes long
_CLOSE_SECONDS = 2.0


class Worker:
    """A session in a child process, see `_process.messages.Runner`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._record = -1
        self._owner = os.getpid()
        self._closing = threading.RLock()  # a signal handler may close it during a close
        self.busy = False

    @property
    def alive(self) -> bool:
        """Whether the child lives. An ending child closes its socket before it can be waited for."""
        process, channel = self._process, self._channel
        if process is None or channel is None or process.poll() is not None:
            return False
        return self.busy or not channel.poll(0)

    @property
    def pid(self) -> int | None:
        """Process id of the child."""
        return self._process.pid if self._process else None

    def open(self) -> None:
        """Start a child.

        Raises
        ------
        SDError
            If it cannot be started.
        """
        self.close()
        if getattr(sys, "frozen", False):
            raise SDError(
                "a frozen program has no Python interpreter for a child process: set one with"
                " multiprocessing.set_executable, or use isolated=False"
            )
        try:
            self._start()
        except OSError as error:
            self.close()
            raise SDError(
                f"the engine's process could not be started: {error}. Use isolated=False to run without one"
            ) from error

    def _start(self) -> None:
        self._record = shared_memory.anonymous_file()
        ours, theirs = multiprocessing.Pipe()
        try:
            self._process = subprocess.Popen(
                [_executable(), "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *map(str, sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=self._record,
                stderr=self._record,
                env={**_NO_BLAS_THREADS, **os.environ},
                **_inherit(theirs),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours)

    def start(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Begin an operation."""
        os.ftruncate(self._record, 0)
        os.lseek(self._record, 0, os.SEEK_SET)
        self._send((_directory(), name, arguments))
        self.busy = True

    def _send(self, message: object) -> None:
        if self._channel:
            try:
                self._channel.send(message)
            except OSError:  # it has ended; `receive` reports that
                return

    def receive(self, seconds: float) -> Message | None:
        """Return the operation's next message. None if there is none for `seconds`."""
        message = self._receive(seconds)
        if isinstance(message, (Done, Failed, Crashed)):
            self.busy = False
        return message

    def _receive(self, seconds: float) -> Message | None:
        process, channel = self._process, self._channel
        if process is None or channel is None:
            return Failed(SDError("the engine is closed; open a new one"))
        try:
            if channel.poll(seconds):
                message: Message = channel.receive()
                return message
            if process.poll() is None:  # a fork of this process may hold the child's end of the socket open
                return None
        except BrokenPipeError:  # Ctrl-C interrupted a message, so the next one cannot be read
            process.kill()
        except (EOFError, OSError):
            pass
        return self._crashed(process)

    def _crashed(self, process: subprocess.Popen[bytes]) -> Crashed:
        try:
            code = process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return Crashed(code, self._output())

    def _output(self) -> str:
        size = os.lseek(self._record, 0, os.SEEK_END)
        os.lseek(self._record, 0, os.SEEK_SET)
        return os.read(self._record, size).decode("utf-8", "replace")

    def cancel(self) -> None:
        """Ask the operation to stop."""
        self._send(None)

    def kill(self) -> bool:
        """End the child at once."""
        if self._process:
            self._process.kill()
        self.close()
        return True

    def close(self) -> None:
        """End the child, which frees all its memory."""
        with self._closing:  # a second close also returns only when the child has ended
            self._close()

    def _close(self) -> None:
        process, channel, record = self._process, self._channel, self._record
        self._process, self._channel, self._record = None, None, -1
        if channel:
            channel.close()
        if record >= 0:
            os.close(record)
        if process is None or os.getpid() != self._owner:  # in a fork the child belongs to the original process
            return
        try:
            process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _executable() -> str:
    """Return the interpreter; an embedding program sets it with `multiprocessing.set_executable`."""
    return os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _inherit(end: Connection) -> dict[str, Any]:
    if sys.platform == "win32":
        os.set_handle_inheritable(end.fileno(), True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [end.fileno()]})
        return {"startupinfo": startup, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"pass_fds": [end.fileno()], "start_new_session": True}
