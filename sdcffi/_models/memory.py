"""Estimate the memory that a model and an image need.

The size of the weights follows from the headers, to about 2 %. The size of the compute buffers follows from formulas
that were fitted to the sizes that stable-diffusion.cpp (May 2026) logs on the CPU. They were measured with Stable
Diffusion 1.5 and a small FLUX.2, at 64, 256 and 512 pixels per side; from 256 pixels on they are right within a factor
of 1.5. Other models were not measured. On a GPU without flash attention, attention's matrix of scores comes on top.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator

from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.sampling import Tiling
from .files import Model
from .headers import Tensor
from .weight_types import block_sizes, parse_rules

__all__ = ["compute_bytes", "weight_bytes"]

_MIB = 1 << 20
_LONGEST_MATCHING = 1.0  # seconds
_LONGEST_NAME = 200  # characters; those of real tensors are shorter
# Tensors that keep the file's type, by `tensor_should_be_converted` of model.cpp.
_KEPT = re.compile(
    r"\.(bias|scale)$|(img_in|txt_in|time_in|vector_in|guidance_in|final_layer|[xty]_embedder|context_embedder)\."
    r"|(time_embed|label_emb)\.|pos_embed|embedding"
)
_IGNORED = ("model_ema", "text_encoders.llm.lm_head.", "text_encoders.llm.output.weight")
_WIDENED = {
    "F64": 4,
    "F8_E4M3": 2,
    "F8_E5M2": 2,
    "I64": 4,
}  # bytes per element in memory, where they differ from the file

_TEXT = 28 * _MIB  # bytes; 25 MiB for 512 tokens of Qwen3, CLIP needs less
_VAE_PIXEL, _TAE_PIXEL = 2816, 898  # bytes per pixel: 704.06 MiB and 224.5 MiB at 512x512
_RESULT_PIXEL = 15  # bytes per pixel: three floats and three bytes
_UNET_LATENT = 12 << 10  # bytes per latent pixel
_DIT_VALUE = 64  # bytes per token and unit of width
_DIT_WIDTHS = ("img_in.weight", "x_embedder.proj.weight", "x_embedder.weight", "x_embedder.proj.1.weight")
_TOKEN = 16  # pixels per side
_TEXT_TOKENS = 512


def weight_bytes(model: Model, params: ContextParams) -> int:
    """Estimate the size of the loaded weights, after conversion to `wtype` and `tensor_type_rules`.

    Parameters
    ----------
    model : Model
    params : ContextParams

    Returns
    -------
    int
        In bytes. If matching names with rules takes more than a second, the other tensors count without them.
    """
    size = 0
    rules = parse_rules(params.tensor_type_rules)
    until = time.monotonic() + _LONGEST_MATCHING
    for name, tensor in _loaded(model, params):
        if time.monotonic() > until:
            rules = []
        kind = next((kind for pattern, kind in rules if pattern.search(name[:_LONGEST_NAME])), params.wtype)
        size += _converted(name, tensor, kind)
    return size


def _loaded(model: Model, params: ContextParams) -> Iterator[tuple[str, Tensor]]:
    tiny_only = params.taesd_path is not None and not params.tae_preview_only
    ignored = (*_IGNORED, *(("first_stage_model.", "vae.") if tiny_only else ()))
    for file in model.files:
        yield from ((name, tensor) for name, tensor in file.prefixed if not name.startswith(ignored))


def _converted(name: str, tensor: Tensor, kind: str | None) -> int:
    elements = math.prod(tensor.shape)
    block, size = block_sizes().get(kind or "", (0, 0))
    row = (tensor.shape[-1:] or (1,))[0]
    if block and row % block == 0 and (block == 1 or row != elements) and not _KEPT.search(name):
        return elements // block * size
    return elements * _WIDENED[tensor.dtype] if tensor.dtype in _WIDENED else tensor.size


def compute_bytes(model: Model, params: ImageParams, context: ContextParams) -> int | None:
    """Estimate the memory that generation needs in addition to the weights.

    Text encoding, denoising and decoding run one after another and each frees its buffer, so the largest one counts.

    Parameters
    ----------
    model : Model
    params : ImageParams
    context : ContextParams

    Returns
    -------
    int or None
        In bytes. None if the architecture is unknown.
    """
    architecture = model.architecture
    if architecture is None:
        return None
    width, height = _size(params, architecture.pixel_multiple)
    if architecture.is_unet:
        sampling = _UNET_LATENT * (width * height // 64)
    else:
        sampling = _transformer(model, width, height, len(params.ref_images or ()))
    tiny = context.taesd_path is not None and not context.tae_preview_only
    decoding = (_TAE_PIXEL if tiny else _VAE_PIXEL) * _decoded_pixels(params.vae_tiling_params, width, height)
    results = _RESULT_PIXEL * width * height * (params.batch_count or 1)
    return max(_TEXT, sampling, decoding if architecture.has_autoencoder else 0) + results


def _size(params: ImageParams, multiple: int) -> tuple[int, int]:
    width, height, hires = params.width, params.height, params.hires
    assert width is not None
    assert height is not None
    if hires and hires.enabled:
        scale = hires.scale or 1.0
        targets = hires.target_width or hires.target_height, hires.target_height or hires.target_width
        width, height = targets[0] or round(width * scale), targets[1] or round(height * scale)
    return math.ceil(width / multiple) * multiple, math.ceil(height / multiple) * multiple


def _transformer(model: Model, width: int, height: int, references: int) -> int:
    shapes = {name.rpartition("diffusion_model.")[2]: t.shape for file in model.files for name, t in file.prefixed}
    hidden = next((shapes[name][0] for name in _DIT_WIDTHS if name in shapes), 3072)
    tokens = math.ceil(width / _TOKEN) * math.ceil(height / _TOKEN) * (1 + references) + _TEXT_TOKENS
    return _DIT_VALUE * hidden * tokens


def _decoded_pixels(tiling: Tiling | None, width: int, height: int) -> int:
    if tiling is None or not tiling.enabled:
        return width * height

    def side(whole: int, tile: int | None, part: float | None) -> int:
        if part:
            return round(whole * part) if part <= 1 else math.ceil(2 * whole / part)
        return min(whole, 8 * (tile or 32))

    return side(width, tiling.tile_size_x, tiling.rel_size_x) * side(height, tiling.tile_size_y, tiling.rel_size_y)
