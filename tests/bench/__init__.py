"""Benchmarks, run by hand: ``python -m tests.bench`` compares, the other modules measure what sdcffi itself adds."""

import sys
from pathlib import Path

# As pytest has it for the tests, whose models and helpers are used here too.
TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "models"), str(TESTS / "support")]
