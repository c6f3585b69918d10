"""Write the reference images: `python -m oracle [--missing] [FAMILY ...]`, in tests/, with requirements.txt installed.

PYTHONPATH has the package's folder, tests/models and tests/support. With `--missing`, the images that a data file has
already, of the same weights, are kept.
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
from .autoencoders import Pixels

_FOLDER = Path(__file__).parent.parent / "data" / "networks"
_FAMILIES = {**unets.FAMILIES, **flux.FAMILIES, **transformers.FAMILIES}


def main(wanted: list[str], missing: bool) -> None:
    """Write the data files."""
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    _FOLDER.mkdir(exist_ok=True)
    for name, network in NETWORKS.items():
        if wanted and name not in wanted:
            continue
        path = _FOLDER / f"{name}.npz"
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            model = network.write(Path(directory))
            family, weights = _FAMILIES[name](model), fingerprint(model)
            kept = _kept(path, weights) if missing else {}
            images = {
                key: kept[key] if key in kept else family.image(case, network.levels)
                for key, case in network.cases.items()
            }
        np.savez_compressed(path, **images, **{FINGERPRINT: np.uint32(weights)})
        spread = ", ".join(f"{key} {image.std():.0f}" for key, image in images.items())
        print(f"{path.name}: {path.stat().st_size} bytes, {time.perf_counter() - began:.0f} s; {spread}", flush=True)


def _kept(path: Path, weights: int) -> dict[str, Pixels]:
    if not path.exists():
        return {}
    with np.load(path) as data:
        return {key: data[key] for key in data if key != FINGERPRINT and int(data[FINGERPRINT]) == weights}


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if word != "--missing"], "--missing" in sys.argv)
