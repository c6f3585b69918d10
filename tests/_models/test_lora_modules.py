"""The tensors of LoRA files sorted into modules: every spelling and kind, and the strength of each module."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import write_torch

from sdcffi import LoraError
from sdcffi._models.lora_file import LoraFile, read_lora
from sdcffi._models.lora_modules import Adapter

Tensors = dict[str, Any]


def shaped(**shapes: tuple[int, ...]) -> Tensors:
    """Tensors of ones; double underscores in a name are dots."""
    return {name.replace("__", "."): np.ones(shape, np.float32) for name, shape in shapes.items()}


def number(value: float) -> Any:
    return np.array(value, np.float32)


PAIR = shaped(m__lora_down__weight=(4, 8), m__lora_up__weight=(6, 4))


def read(
    folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None, name: str = "a.safetensors"
) -> LoraFile:
    save_file(tensors, folder / name, metadata)
    return read_lora(folder / name)


def only(file: LoraFile) -> Adapter:
    (adapter,) = file.adapters
    return adapter


# Spellings.


@pytest.mark.parametrize(
    ("down", "up", "module"),
    [
        ("{}.lora_A.weight", "{}.lora_B.weight", "x.to_q"),
        ("{}.lora_A.default.weight", "{}.lora_B.default.weight", "x.to_q"),
        ("{}.lora_A.my_style.weight", "{}.lora_B.my_style.weight", "x.to_q"),
        ("{}.lora_A", "{}.lora_B", "x.to_q"),
        ("{}.lora_down.weight", "{}.lora_up.weight", "x.to_q"),
        ("{}.lora.down.weight", "{}.lora.up.weight", "x.to_q"),
        ("{}_lora.down.weight", "{}_lora.up.weight", "x.to_q"),
        ("{}.lora_linear_layer.down.weight", "{}.lora_linear_layer.up.weight", "x.to_q"),
        ("{}.weight.lora_down", "{}.weight.lora_up", "x.to_q"),
        ("x.attn1.processor.to_q_lora.down.weight", "x.attn1.processor.to_q_lora.up.weight", "x.attn1.to_q"),
        ("x.self_attn.to_q_lora.down.weight", "x.self_attn.to_q_lora.up.weight", "x.self_attn.q_proj"),
        (
            "double_blocks.0.processor.qkv_lora1.down.weight",
            "double_blocks.0.processor.qkv_lora1.up.weight",
            "double_blocks.0.processor.qkv_lora1",
        ),
        (
            "single_blocks.0.processor.proj_lora.down.weight",
            "single_blocks.0.processor.proj_lora.up.weight",
            "single_blocks.0.processor.proj_lora",
        ),
    ],
)
def test_each_spelling_of_a_pair_gives_module_and_roles(down: str, up: str, module: str, tmp_path: Path) -> None:
    down, up = down.format("x.to_q"), up.format("x.to_q")
    file = read(tmp_path, {up: np.ones((6, 4), np.float32), down: np.ones((4, 8), np.float32)})
    adapter = only(file)
    assert (adapter.module, adapter.kind, adapter.on) == (module, "lora", "weight")
    assert adapter.tensors == {"down": down, "up": up}
    assert adapter.rows == {"down": 4, "up": 6}
    assert not file.left_out


KINDS: list[tuple[str, Tensors, dict[str, str]]] = [
    ("lora", PAIR | shaped(m__lora_mid__weight=(4, 4, 3, 3)), {"down": "lora_down.weight", "mid": "lora_mid.weight"}),
    (
        "loha",
        shaped(m__hada_w1_a=(4, 6), m__hada_w1_b=(4, 8), m__hada_w2_a=(4, 6), m__hada_w2_b=(4, 8))
        | shaped(m__hada_t1=(4, 4, 3, 3), m__hada_t2=(4, 4, 3, 3)),
        {"w1_a": "hada_w1_a", "t1": "hada_t1", "t2": "hada_t2"},
    ),
    (
        "lokr",
        shaped(m__lokr_w1=(2, 2), m__lokr_w2_a=(4, 3), m__lokr_w2_b=(4, 5), m__lokr_t2=(4, 4, 3, 3)),
        {"w1": "lokr_w1", "w2_a": "lokr_w2_a", "t2": "lokr_t2"},
    ),
    (
        "glora",
        shaped(m__a1__weight=(8, 2), m__a2__weight=(2, 8), m__b1__weight=(6, 2), m__b2__weight=(2, 8)),
        {"a1": "a1.weight", "a2": "a2.weight", "b1": "b1.weight", "b2": "b2.weight"},
    ),
    (
        "glora",  # as LyCORIS wrote it before 1.9
        shaped(m__a1__weight=(2, 8), m__a2__weight=(8, 2), m__b1__weight=(2, 8), m__b2__weight=(6, 2)),
        {"a1": "a2.weight", "a2": "a1.weight", "b1": "b2.weight", "b2": "b1.weight"},
    ),
    ("diff", shaped(m__w_norm=(6,)), {"diff": "w_norm"}),
    ("oft", shaped(m__oft_blocks=(3, 2, 2), m__rescale=(6, 1)), {"blocks": "oft_blocks", "rescale": "rescale"}),
    ("oft", shaped(m__oft_blocks=(2, 3, 2, 2)), {"blocks": "oft_blocks"}),
    ("oft", shaped(m__oft_R__default__weight=(2, 6)), {"blocks": "oft_R.default.weight"}),
    ("oft", shaped(m__boft_R=(1, 2, 4, 4), m__boft_s=(6, 1)), {"blocks": "boft_R", "rescale": "boft_s"}),
    ("ia3", shaped(m__weight=(6,)) | {"m.on_input": np.array(0)}, {"vector": "weight"}),
]


@pytest.mark.parametrize(("kind", "tensors", "roles"), KINDS)
def test_each_kind_gives_the_roles_of_a_plan(
    kind: str, tensors: Tensors, roles: dict[str, str], tmp_path: Path
) -> None:
    file = read(tmp_path, tensors)
    adapter = only(file)
    assert adapter.kind == kind
    assert {role: adapter.tensors[role] for role in roles} == {role: f"m.{name}" for role, name in roles.items()}
    assert set(adapter.used) == set(tensors)
    assert adapter.rows == {role: tensors[name].shape[0] for role, name in adapter.tensors.items()}
    assert kind in file.kinds or file.kinds == ("locon",)
    assert not file.left_out


def test_biases_are_modules_of_their_own(tmp_path: Path) -> None:
    file = read(tmp_path, PAIR | shaped(m__lora_up__bias=(6,)) | {"m.alpha": number(2)})
    weight, bias = file.adapters
    assert (weight.on, bias.on, bias.kind) == ("weight", "bias", "diff")
    assert bias.tensors == {"diff": "m.lora_up.bias"}
    assert (weight.strength.scale, bias.strength.scale) == (0.5, 0.5)
    assert sorted((*weight.used, *bias.used)) == sorted(file.tensors)
    whole, whole_bias = read(tmp_path, shaped(m__diff=(6, 8), m__diff_b=(6,)) | {"m.alpha": number(2)}).adapters
    assert (whole.tensors, whole_bias.tensors) == ({"diff": "m.diff"}, {"diff": "m.diff_b"})
    assert whole.strength.scale == whole_bias.strength.scale == 1


def test_an_embedding_of_peft_is_the_transpose(tmp_path: Path) -> None:
    adapter = only(read(tmp_path, shaped(m__lora_embedding_A=(4, 10), m__lora_embedding_B=(8, 4))))
    assert (adapter.kind, adapter.on) == ("lora", "embedding")
    assert adapter.tensors == {"down": "m.lora_embedding_A", "up": "m.lora_embedding_B"}


@pytest.mark.parametrize(
    ("tensors", "on_input"),
    [
        (PAIR | shaped(m__dora_scale=(6, 1)), False),
        (PAIR | shaped(m__dora_scale=(1, 8)), True),
        (PAIR | shaped(m__lora_magnitude_vector=(6,)), False),
        (PAIR | shaped(m__lora_magnitude_vector__weight=(1, 6, 1, 1)), False),
        (PAIR | shaped(m__lora_magnitude_vector__default__weight=(6,)), False),
        (shaped(m__lokr_w1=(2, 2), m__lokr_w2=(3, 4), m__dora_scale=(6, 1)), False),
    ],
)
def test_magnitudes_go_with_their_module(tensors: Tensors, on_input: bool, tmp_path: Path) -> None:
    file = read(tmp_path, tensors)
    adapter = only(file)
    assert adapter.tensors["magnitude"] == list(tensors)[-1]
    assert adapter.on_input is on_input
    assert "dora" in file.kinds


@pytest.mark.parametrize(
    ("tensors", "offset", "on_input"),
    [
        (shaped(m__weight=(6,)) | {"m.on_input": np.array(0)}, 1.0, False),
        (shaped(m__weight=(8,)) | {"m.on_input": np.array(1)}, 1.0, True),
        (shaped(m__ia3_l=(1, 8)), 0.0, True),
    ],
)
def test_ia3_says_where_it_acts_and_what_changes_nothing(
    tensors: Tensors, offset: float, on_input: bool, tmp_path: Path
) -> None:
    adapter = only(read(tmp_path, tensors))
    assert (adapter.offset, adapter.on_input) == (offset, on_input)


def test_ia3_of_peft_multiplies_the_bias_too(tmp_path: Path) -> None:
    weight, bias = read(tmp_path, shaped(m__ia3_l=(6, 1))).adapters
    assert (weight.on, bias.on) == ("weight", "bias")
    assert weight.kind == bias.kind == "ia3"
    assert weight.tensors == bias.tensors == {"vector": "m.ia3_l"}


def test_the_constraint_of_an_oft_is_for_all_rows(tmp_path: Path) -> None:
    for shape in ((3, 2, 2), (2, 3, 2, 2)):
        adapter = only(read(tmp_path, shaped(m__oft_blocks=shape) | {"m.alpha": number(0.5)}))
        assert (adapter.constraint, adapter.strength.scale) == (3.0, 1.0)


def peft(folder: Path, tensors: Tensors, **config: Any) -> LoraFile:
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return read(folder, tensors, name="adapter_model.safetensors")


@pytest.mark.parametrize(
    ("config", "turn"),
    [
        ({}, (False, 5)),
        ({"use_cayley_neumann": True, "num_cayley_neumann_terms": 3}, (False, 3)),
        ({"use_cayley_neumann": False}, (True, 0)),
    ],
)
def test_oft_of_peft_turns_as_its_configuration_says(
    config: dict[str, Any], turn: tuple[bool, int], tmp_path: Path
) -> None:
    adapter = only(peft(tmp_path, shaped(m__oft_R__weight=(2, 6)), peft_type="OFT", **config))
    assert (adapter.inverted, adapter.terms) == turn
    assert adapter.on_input


# What is left out, with the reason, and what is refused.


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (shaped(n__vera_lambda_b=(4,)), "kind VeRA"),
        (shaped(n__lora_A__weight=(4, 8), n__lora_B__weight=(6, 4), n__lora_E=(4, 1)), "kind AdaLoRA"),
        (
            shaped(n__a1__weight=(8, 2), n__a2__weight=(2, 8), n__b1__weight=(6, 2), n__b2__weight=(2, 8))
            | shaped(n__bm__weight=(2, 2, 3, 3)),
            "Tucker",
        ),
        (shaped(n__set_weight=(4,)), "replacement of whole weights"),
        (shaped(n__weight=(4,)), "a whole weight"),
        (shaped(n__unheard_of=(4,)), "unknown kind"),
        (shaped(n__dora_scale=(4, 1)), "no tensor that it could act on"),
        (shaped(n__rescale=(4, 1)), "no oft_blocks"),
        (shaped(n__a1__weight=(4, 4)), "other factors are missing"),
    ],
)
def test_what_cannot_be_computed_is_left_out_with_the_reason(tensors: Tensors, reason: str, tmp_path: Path) -> None:
    file = read(tmp_path, PAIR | tensors)
    assert file.targets == ("m",)
    assert set(file.left_out) == set(tensors)
    assert all(reason in said for said in file.left_out.values())


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (shaped(m__oft_blocks=(3, 2, 3)), "square matrices"),
        (shaped(m__oft_blocks=(3, 2, 2), m__rescale=(5, 1)), "must have 6 elements"),
        (shaped(m__oft_R__weight=(2, 5)), "upper triangles"),
        (shaped(m__boft_R=(1, 2, 4, 4)), "lacks boft_s"),
        (
            shaped(m__a1__weight=(8, 2), m__a2__weight=(3, 8), m__b1__weight=(6, 2), m__b2__weight=(2, 8)),
            "has rank 3",
        ),
        (PAIR | {"m.scalar": number(math.nan)}, "scalar must be finite"),
        (
            shaped(m__lora_A__one__weight=(4, 8), m__lora_B__one__weight=(6, 4), m__lora_A__two__weight=(4, 8)),
            "the same part of the same module",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(tensors: Tensors, said: str, tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=said):
        read(tmp_path, tensors)


# Strength.


@pytest.mark.parametrize(
    ("tensors", "scale", "source"),
    [
        ({}, 1.0, ""),
        ({"m.alpha": number(2)}, 0.5, "alpha tensor"),
        ({"m.alpha": number(0)}, 0.0, "alpha tensor"),
        ({"m.scale": number(3)}, 3.0, "scale tensor"),
        ({"m.alpha": number(2), "m.scalar": number(0.5)}, 0.25, "alpha tensor"),
        ({"m.scalar": number(0.5)}, 0.5, ""),
    ],
)
def test_strength_of_tensors(tensors: Tensors, scale: float, source: str, tmp_path: Path) -> None:
    strength = only(read(tmp_path, PAIR | tensors)).strength
    assert (strength.scale, strength.source) == (scale, source)


def test_lokr_of_whole_factors_has_no_alpha(tmp_path: Path) -> None:
    whole = shaped(m__lokr_w1=(2, 2), m__lokr_w2=(3, 4))
    assert only(read(tmp_path, whole | {"m.alpha": number(1e10)})).strength.scale == 1
    parts = shaped(m__lokr_w1=(2, 2), m__lokr_w2_a=(3, 4), m__lokr_w2_b=(4, 5))
    assert only(read(tmp_path, parts | {"m.alpha": number(1)})).strength.scale == 0.25
    assert only(peft(tmp_path, whole, peft_type="LOKR", r=32, alpha=16)).strength.scale == 0.5


def test_rs_lora_of_glora_is_in_the_notes(tmp_path: Path) -> None:
    glora = KINDS[3][1] | {"m.alpha": number(1)}
    notes = {"ss_network_args": json.dumps({"algo": "glora", "rs_lora": "True"})}
    assert only(read(tmp_path, glora)).strength.scale == 0.5
    assert only(read(tmp_path, glora, notes)).strength.scale == pytest.approx(2**-0.5)


NAMED = {name.replace("m.", "transformer.blocks.0.to_q."): tensor for name, tensor in PAIR.items()}


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 1})}, 0.25),
        ({"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 1})}, 0.25),
        ({"lora_adapter_metadata": json.dumps({"transformer.r": 4})}, 2.0),  # PEFT's default is 8
        ({"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 1})}, 1.0),
        (
            {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 3, "transformer.use_rslora": True})},
            1.5,
        ),
        ({"transformer.lora_alpha": "1", "transformer.r": "4"}, 0.25),
        ({"unet.lora_alpha": "1"}, 1.0),
        ({"lora_alpha": "2"}, 0.5),
        ({"alpha": "2", "rank": "4"}, 0.5),
        ({"alpha": "2"}, 1.0),
        ({"ss_network_alpha": "1", "ss_network_dim": "4"}, 1.0),  # no loader applies it
    ],
)
def test_strength_of_metadata(metadata: dict[str, str], scale: float, tmp_path: Path) -> None:
    assert only(read(tmp_path, NAMED, metadata)).strength.scale == scale
    with_alpha = {**NAMED, "transformer.blocks.0.to_q.alpha": number(4)}
    assert only(read(tmp_path, with_alpha, metadata)).strength.scale == 1, "the file's tensor counts"


@pytest.mark.parametrize(
    ("patterns", "scale"),
    [
        ({"blocks.0.to_q": 1}, 0.25),
        ({"to_q": 1}, 0.25),
        ({"^blocks.0.to_q": 1}, 0.25),
        ({"0.to": 1, "q": 1}, 2.0),
        ({r"blocks\.\d+\.to_(q|k)": 1, "to_q": 3}, 0.25),
        ({"locks.0.to_q": 1}, 2.0),
    ],
)
def test_patterns_match_as_in_peft(patterns: dict[str, int], scale: float, tmp_path: Path) -> None:
    metadata = {
        "lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8, "transformer.alpha_pattern": patterns})
    }
    assert only(read(tmp_path, NAMED, metadata)).strength.scale == scale


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora_alpha": "much"}, "must be a finite number"),
        ({"alpha_pattern": {"(": 1}}, "not a regular expression"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "repeats a group"),
        ({"alpha_pattern": [1]}, "must be a table"),
        ({"peft_type": "ADALORA"}, "kind ADALORA"),
        ({"use_qalora": True}, "use_qalora"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=said):
        read(tmp_path, NAMED, {"lora_adapter_metadata": json.dumps(settings)})


def test_metadata_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=r"lora_adapter_metadata.*not valid JSON"):
        read(tmp_path, NAMED, {"lora_adapter_metadata": "{"})


def test_a_configuration_of_peft_counts_beside_its_own_file_only(tmp_path: Path) -> None:
    tensors = {f"base_model.model.{name}": tensor for name, tensor in PAIR.items()}
    assert only(peft(tmp_path, tensors, r=4, lora_alpha=2, peft_type="LORA")).strength.scale == 0.5
    assert only(read(tmp_path, tensors, name="other.safetensors")).strength.scale == 1
    (tmp_path / "adapter_config.json").write_text("{}")
    assert read_lora(tmp_path / "adapter_model.safetensors").adapters[0].strength.scale == 2


# Files of PyTorch.


def test_a_file_of_pytorch_is_described_as_safetensors(tmp_path: Path) -> None:
    tensors = PAIR | {"m.alpha": number(2)}
    file = read(tmp_path, tensors)
    found = read_lora(write_torch(tensors, tmp_path / "a.pt"))
    assert (found.format, found.adapters, found.kinds) == ("torch", file.adapters, ("lora",))
    assert found.alphas == {"m": 2.0}
