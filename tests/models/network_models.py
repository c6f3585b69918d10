"""Models that are compared with other implementations, where those of `families` leave something out.

Their gain is lower than there, so that rounding does not grow from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import text_shapes
import tiny_model
import transformer_shapes
from families import FAMILIES, IMAGE, FamilyModel
from sparse import Shapes, write_random

CALM = 1.0


def _small(family: str, directory: Path, shapes: Shapes, encoders: Mapping[str, Shapes], taesd: Path) -> FamilyModel:
    weights = write_random(shapes, directory / "network.safetensors", gain=CALM)
    files = {key: write_random(item, directory / f"{key}.safetensors", gain=CALM) for key, item in encoders.items()}
    given = {"diffusion_model": weights, **files, "taesd": taesd}
    return FamilyModel(family, given, IMAGE, False, weights, text=files)


def calm(family: str) -> Callable[[Path], FamilyModel]:
    """A model of `families`."""
    return partial(FAMILIES[family], gain=CALM)


def flux2_klein(directory: Path) -> FamilyModel:
    """28 layers of Qwen3, of which the 9th, 18th and 27th are used."""
    return _flux2("flux2_klein", directory, text_shapes.qwen3(transformer_shapes.TEXT, heads=16, layers=28))


def flux2_dev(directory: Path) -> FamilyModel:
    """31 layers of Mistral, of which the 10th, 20th and 30th are used."""
    return _flux2("flux2_dev", directory, text_shapes.ministral(transformer_shapes.TEXT, layers=31), guided=True)


def _flux2(family: str, directory: Path, encoder: Shapes, *, guided: bool = False) -> FamilyModel:
    shapes = transformer_shapes.flux2(3 * transformer_shapes.TEXT, guided=guided, single=48 if guided else 2).beginning(
        "model.diffusion_model."
    )
    taesd = tiny_model.write_model(directory / "tiny").taesd
    return _small(family, directory, shapes, {"llm": encoder}, taesd)


def ernie(directory: Path) -> FamilyModel:
    """26 layers of Ministral, of which the last but one is used, and the tiny autoencoder of FLUX.2."""
    shapes = transformer_shapes.ernie()
    name = "x_embedder.proj.weight"  # read before the head's width, which is divided by the width that it tells
    first = write_random({f"model.diffusion_model.{name}": shapes[name]}, directory / "width.safetensors")
    encoders = {"llm": text_shapes.ministral(transformer_shapes.TEXT, layers=26)}
    model = _small("ernie", directory, shapes, encoders, tiny_model.write_model(directory / "tiny").taesd)
    return FamilyModel(**{**vars(model), "engine": {**model.engine, "model": first}})
