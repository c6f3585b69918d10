"""Write into a file of the diffusion network how to use it, as export does: ``python -m tests.train_demo.describe``.

Weights that were trained before files said it need not be trained again: their tensors stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sdcffi._defaults.metadata import OURS
from sdcffi._models.headers import add_metadata
from sdcffi.demo import SETTINGS, demo_model

STATED = {f"{OURS}{name}": str(value) for name, value in SETTINGS.items()}
"""What a file says; `sdcffi.convert` carries it over to the file in Q8_0."""


def main() -> None:
    for path in sys.argv[1:] or [demo_model()["diffusion_model"]]:
        add_metadata(Path(path), STATED)


if __name__ == "__main__":
    main()
