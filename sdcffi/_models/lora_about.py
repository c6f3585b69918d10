"""What a LoRA file says about itself: words that trigger it, the model it was made for, and the tool that wrote it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .lora_file import LoraFile

__all__ = ["About", "about", "made_for", "origin_of"]

_MOST_TAGS = 10
_TRIGGERS = (
    *("modelspec.trigger_phrase", "trigger_phrase", "trigger_words", "trigger_word", "trained_words"),
    *("activation text", "instance_prompt", "ss_trigger_words"),
)
_BASES = (
    "modelspec.architecture",
    "ss_base_model_version",
    "base_model_name_or_path",
    "base_model",
    "ss_sd_model_name",
)
# Families by what people call a base model; the first that is in the text counts.
_FAMILIES = {
    "sdxl": r"sdxl|sd_xl|xl[-_. ]?base|diffusion-xl|\bpony|illustrious|noobai",
    "sd3": r"stable-diffusion-3|sd3",
    "sd2": r"stable-diffusion-v?2|sd[-_ ]?v?2",
    "sd1": r"stable-diffusion-v?1|sd[-_ ]?v?1",
    "chroma": r"chroma",
    "flux2": r"flux[-_. ]?2|klein",
    "flux": r"flux",
    "qwen_image": r"qwen[-_ ]?image",
    "z_image": r"z[-_ ]?image",
    "anima": r"\banima\b",
    "ovis_image": r"ovis",
    "ernie_image": r"ernie",
    "wan": r"\bwan(\b|[-_0-9])",
}


@dataclass(frozen=True)
class About:
    """What a LoRA file says about itself.

    Attributes
    ----------
    trigger_words : tuple of str
        Words that its author names.
    tags : mapping of str to int
        The tags of its training images that were the most frequent, with their counts.
    base_model : mapping of str to str
        The model that it was trained on, by the keys of the metadata.
    tool : str or None
        The program that wrote it.
    unread_alpha : str or None
        An alpha in a trainer's notes that no loader applies, and that is not applied here.
    """

    trigger_words: tuple[str, ...]
    tags: Mapping[str, int]
    base_model: Mapping[str, str]
    tool: str | None
    unread_alpha: str | None


def about(file: LoraFile) -> About:
    """Read what a file says about itself."""
    notes = _notes(file)
    return About(
        _trigger_words(notes),
        _tags(notes),
        {key: notes[key] for key in _BASES if notes.get(key)},
        _tool(file, notes),
        _unread_alpha(file, notes),
    )


def _notes(file: LoraFile) -> dict[str, str]:
    found = dict(file.metadata)
    for one in file.settings:
        if base := one.values.get("base_model_name_or_path"):
            found.setdefault("base_model_name_or_path", str(base))
    return found


def _trigger_words(notes: Mapping[str, str]) -> tuple[str, ...]:
    words: list[str] = []
    for key in _TRIGGERS:
        text = notes.get(key, "")
        listed = _json(text)
        found = (
            listed if isinstance(listed, list) else [text] if key.endswith(("phrase", "prompt")) else text.split(",")
        )
        words += [str(word).strip() for word in found]
    return tuple(dict.fromkeys(word for word in words if word))


def _tags(notes: Mapping[str, str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    folders = _json(notes.get("ss_tag_frequency", ""))
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int):
                counts[tag.strip()] += count
    return dict(counts.most_common(_MOST_TAGS))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _tool(file: LoraFile, notes: Mapping[str, str]) -> str | None:
    software = _json(notes.get("software", ""))
    if isinstance(software, dict) and software.get("name"):
        return " ".join(str(software[key]) for key in ("name", "version") if software.get(key))
    if "ot_revision" in notes or "ot_config" in notes or (file.naming == "kohya" and _has(file, "lora_transformer_")):
        return "OneTrainer"
    network = notes.get("ss_network_module", "")
    is_lycoris = "lycoris" in network or file.naming == "lycoris" or {"loha", "lokr", "glora", "oft"} & {*file.kinds}
    if "ss_sd_scripts_commit_hash" in notes:
        return "kohya sd-scripts" + " with LyCORIS" * ("lycoris" in network)
    if network:
        return "kohya sd-scripts with LyCORIS" if "lycoris" in network else "kohya musubi-tuner or sd-scripts"
    if any(one.source == "adapter_config.json" for one in file.settings) or _has(file, "base_model.model."):
        return "PEFT"
    if any(one.source == "lora_adapter_metadata" for one in file.settings):
        return "diffusers"
    if is_lycoris:
        return "LyCORIS"
    if any(".processor." in name and "_lora" in name for name in file.tensors) and _has(file, "double_blocks"):
        return "XLabs"
    if any(name.endswith(".default.weight") for name in file.tensors):
        return "DiffSynth or PEFT"
    return (
        "diffusers"
        if file.naming == "diffusers"
        else "kohya's or another with its names"
        if file.naming == "kohya"
        else None
    )


def _has(file: LoraFile, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in file.tensors)


def _unread_alpha(file: LoraFile, notes: Mapping[str, str]) -> str | None:
    if "ss_network_alpha" not in notes or any(one.strength.source for one in file.adapters):
        return None
    return f"ss_network_alpha {notes['ss_network_alpha']} / ss_network_dim {notes.get('ss_network_dim', 'unknown')}"


def made_for(file: LoraFile) -> str | None:
    """Return the family of models that a LoRA was made for; None if neither its names nor its metadata say it."""
    return origin_of(file)[0]


def origin_of(file: LoraFile) -> tuple[str | None, str]:
    """Return the family of models that a LoRA was made for, and the evidence.

    Its names count, and where several families share them, what the file says.

    Returns
    -------
    family : str or None
        See `Guess`. None: unknown.
    reason : str
    """
    if file.architecture and file.is_certain:
        return file.architecture, file.architecture_reason
    notes = _notes(file)
    for key in _BASES:
        for family, pattern in _FAMILIES.items():
            if re.search(pattern, notes.get(key, ""), re.IGNORECASE):
                return family, f"{key} is {notes[key]}"
    return None, file.architecture_reason
