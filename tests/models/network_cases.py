"""What is compared with other implementations: the models, and what is generated with each.

`NETWORKS` is read by both sides: tests/oracle computes the images with torch, diffusers and transformers, and
tests/engine/test_networks.py generates them with the engine. Noise levels are given, so that no scheduler has a say.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import network_models
import numpy as np
import numpy.typing as npt
from families import FamilyModel

# Levels of Stable Diffusion's schedule for timesteps 900 and 400, and of a flow.
DISCRETE = (900, 400)
FLOW = (1.0, 0.5)
FINGERPRINT = "weights"  # beside the images in a data file


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is generated, and the part of the family that it is about.

    Attributes
    ----------
    strength : float
        Of the change of `picture`; 0 begins with noise alone. As in AUTOMATIC1111's web UI, one step more is taken
        than the strength's part of the steps.
    levels : tuple of float
        Noise levels, or timesteps, instead of the network's.
    least : float
        PSNR that a right engine has; less where attention is so sharp that half precision alone takes more away.
    """

    part: str
    width: int = 128
    height: int = 64
    cfg: float = 1.0
    prompt: str = "a cat"
    negative: str = ""
    guidance: float | None = None
    frames: int = 0
    seed: int = 5
    strength: float = 0.0
    more: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[float, ...] = ()
    least: float = 55.0

    def sigmas(self, network: Network) -> list[float]:
        """The noise levels, down to 0."""
        levels = self.levels or network.levels
        return discrete_levels(levels) if network.is_discrete else [*levels, 0.0]

    def shown(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        """The levels that there are steps at, where the network has `levels`."""
        levels = self.levels or levels
        return levels[-int(len(levels) * self.strength) - 1 :] if self.strength else levels


@dataclass(frozen=True, kw_only=True)
class Network:
    """A family, or a form of one.

    Attributes
    ----------
    levels : tuple of float
        Noise levels; of Stable Diffusion's schedule (`is_discrete`), its timesteps.
    engine : mapping
        Keywords of `Engine` beside the model's.
    reference : str
        The classes that compute the reference.
    quick : bool
        Whether it takes under a second.
    """

    title: str
    write: Callable[[Path], FamilyModel]
    cases: Mapping[str, Case]
    levels: tuple[float, ...] = FLOW
    is_discrete: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)
    reference: str
    quick: bool = False
    revisions: tuple[str, ...] = ("2026-05", "2026-08")


def discrete_levels(timesteps: tuple[float, ...] = DISCRETE) -> list[float]:
    """The noise levels of Stable Diffusion's timesteps, and 0."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    kept = np.cumprod(1 - betas)
    return [float(((1 - kept[int(t)]) / kept[int(t)]) ** 0.5) for t in timesteps] + [0.0]


def picture(case: Case) -> npt.NDArray[np.uint8]:
    """An image to begin with: a slope of each color, and squares."""
    rows, columns = np.mgrid[: case.height, : case.width] / max(case.height, case.width)
    squares = np.random.default_rng(case.seed).uniform(-0.3, 0.3, (case.height // 16, case.width // 16, 3))
    slopes = np.stack([rows, columns, 1 - rows], -1) + squares.repeat(16, 0).repeat(16, 1)
    return (slopes.clip(0, 1) * 255).astype(np.uint8)


def _sharp(cases: Mapping[str, Case], least: float = 45.0) -> Mapping[str, Case]:
    return {name: replace(case, least=least) for name, case in cases.items()}


_SMALL: Mapping[str, Any] = {"width": 64}
_UNET = {
    "plain": Case(part="U-Net and text"),
    "cfg": Case(part="U-Net and text, cfg 4", cfg=4.0, negative="cat"),
    "weighted": Case(part="weights in the prompt", prompt="a (cat:1.5) [dog]", **_SMALL),
    "chunks": Case(part="a prompt of 100 words", prompt=" ".join(f"a cat {n % 7} !" for n in range(25)), **_SMALL),
}
_FLOW = {
    "plain": Case(part="transformer and text"),
    "cfg": Case(part="transformer and text, cfg 4", cfg=4.0, negative="cat"),
    "tall": Case(part="transformer, 64x96", width=64, height=96),
}
_ODD = {"odd": Case(part="transformer, 5x7 tokens", width=80, height=112)}
_VIDEO = {
    "plain": Case(part="transformer, 1 frame, 96x64", frames=1, width=96),
    "frames": Case(part="transformer, 5 frames, 64x96", frames=5, width=64, height=96),
}
NETWORKS: Mapping[str, Network] = {
    "sd1": Network(
        title="Stable Diffusion 1.5",
        write=network_models.calm("sd1"),
        cases={
            **_UNET,
            "tall": Case(part="U-Net, 64x128", width=64, height=128),
            "skip_2": Case(part="text of the last layer but one", more={"clip_skip": 2}, **_SMALL),
            "skip_6": Case(part="text of the 6th layer from the end", more={"clip_skip": 6}, **_SMALL),
            "strong": Case(part="cfg 12", cfg=12.0, negative="cat", **_SMALL),
            "weak": Case(part="cfg 0.5", cfg=0.5, negative="cat", **_SMALL),
            "image": Case(part="from an image", strength=0.5, levels=(900, 700, 500, 250), **_SMALL),
        },
        levels=DISCRETE,
        is_discrete=True,
        reference="UNet2DConditionModel, CLIPTextModel, AutoencoderTiny",
    ),
    "sd2": Network(
        title="Stable Diffusion 2",
        write=network_models.calm("sd2"),
        cases=_UNET,
        levels=DISCRETE,
        is_discrete=True,
        engine={"prediction": "eps"},
        reference="UNet2DConditionModel, CLIPTextModel, AutoencoderTiny",
    ),
    "sdxl": Network(
        title="Segmind-Vega (SDXL)",
        write=network_models.calm("sdxl"),
        cases={
            **_UNET,
            # The means of the two encoders' states change by 2 and by 14 %, which one for both would mix.
            "weighted": Case(part="weights", prompt="a (cat 1 2:3) 3 ! (dog 4:3) 5 (6 7 8:3)", **_SMALL),
            "absent": Case(part="no negative prompt, cfg 4", cfg=4.0),
        },
        levels=DISCRETE,
        is_discrete=True,
        reference="UNet2DConditionModel, CLIPTextModel, CLIPTextModelWithProjection, AutoencoderTiny",
    ),
    "flux": Network(
        title="FLUX.1",
        write=network_models.calm("flux"),
        cases={
            "plain": Case(part="transformer and pooled text, guidance 3.5"),
            "guidance": Case(part="transformer, guidance 1.5, 64x96", guidance=1.5, width=64, height=96),
            "image": Case(part="from an image", strength=0.5, levels=(1.0, 0.8, 0.6, 0.3), **_SMALL),
        },
        reference="FluxTransformer2DModel, CLIPTextModel, AutoencoderTiny",
        quick=True,
    ),
    "chroma": Network(
        title="Chroma",
        write=network_models.calm("chroma"),
        cases={"plain": Case(part="transformer, without a mask")},
        reference="ChromaTransformer2DModel, AutoencoderTiny",
    ),
    "ovis": Network(
        title="Ovis-Image",
        write=network_models.calm("ovis"),
        cases={**_FLOW, **_ODD},
        reference="OvisImageTransformer2DModel, Qwen3Model, AutoencoderTiny",
        quick=True,
    ),
    "flux2_klein": Network(
        title="FLUX.2 klein",
        write=network_models.flux2_klein,
        cases={**_FLOW, **_ODD},
        reference="Flux2Transformer2DModel, Qwen3Model",
    ),
    "flux2_dev": Network(
        title="FLUX.2 dev",
        write=network_models.flux2_dev,
        cases={
            "plain": Case(part="transformer and text, guidance 3.5"),
            "guidance": Case(part="transformer, guidance 1.5, 64x96", guidance=1.5, width=64, height=96),
        },
        reference="Flux2Transformer2DModel, MistralModel",
    ),
    "sd3": Network(
        title="Stable Diffusion 3.5",
        write=network_models.calm("sd3"),
        cases=_sharp({**_FLOW, **_ODD, "plain": Case(part="transformer and CLIP")}),
        reference="SD3Transformer2DModel, CLIPTextModel, CLIPTextModelWithProjection, AutoencoderTiny",
    ),
    "qwen_image": Network(
        title="Qwen-Image",
        write=network_models.calm("qwen_image"),
        cases=_FLOW,
        reference="QwenImageTransformer2DModel, Qwen2Model",
    ),
    "wan_t2v": Network(
        title="Wan 2.1, text to video",
        write=network_models.calm("wan_t2v"),
        cases=_VIDEO,
        reference="WanTransformer3DModel",
    ),
    "wan_ti2v": Network(
        title="Wan 2.2 TI2V",
        write=network_models.calm("wan_ti2v"),
        cases={**_VIDEO, "frames": Case(part="transformer, 5 frames, 64x64", frames=5, width=64)},
        reference="WanTransformer3DModel",
    ),
    "anima": Network(
        title="Anima",
        write=network_models.calm("anima"),
        cases=_sharp(_FLOW),
        reference="CosmosTransformer3DModel, AnimaTextConditioner, Qwen3Model",
    ),
    "ernie": Network(
        title="ERNIE-Image",
        write=network_models.ernie,
        cases={**_FLOW, **_ODD},
        reference="ErnieImageTransformer2DModel, MistralModel",
        quick=True,
    ),
}


def fingerprint(model: FamilyModel) -> int:
    """A number of a model's weights: each file's names and shapes, and its last values, which follow from all before.

    Data of other weights than those that a test writes would differ for no fault of the engine's.
    """
    found = 0
    for path in (model.weights, *model.text.values()):
        with path.open("rb") as file:
            start = file.read(1 << 16)
            file.seek(-min(path.stat().st_size, 1 << 16), 2)
            found = zlib.crc32(start + file.read(), found)
    return found
