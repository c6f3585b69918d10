"""Downloads from an address, known by their digest."""

from __future__ import annotations

import sys
from collections import namedtuple
from pathlib import Path

import pytest
from hub_server import Fault, Hub

from sdcffi import DownloadError, PathNotFoundError
from sdcffi._references import Reference, downloads, fetch, is_there, parse, reference_of, web

WEIGHTS = bytes(range(256)) * 800  # 200 KiB


def read(text: str) -> Reference:
    reference = parse(text)
    assert reference is not None
    return reference


@pytest.fixture
def one(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Reference:
    """A file at an address; the Hub's client is not needed for it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    return read(hub.put("a b.gguf", WEIGHTS).replace("a b", "a%20b"))


def test_a_file_is_downloaded_once(hub: Hub, one: Reference, tmp_path: Path) -> None:
    assert is_there(one) is None
    path = fetch(one)
    assert path.read_bytes() == WEIGHTS
    assert path.name == "a b.gguf"
    assert path.is_relative_to(tmp_path / "cache")
    assert reference_of(path) == one
    hub.shutdown()
    assert fetch(one) == is_there(one) == path


def test_an_address_with_a_key_is_not_recorded(hub: Hub, one: Reference) -> None:
    path = fetch(read(str(one).replace("#", "?key=secret#")))
    assert reference_of(path) is None


def test_without_the_network_only_what_is_there_is_used(
    hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="is not downloaded, and HF_HUB_OFFLINE is set"):
        fetch(one)
    assert not hub.seen
    monkeypatch.delenv("HF_HUB_OFFLINE")
    path = fetch(one)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(one) == path


def test_a_broken_connection_goes_on(hub: Hub, one: Reference) -> None:
    hub.faults.extend([Fault(cut=50_000), Fault(status=503), Fault(cut=10_000)])
    assert fetch(one).read_bytes() == WEIGHTS
    assert hub.transfers() == ["", "bytes=50000-", "bytes=50000-", "bytes=60000-"]
    assert hub.sent == len(WEIGHTS)


def test_a_server_that_says_nothing_is_asked_again(hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SECONDS", 0.3)
    hub.faults.append(Fault(cut=50_000, stall=1.0))
    assert fetch(one).read_bytes() == WEIGHTS
    assert hub.transfers() == ["", "bytes=50000-"]


def test_a_download_that_failed_goes_on_in_the_next_call(hub: Hub, one: Reference) -> None:
    hub.faults.extend([Fault(cut=50_000), *[Fault(cut=0)] * 5])
    with pytest.raises(DownloadError, match=r"cannot be downloaded: .*the download goes on where it ended"):
        fetch(one)
    hub.seen.clear()
    assert fetch(one).read_bytes() == WEIGHTS
    assert hub.transfers() == ["bytes=50000-"]


def test_a_server_without_ranges_sends_all_of_it_again(hub: Hub, one: Reference) -> None:
    hub.faults.extend([Fault(cut=50_000), Fault(ignores_range=True)])
    assert fetch(one).read_bytes() == WEIGHTS


@pytest.mark.parametrize("content", [WEIGHTS[::-1], WEIGHTS[:1000], WEIGHTS + b"more"])
def test_another_file_is_removed(hub: Hub, one: Reference, content: bytes) -> None:
    hub.faults.append(Fault(content=content))
    with pytest.raises(DownloadError, match=r"has the sha256 \w+, not .*It was removed: try again, or correct"):
        fetch(one)
    assert is_there(one) is None
    assert fetch(one).read_bytes() == WEIGHTS


def test_a_partial_file_that_is_longer_than_the_file_is_removed(hub: Hub, one: Reference) -> None:
    hub.faults.extend([Fault(content=WEIGHTS + WEIGHTS, cut=len(WEIGHTS) + 10), *[Fault(cut=0)] * 5])
    with pytest.raises(DownloadError, match="has the sha256"):
        fetch(one)
    hub.faults.clear()
    assert fetch(one).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(429, headers={"Retry-After": "7"}), "limits how often it is asked: try again in 7 seconds"),
        (Fault(429), "try again later"),
        (Fault(403), "the server says 403: download it yourself, with a login if it needs one"),
        (Fault(410), "does not exist: the server says 410"),
    ],
)
def test_a_refusal_is_explained(hub: Hub, one: Reference, fault: Fault, message: str) -> None:
    hub.faults.append(fault)
    with pytest.raises((DownloadError, PathNotFoundError), match=message):
        fetch(one)


def test_what_is_not_there_is_named(hub: Hub, one: Reference) -> None:
    hub.files.clear()
    with pytest.raises(PathNotFoundError, match=r"a%20b.gguf#sha256=\w+ does not exist: the server says 404"):
        fetch(one)


def test_a_server_that_cannot_be_reached_is_named(hub: Hub) -> None:
    with pytest.raises(DownloadError, match=r"cannot be downloaded: .*Connection refused.*: check the network"):
        fetch(read(f"http://127.0.0.1:9/a.gguf#sha256={'0' * 64}"))


def test_a_full_disk_is_told_before_the_download(hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _path: usage(10**6, 0, 150_000))
    with pytest.raises(DownloadError, match=r"205 kB are needed, and 150 kB are free.*SDCFFI_CACHE") as caught:
        fetch(one)
    assert caught.value.errno == 28
