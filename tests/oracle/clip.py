"""CLIP's text encoders."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel
from webui_prompts import chunks

from .files import Weights, fill

__all__ = ["big_g", "ids", "large", "normed", "open_clip", "weighted", "with_zeros"]

_BEGIN, _END, _COMMA = 49406, 49407, 267
_DIGITS = {str(digit): 271 + digit for digit in range(10)}
_WORDS = {"a": 320, "cat": 2368, "dog": 1929, "!": 256, **_DIGITS}  # of openai/clip-vit-large-patch14's vocabulary


def _words(text: str) -> list[int]:
    return [_WORDS[word] for word in text.split()]


def ids(prompt: str, padding: int = _END) -> torch.Tensor:
    """Return the prompt's tokens; OpenCLIP pads with 0."""
    words = [_BEGIN, *_words(prompt), _END]
    return torch.tensor([words + [padding] * (77 - len(words))])


def big_g(layers: int) -> PreTrainedModel:
    """Return OpenCLIP's bigG without weights, which SDXL and Stable Diffusion 3 have, with as many layers as wanted."""
    config = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=layers, hidden_act="gelu",
        projection_dim=1280,
    )  # fmt: skip
    with torch.device("meta"):
        return CLIPTextModelWithProjection(config)


def weighted(
    encoder: PreTrainedModel, prompt: str, choose: Callable[[Any], torch.Tensor], padding: int = _END
) -> tuple[torch.Tensor, Any]:
    """Return a prompt's states as AUTOMATIC1111's web UI computes them, and the output for the first chunk.

    Each chunk of 75 tokens is encoded by itself. Its states, which `choose` takes of the output, are multiplied by the
    weights of the tokens, and then by what keeps their mean.
    """
    found, outputs = [], []
    for chunk in chunks(prompt, _words, _COMMA):
        tokens, weights = chunk.padded(_BEGIN, _END, padding)
        outputs.append(encoder(torch.tensor([tokens]), output_hidden_states=True))
        states = choose(outputs[-1])
        changed = states * torch.tensor(weights)[None, :, None]
        found.append(changed * (states.mean() / changed.mean()))
    return torch.cat(found, 1), outputs[0]


def normed(encoder: PreTrainedModel, skip: int) -> Callable[[Any], torch.Tensor]:
    """Return what takes the states of the `skip`-th layer from the end, and norms them as the last ones."""
    if skip == 1:
        return lambda output: output.last_hidden_state
    norm = getattr(encoder, "text_model", encoder).final_layer_norm
    return lambda output: norm(output.hidden_states[-skip])


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
