"""``pytest --slow-within MINUTES``: a run of all tests that also ends in time on a slow machine.

Slow tests that would begin later are skipped, and say so. Without the option all of them run.
"""

from __future__ import annotations

import os
import time

import pytest

__all__ = ["add_option", "begin", "skip_late"]

_BEGUN = "SDCFFI_TESTS_BEGUN"  # seconds since the epoch, for the workers


def add_option(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--slow-within", type=float, metavar="MINUTES", help="skip slow tests that would begin later than that"
    )


def begin(config: pytest.Config) -> None:
    """Note when the run begins: in the process that starts the workers, or has none."""
    if not hasattr(config, "workerinput"):
        os.environ[_BEGUN] = str(time.time())


def skip_late(item: pytest.Item) -> None:
    """Skip a slow test for which there is no time left."""
    minutes = item.config.getoption("--slow-within")
    if minutes is None or item.get_closest_marker("slow") is None:
        return
    if time.time() - float(os.environ[_BEGUN]) > 60 * minutes:
        pytest.skip(f"slow, and the run had begun more than {minutes:g} minutes before (--slow-within)")
