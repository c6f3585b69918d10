"""Names of tensors in LoRA files: the end of a name says which part of which kind of adapter the tensor is."""

from __future__ import annotations

import re

__all__ = ["KINDS", "SHARED", "partner", "split_name", "unknown_kind"]

_NAME = r"(?:\.[^.]+)?"  # of PEFT's adapter, such as ".default"

# End of a tensor's name, and its role. "{1}" is what the pattern's first group matched. The first that matches counts.
_ENDINGS = [
    (rf"\.lora_B{_NAME}\.bias", "up_bias"),
    (r"\.(?:lora_up|lora\.up|lora_linear_layer\.up)\.bias", "up_bias"),
    (rf"\.lora_(A|B){_NAME}\.weight", "{1}"),
    (rf"\.lora_(A|B){_NAME}", "{1}"),
    (rf"\.lora_embedding_(A|B){_NAME}", "embedding_{1}"),
    (r"(?<=\.processor\.qkv_lora)\.(down|up)\.weight", "{1}"),  # XLabs; 1 is the image's stream, 2 the text's
    (r"(?<=\.processor\.proj_lora)\.(down|up)\.weight", "{1}"),
    (r"(?<=\.processor\.qkv_lora[12])\.(down|up)\.weight", "{1}"),
    (r"(?<=\.processor\.proj_lora[12])\.(down|up)\.weight", "{1}"),
    (r"\.weight\.lora_(down|up|mid)", "{1}"),
    (r"\.lora_(down|up|mid)\.weight", "{1}"),
    (r"\.lora_(down|up|mid)", "{1}"),
    (r"[._]lora\.(down|up|mid)(?:\.weight)?", "{1}"),
    (r"\.lora_linear_layer\.(down|up|mid)(?:\.weight)?", "{1}"),
    (rf"\.hada_(w1_a|w1_b|w2_a|w2_b|t1|t2){_NAME}", "hada_{1}"),
    (rf"\.lokr_(w1_a|w1_b|w1|w2_a|w2_b|w2|t2){_NAME}", "lokr_{1}"),
    (r"\.(a1|a2|b1|b2)\.weight", "glora_{1}"),
    (r"\.(diff|diff_b)", "{1}"),
    (r"\.w_norm", "diff"),
    (r"\.b_norm", "diff_b"),
    (r"\.oft_blocks", "oft_blocks"),
    (rf"\.oft_R{_NAME}\.weight", "oft_packed"),
    (r"\.oft_R", "oft_packed"),
    (r"\.rescale", "rescale"),
    (rf"\.boft_(R|s){_NAME}", "boft_{1}"),
    (rf"\.ia3_l{_NAME}", "ia3_l"),
    (r"\.on_input", "on_input"),
    (r"\.dora_scale", "dora_scale"),
    (rf"\.lora_magnitude_vector{_NAME}(?:\.weight)?", "magnitude"),
    (r"(?:[._]lora|\.lora_linear_layer)?\.alpha", "alpha"),
    (r"\.lora_linear", "alpha"),  # as the engine reads it
    (r"\.scale", "scale"),
    (r"\.scalar", "scalar"),
    (r"\.weight", "ia3_weight"),  # LyCORIS; only beside ".on_input"
]
_PATTERNS = [(re.compile(f"(?:{pattern})$"), role) for pattern, role in _ENDINGS]
_PAIRS = {"A": "down", "B": "up", "embedding_A": "embedding_down", "embedding_B": "embedding_up"}
_XLABS = re.compile(r"\.processor\.(qkv|proj)_lora[12]?$")
# diffusers' names before 0.15 for layers of text encoders
_OLD_TEXT = re.compile(r"(.*\bself_attn\.)to_(q|k|v|out)")

KINDS: dict[str, frozenset[str]] = {
    "lora": frozenset({"down", "up", "mid", "embedding_down", "embedding_up", "up_bias"}),
    "loha": frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}),
    "lokr": frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
    "glora": frozenset({"glora_a1", "glora_a2", "glora_b1", "glora_b2"}),
    "diff": frozenset({"diff", "diff_b"}),
    "oft": frozenset({"oft_blocks", "oft_packed", "rescale", "boft_R", "boft_s"}),
    "ia3": frozenset({"ia3_l", "ia3_weight", "on_input"}),
}
"""Roles of each kind of adapter."""
SHARED = frozenset({"alpha", "scale", "scalar", "magnitude", "dora_scale"})
"""Roles that go with any kind, and mean nothing alone."""

# Adapters that cannot be computed, by the end of a tensor's name.
_UNKNOWN_KINDS = {
    "VeRA": r"\.vera_(lambda_b|lambda_d|A|B)",
    "VB-LoRA": r"\.vblora_\w+",
    "FourierFT": r"\.fourierft_\w+",
    "HRA": r"\.hra_u",
    "OFT of PEFT before 0.16": r"\.oft_r",
    "OFT on an embedding": r"\.oft_embedding_R",
    "AdaLoRA": r"\.lora_E|\.ranknum",
    "Poly": r"\.poly_lora_\w+",
    "Bone": r"\.bone_\w+",
    "MiSS": r"\.miss_block",
    "SHiRA": r"\.shira_\w+",
    "C3A": r"\.c3a_kernel",
    "DeLoRA": r"\.delora_\w+",
    "RandLoRA": r"\.randlora_\w+",
    "RoAd": r"\.road_\w+",
    "WaveFT": r"\.waveft_\w+",
    "GraLoRA": r"\.gralora_\w+",
    "GLoRA with Tucker's core": r"\.bm",
    "LoKr with Tucker's core in its first factor": r"\.lokr_t1",
    "replacement of whole weights": r"\.(set_weight|reshape_weight)",
    "Control-LoRA": r"lora_controlnet",
}
_UNKNOWN = {kind: re.compile(f"(?:{ending}){_NAME}(?:\\.weight)?$") for kind, ending in _UNKNOWN_KINDS.items()}


def split_name(name: str) -> tuple[str, str]:
    """Split a tensor's name.

    Parameters
    ----------
    name : str
        As in the file.

    Returns
    -------
    module : str
        The name of the layer that the tensor is for, as the file spells it.
    role : str
        One of `KINDS` or `SHARED`. Empty if the name ends in none that is known.
    """
    for pattern, role in _PATTERNS:
        if match := pattern.search(name):
            role = role.format(None, *match.groups())
            return _module(name[: match.start()]), _PAIRS.get(role, role)
    return name, ""


def _module(name: str) -> str:
    if _XLABS.search(name):
        return name
    name = name.replace(".processor", "", 1)
    if match := _OLD_TEXT.fullmatch(name):
        return f"{match[1]}{match[2]}_proj"
    return name


def unknown_kind(name: str) -> tuple[str, str] | None:
    """Return kind and module of a tensor of an adapter that cannot be computed; None for others."""
    for kind, pattern in _UNKNOWN.items():
        if match := pattern.search(name):
            return kind, _module(name[: match.start()])
    return None


def partner(name: str) -> str:
    """Return the name of the other half of a pair, or an empty string."""
    for one, other in (("lora_A", "lora_B"), ("down", "up")):
        for mine, its in ((one, other), (other, one)):
            head, found, tail = name.rpartition(mine)
            if found and split_name(name)[1] in ("down", "up"):
                return head + its + tail
    return ""
