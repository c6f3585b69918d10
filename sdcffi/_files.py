"""The cache directory, digests, and atomic writes: a reader finds the old file or the whole new one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from ._numbers import as_path
from ._quoting import shown, shown_path
from .errors import OutputError, PathNotFoundError, SDError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "cache_directory",
    "check_directory",
    "check_output",
    "check_target",
    "expanded",
    "file_digest",
    "locked",
    "read_kept_json",
    "read_stream",
    "read_whole",
    "replacing",
    "stream_digest",
    "unreadable",
]

_BLOCK = 1 << 20
_PREFIX = ".sdcffi-"  # of the folders in which files are written before they are moved
_CLAIM = ".claim"  # ending of the files by which runs of a batch claim an output
_SETTLED = 60  # seconds; a younger folder may be one that its process has not locked yet
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {_NO_SPACE: "make room there", (errno.EACCES, errno.EPERM): "change the permissions there"}
_swept: set[Path] = set()
_MOST_KEPT = 16 << 20  # bytes of a JSON file in a cache or a build


def cache_directory() -> Path:
    """Return the absolute directory for sources, builds and digests. ``SDCFFI_CACHE`` overrides the user's cache.

    Raises
    ------
    OSError
        If this user has no home directory, as in a container with a random user id.
    """
    try:
        path = Path(os.environ.get("SDCFFI_CACHE") or platformdirs.user_cache_dir("sdcffi"))
    except RuntimeError:
        path = Path()
    if not path.is_absolute() and not os.environ.get("SDCFFI_CACHE"):
        raise OSError("this user has no home directory for a cache; set SDCFFI_CACHE to a directory to write to")
    return path.absolute()


def read_kept_json(path: Path) -> Any:
    """Return what a JSON file holds that this package wrote, and that may have been damaged since.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no JSON, or is too large or nested too deep to be what was written.
    """
    try:
        return json.loads(read_whole(path, _MOST_KEPT).decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep") from error


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        return stream_digest(file)


def stream_digest(file: BinaryIO) -> str:
    """Return the sha256, in hexadecimal, of an open file from its current position to its end."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def expanded(path: str | os.PathLike[str], name: str = "") -> Path:
    """Return a path with ``~`` replaced by the home directory.

    Parameters
    ----------
    path : path
    name : str, optional
        Name of the parameter, for messages.

    Raises
    ------
    TypeError
        If it is not a path.
    PathNotFoundError
        If there is no such home directory: no ``HOME``, and no entry for the user.
    """
    plain = as_path(name or "path", path)
    try:
        return Path(plain).expanduser()
    except RuntimeError as error:
        where = f"{name}: " if name else ""
        raise PathNotFoundError(
            f"{where}{shown_path(plain)} begins with '~', but this user has no home directory: write the whole path"
        ) from error


def read_whole(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes: no pipe, which may never end, no device, and no endless file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is something else, or larger.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # before it is opened: that alone may wait, or do something
        raise ValueError("it is a directory" if path.is_dir() else "it is not a regular file, but a pipe or a device")
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # it may be replaced meanwhile
    with open(os.open(path, flags), "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(_too_large(most))
        return read_stream(file, most)


def read_stream(file: BinaryIO, most: int) -> bytes:
    """Read an open file to its end, which must be within `most` bytes.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is longer.
    """
    parts, left = [], most
    while block := file.read(min(_BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            raise ValueError(_too_large(most))
        parts.append(block)
    return b"".join(parts)


def _too_large(most: int) -> str:
    size = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most} bytes"
    return f"it has more than {size}, which is the most that such a file may have"


def check_directory(path: Path) -> None:
    """Refuse a file to be written whose directory does not exist.

    Raises
    ------
    PathNotFoundError
        If it does not.
    """
    if not path.parent.is_dir():
        raise PathNotFoundError(f"directory {path.parent} does not exist")


def unreadable(message: str, cause: Exception) -> ValueError:
    """Return the error for a file that cannot be read: one that does not exist is a `PathNotFoundError`."""
    return PathNotFoundError(message) if isinstance(cause, FileNotFoundError) else ValueError(message)


def check_target(path: Path) -> None:
    """Refuse a file to be written that cannot be one: by its name, its directory, or what is there already.

    Raises
    ------
    PathNotFoundError
        If its directory does not exist.
    ValueError
        If the name has a NUL character, or something other than a regular file is there.
    OutputError
        If the system does not let us look, or takes no such name.
    """
    if "\0" in str(path):
        raise ValueError(f"a file name cannot have a NUL character: {shown(str(path))}")
    try:
        target = _followed(path)
        if target.is_dir():
            raise ValueError(f"{path} is a directory: name a file in it")
        check_directory(target)
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise ValueError(f"{path} is not a regular file: name another one")
    except OSError as error:
        if isinstance(error, PathNotFoundError):
            raise
        raise _cannot_write(path, error) from error


def check_output(path: Path, size: int = 0) -> None:
    """Refuse a file that cannot be written: do all that `replacing` does, except for the last step.

    Parameters
    ----------
    path : Path
        The file.
    size : int
        Number of bytes that must fit.

    Raises
    ------
    ValueError
        As in `check_target`.
    OutputError
        If the directory cannot be written to, or has too little space.
    """
    check_target(path)
    with suppress(_Unwanted), replacing(path) as temporary:
        with temporary.open("wb") as file:
            _reserve(file, size, path)
        raise _Unwanted


class _Unwanted(Exception):
    """Ends a block of `replacing` before the file is moved."""


def _reserve(file: BinaryIO, size: int, path: Path) -> None:
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:  # a file system may not be able to reserve space
            if error.errno in _NO_SPACE:
                raise OSError(error.errno, f"{os.strerror(error.errno)} for {size:,} bytes") from error
    elif size and shutil.disk_usage(_followed(path).parent).free < size:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {size:,} bytes")


def _followed(path: Path) -> Path:
    """Return the file that a symbolic link points to; another path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same name, and move it to `path` if the block succeeds.

    A symbolic link stays one: the file that it points to is replaced. A file that is replaced hands on its permissions.

    Raises
    ------
    OutputError
        If the file cannot be written; also for an `OSError` of the block that is not one of sdcffi.
    """
    target = _followed(path)
    try:
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as folder, locked(Path(folder)):
            temporary = Path(folder) / path.name
            yield temporary
            _hand_on_permissions(target, temporary)
            os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, (SDError, ValueError)):
            raise
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> OutputError:
    remedy = next((f"{what}, or " for codes, what in _REMEDIES.items() if error.errno in codes), "")
    raised = OutputError(f"{path} cannot be written: {error.strerror or error}; {remedy}choose another place")
    raised.errno = error.errno
    return raised


def _hand_on_permissions(before: Path, after: Path) -> None:
    try:
        status = before.stat()
    except OSError:  # there is none
        return
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may give files away
            os.chown(after, status.st_uid, status.st_gid)
    after.chmod(stat.S_IMODE(status.st_mode))


def _sweep(directory: Path) -> None:
    """Remove what processes that were killed while they wrote have left in a directory; once for each directory."""
    directory = directory.absolute()
    if fcntl is None or directory in _swept:
        return
    _swept.add(directory)
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
    for name in names:
        folder = directory / name
        with suppress(OSError):
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < _SETTLED:
                continue
            with locked(folder) as ours:
                if ours and folder.is_dir():
                    shutil.rmtree(folder)
                elif ours and name.endswith(_CLAIM):
                    folder.unlink()


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a file or directory during the block, and yield whether no other process had it locked.

    The system unlocks it when the process ends, however that happens. Where it cannot lock, every process gets it.

    Parameters
    ----------
    path : Path
        An existing file or directory.
    wait : bool
        True waits until no other process has it locked.

    Raises
    ------
    FileNotFoundError
        If it does not exist, or was removed before it could be locked.
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        ours = _lock(descriptor, wait)
        if ours and os.fstat(descriptor).st_ino != path.stat().st_ino:
            raise FileNotFoundError(errno.ENOENT, "it was replaced while it was being locked", str(path))
        yield ours
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
