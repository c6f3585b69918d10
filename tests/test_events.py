"""Events: who receives them, and Python's logging besides."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from places import ROOT

from sdcffi import Engine, Log
from sdcffi.events import Listeners


@pytest.mark.parametrize(
    ("level", "number"), [("debug", 10), ("info", 20), ("warn", 30), ("error", 40), ("a level of tomorrow", 40)]
)
@pytest.mark.parametrize("heard", [True, False])
def test_the_native_log_goes_to_logging_beside_on_log(
    level: str, number: int, heard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sdcffi")
    lines: list[Log] = []
    Listeners(on_log=lines.append if heard else None).notify(Log(level, "a.cpp:1 - 100% done"))
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        ("sdcffi", number, "a.cpp:1 - 100% done")
    ]
    assert [line.text for line in lines] == ["a.cpp:1 - 100% done"] * heard


def test_logging_that_is_not_set_up_shows_nothing() -> None:
    code = "from sdcffi.events import *; Listeners().notify(Log('error', 'nobody asked'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_engines_log_reaches_logging(either: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sdcffi")
    either.generate("a cat", width=64, height=64, steps=1, cfg_scale=1.0, seed=7)
    assert any("generating image: 1/1 - seed 7" in record.getMessage() for record in caplog.records)
    assert {record.threadName for record in caplog.records} == {"MainThread"}
