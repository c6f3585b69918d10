"""The tiny model of the tests: random weights in the shape of FLUX.2-klein.

A diffusion transformer of 1.6 million parameters, a one-layer Qwen3 text encoder of 10 million, a tiny autoencoder of
2.7 million, and a rank-4 LoRA; 30 MB of files, written in under a second. The engine reads every size from the tensors,
so to it this is a model like any other: text to image, LoRA and quantisation all work. Nothing was trained: the
images are abstract patterns.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdcffi import convert
from sdcffi._files import replacing

VERSION = 2  # raise it when other tensors are written, so that a cached model of an older release is replaced

HIDDEN = 128  # width of the transformer: a multiple of HEAD
HEAD = 128  # fixed by the rotary embedding's axes, 4 x 32
TEXT = 64  # width of the text encoder
VOCABULARY = 151_936  # the tokenizer is part of the engine, so every row must exist
DOUBLE_BLOCKS, SINGLE_BLOCKS = 2, 2
LATENT = 128  # 32 channels x 2 x 2
CHANNELS = 64  # width of the tiny autoencoder, fixed by the engine

Tensors = dict[str, npt.NDArray[Any]]

# What the transformer's file says of itself: the engine's own values, since those of klein's authors mean nothing here.
STATED = {"sdcffi.width": "512", "sdcffi.height": "512", "sdcffi.steps": "20", "sdcffi.cfg_scale": "7"}


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """Where the files of the tiny model are.

    Parameters
    ----------
    diffusion_model, llm, taesd : pathlib.Path
        Diffusion transformer, text encoder and tiny autoencoder: `Engine` takes them under these names.
    lora : pathlib.Path
        Rank-4 LoRA on four projections of the transformer.
    """

    diffusion_model: Path
    llm: Path
    taesd: Path
    lora: Path

    def engine_arguments(self) -> dict[str, Any]:
        """The keyword arguments with which `Engine` loads this model."""
        return {"diffusion_model": self.diffusion_model, "llm": self.llm, "taesd": self.taesd}

    def quantised(self, type: str = "q8_0") -> TinyModel:
        """The same model with a transformer of another weight type, converted once and kept beside it.

        Parameters
        ----------
        type : str
            Weight type as the engine names it, for example ``"q8_0"``, ``"q4_0"`` or ``"f16"``.

        Returns
        -------
        TinyModel
            Text encoder, autoencoder and LoRA are those of this model.
        """
        source = self.diffusion_model
        target = source.with_name(f"{source.stem}-{type}.gguf")
        if not target.exists() or target.stat().st_mtime_ns < source.stat().st_mtime_ns:
            convert(source, target, type=type)
        return replace(self, diffusion_model=target)


def write_model(directory: str | os.PathLike[str], seed: int = 0) -> TinyModel:
    """Write the tiny model, unless the directory already holds it.

    Parameters
    ----------
    directory : path
        Made where missing. Each file appears in it complete or not at all.
    seed : int
        Seed of the weights, 0 or more.

    Returns
    -------
    TinyModel
        The paths of the float model.
    """
    directory = Path(directory)
    stamp, content = directory / "model.json", json.dumps({"version": VERSION, "seed": seed})
    model = TinyModel(
        diffusion_model=directory / "dit.safetensors",
        llm=directory / "llm.safetensors",
        taesd=directory / "taef2.safetensors",
        lora=directory / "lora.safetensors",
    )
    paths = [model.diffusion_model, model.llm, model.taesd, model.lora]
    if all(path.exists() for path in paths) and stamp.exists() and stamp.read_text() == content:
        return model
    directory.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    rng = np.random.default_rng(seed)
    for path, build in zip(paths, (_diffusion_transformer, _text_encoder, _autoencoder, _lora), strict=True):
        _save(build(rng), path, STATED if path == model.diffusion_model else None)
    with replacing(stamp) as temporary:
        temporary.write_text(content)
    return model


def _save(tensors: Tensors, path: Path, metadata: dict[str, str] | None) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file(tensors, str(temporary), metadata)


class _Builder:
    """Collects named random tensors: half precision for matrices, single for vectors."""

    def __init__(self, rng: np.random.Generator, prefix: str = "") -> None:
        self.rng = rng
        self.prefix = prefix
        self.tensors: Tensors = {}

    def linear(self, name: str, out: int, inp: int) -> None:
        self._put(f"{name}.weight", self.rng.standard_normal((out, inp)) * inp**-0.5, np.float16)

    def ones(self, name: str, size: int) -> None:
        self._put(name, np.ones(size), np.float32)

    def zeros(self, name: str, size: int) -> None:
        self._put(name, np.zeros(size), np.float32)

    def conv(self, name: str, out: int, inp: int, kernel: int) -> None:
        self._put_conv(name, self._kernels(out, inp, kernel, (inp * kernel * kernel) ** -0.5), 0.0)

    def mirrored_conv(self, name: str, out: int, inp: int, kernel: int, *, bias: float | None = 0.0) -> None:
        """A convolution that commutes with swapping the two halves of its channels."""
        scale = (inp * kernel * kernel) ** -0.5
        same, other = (self._kernels(out // 2, inp // 2, kernel, scale) for _ in range(2))
        self._put_conv(name, np.concatenate([np.hstack([same, other]), np.hstack([other, same])]), bias)

    def split_conv(self, name: str, out: int, inp: int, kernel: int) -> None:
        """A convolution whose output channels come in halves of opposite sign."""
        half = self._kernels(out // 2, inp, kernel, (inp * kernel * kernel) ** -0.5)
        self._put_conv(name, np.concatenate([half, -half]), 0.0)

    def joined_conv(self, name: str, out: int, inp: int, kernel: int, *, bias: float, gain: float) -> None:
        """A convolution that sees only how much the two halves of its input channels differ."""
        half = self._kernels(out, inp // 2, kernel, gain * (inp * kernel * kernel) ** -0.5)
        self._put_conv(name, np.hstack([half, -half]), bias)

    def _kernels(self, out: int, inp: int, kernel: int, scale: float) -> npt.NDArray[np.float64]:
        return self.rng.standard_normal((out, inp, kernel, kernel)) * scale

    def _put_conv(self, name: str, weight: npt.NDArray[Any], bias: float | None) -> None:
        self._put(f"{name}.weight", weight, np.float16)
        if bias is not None:
            self._put(f"{name}.bias", np.full(len(weight), bias), np.float32)

    def _put(self, name: str, values: npt.NDArray[Any], dtype: type[np.floating[Any]]) -> None:
        self.tensors[self.prefix + name] = values.astype(dtype)


def _diffusion_transformer(rng: np.random.Generator) -> Tensors:
    b = _Builder(rng, "model.diffusion_model.")
    b.linear("img_in", HIDDEN, LATENT)
    b.linear("txt_in", HIDDEN, TEXT)
    b.linear("time_in.in_layer", HIDDEN, 256)
    b.linear("time_in.out_layer", HIDDEN, HIDDEN)
    for i in range(DOUBLE_BLOCKS):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}_"
            b.linear(block + "attn.qkv", 3 * HIDDEN, HIDDEN)
            b.linear(block + "attn.proj", HIDDEN, HIDDEN)
            b.ones(block + "attn.norm.query_norm.scale", HEAD)
            b.ones(block + "attn.norm.key_norm.scale", HEAD)
            b.linear(block + "mlp.0", 6 * HIDDEN, HIDDEN)
            b.linear(block + "mlp.2", HIDDEN, 3 * HIDDEN)
    for i in range(SINGLE_BLOCKS):
        block = f"single_blocks.{i}."
        b.linear(block + "linear1", 9 * HIDDEN, HIDDEN)
        b.linear(block + "linear2", HIDDEN, 4 * HIDDEN)
        b.ones(block + "norm.query_norm.scale", HEAD)
        b.ones(block + "norm.key_norm.scale", HEAD)
    b.linear("final_layer.linear", LATENT, HIDDEN)
    b.linear("final_layer.adaLN_modulation.1", 2 * HIDDEN, HIDDEN)
    b.linear("double_stream_modulation_img.lin", 6 * HIDDEN, HIDDEN)
    b.linear("double_stream_modulation_txt.lin", 6 * HIDDEN, HIDDEN)
    b.linear("single_stream_modulation.lin", 3 * HIDDEN, HIDDEN)
    return b.tensors


def _text_encoder(rng: np.random.Generator) -> Tensors:
    b = _Builder(rng, "model.")
    b.tensors["model.embed_tokens.weight"] = rng.standard_normal((VOCABULARY, TEXT), np.float32).astype(np.float16)
    layer = "layers.0."
    b.linear(layer + "self_attn.q_proj", 32 * HEAD, TEXT)
    b.linear(layer + "self_attn.k_proj", 8 * HEAD, TEXT)
    b.linear(layer + "self_attn.v_proj", 8 * HEAD, TEXT)
    b.linear(layer + "self_attn.o_proj", TEXT, 32 * HEAD)
    b.ones(layer + "self_attn.q_norm.weight", HEAD)
    b.ones(layer + "self_attn.k_norm.weight", HEAD)
    b.linear(layer + "mlp.gate_proj", 3 * TEXT, TEXT)
    b.linear(layer + "mlp.up_proj", 3 * TEXT, TEXT)
    b.linear(layer + "mlp.down_proj", TEXT, 3 * TEXT)
    b.ones(layer + "input_layernorm.weight", TEXT)
    b.ones(layer + "post_attention_layernorm.weight", TEXT)
    b.ones("norm.weight", TEXT)
    return b.tensors


def _autoencoder(rng: np.random.Generator) -> Tensors:
    """Encoder and decoder of TAEF2.

    Negating the decoder's latent swaps the two halves of the channels in every layer, and negates the image about
    mid-grey. So the images of random weights use the whole range of brightness, with no layer to calibrate.
    """
    b = _Builder(rng)

    def block(name: str, pooled: bool = False) -> None:
        for j in (0, 2, 4):
            b.mirrored_conv(f"{name}.conv.{j}", CHANNELS, CHANNELS, 3)
        if pooled:
            b.mirrored_conv(f"{name}.pool.0", 4 * CHANNELS, CHANNELS, 1, bias=None)
            b.ones(f"{name}.pool.1.weight", 4 * CHANNELS)
            b.zeros(f"{name}.pool.1.bias", 4 * CHANNELS)
            b.mirrored_conv(f"{name}.pool.3", CHANNELS, 4 * CHANNELS, 1, bias=None)

    b.conv("encoder.layers.0", CHANNELS, 3, 3)
    block("encoder.layers.1")
    for stage in range(3):
        first = 2 + 4 * stage
        b.mirrored_conv(f"encoder.layers.{first}", CHANNELS, CHANNELS, 3, bias=None)
        for j in range(1, 4):
            block(f"encoder.layers.{first + j}", pooled=stage == 2)
    b.conv("encoder.layers.14", 32, CHANNELS, 3)

    b.split_conv("decoder.layers.0", CHANNELS, 32, 3)  # layer 1 is a ReLU
    for stage in range(3):
        first = 2 + 5 * stage
        for j in range(3):
            block(f"decoder.layers.{first + j}", pooled=stage == 0)
        b.mirrored_conv(f"decoder.layers.{first + 4}", CHANNELS, CHANNELS, 3, bias=None)  # first + 3 is an upsampling
    block("decoder.layers.17")
    b.joined_conv("decoder.layers.18", 3, CHANNELS, 3, bias=0.5, gain=0.8)
    return b.tensors


def _lora(rng: np.random.Generator, rank: int = 4) -> Tensors:
    b = _Builder(rng, "diffusion_model.")
    shapes = {f"double_blocks.{i}.img_attn.proj": (HIDDEN, HIDDEN) for i in range(DOUBLE_BLOCKS)}
    shapes |= {f"single_blocks.{i}.linear2": (HIDDEN, 4 * HIDDEN) for i in range(SINGLE_BLOCKS)}
    for name, (out, inp) in shapes.items():
        b.linear(f"{name}.lora_A", rank, inp)
        b.linear(f"{name}.lora_B", out, rank)
        b.tensors[f"{b.prefix}{name}.alpha"] = np.array(rank, np.float32)
    return b.tensors
