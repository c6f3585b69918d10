"""Where the checkout is, and in it the tests and what they use."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
HELPERS = [str(TESTS / "models"), str(TESTS / "support")]
"""What pytest puts before `sys.path`, for programs that tests start."""
