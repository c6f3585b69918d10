"""Strengths of parts and blocks of a LoRA, as `Lora.weights` has them.

A mapping has numbers for the parts of a pipeline, as diffusers' ``set_adapters`` takes them, and for a denoiser a
number or a mapping of its blocks. Lists of numbers for blocks (``lbw``) are those of sd-webui-lora-block-weight: a
block that a list has no number for gets 0, layers outside of the blocks get 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .._numbers import is_finite
from .._quoting import shown

__all__ = ["Weights", "check_weights"]

_LBW = "lbw"
_DENOISERS = ("unet", "transformer", "transformer_2")
_TEXT = ("te", "text_encoder", "text_encoder_2", "text_encoder_3", "clip_l", "clip_g", "t5xxl", "llm")
_PARTS = (*_DENOISERS, *_TEXT, "vae")
# Parts by the start of the engine's name for a weight, the one that counts first in front.
_PARTS_OF = {
    "model.high_noise_diffusion_model.": ("transformer_2", "transformer", "unet"),
    "model.diffusion_model.": ("transformer", "unet"),
    "first_stage_model.": ("vae",),
    "cond_stage_model.1.": ("clip_g", "text_encoder_2", "te"),
    "cond_stage_model.": ("clip_l", "text_encoder", "te"),
    "text_encoders.clip_l.": ("clip_l", "text_encoder", "te"),
    "text_encoders.clip_g.": ("clip_g", "text_encoder_2", "te"),
    "text_encoders.t5xxl.": ("t5xxl", "text_encoder_3", "text_encoder_2", "te"),
    "text_encoders.": ("llm", "text_encoder", "te"),
}
_UNET_BLOCK = re.compile(r"^model\.diffusion_model\.(input|middle|output)_blocks?\.(\d+)\.")
_FLUX_BLOCK = re.compile(r"^model\.diffusion_model\.(double|single)_blocks\.(\d+)\.")
_LAYERS = 3  # of a block, the downsampler among them
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def check_weights(weights: Any, where: str) -> str | dict[str, Any] | None:
    """Check strengths of parts and blocks.

    Parameters
    ----------
    weights : str, mapping or None
        See `Lora`.
    where : str
        Name in messages.

    Returns
    -------
    str, dict or None
        The same, as JSON would return it.

    Raises
    ------
    TypeError, ValueError
        If it has an unknown part or preset, something that is not a finite number, or a list of a wrong length.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        _ratios(weights, where)
        return weights
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"{where} must be a mapping of parts to numbers, or a preset such as 'OUTALL', not {shown(weights)}"
        )
    checked: dict[str, Any] = {}
    for part, value in weights.items():
        if part == _LBW:
            if not isinstance(value, str):
                raise TypeError(
                    f"{where}[{_LBW!r}] must be a preset or numbers separated by commas, not {shown(value)}"
                )
            _ratios(value, where)
            checked[part] = value
        elif part not in _PARTS:
            raise ValueError(f"{where} has no part {shown(part)}; legal: {', '.join(_PARTS)}, {_LBW}")
        else:
            checked[part] = _checked(value, f"{where}[{shown(part)}]", part in _DENOISERS)
    return checked


def _checked(value: Any, where: str, may_have_blocks: bool) -> Any:
    if isinstance(value, Mapping) and may_have_blocks:
        return {
            str(name): _checked_blocks(inner, f"{where}[{shown(name)}]")
            if name in ("down", "up")
            else _number(inner, where)
            for name, inner in value.items()
        }
    return _number(value, where)


def _checked_blocks(value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        return _number(value, where)
    for name in value:
        if not re.fullmatch(r"block_\d+", str(name)):
            raise ValueError(f"{where} has no block {shown(name)}; blocks are block_0, block_1, ...")
    return {
        name: [_number(item, where) for item in inner]
        if isinstance(inner, Sequence) and not isinstance(inner, str) and len(inner) != 1
        else _number(inner, where)
        for name, inner in value.items()
    }


def _number(value: Any, where: str) -> float:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{where} must be a number, not {shown(value)}")
    if not is_finite(value):
        raise ValueError(f"{where} must be finite, not {shown(value)}")
    return float(value)


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("lora_blocks.json").read_text(encoding="utf-8"))
    table["blocks"] = {int(count): list(_names(text)) for count, text in table["blocks"].items()}
    return table


def _names(text: str) -> Iterator[str]:
    for word in text.split():
        first, dash, last = word.partition("-")
        kind = first.rstrip("0123456789")
        if not dash:
            yield word
            continue
        for index in range(int(first.removeprefix(kind)), int(last.removeprefix(kind)) + 1):
            yield f"{kind}{index:02}"


def _ratios(text: str, where: str) -> dict[str, float]:
    """Return the strengths of blocks by name that a preset or a list of numbers means."""
    table = _table()
    if text.strip() in table["presets"]:
        numbers = table["presets"][text.strip()]
    else:
        words = text.split(",")
        numbers = [float(word) for word in words if _NUMBER.fullmatch(word)]
        if len(numbers) != len(words) or len(numbers) not in table["blocks"]:
            counts = ", ".join(map(str, table["blocks"]))
            raise ValueError(
                f"{where}: {shown(text)} is neither one of {', '.join(table['presets'])} nor {counts} numbers separated"
                " by commas"
            )
    return dict(zip(table["blocks"][len(numbers)], numbers, strict=True))


class Weights:
    """Finds the strength of a weight.

    Parameters
    ----------
    weights : str, mapping or None
        `Lora.weights`.
    where : str
        Name in messages.
    """

    def __init__(self, weights: Any, where: str) -> None:
        checked = check_weights(weights, where)
        lbw = checked if isinstance(checked, str) else (checked or {}).get(_LBW)
        self._where = where
        self._parts = checked if isinstance(checked, dict) else {}
        self._ratios = _ratios(lbw, where) if lbw else {}
        self._is_even = len({*self._ratios.values()}) == 1
        self._unmatched = {
            (part, name)
            for part, blocks in self._parts.items()
            if isinstance(blocks, dict)
            for name in blocks
            if name not in ("down", "mid", "up")
        }

    def of(self, weight: str, module: str) -> float:
        """Return the strength for a weight.

        Parameters
        ----------
        weight : str
            The engine's name of it.
        module : str
            The file's name of the layer.

        Raises
        ------
        ValueError
            If a list is for blocks that the model does not have.
        """
        parts = next((parts for start, parts in _PARTS_OF.items() if weight.startswith(start)), ())
        if own := re.match(r"(text_encoder(?:_\d)?)\.|lora_te(\d?)_", module):
            number = own[2]
            parts = (own[1] or (f"text_encoder_{number}" if number in ("2", "3") else "text_encoder"), *parts)
        part = next((part for part in parts if part in self._parts), None)
        value = self._parts[part] if part else 1.0
        if isinstance(value, dict):
            value = self._block(part or "", value, weight, module)
        return float(value) * self._ratio(weight, parts)

    def check_matched(self) -> None:
        """Check that every layer that the weights name was found.

        Raises
        ------
        ValueError
            With those that were not.
        """
        if self._unmatched:
            names = ", ".join(sorted(f"{shown(name)} of {part}" for part, name in self._unmatched))
            raise ValueError(f"{self._where}: no layer of the LoRA is in {names}")

    def _block(self, part: str, blocks: Mapping[str, Any], weight: str, module: str) -> float:
        for name, value in blocks.items():
            if name not in ("down", "mid", "up") and any(f".{name}." in f".{text}." for text in (module, weight)):
                self._unmatched.discard((part, name))
                return float(value)
        match = _UNET_BLOCK.match(weight)
        if not match:
            return 1.0
        if match[1] == "middle":
            return float(blocks.get("mid", 1.0))
        number = int(match[2])
        if match[1] == "input" and number == 0:
            return 1.0
        which = "up" if match[1] == "output" else "down"
        block, layer = divmod(number - (which == "down"), _LAYERS)
        value = blocks.get(which, 1.0)
        if isinstance(value, dict):
            value = value.get(f"block_{block}", 1.0)
        if isinstance(value, list):
            layer = layer if which == "up" or layer < 2 else 0  # diffusers takes the first for a downsampler
            if layer >= len(value):
                raise ValueError(
                    f"{self._where}: {which} block_{block} needs a number for each of its layers, not {value}"
                )
            value = value[layer]
        return float(value)

    def _ratio(self, weight: str, parts: Sequence[str]) -> float:
        if not self._ratios:
            return 1.0
        if self._is_even:  # ALL and the like mean the same for every model
            return next(iter(self._ratios.values()))
        if "te" in parts:
            return self._text_ratio(parts)
        is_flux = "S00" in self._ratios
        if match := (_FLUX_BLOCK if is_flux else _UNET_BLOCK).match(weight):
            kind = {"input": "IN", "middle": "M", "output": "OUT", "double": "D", "single": "S"}[match[1]]
            name = "M00" if kind == "M" else f"{kind}{int(match[2]):02}"
            return self._ratios.get(name, 0.0)
        other = _UNET_BLOCK if is_flux else _FLUX_BLOCK
        if other.match(weight) or (
            not is_flux and re.search(r"\.(joint_|transformer_)?(blocks|layers)\.\d+\.", weight)
        ):
            blocks = "FLUX.1" if is_flux else "UNets"
            raise ValueError(f"{self._where}: the list of {len(self._ratios)} numbers is for the blocks of {blocks}")
        if is_flux and "final_layer." in weight:
            return self._ratios.get("OUT", 1.0)
        if is_flux and re.search(r"_in\.", weight):
            return self._ratios.get("IN", 1.0)
        return 1.0

    def _text_ratio(self, parts: Sequence[str]) -> float:
        name = "T5" if "t5xxl" in parts else "CLIP"
        return self._ratios.get("TE", self._ratios.get(name, 1.0))
