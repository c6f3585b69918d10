"""A local Hub, an empty cache, and the client set to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import hub_server
import pytest
from hub_server import Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A server in place of the Hugging Face Hub for this process, which waits for nothing between attempts."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from sdcffi._references import web

    with hub_server.running() as hub:
        monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "cache"))
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        values = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
            "DOWNLOAD_CHUNK_SIZE": 10_000,  # what was read is written in pieces of this size
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        for module in (file_download, _http):
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _seconds: None))
        monkeypatch.setattr(web, "_PAUSE", 0.0)
        yield hub
