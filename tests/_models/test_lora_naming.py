"""What tools call the modules of each family, matched against the family's weights."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from itertools import product

import full_size
import pytest
from lora_names_page import PAGE, with_tables

from sdcffi._models.lora_name_families import families_of
from sdcffi._models.lora_name_table import Family, Row, normal, read_name_table
from sdcffi._models.lora_names import Names
from sdcffi.params.lora_plan import Place

Shape = tuple[int, ...]
TABLE = read_name_table()
FAMILIES = {family.name: family for family in TABLE.families}
DIFFUSION = "model.diffusion_model."
_FUSED, _SPLIT = re.compile(r"\.in_proj$|\.attn\.qkv$"), re.compile(r"\.[qkv]_proj$")
_WRITTEN_WITH_DOTS = ("", "diffusion_model.", "model.diffusion_model.", "transformer.", "unet.", "base_model.model.")
_WRITTEN_WITH_UNDERSCORES = ("lora_unet_", "lora_transformer_", "lycoris_", "lora_unet_model_diffusion_model_")


def instances(pattern: str) -> Iterator[str]:
    """The names that a pattern stands for, with the numbers 0 and 1."""
    for numbers in product("01", repeat=pattern.count("*")):
        name = pattern
        for number in numbers:
            name = name.replace("*", number, 1)
        yield name


def table_weights(root: str, table: str, fused: bool = True) -> dict[str, Shape]:
    """Weights and biases of all modules of a table, with 12 times as many rows as columns."""
    left_out = _SPLIT if fused else _FUSED
    modules = [
        name for name in TABLE.tables[table].modules if table not in ("clip", "llm") or not left_out.search(name)
    ]
    names = [root + name for pattern in modules for name in instances(pattern)]
    return {f"{name}.{kind}": shape for name in names for kind, shape in (("weight", (48, 4)), ("bias", (48,)))}


def family_weights(family: Family, fused: bool = True) -> dict[str, Shape]:
    weights: dict[str, Shape] = {}
    for table in family.tables:
        weights.update(table_weights(DIFFUSION, table))
    for pattern in (*family.has, *(name for name in ("label_emb.*.*",) if family.name == "sdxl")):
        weights.update((f"{DIFFUSION}{name}.weight", (48, 4)) for name in instances(pattern))
    lacking = {f"{DIFFUSION}{name}." for pattern in family.lacks for name in instances(pattern)}
    if family.name == "sd":
        lacking |= {f"{DIFFUSION}label_emb.0.{i}." for i in (0, 2)}
    weights = {name: shape for name, shape in weights.items() if not name.startswith(tuple(lacking))}
    for encoder in family.encoders:
        part = TABLE.parts[encoder]
        root = part.engine[0 if family.name in ("sd", "sdxl") else -1]
        for table in part.tables:
            weights.update(table_weights(root, table, fused))
    return weights | table_weights("first_stage_model.", "wan_vae" if family.name == "wan" else "vae")


def rows_of(family: Family, names: Names) -> Iterator[tuple[Row, str]]:
    """Rows of the family's diffusion model whose weights are there, and their names with numbers put in."""
    for table in family.tables:
        for row in TABLE.tables[table].rows:
            for name, *modules in zip(
                instances(row.name), *(instances(piece.module) for piece in row.pieces), strict=False
            ):
                if all(module in names.parts["diffusion"].full for module in modules) and not row.when:
                    yield row, name


def spellings(name: str) -> Iterator[str]:
    yield from (prefix + name for prefix in _WRITTEN_WITH_DOTS)
    yield from (prefix + normal(name) for prefix in _WRITTEN_WITH_UNDERSCORES)


def whole(weight: str) -> tuple[Place, ...]:
    return (Place(weight),)


@pytest.fixture(scope="module")
def sdxl() -> full_size.Layout:
    return full_size.sdxl()


def sdxl_weights(layout: full_size.Layout) -> dict[str, Shape]:
    """The weights of SDXL by the engine's names."""
    open_clip = {
        "transformer.resblocks": "encoder.layers",
        "attn.in_proj_": "self_attn.in_proj.",
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "c_fc": "fc1",
        "c_proj": "fc2",
        "ln_final": "final_layer_norm",
        "token_embedding": "embeddings.token_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
    }
    weights = {}
    for name, shape in layout.tensors.items():
        if name.startswith("conditioner.embedders.1.model."):
            name = name.replace("conditioner.embedders.1.model.", "cond_stage_model.1.transformer.text_model.")
            for old, new in open_clip.items():
                name = name.replace(old, new)
        weights[name.replace("conditioner.embedders.0.", "cond_stage_model.")] = shape
    return weights


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "split"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_recognised_and_none_of_its_names_means_two_modules(family: str, fused: bool) -> None:
    names = Names(family_weights(FAMILIES[family], fused))
    assert names.family is FAMILIES[family]
    assert {part: weights.ambiguous for part, weights in names.parts.items() if weights.ambiguous} == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engines_own_names_are_found_in_every_spelling(family: str) -> None:
    weights = family_weights(FAMILIES[family])
    names = Names(weights)
    for weight in weights:
        if weight.startswith(DIFFUSION) and weight.endswith(".weight"):
            for name in spellings(weight[len(DIFFUSION) : -len(".weight")]):
                assert names.find(name) == whole(weight), name


@pytest.mark.parametrize(
    "family", [name for name, family in FAMILIES.items() if any(map(TABLE.tables.get, family.tables))]
)
def test_the_names_of_other_tools_are_found_in_every_spelling(family: str) -> None:
    names = Names(family_weights(FAMILIES[family]))
    for row, name in rows_of(FAMILIES[family], names):
        places = names.find(name)
        assert places is not None, name
        modules = {re.sub(r"\d+", "*", place.weight[len(DIFFUSION) : -len(".weight")]) for place in places}
        assert row.choice or modules == {re.sub(r"\d+", "*", piece.module) for piece in row.pieces}
        assert {names.find(spelling) for spelling in spellings(name)} == {places}
        biases = names.find_bias(name)
        assert biases is not None
        assert [(place.weight_row, place.module_row, place.rows) for place in biases] == [
            (place.weight_row, place.module_row, place.rows) for place in places
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rows_of_a_module_are_counted_without_a_gap(family: str) -> None:
    names = Names(family_weights(FAMILIES[family]))
    for _, name in rows_of(FAMILIES[family], names):
        at = 0
        for place in names.find(name) or ():
            assert place.module_row == at
            assert 0 <= place.weight_row < 48
            assert place.weight_row + place.rows <= 48
            at += place.rows


def flux_weights() -> dict[str, Shape]:
    modules: Mapping[str, Shape] = {
        "double_blocks.0.img_attn.qkv": (9216, 3072),
        "double_blocks.0.txt_attn.qkv": (9216, 3072),
        "single_blocks.0.linear1": (21504, 3072),
        "single_blocks.0.linear2": (3072, 15360),
        "vector_in.in_layer": (3072, 768),
        "final_layer.adaLN_modulation.1": (6144, 3072),
    }
    weights = {f"{DIFFUSION}{name}.weight": shape for name, shape in modules.items()}
    weights |= {f"{DIFFUSION}{name}.bias": shape[:1] for name, shape in modules.items()}
    return weights | {f"{DIFFUSION}double_blocks.0.img_attn.norm.query_norm.scale": (128,)}


@pytest.mark.parametrize(
    ("module", "weight", "first", "rows"),
    [
        ("transformer_blocks.0.attn.to_q", "double_blocks.0.img_attn.qkv", 0, 3072),
        ("transformer_blocks.0.attn.to_k", "double_blocks.0.img_attn.qkv", 3072, 3072),
        ("transformer_blocks.0.attn.to_v", "double_blocks.0.img_attn.qkv", 6144, 3072),
        ("transformer_blocks.0.attn.add_v_proj", "double_blocks.0.txt_attn.qkv", 6144, 3072),
        ("single_transformer_blocks.0.attn.to_q", "single_blocks.0.linear1", 0, 3072),
        ("single_transformer_blocks.0.attn.to_v", "single_blocks.0.linear1", 6144, 3072),
        ("single_transformer_blocks.0.proj_mlp", "single_blocks.0.linear1", 9216, 12288),
        ("single_blocks.0.processor.qkv_lora", "single_blocks.0.linear1", 0, 9216),
        ("single_transformer_blocks.0.proj_out", "single_blocks.0.linear2", 0, 0),
        ("double_blocks.0.processor.qkv_lora2", "double_blocks.0.txt_attn.qkv", 0, 0),
        ("double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.qkv", 0, 0),
    ],
)
def test_rows_of_fused_weights(module: str, weight: str, first: int, rows: int) -> None:
    names = Names(flux_weights())
    assert names.find(module) == (Place(f"{DIFFUSION}{weight}.weight", first, 0, rows),)
    assert names.find_bias(module) == (Place(f"{DIFFUSION}{weight}.bias", first, 0, rows),)


def test_halves_the_other_way_round() -> None:
    names = Names(flux_weights())
    weight = f"{DIFFUSION}final_layer.adaLN_modulation.1."
    for module in ("transformer.norm_out.linear", "lora_transformer_norm_out_linear"):
        assert names.find(module) == (Place(f"{weight}weight", 3072, 0, 3072), Place(f"{weight}weight", 0, 3072, 3072))
        assert names.find_bias(module) == (Place(f"{weight}bias", 3072, 0, 3072), Place(f"{weight}bias", 0, 3072, 3072))
    assert names.find("lora_unet_final_layer_adaLN_modulation_1") == whole(f"{weight}weight")


def test_the_last_context_block_of_sd3_alone_has_its_halves_the_other_way_round() -> None:
    name = "joint_blocks.{}.context_block.adaLN_modulation.1.weight"
    weights: dict[str, Shape] = {f"{DIFFUSION}joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)}
    weights |= {DIFFUSION + name.format(i): (rows, 1536) for i, rows in ((0, 9216), (23, 3072))}
    names = Names(weights)
    last = DIFFUSION + name.format(23)
    assert names.find("transformer.transformer_blocks.0.norm1_context.linear") == whole(DIFFUSION + name.format(0))
    assert names.find("transformer.transformer_blocks.23.norm1_context.linear") == (
        Place(last, 1536, 0, 1536),
        Place(last, 0, 1536, 1536),
    )


def test_one_module_over_two_weights() -> None:
    block = f"{DIFFUSION}double_blocks.0.img_mlp."
    names = Names({f"{block}{name}.weight": (12288, 3072) for name in ("gate_proj", "up_proj")})
    assert names.find("transformer_blocks.0.ff.net.0.proj") == (
        Place(f"{block}up_proj.weight", 0, 0, 12288),
        Place(f"{block}gate_proj.weight", 0, 12288, 12288),
    )


def test_a_norm_is_found_whatever_its_weight_is_called() -> None:
    names = Names(flux_weights())
    weight = f"{DIFFUSION}double_blocks.0.img_attn.norm.query_norm.scale"
    assert names.find("transformer.transformer_blocks.0.attn.norm_q") == whole(weight)
    assert names.find("diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale") == whole(weight)
    assert names.find_bias("transformer.transformer_blocks.0.attn.norm_q") is None
    assert "without a bias" in names.explain("transformer.transformer_blocks.0.attn.norm_q")


_PREFIXES = {
    "unet": (("unet.", "."), ("lora_unet_", "_"), ("lycoris_", "_"), ("unet.base_model.model.", "."), ("", ".")),
    "text_encoder": (("text_encoder.", "."), ("lora_te1_", "_"), ("text_encoders.clip_l.transformer.", ".")),
    "text_encoder_2": (("text_encoder_2.", "."), ("lora_te2_", "_"), ("text_encoders.clip_g.transformer.", ".")),
    "vae": (("vae.", "."), ("lora_vae_", "_"), ("first_stage_model.", ".")),
}


def test_every_module_of_sdxl_is_found_by_diffusers_name(sdxl: full_size.Layout) -> None:
    names = Names(sdxl_weights(sdxl))
    found = {name: part for name, part in names.parts.items() if part.full}
    assert set(found) == {"diffusion", "clip_l", "clip_g", "vae"}
    assert len(sdxl.modules) > 1500
    for module in sdxl.modules:
        for prefix, separator in _PREFIXES[module.part]:
            for name in (module.name, module.name.removeprefix("text_model.")):
                places = names.find(prefix + name.replace(".", separator))
                assert places is not None, prefix + name
                if module.part in ("unet", "vae"):
                    assert len(places) == 1
                    assert places[0].weight.endswith(f"{module.original}.weight")


@pytest.mark.parametrize(("part", "first"), [("q", 0), ("k", 1280), ("v", 2560)])
def test_the_fused_weight_of_open_clip(part: str, first: int, sdxl: full_size.Layout) -> None:
    names = Names(sdxl_weights(sdxl))
    layer = "cond_stage_model.1.transformer.text_model.encoder.layers.3.self_attn.in_proj"
    for module in (
        f"text_encoder_2.text_model.encoder.layers.3.self_attn.{part}_proj",
        f"text_encoder_2.encoder.layers.3.self_attn.{part}_proj",
        f"lora_te2_text_model_encoder_layers_3_self_attn_{part}_proj",
        f"text_encoder_2.text_model.encoder.layers.3.self_attn.to_{part}_lora",
    ):
        assert names.find(module) == (Place(f"{layer}.weight", first, 0, 1280),)
        assert names.find_bias(module) == (Place(f"{layer}.bias", first, 0, 1280),)
    assert names.find("conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj") == whole(f"{layer}.weight")


def test_the_projection_of_open_clip_is_a_transpose_under_its_own_name(sdxl: full_size.Layout) -> None:
    names = Names(sdxl_weights(sdxl))
    weight = "cond_stage_model.1.transformer.text_model.text_projection"
    assert names.find("text_encoder_2.text_projection") == whole(weight)
    assert names.find("lora_te2_text_projection") == whole(weight)
    assert names.find("conditioner.embedders.1.model.text_projection") == (Place(weight, transposed=True),)


@pytest.mark.parametrize(
    "module",
    [
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "lora.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0",
        "unet._orig_mod.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.base_layer",
    ],
)
def test_what_wrappers_and_old_tools_write(module: str, sdxl: full_size.Layout) -> None:
    weight = f"{DIFFUSION}input_blocks.4.1.transformer_blocks.0.attn1.to_out.0.weight"
    assert Names(sdxl_weights(sdxl)).find(module) == whole(weight)


_T5 = "encoder.block.1.layer.0.SelfAttention.q"


@pytest.mark.parametrize(
    ("family", "module", "weight"),
    [
        ("flux", "lora_te1_encoder_layers_0_mlp_fc1", "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"),
        ("flux", f"text_encoder_2.{_T5}", f"t5xxl.transformer.{_T5}"),
        ("flux", f"lora_te3_{normal(_T5)}", f"t5xxl.transformer.{_T5}"),
        ("sd3", f"text_encoder_3.{_T5}", f"t5xxl.transformer.{_T5}"),
        ("chroma", f"text_encoder.{_T5}", f"t5xxl.transformer.{_T5}"),
        ("qwen_image", "text_encoder.model.language_model.layers.0.mlp.up_proj", "llm.model.layers.0.mlp.up_proj"),
        ("z_image", "text_encoder.layers.0.mlp.up_proj", "llm.model.layers.0.mlp.up_proj"),
        ("flux2", "text_encoder.language_model.model.layers.0.mlp.up_proj", "llm.model.layers.0.mlp.up_proj"),
        ("ernie_image", "text_encoder.layers.0.mlp.up_proj", "llm.model.layers.0.mlp.up_proj"),
    ],
)
def test_text_encoders_are_counted_as_diffusers_counts_them(family: str, module: str, weight: str) -> None:
    assert Names(family_weights(FAMILIES[family])).find(module) == whole(f"text_encoders.{weight}.weight")


def test_the_parts_between_text_and_transformer_of_ltx2() -> None:
    block = f"{DIFFUSION}audio_embeddings_connector.transformer_1d_blocks.1.attn1.to_q.weight"
    names = Names({block: (8, 8), "text_embedding_projection.aggregate_embed.weight": (8, 8)})
    assert names.find("connectors.text_proj_in") == whole("text_embedding_projection.aggregate_embed.weight")
    full = Names(family_weights(FAMILIES["ltx2"]))
    assert full.find("connectors.audio_connector.transformer_blocks.1.attn1.to_q") == whole(block)


def test_a_name_without_a_part_is_of_the_diffusion_model() -> None:
    names = Names(family_weights(FAMILIES["ernie_image"]))
    assert names.find("layers.0.mlp.up_proj") == whole(f"{DIFFUSION}layers.0.mlp.up_proj.weight")


def wan_weights() -> dict[str, Shape]:
    roots = (DIFFUSION, "model.high_noise_diffusion_model.")
    return {f"{root}blocks.0.{name}.weight": (8, 8) for root in roots for name in ("cross_attn.q", "ffn.0")}


def test_high_noise_names() -> None:
    low, high = (
        f"{DIFFUSION}blocks.0.cross_attn.q.weight",
        "model.high_noise_diffusion_model.blocks.0.cross_attn.q.weight",
    )
    both = Names(wan_weights())
    assert both.find("transformer.blocks.0.attn2.to_q") == both.find("lora_unet_blocks_0_cross_attn_q") == whole(low)
    assert both.find("transformer_2.blocks.0.attn2.to_q") == whole(high)
    hinted = Names(wan_weights(), high_noise=True)
    assert hinted.find("transformer.blocks.0.attn2.to_q") == hinted.find("blocks.0.cross_attn.q") == whole(high)
    alone = Names({name: shape for name, shape in wan_weights().items() if name.startswith(DIFFUSION)}, high_noise=True)
    assert alone.find("blocks.0.cross_attn.q") == whole(low)
    assert "high noise" in alone.explain("transformer_2.blocks.0.attn2.to_q")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("transformer.layers.0.attention.to_q", "a module of Z-Image or Ideogram 4, this model is FLUX.1"),
        ("lora_unet_down_blocks_0_resnets_0_conv1", "or Stable Diffusion 1 or 2, this model is FLUX.1"),
        ("transformer.transformer_blocks.40.attn.to_q", "FLUX.1, has no such layer"),
        ("text_encoder_3.encoder.layers.0.self_attn.q_proj", "text encoder 3, which this model does not have"),
        ("something.else", "no tool is known"),
    ],
)
def test_why_a_name_is_unknown(module: str, reason: str) -> None:
    names = Names(flux_weights())
    assert names.find(module) is None
    assert reason in names.explain(module)


@pytest.mark.parametrize(
    ("modules", "titles"),
    [
        (["lora_unet_blocks_0_cross_attn_q", "lora_unet_blocks_0_ffn_0"], ["Wan"]),
        (["blocks.0.cross_attn.q_proj", "blocks.0.mlp.layer1"], ["Anima"]),
        (["transformer.transformer_blocks.0.attn1.to_q", "transformer.transformer_blocks.0.norm1.linear_1"], ["Anima"]),
        (["layers.0.self_attention.to_q", "layers.0.mlp.linear_fc2"], ["ERNIE-Image"]),
        (["transformer.blocks.0.attn1.to_q", "transformer.blocks.0.ffn.net.0.proj"], ["Wan"]),
        (
            ["transformer_blocks.0.attn.to_q", "distilled_guidance_layer.layers.0.linear_1"],
            ["Chroma Radiance", "Chroma"],
        ),
        (["something.else"], []),
        ([], []),
    ],
)
def test_families_are_known_by_the_names_of_modules(modules: list[str], titles: list[str]) -> None:
    assert [family.title for family in families_of(modules)] == titles


def test_a_name_that_may_mean_two_modules_is_refused(sdxl: full_size.Layout) -> None:
    names = Names(sdxl_weights(sdxl))
    assert names.find("lycoris_text_model_encoder_layers_0_mlp_fc1") is None
    assert "CLIP-G text encoder or the CLIP-L" in names.explain("lycoris_text_model_encoder_layers_0_mlp_fc1")
    clash = Names({f"{DIFFUSION}{name}.weight": (4, 4) for name in ("a.b", "a_b")})
    assert clash.find("lora_unet_a_b") is None
    assert "any of a.b, a_b" in clash.explain("lora_unet_a_b")


def test_a_model_of_an_unknown_family_has_its_own_names() -> None:
    names = Names({f"{DIFFUSION}tower.0.gate_proj.weight": (4, 4)})
    assert names.family is None
    assert names.find("lora_unet_tower_0_gate_proj") == whole(f"{DIFFUSION}tower.0.gate_proj.weight")
    assert "FLUX.1" in names.explain("double_blocks.0.img_attn.qkv")
    assert Names({}).find("double_blocks.0.img_attn.qkv") is None


def test_names_of_a_big_model_take_a_moment(sdxl: full_size.Layout) -> None:
    weights = sdxl_weights(sdxl)
    Names(weights)  # the table is read once
    begin = time.perf_counter()
    names = Names(weights)
    for module in sdxl.modules[:1000]:
        names.find(f"lora_unet_{normal(module.name)}")
    assert time.perf_counter() - begin < 1  # 0.04 s here


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text("utf-8")
    assert with_tables(text) == text, "run: python tests/support/lora_names_page.py"
