"""Write the trained networks as the files that the engine loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdcffi._files import replacing

from .corpus import Vocabulary
from .describe import STATED
from .network import HEAD, PATCH, TEXT, Autoencoder, Transformer
from .vocabulary import ROWS

CHANNELS = 64  # of the engine's autoencoder, everywhere
LATENT_CHANNELS = 32
TOKEN = 4 * LATENT_CHANNELS

Arrays = dict[str, npt.NDArray[np.generic]]


def _filled(x: Tensor, *shape: int) -> Tensor:
    """The tensor in the corner of a larger one of zeros."""
    out = torch.zeros(shape)
    out[tuple(slice(n) for n in x.shape)] = x
    return out


def _array(x: Tensor) -> npt.NDArray[np.generic]:
    """Half precision for matrices, single for vectors."""
    array: npt.NDArray[np.generic] = (
        x.detach().contiguous().float().numpy().astype(np.float16 if x.ndim > 1 else np.float32)
    )
    return array


def transformer_tensors(network: Transformer) -> Arrays:
    """The diffusion transformer, its unused latent channels filled up with zeros."""
    tensors = {name: p for name, p in network.named_parameters() if name not in ("embedding.weight", "text_norm")}
    width = network.img_in.out_features
    tensors["img_in.weight"] = _filled(tensors["img_in.weight"], width, TOKEN)
    tensors["final_layer.linear.weight"] = _filled(tensors["final_layer.linear.weight"], TOKEN, width)
    return {f"model.diffusion_model.{name}": _array(p) for name, p in tensors.items()}


def text_tensors(network: Transformer, vocabulary: Vocabulary) -> Arrays:
    """The text encoder: the embedding's trained rows, and one layer that adds nothing."""
    embedding = torch.zeros(ROWS, TEXT)
    embedding[vocabulary.ids] = network.embedding.weight.detach()
    layer = "model.layers.0."
    zeros = {
        "self_attn.q_proj": (32 * HEAD, TEXT),
        "self_attn.k_proj": (8 * HEAD, TEXT),
        "self_attn.v_proj": (8 * HEAD, TEXT),
        "self_attn.o_proj": (TEXT, 32 * HEAD),
        "mlp.gate_proj": (3 * TEXT, TEXT),
        "mlp.up_proj": (3 * TEXT, TEXT),
        "mlp.down_proj": (TEXT, 3 * TEXT),
    }
    ones = {
        "self_attn.q_norm": HEAD,
        "self_attn.k_norm": HEAD,
        "input_layernorm": TEXT,
        "post_attention_layernorm": TEXT,
    }
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": network.text_norm}
    tensors |= {f"{layer}{name}.weight": torch.zeros(shape) for name, shape in zeros.items()}
    tensors |= {f"{layer}{name}.weight": torch.ones(size) for name, size in ones.items()}
    return {name: _array(p) for name, p in tensors.items()}


def autoencoder_tensors(autoencoder: Autoencoder) -> Arrays:
    """Encoder and decoder; the branches that see the whole image stay zero."""
    tensors: dict[str, Tensor] = {}
    for side, part in (("encoder", autoencoder.encoder), ("decoder", autoencoder.decoder)):
        last = max(int(name.split(".")[1]) for name, _ in part.named_parameters())
        for name, p in part.named_parameters():
            first, final = name.startswith("layers.0."), name.startswith(f"layers.{last}.")
            out = (LATENT_CHANNELS if side == "encoder" else 3) if final else CHANNELS
            inp = (3 if side == "encoder" else LATENT_CHANNELS) if first else CHANNELS
            tensors[f"{side}.{name}"] = _filled(p, out, inp, 3, 3) if p.ndim == 4 else _filled(p, out)
    for block in (
        "encoder.layers.11",
        "encoder.layers.12",
        "encoder.layers.13",
        *(f"decoder.layers.{i}" for i in (2, 3, 4)),
    ):
        tensors[f"{block}.pool.0.weight"] = torch.zeros(4 * CHANNELS, CHANNELS, 1, 1)
        tensors[f"{block}.pool.1.weight"] = torch.ones(4 * CHANNELS)
        tensors[f"{block}.pool.1.bias"] = torch.zeros(4 * CHANNELS)
        tensors[f"{block}.pool.3.weight"] = torch.zeros(CHANNELS, 4 * CHANNELS, 1, 1)
    return {name: _array(p) for name, p in tensors.items()}


def save(tensors: Arrays, target: Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors; the file appears complete or not at all."""
    from safetensors.numpy import save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        save_file(tensors, str(temporary), metadata)
        temporary.chmod(0o644)  # safetensors writes for its owner alone


def export(directory: Path, network: Transformer, vocabulary: Vocabulary, autoencoder: Autoencoder) -> None:
    """Write the model in half precision: ``dit``, ``llm`` and ``taef2`` ``.safetensors``."""
    assert network.img_in.in_features == PATCH
    save(transformer_tensors(network), directory / "dit.safetensors", STATED)
    save(text_tensors(network, vocabulary), directory / "llm.safetensors")
    save(autoencoder_tensors(autoencoder), directory / "taef2.safetensors")
