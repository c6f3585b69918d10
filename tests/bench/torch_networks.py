"""The same networks in PyTorch: Stable Diffusion's from diffusers, the small ones written here.

The weights are those of the files that the engine loads. Everything is as PyTorch does it when nothing is set: eager,
channels first. Each function returns a network for one image of `size` pixels a side. They compute on the device that
`torch.set_default_device` names, by default the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Network:
    """A network with inputs; a call computes it."""

    function: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]

    def __call__(self) -> torch.Tensor:
        return self.function(*self.inputs)


def taef2_decode(path: str, size: int, dtype: torch.dtype) -> Network:
    """The tiny autoencoder of FLUX.2."""
    weights = _read(path, "decoder.layers.", dtype)

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.pool.0.weight" in weights:
            normed = F.group_norm(_conv(x, weights, f"{name}.pool.0"), 4, *_pair(weights, f"{name}.pool.1"))
            x = x + _conv(F.relu(normed), weights, f"{name}.pool.3")
        y = F.relu(_conv(x, weights, f"{name}.conv.0"))
        y = F.relu(_conv(y, weights, f"{name}.conv.2"))
        return F.relu(_conv(y, weights, f"{name}.conv.4") + x)

    def forward(latent: torch.Tensor) -> torch.Tensor:
        h = F.relu(_conv(torch.tanh(latent / 3) * 3, weights, "0"))
        layer = 2
        for _ in range(3):
            for i in range(3):
                h = block(h, str(layer + i))
            h = _conv(F.interpolate(h, scale_factor=2), weights, str(layer + 4))
            layer += 5
        return _conv(block(h, str(layer)), weights, str(layer + 1)).clamp(0, 1)

    return Network(forward, (torch.randn(1, 32, size // 8, size // 8, dtype=dtype),))


def rrdbnet(path: str, size: int, dtype: torch.dtype) -> Network:
    """The upscaling network of ESRGAN, four times as wide and high, as `tests.upscaling_networks` has it in numpy."""
    weights = _read(path, "", dtype)

    def leaky(x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.2)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        seen = x
        for layer in range(1, 5):
            seen = torch.cat((seen, leaky(_conv(seen, weights, f"{name}.conv{layer}"))), 1)
        return _conv(seen, weights, f"{name}.conv5") * 0.2 + x

    def forward(picture: torch.Tensor) -> torch.Tensor:
        x = _conv(picture, weights, "conv_first")
        body, block = x, 0
        while f"body.{block}.rdb1.conv1.weight" in weights:
            inner = body
            for part in (1, 2, 3):
                inner = dense(inner, f"body.{block}.rdb{part}")
            body, block = inner * 0.2 + body, block + 1
        x = x + _conv(body, weights, "conv_body")
        for name in ("conv_up1", "conv_up2"):
            x = leaky(_conv(F.interpolate(x, scale_factor=2), weights, name))
        return _conv(leaky(_conv(x, weights, "conv_hr")), weights, "conv_last").clamp(0, 1)

    return Network(forward, (torch.rand(1, 3, size, size, dtype=dtype),))


def sd15_unet(path: str, size: int, dtype: torch.dtype) -> Network:
    """The U-Net of Stable Diffusion 1.5 for one image and one prompt, which is a step without guidance."""
    unet = _unet(path, dtype, cross_attention_dim=768)
    latent = torch.randn(1, 4, size // 8, size // 8, dtype=dtype)
    inputs = latent, torch.tensor([500.0]), torch.randn(1, 77, 768, dtype=dtype)
    return Network(lambda latent, time, prompt: unet(latent, time, prompt).sample, inputs)


def sdxl_unet(path: str, size: int, dtype: torch.dtype) -> Network:
    """The U-Net of Stable Diffusion XL for one image and one prompt."""
    unet = _unet(
        path,
        dtype,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )

    def forward(
        latent: torch.Tensor, time: torch.Tensor, prompt: torch.Tensor, pooled: torch.Tensor, sizes: torch.Tensor
    ) -> torch.Tensor:
        result: torch.Tensor = unet(
            latent, time, prompt, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
        ).sample
        return result

    latent = torch.randn(1, 4, size // 8, size // 8, dtype=dtype)
    prompt, pooled = torch.randn(1, 77, 2048, dtype=dtype), torch.randn(1, 1280, dtype=dtype)
    sizes = torch.tensor([[size, size, 0, 0, size, size]], dtype=dtype)
    return Network(forward, (latent, torch.tensor([500.0]), prompt, pooled, sizes))


def sd15_decode(path: str, size: int, dtype: torch.dtype) -> Network:
    """The autoencoder of Stable Diffusion 1.5, from the latent to an image."""
    autoencoder = _autoencoder(path, dtype)
    latent = torch.randn(1, 4, size // 8, size // 8, dtype=dtype)
    return Network(lambda latent: autoencoder.decode(latent).sample, (latent,))


def sd15_encode(path: str, size: int, dtype: torch.dtype) -> Network:
    """The autoencoder of Stable Diffusion 1.5, from an image to the latent."""
    autoencoder = _autoencoder(path, dtype)
    picture = torch.rand(1, 3, size, size, dtype=dtype) * 2 - 1
    return Network(lambda picture: autoencoder.encode(picture).latent_dist.mean, (picture,))


def flux2(path: str, size: int, dtype: torch.dtype) -> Network:
    """The transformer of FLUX.2 klein with as many blocks as the file has, for 512 tokens of text."""
    from diffusers import Flux2Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

    weights = _read(path, "model.diffusion_model.", dtype)
    hidden, text = weights["txt_in.weight"].shape
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(
            in_channels=128,
            num_layers=_blocks(weights, "double_blocks."),
            num_single_layers=_blocks(weights, "single_blocks."),
            num_attention_heads=hidden // 128,
            attention_head_dim=128,
            joint_attention_dim=text,
            mlp_ratio=3.0,
            axes_dims_rope=(32, 32, 32, 32),
            guidance_embeds=False,
        )
    _fill(transformer, convert_flux2_transformer_checkpoint_to_diffusers(weights))
    side, tokens = size // 16, torch.arange((size // 16) ** 2)
    places, words = torch.zeros(1, side * side, 4), torch.zeros(1, 512, 4)
    places[0, :, 1], places[0, :, 2], words[0, :, 3] = tokens // side, tokens % side, torch.arange(512)

    def forward(image: torch.Tensor, prompt: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = transformer(
            image, encoder_hidden_states=prompt, timestep=time, img_ids=places, txt_ids=words
        ).sample
        return result

    image, prompt = (torch.randn(1, length, width, dtype=dtype) for length, width in ((side * side, 128), (512, text)))
    return Network(forward, (image, prompt, torch.tensor([0.5], dtype=dtype)))


def language_model(tokens: int, path: str, size: int, dtype: torch.dtype) -> Network:
    """Mistral's with as many layers as the file has, for a prompt of `tokens`; `size` is of no matter."""
    from transformers import MistralConfig, MistralModel

    weights = _read(path, "model.", dtype)
    vocabulary, hidden = weights["embed_tokens.weight"].shape
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=len(weights["layers.0.mlp.up_proj.weight"]),
        num_hidden_layers=_blocks(weights, "layers."),
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    with torch.device("meta"):
        model = MistralModel(config)
    model.rotary_emb = type(model.rotary_emb)(config)  # its frequencies are in no file
    _fill(model, weights)
    words = torch.arange(tokens)[None]
    return Network(lambda words: model(words, use_cache=False).last_hidden_state, (words,))


NETWORKS: dict[str, Callable[[str, int, torch.dtype], Network]] = {
    "taef2_decode": taef2_decode,
    "rrdbnet": rrdbnet,
    "sd15_unet": sd15_unet,
    "sd15_decode": sd15_decode,
    "sd15_encode": sd15_encode,
    "sdxl_unet": sdxl_unet,
    "flux2": flux2,
    "language_model-77": partial(language_model, 77),
    "language_model-512": partial(language_model, 512),
}


def count_operations(network: Network) -> float:
    """Multiplications and additions in matrix products and convolutions of one forward pass, which it does."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    on_the_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=on_the_cpu) as counter:
        network()
    return float(counter.get_total_flops())


def _unet(path: str, dtype: torch.dtype, **sizes: Any) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        unet = UNet2DConditionModel(**sizes)
    _fill(unet, convert_ldm_unet_checkpoint(_read(path, "model.diffusion_model.", dtype, keep=True), unet.config))
    return unet


def _autoencoder(path: str, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    with torch.device("meta"):
        autoencoder = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    _fill(autoencoder, convert_ldm_vae_checkpoint(_read(path, "", dtype), autoencoder.config))
    return autoencoder


def _fill(module: torch.nn.Module, weights: Weights) -> None:
    module.load_state_dict(weights, assign=True)
    module.eval().requires_grad_(False)


def _blocks(weights: Weights, prefix: str) -> int:
    """How many blocks there are."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _read(path: str, prefix: str, dtype: torch.dtype, *, keep: bool = False) -> Weights:
    with safe_open(path, "pt", device=str(torch.get_default_device())) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  (it is no mapping)
        return {name if keep else name.removeprefix(prefix): file.get_tensor(name).to(dtype) for name in names}


def _conv(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    kernel = weights[f"{name}.weight"]
    return F.conv2d(x, kernel, weights.get(f"{name}.bias"), padding=kernel.shape[-1] // 2)


def _pair(weights: Weights, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]
