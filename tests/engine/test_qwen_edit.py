"""What Qwen2.5-VL makes of a prompt and of the image that Qwen-Image-Edit refers to, against numpy's and Pillow's.

The blocks of the part that looks at images change nothing here, since the engine fixes their number at 32; what is
before and behind them is random.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import text_shapes
import wan_model
from conditions import text_conditions
from families import qwen_image
from language_models import Rotation, image_positions, states
from PIL import Image
from safetensors import safe_open
from sparse import Shapes, write_random

Array = npt.NDArray[Any]
WIDTH, SEEN, PATCH = 3584, 1280, 14
PROMPT = "a cat on a red chair"
TOKENS = json.loads((Path(__file__).parents[1] / "data/prompt_tokens.json").read_text("utf-8"))
BEFORE, AFTER = TOKENS["qwen edit, up to the image"], TOKENS["qwen edit, behind it"]
IMAGE_PAD = 151655


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    place = tmp_path_factory.mktemp("edit")
    shapes = Shapes(text_shapes.qwen2_vl())
    shapes["visual.patch_embed.proj.weight"] = (SEEN, 3, 2, PATCH, PATCH)
    shapes.norms(SEEN, "visual.merger.ln_q.weight")
    shapes.linear("visual.merger.mlp.0", 4 * SEEN, 4 * SEEN)
    shapes.linear("visual.merger.mlp.2", WIDTH, 4 * SEEN)
    blocks = wan_model.Weights(0, wan_model.Q2_K)
    for i in range(32):
        for name, out, inp in (("attn.qkv", 3 * SEEN, SEEN), ("attn.proj", SEEN, SEEN)):
            blocks.tensors[f"blocks.{i}.{name}.weight"] = (out, inp)
            blocks.tensors[f"blocks.{i}.{name}.bias"] = np.zeros(out, np.float32)
        for name, out, inp in (("gate_proj", 3420, SEEN), ("up_proj", 3420, SEEN), ("down_proj", SEEN, 3420)):
            shape = (out, inp)
            blocks.tensors[f"blocks.{i}.mlp.{name}.weight"] = shape if inp == SEEN else np.zeros(shape, np.float16)
            blocks.tensors[f"blocks.{i}.mlp.{name}.bias"] = np.zeros(out, np.float32)
        for name in ("norm1", "norm2"):
            blocks.tensors[f"blocks.{i}.{name}.weight"] = np.zeros(SEEN, np.float32)
    llm = write_random(shapes, place / "llm.safetensors", width=WIDTH)
    vision = blocks.write(place / "vision.gguf")
    return {**qwen_image(place).engine, "llm": llm, "llm_vision": vision}


def seen(weights: Mapping[str, Array], image: Array) -> tuple[Array, int, int]:
    """Tokens of an image whose larger side is twice the other, their rows and their columns."""
    small = Image.fromarray(image).resize((544, 256), Image.Resampling.LANCZOS)
    pixels = np.asarray(small.resize((532, 252), Image.Resampling.BICUBIC)) / 255
    pixels = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    rows, columns = 252 // 28, 532 // 28
    patches = pixels.reshape(rows, 2, PATCH, columns, 2, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    kernel = weights["visual.patch_embed.proj.weight"].astype(np.float64).sum(2).reshape(SEEN, -1)
    x = patches.reshape(rows * columns * 4, -1) @ kernel.T
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weights["visual.merger.ln_q.weight"]
    x = x.reshape(rows * columns, -1) @ weights["visual.merger.mlp.0.weight"].astype(np.float64).T
    x = x + weights["visual.merger.mlp.0.bias"]
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    x = x @ weights["visual.merger.mlp.2.weight"].astype(np.float64).T + weights["visual.merger.mlp.2.bias"]
    return x, rows, columns


@pytest.mark.slow
def test_image_among_the_text(files: Mapping[str, Any]) -> None:
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (16, 34, 3), np.uint8), np.ones((25, 25, 1), np.uint8))
    with safe_open(files["llm"], "np") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    tokens_of_image, rows, columns = seen(weights, image)
    count = len(tokens_of_image)
    tokens = np.array([*BEFORE, *[IMAGE_PAD] * count, *AFTER])
    text = {name: value for name, value in weights.items() if not name.startswith("visual.")}
    expected = states(
        text,
        tokens,
        Rotation(1e6, sections=(16, 24, 24)),
        positions=image_positions(len(tokens), {len(BEFORE): (rows, columns)}),
        images={len(BEFORE): tokens_of_image},
    )[64:]
    (found,) = text_conditions(files, [PROMPT], [image])
    assert found.shape == expected.shape
    assert 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()) > 35
