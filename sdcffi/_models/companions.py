"""Tensors of a model file that say how others are to be read, such as the scales of 8-bit weights.

The engine reads tensors one by one and knows none of these: it would take weights without their scales for the weights
themselves. So each is applied while loading (csrc/engine/weight_scales.hpp), or known to be of no use, or refused.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

from .._quoting import shown
from .headers import read_metadata
from .tensors import HeaderError, Tensor

__all__ = ["read_by", "sort_companions", "strays"]

_FACTORS = (".scale_weight", ".weight_scale")  # of ComfyUI, before and since comfy_quant
_EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
_FORMATS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fn_scaled", "float8_e5m2_scaled")
_QUANTISATION = "_quantization_metadata"  # of ComfyUI, in the header's metadata
_MOST_TEXT = 1 << 16
_NUMBERS = {"F32": "<f", "F16": "<e"}
_INSTEAD = "get the model in F16, BF16, F8 or as gguf"
_BLOCK = re.compile(r"(.*\.\d+)\.")
_MARK = re.compile(r"((?:.*\.)?)scaled_fp8")  # of ComfyUI, before comfy_quant: layers below it have scales
# Layers that are looked up, not multiplied, and parts of language models that are not read, have none there.
_UNSCALED = re.compile(
    r"(^|\.)((shared|embed|embed_tokens\w*|token_embedding|position_embedding|relative_attention_bias|lm_head)$"
    r"|(visual|vision_tower|vision_model|audio_tower|multi_modal_projector)\.)"
)

_NO_USE = {
    r"\.(scale_input|input_scale)$": "the inputs' scale, for 8-bit products, which are not computed here",
    r"(^|\.)scaled_fp8$": "a mark that the file has scales",
    r"(^|\.)(spiece_model|tekken_model|tokenizer_json)$": "a tokenizer; the engine has its own",
}
_FOREIGN = {
    r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+)$": "NF4 or FP4 of bitsandbytes",
    r"\.(SCB|weight_format)$": "8-bit integers of bitsandbytes",
    r"\.(qweight|qzeros|g_idx|wscales|wtscale|wcscales|wzeros|smooth_factor|smooth_factor_orig)$": (
        "GPTQ, AWQ or SVDQuant"
    ),
    r"\.weight_scale_inv$": "8 bits with scales of blocks",
    r"\.(weight_scale_2|weight_global_scale|weight_packed|weight_zero_point|weight_shape)$": (
        "NVFP4 or compressed-tensors"
    ),
    r"\._(data|scale|shift)$": "quanto",
}
# Ends of names that say how the weights beside them are to be read, in ways that nothing here knows.
_STRAY = re.compile(
    r"([._]|^)(scales?|scaling_factor|zeros?|zero_points?|a?max|smooth|scb|svd_(up|down))(_\w+)?$", re.I
)


def strays(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that seem to say how a weight beside them is to be read, and that nothing uses.

    The engine reports them when it loads a model, but not when it converts one.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Those that `sort_companions` left.
    """
    return [name for name in tensors if _STRAY.search(name.rpartition(".")[2]) and _beside(name, tensors)]


def read_by(name: str, names: Collection[str]) -> str | None:
    """Return the tensor that another one says how to read, by its name; None if it is of another kind.

    Parameters
    ----------
    name : str
        The one that may be a scale or the like, of a kind that is known or not.
    names : collection of str
        All of the file.
    """
    is_one = _STRAY.search(name.rpartition(".")[2]) or name.endswith(".comfy_quant") or _first(_FOREIGN, name)
    return _beside(name, names) if is_one else None


def _beside(name: str, names: Collection[str]) -> str | None:
    layer = name.rpartition(".")[0]
    above = layer.rpartition(".")[0]  # of L.weight.scale, L.weight_quantizer._amax, L.weight.quant_state.nf4
    return next((weight for weight in (f"{layer}.weight", layer, f"{above}.weight", above) if weight in names), None)


def sort_companions(
    path: Path, kind: str, tensors: Mapping[str, Tensor], elsewhere: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tell a model's own tensors from those that say how these are to be read.

    Parameters
    ----------
    path : Path
        The file, whose header was read.
    kind : str
        Its format.
    tensors : mapping of str to Tensor
        All of its tensors.
    elsewhere : mapping of str to str
        Names of the tensors in the model's other parts, with the name of each part.

    Returns
    -------
    own : dict of str to Tensor
        Those that the engine reads, scaled by what the file says.
    unused : dict of str to str
        Names of those that are of no use, and why.

    Raises
    ------
    HeaderError
        With a tensor that the engine would need and cannot apply.
    """
    own, unused = dict(tensors), {}
    with path.open("rb") as file:

        def content(tensor: Tensor) -> bytes:
            file.seek(tensor.begin)
            return file.read(tensor.size)

        for name, tensor in tensors.items():
            if name.endswith(_FACTORS):
                _check_weight(name, tensors, elsewhere)
                _check_factor(name, tensor, tensors, content(tensor) if tensor.size <= _MOST_TEXT << 4 else b"")
            elif name.endswith(".comfy_quant"):
                _check_format(name, content(tensor)[:_MOST_TEXT])
                _check_scaled(name.removesuffix(".comfy_quant"), f"{name!r} says that it has one", tensors, elsewhere)
            elif reason := _first(_NO_USE, name):
                unused[name] = reason
            elif scheme := _foreign(name, tensor, tensors):
                raise HeaderError(f"tensor {name!r}: the weights are stored as {scheme}, not read here: {_INSTEAD}")
            else:
                continue
            del own[name]
    if kind == "safetensors" and any(tensor.dtype in (*_EIGHT_BITS, "U8") for tensor in tensors.values()):
        _check_metadata(path, tensors, elsewhere)
    _check_unmarked(tensors, elsewhere)
    return own, unused


def _first(patterns: Mapping[str, str], name: str) -> str | None:
    return next((meaning for pattern, meaning in patterns.items() if re.search(pattern, name)), None)


def _foreign(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> str | None:
    if scheme := _first(_FOREIGN, name):
        return scheme
    if tensor.dtype == "U8" and tensor.size:
        return "packed bytes (U8), such as NVFP4, NF4 or FP4"
    layer = name.removesuffix(".scale")
    partner = tensors.get(f"{layer}.weight") if layer != name and math.prod(tensor.shape) == 1 else None
    return "NVFP4 with scales" if partner is not None and partner.dtype == "NVFP4" else None


def _layer(name: str) -> str:
    return next(name.removesuffix(end) for end in _FACTORS if name.endswith(end))


def _check_weight(name: str, tensors: Mapping[str, Tensor], elsewhere: Mapping[str, str]) -> None:
    weight = f"{_layer(name)}.weight"
    if weight in elsewhere and weight not in tensors:
        _refuse_apart(name, weight, elsewhere[weight])
    if weight not in tensors:
        raise HeaderError(f"tensor {name!r} is a scale, but the file has no {weight!r} that it is of")


def _refuse_apart(scale: str, weight: str, part: str) -> None:
    raise HeaderError(
        f"the scale {scale!r} and its weight {weight!r} are in different parts of the model (the other is in {part}),"
        f" which cannot be applied here: get the model as one file, or {_INSTEAD.removeprefix('get the model ')}"
    )


def _check_scaled(layer: str, why: str, tensors: Mapping[str, Tensor], elsewhere: Mapping[str, str]) -> None:
    """Refuse 8-bit weights that have no scale although the file says that they have one."""
    weight = tensors.get(f"{layer}.weight")
    if weight is None or weight.dtype not in _EIGHT_BITS or any(layer + end in tensors for end in _FACTORS):
        return
    for end in _FACTORS:
        if layer + end in elsewhere:
            _refuse_apart(layer + end, f"{layer}.weight", elsewhere[layer + end])
    raise HeaderError(
        f"{layer + '.weight'!r} has 8 bits and no scale ({' or '.join(repr(layer + end) for end in _FACTORS)}), though"
        f" {why}: download the file again"
    )


def _check_unmarked(tensors: Mapping[str, Tensor], elsewhere: Mapping[str, str]) -> None:
    """Refuse 8-bit weights without scales below a mark, or, if the file has none, where others beside them have one."""
    marks = {match[1]: name for name in (*tensors, *elsewhere) if (match := _MARK.fullmatch(name))}
    scales = [] if marks or any(name.endswith(".comfy_quant") for name in tensors) else tensors
    beside = {kin: name for name in scales if name.endswith(_FACTORS) for kin in _kin(_layer(name))}
    for name, tensor in tensors.items() if marks or beside else ():
        layer = name.removesuffix(".weight")
        if layer == name or len(tensor.shape) != 2 or _UNSCALED.search(layer):
            continue
        if mark := next((mark for start, mark in marks.items() if name.startswith(start)), None):
            _check_scaled(layer, f"the mark {mark!r} says that it has one", tensors, elsewhere)
        elif scale := next((beside[kin] for kin in _kin(layer) if kin in beside), None):
            _check_scaled(layer, f"{scale!r} is beside it", tensors, elsewhere)


def _kin(layer: str) -> list[str]:
    """Return what a layer has in common with the same one of other blocks, and with others of its block."""
    block = _BLOCK.match(layer)
    return [re.sub(r"\d+", "#", layer), *([block[1]] if block else [])]


def _check_factor(name: str, tensor: Tensor, tensors: Mapping[str, Tensor], content: bytes) -> None:
    layer = _layer(name)
    weight = tensors[f"{layer}.weight"]
    if all(layer + end in tensors for end in _FACTORS):
        raise HeaderError(f"tensor {name!r}: {layer!r} has two scales, {' and '.join(_FACTORS)}: {_INSTEAD}")
    rows = weight.shape[0] if weight.shape else 1
    count = math.prod(tensor.shape)
    values = _values(tensor, content)
    if values is None or count not in (1, rows) or (count > 1 and tensor.shape[0] != rows):
        raise HeaderError(
            f"tensor {name!r} is a scale of type {tensor.dtype} and shape {tensor.shape}; those that can be applied are"
            f" F32, F16 or BF16, one number or one for each of {rows} rows: {_INSTEAD}"
        )
    bad = next((value for value in values if not math.isfinite(value) or value == 0), None)
    if bad is not None:
        raise HeaderError(f"tensor {name!r}: a scale must be finite and not 0, not {bad}: download the file again")
    if weight.dtype not in _EIGHT_BITS:
        raise HeaderError(
            f"tensor {name!r} is the scale of weights of type {weight.dtype}; only {' and '.join(_EIGHT_BITS)} are"
            f" scaled here: {_INSTEAD}"
        )


def _values(tensor: Tensor, content: bytes) -> list[float] | None:
    if tensor.dtype == "BF16":
        content = b"".join(b"\0\0" + content[at : at + 2] for at in range(0, len(content), 2))
    layout = _NUMBERS.get("F32" if tensor.dtype == "BF16" else tensor.dtype)
    if layout is None or not content:
        return None
    return [float(value) for (value,) in struct.iter_unpack(layout, content)]


def _check_format(name: str, content: bytes) -> None:
    try:
        values = json.loads(content)
        found = values.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise HeaderError(f"tensor {name!r} must hold a JSON object: {shown(str(error))}") from error
    _check_known(f"tensor {name!r}", found)


def _check_metadata(path: Path, tensors: Mapping[str, Tensor], elsewhere: Mapping[str, str]) -> None:
    text = read_metadata(path).get(_QUANTISATION)
    if text is None:
        return
    try:
        layers = json.loads(text)["layers"]
        formats = {layer: values.get("format") for layer, values in layers.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderError(f"{_QUANTISATION} in its metadata is malformed: {shown(str(error))}") from error
    for layer, found in formats.items():
        _check_known(f"layer {shown(layer)} in {_QUANTISATION}", found)
        _check_scaled(layer, f"{_QUANTISATION} in its metadata says that it has one", tensors, elsewhere)


def _check_known(whose: str, found: object) -> None:
    if found not in _FORMATS:
        raise HeaderError(f"{whose}: format {shown(found)} is not one of {', '.join(_FORMATS)}: {_INSTEAD}")
