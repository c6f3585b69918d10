"""Guess from the names of a LoRA's modules which family of models it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["UNET_TEXT", "Guess", "Shape", "guess_architecture", "guess_naming"]

Shape = tuple[int, int]


class Guess(NamedTuple):
    """A family of models, and the evidence for it.

    Attributes
    ----------
    architecture : str or None
        ``"sd1"``, ``"sd2"``, ``"sdxl"``, ``"sd3"``, ``"flux"``, ``"flux2"``, ``"chroma"``, ``"ovis_image"``,
        ``"qwen_image"``, ``"z_image"``, ``"wan"``, ``"anima"``, ``"ernie_image"``. None if the names match no family,
        or several.
    reason : str
        The evidence.
    is_certain : bool
        False where other families have modules of the same names.
    """

    architecture: str | None
    reason: str
    is_certain: bool = True


# Families of UNets by the width of the text that cross-attention reads.
UNET_TEXT = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
# Modules that only one family has, in names with underscores; the first match counts.
_MARKS = [
    ("chroma", r"_distilled_guidance_layer_"),
    (
        "anima",
        r"_blocks_\d+_(adaln_modulation_(self_attn|cross_attn|mlp)|(self|cross)_attn_(q_proj|output_proj)|mlp_layer[12])_",
    ),
    ("anima", r"_(llm_adapter|text_conditioner)_blocks_\d+_|_transformer_blocks_\d+_norm[123]_linear_[12]_"),
    (
        "ernie_image",
        r"_layers_\d+_(self_attention_(to_[qkv]|to_qkv|to_out)|mlp_linear_fc2|adaLN_(sa|mlp)_ln)_",
    ),
    ("ovis_image", r"_double_blocks_\d+_(img|txt)_mlp_(gate|up|down)_proj_|_context_embedder_norm_"),
    ("sdxl", r"_(down_blocks_2|up_blocks_0)_attentions_\d_transformer_blocks_[2-9]_"),
    (
        "sdxl",
        r"_(mid_block_attentions_0|input_blocks_[78]_1|middle_block_1|output_blocks_[012]_1)_trans\w+_blocks_[1-9]_",
    ),
    ("sd1", r"_(down_blocks_0|up_blocks_3)_attentions_|_(input_blocks_[12]|output_blocks_(9|10|11))_1_"),
    (
        "flux2",
        r"_(double_stream_modulation|single_stream_modulation|single_transformer_blocks_\d+_attn_to_qkv_mlp_proj|transformer_blocks_\d+_ff(_context)?_linear_(in|out)_)",
    ),
    ("sd3", r"_joint_blocks_\d+_"),
    ("qwen_image", r"_transformer_blocks_\d+_(img|txt)_(mlp|mod)_"),
    (
        "z_image",
        r"_layers_\d+_(adaLN_modulation|feed_forward_w[123]|attention_(qkv|out|to_[qkv]|to_out))_|_(noise|context)_refiner_",
    ),
    ("wan", r"_blocks_\d+_((self_attn|cross_attn)_([qkvo]|[kv]_img)|ffn_(0|2|net_0_proj|net_2))_|_condition_embedder_"),
]
# The same, in names as they are; with underscores in place of dots `transformer.blocks` would be `transformer_blocks`.
_DOTTED_MARKS = [
    ("wan", r"(^|\.|lora_unet_|lora_transformer_|lycoris_|lycoris_transformer_)blocks[._]\d+[._]attn[12][._](to|add)_"),
]
_UNET = r"_(down_blocks|up_blocks|input_blocks|output_blocks|mid_block|middle_block)_"
_FLUX = r"_(double_blocks_\d+_(img|txt)_|single_blocks_\d+_|single_transformer_blocks_\d+_)"
_SD3_WIDTHS = (1536, 2432)
_ANIMA_TEXT = 1024
_PREFIXES = {  # the first that matches the start of a module's name
    "lycoris": ("lycoris_", "lycoris."),
    "kohya": ("lora_unet_", "lora_te", "lora_transformer_", "lora_vae_"),
    "underscore": ("unet_", "te_", "te1_", "te2_", "te3_", "vae_"),
    "diffusers": (
        "unet.",
        "transformer.",
        "text_encoder",
        "base_model.",
        "vae.",
        "transformer_blocks",
        "single_transf",
    ),
    "native": (
        "diffusion_model.",
        "model.",
        "first_stage_model.",
        "cond_stage_model.",
        "conditioner.",
        "double_blocks",
    ),
}


def guess_naming(modules: Mapping[str, object]) -> str | None:
    """Guess the naming scheme of modules.

    Returns
    -------
    str or None
        ``"kohya"``, ``"diffusers"``, ``"lycoris"``, ``"underscore"`` or ``"native"``. None if no scheme matches.
    """
    counts = dict.fromkeys(_PREFIXES, 0)
    for module in modules:
        for naming, prefixes in _PREFIXES.items():
            if module.removeprefix("lora.").startswith(prefixes):
                counts[naming] += 1
                break
    best = max(counts, key=lambda naming: counts[naming])
    return best if counts[best] else None


def guess_architecture(modules: Mapping[str, Shape | None]) -> Guess:
    """Guess the family of models.

    Parameters
    ----------
    modules : mapping of str to (int, int) or None
        Rows and columns of the weight that each module changes. None: the file does not say.

    Returns
    -------
    Guess
    """
    names = {"_" + re.sub(r"\W", "_", module) + "_": (module, shape) for module, shape in modules.items()}
    return _by_text_width(names) or _by_marks(names) or _by_shape(names) or _unknown(names)


_Names = Mapping[str, tuple[str, "Shape | None"]]


def _by_text_width(names: _Names) -> Guess | None:
    for name, (module, shape) in names.items():
        if re.search(_UNET, name) and name.endswith(("_attn2_to_k_", "_attn2_to_v_")) and shape:
            architecture = UNET_TEXT.get(shape[1])
            if architecture:
                return Guess(architecture, f"{module} reads text of width {shape[1]}")
    return None


def _by_marks(names: _Names) -> Guess | None:
    marks = [(mark, re.compile(pattern), False) for mark, pattern in _MARKS]
    for architecture, pattern, is_dotted in [*marks, *((m, re.compile(p), True) for m, p in _DOTTED_MARKS)]:
        for name, (module, _) in names.items():
            if pattern.search(module if is_dotted else name):
                return Guess(architecture, f"it has {module}")
    return None


def _by_shape(names: _Names) -> Guess | None:
    for name, (module, shape) in names.items():
        if re.search(_FLUX, name):
            return _flux(names)
        joint = re.search(r"_transformer_blocks_\d+_(attn_add_[qkv]_proj|ff_context)_", name)
        if joint and shape and shape[1] in _SD3_WIDTHS:
            return Guess("sd3", f"{module} has width {shape[1]}")
        cosmos = re.search(r"_transformer_blocks_\d+_attn2_to_[kv]_", name) and not re.search(_UNET, name)
        if cosmos and shape and shape[1] == _ANIMA_TEXT:
            return Guess("anima", f"{module} reads text of width {shape[1]}")
    return None


# Rows over columns, or columns over rows, of layers of single blocks and of MLPs.
_RATIOS = [
    (r"_single_blocks_\d+_linear1_", 0, {7: None, 9: "flux2", 11: "ovis_image"}),
    (r"_single_blocks_\d+_linear2_", 1, {5: None, 4: "flux2"}),
    (r"_single_transformer_blocks_\d+_proj_mlp_", 0, {4: None, 8: "ovis_image"}),
    (r"_transformer_blocks_\d+_ff(_context)?_net_0_proj_", 0, {4: None, 8: "ovis_image"}),
]
_ONLY_FLUX1 = r"_(vector_in|time_text_embed_text_embedder)_"


def _flux(names: _Names) -> Guess:
    """Distinguish families that have FLUX.1's names, by the widths of their MLPs: FLUX.2 and Ovis have gated ones."""
    for name, (module, shape) in names.items():
        if re.search(_ONLY_FLUX1, name):
            return Guess("flux", f"it has {module}")
        for pattern, over, families in _RATIOS:
            if re.search(pattern, name) and shape and shape[over] % shape[1 - over] == 0:
                family = families.get(shape[over] // shape[1 - over])
                if family:
                    return Guess(family, f"{module} is {shape[0]}x{shape[1]}")
    module = next(module for name, (module, _) in names.items() if re.search(_FLUX, name))
    return Guess("flux", f"it has {module}; the names do not say whether it is FLUX.1, FLUX.2, Chroma or Ovis", False)


def _unknown(names: _Names) -> Guess:
    if not names:
        return Guess(None, "it changes no modules", False)
    first = next(iter(names.values()))[0]
    if any(re.search(_UNET, name) for name in names):
        return Guess(None, f"several UNets have modules with these names, such as {first}", False)
    return Guess(None, f"no known family has modules with these names, such as {first}", False)
