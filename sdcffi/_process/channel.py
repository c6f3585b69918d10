"""A two-way connection of parent and child: pickled messages, with arrays in shared memory.

    sender                                       receiver
    ------                                       --------
    pickle (protocol 5), buffers out of band
    buffers --one copy--> nameless memory
    sizes + pickle  ------- socket ------->
    descriptor      ------- socket ------->      maps it; arrays are views on it, which own it

So numpy arrays anywhere in a message (input images, results, previews) are copied once.
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
_LEAST_SHARED = 4096  # bytes; smaller buffers go through the pipe


class Channel:
    """One end of the connection. Any thread may send; only one at a time may receive."""

    def __init__(self, connection: Connection) -> None:
        _limit_receiving(connection)
        self._connection = connection
        self._sending = threading.Lock()
        self._memory: _Memory | None = None
        self._is_receiving = False

    def send(self, message: object) -> None:
        """Send a message.

        Raises
        ------
        OSError
            If the other end is closed.
        TypeError
            If the message cannot be pickled.
        SDError
            If there is not enough shared memory for its arrays.
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
            raise TypeError(f"a value cannot be pickled to send it to another process: {error}") from error
        with self._sending:
            memory = _Memory(views) if views else None
            sizes = [view.nbytes for view in views]
            self._connection.send_bytes(pickle.dumps((sizes, memory and memory.name, content)))
            if memory:
                memory.send(self._connection)
                self._memory = memory  # kept until the next message: the receiver may not have it yet

    def receive(self) -> Any:
        """Receive a message.

        Raises
        ------
        EOFError, OSError
            If the other end is closed.
        BrokenPipeError
            If an earlier call was interrupted while it received a message.
        """
        if self._is_receiving:
            raise BrokenPipeError("an earlier message was received only in part")
        self._is_receiving = True
        sizes, name, content = pickle.loads(self._connection.recv_bytes())
        whole = _receive_memory(self._connection, name, sum(sizes)) if sizes else memoryview(b"")
        self._is_receiving = False
        bounds = pairwise(accumulate(sizes, initial=0))
        return pickle.loads(content, buffers=[whole[begin:end] for begin, end in bounds])

    def poll(self, seconds: float) -> bool:
        """Wait at most `seconds`; return whether there is a message, or the other end is closed."""
        return self._connection.poll(seconds)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


def _limit_receiving(connection: Connection) -> None:
    """Limit the wait for the rest of a message: the sender may have been stopped while it sent it."""
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
            raise SDError(
                f"not enough shared memory for {size} bytes of images: {error}; free some or use isolated=False"
            ) from error

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
