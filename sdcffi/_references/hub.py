"""Files of the Hugging Face Hub, by its own client and in its own cache, where other programs find them too.

Large files are transferred here, by the client's function for it, since the client itself begins an interrupted
download from the start, and compares only the size of what it got.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from .._files import cache_directory, file_digest, read_kept_json, replacing
from .._quoting import shortened
from .._version import __version__
from ..errors import DownloadError, PathNotFoundError
from .downloads import check_space, complete, no_space, partial_of, progress
from .forms import COMMIT, LONGEST, HubReference, is_inside
from .weights import ENDINGS, Kind, chosen, needs_others

if TYPE_CHECKING:
    from .downloads import Bar

__all__ = ["fetch", "is_there"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGENT = {"library_name": "sdcffi", "library_version": __version__}


@dataclass(frozen=True)
class _Listing:
    """The files of a repository at one commit.

    Attributes
    ----------
    commit : str
    sizes : mapping of str to int or None
        By the files' names.
    digests : mapping of str to str
        The sha256 of those that are not stored as text.
    """

    commit: str
    sizes: Mapping[str, int | None]
    digests: Mapping[str, str]


def fetch(reference: HubReference, kind: Kind) -> Path:
    """Return the file or folder, which is downloaded unless it was; the Hub is not asked for a newer one.

    Raises
    ------
    DownloadError
        If it cannot be downloaded.
    ValueError
        If it does not exist, or it is not clear which file is meant; see `chosen`.
    """
    hub = _client()
    if found := is_there(reference, kind):
        _compare(reference, _cached_digest(found), f"{found} is another version of the file: remove it, or leave")
        return found
    if hub.constants.HF_HUB_OFFLINE:
        return _of_snapshot(reference, kind)
    with _explained(reference):
        listing = _ask(reference)
    wanted, names = chosen(reference, listing.sizes, kind)
    _compare(reference, listing.digests.get(wanted), "the file was replaced there; if you trust it, leave")
    with _explained(reference):
        folder = _download(reference, listing, names)
    _keep(reference, listing)
    path = _local(folder / wanted)
    if not path.exists():
        raise DownloadError(f"{reference} was removed while it was downloaded: try again")
    if reference.sha256 is not None and _cached_digest(path) is None:  # it was not compared while it was downloaded
        _compare(reference, file_digest(path), f"{path} is another file, or damaged: remove it, or leave")
    return path


def _compare(reference: HubReference, digest: str | None, what: str) -> None:
    """Refuse a file that has another digest than the reference, if that is known."""
    if reference.sha256 is not None and digest not in (None, reference.sha256):
        raise DownloadError(f"{reference}: the sha256 is {digest}: {what} out #sha256= and what follows")


def _cached_digest(path: Path) -> str | None:
    """Return the digest of a file of the cache, after which the client calls what a link leads to. None: no link."""
    name = os.path.basename(os.path.realpath(path))
    return name if _SHA256.fullmatch(name) else None


def is_there(reference: HubReference, kind: Kind) -> Path | None:
    """Return the file or folder if it was downloaded, by this program or another one, without the network."""
    wanted, names = reference.path, [reference.path]
    if not wanted.endswith(ENDINGS) or needs_others(wanted):
        listing = _kept(reference)
        try:
            wanted, names = chosen(reference, listing.sizes if listing else {}, kind)
        except ValueError:
            return None
    try:
        folder = _cached(reference, names)
    except DownloadError:  # without the client, nothing is known of its cache
        return None
    return _local(folder / wanted) if folder else None


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError as error:
        raise DownloadError(
            f"huggingface_hub, which downloads what begins with hf://, is not installed or too old ({error}); run: pip"
            ' install "sdcffi[hub]"'
        ) from error
    return huggingface_hub


def _local(path: Path) -> Path:
    """Return an absolute path in which only the last link is kept: it is named as the file, its target is not."""
    return Path(os.path.realpath(path.parent)) / path.name


def _cached(reference: HubReference, names: Iterable[str]) -> Path | None:
    """Return the folder of the revision in the cache, if it has all of these files."""
    find = _client().try_to_load_from_cache
    folder = None
    for name in names:
        found = find(reference.repository, name, revision=reference.revision)
        if not isinstance(found, str):
            return None
        folder = Path(found).parents[name.count("/")]
    return folder


def _of_snapshot(reference: HubReference, kind: Kind) -> Path:
    """Return the file or folder from what another program has downloaded, of which it is not known what is missing."""
    hub = _client()
    message = (
        f"{reference} is not downloaded, and HF_HUB_OFFLINE is set: unset it, or download it on another machine and"
        f" copy {hub.constants.HF_HUB_CACHE}"
    )
    try:
        folder = Path(hub.snapshot_download(reference.repository, revision=reference.revision, local_files_only=True))
    except (OSError, hub.errors.EntryNotFoundError) as error:
        raise DownloadError(message) from error
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    try:
        return _local(folder / chosen(reference, files, kind)[0])
    except PathNotFoundError as error:
        raise DownloadError(message) from error


def _ask(reference: HubReference) -> _Listing:
    hub = _client()
    revision = None if reference.revision == "main" else reference.revision
    info = hub.HfApi(endpoint=hub.constants.ENDPOINT, **_AGENT).model_info(
        reference.repository, revision=revision, files_metadata=True, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT
    )
    files = {file.rfilename: file for file in info.siblings or () if _is_usable(file.rfilename)}
    digests = {name: file.lfs.sha256 for name, file in files.items() if file.lfs and _SHA256.fullmatch(file.lfs.sha256)}
    return _Listing(str(info.sha), {name: file.size for name, file in files.items()}, digests)


def _is_usable(name: str) -> bool:
    """Return whether a file can have the name that a repository's owner gave it, within the cache."""
    return is_inside(name) and all(len(os.fsencode(part)) <= LONGEST for part in name.split("/"))


def _place(reference: HubReference, revision: str) -> Path:
    names = reference.repository.replace("/", "--"), quote(revision, safe="")
    return cache_directory() / "hub" / f"{'@'.join(names)}.json"


def _keep(reference: HubReference, listing: _Listing) -> None:
    """Keep what was in the repository, by which `is_there` knows what a reference to all of it needs."""
    with suppress(OSError):  # without it, the Hub is asked again
        for revision in {reference.revision, listing.commit}:  # the commit is what a record has
            place = _place(reference, revision)
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as temporary:
                temporary.write_text(json.dumps(vars(listing)), encoding="utf-8")


def _kept(reference: HubReference) -> _Listing | None:
    try:
        kept = _Listing(**read_kept_json(_place(reference, reference.revision)))
        return kept if COMMIT.fullmatch(kept.commit) and isinstance(kept.sizes, dict) else None
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
        return None


def _download(reference: HubReference, listing: _Listing, names: list[str]) -> Path:
    """Download files of a repository, and return its folder in the cache."""
    hub = _client()
    storage = Path(hub.constants.HF_HUB_CACHE) / hub.file_download.repo_folder_name(
        repo_id=reference.repository, repo_type="model"
    )
    blobs = {name: storage / "blobs" / digest for name in names if (digest := listing.digests.get(name))}
    done = {name: _begun(blob) for name, blob in blobs.items()}
    sizes = [size for name in names if (size := listing.sizes[name]) is not None]
    total = sum(sizes) if len(sizes) == len(names) else None
    check_space(storage, sum(sizes) - sum(done.values()), str(reference))
    folder = None
    hidden = hub.utils.are_progress_bars_disabled()
    with progress(reference.name, total, sum(done.values()), hidden) as bar:
        for name in names:
            bars = _silent() if name not in blobs else None  # the client's, for each small file
            transferable = (listing.sizes[name] or 0) <= hub.constants.MAX_HTTP_DOWNLOAD_SIZE
            if name in blobs and transferable and hub.file_download.are_symlinks_supported(storage.parent):
                write = partial(_write, reference, listing, name, bar)
                lock = storage.parent / ".locks" / storage.name / f"{blobs[name].name}.lock"  # as the client
                complete(blobs[name], blobs[name].name, f"{reference.repository}/{name}", lock, bar, write)
            path = Path(
                hub.hf_hub_download(reference.repository, name, revision=reference.revision, tqdm_class=bars, **_AGENT)
            )
            if name not in blobs:
                bar.update(listing.sizes[name] or 0)
            folder = path.parents[name.count("/")]
            if folder.name != listing.commit:
                raise DownloadError(f"{reference} was changed while it was downloaded: try again")
    assert folder is not None  # there is at least one name
    return folder


def _silent() -> type[Any]:
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **{**keywords, "disable": True})

    return Silent


def _begun(blob: Path) -> int:
    """Return how much of a file there is, in bytes."""
    for path in (blob, partial_of(blob, blob.name)):
        with suppress(OSError):
            return path.stat().st_size
    return 0


def _write(reference: HubReference, listing: _Listing, name: str, bar: Bar, file: BinaryIO) -> None:
    """Write the rest of a file, by the client: its session, proxies, tokens and attempts."""
    hub = _client()
    url = hub.hf_hub_url(reference.repository, name, revision=listing.commit, endpoint=hub.constants.ENDPOINT)
    headers = {**hub.utils.build_hf_headers(**_AGENT), "Accept-Encoding": "identity"}
    expected = listing.sizes[name]
    try:
        hub.file_download.http_get(
            url, file, resume_size=file.tell(), headers=headers, expected_size=expected, _tqdm_bar=bar
        )
    finally:
        if expected is not None and file.tell() > expected:  # it is not the beginning of that file
            file.truncate(0)


@contextmanager
def _explained(reference: HubReference) -> Iterator[None]:
    """Say what to do about an error of the client."""
    hub = _client()
    errors, endpoint, repository = hub.errors, hub.constants.ENDPOINT, reference.repository
    network = errors.HfHubHTTPError.__mro__[1]  # HTTPError of the library that the client uses: also of connections
    try:
        yield
    except (DownloadError, PathNotFoundError):
        raise
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{reference} is gated: accept its licence at {endpoint}/{repository}, then log in with 'hf auth login', or"
            " set HF_TOKEN, to a token of the account that accepted it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PathNotFoundError(
            f"{reference}: there is no repository {repository} on {endpoint}, or it is private: correct the name, or"
            " log in with 'hf auth login'"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PathNotFoundError(
            f"{reference}: {repository} has no branch, tag or commit {reference.revision!r}: see"
            f" {endpoint}/{repository}/commits/main"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise PathNotFoundError(f"{reference} does not exist: {shortened(error)}") from error
    except errors.HfHubHTTPError as error:
        raise DownloadError(f"{reference} cannot be downloaded: {_answer(error)}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(str(reference), Path(hub.constants.HF_HUB_CACHE), str(error.strerror)) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DownloadError(
                f"{error.filename or hub.constants.HF_HUB_CACHE} cannot be written: set HF_HOME to another directory"
            ) from error
        raise _unreachable(reference, error.__cause__ or error) from error
    except network as error:
        raise _unreachable(reference, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"{reference}: {endpoint} does not answer as the Hugging Face Hub does ({shortened(error)}): check"
            " HF_ENDPOINT and the network"
        ) from error


def _answer(error: Any) -> str:
    status = error.response.status_code
    if status == 401:
        return "the Hub does not accept the token: log in again with 'hf auth login', or correct HF_TOKEN"
    if status == 429:
        wait = error.response.headers.get("Retry-After", "")
        when = f"in {wait} seconds" if wait.isdecimal() else "later"
        return f"the Hub limits how often it is asked: try again {when}, or log in with 'hf auth login'"
    what = "your token may lack the permission" if status == 403 else "try again later"
    return f"the Hub says {status}: {what}"


def _unreachable(reference: HubReference, error: BaseException) -> DownloadError:
    return DownloadError(
        f"{reference} cannot be downloaded: {shortened(error or type(error).__name__)}: check the network and"
        " HF_ENDPOINT, then try again; the download goes on where it ended"
    )
