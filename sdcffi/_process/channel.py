"""A two-way connection of parent and child: pickled messages, arrays beside them in shared memory.

    sender                                       receiver
    ------                                       --------
    pickle (protocol 5), buffers out of band
    buffers --one copy--> nameless memory
    sizes + pickle  ------- socket ------->
    descriptor      ------- socket ------->      maps it; arrays are views on it, until the last one dies

So numpy arrays anywhere in a message (a picture to start from, results, previews) are copied once.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import sys
import threading
from itertools import accumulate, pairwise
from multiprocessing.connection import Connection
from typing import Any

from ..errors import SDError
from . import shared_memory

__all__ = ["Channel"]

_REST_SECONDS = 10
_LEAST_SHARED = 4096  # bytes; what is smaller goes through the pipe


class Channel:
    """One end. Any thread may send; one at a time may receive."""

    def __init__(self, connection: Connection) -> None:
        _limit_receiving(connection)
        self._connection = connection
        self._sending = threading.Lock()
        self._memory: _Memory | None = None
        self._amid = False

    def send(self, message: object) -> None:
        """Send a message.

        Raises
        ------
        OSError
            If the other end is closed.
        TypeError
            If the message cannot be pickled.
        SDError
            If there is no memory to share its arrays in.
        """
        views: list[memoryview] = []

        def goes_along(buffer: pickle.PickleBuffer) -> bool:
            view = buffer.raw()
            if view.nbytes >= _LEAST_SHARED:
                views.append(view)
            return view.nbytes < _LEAST_SHARED

        try:
            content = pickle.dumps(message, protocol=5, buffer_callback=goes_along)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(f"what cannot be pickled cannot go to another process: {error}") from error
        with self._sending:
            memory = _Memory(views) if views else None
            sizes = [view.nbytes for view in views]
            self._connection.send_bytes(pickle.dumps((sizes, memory and memory.name, content)))
            if memory:
                memory.send(self._connection)
                self._memory = memory  # kept until the next: the receiver may not have it yet

    def receive(self) -> Any:
        """Receive a message.

        Raises
        ------
        EOFError, OSError
            If the other end is closed.
        BrokenPipeError
            If an earlier call was interrupted amid a message.
        """
        if self._amid:
            raise BrokenPipeError("the rest of an earlier message is in the way")
        self._amid = True
        sizes, name, content = pickle.loads(self._connection.recv_bytes())
        whole = _receive_memory(self._connection, name, sum(sizes)) if sizes else memoryview(b"")
        self._amid = False
        bounds = pairwise(accumulate(sizes, initial=0))
        return pickle.loads(content, buffers=[whole[begin:end] for begin, end in bounds])

    def poll(self, seconds: float) -> bool:
        """Wait until there is something to receive, which may be the end."""
        return self._connection.poll(seconds)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


def _limit_receiving(connection: Connection) -> None:
    """Make the wait for the rest of a message an OSError at last: the sender may have been stopped amid it."""
    if sys.platform != "win32":
        with socket.socket(fileno=os.dup(connection.fileno())) as pipe:
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _REST_SECONDS, 0))


class _Memory:
    """Shared memory on its way to the other end."""

    def __init__(self, views: list[memoryview]) -> None:
        try:
            self._handle = shared_memory.fill(views)
        except (OSError, MemoryError) as error:
            size = sum(view.nbytes for view in views)
            raise SDError(f"no memory to share {size} bytes of pictures: {error}") from error

    if sys.platform == "win32":

        @property
        def name(self) -> str:
            return self._handle.tagname

        def send(self, connection: Connection) -> None:
            pass

    else:
        name = None

        def send(self, connection: Connection) -> None:
            with socket.socket(fileno=os.dup(connection.fileno())) as pipe:
                socket.send_fds(pipe, [b"m"], [self._handle])

        def __del__(self) -> None:
            if handle := getattr(self, "_handle", 0):
                os.close(handle)


def _receive_memory(connection: Connection, name: str | None, size: int) -> memoryview:
    if sys.platform == "win32":
        import mmap

        return memoryview(mmap.mmap(-1, size, tagname=name))
    with socket.socket(fileno=os.dup(connection.fileno())) as pipe:
        content, descriptors, _flags, _address = socket.recv_fds(pipe, 1, 1)
    if not content or not descriptors:
        raise EOFError
    try:
        return shared_memory.view(descriptors[0], size)
    finally:
        os.close(descriptors[0])
