"""A child process and the two threads that attend it, so that no signal can interrupt what is done with it.

    any thread               sender                     receiver
    ----------               ------                     --------
                                                        starts the child, waits for its hello
    operation.start()  -->   sends the request    -->
    operation.cancel() -->   sends its number     -->
                                                  <--   puts events and outcome into the operation
    close()            -->   ends the connection  -->   waits for the child, kills it if it does not end;
                                                        closes all descriptors

Python's signal handlers run on the main thread, so the descriptors, the child and what is left of a message are never
in the hands of a thread that a Ctrl-C can stop. The sender may be held up by a child that was stopped; nobody waits for
it. It blocks SIGPIPE, at which many command-line programs end.

Only the receiver waits for the child. `Popen.poll`, `wait` and `kill` take a lock, and an interrupt within them could
leave it taken for ever.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import CancelledError, SDError
from . import shared_memory
from .channel import Channel, Packed, Unreadable
from .descriptors import explained
from .inprocess import begin, new_thread, works_here
from .launch import ADVICE, HELLO, connected, launch
from .messages import OUTCOMES, Crashed, Failed, Flag, Operation, Outcome

__all__ = ["Attended"]

_HELLO_SECONDS = 30.0  # for an interpreter's start on a slow machine
_END_SECONDS = 10.0  # for a process that has closed its socket; a core dump takes long
_CLOSE_SECONDS = 2.0
_SLICE = 0.1
# Without a message, this often it is checked whether the child lives: a fork of this process may hold its end open. On
# Windows nothing ends the wait when the child is to be closed.
_POLL_SECONDS = 0.1 if sys.platform == "win32" else 1.0
_SHOWN_OUTPUT = 1000  # characters
_MOST_OUTPUT = 1 << 20  # bytes before the hello
_EXECUTABLE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR)  # it is no program
_CLOSED = Failed(SDError("the engine is closed; open a new one"))


class RemoteOperation(Operation):
    """An operation of a child's session."""

    def __init__(self, child: Attended, packed: Packed, number: int) -> None:
        super().__init__()
        self.number = number
        self.packed: Packed | None = packed
        self._child = child

    def start(self) -> None:
        """Begin it; the sender takes it once."""
        self._child.outbox.put(self)

    def cancel(self) -> None:
        """Ask it to stop."""
        self.cancelled = True
        self._child.outbox.put(self.number)

    def _look(self) -> None:
        if self._child.ended.is_set:
            self.put(self._child.crash or _CLOSED)


class Attended:
    """A child process that begins when `start` is called.

    Attributes
    ----------
    outbox : SimpleQueue
        Operations to begin, numbers of those to cancel, and None to close.
    process : Popen or None
        None: it has not been started.
    crash : Outcome or None
        How each operation ends from now on: the process has ended, or could not be started. None: it has not.
    ended : Flag
        Set when the process is gone and nothing of it is left.
    """

    def __init__(self) -> None:
        self.outbox: SimpleQueue[RemoteOperation | int | None] = SimpleQueue()
        self.process: subprocess.Popen[bytes] | None = None
        self.crash: Outcome | None = None
        self.ended = Flag()
        self._closing = self._killed = False
        self._ready = threading.Event()
        self._lock = threading.Lock()  # of the two threads; it guards the two attributes below
        self._sent: deque[RemoteOperation] = deque()
        self._channel: Channel | None = None
        self._record = -1
        self._thread = new_thread(self._attend)

    def start(self) -> None:
        """Start the threads, which start the child."""
        begin(self._thread)

    @property
    def alive(self) -> bool:
        """Whether the child lives, or is about to. An ending child closes its socket before it can be waited for."""
        if self.crash is not None or self._closing or self._killed or not self._thread.lives:
            return False
        process, channel = self.process, self._channel
        if process is None or channel is None or self._sent or not self._ready.is_set():
            return True
        try:
            return process.returncode is None and not channel.poll(0)
        except OSError:  # the channel has just been closed
            return False

    def close(self) -> None:
        """End the child and wait until nothing is left."""
        self._closing = True
        self.outbox.put(None)
        while not works_here() and self._thread.lives and not self.ended.wait(_SLICE):
            continue

    def kill(self) -> None:
        """End the child at once; `close` waits for that."""
        self._killed = True
        if process := self.process:
            _kill(process)

    # On the receiver's thread

    def _attend(self) -> None:
        sender = new_thread(self._send_all)
        try:
            sender.start()
            if not self._closing:
                self._start()
                self._ready.set()
                self._receive_all()
        except SDError as error:
            self.crash = Failed(error)
        except OSError as error:
            advice = ADVICE if error.errno in _EXECUTABLE else "Use isolated=False to run without a process"
            self.crash = Failed(SDError(f"the engine's process could not be started: {explained(error)}. {advice}"))
        except Exception as error:  # such as a thread that cannot be started
            self.crash = Failed(SDError(f"the engine's process could not be attended: {error!r}"))
        finally:
            self._finish(sender)

    def _start(self) -> None:
        self._record = shared_memory.anonymous_file()
        ours, theirs = connected()
        try:
            self._channel = Channel(ours)
            self.process, executable = launch(theirs, self._record)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        if self._killed:  # meanwhile
            self.process.kill()
        self._await_hello(ours, executable)

    def _await_hello(self, ours: Connection, executable: str) -> None:
        assert self.process
        end = time.monotonic() + _HELLO_SECONDS
        try:
            while not ours.poll(_SLICE / 5):
                if self._closing:
                    return
                written = os.fstat(self._record).st_size
                if written > _MOST_OUTPUT or time.monotonic() > end:
                    self._kill_all()
                    what = (
                        f"wrote {written >> 20} MiB and did not begin as the engine's process"
                        if written > _MOST_OUTPUT
                        else f"did not begin as the engine's process within {_HELLO_SECONDS:g} seconds"
                    )
                    raise SDError(f"{executable} {what}; it is perhaps no Python interpreter. {ADVICE}")
            greeting = ours.recv_bytes(len(HELLO) + 100)
        except (EOFError, OSError) as error:
            if self._killed or self._closing:
                return
            code = self._exit_code(_END_SECONDS)
            raise SDError(
                f"{executable} did not begin as the engine's process: it exited with status {code}{self._last_words()}."
                f" It is perhaps no Python interpreter. {ADVICE}"
            ) from error
        if greeting != HELLO:
            self._kill_all()
            raise SDError(
                f"{executable} is another Python than this one: it says {greeting.decode('utf-8', 'replace')!r}, not"
                f" {HELLO.decode()!r}. {ADVICE}"
            )

    def _kill_all(self) -> None:
        """Kill what was started in place of a Python interpreter, and what that has started: its own session."""
        assert self.process
        if sys.platform == "win32":
            self.process.kill()
        elif self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def _receive_all(self) -> None:
        assert self._channel
        assert self.process
        try:
            while not self._closing:
                if self._channel.poll(_POLL_SECONDS):
                    self._receive(self._channel)
                elif self.process.poll() is not None:
                    return
        except (EOFError, OSError):
            return
        except Exception:  # the rest cannot be read either, such as after a MemoryError
            self.process.kill()

    def _receive(self, channel: Channel) -> None:
        try:
            message = channel.receive()
            is_last = isinstance(message, OUTCOMES)
        except Unreadable as unreadable:
            error, is_last = unreadable.error, unreadable.is_last
            if not isinstance(error, SDError):
                error = SDError(f"a message of the engine's process cannot be read: {error!r}")
            message = Failed(error)
        with self._lock:
            operation = self._sent[0] if self._sent else None
            if operation and is_last:
                self._sent.popleft()
        if operation:
            operation.put(message)
            if isinstance(message, OUTCOMES) and not is_last:
                self.outbox.put(operation.number)

    def _finish(self, sender: threading.Thread) -> None:
        if self.process:
            code = self._exit_code(_CLOSE_SECONDS if self._closing else _END_SECONDS)
            if self._killed or self._closing:
                outcome: Outcome = Failed(CancelledError("the engine's process was ended to stop the call"))
            else:
                outcome = Crashed(code, self._output())
        else:
            outcome = _CLOSED
        with self._lock:
            self.crash = self.crash or outcome
            operations = list(self._sent)
            self._sent.clear()
        for operation in operations:
            operation.put(self.crash)
        del operations[:]
        self._ready.set()
        if sender.ident is not None:
            sender.join()  # until the engine is closed, it answers
        if self._channel:
            self._channel.close()
        if self._record >= 0:
            os.close(self._record)
        self.ended.set()

    def _exit_code(self, seconds: float) -> int:
        assert self.process
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _output(self) -> str:
        size = os.lseek(self._record, 0, os.SEEK_END)
        os.lseek(self._record, 0, os.SEEK_SET)
        return os.read(self._record, size).decode("utf-8", "replace")

    def _last_words(self) -> str:
        words = self._output().strip()
        return f", and its last output was: {words[-_SHOWN_OUTPUT:]}" if words else ""

    # On the sender's thread

    def _send_all(self) -> None:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        while (item := self.outbox.get()) is not None:
            if isinstance(item, int):
                self._send_cancel(item)
            elif item.packed is not None:
                self._send_operation(item)
            del item  # otherwise its images are kept until the next one
        channel = self._channel
        if channel:
            channel.end()
        self._refuse_the_rest()

    def _send_operation(self, operation: RemoteOperation) -> None:
        while not self._ready.wait(_SLICE) and not operation.cancelled and not self._closing:
            continue
        packed, operation.packed = operation.packed, None
        with self._lock:
            refusal = self.crash
            if refusal is None and (operation.cancelled or self._closing):
                refusal = Failed(CancelledError("the call was cancelled"))
            if refusal is None:
                self._sent.append(operation)
        if refusal is not None:
            operation.put(refusal)
            return
        assert packed
        assert self._channel
        try:
            os.ftruncate(self._record, 0)
            os.lseek(self._record, 0, os.SEEK_SET)
            self._channel.send_packed(packed)
        except SDError as error:  # not enough shared memory for the images: nothing was sent
            with self._lock:
                if operation in self._sent:
                    self._sent.remove(operation)
            operation.put(Failed(error))
        except Exception:  # it has ended, which the receiver reports; or it got a part of the message
            self._channel.end()

    def _send_cancel(self, number: int) -> None:
        with self._lock:
            is_running = any(operation.number == number for operation in self._sent)
        if is_running and self._channel:
            try:
                self._channel.send(number)
            except OSError:  # it has ended; the receiver reports that
                return

    def _refuse_the_rest(self) -> None:
        try:
            while True:
                item: Any = self.outbox.get_nowait()
                if isinstance(item, RemoteOperation):
                    item.put(self.crash or _CLOSED)
        except Empty:
            return


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child from any thread, without the lock of `Popen.kill`."""
    if sys.platform == "win32":
        process.kill()  # there is none
    elif process.returncode is None:
        with suppress(ProcessLookupError):  # it is just being waited for
            os.kill(process.pid, signal.SIGKILL)
