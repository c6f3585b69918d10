"""Random parameters of `Engine.generate` and `Engine`: of each field values that are legal, odd, or bad.

Odd ones may be refused or not. A call with a bad one must be refused, by whomever; one with legal ones only must
generate.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sdcffi import (
    Cache,
    ContextParams,
    Guidance,
    Hires,
    ImageParams,
    PhotoMaker,
    SampleParams,
    SkipLayerGuidance,
    Tiling,
)
from sdcffi.params.context import Embedding
from sdcffi.params.struct import Struct

nan, inf = math.nan, math.inf
SIZE = 32


def picture(height: int = SIZE, width: int = SIZE, channels: int = 3, dtype: Any = np.uint8) -> Any:
    return np.full((height, width, channels), 90, dtype)


class Strange:
    """An object of no type that is asked for; its text is fixed."""

    def __repr__(self) -> str:
        return "Strange()"


@dataclass(frozen=True)
class Field:
    """Values of one field."""

    legal: Sequence[Any]
    odd: Sequence[Any]
    bad: Sequence[Any]


NOT_TEXT = [7, b"euler", ["a"], nan, Strange()]
NOT_NUMBERS = ["1", b"1", [1.0], {}, True, 1j, Strange(), nan, inf, -inf]
NOT_COUNTS = ["1", [1], 1.5, nan, inf, True, Strange(), 1 << 31, 1 << 64, -(1 << 40), 10**30]
NOT_FLAGS = [0, 1, "yes", 1.0, Strange()]
NOT_STRUCTS = [1, "x", {}, Strange()]


def text(legal: Sequence[Any], odd: Sequence[Any] = (), bad: Sequence[Any] = ()) -> Field:
    return Field([None, *legal], odd, [*NOT_TEXT, *bad])


def name(*legal: str) -> Field:
    return text(legal, (legal[0] + " ", legal[0].upper()), ["", "nonsense", legal[0] + "\0", "%n%s", "x" * 100_000])


def number(legal: Sequence[Any], odd: Sequence[Any] = (), bad: Sequence[Any] = ()) -> Field:
    return Field([None, *legal], odd, [*NOT_NUMBERS, *bad, 1e39, -1e300])


def count(legal: Sequence[Any], odd: Sequence[Any] = (), bad: Sequence[Any] = ()) -> Field:
    return Field([None, *legal], odd, [*NOT_COUNTS, *bad])


def flag(legal: Sequence[Any] = (None, False, True), odd: Sequence[Any] = ()) -> Field:
    return Field(legal, odd, NOT_FLAGS)


def array(*more: Any) -> Field:
    legal = [
        None,
        picture(),
        picture()[..., 0],
        picture(channels=1) / 255,
        Image.new("RGB", (SIZE, SIZE), "red"),
        *more,
    ]
    odd = [
        *(picture(1, 1), picture(7, 300), picture(SIZE, SIZE)[:, ::-1], picture(dtype=bool), picture(300, 2)),
        *(picture(channels=4), Image.new("RGBA", (SIZE, SIZE)), Image.new("I;16", (SIZE, 40)), Image.new("I", (9, 9))),
    ]
    bad = [
        *(picture(channels=number) for number in (2, 5)),
        *(picture(dtype=kind) for kind in (np.float32, np.int8, np.uint16, complex, object)),
        *(picture(0), np.full((SIZE, SIZE), nan), np.zeros(3, np.uint8), np.zeros((1, 8, 8, 3), np.uint8)),
        *([[0]], 7, nan, b"no picture", "/does/not/exist.png", "/", Strange(), (0, 0, 0, 0), (0, 0, 7)),
    ]
    return Field(legal, odd, bad)


PROMPT = text(
    ["a cat", "", "(a:1.2) cat", "[a] ((cat))", "\u732b \U0001f408", "a:1.5)", "(a:b)", "\\(cat\\)", "%n%s%d", "\n\t"],
    [
        "(a:-3)",
        "(cat:.)",
        "(a:+.)",
        "(a:" + "9" * 60 + ")",
        "a " * 2000,
        "(" * 3000,
        "[" * 300 + "]" * 300,
        "(a:1e",
        "\u202e\ufeff\ufffd",
        "<|im_end|>" * 9,
    ],
    ["a\0b", "\0", "\ud800", "(a:1.2.3.)" + "\0", "x" * 60_000],
)
SAMPLERS = name(
    *("euler", "euler_a", "heun", "dpm2", "dpm++2s_a", "dpm++2m", "dpm++2mv2", "ipndm", "ipndm_v", "lcm"),
    *("ddim_trailing", "res_multistep", "res_2s", "er_sde", "dpm++_sde", "dpm++2m_sde", "dpm++3m_sde", "unipc", "deis"),
    "lms",
)
SAMPLERS = Field(SAMPLERS.legal, ["tcd"], SAMPLERS.bad)
SCHEDULERS = name(
    *("discrete", "karras", "exponential", "sgm_uniform", "simple", "smoothstep", "kl_optimal", "lcm", "bong_tangent"),
    "beta",
)
SCHEDULERS = Field(SCHEDULERS.legal, ["gits", "ays"], SCHEDULERS.bad)
STEPS = Field([1, 2, 4, np.int64(2)], (), [*NOT_COUNTS, 0, -1, -(1 << 31), (1 << 31) - 1])
SIDES = Field([16, 32, 48, 64, np.int32(32)], [1, 17, 63], [*NOT_COUNTS, 0, -1, -64, (1 << 31) - 1, 2_000_000])
SCALES = number([1, 1.0, 0, 2.5, np.float32(3)], [-1, 1e-30, 30], [1e30])
SIGMAS = Field(
    [None, [1.0, 0.0], [1.0, 0.5, 0.0], (0.9, 0.1), np.array([1.0, 0.5, 0.0])],
    [[1e-20, 0.0], [1e5, 0.0]],
    [[], [1.0], [nan, 0.0], [1.0, inf, 0.0], [0.0, 0.0], [-1.0, 0.0], [0.0, 1.0], ["a"], [[1.0]], 3, "1,0"],
)
LAYERS = Field([None, [], [0], [0, 1]], [[1, 1]], [[-1], [1 << 31], [1.5], [nan], ["a"], 3, "7", [None]])

TILING = {
    "enabled": flag([True]),
    "tile_size_x": count([0, 16, 32], [4, 8, 1000], [-1, -(1 << 31), (1 << 31) - 1]),
    "tile_size_y": count([0, 16, 32], [4, 8, 1000], [-1]),
    "target_overlap": number([0, 0.25, 0.5], [], [-1, 1.5, 1e30]),
    "rel_size_x": number([0, 0.5, 1, 2], [1e-10, 30], [-1, 1e30]),
    "rel_size_y": number([0, 0.5, 1, 2], [1e-10, 30], [-1]),
}
HIRES = {
    "enabled": flag([True]),
    "upscaler": name("Latent", "Lanczos", "Nearest"),
    "model_path": text([], [], ["/does/not/exist.gguf", "/", "", "a\0b"]),
    "scale": number([1.5, 2], [1], [-1, 1e30, 1e5]),
    "target_width": count([0, 32, 64], [17], [-1, -64, (1 << 31) - 1]),
    "target_height": count([0, 32, 64], [17], [-1]),
    "steps": count([0, 1, 3], [], [-1, -(1 << 31), (1 << 31) - 1]),
    "denoising_strength": number([0.3, 0.7, 1], [0, 1e-9], [-1, 1.5, 1e30]),
    "upscale_tile_size": count([32, 128], [1, 3], [-1, -(1 << 31)]),
}
CACHE = {
    "mode": Field(
        ["easycache", "dbcache", "taylorseer", "cache_dit", "spectrum"], ["disabled", "ucache"], ["", "x", None]
    ),
    "reuse_threshold": number([0, 0.2, 1], [1e9], [-1]),
    "start_percent": number([0, 0.1], [0.15], [-1, 2]),
    "end_percent": number([0.9, 1], [0.15], [-1, 2]),
    "error_decay_rate": number([0, 1], [1e9], [-1]),
    "use_relative_threshold": flag(),
    "reset_error_on_compute": flag(),
    "Fn_compute_blocks": count([0, 1, 8], [1000], [-1, (1 << 31) - 1]),
    "Bn_compute_blocks": count([0, 1, 8], [1000], [-1]),
    "residual_diff_threshold": number([0, 0.1], [1e9], [-1]),
    "max_warmup_steps": count([0, 1, 8], [1000], [-1]),
    "max_cached_steps": count([-1, 1], [0, 1000], [-2]),
    "max_continuous_cached_steps": count([-1, 1], [0, 1000], [-2]),
    "taylorseer_n_derivatives": count([1, 2], [50], [0, -1, 10**6, (1 << 31) - 1]),
    "taylorseer_skip_interval": count([1, 2], [50], [0, -1]),
    "scm_mask": text(["1", "1,1,0,1"], ["", "0,0,0"], ["1,2,x", ",,,", "1,1,0,", "a\0b", "9" * 50, "%n"]),
    "scm_policy_dynamic": flag(),
    "spectrum_w": number([0, 0.5], [1], [-1]),
    "spectrum_m": count([1, 3], [50], [0, -1, 10**6]),
    "spectrum_lam": number([0.1, 1], [0, 1e9], [-1]),
    "spectrum_window_size": count([1, 2], [50], [0, -1]),
    "spectrum_flex_window": number([0.25, 1], [1e9], [-1]),
    "spectrum_warmup_steps": count([0, 1, 4], [1000], [-1]),
    "spectrum_stop_percent": number([0.5, 1], [0], [-1, 2]),
}
SLG = {
    "layers": LAYERS,
    "layer_start": number([0, 0.01], [1], [-1, 2]),
    "layer_end": number([0.2, 1], [0], [-1, 2]),
    "scale": number([0, 2.5], [-1], [1e30]),
}
PHOTOS = {
    "id_images": Field([None], [[]], [[picture()], [picture(channels=4)], [None], 3, "x"]),
    "id_embed_path": text([], [], ["/does/not/exist.bin", "/", "a\0b"]),
    "style_strength": number([20.0], [0, 100], [-1, 101]),
}


@dataclass(frozen=True)
class Unmade:
    """A struct that is still to be made: one with a bad value cannot be."""

    kind: type[Struct]
    values: dict[str, Any]


def made(value: Any) -> Any:
    """Return a value with the structs in it made."""
    if not isinstance(value, Unmade):
        return value
    return value.kind(**{name: made(inner) for name, inner in value.values.items()})


def struct(
    kind: type[Struct], fields: dict[str, Field], others: Sequence[Any] = ()
) -> Callable[[random.Random, float], tuple[Any, bool, bool]]:
    """Draws a struct with some of its fields, and reports whether all are legal, and whether one is bad.

    It may be one of the `others` instead, which are bad.
    """

    def draw(rng: random.Random, badness: float) -> tuple[Any, bool, bool]:
        if others and rng.random() < badness / 2:
            return rng.choice(others), False, True
        values, legal, bad = drawn(fields, rng, rng.choice([1, 1, 2, 4]), badness)
        values.update({key: fields[key].legal[0] for key in ("mode",) if key in fields and key not in values})
        return Unmade(kind, values), legal, bad

    return draw


Draw = Callable[[random.Random, float], tuple[Any, bool, bool]]
Table = dict[str, "Field | Draw"]
STRUCTS: Table = {
    "tiling": struct(Tiling, TILING, NOT_STRUCTS),
    "cache": struct(Cache, CACHE, NOT_STRUCTS),
    "hires": struct(Hires, HIRES, NOT_STRUCTS),
    "slg": struct(SkipLayerGuidance, SLG, NOT_STRUCTS),
}
SAMPLE: Table = {
    "guidance": struct(
        Guidance, {"txt_cfg": SCALES, "img_cfg": SCALES, "distilled_guidance": number([1, 3.5], [0, 30], [-1, 1e30])}
    ),
    "shifted_timestep": count([0], [1, 1000], [-1, 1001]),
    "custom_sigmas": SIGMAS,
    "flow_shift": number([1, 3.0], [0, 100], [-1, 1e30]),
    "scheduler": SCHEDULERS,
    "sample_method": SAMPLERS,
    "sample_steps": STEPS,
    "eta": number([0, 0.5, 1], [5], [-1, 1e30]),
    "guidance_rescale": number([0, 0.7, 1], [], [-0.1, 1.5]),
}
IMAGE: Table = {
    "pm_params": struct(PhotoMaker, PHOTOS),
    "auto_resize_ref_image": flag(),
    "increase_ref_index": flag(),
    "init_image": Field(
        [None, picture()], [picture(1, 1), picture(channels=1)], ["x.png", [[0]], picture(dtype=float)]
    ),
    "sample_params": struct(SampleParams, SAMPLE),  # type: ignore[arg-type]
}
CALL: Table = {
    **STRUCTS,
    "prompt": Field(PROMPT.legal[1:], PROMPT.odd, [*PROMPT.bad, None]),
    "negative_prompt": PROMPT,
    "width": SIDES,
    "height": SIDES,
    "steps": STEPS,
    "cfg_scale": SCALES,
    "guidance": number([1, 3.5], [0, 30], [-1, 1e30]),
    "sampler": SAMPLERS,
    "scheduler": SCHEDULERS,
    "eta": number([0, 0.5, 1], [5], [-1, 1e30]),
    "guidance_rescale": number([0, 0.7, 1], [], [-0.1, 1.5]),
    "seed": Field([None, 0, 7, -1, (1 << 63) - 2, np.int64(3)], [-(1 << 62)], ["7", 1.5, nan, 1 << 63, Strange()]),
    "batch_count": count([1, 2], [], [0, -1, (1 << 31) - 1]),
    "clip_skip": count([1, 2], [-1, 0, 100], [-(1 << 31), (1 << 31) - 1]),
    "comma_backtrack": count([0, 20], [74], [-1, 75]),
    "loras": Field([None, [], ()], [], [7, "x", ["/does/not/exist.safetensors"], [("a", nan)], [None], [Strange()]]),
    "lora_tags": Field([True, False], ["", 0], []),
    "init_image": array(),
    "mask_image": array((0, 0, 8, 8), [1, 1, 2, 2]),
    "mask_blur": number([0, 4], [0.5, 1000], [-1, 1001]),
    "paste_back": flag(),
    "strength": number([0.3, 0.75, 1], [0, 1e-9], [-0.1, 1.1, -5]),
    "control_image": Field([None], [], [*array().bad, picture()]),
    "control_strength": number([0, 0.9], [10], [-1, 1e30]),
    "ref_images": Field(
        [None, [], [picture(64, 64)]], [[picture(70, 90)], [picture(4, 4)], [picture(1, 999)]], [[7], 7]
    ),
    "resize": Field(["error", "fit", "crop", "pad", "stretch"], [], ["", "zoom", None, 7, ["fit"]]),
    "alpha": Field(
        ["refuse", "ignore", "white", "#808080", (1, 2, 3)], [], ["", "nowhite", None, 7, (1, 2), (1, 2, 999)]
    ),
    "params": struct(ImageParams, IMAGE, NOT_STRUCTS),  # type: ignore[arg-type]
    "preview": name("proj", "tae"),
    "preview_interval": Field([1, 3], [], ["1", 0, -1, 1.5, True, None]),
    "timeout": Field([None, 60, 9.5], [], [-1, nan, inf, "1", True]),
    "no_such": Field([], [], [1]),
}
FILE = text([], [], ["/does/not/exist.gguf", "/", "", "a\0b", "x" * 5000])
CONTEXT: Table = {
    "chroma_t5_mask_pad": count([0, 1], [1000], [-1, (1 << 31) - 1]),
    "max_vram": number([0], [4.5], [-1]),
    "vae_decode_only": Field([False], [True], flag().bad),  # newer engines cannot leave the encoder out
    "wtype": name("f32", "f16", "q8_0"),
    "embeddings": Field([None, []], [], [7, [7], [Embedding(name="a", path="/does/not/exist.bin")], "x"]),
}
ENGINE: Table = {
    **dict.fromkeys(("model", "vae", "clip_l", "t5xxl", "control_net", "photo_maker", "llm_vision"), FILE),
    **dict.fromkeys(("taesd", "llm"), Field([], [None], FILE.bad)),
    "type": Field(
        [None, "f32", "f16", "bf16", "q8_0", "q4_0", "q4_K", "tq2_0"],
        ["mxfp4", "nvfp4", "tq1_0"],  # to the iq types it takes longer than a case may
        ["q8_1", "q8_K", "i8", "i32", "i64", "f64", "q9", "", 8, b"f16", "COUNT"],
    ),
    "tensor_type_rules": text(
        ["double=q8_0", "^model.*weight=f16,img=q4_0", ""],
        [",", "a=f16,"],
        ["[=f16", "(=f16", "*=f16", "x", "x=q9", "x=q8_1", "a\0=f16", "(" * 5000 + "=f16", "(a*)*{99999}=f16"],
    ),
    "threads": count([1, 2], [3], [0, -1, 10_000]),
    "lora_apply_mode": name("auto", "immediately", "at_runtime"),
    "rng": name("std_default", "cuda", "cpu"),
    "sampler_rng": name("std_default", "cuda", "cpu"),
    "prediction": Field([None], ["eps", "v", "sd3_flow", "flux_flow", "flux2_flow", "edm_v"], ["", "x", 7]),
    "mmap": flag(),
    "fa": flag(),
    "diffusion_fa": flag(),
    "offload_to_cpu": flag(),
    "clip_on_cpu": flag(),
    "vae_on_cpu": flag(),
    "context": struct(ContextParams, CONTEXT),  # type: ignore[arg-type]
    "embeddings": Field([None, {}], [], [7, {"a": "/does/not/exist.bin"}, {7: "/"}, ["a"]]),
    "lora_dir": Field([None, "/tmp"], [], ["/does/not/exist", "", 7, "a\0b"]),
    "lora_cache": Field([0, 1 << 20], [], [-1, 1.5, "1", None, 1 << 80]),
    "memory_check": Field(["warn", "off"], ["strict"], ["", None, 7]),
    "load_weights": Field([True, False], [], []),
    "backend": Field(["cpu"], ["auto"], ["abacus", "", 7, None, "../cpu", "c\0pu"]),
    "library": Field([None], [], ["/does/not/exist", "/", 7, ""]),
    "restart": Field(["auto", "never"], [], ["", None, 7]),
    "grace": Field([1.0, 5], [0], [-1, nan, inf, "1", None]),
    "no_such": Field([], [], [1]),
}


def drawn(table: Any, rng: random.Random, most: int, badness: float) -> tuple[dict[str, Any], bool, bool]:
    """Values of some of a table's fields; whether all are legal, and whether one is bad."""
    values: dict[str, Any] = {}
    all_legal, any_bad = True, False
    for key in rng.sample(sorted(table), min(most, len(table))):
        field = table[key]
        if not isinstance(field, Field):
            values[key], legal, bad = field(rng, badness)
        else:
            share = rng.random()
            bad = bool(field.bad) and (share < badness or not (field.legal or field.odd))
            legal = not bad and bool(field.legal) and (share > 2 * badness or not field.odd)
            values[key] = rng.choice(field.bad if bad else field.legal if legal else field.odd)
        all_legal, any_bad = all_legal and legal, any_bad or bad
    return values, all_legal, any_bad
