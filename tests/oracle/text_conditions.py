"""Compute with diffusers and transformers the images of the small models in tests/models/text_models.py.

    /path/to/python text_conditions.py ../data/text_conditions.npz

One step from noise to image, so that no schedule has a say. Needs torch, diffusers, transformers and this repository.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from diffusers import AutoencoderTiny, ChromaTransformer2DModel, FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.loaders import single_file_utils
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "models")]
import text_models  # noqa: E402

BEGIN, END = 49406, 49407  # of CLIP
A, CAT = 320, 2368
T5_WORDS = [3, 9, 1712]  # "a cat"; an end token has 1, padding 0
SEED, SIZE = 1, 8


def floats(path: Any) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(path).items()}


def converted(family: str, weights: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """The weights in diffusers' names; diffusers' function has the width of the published model as a number."""
    name = f"convert_{family}_transformer_checkpoint_to_diffusers"
    scope = dict(vars(single_file_utils))
    exec(inspect.getsource(scope[name]).replace("3072", str(width)), scope)
    result: dict[str, torch.Tensor] = scope[name](weights)
    return result


def noise(channels: int = 16) -> torch.Tensor:
    return torch.randn((1, channels, SIZE, SIZE), generator=torch.manual_seed(SEED))


def t5(path: Any, tokens: list[int], length: int, *, masked: bool = False) -> torch.Tensor:
    weights = floats(path)
    vocabulary, width = weights["shared.weight"].shape
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=64,
        d_ff=text_models.FEED,
        num_layers=text_models.LAYERS,
        num_heads=text_models.HEADS,
        feed_forward_proj="gated-gelu",
    )
    model = T5EncoderModel(config).eval()
    load(model, {**weights, "encoder.embed_tokens.weight": weights["shared.weight"]})
    ids = torch.tensor([tokens + [0] * (length - len(tokens))])
    mask = (torch.arange(length) < len(tokens))[None].long() if masked else None
    return model(ids, attention_mask=mask)[0]


def clip(
    weights: dict[str, torch.Tensor], tokens: list[int], pad: int, *, big: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of the last layer but one, and the pooled text."""
    sizes: dict[str, Any] = (
        {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32}
        if big
        else {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    )
    config = CLIPTextConfig(
        **sizes,
        projection_dim=sizes["hidden_size"],
        hidden_act="gelu" if big else "quick_gelu",
        bos_token_id=BEGIN,
        eos_token_id=END,
        pad_token_id=pad,
    )
    model = CLIPTextModelWithProjection(config).eval()
    weights.setdefault("text_projection.weight", torch.eye(sizes["hidden_size"]))
    load(model, weights)
    ids = [BEGIN, *tokens[:75], END]
    out = model(torch.tensor([ids + [pad] * (77 - len(ids))]), output_hidden_states=True)
    return out.hidden_states[-2], out.text_embeds


def load(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    assert not missing, missing[:5]
    assert not unexpected, unexpected[:5]


def decoded(latent: torch.Tensor, path: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    vae = AutoencoderTiny(latent_channels=16).eval()
    load(vae, floats(path))
    image = vae.decode(latent).sample[0].permute(1, 2, 0)
    return ((image / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(np.uint8)


def packed(latent: torch.Tensor) -> torch.Tensor:
    b, c, h, w = latent.shape
    return latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unpacked(tokens: torch.Tensor) -> torch.Tensor:
    b, _, c = tokens.shape
    half = SIZE // 2
    return tokens.view(b, half, half, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, SIZE, SIZE)


def positions() -> torch.Tensor:
    half = SIZE // 2
    ids = torch.zeros(half, half, 3)
    ids[..., 1] += torch.arange(half)[:, None]
    ids[..., 2] += torch.arange(half)[None]
    return ids.reshape(-1, 3)


def flux(files: dict[str, Any], tokens: list[int], words: list[int], length: int, *, guidance: bool) -> Any:
    weights = converted("flux", floats(files["diffusion_model"]), 128)
    transformer = FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=1,
        attention_head_dim=128,
        joint_attention_dim=text_models.TEXT,
        pooled_projection_dim=768,
        guidance_embeds=guidance,
    ).eval()
    load(transformer, weights)
    start = noise()
    velocity = transformer(
        hidden_states=packed(start),
        encoder_hidden_states=t5(files["t5xxl"], tokens, length),
        pooled_projections=clip(floats(files["clip_l"]), words, END)[1],
        timestep=torch.tensor([1.0]),
        img_ids=positions(),
        txt_ids=torch.zeros(length, 3),
        guidance=torch.tensor([3.5]) if guidance else None,
    ).sample
    return decoded(start - unpacked(velocity), files["taesd"])


def chroma(files: dict[str, Any], tokens: list[int]) -> Any:
    weights = converted("chroma", floats(files["diffusion_model"]), 128)
    transformer = ChromaTransformer2DModel(
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=1,
        attention_head_dim=128,
        joint_attention_dim=text_models.TEXT,
        approximator_num_channels=64,
        approximator_hidden_dim=5120,
        approximator_layers=5,
    ).eval()
    load(transformer, weights)
    # The engine numbers the modulations of two blocks of each kind as those among Chroma's 38 and 19.
    numbers = torch.tensor([*range(6), *range(114, 126), *range(228, 240), 342, 343])
    sizes = {"flip_sin_to_cos": True, "downscale_freq_shift": 0}
    transformer.time_text_embed.mod_proj = get_timestep_embedding(numbers * 1000, 32, **sizes)
    start, length = noise(), 512
    mask = (torch.arange(length) <= len(tokens))[None]
    velocity = transformer(
        hidden_states=packed(start),
        encoder_hidden_states=t5(files["t5xxl"], tokens, length, masked=True),
        timestep=torch.tensor([1.0]),
        img_ids=positions(),
        txt_ids=torch.zeros(length, 3),
        attention_mask=torch.cat([mask, torch.ones(1, SIZE * SIZE // 4, dtype=torch.bool)], 1),
    ).sample
    return decoded(start - unpacked(velocity), files["taesd"])


def sd3(files: dict[str, Any], repeats: int) -> Any:
    """SD3 with the prompt "a cat" so many times.

    The model's blocks between the first and the last are zeros, which change nothing: here they are left out.
    """
    kept = {
        name.replace("joint_blocks.23.", "joint_blocks.1."): value
        for name, value in floats(files["diffusion_model"]).items()
    }
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=384,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    ).eval()
    load(transformer, converted("sd3", kept, 1536))
    words = [A, CAT] * repeats
    states, pooled = zip(
        clip(floats(files["clip_l"]), words, END), clip(read_gguf(files["clip_g"]), words, 0, big=True), strict=True
    )
    clips = torch.cat(states, -1)
    text = t5(files["t5xxl"], T5_WORDS * repeats + [1], 256)
    start = noise()
    velocity = transformer(
        hidden_states=start,
        encoder_hidden_states=torch.cat([torch.nn.functional.pad(clips, (0, 2048)), text], 1),
        pooled_projections=torch.cat(pooled, -1),
        timestep=torch.tensor([1000.0]),
    ).sample
    return decoded(start - velocity, files["taesd"])


def read_gguf(path: Any) -> dict[str, torch.Tensor]:
    return {
        str(tensor.name): torch.from_numpy(
            gguf.dequantize(tensor.data, tensor.tensor_type)
            .astype(np.float32)
            .reshape([int(n) for n in tensor.shape[::-1]])
        )
        for tensor in gguf.GGUFReader(str(path)).tensors
    }


@torch.no_grad()
def main(target: Path) -> None:
    images: dict[str, Any] = {}
    words, tokens = [A, CAT], [*T5_WORDS, 1]
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        for name, guidance, length in (("dev", True, 512), ("schnell", False, 256)):
            files = text_models.flux(directory, guidance=guidance)
            images[f"flux {name}"] = flux(files, tokens, words, length, guidance=guidance)
            if guidance:
                images["flux dev, 256 tokens"] = flux(files, tokens, words, 256, guidance=guidance)
        files = text_models.sd3(directory)
        images["sd3"] = sd3(files, 1)
        images["sd3, 70 words"] = sd3(files, 35)
        images["chroma"] = chroma(text_models.chroma(directory), tokens)
    np.savez_compressed(target, **images)
    for name, image in images.items():
        print(name, image.mean(), image.std())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
