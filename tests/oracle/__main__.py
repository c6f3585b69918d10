"""Write the reference images: `python -m oracle [FAMILY ...]`, in tests/, with requirements.txt installed.

PYTHONPATH has the package's folder and tests/models.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from network_cases import FINGERPRINT, NETWORKS, fingerprint

from . import flux, transformers, unets

_FOLDER = Path(__file__).parent.parent / "data" / "networks"
_FAMILIES = {**unets.FAMILIES, **flux.FAMILIES, **transformers.FAMILIES}


def main(wanted: list[str]) -> None:
    """Write the data files."""
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    _FOLDER.mkdir(exist_ok=True)
    for name, network in NETWORKS.items():
        if wanted and name not in wanted:
            continue
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            model = network.write(Path(directory))
            family, weights = _FAMILIES[name](model), fingerprint(model)
            images = {key: family.image(case, network.levels) for key, case in network.cases.items()}
        path = _FOLDER / f"{name}.npz"
        np.savez_compressed(path, **images, **{FINGERPRINT: np.uint32(weights)})
        spread = ", ".join(f"{key} {image.std():.0f}" for key, image in images.items())
        print(f"{path.name}: {path.stat().st_size} bytes, {time.perf_counter() - began:.0f} s; {spread}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
