"""Headers of models of each kind: the tensors by which they are known, and files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from header_files import PAIR, Shapes, write

from sdcffi._models.files import Model, read_model
from sdcffi.params.context import ContextParams

D = "model.diffusion_model."
CLIP: Shapes = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (9, 768)}
CLIP_G: Shapes = {"conditioner.embedders.1.model.token_embedding.weight": (9, 1280)}
VAE: Shapes = {f"first_stage_model.{side}.conv_in.weight": (4, 3, 3, 3) for side in ("encoder", "decoder")}
ALONE: Shapes = {"encoder.conv_in.weight": (4, 3, 3, 3), "decoder.conv_in.weight": (4, 3, 3, 3)}
TINY: Shapes = {"encoder.layers.0.weight": (4, 3, 3, 3), "decoder.1.weight": (4, 3, 3, 3)}
LLM: Shapes = {"model.layers.0.self_attn.q_proj.weight": (8, 8), "model.embed_tokens.weight": (9, 8)}
FLUX: Shapes = {"double_blocks.0.img_attn.qkv.weight": (24, 8), "img_in.weight": (8, 64)}
FLUX2: Shapes = {**FLUX, "double_stream_modulation_img.lin.weight": (48, 8)}
CONTROL: Shapes = {"control_model.zero_convs.0.0.weight": (4, 4, 1, 1), "control_model.input_blocks.0.0.weight": (4, 4)}
LORA: Shapes = {f"{name}.{part}": shape for name in "abc" for part, shape in PAIR.items()}


def unet(width: int, channels: int = 4) -> Shapes:
    return {
        D + "input_blocks.0.0.weight": (320, channels, 3, 3),
        D + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, width),
    }


def prefixed(shapes: Shapes, prefix: str = D) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


SD1: Shapes = {**unet(768), **CLIP, **VAE}
SDXL: Shapes = {**unet(2048), **CLIP, **CLIP_G, **VAE}


def read(directory: Path, dtype: type[np.generic] = np.float16, **files: Shapes | Path) -> Model:
    """Write each file and read them together, given as `ContextParams` names them without ``_path``."""
    slots: dict[str, Any] = {}
    for slot, shapes in files.items():
        path = shapes if isinstance(shapes, Path) else write(directory / f"{slot}.safetensors", shapes, dtype)
        slots[f"{slot}_path"] = path
    return read_model(ContextParams(vae_decode_only=False, **slots))
