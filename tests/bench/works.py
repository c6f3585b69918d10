"""What is measured: works, the lanes in which contenders do them, and the ratios aimed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .contenders import CONTENDERS, Contender, Job
from .models import MODELS, loras, picture

OURS = "sdcffi"
LIBRARIES = ("sd-cpp-python", "sd-cpp-python same threads")
PYTORCH = ("PyTorch float32", "PyTorch bfloat16")
OPENVINO = ("OpenVINO float32", "OpenVINO bfloat16")
INT8 = "OpenVINO int8"
TYPES = ("f16", "q8_0", "q4_K")  # of the transformer


@dataclass(frozen=True)
class Lane:
    """A contender with something that others do not have.

    Parameters
    ----------
    label : str
        The heading in tables.
    contender : str
        A name of `CONTENDERS`.
    draw : callable, optional
        More arguments of the call, made when they are needed, since they may name files.
    neighbour : bool
        Whether another process keeps one core busy meanwhile.
    """

    label: str
    contender: str
    draw: Callable[[], dict[str, Any]] = dict
    neighbour: bool = False


def _plain(*names: str) -> tuple[Lane, ...]:
    return tuple(Lane(name, name) for name in names)


@dataclass(frozen=True)
class Work:
    """Something that every lane does in every round.

    Parameters
    ----------
    title : str
        What tables call it.
    model : str
        A name of `MODELS`.
    draw : callable
        The arguments of the call.
    parts : dict
        What is reported of a call, with a title for each.
    lanes : tuple of Lane
        Who does it.
    networks : dict
        For PyTorch and OpenVINO: part, network, and where its weights are: a name of `MODELS` and of one of its files.
    options : dict
        More keyword arguments of `Engine`.
    fresh : bool
        Whether every round opens everything anew.
    apart : bool
        Whether each lane is closed before the next one opens, because all of them do not fit into memory.
    rounds : int
        Most rounds of a full run.
    quick : tuple of str
        The lanes of a quick run, all of them if empty; a work that has no place in it has None.
    """

    title: str
    model: str
    draw: Callable[[], dict[str, Any]]
    parts: dict[str, str]
    lanes: tuple[Lane, ...]
    networks: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False
    apart: bool = False
    rounds: int = 5
    quick: tuple[str, ...] | None = None

    def job(self, threads: int | None) -> Job:
        """The job of this work's contenders."""
        files, draw = MODELS[self.model](), self.draw()
        size = draw.get("width", UPSCALED)
        networks = {
            part: (network, MODELS[model]()[file], size) for part, (network, model, file) in self.networks.items()
        }
        return Job({**files, **self.options}, draw, networks, threads)

    def chosen(self, quick: bool) -> tuple[Lane, ...]:
        """The lanes of a quick or a full run."""
        return tuple(lane for lane in self.lanes if not quick or not self.quick or lane.label in self.quick)


def contender(lane: Lane) -> Contender:
    """Who runs in a lane."""
    return CONTENDERS[lane.contender]


@dataclass(frozen=True)
class Aim:
    """What is to be reached: at most `limit` as the ratio, or the difference, of two lanes."""

    title: str
    work: str
    part: str
    lane: str
    against: str
    limit: float
    difference: bool = False


WITH_LORA = "sdcffi with LoRA"
UPSCALED = 128  # pixels a side of the image that is enlarged


def draw(size: int, steps: int) -> Callable[[], dict[str, Any]]:
    fixed = {"prompt": "a cat", "cfg_scale": 1.0, "seed": 42}
    return lambda: {**fixed, "width": size, "height": size, "steps": steps}


def _from_picture(size: int) -> dict[str, Any]:
    return {**draw(size, 1)(), "init_image": picture(size), "strength": 1.0}


def _tiny(size: int, steps: int, quick: bool = False) -> Work:
    return Work(
        f"tiny model, {size}x{size}, {steps} steps" if steps > 1 else f"tiny model, {size}x{size}, one step",
        "tiny",
        draw(size, steps),
        {"call": "whole call", "condition": "text encoder", "step": "step", "decode": "TAEF2 decode"},
        _plain(OURS, "sdcffi isolated", "sd-cli", *LIBRARIES, *PYTORCH, *OPENVINO),
        {"decode": ("taef2_decode", "tiny", "taesd")},
        quick=() if quick else None,
    )


def _unet(size: int, type: str, quick: tuple[str, ...] | None = None) -> Work:
    return Work(
        f"Stable Diffusion 1.5, {type}, {size}x{size}",
        f"sd15-{type}",
        draw(size, 1),
        {"step": "UNet step"},
        _plain(OURS, "sd-cli", *PYTORCH, *OPENVINO, INT8),
        {"step": ("sd15_unet", "sd15-f16", "model")},
        quick=quick,
    )


def _sdxl(size: int, type: str) -> Work:
    return Work(
        f"Stable Diffusion XL, {type}, {size}x{size}",
        f"sdxl-{type}",
        draw(size, 1),
        {"step": "UNet step"},
        _plain(OURS, *PYTORCH, *OPENVINO, INT8),
        {"step": ("sdxl_unet", "sdxl-f16", "model")},
        apart=True,
        rounds=3,
    )


def _transformer(size: int, type: str) -> Work:
    return Work(
        f"6 blocks of FLUX.2 klein 4B, {type}, {size}x{size}",
        f"klein-{type}",
        draw(size, 1),
        {"step": f"step, {(size // 16) ** 2:,} tokens"},
        _plain(OURS, *PYTORCH),
        {"step": ("flux2", "klein-f16", "diffusion_model")},
        rounds=3,
    )


def _text_encoder(tokens: int, type: str) -> Work:
    return Work(
        f"4 layers as wide as Qwen3-4B's, {type}",
        f"text-encoder-{type}",
        lambda: {**draw(64, 1)(), "prompt": " ".join(["cat"] * (tokens - 1))},  # a token begins the text
        {"condition": f"{tokens} tokens"},
        _plain(OURS, *PYTORCH),
        {"condition": (f"language_model-{tokens}", "text-encoder-f16", "llm")},
    )


def _autoencoder(size: int, quick: tuple[str, ...] | None = None) -> Work:
    return Work(
        f"Stable Diffusion 1.5, {size}x{size}",
        "autoencoder",
        partial(_from_picture, size),
        {"decode": "autoencoder decode", "encode": "autoencoder encode", "memory": "peak memory"},
        _plain(OURS, "sd-cli", *PYTORCH, *OPENVINO),
        {"decode": ("sd15_decode", "autoencoder", "vae"), "encode": ("sd15_encode", "autoencoder", "vae")},
        quick=quick,
    )


def _lora(mode: str) -> Work:
    def with_lora() -> dict[str, Any]:
        return {"loras": loras()[:1]}

    return Work(
        f"tiny model, LoRA {mode}, 256x256, 4 steps",
        "tiny",
        draw(256, 4),
        {"call": "whole call", "step": "step", "outside": "outside of the networks"},
        (
            Lane(OURS, OURS),
            Lane(WITH_LORA, OURS, with_lora),
            Lane("sd-cli", "sd-cli"),
            Lane("sd-cli with LoRA", "sd-cli", with_lora),
        ),
        options={"lora_apply_mode": mode},
        rounds=9,
        quick=(OURS, WITH_LORA) if mode == "at_runtime" else None,
    )


def _process(title: str, model: str, size: int, steps: int) -> Work:
    return Work(
        f"{title}, one call in a process of its own",
        model,
        draw(size, steps),
        {"load": "loading", "memory": "peak memory"},
        _plain(OURS, "sdcffi isolated", "sd-cli"),
        fresh=True,
        rounds=3,
    )


WORKS: dict[str, Work] = {
    "tiny-256": _tiny(256, 4, quick=True),
    "tiny-512": _tiny(512, 1),
    "unet-256-f16": _unet(256, "f16", quick=()),
    "unet-256-q8_0": _unet(256, "q8_0"),
    "unet-256-q4_0": _unet(256, "q4_0"),
    "autoencoder-256": _autoencoder(256, quick=(OURS, "PyTorch float32")),
    "unet-512-f16": _unet(512, "f16"),
    "unet-512-q8_0": _unet(512, "q8_0"),
    "unet-512-q4_0": _unet(512, "q4_0"),
    "autoencoder-512": _autoencoder(512),
    **{f"sdxl-512-{type}": _sdxl(512, type) for type in ("f16", "q8_0")},
    "sdxl-1024-f16": _sdxl(1024, "f16"),
    **{f"transformer-{size}-{type}": _transformer(size, type) for size in (512, 1024) for type in TYPES},
    **{f"text-{tokens}-{type}": _text_encoder(tokens, type) for tokens in (77, 512) for type in ("f16", "q8_0")},
    "lora-at_runtime": _lora("at_runtime"),
    "lora-immediately": _lora("immediately"),
    "upscale": Work(
        f"upscaling {UPSCALED}x{UPSCALED} four times",
        "upscaler",
        lambda: {"init_image": picture(UPSCALED)},
        {"upscale": "network"},
        _plain(OURS, "sd-cli", *PYTORCH, *OPENVINO),
        {"upscale": ("rrdbnet", "upscaler", "upscale_model")},
    ),
    "process-tiny": _process("tiny model, 256x256, 4 steps", "tiny", 256, 4),
    "process-sd15": _process("Stable Diffusion 1.5, f16, 256x256, one step", "sd15-f16", 256, 1),
    "neighbour": Work(
        "tiny model, 256x256, 4 steps, with and without a busy process on one core",
        "tiny",
        draw(256, 4),
        {"call": "whole call"},
        (
            Lane(OURS, OURS),
            Lane("sdcffi, one core busy", OURS, neighbour=True),
            Lane("sd-cli", "sd-cli"),
            Lane("sd-cli, one core busy", "sd-cli", neighbour=True),
        ),
        quick=(OURS, "sdcffi, one core busy"),
    ),
}

AIMS: tuple[Aim, ...] = (
    Aim("TAEF2 decode, 256x256", "tiny-256", "decode", OURS, "PyTorch float32", 1.2),
    Aim("SD 1.5 autoencoder decode, 256x256", "autoencoder-256", "decode", OURS, "PyTorch float32", 1.2),
    Aim("SD 1.5 UNet step, 256x256, f16", "unet-256-f16", "step", OURS, "PyTorch float32", 1.0),
    Aim("SD 1.5 UNet step, 256x256, Q8_0", "unet-256-q8_0", "step", OURS, "PyTorch float32", 1.0),
    *(
        Aim(f"SD 1.5 UNet step, {size}x{size}, {type}", f"unet-{size}-{type}", "step", OURS, against, 1.0)
        for size in (256, 512)
        for type, against in (("f16", OPENVINO[0]), ("f16", OPENVINO[1]), ("q8_0", INT8), ("q4_0", INT8))
    ),
    *(
        Aim(f"SD 1.5 autoencoder decode, {size}x{size}", f"autoencoder-{size}", "decode", OURS, OPENVINO[1], 1.0)
        for size in (256, 512)
    ),
    *(
        Aim(
            f"FLUX.2 klein's blocks, {size}x{size}, {type}",
            f"transformer-{size}-{type}",
            "step",
            OURS,
            PYTORCH[1],
            limit,
        )
        for size, limits in ((512, (0.8, 0.6, 0.6)), (1024, (0.55, 0.4, 0.4)))
        for type, limit in zip(TYPES, limits, strict=True)
    ),
    Aim("whole call, tiny model", "tiny-256", "call", OURS, "sd-cli", 0.1),
    Aim("whole call, tiny model", "tiny-256", "call", OURS, "sd-cpp-python", 0.25),
    Aim(
        "a LoRA that was used before, at_runtime: time outside of the networks",
        "lora-at_runtime",
        "outside",
        WITH_LORA,
        OURS,
        0.01,
        True,
    ),
    Aim("peak memory, tiny model", "process-tiny", "memory", OURS, "sd-cli", 1.0),
    Aim("peak memory, SD 1.5", "process-sd15", "memory", OURS, "sd-cli", 1.0),
    Aim("busy neighbour on one of two cores", "neighbour", "call", "sdcffi, one core busy", OURS, 1.4),
)
