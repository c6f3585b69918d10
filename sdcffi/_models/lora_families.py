"""Guess from the names of a LoRA's modules which family of models it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["UNET_TEXT", "Shape", "guess_architecture", "guess_naming"]

Shape = tuple[int, int]

# Families of UNets by the width of the text that cross-attention reads.
UNET_TEXT = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
# Modules that only one family has, in names with underscores; the first match counts.
_MARKS = [
    ("sdxl", r"_(down_blocks_2|up_blocks_0)_attentions_\d_transformer_blocks_[2-9]_"),
    (
        "sdxl",
        r"_(mid_block_attentions_0|input_blocks_[78]_1|middle_block_1|output_blocks_[012]_1)_trans\w+_blocks_[1-9]_",
    ),
    ("sd1", r"_(down_blocks_0|up_blocks_3)_attentions_|_(input_blocks_[12]|output_blocks_(9|10|11))_1_"),
    (
        "flux2",
        r"_(double_stream_modulation|single_stream_modulation|single_transformer_blocks_\d+_attn_to_qkv_mlp_proj)",
    ),
    ("sd3", r"_joint_blocks_\d+_"),
    ("qwen_image", r"_transformer_blocks_\d+_(img|txt)_(mlp|mod)_"),
    ("z_image", r"_(layers_\d+_adaLN_modulation|layers_\d+_feed_forward_w[123]|noise_refiner|context_refiner)"),
    ("wan", r"_blocks_\d+_(self_attn|cross_attn)_[qkvo]_"),
]
_UNET = r"_(down_blocks|up_blocks|input_blocks|output_blocks|mid_block|middle_block)_"
_FLUX = r"_(double_blocks_\d+_(img|txt)_|single_blocks_\d+_|single_transformer_blocks_\d+_)"
_SD3_WIDTHS = (1536, 2432)
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


def guess_architecture(modules: Mapping[str, Shape | None]) -> tuple[str | None, str]:
    """Guess the family of models.

    Parameters
    ----------
    modules : mapping of str to (int, int) or None
        Rows and columns of the weight that each module changes. None: the file does not say.

    Returns
    -------
    architecture : str or None
        ``"sd1"``, ``"sd2"``, ``"sdxl"``, ``"sd3"``, ``"flux"``, ``"flux2"``, ``"qwen_image"``, ``"z_image"``,
        ``"wan"``. None if the names match no family, or several.
    reason : str
        The evidence for it.
    """
    names = {"_" + re.sub(r"\W", "_", module) + "_": (module, shape) for module, shape in modules.items()}
    return _by_text_width(names) or _by_marks(names) or _by_shape(names) or _unknown(names)


_Names = Mapping[str, tuple[str, "Shape | None"]]


def _by_text_width(names: _Names) -> tuple[str, str] | None:
    for name, (module, shape) in names.items():
        if re.search(_UNET, name) and name.endswith(("_attn2_to_k_", "_attn2_to_v_")) and shape:
            architecture = UNET_TEXT.get(shape[1])
            if architecture:
                return architecture, f"{module} reads text of width {shape[1]}"
    return None


def _by_marks(names: _Names) -> tuple[str, str] | None:
    for architecture, pattern in _MARKS:
        for name, (module, _) in names.items():
            if re.search(pattern, name):
                return architecture, f"it has {module}"
    return None


def _by_shape(names: _Names) -> tuple[str, str] | None:
    for name, (module, shape) in names.items():
        if re.search(_FLUX, name):
            return _flux(names)
        joint = re.search(r"_transformer_blocks_\d+_(attn_add_[qkv]_proj|ff_context)_", name)
        if joint and shape and shape[1] in _SD3_WIDTHS:
            return "sd3", f"{module} has width {shape[1]}"
    return None


def _flux(names: _Names) -> tuple[str, str]:
    """Distinguish FLUX.1 from FLUX.2: with its gated MLP, FLUX.2 has single blocks of width 9 and 4, not 7 and 5."""
    for name, (module, shape) in names.items():
        ratios = {"_linear1_": (0, 1, {7: "flux", 9: "flux2"}), "_linear2_": (1, 0, {5: "flux", 4: "flux2"})}
        for ending, (over, under, families) in ratios.items():
            if re.search(r"_single_blocks_\d+" + ending, name) and shape and shape[over] % shape[under] == 0:
                family = families.get(shape[over] // shape[under])
                if family:
                    return family, f"{module} is {shape[0]}x{shape[1]}"
    module = next(module for name, (module, _) in names.items() if re.search(_FLUX, name))
    return "flux", f"it has {module}; the names do not say whether it is FLUX.1 or FLUX.2"


def _unknown(names: _Names) -> tuple[None, str]:
    if not names:
        return None, "it changes no modules"
    first = next(iter(names.values()))[0]
    if any(re.search(_UNET, name) for name in names):
        return None, f"several UNets have modules with these names, such as {first}"
    return None, f"no known family has modules with these names, such as {first}"
