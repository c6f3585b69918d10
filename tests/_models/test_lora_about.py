"""What a LoRA file says about itself, and the family of models that it was made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from header_files import Shapes, write

from sdcffi._models.lora_about import about, made_for
from sdcffi._models.lora_file import LoraFile, read_lora
from sdcffi.engine.lora_policy import describe_other_base


def pair(module: str, rows: int = 8, columns: int = 8) -> Shapes:
    return {f"{module}.lora_A.weight": (2, columns), f"{module}.lora_B.weight": (rows, 2)}


def kohya(module: str, rows: int = 8, columns: int = 8) -> Shapes:
    return {f"{module}.lora_down.weight": (2, columns), f"{module}.lora_up.weight": (rows, 2)}


def read(folder: Path, shapes: Shapes, metadata: dict[str, str] | None = None) -> LoraFile:
    return read_lora(write(folder / "a.safetensors", shapes, metadata=metadata))


DOUBLE = pair("transformer.transformer_blocks.0.attn.add_q_proj") | pair(
    "transformer.single_transformer_blocks.0.attn.to_q"
)


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        (pair("transformer.blocks.0.attn1.to_q"), "wan"),
        (pair("blocks.0.attn2.add_k_proj"), "wan"),
        (kohya("lora_unet_blocks_0_attn1_to_q"), "wan"),
        (kohya("lora_unet_blocks_0_cross_attn_q"), "wan"),
        (kohya("lora_unet_blocks_0_ffn_0"), "wan"),
        (pair("transformer.condition_embedder.time_proj"), "wan"),
        (kohya("lora_unet_blocks_0_cross_attn_q_proj"), "anima"),
        (pair("diffusion_model.blocks.0.self_attn.output_proj"), "anima"),
        (pair("diffusion_model.blocks.0.mlp.layer1"), "anima"),
        (pair("transformer.transformer_blocks.0.norm1.linear_1"), "anima"),
        (pair("transformer.transformer_blocks.0.attn2.to_k", columns=1024), "anima"),
        (pair("text_conditioner.blocks.0.cross_attn.q_proj"), "anima"),
        (pair("transformer.layers.0.self_attention.to_q"), "ernie_image"),
        (pair("diffusion_model.layers.0.mlp.linear_fc2"), "ernie_image"),
        (pair("transformer.layers.0.attention.to_q"), "z_image"),
        (kohya("lora_unet_noise_refiner_0_attention_qkv"), "z_image"),
        (kohya("lora_unet_double_blocks_0_img_mlp_gate_proj"), "ovis_image"),
        (DOUBLE | pair("transformer.transformer_blocks.0.ff.net.0.proj", 64, 8), "ovis_image"),
        (pair("transformer.single_transformer_blocks.0.proj_mlp", 64, 8), "ovis_image"),
        (DOUBLE | pair("transformer.distilled_guidance_layer.layers.0.linear_1"), "chroma"),
        (DOUBLE | pair("transformer.time_text_embed.text_embedder.linear_1"), "flux"),
        (pair("transformer.transformer_blocks.0.ff.linear_in"), "flux2"),
        (DOUBLE, None),
        (pair("text_encoder.model.layers.0.mlp.gate_proj"), None),
        (pair("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"), "sd1"),
    ],
)
def test_families_are_told_by_names_and_sizes(shapes: Shapes, family: str | None, tmp_path: Path) -> None:
    assert made_for(read(tmp_path, shapes)) == family


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"modelspec.architecture": "chroma/lora"}, "chroma"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "flux"),
        ({"modelspec.architecture": "Flux.2-dev/lora"}, "flux2"),
        ({"ss_base_model_version": "flux1"}, "flux"),
        ({"base_model_name_or_path": "AIDC-AI/Ovis-Image-7B"}, "ovis_image"),
        ({"ss_base_model_version": "unheard of"}, None),
    ],
)
def test_metadata_decide_where_names_are_those_of_several(
    metadata: dict[str, str], family: str | None, tmp_path: Path
) -> None:
    assert made_for(read(tmp_path, DOUBLE, metadata)) == family
    wan = read(tmp_path, pair("blocks.0.attn1.to_q"), metadata)
    assert made_for(wan) == "wan"


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("stable-diffusion-v1/lora", "sd1"),
        ("sd_v2_768_v", "sd2"),
        ("stable-diffusion-3-medium", "sd3"),
        ("sdxl_base_v1-0", "sdxl"),
        ("ponyDiffusionV6XL", "sdxl"),
        ("runwayml/stable-diffusion-v1-5", "sd1"),
        ("black-forest-labs/FLUX.2-klein-4B", "flux2"),
        ("Qwen/Qwen-Image-Edit", "qwen_image"),
        ("Tongyi-MAI/Z-Image-Turbo", "z_image"),
        ("wan2.1-t2v", "wan"),
        ("anima-preview", "anima"),
        ("swan lake", None),
    ],
)
def test_a_base_model_s_name_says_its_family(text: str, family: str | None, tmp_path: Path) -> None:
    unknown = pair("unet.down_blocks.1.attentions.0.proj_in")
    assert made_for(read(tmp_path, unknown, {"modelspec.architecture": text})) == family


def test_another_base_is_described_with_the_evidence(tmp_path: Path) -> None:
    wan = read(tmp_path, pair("blocks.0.attn1.to_q"))
    text = describe_other_base(wan, "flux")
    assert str(tmp_path / "a.safetensors") in text
    assert "made for wan (it has blocks.0.attn1.to_q)" in text
    assert "this model is flux" in text
    for family in ("wan", "wan_ti2v", None):
        assert describe_other_base(wan, family) == ""
    assert describe_other_base(read(tmp_path, DOUBLE), "sdxl") == "", "nothing is known for certain"
    named = read(tmp_path, DOUBLE, {"modelspec.architecture": "chroma"})
    assert "modelspec.architecture is chroma" in describe_other_base(named, "flux")
    sd1 = read(tmp_path, pair("unet.up_blocks.3.attentions.0.proj_in"))
    assert describe_other_base(sd1, "sd") == ""
    assert "made for sd1" in describe_other_base(sd1, "sd2")


# Words, tags and tools.


def test_trigger_words_and_tags_are_read(tmp_path: Path) -> None:
    tags = {"10_cat": {"cat": 5, " hat": 2}, "2_dog": {"dog": 3, "hat": 2}}
    metadata = {
        "modelspec.trigger_phrase": "a photo of sks, cat",
        "trained_words": json.dumps(["sks", "cat"]),
        "trigger_word": "sks, hat",
        "ss_tag_frequency": json.dumps(tags),
    }
    found = about(read(tmp_path, DOUBLE, metadata))
    assert found.trigger_words == ("a photo of sks, cat", "sks", "hat", "cat")
    assert list(found.tags.items()) == [("cat", 5), ("hat", 4), ("dog", 3)]


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '{"a": {"b": "c"}}'])
def test_tags_that_are_damaged_are_passed_over(text: str, tmp_path: Path) -> None:
    assert about(read(tmp_path, DOUBLE, {"ss_tag_frequency": text})).tags == {}


@pytest.mark.parametrize(
    ("shapes", "metadata", "tool"),
    [
        (DOUBLE, {"software": json.dumps({"name": "ai-toolkit", "version": "0.1.0"})}, "ai-toolkit 0.1.0"),
        (
            kohya("lora_unet_x"),
            {"ss_sd_scripts_commit_hash": "a", "ss_network_module": "networks.lora"},
            "kohya sd-scripts",
        ),
        (
            kohya("lora_unet_x"),
            {"ss_sd_scripts_commit_hash": "a", "ss_network_module": "lycoris.kohya"},
            "kohya sd-scripts with LyCORIS",
        ),
        (kohya("lora_unet_x"), {"ss_network_module": "networks.lora_wan"}, "kohya musubi-tuner or sd-scripts"),
        (kohya("lora_transformer_x"), {"ot_revision": "a"}, "OneTrainer"),
        (pair("base_model.model.x"), {}, "PEFT"),
        (DOUBLE, {"lora_adapter_metadata": "{}"}, "diffusers"),
        (pair("lycoris_x"), {}, "LyCORIS"),
        (
            {f"double_blocks.0.processor.qkv_lora1.{side}.weight": (2, 2) for side in ("up", "down")},
            {},
            "XLabs",
        ),
        (pair("something.else"), {}, None),
    ],
)
def test_the_tool_is_told(shapes: Shapes, metadata: dict[str, str], tool: str | None, tmp_path: Path) -> None:
    assert about(read(tmp_path, shapes, metadata)).tool == tool


def test_an_alpha_that_nobody_reads_is_named(tmp_path: Path) -> None:
    notes = {"ss_network_alpha": "1", "ss_network_dim": "4"}
    assert about(read(tmp_path, DOUBLE, notes)).unread_alpha == "ss_network_alpha 1 / ss_network_dim 4"
    alpha: Shapes = {"transformer.single_transformer_blocks.0.attn.to_q.alpha": ()}
    assert about(read(tmp_path, DOUBLE | alpha, notes)).unread_alpha is None
