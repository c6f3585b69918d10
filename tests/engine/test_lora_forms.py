"""Forms in which the same LoRA may come generate the image of the model merged in numpy, in both modes.

On the small models of some families: what a file says about its strength, PEFT's folder and biases, parts of fused
weights alone, and files that are for another family.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lora_kinds
import numpy as np
import pytest
from lora_data import ModuleData
from lora_family import DATA, Subject, active, generate
from lora_images import MODES, psnr
from lora_kinds import Drawn, Factors, Kind, Layer
from lora_styles import STYLES
from lora_table import KINDS, Changed, draw, modules_of, small, weights_of, write_style
from sdcli import Pixels

from sdcffi import LoraError

LEAST = 55.0  # dB against the model merged in numpy
MOST_NONE = 30.0  # dB against no LoRA
RANK = 4
SHARP = ("flux", "flux2")  # models in which keys alone change the image
PEFT, DIFFUSERS = STYLES["peft"], STYLES["diffusers"]


class Opened:
    """A family's small model, with an engine for each mode, and the image without LoRA."""

    def __init__(self, family: str, directory: Path, stack: ExitStack) -> None:
        self.subject = Subject(family, directory, calm=family not in SHARP)
        self._last: tuple[Changed, Pixels] | None = None
        self.engine = cache(lambda mode: stack.enter_context(self.subject.engine(mode)))
        self.plain = cache(lambda: generate(self.subject.model, self.engine(MODES[0]))[0])

    def check(self, mode: str, path: Path, changed: Changed, total: int, most: float = MOST_NONE) -> None:
        """Compare an adapter with its merged model."""
        image, (report,) = generate(self.subject.model, self.engine(mode), path)
        merged = self.merged(changed)
        near, base = psnr(image, merged), psnr(merged, self.plain())
        assert near >= LEAST, f"{near:.1f} dB, without {base:.1f}"
        assert base <= most
        assert (report.applied, report.total, report.skipped) == (total, total, ())

    def merged(self, changed: Changed) -> Pixels:
        """Generate with a merged model, the last of which is kept."""
        if self._last is None or self._last[0] is not changed:
            self._last = changed, self.subject.merged(changed)
        return self._last[1]


Open = Callable[[str], Opened]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """The models, one family after the other."""
    now: dict[str, tuple[Opened, ExitStack]] = {}

    def opened(family: str) -> Opened:
        if family not in now:
            close()
            stack = ExitStack()
            now[family] = Opened(family, tmp_path_factory.mktemp(family), stack), stack
        return now[family][0]

    def close() -> None:
        for one, stack in now.values():
            stack.close()
            for path in one.subject.directory.iterdir():
                path.unlink()
        now.clear()

    yield opened
    close()


# What a file says about its strength.

ALPHA = {"r": RANK, "lora_alpha": 1}
PATTERNS = {
    "r": 2,
    "lora_alpha": 1,
    "rank_pattern": {"to_[qk]": RANK, "to_v": RANK, "ff.linear_in": RANK, "ff.linear_out": RANK},
    "alpha_pattern": {"ff.linear_in": 8, "transformer_blocks.0.attn.to_q": 2},
}


def of_patterns(name: str) -> float:
    if name.endswith("ff.linear_in"):
        return 8 / RANK
    return (2 if name.endswith("transformer_blocks.0.attn.to_q") else 1) / RANK


def in_metadata(settings: Mapping[str, Any]) -> dict[str, str]:
    values = {f"transformer.{name}": value for name, value in settings.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(values)}


Said = tuple[dict[str, str], dict[str, Any], Callable[[str], float]]
# Metadata, or adapter_config.json of a folder, and the factor of a module.
STRENGTHS: dict[str, Said] = {
    "nothing": ({}, {}, lambda _: 1.0),
    "lora_adapter_metadata": (in_metadata(ALPHA), {}, lambda _: 1 / RANK),
    "plain keys": ({"transformer.r": "4", "transformer.lora_alpha": "1"}, {}, lambda _: 1 / RANK),
    "rsLoRA": (in_metadata({**ALPHA, "use_rslora": True}), {}, lambda _: 1 / RANK**0.5),
    "patterns": (in_metadata(PATTERNS), {}, of_patterns),
    "adapter_config.json": ({}, {"peft_type": "LORA", **ALPHA}, lambda _: 1 / RANK),
    "patterns of adapter_config.json": ({}, {"peft_type": "LORA", **PATTERNS}, of_patterns),
}
MODULES = ("attn.to_q", "attn.to_k", "attn.to_v", "ff.linear_in", "ff.linear_out")


def multiplied(factor: float, strength: float) -> Kind:
    """LoRA of rank 4 without alpha, and merged with a factor."""

    def kind(factors: Factors, layer: Layer) -> Drawn:
        drawn = lora_kinds.lora(Factors(factors.rng.integers(1 << 30), strength=strength), layer, alpha=None)
        weight = layer.weight.astype(np.float32)
        return replace(drawn, weight=weight + np.float32(factor) * (drawn.weight - weight))

    return kind


@pytest.fixture(scope="module")
def drawn(opened: Open) -> Callable[[str], Changed]:
    @cache
    def drawn(name: str) -> Changed:
        factor_of = STRENGTHS[name][2]
        subject = opened("flux2").subject
        modules = [module for module in subject.modules(DIFFUSERS) if module.name.endswith(MODULES)]
        return subject.draw(modules, lambda _, module: multiplied(factor_of(module.name), 2.0), 1.0)

    return drawn


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("said", STRENGTHS)
def test_strength_is_what_the_file_says(
    said: str, mode: str, opened: Open, drawn: Callable[[str], Changed], tmp_path: Path
) -> None:
    metadata, config, _ = STRENGTHS[said]
    style = PEFT if config else DIFFUSERS
    path = tmp_path / "adapter_model.safetensors"
    _, total = write_style(drawn(said), style, "flux2", path, metadata)
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    opened("flux2").check(mode, tmp_path if config else path, drawn(said), total)


# Biases.


@pytest.mark.parametrize("mode", MODES)
def test_biases_of_peft_generate_as_the_merged_model(mode: str, opened: Open, tmp_path: Path) -> None:
    flux = opened("flux")
    modules = [module for module in flux.subject.modules(PEFT) if module.bias and module.name != "context_embedder"]
    changed = flux.subject.draw(modules, lambda *_: lora_kinds.lora_with_bias, 0.3)
    assert all("lora_B.bias" in parts for parts in changed.tensors.values())
    path, total = write_style(changed, PEFT, "flux", tmp_path / "lora.safetensors")
    flux.check(mode, path, changed, total)


# Parts of fused weights alone.

ENOUGH = 47.0  # dB against no LoRA, at most: keys alone change little
PARTS = {"q and v": ("to_q", "to_v", "add_q_proj", "add_v_proj"), "k": ("to_k", "add_k_proj"), "v": ("to_v",)}
PARTS_OF = [
    *(("flux", parts) for parts in (*PARTS, "proj_mlp")),
    *(("flux2", parts) for parts in PARTS),
    *(pytest.param(family, "q and v", marks=pytest.mark.slow) for family in ("sd3", "z_image", "chroma", "ovis")),
]


@pytest.mark.parametrize(("family", "parts"), PARTS_OF)
def test_parts_of_fused_weights_generate_as_the_merged_model(
    family: str, parts: str, opened: Open, tmp_path: Path
) -> None:
    one = opened(family)
    modules: list[ModuleData] = [
        module
        for module in one.subject.modules(DIFFUSERS)
        if module.name.endswith(PARTS.get(parts, (parts,))) and not module.is_whole
    ]
    assert modules
    changed = one.subject.draw(modules, lambda *_: active("lora"), 4.0)
    path, total = write_style(changed, DIFFUSERS, DATA[family], tmp_path / "lora.safetensors")
    for mode in MODES:
        one.check(mode, path, changed, total, ENOUGH)


# Other families.

FOREIGN = [
    ("flux2", "flux", "diffusers"),
    ("flux2", "flux", "kohya"),
    ("flux2", "flux", "comfyui"),
    pytest.param("anima", "wan_t2v", "diffusers", marks=pytest.mark.slow),
    pytest.param("anima", "wan_t2v", "comfyui", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("family", "other", "style"), FOREIGN)
def test_lora_of_another_family_is_refused_and_changes_nothing(
    family: str, other: str, style: str, mode: str, opened: Open, tmp_path: Path
) -> None:
    own, data = STYLES[style], small(DATA[other])
    changed = draw(modules_of(data, own).values(), weights_of(data.name), lambda *_: KINDS["lora"])
    path, _ = write_style(changed, own, data.name, tmp_path / "lora.safetensors")
    one = opened(family)
    before = generate(one.subject.model, one.engine(mode))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was made for another family, where some names fit
        with pytest.raises(LoraError) as caught:
            generate(one.subject.model, one.engine(mode), path)
    assert "lora.safetensors" in str(caught.value)
    assert np.array_equal(generate(one.subject.model, one.engine(mode))[0], before)
