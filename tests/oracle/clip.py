"""CLIP's text encoders."""

from __future__ import annotations

from collections.abc import Container

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedModel

from .files import Weights, fill

__all__ = ["ids", "large", "open_clip", "with_zeros"]

_BEGIN, _END = 49406, 49407
_WORDS = {"a": 320, "cat": 2368, "!": 256}  # of openai/clip-vit-large-patch14's vocabulary


def ids(prompt: str, padding: int = _END) -> torch.Tensor:
    """Return the prompt's tokens; OpenCLIP pads with 0."""
    words = [_BEGIN, *(_WORDS[word] for word in prompt.split()), _END]
    return torch.tensor([words + [padding] * (77 - len(words))])


def large(weights: Weights) -> PreTrainedModel:
    """Return CLIP ViT-L/14's text encoder.

    Its pooled output is not projected: in Stable Diffusion 3 the projection is the identity where the file has none.
    """
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12)
    with torch.device("meta"):
        model = CLIPTextModel(config)
    return _filled(model, weights)


def open_clip(model: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    """Return an encoder of OpenCLIP in the class of transformers."""
    return _filled(model, convert_open_clip_checkpoint(model, weights, prefix=""))


def with_zeros(model: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    """Return an encoder in which what the file lacks is zeros, and of which the file's further layers are zeros."""
    wanted = model.state_dict()
    weights = {name: value for name, value in weights.items() if _own(name, wanted) in wanted}
    named = {_own(name, wanted) for name in weights}
    weights |= {name: torch.zeros(value.shape) for name, value in wanted.items() if name not in named}
    return _filled(model, weights)


def _own(name: str, wanted: Container[str]) -> str:
    """The model's name of a tensor: newer transformers have no `text_model.` before some."""
    bare = name.removeprefix("text_model.")
    return bare if name not in wanted and bare in wanted else name


def _filled(model: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    wanted = model.state_dict().keys()
    found = {_own(name, wanted): value for name, value in weights.items()}
    for name, buffer in list(model.named_buffers()):
        if name.endswith("position_ids"):
            owner = model.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(buffer.shape[-1])[None]
    return fill(model, found, unused=("text_projection", "encoder.layers.23.", "text_model.encoder.layers.23."))
