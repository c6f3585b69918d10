"""Files at an address, kept by their digest in the cache directory."""

from __future__ import annotations

import errno
import http.client
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from .._files import cache_directory
from .._quoting import shortened
from .._version import __version__
from ..errors import DownloadError, PathNotFoundError
from .downloads import check_space, complete, no_space, partial_of, progress
from .forms import WebReference

if TYPE_CHECKING:
    from .downloads import Bar

__all__ = ["fetch", "is_there"]

_SECONDS = 30  # without a byte
_ATTEMPTS = 5  # without a byte
_PAUSE = 1.0  # seconds
_BLOCK = 1 << 20
_TRANSIENT = (408, 500, 502, 503, 504)
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def is_there(reference: WebReference) -> Path | None:
    """Return the file if it was downloaded."""
    target = _target(reference)
    return target if target.is_file() else None


def _target(reference: WebReference) -> Path:
    return cache_directory() / "downloads" / reference.sha256 / reference.name


def fetch(reference: WebReference) -> Path:
    """Download the file, unless it was.

    Raises
    ------
    DownloadError, PathNotFoundError
        If it cannot be.
    """
    if found := is_there(reference):
        return found
    if any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _OFFLINE):  # as the Hub's client
        raise DownloadError(
            f"{reference} is not downloaded, and HF_HUB_OFFLINE is set: unset it, or download the file on another"
            " machine"
        )
    target = _target(reference)
    partial = partial_of(target, reference.sha256)
    with _explained(reference):
        done = partial.stat().st_size if partial.exists() else 0
        with progress(reference.name, None, done) as bar:
            download = _Download(reference, bar)
            complete(target, reference.sha256, str(reference), partial.with_suffix(".lock"), bar, download.write)
    return target


class _Download:
    """The transfer of one file."""

    def __init__(self, reference: WebReference, bar: Bar) -> None:
        self._reference, self._bar = reference, bar

    def write(self, file: BinaryIO) -> None:
        """Write the rest of the file, in as many attempts as bring something."""
        failures = 0
        while True:
            before = file.tell()
            try:
                if self._rest(file):
                    return
                reason: Exception = http.client.IncompleteRead(b"")
            except HTTPError as error:
                if error.code not in _TRANSIENT:
                    raise
                reason = error
            except (URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = error
            failures = 0 if file.tell() > before else failures + 1
            if failures == _ATTEMPTS:
                raise reason
            time.sleep(_PAUSE)

    def _rest(self, file: BinaryIO) -> bool:
        """Write what one answer of the server has, and return whether that was all."""
        at = file.tell()
        try:
            response = _opened(self._reference, {"Range": f"bytes={at}-"} if at else {})
        except HTTPError as error:
            if error.code != 416:  # nothing is left, or the file is shorter now: its digest will tell
                raise
            return True
        with response:
            if at and not _begins_at(response, at):
                file.truncate(0)  # the server has sent all of it
                at = file.seek(0)
            left = _length(response)
            total = None if left is None else at + left
            self._bar.reset(total)
            self._bar.update(at)
            if left is not None:
                check_space(Path(file.name).parent, left, str(self._reference))
            while block := response.read1(_BLOCK):  # what has come, so that it stays if nothing more does
                file.write(block)
                self._bar.update(len(block))
        return total is None or file.tell() >= total


def _begins_at(response: http.client.HTTPResponse, at: int) -> bool:
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {at}-")


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _opened(reference: WebReference, headers: dict[str, str]) -> http.client.HTTPResponse:
    always = {"User-Agent": f"sdcffi/{__version__}", "Accept-Encoding": "identity"}
    response: http.client.HTTPResponse = urlopen(
        Request(reference.url, headers={**always, **headers}), timeout=_SECONDS
    )
    return response


@contextmanager
def _explained(reference: WebReference) -> Iterator[None]:
    try:
        yield
    except (DownloadError, PathNotFoundError):
        raise
    except HTTPError as error:
        if error.code in (404, 410):
            raise PathNotFoundError(f"{reference} does not exist: the server says {error.code}") from error
        if error.code == 429:
            wait = error.headers.get("Retry-After")
            when = f"in {wait} seconds" if wait and wait.isdecimal() else "later"
            raise DownloadError(f"{reference}: the server limits how often it is asked: try again {when}") from error
        what = "download it yourself, with a login if it needs one" if error.code in (401, 403) else "try again later"
        raise DownloadError(f"{reference} cannot be downloaded: the server says {error.code}: {what}") from error
    except OSError as error:
        folder = _target(reference).parent
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(str(reference), folder, str(error.strerror)) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DownloadError(f"{folder} cannot be written: set SDCFFI_CACHE to another directory") from error
        raise _unreachable(reference, error) from error
    except http.client.HTTPException as error:
        raise _unreachable(reference, error) from error


def _unreachable(reference: WebReference, error: Exception) -> DownloadError:
    reason = error.reason if isinstance(error, URLError) else error
    return DownloadError(
        f"{reference} cannot be downloaded: {shortened(reason or type(error).__name__)}: check the network, then try"
        " again; the download goes on where it ended"
    )
