"""Downloads from the Hub, by its real client from a local server that speaks its protocol."""

from __future__ import annotations

import hashlib
import io
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_server import TOKEN, Fault, Hub
from huggingface_hub import constants

from sdcffi import DownloadError, PathNotFoundError
from sdcffi._references import HubReference, Reference, downloads, fetch, is_there, parse, reference_of
from sdcffi._references import hub as hub_module

WEIGHTS = bytes(range(256)) * 800  # 200 KiB
OTHER = WEIGHTS[::-1]
NAME = "a.safetensors"


def read(text: str) -> Reference:
    reference = parse(text)
    assert reference is not None
    return reference


def refused(text: str, message: str, error: type[Exception] = DownloadError, kind: Any = "file") -> None:
    with pytest.raises(error, match=message):
        fetch(read(text), kind)


@pytest.fixture
def one(hub: Hub) -> Reference:
    """A file of a repository."""
    hub.add("o/r", {NAME: WEIGHTS, "README.md": b"a card", "b.gguf": OTHER})
    return read(f"hf://o/r/{NAME}")


def test_a_file_is_downloaded_once_to_where_the_client_finds_it(hub: Hub, one: Reference) -> None:
    assert is_there(one) is None
    path = fetch(one)
    assert path.read_bytes() == WEIGHTS
    assert path.name == NAME
    assert huggingface_hub.try_to_load_from_cache("o/r", NAME) == str(path)
    assert huggingface_hub.hf_hub_download("o/r", NAME, local_files_only=True) == str(path)
    count = len(hub.seen)
    assert fetch(one) == is_there(one) == path
    assert len(hub.seen) == count
    assert hub.sent == len(WEIGHTS), "the README was not asked for"


def test_what_the_client_has_downloaded_is_not_downloaded_again(hub: Hub, one: Reference) -> None:
    path = huggingface_hub.hf_hub_download("o/r", NAME)
    count = len(hub.seen)
    assert fetch(one) == Path(path)
    assert len(hub.seen) == count


def test_without_the_network_only_what_is_there_is_used(
    hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(one)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    count = len(hub.seen)
    assert fetch(one) == path
    refused("hf://o/r/b.gguf", "hf://o/r/b.gguf is not downloaded, and HF_HUB_OFFLINE is set: unset it")
    refused("hf://o/none", "is not downloaded, and HF_HUB_OFFLINE is set")
    assert len(hub.seen) == count


def test_a_repository_from_another_program_is_found_without_the_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("o/one", {NAME: WEIGHTS, "README.md": b"a card"})
    folder = huggingface_hub.snapshot_download("o/one")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(read("hf://o/one")) == Path(folder, NAME)


def test_a_revision_is_another_content(hub: Hub) -> None:
    repository = hub.add("o/r", {NAME: WEIGHTS})
    repository.branches["v1/old"] = (old := hub.add("o/old", {NAME: OTHER}))
    assert fetch(read(f"hf://o/r/{NAME}@v1/old")).read_bytes() == OTHER
    assert fetch(read(f"hf://o/r/{NAME}")).read_bytes() == WEIGHTS
    path = fetch(read(f"hf://o/r/{NAME}@{old.commit}"))
    assert path.read_bytes() == OTHER
    assert reference_of(path) == HubReference("o/r", NAME, old.commit)
    refused(f"hf://o/r/{NAME}@v2", "o/r has no branch, tag or commit 'v2'", PathNotFoundError)


def test_of_a_repository_what_is_needed(hub: Hub) -> None:
    files = {
        "model_index.json": b"{}",
        "sd_turbo.safetensors": OTHER,
        "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
        "unet/diffusion_pytorch_model.fp16.safetensors": OTHER,
        "vae/diffusion_pytorch_model.safetensors": WEIGHTS[:1000],
        "text_encoder/model.safetensors": WEIGHTS[:2000],
    }
    hub.add("o/pipeline", files)
    reference = read("hf://o/pipeline")
    needed = {name for name in files if name not in ("sd_turbo.safetensors", list(files)[3])}
    assert is_there(reference, "model") is None
    folder = fetch(reference, "model")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == needed
    count = len(hub.seen)
    assert fetch(reference, "model") == is_there(reference, "model") == folder
    assert len(hub.seen) == count
    refused("hf://o/pipeline", r"4 files of weights.*sd_turbo.safetensors \(205 kB\)", ValueError)
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert is_there(reference, "model") is None
    assert fetch(reference, "model") == folder


def test_all_parts_of_a_file_and_the_settings_of_an_adapter(hub: Hub) -> None:
    parts = {f"m-0000{number}-of-00002.safetensors": WEIGHTS[number:] for number in (1, 2)}
    hub.add("o/parts", {**parts, "m.safetensors.index.json": b"{}", "x.gguf": OTHER})
    path = fetch(read("hf://o/parts/m.safetensors.index.json"))
    assert [one.name for one in sorted(path.parent.iterdir())] == list(parts)
    assert path.name == "m-00001-of-00002.safetensors"
    recorded = reference_of(path)
    assert recorded is not None
    assert is_there(recorded) == path, "it is known which parts the file has at this commit"
    hub.add("o/peft", {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": b"{}", "optimizer.bin": OTHER})
    path = fetch(read("hf://o/peft"), "lora")
    assert path.name == "adapter_model.safetensors"
    assert path.with_name("adapter_config.json").read_bytes() == b"{}"
    assert not path.with_name("optimizer.bin").exists()


def test_a_token_goes_to_the_hub_and_to_nobody_else(hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories["o/r"].gated = True
    fetch(one)
    by_host = {request.headers["host"].partition(":")[0]: request.headers.get("authorization") for request in hub.seen}
    assert by_host == {"127.0.0.1": f"Bearer {TOKEN}", "localhost": None}


# What interrupts a download.


def test_a_broken_connection_goes_on(hub: Hub, one: Reference) -> None:
    hub.faults.extend([Fault(cut=50_000), Fault(cut=10_000), Fault(status=429, headers={"Retry-After": "1"})])
    assert fetch(one).read_bytes() == WEIGHTS
    assert hub.transfers() == ["", "bytes=50000-", "bytes=60000-", "bytes=60000-"]
    assert hub.sent == len(WEIGHTS)


def test_a_server_that_says_nothing_is_asked_again(hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.faults.append(Fault(cut=50_000, stall=1.0))
    assert fetch(one).read_bytes() == WEIGHTS
    assert hub.transfers() == ["", "bytes=50000-"]


@pytest.mark.parametrize("name", ["are_symlinks_supported", "MAX_HTTP_DOWNLOAD_SIZE"])
def test_what_the_client_must_do_itself_is_left_to_it(
    name: str, hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "MAX_HTTP_DOWNLOAD_SIZE":
        monkeypatch.setattr(constants, name, 1000)
        refused(f"hf://o/r/{NAME}", "the regular download method")
    else:
        monkeypatch.setattr(huggingface_hub.file_download, name, lambda *_arguments: False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
        path = fetch(one)
        assert path.read_bytes() == WEIGHTS
        assert not path.is_symlink()


def test_a_download_that_failed_goes_on_in_the_next_call(hub: Hub, one: Reference) -> None:
    hub.faults.extend([Fault(cut=50_000), *[Fault(cut=0)] * 20])
    refused(f"hf://o/r/{NAME}", "cannot be downloaded: .*the download goes on where it ended")
    assert is_there(one) is None
    hub.faults.clear()
    hub.seen.clear()
    assert fetch(one).read_bytes() == WEIGHTS
    assert hub.transfers() == ["bytes=50000-"]
    assert hub.sent == len(WEIGHTS)
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def test_a_server_without_ranges_sends_all_of_it_again(hub: Hub, one: Reference) -> None:
    hub.faults.extend([Fault(cut=50_000), Fault(ignores_range=True)])
    assert fetch(one).read_bytes() == WEIGHTS


@pytest.mark.parametrize("content", [OTHER, WEIGHTS[:-1] + b"x"])
def test_a_damaged_file_is_removed(hub: Hub, one: Reference, content: bytes) -> None:
    hub.faults.append(Fault(content=content))
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    refused(f"hf://o/r/{NAME}", rf"o/r/a.safetensors: what was downloaded has the sha256 \w+, not {digest}.*try again")
    assert is_there(one) is None
    assert fetch(one).read_bytes() == WEIGHTS


@pytest.mark.parametrize("content", [WEIGHTS[:-5], WEIGHTS + b"more"])
def test_a_file_of_another_length_is_not_taken(hub: Hub, one: Reference, content: bytes) -> None:
    hub.faults.append(Fault(content=content))
    refused(f"hf://o/r/{NAME}", "cannot be downloaded|has the sha256")
    assert is_there(one) is None
    assert fetch(one).read_bytes() == WEIGHTS


def test_a_full_disk_is_told_before_the_download(hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _path: usage(10**6, 0, 150_000))
    refused(f"hf://o/r/{NAME}", r"does not fit in .*: 205 kB are needed, and 150 kB are free. Make room .*HF_HOME")
    assert hub.sent == 0


def test_what_a_partial_file_has_needs_no_space(hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.extend([Fault(cut=100_000), *[Fault(cut=0)] * 20])
    refused(f"hf://o/r/{NAME}", "cannot be downloaded")
    hub.faults.clear()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _path: usage(10**6, 0, 150_000))
    assert fetch(one).read_bytes() == WEIGHTS


def test_a_disk_that_fills_up_meanwhile_is_named(hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    refused(f"hf://o/r/{NAME}", "does not fit in .*No space left on device")


def test_a_digest_that_is_given_is_compared_before_the_download(hub: Hub, one: Reference) -> None:
    digest, wrong = hashlib.sha256(WEIGHTS).hexdigest(), "0" * 64
    refused(f"hf://o/r/{NAME}#sha256={wrong}", f"#sha256={wrong}: the sha256 is {digest}: the file was replaced there")
    assert hub.sent == 0
    path = fetch(read(f"hf://o/r/{NAME}#sha256={digest.upper()}"))
    assert path.read_bytes() == WEIGHTS
    refused(
        f"hf://o/r/{NAME}#sha256={wrong}", "a.safetensors is another version of the file: remove it, or leave out #s"
    )
    refused(
        f"hf://o/r/README.md#sha256={wrong}", "README.md is another file, or damaged"
    )  # the Hub has no digest of it


def test_a_file_that_another_process_removes_meanwhile_is_named(
    hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = hub_module._download

    def removing(*arguments: Any) -> Path:
        folder = download(*arguments)
        (folder / NAME).unlink()
        return folder

    monkeypatch.setattr(hub_module, "_download", removing)
    refused(str(one), "was removed while it was downloaded: try again")
    monkeypatch.undo()


@pytest.mark.parametrize(
    "name",
    [
        "../a.gguf",
        "/etc/a.gguf",
        "x/../../a.gguf",
        "a\\..\\b.gguf",
        "a\0.gguf",
        "a\x1b[2J.gguf",
        "x//a.gguf",
        "a" * 300 + ".gguf",
    ],
)
def test_a_name_that_no_file_can_have_is_left_out(name: str, hub: Hub) -> None:
    hub.add("o/evil", {name: OTHER})
    refused("hf://o/evil", "has no file of weights", ValueError)
    hub.add("o/evil", {name: OTHER, "good.gguf": WEIGHTS})
    assert fetch(read("hf://o/evil")).read_bytes() == WEIGHTS
    assert hub.sent == len(WEIGHTS)


def test_names_that_differ_in_case_only_are_two_files(hub: Hub) -> None:
    hub.add("o/case", {"A.gguf": WEIGHTS, "a.gguf": OTHER})
    assert [fetch(read(f"hf://o/case/{name}")).read_bytes() for name in ("A.gguf", "a.gguf")] == [WEIGHTS, OTHER]


# What the Hub refuses.


def test_a_gated_repository_says_where_its_licence_is(hub: Hub, one: Reference) -> None:
    hub.repositories["o/r"].gated = True
    refused(
        f"hf://o/r/{NAME}",
        f"is gated: accept its licence at {hub.url}/o/r, then log in with 'hf auth login', or set HF_TOKEN",
    )


def test_what_is_not_there_is_named(hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("hf://o/none/a.gguf", "there is no repository o/none on .*, or it is private", PathNotFoundError)
    refused("hf://o/r/a.safetensor", "does not exist: the repository has 'a.safetensors'", PathNotFoundError)
    hub.repositories["o/r"].private = True
    refused(f"hf://o/r/{NAME}", "or it is private: correct the name, or log in with", PathNotFoundError)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(f"hf://o/r/{NAME}", "the Hub does not accept the token: log in again")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(one).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(429, headers={"Retry-After": "55"}), "limits how often it is asked: try again in 55 seconds, or log in"),
        (Fault(429), "try again later"),
        (Fault(500), "the Hub says 500: try again later"),
        (Fault(403), "the Hub says 403: your token may lack the permission"),
        (Fault(content=b"<html>log in to the hotel</html>"), "does not answer as the Hugging Face Hub does"),
        (Fault(content=b"[]"), "does not answer as the Hugging Face Hub does"),
    ],
)
def test_an_answer_that_is_of_no_use_is_explained(hub: Hub, one: Reference, fault: Fault, message: str) -> None:
    hub.answer = fault
    refused(f"hf://o/r/{NAME}", message)


def test_a_hub_that_cannot_be_reached_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(f"hf://o/r/{NAME}", r"cannot be downloaded: .*: check the network and HF_ENDPOINT, then try again")


def test_without_the_client_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(f"hf://o/r/{NAME}", r'huggingface_hub.* is not installed.*; run: pip install "sdcffi\[hub\]"')
    assert is_there(read(f"hf://o/r/{NAME}")) is None


# What is shown.


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(
    hub: Hub, one: Reference, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    silent, terminal = io.StringIO(), _Terminal()
    monkeypatch.setattr(sys, "stderr", silent)
    with caplog.at_level("INFO", "sdcffi"):
        fetch(read("hf://o/r/b.gguf"))
    assert silent.getvalue() == ""
    assert caplog.messages == ["downloading b.gguf (205 kB)", "downloaded b.gguf"]
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(one)
    assert "a.safetensors: " in terminal.getvalue()
    assert "205k/205k" in terminal.getvalue()
