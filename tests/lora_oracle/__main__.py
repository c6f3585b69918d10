"""Write the data about names: `python -m lora_oracle [FAMILY ...]`, in tests/, with requirements.txt installed."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from . import flux, text, transformers, unets
from .data_file import compact, named, write
from .namings import NAMINGS, SOURCES

_FOLDER = Path(__file__).parent.parent / "data/lora_names"
_PREFIXES = {"anima": "model.diffusion_model.net."}  # the engine keeps the prefix of Cosmos


def main(wanted: list[str]) -> None:
    """Write the data files."""
    warnings.simplefilter("ignore")
    for family in (*flux.FAMILIES, *transformers.FAMILIES, *unets.FAMILIES):
        if wanted and family.name not in wanted:
            continue
        original, traced = family.trace()
        source = family.source or f"diffusers.loaders.single_file_utils.{family.convert.__name__}"
        prefix = _PREFIXES.get(family.name, "model.diffusion_model.")
        path = _FOLDER / f"{family.name}.json"
        namings = {
            naming: {"source": SOURCES[naming], "modules": named(follow(original, traced))}
            for naming, follow in NAMINGS.get(family.name, {}).items()
        }
        write(path, compact(source, prefix, original, traced) | ({"namings": namings} if namings else {}))
        print(f"{path.name}: {path.stat().st_size} bytes, {len(traced)} tensors")
    for name, prefixes in text.ENCODERS.items():
        if not wanted or name in wanted:
            source, original, traced = text.encoder(name)
            write(_FOLDER / f"{name}.json", compact(source, "", original, traced, prefixes=prefixes))


if __name__ == "__main__":
    main(sys.argv[1:])
