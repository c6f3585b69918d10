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

import errno
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
from .descriptors import explained, lifted
from .messages import OUTCOMES

__all__ = ["Channel", "Packed", "Unreadable", "pack"]

_REST_SECONDS = 10
_LEAST_SHARED = 4096  # bytes; smaller buffers go through the pipe


class Packed:
    """A message that is ready to be sent: its pickle, and views on the arrays in it."""

    def __init__(self, content: bytes, views: list[memoryview], is_last: bool) -> None:
        self.content, self.views, self.is_last = content, views, is_last


def pack(message: object) -> Packed:
    """Pickle a message. Nothing is copied but the pickle.

    Raises
    ------
    TypeError
        If the message cannot be pickled.
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
    return Packed(content, views, isinstance(message, OUTCOMES))


class Unreadable(Exception):
    """A message that was received whole and cannot be read; later ones can.

    Attributes
    ----------
    error : Exception
        Why.
    is_last : bool
        Whether it was the last message of an operation.
    """

    def __init__(self, error: Exception, is_last: bool) -> None:
        super().__init__(str(error))
        self.error, self.is_last = error, is_last


class Channel:
    """One end of the connection. Any thread may send; only one at a time may receive.

    A signal must not interrupt it in the middle of a message: the threads that use it get none.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._socket: socket.socket | None = None
        if sys.platform != "win32":
            self._socket = socket.socket(fileno=lifted(os.dup(connection.fileno())))
            _limit_receiving(self._socket)
        self._sending = threading.Lock()
        self._memory: _Memory | None = None

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
        self.send_packed(pack(message))

    def send_packed(self, packed: Packed) -> None:
        """Send a message that was pickled before; see `send`."""
        with self._sending:
            memory = _Memory(packed.views) if packed.views else None
            sizes = [view.nbytes for view in packed.views]
            head = sizes, memory and memory.name, packed.content, packed.is_last
            self._connection.send_bytes(pickle.dumps(head))
            if memory:
                memory.send(self._socket)
                self._memory = memory  # kept until the next message: the receiver may not have it yet

    def receive(self) -> Any:
        """Receive a message.

        Raises
        ------
        EOFError, OSError
            If the other end is closed, or was stopped in the middle of a message.
        Unreadable
            If the message cannot be read, and the next one can.
        """
        sizes, name, content, is_last = pickle.loads(self._connection.recv_bytes())
        whole, fault = memoryview(b""), None
        if sizes:
            try:
                whole = _receive_memory(self._socket, name, sum(sizes))
            except SDError as error:
                fault = error
        bounds = pairwise(accumulate(sizes, initial=0))
        if fault is not None:
            raise Unreadable(fault, is_last)
        try:
            return pickle.loads(content, buffers=[whole[begin:end] for begin, end in bounds])
        except Exception as error:  # such as a class that does not exist here
            raise Unreadable(error, is_last) from error

    def poll(self, seconds: float) -> bool:
        """Wait at most `seconds`; return whether there is a message, or the other end is closed."""
        return self._connection.poll(seconds)

    def end(self) -> None:
        """Let both ends find the connection closed, and the descriptors stay open. Does nothing on Windows."""
        if self._socket:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # the other end is gone
                return

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
        if self._socket:
            self._socket.close()


def _limit_receiving(pipe: socket.socket) -> None:
    """Limit the wait for the rest of a message: the sender may have been stopped while it sent it."""
    pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _REST_SECONDS, 0))


class _Memory:
    """Shared memory on its way to the other end."""

    def __init__(self, views: list[memoryview]) -> None:
        try:
            self._handle = shared_memory.fill(views)
        except (OSError, MemoryError) as error:
            size = sum(view.nbytes for view in views)
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise SDError(f"{size} bytes of images cannot be shared: {explained(error)}") from error
            raise SDError(
                f"not enough shared memory for {size} bytes of images: {error}; free some or use isolated=False"
            ) from error

    if sys.platform == "win32":

        @property
        def name(self) -> str:
            return self._handle.tagname

        def send(self, pipe: socket.socket | None) -> None:
            pass

    else:
        name = None

        def send(self, pipe: socket.socket | None) -> None:
            assert pipe is not None  # only on Windows there is none
            socket.send_fds(pipe, [b"m"], [self._handle])

        def __del__(self) -> None:
            if handle := getattr(self, "_handle", 0):
                os.close(handle)


def _receive_memory(pipe: socket.socket | None, name: str | None, size: int) -> memoryview:
    if sys.platform == "win32":
        import mmap

        return memoryview(mmap.mmap(-1, size, tagname=name))
    assert pipe is not None  # only on Windows there is none
    content, descriptors, _flags, _address = socket.recv_fds(pipe, 1, 1)
    if not content:
        raise EOFError
    if not descriptors:  # the system drops a descriptor for which the process has no place
        cause = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        raise SDError(f"{size} bytes of images cannot be received: {explained(cause)}")
    try:
        return shared_memory.view(descriptors[0], size)
    except OSError as error:
        raise SDError(f"{size} bytes of images cannot be received: {error}; free some memory") from error
    finally:
        os.close(descriptors[0])
