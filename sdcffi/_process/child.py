"""The program of an engine's child process.

    main thread                                thread "sdcffi"
    -----------                                ---------------
    receives requests and cancels  --queue-->  runs them, one after another, in a `Session`
    ends the process when the parent is gone   sends events and outcomes

Native code runs on the other thread, so that the main thread can receive a cancel meanwhile, and notice the parent's
end. The parent reads standard output and error after a crash.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from .._bindings.job import Job
from .._bindings.session import Session
from ..errors import SDError
from ..events import Log
from .channel import Channel, Unreadable
from .inprocess import perform, start_thread
from .messages import Done, Failed

__all__ = ["main"]

_PARENT_SECONDS = 1.0  # between two checks of whether the parent lives: a fork of it may hold the pipe open
_Request = tuple[Job, str, tuple[Any, ...]]


def main(end: Connection, parent: int) -> None:
    """Serve the parent over an inherited connection until one of the two ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    channel = Channel(end)
    requests: SimpleQueue[_Request] = SimpleQueue()
    start_thread(_work, channel, requests)
    job, current = None, 0
    while True:
        try:
            message = _next(channel, parent)
        except Unreadable as unreadable:  # such as a class of the program's main module, which is not imported here
            error = unreadable.error
            if not isinstance(error, SDError):
                error = TypeError(f"a parameter cannot be read in the engine's process: {error}; use isolated=False")
            channel.send(Failed(error))
            continue
        if isinstance(message, int):
            if job and message == current:
                job.cancel()
            continue
        current, directory, name, arguments = message
        _enter(directory)
        job = Job(channel.send)
        requests.put((job, name, arguments))


def _next(channel: Channel, parent: int) -> Any:
    try:
        while not channel.poll(_PARENT_SECONDS):
            if sys.platform != "win32" and os.getppid() != parent:
                os._exit(0)
        return channel.receive()
    except (EOFError, OSError):
        os._exit(0)


def _enter(directory: str | None) -> None:
    """Change to the parent's working directory, so that relative paths mean the same."""
    if directory:
        try:
            os.chdir(directory)
        except OSError:  # it was removed, so the parent cannot use relative paths either
            return


def _work(channel: Channel, requests: SimpleQueue[_Request]) -> None:
    session = Session(own_process=True)
    while True:
        job, name, arguments = requests.get()
        outcome = perform(session, job, name, arguments)
        try:
            for line in _printed():
                channel.send(Log("warn", line))
            channel.send(_portable(outcome))
        except SDError as error:  # not enough shared memory for the images
            channel.send(Failed(error))
        except OSError:
            os._exit(0)
        del job, name, arguments, outcome


def _printed() -> list[str]:
    """Return the lines that libraries wrote to standard error during the operation, outside of the engine's log."""
    size = os.fstat(2).st_size
    return os.pread(2, size, 0).decode("utf-8", "replace").splitlines() if size and hasattr(os, "pread") else []


def _portable(outcome: Done | Failed) -> Done | Failed:
    if isinstance(outcome, Failed):
        try:
            pickle.loads(pickle.dumps(outcome.error))
        except Exception:
            return Failed(SDError(f"{type(outcome.error).__name__}: {outcome.error}"))
    return outcome
