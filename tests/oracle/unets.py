"""Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import single_file_utils as convert
from families import FamilyModel
from full_size import Layout
from network_cases import Case, discrete_levels, picture
from transformers import CLIPTextConfig, CLIPTextModel

from . import clip
from .autoencoders import Pixels, encoded, pixels, tiny
from .files import Weights, fill, read
from .loop import euler, guided, noise

Tensor = torch.Tensor
Text = dict[str, Any]
_PREFIX = "model.diffusion_model."


class _Unet:
    """A U-Net with its text encoders and autoencoder."""

    config: Mapping[str, Any] = {}
    prediction = "epsilon"

    def __init__(self, model: FamilyModel) -> None:
        self.path = model.weights
        with torch.device("meta"):
            unet = UNet2DConditionModel(**self.config)
        weights = read(self.path, _PREFIX)
        self.unet = fill(unet, self.convert(weights, unet))
        self.autoencoder = tiny(model.engine["taesd"], 4)

    def convert(self, weights: Weights, unet: UNet2DConditionModel) -> Weights:
        whole = {_PREFIX + name: value for name, value in weights.items()}
        return convert.convert_ldm_unet_checkpoint(whole, unet.config)

    def text(self, prompt: str, case: Case) -> Text:
        raise NotImplementedError

    def absent(self, case: Case) -> Text:
        """The condition without a negative prompt."""
        return self.text("", case)

    def image(self, case: Case, levels: tuple[float, ...]) -> Pixels:
        levels = case.shown(levels)
        sigmas, steps = discrete_levels(levels), dict(zip(discrete_levels(levels), levels, strict=False))
        text = self.text(case.prompt, case)
        other = self.text(case.negative, case) if case.negative else self.absent(case)

        def slope(x: Tensor, sigma: float) -> Tensor:
            scaled = x / (sigma**2 + 1) ** 0.5
            found = guided(
                case.cfg,
                lambda: self.predict(scaled, steps[sigma], text, case),
                lambda: self.predict(scaled, steps[sigma], other, case),
            )
            if self.prediction == "epsilon":
                return found
            return x * sigma / (sigma**2 + 1) + found / (sigma**2 + 1) ** 0.5

        start = noise(case.seed, 1, 4, case.height // 8, case.width // 8) * sigmas[0]
        if case.strength:
            start = start + encoded(self.autoencoder, picture(case))
        return pixels(self.autoencoder.decode(euler(start, sigmas, slope)).sample)

    def predict(self, x: Tensor, step: float, text: Text, case: Case) -> Tensor:
        """Return what the U-Net predicts of its scaled input."""
        found: Tensor = self.unet(x, step, **text).sample
        return found


class Sd1(_Unet):
    config: Mapping[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}

    def __init__(self, model: FamilyModel) -> None:
        super().__init__(model)
        self.encoder = clip.large(read(self.path, "cond_stage_model.transformer."))

    def text(self, prompt: str, case: Case) -> Text:
        states, _ = clip.weighted(self.encoder, prompt, clip.normed(self.encoder, case.more.get("clip_skip", 1)))
        return {"encoder_hidden_states": states}


class Sd2(_Unet):
    """With the text of the layer before the last, as stabilityai/stable-diffusion-2 has it: 23 layers."""

    config: Mapping[str, Any] = {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    }

    def __init__(self, model: FamilyModel) -> None:
        super().__init__(model)
        config = CLIPTextConfig(
            hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, hidden_act="gelu",
            projection_dim=512,
        )  # fmt: skip
        with torch.device("meta"):
            encoder = CLIPTextModel(config)
        self.encoder = clip.open_clip(encoder, read(self.path, "cond_stage_model.model."))

    def text(self, prompt: str, case: Case) -> Text:
        return {"encoder_hidden_states": clip.weighted(self.encoder, prompt, clip.normed(self.encoder, 1), 0)[0]}


class Sdxl(_Unet):
    """Segmind-Vega's blocks, by the table of names."""

    config: Mapping[str, Any] = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }

    def __init__(self, model: FamilyModel) -> None:
        super().__init__(model)
        self.first = clip.large(read(self.path, "conditioner.embedders.0.transformer."))
        self.second = clip.open_clip(clip.big_g(32), read(self.path, "conditioner.embedders.1.model."))

    def convert(self, weights: Weights, unet: UNet2DConditionModel) -> Weights:
        from sdxl_model import vega

        layout: Layout = vega()
        found = {}
        for module in layout.modules:
            for kind in ("weight", "bias"):
                if module.part == "unet" and f"{module.original}.{kind}" in weights:
                    found[f"{module.name}.{kind}"] = weights.pop(f"{module.original}.{kind}")
        if weights:
            raise ValueError(f"unknown: {list(weights)}")
        return found

    def text(self, prompt: str, case: Case) -> Text:
        first, _ = clip.weighted(self.first, prompt, lambda output: output.hidden_states[-2])
        second, output = clip.weighted(self.second, prompt, lambda output: output.hidden_states[-2], 0)
        return self._condition(torch.cat([first, second], -1), output.text_embeds, case)

    def absent(self, case: Case) -> Text:
        return self._condition(torch.zeros(1, 77, 2048), torch.zeros(1, 1280), case)

    def _condition(self, states: Tensor, pooled: Tensor, case: Case) -> Text:
        size = (case.height, case.width)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[*size, 0, 0, *size]])}
        return {"encoder_hidden_states": states, "added_cond_kwargs": added}


FAMILIES = {"sd1": Sd1, "sd2": Sd2, "sdxl": Sdxl}
