"""Strengths of parts and blocks of a LoRA, and the tags and arguments that give them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sdcffi import ImageParams, Lora
from sdcffi._records.infotext import infotext
from sdcffi.parameter_files import as_arguments, parse_lora
from sdcffi.params.lora_tags import Tag, add_weights, parse_tags
from sdcffi.params.lora_weights import Weights, check_weights
from sdcffi.params.plain import decode, detach, encode

UNET = "model.diffusion_model."
CLIP_L, CLIP_G = "cond_stage_model.transformer.x.weight", "cond_stage_model.1.transformer.x.weight"
T5 = "text_encoders.t5xxl.transformer.x.weight"


def of(weights: Any, weight: str, module: str = "m") -> float:
    return Weights(weights, "weights").of(weight, module)


# Parts.


@pytest.mark.parametrize(
    ("weights", "weight", "strength"),
    [
        (None, f"{UNET}x.weight", 1.0),
        ({"unet": 0.5}, f"{UNET}x.weight", 0.5),
        ({"transformer": 0.5}, f"{UNET}x.weight", 0.5),
        ({"unet": 0.5}, "model.high_noise_diffusion_model.x.weight", 0.5),
        ({"transformer": 0.5, "transformer_2": 2}, "model.high_noise_diffusion_model.x.weight", 2.0),
        ({"unet": 0.5}, CLIP_L, 1.0),
        ({"te": 0.5}, f"{UNET}x.weight", 1.0),
        ({"te": 0.5}, CLIP_L, 0.5),
        ({"te": 0.5}, CLIP_G, 0.5),
        ({"te": 0.5}, T5, 0.5),
        ({"te": 0.5}, "text_encoders.llm.x.weight", 0.5),
        ({"te": 0.5, "text_encoder_2": 2}, CLIP_G, 2.0),
        ({"text_encoder": 2}, CLIP_L, 2.0),
        ({"text_encoder": 2}, CLIP_G, 1.0),
        ({"text_encoder_3": 2}, T5, 2.0),
        ({"text_encoder_2": 2}, T5, 2.0),
        ({"vae": 3}, "first_stage_model.x.weight", 3.0),
    ],
)
def test_a_part_has_its_strength(weights: Any, weight: str, strength: float) -> None:
    assert of(weights, weight) == strength


@pytest.mark.parametrize(("module", "strength"), [("text_encoder.x", 5.0), ("lora_te2_x", 7.0), ("lora_te_x", 5.0)])
def test_a_text_encoder_is_the_one_that_the_file_says(module: str, strength: float) -> None:
    assert of({"text_encoder": 5, "text_encoder_2": 7}, T5, module) == strength


# Blocks as in diffusers' dictionaries.

BLOCKS = {"unet": {"down": {"block_1": [2, 3]}, "mid": 4, "up": 5}}


@pytest.mark.parametrize(
    ("weights", "weight", "strength"),
    [
        (BLOCKS, "input_blocks.0.0.weight", 1.0),
        (BLOCKS, "input_blocks.1.1.proj_in.weight", 1.0),
        (BLOCKS, "input_blocks.4.1.proj_in.weight", 2.0),
        (BLOCKS, "input_blocks.5.1.proj_in.weight", 3.0),
        (BLOCKS, "input_blocks.6.0.op.weight", 2.0),
        (BLOCKS, "input_blocks.7.1.proj_in.weight", 1.0),
        (BLOCKS, "middle_block.1.proj_in.weight", 4.0),
        (BLOCKS, "output_blocks.0.1.proj_in.weight", 5.0),
        (BLOCKS, "time_embed.0.weight", 1.0),
        ({"unet": {"down": 0.5}}, "input_blocks.1.1.proj_in.weight", 0.5),
        ({"unet": {"down": 0.5}}, "output_blocks.1.1.proj_in.weight", 1.0),
        ({"unet": {"up": {"block_1": [1, 2, 3]}}}, "output_blocks.5.1.proj_in.weight", 3.0),
        ({"unet": {"up": {"block_0": [0.5]}}}, "output_blocks.2.1.proj_in.weight", 0.5),
        ({"transformer": {"single_blocks": 0.5}}, "single_blocks.3.linear1.weight", 0.5),
        ({"transformer": {"single_blocks": 0.5}}, "double_blocks.3.img_mlp.0.weight", 1.0),
        ({"transformer": {"double_blocks.1": 0.5}}, "double_blocks.1.img_mlp.0.weight", 0.5),
        ({"transformer": {"double_blocks.1": 0.5}}, "double_blocks.11.img_mlp.0.weight", 1.0),
    ],
)
def test_a_block_has_its_strength(weights: Any, weight: str, strength: float) -> None:
    assert of(weights, UNET + weight) == strength


def test_blocks_go_by_the_file_s_names_too() -> None:
    weights = Weights({"transformer": {"transformer_blocks.1": 0.5}}, "weights")
    assert weights.of(f"{UNET}double_blocks.1.x.weight", "transformer.transformer_blocks.1.attn.to_q") == 0.5
    weights.check_matched()
    with pytest.raises(ValueError, match=r"no layer of the LoRA is in 'a' of unet"):
        Weights({"unet": {"a": 1}}, "weights").check_matched()


def test_a_list_is_as_long_as_its_block() -> None:
    with pytest.raises(ValueError, match="a number for each of its layers"):
        of({"unet": {"up": {"block_0": [1, 2]}}}, f"{UNET}output_blocks.2.1.proj_in.weight")


# Lists of sd-webui-lora-block-weight.

TWELVE = ",".join(map(str, range(12)))
SEVENTEEN = ",".join(map(str, range(17)))
TWENTY = ",".join(map(str, range(20)))
TWENTY_SIX = ",".join(map(str, range(26)))
FLUX = ",".join(map(str, range(61)))
FLUX_BLOCKS = ",".join(map(str, range(57)))


@pytest.mark.parametrize(
    ("lbw", "weight", "strength"),
    [
        (SEVENTEEN, CLIP_L, 0),
        (SEVENTEEN, f"{UNET}input_blocks.1.1.x.weight", 1),
        (SEVENTEEN, f"{UNET}input_blocks.8.1.x.weight", 6),
        (SEVENTEEN, f"{UNET}middle_block.1.x.weight", 7),
        (SEVENTEEN, f"{UNET}output_blocks.3.1.x.weight", 8),
        (SEVENTEEN, f"{UNET}output_blocks.11.1.x.weight", 16),
        (SEVENTEEN, f"{UNET}input_blocks.3.0.op.weight", 0),
        (SEVENTEEN, f"{UNET}time_embed.0.weight", 1),
        (TWELVE, CLIP_G, 0),
        (TWELVE, f"{UNET}input_blocks.4.1.x.weight", 1),
        (TWELVE, f"{UNET}output_blocks.0.1.x.weight", 6),
        (TWELVE, f"{UNET}output_blocks.6.0.x.weight", 0),
        (TWENTY, f"{UNET}input_blocks.0.0.weight", 1),
        (TWENTY, f"{UNET}output_blocks.8.0.x.weight", 19),
        (TWENTY_SIX, f"{UNET}input_blocks.11.0.x.weight", 12),
        (TWENTY_SIX, f"{UNET}output_blocks.11.1.x.weight", 25),
        (FLUX, CLIP_L, 0),
        (FLUX, T5, 1),
        (FLUX, f"{UNET}img_in.weight", 2),
        (FLUX, f"{UNET}vector_in.in_layer.weight", 2),
        (FLUX, f"{UNET}double_blocks.18.img_attn.qkv.weight", 21),
        (FLUX, f"{UNET}single_blocks.0.linear1.weight", 22),
        (FLUX, f"{UNET}final_layer.linear.weight", 60),
        (FLUX_BLOCKS, f"{UNET}double_blocks.0.img_attn.qkv.weight", 0),
        (FLUX_BLOCKS, f"{UNET}single_blocks.37.linear1.weight", 56),
        (FLUX_BLOCKS, T5, 1),
        ("NONE", f"{UNET}double_blocks.0.x.weight", 0),
        ("ALL0.5", CLIP_L, 0.5),
        ("INS", f"{UNET}input_blocks.4.1.x.weight", 1),
        ("INS", f"{UNET}input_blocks.5.1.x.weight", 0),
        ("IND", f"{UNET}input_blocks.5.1.x.weight", 1),
        ("INALL", f"{UNET}middle_block.1.x.weight", 0),
        ("MIDD", f"{UNET}middle_block.1.x.weight", 1),
        ("OUTD", f"{UNET}output_blocks.6.1.x.weight", 1),
        ("OUTD", f"{UNET}output_blocks.7.1.x.weight", 0),
        ("OUTS", f"{UNET}output_blocks.7.1.x.weight", 1),
        ("OUTALL", f"{UNET}input_blocks.1.1.x.weight", 0),
    ],
)
def test_a_list_has_a_number_for_each_block(lbw: str, weight: str, strength: float) -> None:
    assert of(lbw, weight) == strength
    assert of({"lbw": lbw, "te": 2, "unet": 3}, weight) == strength * (3 if "diffusion" in weight else 2)


@pytest.mark.parametrize(
    ("lbw", "weight"),
    [
        ("INS", f"{UNET}double_blocks.0.img_attn.qkv.weight"),
        ("INS", f"{UNET}blocks.0.self_attn.q.weight"),
        (FLUX, f"{UNET}input_blocks.4.1.x.weight"),
    ],
)
def test_a_list_for_another_model_is_refused(lbw: str, weight: str) -> None:
    with pytest.raises(ValueError, match="is for the blocks of"):
        of(lbw, weight)


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        (0.5, TypeError, "must be a mapping"),
        ("SOME", ValueError, "neither one of NONE"),
        ("1,2,3", ValueError, "neither one of NONE"),
        (SEVENTEEN.replace("3", "R"), ValueError, "neither one of NONE"),
        ({"nose": 1}, ValueError, "no part 'nose'"),
        ({"unet": "1"}, TypeError, "must be a number"),
        ({"unet": True}, TypeError, "must be a number"),
        ({"unet": math.inf}, ValueError, "must be finite"),
        ({"te": {"down": 1}}, TypeError, "must be a number"),
        ({"unet": {"down": {"blok_0": 1}}}, ValueError, "no block 'blok_0'"),
        ({"lbw": 1}, TypeError, "must be a preset"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check_weights(weights, "weights")


# Tags.


@pytest.mark.parametrize(
    ("text", "multiplier", "weights"),
    [
        ("0.5", 0.5, None),
        ("0.8:0.5", 1.0, {"unet": 0.8, "te": 0.5}),
        ("te=0:unet=1", 1.0, {"unet": 1.0, "te": 0.0}),
        ("0.8:te=0", 1.0, {"unet": 0.8, "te": 0.0}),
        ("1:lbw=OUTALL", 1.0, "OUTALL"),
        ("0.5:0:lbw=OUTALL", 1.0, {"unet": 0.5, "te": 0.0, "lbw": "OUTALL"}),
        (f"0.5:lbw={SEVENTEEN}", 0.5, SEVENTEEN),
    ],
)
def test_a_tag_may_have_strengths_of_parts(text: str, multiplier: float, weights: Any) -> None:
    assert parse_tags(f"a <lora:foo:{text}> cat") == ("a  cat", [Tag("foo", multiplier, False, weights)])


@pytest.mark.parametrize("text", ["1:1:1", "1:x=2", "te=1:te=2", "1:lbw=NO", "te=x", "te=1:2", "1:", "1:start=5"])
def test_a_tag_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"of <lora:foo:"):
        parse_tags(f"<lora:foo:{text}>")


def test_strengths_of_one_adapter_add_up() -> None:
    assert add_weights((1, None), (0.5, None), "a") == (1.5, None)
    assert add_weights((1, "OUTALL"), (0.5, "OUTALL"), "a") == (1.5, "OUTALL")
    assert add_weights((2, None), (1, {"unet": 0.5, "te": 0}), "a") == (1, {"unet": 2.5, "te": 2})
    with pytest.raises(ValueError, match="different strengths of blocks"):
        add_weights((1, None), (1, "OUTALL"), "a")
    with pytest.raises(ValueError, match="different strengths of blocks"):
        add_weights((1, None), (1, {"unet": {"mid": 1}}), "a")


# Arguments, files and records.


def test_an_argument_may_have_them(tmp_path: Path) -> None:
    assert parse_lora("a.safetensors:0.5") == Lora("a.safetensors", 0.5)
    assert parse_lora("a.safetensors:lbw=INS") == Lora("a.safetensors", weights="INS")
    assert parse_lora("a.safetensors:0.5:0") == Lora("a.safetensors", 1.0, weights={"unet": 0.5, "te": 0.0})
    assert parse_lora("C:a.safetensors:1:lbw=INS") == Lora("C:a.safetensors", 1.0, weights="INS")
    assert parse_lora("C:a.safetensors") == Lora("C:a.safetensors")
    named = tmp_path / "a:0.5"
    named.touch()
    assert parse_lora(str(named)) == Lora(str(named))
    assert infotext("a cat", "", [Lora("a.safetensors")], {}) == "a cat <lora:a:1>"


@pytest.mark.parametrize("weights", [BLOCKS, "OUTALL", {"unet": 0.5, "te": 0.0, "lbw": "INS"}])
def test_they_go_through_json_unchanged(weights: Any) -> None:
    lora = Lora("a.safetensors", 0.5, weights=check_weights(weights, "weights"))
    params = ImageParams(loras=[lora])
    assert decode(ImageParams, json.loads(json.dumps(encode(params))), "x").loras == [lora]
    detached, files, _ = detach(params)  # as in a record
    assert decode(ImageParams, json.loads(json.dumps(encode(detached))), "x").loras == [lora]
    assert list(files) == ["loras[0].path"]
    table = {"loras": [{"path": "a.safetensors", "multiplier": 0.5, "weights": weights}]}
    (read,) = as_arguments(json.loads(json.dumps(table))).generate["params"].loras
    assert check_weights(read.weights, "weights") == lora.weights
    assert hash(lora) == hash(Lora("a.safetensors", 0.5))


@pytest.mark.parametrize(
    ("lora", "tag"),
    [
        (Lora("a.safetensors", 0.5), "<lora:a:0.5>"),
        (Lora("a.safetensors", 2.0, weights={"unet": 0.5, "te": 0.25}), "<lora:a:1:0.5>"),
        (Lora("a.safetensors", 0.5, weights="INS"), "<lora:a:0.5:lbw=INS>"),
        (Lora("a.safetensors", 1.0, weights={"unet": 0.5, "te": 0.0, "lbw": "INS"}), "<lora:a:0.5:0:lbw=INS>"),
        (Lora("a.safetensors", 0.5, weights={"unet": {"mid": 1.0}}), "<lora:a:0.5>"),
    ],
)
def test_the_text_in_an_image_has_those_of_parts(lora: Lora, tag: str) -> None:
    assert infotext("a cat", "", [lora], {}) == f"a cat {tag}"
