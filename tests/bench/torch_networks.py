"""The same networks in PyTorch: Stable Diffusion's from diffusers, the small ones written here.

The weights are those of the files that the engine loads. Everything is as PyTorch does it when nothing is set: eager,
channels first. Each function returns the forward pass for one image of `size` pixels a side. They compute on the
device that `torch.set_default_device` names, by default the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open

Forward = Callable[[], torch.Tensor]
Weights = dict[str, torch.Tensor]


def taef2_decode(path: str, size: int, dtype: torch.dtype) -> Forward:
    """The tiny autoencoder of FLUX.2."""
    weights = _read(path, "decoder.layers.", dtype)

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.pool.0.weight" in weights:
            normed = F.group_norm(_conv(x, weights, f"{name}.pool.0"), 4, *_pair(weights, f"{name}.pool.1"))
            x = x + _conv(F.relu(normed), weights, f"{name}.pool.3")
        y = F.relu(_conv(x, weights, f"{name}.conv.0"))
        y = F.relu(_conv(y, weights, f"{name}.conv.2"))
        return F.relu(_conv(y, weights, f"{name}.conv.4") + x)

    def forward() -> torch.Tensor:
        h = F.relu(_conv(torch.tanh(latent / 3) * 3, weights, "0"))
        layer = 2
        for _ in range(3):
            for i in range(3):
                h = block(h, str(layer + i))
            h = _conv(F.interpolate(h, scale_factor=2), weights, str(layer + 4))
            layer += 5
        return _conv(block(h, str(layer)), weights, str(layer + 1)).clamp(0, 1)

    latent = torch.randn(1, 32, size // 8, size // 8, dtype=dtype)
    return forward


def rrdbnet(path: str, size: int, dtype: torch.dtype) -> Forward:
    """The upscaling network of ESRGAN, four times as wide and high, as `tests.upscaling_networks` has it in numpy."""
    weights = _read(path, "", dtype)

    def leaky(x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.2)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        seen = x
        for layer in range(1, 5):
            seen = torch.cat((seen, leaky(_conv(seen, weights, f"{name}.conv{layer}"))), 1)
        return _conv(seen, weights, f"{name}.conv5") * 0.2 + x

    def forward() -> torch.Tensor:
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

    picture = torch.rand(1, 3, size, size, dtype=dtype)
    return forward


def sd15_unet(path: str, size: int, dtype: torch.dtype) -> Forward:
    """The U-Net of Stable Diffusion 1.5 for one image and one prompt, which is a step without guidance."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    weights = convert_ldm_unet_checkpoint(_read(path, "model.diffusion_model.", dtype, keep=True), unet.config)
    _fill(unet, weights)
    latent = torch.randn(1, 4, size // 8, size // 8, dtype=dtype)
    prompt = torch.randn(1, 77, 768, dtype=dtype)
    return lambda: unet(latent, 500, prompt).sample


def sd15_decode(path: str, size: int, dtype: torch.dtype) -> Forward:
    """The autoencoder of Stable Diffusion 1.5, from the latent to an image."""
    autoencoder = _autoencoder(path, dtype)
    latent = torch.randn(1, 4, size // 8, size // 8, dtype=dtype)
    return lambda: autoencoder.decode(latent).sample


def sd15_encode(path: str, size: int, dtype: torch.dtype) -> Forward:
    """The autoencoder of Stable Diffusion 1.5, from an image to the latent."""
    autoencoder = _autoencoder(path, dtype)
    picture = torch.rand(1, 3, size, size, dtype=dtype) * 2 - 1
    return lambda: autoencoder.encode(picture).latent_dist.mean


NETWORKS: dict[str, Callable[[str, int, torch.dtype], Forward]] = {
    "taef2_decode": taef2_decode,
    "rrdbnet": rrdbnet,
    "sd15_unet": sd15_unet,
    "sd15_decode": sd15_decode,
    "sd15_encode": sd15_encode,
}


def count_operations(forward: Forward) -> float:
    """Multiplications and additions in matrix products and convolutions of one forward pass, which it does."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    on_the_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=on_the_cpu) as counter:
        forward()
    return float(counter.get_total_flops())


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
    module.eval()


def _read(path: str, prefix: str, dtype: torch.dtype, *, keep: bool = False) -> Weights:
    with safe_open(path, "pt", device=str(torch.get_default_device())) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  (it is no mapping)
        return {name if keep else name.removeprefix(prefix): file.get_tensor(name).to(dtype) for name in names}


def _conv(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    kernel = weights[f"{name}.weight"]
    return F.conv2d(x, kernel, weights.get(f"{name}.bias"), padding=kernel.shape[-1] // 2)


def _pair(weights: Weights, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]
