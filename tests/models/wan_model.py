"""Wan as files that are nearly empty: its sizes are fixed in the engine, its values need not be.

Nearly all matrices are zeros in Q4_0, which a sparse file does not store: 0.8 GB by name and 50 MB on disk for Wan 2.1
1.3B, 2.9 GB and 0.2 GB for Wan 2.2 TI2V 5B. What has
values is what makes the image: embedding of patches and time, the first block's attention, biases, modulations and
head. So each input acts on the frames; the prompt does not, since the text encoder (5.7 billion weights) is left out.
The autoencoder is a tiny one (TAEHV) with random weights.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]
Values = npt.NDArray[np.floating]

_F32, _F16 = 0, 1  # ggml's numbers
Quantised = tuple[int, int, int]  # ggml's number of the type, elements in a block, and bytes
Q4_0: Quantised = (2, 32, 18)
Q2_K: Quantised = (10, 256, 84)  # every backend can multiply by it
_ALIGNMENT = 32
_LAYERS, _TEXT, _TIME, _VISION = 30, 4096, 256, 1280
_PATCH = 4  # latent pixels in a token


@dataclass(frozen=True)
class Size:
    """Width of tokens and of the layers between, and channels of the latent."""

    dim: int
    ffn: int
    latent: int


WAN21 = Size(1536, 8960, 16)
TI2V = Size(3072, 14336, 48)


@dataclass
class Weights:
    """Tensors by name: a shape alone is of zeros, of the type `zeros`."""

    seed: int
    zeros: Quantised = Q4_0
    tensors: dict[str, Values | Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._values = np.random.default_rng(self.seed).standard_normal(1 << 20).astype(np.float32)

    def random(self, name: str, *shape: int, scale: float, kind: type[np.floating] = np.float16) -> None:
        values = np.resize(np.roll(self._values, len(self.tensors) * 997), shape)
        self.tensors[name] = (values * scale).astype(kind)

    def vector(self, name: str, *shape: int, scale: float = 0.1, mean: float = 0.0) -> None:
        self.random(name, *shape, scale=scale, kind=np.float32)
        self.tensors[name] = self.tensors[name] + np.float32(mean)  # type: ignore[operator]

    def linear(self, name: str, out: int, inp: int, *, zeros: bool = True) -> None:
        if zeros:
            self.tensors[f"{name}.weight"] = (out, inp)
        else:
            self.random(f"{name}.weight", out, inp, scale=1 / math.sqrt(inp))
        self.vector(f"{name}.bias", out)

    def norm(self, name: str, width: int) -> None:
        self.vector(f"{name}.weight", width, mean=1)
        self.vector(f"{name}.bias", width)

    def conv(self, name: str, out: int, inp: int, kernel: int, *, bias: bool = True) -> None:
        self.random(f"{name}.weight", out, inp, kernel, kernel, scale=1 / (kernel * math.sqrt(inp)))
        if bias:
            self.vector(f"{name}.bias", out)

    def write(self, path: Path) -> Path:
        """Write a gguf file with holes."""
        infos, offset = b"", 0
        for name, tensor in self.tensors.items():
            shape, kind, size = self._described(tensor)
            infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
            infos += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", kind, offset)
            offset += -(-size // _ALIGNMENT) * _ALIGNMENT
        with path.open("wb") as file:
            file.write(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), 0) + infos)
            self._write_data(file)
        return path

    def _described(self, tensor: Values | Shape) -> tuple[Shape, int, int]:
        if isinstance(tensor, tuple):
            kind, elements, size = self.zeros
            return tensor, kind, math.prod(tensor) // elements * size
        return tensor.shape, _F16 if tensor.dtype == np.float16 else _F32, tensor.nbytes

    def _write_data(self, file: BinaryIO) -> None:
        position = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        for tensor in self.tensors.values():
            file.seek(position)
            if not isinstance(tensor, tuple):
                file.write(tensor.tobytes())
            position += -(-self._described(tensor)[2] // _ALIGNMENT) * _ALIGNMENT
        file.truncate(position)


def write_wan(path: Path, size: Size = WAN21, *, seed: int = 0, vace: bool = False, i2v: bool = False) -> Path:
    """Write the diffusion model: for text (TI2V: and an image) to video, VACE, or image to video."""
    weights = Weights(seed)
    dim = size.dim
    channels = 2 * size.latent + 4 if i2v else size.latent
    weights.random("patch_embedding.weight", dim * channels, 1, 2, 2, scale=0.5 / math.sqrt(channels))
    weights.vector("patch_embedding.bias", dim)
    weights.linear("text_embedding.0", dim, _TEXT)
    weights.linear("text_embedding.2", dim, dim)
    weights.linear("time_embedding.0", dim, _TIME, zeros=False)
    weights.linear("time_embedding.2", dim, dim, zeros=False)
    weights.linear("time_projection.1", 6 * dim, dim)
    for index in range(_LAYERS):
        _block(weights, f"blocks.{index}", size, i2v, zeros=index > 0)
    weights.linear("head.head", _PATCH * size.latent, dim, zeros=False)
    weights.vector("head.modulation", 1, 2, dim)
    if i2v:
        weights.norm("img_emb.proj.0", _VISION)
        weights.linear("img_emb.proj.1", _VISION, _VISION, zeros=False)
        weights.linear("img_emb.proj.3", dim, _VISION, zeros=False)
        weights.norm("img_emb.proj.4", dim)
    if vace:
        weights.random("vace_patch_embedding.weight", dim * 96, 1, 2, 2, scale=0.05)
        weights.vector("vace_patch_embedding.bias", dim)
        _block(weights, "vace_blocks.0", size, i2v=False, zeros=True)
        weights.linear("vace_blocks.0.before_proj", dim, dim, zeros=False)
        weights.linear("vace_blocks.0.after_proj", dim, dim, zeros=False)
    return weights.write(path)


def _block(weights: Weights, name: str, size: Size, i2v: bool, zeros: bool) -> None:
    weights.vector(f"{name}.modulation", 1, 6, size.dim)
    weights.norm(f"{name}.norm3", size.dim)
    for attention in ("self_attn", "cross_attn"):
        projections, norms = ["q", "k", "v", "o"], ["norm_q", "norm_k"]
        if i2v and attention == "cross_attn":
            projections += ["k_img", "v_img"]
            norms.append("norm_k_img")
        for part in projections:
            weights.linear(f"{name}.{attention}.{part}", size.dim, size.dim, zeros=zeros)
        for part in norms:
            weights.vector(f"{name}.{attention}.{part}.weight", size.dim, mean=1)
    weights.linear(f"{name}.ffn.0", size.ffn, size.dim)
    weights.linear(f"{name}.ffn.2", size.dim, size.ffn)


def write_autoencoder(path: Path, size: Size = WAN21, *, gain: float = 1.0, brightness: float = 0.0) -> Path:
    """Write the tiny autoencoder; that of TI2V works on squares of 2x2 pixels.

    `gain` and `brightness` are contrast and mean of its images, on a scale of 0 to 1.
    """
    weights = Weights(1)
    colours = 12 if size is TI2V else 3
    widths = (256, 128, 64, 64)
    weights.conv("decoder.1", widths[0], size.latent, 3)
    for level, stride in enumerate((1, 2, 2)):
        first, width = 3 + 6 * level, widths[level]
        for index in range(3):
            _memory(weights, f"decoder.{first + index}", width)
        weights.conv(f"decoder.{first + 4}.conv", stride * width, width, 1, bias=False)
        weights.conv(f"decoder.{first + 5}", widths[level + 1], width, 3, bias=False)
    weights.conv("decoder.22", colours, widths[-1], 3)
    weights.tensors["decoder.22.weight"] = weights.tensors["decoder.22.weight"] * np.float16(gain)  # type: ignore[operator]
    weights.tensors["decoder.22.bias"] = weights.tensors["decoder.22.bias"] + np.float32(brightness)  # type: ignore[operator]
    weights.conv("encoder.0", 64, colours, 3)
    for level, stride in enumerate((2, 2, 1)):
        first = 2 + 5 * level
        weights.conv(f"encoder.{first}.conv", 64, 64 * stride, 1, bias=False)
        weights.conv(f"encoder.{first + 1}", 64, 64, 3, bias=False)
        for index in range(3):
            _memory(weights, f"encoder.{first + 2 + index}", 64)
    weights.conv("encoder.17", size.latent, 64, 3)
    return weights.write(path)


def _memory(weights: Weights, name: str, width: int) -> None:
    weights.conv(f"{name}.conv.0", width, 2 * width, 3)
    weights.conv(f"{name}.conv.2", width, width, 3)
    weights.conv(f"{name}.conv.4", width, width, 3)


def write_vision(path: Path) -> Path:
    """Write CLIP ViT-H/14, with which image-to-video models look at their images."""
    weights = Weights(2)
    root = "vision_model."
    weights.random(f"{root}embeddings.patch_embedding.weight", _VISION, 3, 14, 14, scale=0.04)
    weights.vector(f"{root}embeddings.class_embedding", _VISION)
    weights.vector(f"{root}embeddings.position_embedding.weight", 257, _VISION)
    for name in (
        "pre_layernorm",
        "post_layernorm",
        *(f"encoder.layers.{i}.layer_norm{n}" for i in range(32) for n in (1, 2)),
    ):
        weights.norm(root + name, _VISION)
    for index in range(32):
        layer = f"{root}encoder.layers.{index}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights.linear(f"{layer}self_attn.{part}", _VISION, _VISION)
        weights.linear(f"{layer}mlp.fc1", 4 * _VISION, _VISION)
        weights.linear(f"{layer}mlp.fc2", _VISION, 4 * _VISION)
    weights.tensors["visual_projection.weight"] = (1024, _VISION)
    return weights.write(path)
