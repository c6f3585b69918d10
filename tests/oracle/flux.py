"""FLUX.1, Chroma, Ovis-Image and FLUX.2."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    OvisImageTransformer2DModel,
)
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from families import FamilyModel
from network_cases import Case

from . import clip
from .autoencoders import Pixels, pixels, tiny
from .files import fill, read
from .flows import Flow, Tensor, image_ids, packed, unpacked
from .flux_names import renamed
from .language_models import NO_THOUGHT, encoded, mistral, qwen3, tokens
from .tiny_autoencoders import Taef2

_SIZES = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 1, "attention_head_dim": 128}
_WIDTH = 128
_PREFIX = "model.diffusion_model."


class Flux(Flow):
    """FLUX.1 dev without T5: 512 tokens of zeros, as long as its text is."""

    def __init__(self, model: FamilyModel) -> None:
        with torch.device("meta"):
            network = FluxTransformer2DModel(**_SIZES, guidance_embeds=True)
        self.network = fill(network, renamed(read(model.weights), _WIDTH))
        network.pos_embed = type(network.pos_embed)(10000, [16, 56, 56])
        self.encoder = clip.large(read(model.engine["clip_l"]))
        self.autoencoder = tiny(model.engine["taesd"], 16)

    def text(self, prompt: str) -> Tensor:
        return self.encoder(clip.ids(prompt)).pooler_output

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        height, width = x.shape[2:]
        found = self.network(
            packed(x),
            encoder_hidden_states=torch.zeros(1, 512, 4096),
            pooled_projections=text,
            timestep=torch.tensor([level]),
            guidance=torch.tensor([case.guidance or 3.5]),
            txt_ids=torch.zeros(512, 3),
            img_ids=image_ids(height // 2, width // 2),
        ).sample
        return unpacked(found, height, width)


class Chroma(Flow):
    """Chroma without T5 and without a mask.

    Of the 344 rows of modulation those of the first two blocks of each kind, and of the last layer.
    """

    _ROWS = (*range(6), *range(114, 126), *range(228, 240), 342, 343)

    def __init__(self, model: FamilyModel) -> None:
        network = ChromaTransformer2DModel(**_SIZES)
        weights = renamed(read(model.weights), _WIDTH)
        for name in [name for name in weights if name.startswith("distilled_guidance_layer.")]:
            parts = name.replace(".in_layer.", ".linear_1.").replace(".out_layer.", ".linear_2.")
            weights[parts] = weights.pop(name)
        self.network = fill(network, weights)
        network.time_text_embed = type(network.time_text_embed)(16, 344)
        network.distilled_guidance_layer.register_forward_hook(lambda module, given, out: out[:, list(self._ROWS)])
        self.autoencoder = tiny(model.engine["taesd"], 16)

    def text(self, prompt: str) -> Tensor:
        return torch.zeros(1, 256, 4096)

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        height, width = x.shape[2:]
        found = self.network(
            packed(x),
            encoder_hidden_states=text,
            timestep=torch.tensor([level]),
            txt_ids=torch.zeros(text.shape[1], 3),
            img_ids=image_ids(height // 2, width // 2),
        ).sample
        return unpacked(found, height, width)


class Ovis(Flow):
    """The pipeline's template, 256 tokens, padding zeroed."""

    def __init__(self, model: FamilyModel) -> None:
        network = OvisImageTransformer2DModel(**_SIZES, joint_attention_dim=64)
        weights = renamed(read(model.weights), _WIDTH)
        weights = {name.replace("time_text_embed.", ""): value for name, value in weights.items()}
        weights["context_embedder_norm.weight"] = weights.pop("txt_norm.weight")
        self.network = fill(network, weights)
        self.encoder = qwen3(model.engine["llm"])
        self.autoencoder = tiny(model.engine["taesd"], 16)

    def text(self, prompt: str) -> Tensor:
        ids = [*tokens("qwen", "ovis", f" {prompt}"), *NO_THOUGHT]
        states = encoded(self.encoder, ids, length=28 + 256).last_hidden_state
        states[:, len(ids) :] = 0
        return states[:, 28:]

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        height, width = x.shape[2:]
        places = torch.zeros(text.shape[1], 3)
        places[:, 1:] += torch.arange(text.shape[1])[:, None]
        found = self.network(
            packed(x),
            encoder_hidden_states=text,
            timestep=torch.tensor([level]),
            txt_ids=places,
            img_ids=image_ids(height // 2, width // 2),
        ).sample
        return unpacked(found, height, width)


class Klein(Flow):
    """FLUX.2 klein: Qwen3's layers 9, 18 and 27, padded to 512 tokens."""

    channels, factor = 128, 16
    context = 3 * 64
    guided = False
    singles = 2

    def __init__(self, model: FamilyModel) -> None:
        network = Flux2Transformer2DModel(
            **{**_SIZES, "num_single_layers": self.singles}, joint_attention_dim=self.context,
            guidance_embeds=self.guided, in_channels=128,
        )  # fmt: skip
        weights = read(model.weights, _PREFIX)
        self.network = fill(network, convert_flux2_transformer_checkpoint_to_diffusers(weights))
        self.encoder = self.language_model(model)
        self.autoencoder = Taef2(read(model.engine["taesd"]))

    def language_model(self, model: FamilyModel) -> Any:
        return qwen3(model.engine["llm"], heads=16)

    def text(self, prompt: str) -> Tensor:
        ids = [*tokens("qwen", "begin", prompt), *NO_THOUGHT]
        states = encoded(self.encoder, ids, length=512).hidden_states
        return torch.cat([states[k] for k in (9, 18, 27)], -1)

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        height, width = x.shape[2:]
        image = torch.cartesian_prod(torch.arange(1), torch.arange(height), torch.arange(width), torch.arange(1))
        length = torch.arange(text.shape[1])
        words = torch.cartesian_prod(torch.arange(1), torch.arange(1), torch.arange(1), length)
        found = self.network(
            x.flatten(2).transpose(1, 2),
            encoder_hidden_states=text,
            timestep=torch.tensor([level]),
            guidance=torch.tensor([case.guidance or 3.5]) if self.guided else None,
            txt_ids=words[None],
            img_ids=image[None],
        ).sample
        return found.transpose(1, 2).reshape(x.shape)

    def decode(self, x: Tensor) -> Pixels:
        return pixels(self.autoencoder.decode(x))


class Flux2Dev(Klein):
    """FLUX.2 dev: Mistral's layers 10, 20 and 30, padded on the left to 512 tokens."""

    guided = True
    singles = 48

    def language_model(self, model: FamilyModel) -> Any:
        return mistral(model.engine["llm"], rope=1_000_000_000.0)

    def text(self, prompt: str) -> Tensor:
        ids = [1, *tokens("mistral", "flux2", prompt, "end")]
        states = encoded(self.encoder, ids, length=512, padding=11, left=True).hidden_states
        return torch.cat([states[k] for k in (10, 20, 30)], -1)


FAMILIES = {"flux": Flux, "chroma": Chroma, "ovis": Ovis, "flux2_klein": Klein, "flux2_dev": Flux2Dev}
