"""`pytest --slow-within`: slow tests begin only while there is time, in each process; all others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

TESTS = """
import pytest

@pytest.mark.slow
def test_slow() -> None: ...

def test_quick() -> None: ...
"""


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
@pytest.mark.parametrize(("minutes", "said"), [("0", "1 passed, 1 skipped"), ("60", "2 passed"), (None, "2 passed")])
def test_slow_tests_are_skipped_where_no_time_is_left(
    minutes: str | None, said: str, workers: str, tmp_path: Path
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    words = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), f"--confcutdir={tmp_path}", "-p", "conftest"]
    options = [] if minutes is None else [f"--slow-within={minutes}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, workers, *options, str(tmp_path)],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
    )
    assert said in done.stdout, done.stdout + done.stderr
