"""What differs between two revisions of stable-diffusion.cpp: ``python -m tests.revisions OLD NEW``."""

import sys
from pathlib import Path

# As pytest has it for the tests, whose helpers are used here too.
TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "support")]
