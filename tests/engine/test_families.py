"""Each family's small model generates, and its weights have an effect: adapters are tried on them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from families import FAMILIES, FamilyModel
from sparse import changed

from sdcffi import Engine

QUICK = ("flux", "ovis", "flux2", "ernie")  # under a second
Pixels = npt.NDArray[Any]

# A weight of each kind of block, as the file names it; "llm:" and "clip_l:" are in the text encoder's.
WEIGHTS = {
    "sd1": ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",),
    "sd2": ("cond_stage_model.model.transformer.resblocks.3.attn.in_proj_weight",),
    "sdxl": ("conditioner.embedders.0.transformer.text_model.encoder.layers.3.self_attn.v_proj.weight",),
    "sd3": ("joint_blocks.0.x_block.attn2.qkv.weight",),
    "flux": (
        *("img_in.weight", "guidance_in.in_layer.weight", "vector_in.out_layer.weight"),
        *("double_blocks.1.txt_attn.qkv.weight", "double_blocks.0.img_mod.lin.weight"),
        *("single_blocks.1.linear1.weight", "final_layer.adaLN_modulation.1.weight"),
        "clip_l:text_model.encoder.layers.3.mlp.fc2.weight",
    ),
    "chroma": ("distilled_guidance_layer.layers.2.in_layer.weight", "double_blocks.0.txt_mlp.0.weight"),
    "flux2": (
        *("txt_in.weight", "time_in.in_layer.weight", "double_stream_modulation_txt.lin.weight"),
        *("double_blocks.1.img_mlp.2.weight", "single_blocks.0.linear2.weight"),
    ),
    "ovis": (
        *("double_blocks.0.img_mlp.gate_proj.weight", "double_blocks.1.txt_attn.qkv.weight"),
        *("single_blocks.0.linear1.weight", "txt_in.weight", "llm:model.layers.0.self_attn.q_proj.weight"),
    ),
    "qwen_image": (
        *("transformer_blocks.0.attn.add_k_proj.weight", "transformer_blocks.0.img_mlp.net.0.proj.weight"),
        "llm:model.layers.0.self_attn.v_proj.weight",
    ),
    "z_image": ("context_refiner.0.attention.qkv.weight",),
    "anima": ("net.blocks.0.cross_attn.v_proj.weight", "net.llm_adapter.blocks.5.mlp.2.weight"),
    "ernie": (
        *("layers.1.self_attention.to_v.weight", "layers.0.mlp.up_proj.weight", "adaLN_modulation.1.weight"),
        "text_proj.weight",
    ),
    "wan_t2v": ("blocks.0.ffn.0.weight",),
    "wan_i2v": ("blocks.0.cross_attn.k_img.weight",),
    "wan_ti2v": ("blocks.0.self_attn.v.weight",),
}
CASES = [
    pytest.param(family, name, id=f"{family}-{name}", marks=() if family in QUICK[:1] else pytest.mark.slow)
    for family, names in WEIGHTS.items()
    for name in names
]


@pytest.fixture(scope="module")
def model_of() -> Iterator[Callable[[str], tuple[FamilyModel, Pixels]]]:
    """A family's model and the image that it makes; the files of all are gone afterwards, for they are many."""
    made: dict[str, tuple[FamilyModel, Pixels]] = {}
    with tempfile.TemporaryDirectory() as directory:

        def model_of(family: str) -> tuple[FamilyModel, Pixels]:
            if family not in made:
                place = Path(directory) / family
                place.mkdir()
                model = FAMILIES[family](place)
                made[family] = model, generate(model)
            return made[family]

        yield model_of


def generate(model: FamilyModel) -> Pixels:
    with Engine(**model.engine, threads=2, backend="cpu") as engine:
        if model.is_video:
            return np.asarray(engine.generate_video("a cat", **model.call).frames[0]).astype(int)
        return np.asarray(engine.generate("a cat", **model.call).images[0]).astype(int)


@pytest.mark.parametrize(
    "family", [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
)
def test_model_generates_an_image_of_many_values(
    family: str, model_of: Callable[[str], tuple[FamilyModel, Pixels]]
) -> None:
    _, image = model_of(family)
    assert image.std() > 10
    assert np.isin(image, (0, 255)).mean() < 0.1


@pytest.mark.parametrize(("family", "name"), CASES)
def test_weight_has_an_effect(family: str, name: str, model_of: Callable[[str], tuple[FamilyModel, Pixels]]) -> None:
    model, image = model_of(family)
    part, _, tensor = name.rpartition(":")
    path = model.text[part] if part else model.weights
    prefix = "" if part or model.prefix or tensor.startswith(("model.", "cond")) else "model.diffusion_model."
    with changed(path, prefix + tensor):
        assert np.abs(generate(model) - image).max() >= 4


def test_every_family_has_a_weight_here() -> None:
    assert set(WEIGHTS) == set(FAMILIES)
