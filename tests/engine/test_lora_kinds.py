"""Each kind of LoRA, at run time and merged, generates the image of the model merged in numpy.

`lora_kinds` draws the adapters with formulas that were held against LyCORIS and PEFT by hand. On the tiny model, where
all layers are matrices; `test_lora_convolutions` is about kernels and biases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import lora_kinds
import lora_references
import numpy as np
import pytest
from lora_formulas import Array
from lora_images import MODES, draw, generate, image, psnr
from lora_kinds import named
from lora_references import Adapter, kohya, lora, lycoris, merge, q8_0
from safetensors.numpy import load_file
from sdcli import THREADS, Pixels
from tiny_model import TinyModel

from sdcffi import Engine, convert

OpenEngine = Callable[[str, str], Engine]
Build = Callable[[Mapping[str, Array]], Adapter]


def of(kind: Callable[..., Any], /, **options: Any) -> Build:
    return lambda weights: lora_references.of_kind(weights, named(kind, **options))


def norms(kind: Callable[..., Any]) -> Build:
    return lambda weights: lora_references.norms(weights, kind)


def plain(**options: Any) -> Build:
    return lambda _: lora(**options)


QUICK: dict[str, Build] = {
    "lora": plain(),
    "lora-rank-1": plain(ranks=(1,), alpha=0.5),
    "lora-points": of(lora_kinds.lora, points=True),
    "diff": of(lora_kinds.difference),
    "norms": norms(lora_kinds.difference),
    "loha": of(lora_kinds.loha),
    "lokr-whole": of(lora_kinds.lokr),
    "lokr-w1-split": of(lora_kinds.lokr, split="w1"),
    "lokr-w2-split": of(lora_kinds.lokr, split="w2"),
    "lokr-both-split": of(lora_kinds.lokr, split="w1 w2"),
    "dora-outputs": of(lora_kinds.dora),
    "dora-inputs": of(lora_kinds.dora, on_input=True),
    "dora-peft": of(lora_kinds.dora, name="lora_magnitude_vector"),
    "glora": of(lora_kinds.glora),
    "oft": of(lora_kinds.oft, constraint=0.5, rescale=True),
    "oft-peft": of(lora_kinds.peft_oft),
    "boft": of(lora_kinds.oft, stages=5, constraint=0.5, rescale=True),
    "ia3": of(lora_kinds.ia3),
    "ia3-inputs": of(lora_kinds.ia3, on_input=True),
    "ia3-peft": of(lora_kinds.peft_ia3),
}
# These differ from the others in names, sizes and scales only.
SLOW: dict[str, Build] = {
    "lora-kohya": plain(names=kohya),
    "lora-lycoris": plain(names=lycoris),
    "lora-no-alpha": plain(alpha=None),
    "lora-ranks-1-2-8-32": plain(ranks=(1, 2, 8, 32)),
    "norms-lycoris": norms(lora_kinds.norm_difference),
    "loha-no-alpha": of(lora_kinds.loha, alpha=None),
    "loha-rank-1": of(lora_kinds.loha, rank=1, alpha=0.5),
    "lokr-no-alpha": of(lora_kinds.lokr, alpha=None),
    "lokr-oblong": of(lora_kinds.lokr, split="w2", blocks=(16, 2)),
    "lokr-rank-1": of(lora_kinds.lokr, split="w2", rank=1, alpha=0.5),
    "dora-loha-outputs": of(lora_kinds.dora, kind=lora_kinds.loha),
    "dora-loha-inputs": of(lora_kinds.dora, kind=lora_kinds.loha, on_input=True),
    "dora-lokr-outputs": of(lora_kinds.dora, kind=lora_kinds.lokr),
    "dora-lokr-inputs": of(lora_kinds.dora, kind=lora_kinds.lokr, on_input=True),
    "dora-peft-weight": of(lora_kinds.dora, name="lora_magnitude_vector.weight"),
    "glora-old": of(lora_kinds.glora, old=True),
    "oft-plain": of(lora_kinds.oft),
    "oft-large": of(lora_kinds.oft, size=64),
    "oft-peft-shared": of(lora_kinds.peft_oft, shared=True),
    "oft-peft-odd": of(lora_kinds.peft_oft, size=2),
    "boft-plain": of(lora_kinds.oft, stages=3),
    "boft-peft": of(lora_kinds.peft_boft),
    "boft-peft-1": of(lora_kinds.peft_boft, stages=1),
    "boft-peft-4": of(lora_kinds.peft_boft, stages=4),
    "ia3-peft-inputs": of(lora_kinds.peft_ia3, on_input=True),
}
PARTS = ("q", "k", "v", "qk", "qv", "kv", "qkv")
# Of the query, key and value that FLUX keeps in one matrix each part has its own rank and alpha.
PART_KINDS: dict[str, Callable[[int, float], lora_kinds.Kind]] = {
    "lora": lambda rank, alpha: named(lora_kinds.lora, rank=rank, alpha=alpha),
    "loha": lambda rank, alpha: named(lora_kinds.loha, rank=rank, alpha=alpha),
    "lokr": lambda rank, alpha: named(lora_kinds.lokr, split="w2", rank=rank, alpha=alpha),
    "dora": lambda rank, alpha: named(lora_kinds.dora, kind=named(lora_kinds.lora, rank=rank, alpha=alpha)),
    "dora-inputs": lambda rank, alpha: named(
        lora_kinds.dora, kind=named(lora_kinds.lora, rank=rank, alpha=alpha), on_input=True
    ),
    "oft": lambda rank, alpha: named(lora_kinds.oft, size=4 * rank),
    "glora": lambda rank, alpha: named(lora_kinds.glora, rank=rank, alpha=alpha),
    "ia3": lambda rank, alpha: lora_kinds.ia3,
}
RANKS = {"q": (4, 2.0), "k": (2, 3.0), "v": (8, 1.0)}


def fused(kind: str, parts: str) -> Build:
    kinds = {part: PART_KINDS[kind](*RANKS[part]) for part in parts}
    return lambda weights: lora_references.parts(weights, kinds)


FUSED = {f"{kind}-{parts}": fused(kind, parts) for kind in PART_KINDS for parts in PARTS}
KINDS = QUICK | SLOW | FUSED
QUICK_FUSED = [*(("lora", parts) for parts in ("k", "v", "qv")), ("loha", "qv"), ("lokr", "v"), ("dora", "kv")]
QUICK_HERE = {*QUICK, *(f"{kind}-{parts}" for kind, parts in QUICK_FUSED)}
# Multipliers other than 1 for kinds that depend on the weight; the others are multiplied.
MULTIPLIED = ["lora", "dora-outputs", "dora-inputs", "glora", "oft", "boft", "ia3-peft", "loha"]
# dB against the float model merged in numpy. Q8_0 costs 50.6 dB without any LoRA; a part of a fused weight on an image
# that it changes much is at 46.9 and more.
LEAST = {"f16": 54.0, "q8_0": 46.0}
MOST_NONE = 45.0  # dB against no LoRA: above the kind that changes least


def kinds_types_modes() -> list[Any]:
    """All kinds on both types in both modes: each quick kind once on each type, the modes in turn, the rest slow."""
    rows = []
    for i, kind in enumerate(KINDS):
        for j, type in enumerate(("f16", "q8_0")):
            for k, mode in enumerate(MODES):
                quick = kind in QUICK_HERE and (i + j + k) % 2 == 0
                rows.append(pytest.param(kind, type, mode, marks=() if quick else pytest.mark.slow))
    return rows


def multiplied() -> list[Any]:
    """Some kinds at multipliers, half of them in each mode; the rest is slow."""
    rows = itertools.product(enumerate(MULTIPLIED), (0.5, -0.7), enumerate(MODES))
    return [
        pytest.param(kind, multiplier, mode, marks=() if (i + j) % 2 == 0 and multiplier > 0 else pytest.mark.slow)
        for (i, kind), multiplier, (j, mode) in rows
    ]


@pytest.fixture(scope="module")
def engine_of(models: dict[str, TinyModel]) -> Iterator[OpenEngine]:
    """The engine of a weight type and an apply mode, opened once for this module."""
    with ExitStack() as stack:

        @cache
        def engine_of(type: str, mode: str) -> Engine:
            arguments = models[type].engine_arguments()
            return stack.enter_context(Engine(**arguments, threads=THREADS, backend="cpu", lora_apply_mode=mode))

        yield engine_of


@pytest.fixture(scope="module")
def base_of(engine_of: OpenEngine) -> Callable[[str, str], Pixels]:
    """The image without LoRA of a weight type and an apply mode."""
    return cache(lambda type, mode: image(engine_of(type, mode)))


@pytest.fixture(scope="module")
def adapter_of(tiny_model: TinyModel) -> Callable[[str], Adapter]:
    weights = load_file(tiny_model.diffusion_model)
    return cache(lambda kind: KINDS[kind](weights))


@pytest.fixture(scope="module")
def merged(
    tiny_model: TinyModel, adapter_of: Callable[[str], Adapter], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Pixels]:
    """The image of the float model into which a kind of LoRA was merged in numpy."""
    file = tmp_path_factory.mktemp("merged") / "merged.safetensors"
    return cache(lambda kind, multiplier=1.0: draw(adapter_of(kind).merge(tiny_model, file, multiplier)))


@pytest.mark.parametrize(("kind", "type", "mode"), kinds_types_modes())
def test_kind_generates_as_the_merged_model(
    kind: str,
    type: str,
    mode: str,
    engine_of: OpenEngine,
    base_of: Callable[[str, str], Pixels],
    adapter_of: Callable[[str], Adapter],
    merged: Callable[..., Pixels],
    tmp_path: Path,
) -> None:
    adapter = adapter_of(kind)
    result = generate(engine_of(type, mode), adapter.write(tmp_path / f"{kind}.safetensors"))
    assert psnr(result.arrays[0], merged(kind)) > LEAST[type]
    assert psnr(result.arrays[0], base_of(type, mode)) < MOST_NONE
    (report,) = result.loras
    assert (report.applied, report.total, report.skipped) == (len(adapter.tensors), len(adapter.tensors), ())
    assert (report.mode, report.types) == (mode, ("f32",) if kind.startswith("norms") else (type,))


@pytest.mark.parametrize(("kind", "multiplier", "mode"), multiplied())
def test_multiplier_is_of_the_way_to_the_merged_weight(
    kind: str,
    multiplier: float,
    mode: str,
    engine_of: OpenEngine,
    adapter_of: Callable[[str], Adapter],
    merged: Callable[..., Pixels],
    tmp_path: Path,
) -> None:
    file = adapter_of(kind).write(tmp_path / f"{kind}.safetensors")
    half = image(engine_of("f16", mode), (file, multiplier))
    assert psnr(half, merged(kind, multiplier)) > LEAST["f16"]
    assert psnr(half, merged(kind)) < MOST_NONE


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["lora", "loha", "lokr-w2-split", "diff", "dora-inputs", "oft-peft", "ia3"])
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.slow
def test_half_precision_files_generate_as_the_merged_model(
    dtype: str,
    kind: str,
    mode: str,
    engine_of: OpenEngine,
    adapter_of: Callable[[str], Adapter],
    merged: Callable[..., Pixels],
    tmp_path: Path,
) -> None:
    file = adapter_of(kind).write(tmp_path / "half.safetensors", dtype)
    assert psnr(image(engine_of("q8_0", mode), file), merged(kind)) > LEAST["q8_0"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("type", [pytest.param("f16", marks=pytest.mark.slow), "q8_0"])
def test_quantised_lora_file_generates_as_its_dequantised_factors(
    type: str, mode: str, engine_of: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    adapter = lora(ranks=(32,), rounding=q8_0)
    file = convert(adapter.write(tmp_path / "lora.safetensors"), tmp_path / "lora.gguf", type="q8_0")
    assert file.stat().st_size < sum(values.nbytes for values in adapter.tensors.values()) / 2
    reference = draw(adapter.merge(tiny_model, tmp_path / "merged.safetensors"))
    result = generate(engine_of(type, mode), file)
    assert psnr(result.arrays[0], reference) > LEAST[type]
    assert result.loras[0].applied == len(adapter.tensors)


# Several.

# Each is added to the weights as they are without the other, so the order is of no matter, whatever the kind.
PAIRS = {
    "two of one kind": (plain(seed=1), plain(seed=2)),
    "kinds that depend on the weight": (KINDS["dora-outputs"], KINDS["oft"]),
    "parts and the whole": (KINDS["lora-qv"], KINDS["glora"]),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("type", [pytest.param("f16", marks=pytest.mark.slow), "q8_0"])
@pytest.mark.parametrize("pair", PAIRS)
def test_order_of_loras_does_not_matter(
    pair: str, type: str, mode: str, engine_of: OpenEngine, tiny_model: TinyModel, tmp_path: Path
) -> None:
    weights = load_file(tiny_model.diffusion_model)
    adapters = [build(weights) for build in PAIRS[pair]]
    one, two = (adapter.write(tmp_path / f"{i}.safetensors") for i, adapter in enumerate(adapters))
    engine = engine_of(type, mode)
    first, second = (image(engine, *loras) for loras in (((one, 0.7), (two, -0.4)), ((two, -0.4), (one, 0.7))))
    reference = draw(merge(tiny_model, list(zip(adapters, (0.7, -0.4), strict=True)), tmp_path / "merged.safetensors"))
    assert psnr(first, second) > LEAST[type]
    assert psnr(first, reference) > LEAST[type]
    assert psnr(first, image(engine, (one, 0.7))) < MOST_NONE


@pytest.mark.parametrize("mode", MODES)
def test_image_without_lora_after_others_is_the_same(
    mode: str, engine_of: OpenEngine, adapter_of: Callable[[str], Adapter], tmp_path: Path
) -> None:
    engine = engine_of("q8_0", mode)
    before = image(engine)
    for kind in ("dora-inputs", "oft", "glora"):
        image(engine, adapter_of(kind).write(tmp_path / f"{kind}.safetensors"))
    assert np.array_equal(before, image(engine))
