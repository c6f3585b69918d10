"""What a file of a model is by itself, by the names of its tensors, and which keyword of `Engine` takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .headers import Tensor

__all__ = ["DIFFUSION", "check_place", "kind_of"]

DIFFUSION = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.")
"""Beginnings of the names of a diffusion model's tensors."""

_LORA = re.compile(r"lora_(down|up|mid|A|B)\b|lora\.(down|up)\.|hada_w[12]_|lokr_w[12]")
# Kinds of files by the names of their tensors, as the file spells them.
_KINDS = {
    "a ControlNet": r"control_model\.|zero_convs\.|input_hint_block\.|controlnet_",
    "a text encoder": r"text_model\.|encoder\.block\.\d|model\.(layers\.\d|embed_tokens\.)|token_embd\.|(enc\.)?blk\.",
    "a tiny autoencoder": r"(tae\.)?(en|de)coder\.(layers\.)?\d",
    "an autoencoder": r"(first_stage_model\.|vae\.)?((encoder|decoder)\.|(post_)?quant_conv\.|conv[12]\.)",
}
_AUTOENCODERS = {"a tiny autoencoder": "taesd", "an autoencoder": "vae"}
_KEYWORDS = {"a ControlNet": "control_net", "a text encoder": "clip_l=, t5xxl= or llm", **_AUTOENCODERS}
_TAKEN = {  # slots that accept each kind
    "a ControlNet": {"control_net_path"},
    "a text encoder": {"clip_l_path", "clip_g_path", "clip_vision_path", "t5xxl_path", "llm_path", "llm_vision_path"},
    "a tiny autoencoder": {"taesd_path"},
    "an autoencoder": {"vae_path"},
    "a diffusion model": {"model_path", "diffusion_model_path", "high_noise_diffusion_model_path"},
    "a LoRA": {"photo_maker_path"},
}


def check_place(slot: str, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a file that is certainly of another kind than its keyword takes.

    Parameters
    ----------
    slot : str
        Field of `ContextParams` that names the file.
    path : Path
        The file, for the message.
    tensors : mapping of str to Tensor
        Its tensors, by the names in the file.

    Raises
    ------
    ValueError
        With what the file is, and the keyword that takes it.
    """
    kind, given = kind_of(tensors), slot.removesuffix("_path")
    if kind is None or slot in _TAKEN[kind]:
        return
    if kind == "a LoRA":
        raise ValueError(f"{given}: {path} is a LoRA: pass it to generate() as loras=")
    keyword = _KEYWORDS.get(kind, "model= or diffusion_model")
    raise ValueError(f"{given}: {path} is {kind}: pass it as {keyword}=")


def kind_of(names: Mapping[str, Tensor]) -> str | None:
    """Return the kind of a file with these tensors, such as ``"a LoRA"``; None if it is unknown."""
    adapters = sum(bool(_LORA.search(name)) for name in names)
    if adapters > len(names) / 2:
        return "a LoRA"
    if any(name.startswith(DIFFUSION[:-1]) for name in names):
        return "a diffusion model"
    for kind, pattern in _KINDS.items():
        matching = sum(bool(re.match(pattern, name)) for name in names)
        if kind in _AUTOENCODERS and not any(len(tensor.shape) >= 4 for tensor in names.values()):
            continue  # it has convolutions
        if matching > len(names) / 2 or (kind == "a ControlNet" and matching):
            return kind
    return None
