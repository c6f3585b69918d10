"""A LoRA for a family's small model: what its differences make of the model's file, and the images with and without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lora_formulas as formulas
import numpy as np
from families import FAMILIES, FamilyModel
from lora_data import ModuleData, with_weights
from lora_formulas import Array
from lora_kinds import Drawn, Factors, Kind, Layer
from lora_styles import Style
from lora_table import KINDS, Changed, draw, modules_of
from sdcli import THREADS, Pixels
from sparse import opened_tensor

from sdcffi import Engine
from sdcffi.params.lora import LoraLike, LoraReport

__all__ = ["DATA", "Subject", "active", "generate"]

# The data of each small model.
DATA: Mapping[str, str] = {
    "ovis": "ovis_image",
    "ernie": "ernie_image",
    "wan_t2v": "wan",
    "wan_ti2v": "wan",
} | {name: name for name in ("sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "flux2", "qwen_image", "z_image")} | {
    name: name for name in ("anima", "wan_i2v")
}  # fmt: skip
_DEPTHS = {"sd3": (3, 24)}  # blocks of the data and of the model
# Queries, or their norms, are made smaller. Sharp attention makes much of rounding errors: rounding the weights alone
# then gives 32 dB (Stable Diffusion 3) and 37 dB (1), instead of 48 and 64.
_SHARP = re.compile(r"attn\d\.to_q\.weight$|[._](q|query)_norm\.|[._](norm|ln|norm_added)_q\.")
_CALM = np.float32(0.125)
_UNETS = ("sd1", "sd2", "sdxl")
_FORMULAS = {"lora": formulas.lora, "loha": formulas.loha, "lokr": formulas.lokr, "diff": lambda _, t: t["diff"]}
# Tensors of a kind whose rows, and columns, are the weight's; the last one is sized.
_OF_ROWS = ("lora_up.weight", "hada_w1_a", "lokr_w2", "diff")
_OF_COLUMNS = ("lora_down.weight", "hada_w1_b", "lokr_w2", "diff")


def active(name: str) -> Kind:
    """Return a kind with values only in the rows and columns where the weight has some; see `sparse`."""
    if name == "dora":
        return _active_dora
    return lambda factors, layer: _active(name, factors, layer)


def _active(name: str, factors: Factors, layer: Layer) -> Drawn:
    weight = layer.weight.astype(np.float32)
    bias = layer.bias if name == "diff" else None
    drawn = KINDS[name](factors, Layer(weight, bias))
    tensors = drawn.tensors
    if weight.ndim > 1:
        flat = np.abs(weight).reshape(len(weight), layer.inp, -1).max(axis=2)
        rows, columns = flat.max(axis=1) > 0, flat.max(axis=0) > 0
        for ending, values in tensors.items():
            if ending in _OF_ROWS:  # LoKr's are of a half, for all halves
                values = (values.T * rows.reshape(-1, len(values)).any(axis=0)).T
            if ending in _OF_COLUMNS:
                inputs = layer.inp if ending == "hada_w1_b" else values.shape[1]
                used = columns.reshape(-1, inputs).any(axis=0)
                values = (values.reshape(len(values), inputs, -1) * used[:, None]).reshape(values.shape)
            tensors[ending] = values
    size = np.linalg.norm(_FORMULAS[name](weight, tensors))
    power = np.float32(2.0 ** np.round(np.log2(factors.strength * np.linalg.norm(weight) / size)))
    sized = next(ending for ending in _OF_ROWS if ending in tensors)
    tensors[sized] = tensors[sized] * power
    return Drawn(tensors, np.asarray(weight + _FORMULAS[name](weight, tensors), np.float32), drawn.bias)


def _active_dora(factors: Factors, layer: Layer) -> Drawn:
    drawn = _active("lora", factors, layer)
    weight = layer.weight.astype(np.float32)
    lengths = np.sqrt((weight**2).sum(axis=tuple(range(1, weight.ndim)), keepdims=True))
    magnitude = np.asarray(lengths * (1 + factors.draw(*lengths.shape, scale=factors.strength)), np.float32)
    merged = formulas.dora(weight, drawn.weight - weight, magnitude)
    return Drawn(drawn.tensors | {"dora_scale": magnitude}, merged)


def generate(model: FamilyModel, engine: Engine, *loras: LoraLike) -> tuple[Pixels, tuple[LoraReport, ...]]:
    """Return the image, or the first frame, and the reports of the LoRAs."""
    if model.is_video:
        video = engine.generate_video("a cat", **model.call, loras=loras)
        return np.asarray(video.frames[0]), video.loras
    result = engine.generate("a cat", **model.call, loras=loras)
    return result.arrays[0], result.loras


@dataclass
class Subject:
    """A family's small model, what LoRAs make of it, and images by what was merged."""

    family: str
    directory: Path
    images: dict[str, Pixels] = field(default_factory=dict)
    calm: bool = True  # whether queries are made smaller

    def __post_init__(self) -> None:
        self.model = FAMILIES[self.family](self.directory)
        self.shapes = {self.model.prefix + name: shape for name, shape in _shapes(self.model.weights).items()}
        self.data = with_weights(DATA[self.family], self.shapes, _DEPTHS.get(self.family, (0, 0)))
        self.drawn: dict[tuple[str, str], Changed] = {}
        for name in self.shapes if self.calm else ():
            if _SHARP.search(name):
                self._write(name, self._read(name) * _CALM)

    @contextmanager
    def engine(self, mode: str = "immediately") -> Iterator[Engine]:
        with Engine(**self.model.engine, threads=THREADS, backend="cpu", lora_apply_mode=mode) as engine:
            yield engine

    def modules(self, style: Style) -> list[ModuleData]:
        """Return the modules of a LoRA: of every kind of layer, for UNets the last one."""
        modules = modules_of(self.data, style)
        if self.family not in _UNETS:
            return list(modules.values())
        return list({re.sub(r"\d+", "#", name): module for name, module in modules.items()}.values())

    def changed(self, style: Style, kinds: tuple[str, ...], strength: float) -> Changed:
        """Draw differences, of the kinds in turn, for the modules that a style writes."""
        key = (style.uses, "+".join(kinds))
        if key not in self.drawn:
            turn = [active(kind) for kind in kinds]
            self.drawn[key] = self.draw(self.modules(style), lambda i, _: turn[i % len(turn)], strength)
        return self.drawn[key]

    def draw(
        self, modules: Iterable[ModuleData], kind_of: Callable[[int, ModuleData], Kind], strength: float
    ) -> Changed:
        """Draw differences for modules; norms have whole ones."""
        modules = list(modules)
        names = {place.weight for module in modules for place in (*module.places, *module.bias)}
        return draw(modules, {name: self._read(name) for name in names}, kind_of, Factors(strength=strength))

    def merged(self, changed: Changed) -> Pixels:
        """Generate with a LoRA merged into the model's file, which is as before afterwards."""
        before = {name: self._write(name, values) for name, values in changed.weights.items()}
        try:
            with self.engine() as engine:
                return generate(self.model, engine)[0]
        finally:
            for name, values in before.items():
                self._write(name, values)

    def _read(self, name: str) -> Array:
        with opened_tensor(self.model.weights, name.removeprefix(self.model.prefix)) as tensor:
            return np.array(tensor)

    def _write(self, name: str, values: Array) -> Array:
        with opened_tensor(self.model.weights, name.removeprefix(self.model.prefix)) as tensor:
            before = np.array(tensor)
            tensor[:] = values.astype(tensor.dtype)
            return before


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(about["shape"]) for name, about in header.items() if name != "__metadata__"}
