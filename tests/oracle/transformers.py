"""Stable Diffusion 3.5, Z-Image, Qwen-Image, Wan, Anima and ERNIE-Image."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import (
    AnimaTextConditioner,
    CosmosTransformer3DModel,
    ErnieImageTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
    ZImageTransformer2DModel,
)
from diffusers.loaders import single_file_utils as convert
from diffusers.models.transformers import transformer_cosmos
from families import FamilyModel
from network_cases import Case

from . import clip
from .autoencoders import Pixels, pixels, tiny
from .files import Weights, fill, read
from .flows import Flow, Tensor, packed, unpacked
from .language_models import encoded, mistral, qwen2, qwen3, tokens
from .tiny_autoencoders import Taef2, Taehv

_T5 = {"a cat": [3, 9, 1712, 1], "cat": [1712, 1], "": [1]}  # of google/t5-v1_1-xxl's vocabulary


class Sd3(Flow):
    """Stable Diffusion 3.5 medium without T5, for which diffusers takes 256 tokens of zeros."""

    def __init__(self, model: FamilyModel) -> None:
        weights = _last_block(read(model.weights))
        with torch.device("meta"):
            network = SD3Transformer2DModel(
                num_layers=2, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
                dual_attention_layers=(0,), qk_norm="rms_norm",
            )  # fmt: skip
        self.network = fill(network, convert.convert_sd3_transformer_checkpoint_to_diffusers(weights))
        self.first = clip.large(read(model.engine["clip_l"]))
        self.second = clip.with_zeros(clip.big_g(2), read(model.engine["clip_g"]))
        self.autoencoder = tiny(model.engine["taesd"], 16)

    def text(self, prompt: str) -> tuple[Tensor, Tensor]:
        first = self.first(clip.ids(prompt), output_hidden_states=True)
        second = self.second(clip.ids(prompt, 0), output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        states = torch.nn.functional.pad(states, (0, 4096 - states.shape[-1]))
        context = torch.cat([states, torch.zeros(1, 256, 4096)], 1)
        return context, torch.cat([first.pooler_output, second.text_embeds], -1)

    def predict(self, x: Tensor, level: float, text: tuple[Tensor, Tensor], case: Case) -> Tensor:
        found: Tensor = self.network(x, text[0], text[1], torch.tensor([1000 * level])).sample
        return found


def _last_block(weights: Weights) -> Weights:
    """Make the last block the second: those between are zeros, which change nothing."""
    return {name.replace("joint_blocks.23.", "joint_blocks.1."): value for name, value in weights.items()}


class ZImage(Flow):
    """Z-Image with one layer of each kind; of Qwen3's one layer the normed output, as the engine takes it."""

    def __init__(self, model: FamilyModel) -> None:
        with torch.device("meta"):
            network = ZImageTransformer2DModel(n_layers=1, n_refiner_layers=1)
        found = convert.convert_z_image_transformer_checkpoint_to_diffusers(read(model.weights))
        self.network = fill(network, found)
        self.encoder = qwen3(model.engine["llm"])
        self.autoencoder = tiny(model.engine["taesd"], 16)

    def text(self, prompt: str) -> Tensor:
        ids = tokens("qwen", "begin", prompt, "end")
        states: Tensor = encoded(self.encoder, ids).last_hidden_state
        return states[0]

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        (found,) = self.network([x[0][:, None]], torch.tensor([1 - level]), [text], return_dict=False)[0]
        return -found.transpose(0, 1)


class QwenImage(Flow):
    def __init__(self, model: FamilyModel) -> None:
        with torch.device("meta"):
            network = QwenImageTransformer2DModel(num_layers=2)
        rope = QwenImageTransformer2DModel(num_layers=0).pos_embed
        self.network = with_zeros(network, read(model.weights))
        self.network.pos_embed = rope
        self.encoder = qwen2(model.engine["llm"])
        self.autoencoder = Taehv(read(model.engine["taesd"]))

    def text(self, prompt: str) -> Tensor:
        ids = tokens("qwen", "qwen image", prompt, "end")
        states: Tensor = encoded(self.encoder, ids).last_hidden_state
        return states[:, 34:]

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        height, width = x.shape[2:]
        found = self.network(
            packed(x),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=torch.ones(text.shape[:2], dtype=torch.long),
            timestep=torch.tensor([level]),
            img_shapes=[[(1, height // 2, width // 2)]],
        ).sample
        return unpacked(found, height, width)

    def decode(self, x: Tensor) -> Pixels:
        return frames(self.autoencoder.decode(x[:, :, None]))


class Wan(Flow):
    """Wan with one block and zeros for the text, of which it matters only that there is some."""

    size: Mapping[str, int] = {"num_attention_heads": 12, "ffn_dim": 8960, "in_channels": 16, "out_channels": 16}
    patch = 1

    def __init__(self, model: FamilyModel) -> None:
        with torch.device("meta"):
            network = WanTransformer3DModel(**self.size, num_layers=1)
        rope = WanTransformer3DModel(**{**self.size, "ffn_dim": 8}, num_layers=0).rope
        self.network = fill(network, convert.convert_wan_transformer_to_diffusers(read(model.weights)))
        self.network.rope = rope
        self.autoencoder = Taehv(read(model.engine["taesd"]), self.patch)

    def shape(self, case: Case) -> tuple[int, ...]:
        _, channels, height, width = super().shape(case)
        return (1, channels, (case.frames - 1) // 4 + 1, height, width)

    def text(self, prompt: str) -> Tensor:
        return torch.zeros(1, 256, 4096)

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        found: Tensor = self.network(x, torch.tensor([1000 * level]), text).sample
        return found

    def decode(self, x: Tensor) -> Pixels:
        return frames(self.autoencoder.decode(x))


class WanTi2v(Wan):
    channels, factor = 48, 16
    size: Mapping[str, int] = {"num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
    patch = 2


class Anima(Flow):
    """Cosmos-Predict2 with one block, and the adapter, which reads Qwen3's output by T5's tokens."""

    def __init__(self, model: FamilyModel) -> None:
        weights = {f"net.{name}": value for name, value in read(model.weights, "net.").items()}
        adapter = {name: weights.pop(name) for name in list(weights) if ".llm_adapter." in name}
        settings: dict[str, Any] = {
            "in_channels": 16, "out_channels": 16, "num_attention_heads": 16, "attention_head_dim": 128,
            "mlp_ratio": 4.0, "text_embed_dim": 1024, "adaln_lora_dim": 256, "extra_pos_embed_type": None,
            "concat_padding_mask": True, "rope_scale": (1.0, 4.0, 4.0), "max_size": (128, 240, 240),
        }  # fmt: skip
        network = CosmosTransformer3DModel(**settings, num_layers=1)
        self.network = fill(network, convert.convert_cosmos_transformer_checkpoint_to_diffusers(weights))
        found = {name.removeprefix("net.llm_adapter."): value for name, value in adapter.items()}
        self.adapter = fill(AnimaTextConditioner(), found)
        self.encoder = qwen3(model.engine["llm"])
        self.autoencoder = Taehv(read(model.engine["taesd"]))
        # The mask is zeros, of which a view will do: no torchvision.
        resized = SimpleNamespace(resize=lambda mask, size, interpolation: torch.zeros(*mask.shape[:2], *size))
        modes = SimpleNamespace(NEAREST=None)
        transformer_cosmos.transforms = SimpleNamespace(functional=resized, InterpolationMode=modes)

    def text(self, prompt: str) -> Tensor:
        states = encoded(self.encoder, tokens("qwen", prompt) or [151643]).last_hidden_state
        found: Tensor = self.adapter(states, torch.tensor([_T5[prompt]]))
        return found

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        mask = torch.zeros(1, 1, *x.shape[2:])
        found: Tensor = self.network(x[:, :, None], torch.tensor([level]), text, padding_mask=mask).sample
        return found[:, :, 0]

    def decode(self, x: Tensor) -> Pixels:
        return frames(self.autoencoder.decode(x[:, :, None]))


class Ernie(Flow):
    channels, factor = 128, 16

    def __init__(self, model: FamilyModel) -> None:
        network = ErnieImageTransformer2DModel(
            hidden_size=128, num_attention_heads=1, num_layers=2, ffn_hidden_size=384, text_in_dim=64
        )
        found = convert.convert_ernie_image_transformer_checkpoint_to_diffusers(read(model.weights))
        self.network = fill(network, found)
        self.encoder = mistral(model.engine["llm"], rope=1_000_000.0)
        self.autoencoder = Taef2(read(model.engine["taesd"]))

    def text(self, prompt: str) -> Tensor:
        states: Tensor = encoded(self.encoder, [1, *tokens("mistral", prompt)]).hidden_states[-2]
        return states

    def predict(self, x: Tensor, level: float, text: Tensor, case: Case) -> Tensor:
        lengths = torch.tensor([text.shape[1]])
        found: Tensor = self.network(x, torch.tensor([1000 * level]), text, lengths).sample
        return found

    def decode(self, x: Tensor) -> Pixels:
        return pixels(self.autoencoder.decode(x))


def frames(images: Tensor) -> Pixels:
    """Return frames of 0 to 1 as the engine writes them, one below the other."""
    values = (images.permute(0, 2, 3, 1).numpy() * 255 + 0.5).astype(np.uint8)
    return np.concatenate(list(values))


def with_zeros(model: torch.nn.Module, weights: Weights) -> torch.nn.Module:
    """Fill in the weights, and zeros for those that the file lacks."""
    missing = {name: value.shape for name, value in model.state_dict().items() if name not in weights}
    return fill(model, weights | {name: torch.zeros(shape) for name, shape in missing.items()})


FAMILIES = {
    "sd3": Sd3,
    "z_image": ZImage,
    "qwen_image": QwenImage,
    "wan_t2v": Wan,
    "wan_ti2v": WanTi2v,
    "anima": Anima,
    "ernie": Ernie,
}
