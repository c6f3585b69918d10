"""The demonstration model: ``python -m tests.train_demo`` trains it, ``... .evaluate`` measures it."""

import sys
from pathlib import Path

# As pytest has it for the tests, whose helpers are used here too.
TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "models"), str(TESTS / "support")]
