"""What downloads have in common: a partial file that goes on where it ended, its digest, locks, space and progress."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import filelock

from .._files import file_digest
from ..errors import DownloadError
from .weights import size_text

if TYPE_CHECKING:
    from tqdm import tqdm

    Bar = tqdm[Any]

__all__ = ["check_space", "complete", "no_space", "partial_of", "progress"]

_log = logging.getLogger("sdcffi")


def partial_of(target: Path, digest: str) -> Path:
    """Return the file that has the beginning of another one while that is downloaded."""
    return target.with_name(f"{digest}.incomplete")


def complete(target: Path, digest: str, name: str, lock: Path, bar: Bar, write: Callable[[BinaryIO], None]) -> None:
    """Download a file once, on from where the download before was interrupted.

    Parameters
    ----------
    target : Path
        The file.
    digest : str
        Its sha256, in hexadecimal.
    name : str
        What messages call it.
    lock : Path
        File that is locked meanwhile, so that only one process downloads.
    bar : tqdm
        Shows what is waited for.
    write : callable
        Function that gets the partial file, at its end, and writes the rest.

    Raises
    ------
    DownloadError
        If the file has another digest. It is removed then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock, bar):
        if target.exists():  # another process has downloaded it
            return
        partial = partial_of(target, digest)
        with partial.open("ab") as file:
            write(file)
        bar.set_postfix_str("checking")
        if (found := file_digest(partial)) != digest:
            partial.unlink()
            raise DownloadError(
                f"{name}: what was downloaded has the sha256 {found}, not {digest}: it was damaged on the way, or is"
                " another file. It was removed: try again, or correct the digest"
            )
        os.replace(partial, target)


@contextmanager
def _locked(path: Path, bar: Bar) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    with suppress(NotImplementedError):  # a file system without locks: the digest shows if two wrote at a time
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            bar.set_postfix_str("waiting for another process")
            _log.info("waiting for another process that downloads the same file")
            lock.acquire()
            bar.set_postfix_str("")
    try:
        yield
    finally:
        lock.release()


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse a download that does not fit, before it begins.

    Raises
    ------
    DownloadError
        With what is needed, and what is free.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # it cannot be told
        return
    if needed > free:
        raise no_space(what, folder, f"{size_text(needed)} are needed, and {size_text(free)} are free")


def no_space(what: str, folder: Path, why: str) -> DownloadError:
    """Return the error for a disk that is full."""
    error = DownloadError(
        f"{what} does not fit in {folder}: {why}. Make room there, or set HF_HOME, or SDCFFI_CACHE for https://, to a"
        " directory on another disk"
    )
    error.errno = errno.ENOSPC
    return error


@contextmanager
def progress(name: str, total: int | None, done: int, hidden: bool = False) -> Iterator[Bar]:
    """Show bytes and the time left while the block downloads, if standard error is a terminal; log begin and end."""
    from tqdm import tqdm

    _log.info("downloading %s%s", name, "" if total is None else f" ({size_text(total - done)})")
    with tqdm(
        desc=name,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=hidden or None,  # None: unless it is a terminal
        dynamic_ncols=True,
    ) as bar:
        yield bar
    _log.info("downloaded %s", name)
