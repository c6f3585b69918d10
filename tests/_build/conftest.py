"""What tests of the build command share."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in import StandIn


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for builds."""
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """A small upstream in place of the engine."""
    return StandIn(tmp_path)
