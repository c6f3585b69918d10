"""A model in the shape of Stable Diffusion XL, and PhotoMaker's encoder, whose images show what is set.

The U-Net is that of Segmind-Vega, the smallest of this family that the engine knows: 745 million weights, with text
encoders of 820 million. As in `sd1_model` all are zero but for one path.
"""

from __future__ import annotations

import full_size
from full_size import Layout, Names, Shape, UNet
from sd1_model import UNET

VEGA = UNet((1, 2, 4), (0, 1, 2), 0, 2048, linear_projection=True, label=2816)
LAST = r"output_blocks\.[5678]\."  # from the last block that reads the text
VISION = 1024  # width of CLIP ViT-L/14's image encoder
TEXT = 2048  # width of the two text encoders together


def vega() -> Layout:
    layout = full_size.sdxl_text()
    full_size.unet(layout, VEGA)
    without = (f"{UNET}middle_block.1.", f"{UNET}middle_block.2.")
    layout.tensors = {name: shape for name, shape in layout.tensors.items() if not name.startswith(without)}
    return layout


def photo_maker() -> dict[str, Shape]:
    """PhotoMaker, version 1: CLIP's image encoder, layers that fuse its vectors with a word, and an adapter."""
    names = Layout().named("photo_maker", "")
    root = "vision_model."
    names.tensor(f"{root}embeddings.class_embedding", VISION)
    names.tensor(f"{root}embeddings.patch_embedding.weight", VISION, 3, 14, 14)
    names.tensor(f"{root}embeddings.position_embedding.weight", 257, VISION)
    for name in ("pre_layernorm", "post_layernorm"):
        names.norm(root + name, "", VISION)
    for i in range(24):
        _layer(names, f"{root}encoder.layers.{i}.")
    names.tensor("visual_projection.weight", 768, VISION)
    names.tensor("visual_projection_2.weight", 1280, VISION)
    for mlp, inputs in (("mlp1", 2 * TEXT), ("mlp2", TEXT)):
        names.linear(f"fuse_module.{mlp}.fc1", "", TEXT, inputs)
        names.linear(f"fuse_module.{mlp}.fc2", "", TEXT, TEXT)
        names.norm(f"fuse_module.{mlp}.layernorm", "", inputs)
    names.norm("fuse_module.layer_norm", "", TEXT)
    names.tensor("lora_unet_out_2.lora_down.weight", 4, 320, 3, 3)  # its own adapter, which newer engines require
    names.tensor("lora_unet_out_2.lora_up.weight", 4, 4, 1, 1)
    return names.layout.tensors


def _layer(names: Names, layer: str) -> None:
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        names.linear(f"{layer}self_attn.{part}", "", VISION, VISION)
    names.linear(f"{layer}mlp.fc1", "", 4 * VISION, VISION)
    names.linear(f"{layer}mlp.fc2", "", VISION, 4 * VISION)
    for norm in ("layer_norm1", "layer_norm2"):
        names.norm(layer + norm, "", VISION)
