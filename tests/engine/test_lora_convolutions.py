"""Each kind of LoRA on convolutions, their biases and norms generates the image of the model merged in numpy.

On the small model of Stable Diffusion 1's kind, in its last block, the one that the image goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lora_kinds
import lora_references
import numpy as np
import pytest
import sd1_model
from lora_formulas import Tensors
from lora_images import MODES, generate, image, psnr
from lora_kinds import Kind, named
from lora_references import Adapter, Target
from sd1_model import UNET
from sdcli import THREADS, Pixels

from sdcffi import Engine

pytestmark = pytest.mark.slow

LAST = "output_blocks.7"
WIDER = f"{LAST}.0.in_layers.2"  # 320 of 640 channels, 3x3
KERNELS = (WIDER, f"{LAST}.0.out_layers.3")
POINTS = (f"{LAST}.0.skip_connection", f"{LAST}.1.proj_in", f"{LAST}.1.proj_out")
MATRICES = (f"{LAST}.0.emb_layers.1", f"{LAST}.1.transformer_blocks.0.attn2.to_out.0")
NORMS = ("out.0", f"{LAST}.0.out_layers.0", f"{LAST}.1.norm", f"{LAST}.1.transformer_blocks.0.norm2")
TUCKER = {"tucker": True}

# Kinds by the modules that they are on. LyCORIS' BOFT wants a power of two of blocks: 320 are 32 of 10.
KINDS: dict[str, tuple[Kind, Sequence[str]]] = {
    "locon": (lora_kinds.lora, (*KERNELS, *POINTS)),
    "locon-mid": (named(lora_kinds.lora, mid=True), KERNELS),
    "loha": (lora_kinds.loha, (*KERNELS, *POINTS)),
    "loha-tucker": (named(lora_kinds.loha, tucker=True), KERNELS),
    "lokr-whole": (lora_kinds.lokr, (*KERNELS, *POINTS)),
    "lokr-w2-split": (named(lora_kinds.lokr, split="w2"), (*KERNELS, *POINTS)),
    "lokr-both-split": (named(lora_kinds.lokr, split="w1 w2"), KERNELS),
    "lokr-tucker": (named(lora_kinds.lokr, split="w2", tucker=True), KERNELS),
    "diff": (lora_kinds.difference, (*KERNELS, *MATRICES)),
    "norms": (lora_kinds.norm_difference, NORMS),
    "lora-bias": (lora_kinds.lora_with_bias, (*KERNELS, *POINTS, *MATRICES)),
    "dora-outputs": (lora_kinds.dora, (*KERNELS, *POINTS)),
    "dora-inputs": (named(lora_kinds.dora, on_input=True), (*KERNELS, *POINTS)),
    "dora-peft": (named(lora_kinds.dora, name="lora_magnitude_vector"), (*KERNELS, *POINTS)),
    "dora-mid": (named(lora_kinds.dora, kind=named(lora_kinds.lora, mid=True)), KERNELS),
    "dora-loha-tucker": (named(lora_kinds.dora, kind=named(lora_kinds.loha, tucker=True), on_input=True), KERNELS),
    "dora-lokr-tucker": (named(lora_kinds.dora, kind=named(lora_kinds.lokr, split="w2", tucker=True)), KERNELS),
    "glora": (lora_kinds.glora, (*KERNELS, *POINTS)),
    "oft": (named(lora_kinds.oft, rescale=True), (*KERNELS, *POINTS)),
    "boft": (named(lora_kinds.oft, size=10, stages=6, rescale=True), (*KERNELS, *POINTS)),
    "oft-peft": (lora_kinds.peft_oft, (*KERNELS, *POINTS)),
    "boft-peft": (lora_kinds.peft_boft, (*KERNELS, *POINTS)),
    "ia3": (lora_kinds.ia3, (*KERNELS, *POINTS)),
    "ia3-inputs": (named(lora_kinds.ia3, on_input=True), (*KERNELS, *POINTS)),
    "ia3-peft": (lora_kinds.peft_ia3, (*KERNELS, *POINTS, *MATRICES)),
}
LEAST = {"f16": 50.0, "q8_0": 45.0}  # dB against the model of this weight type, merged in numpy
MOST_NONE = 42.0


@pytest.fixture(scope="module")
def weights() -> Tensors:
    """The small model, with random biases on the path of the image."""
    tensors = sd1_model.small().tensors
    rng = np.random.default_rng(5)
    values = {name: value.astype(np.float16) for name, value in sd1_model.values(tensors).items()}
    for module in (*KERNELS, *POINTS, *MATRICES, *NORMS):
        name = f"{UNET}{module}.bias"
        values[name] = (rng.standard_normal(tensors[name]) * 0.3).astype(np.float16)
        if f"{UNET}{module}.weight" not in values:
            values[f"{UNET}{module}.weight"] = np.zeros(tensors[f"{UNET}{module}.weight"], np.float16)
    return values


@dataclass(frozen=True)
class Files:
    """The small model as files, and engines for it."""

    weights: Tensors
    directory: Path
    taesd: Path

    def model(self, adapter: Adapter | None) -> Path:
        """Write the model, into which an adapter is merged."""
        path = self.directory / ("merged.safetensors" if adapter else "model.safetensors")
        changed = self.weights | {
            name: (self.weights[name].astype(np.float32) + change).astype(np.float16)
            for name, change in (adapter.deltas if adapter else {}).items()
        }
        return sd1_model.write(sd1_model.small().tensors, path, changes=changed)

    def engine(self, type: str, adapter: Adapter | None = None, **keywords: Any) -> Engine:
        keywords |= {"type": type if type != "f16" else None, "threads": THREADS, "backend": "cpu"}
        return Engine(self.model(adapter), taesd=self.taesd, **keywords)


@pytest.fixture(scope="module")
def files(weights: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("sd1")
    return Files(weights, directory, sd1_model.write_taesd(directory / "taesd.safetensors"))


@pytest.fixture(scope="module", params=[(type, mode) for type in LEAST for mode in MODES], ids="-".join)
def opened(request: pytest.FixtureRequest, files: Files) -> Iterator[tuple[str, str, Engine]]:
    """A weight type, an apply mode, and the engine that has them: one after the other."""
    type, mode = request.param
    with files.engine(type, lora_apply_mode=mode) as engine:
        yield type, mode, engine


@pytest.fixture(scope="module")
def adapter_of(weights: Tensors) -> Callable[[str], Adapter]:
    def adapter_of(name: str) -> Adapter:
        kind, modules = KINDS[name]
        targets = [(Target(f"diffusion_model.{module}", f"{UNET}{module}.weight"), kind) for module in modules]
        return lora_references.adapter(weights, targets)

    return cache(adapter_of)


@pytest.fixture(scope="module")
def merged(files: Files, adapter_of: Callable[[str], Adapter]) -> Callable[[str, str], Pixels]:
    """The image of a weight type of the model into which a kind of LoRA was merged in numpy; none for ''."""

    def merged(type: str, kind: str) -> Pixels:
        with files.engine(type, adapter_of(kind) if kind else None) as engine:
            return image(engine)

    return cache(merged)


@pytest.mark.parametrize("kind", KINDS)
def test_kind_generates_as_the_merged_model(
    kind: str,
    opened: tuple[str, str, Engine],
    adapter_of: Callable[[str], Adapter],
    merged: Callable[[str, str], Pixels],
    tmp_path: Path,
) -> None:
    type, mode, engine = opened
    adapter = adapter_of(kind)
    result = generate(engine, adapter.write(tmp_path / f"{kind}.safetensors"))
    assert psnr(result.arrays[0], merged(type, kind)) > LEAST[type]
    assert psnr(result.arrays[0], merged(type, "")) < MOST_NONE
    (report,) = result.loras
    assert (report.applied, report.total, report.skipped) == (len(adapter.tensors), len(adapter.tensors), ())
    assert report.mode == mode
