"""What tools really write: `python -m lora_oracle.written`, once with each version that counts; results are added.

Small models get an adapter, the tool saves it, and the names and the header of the file are kept.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from diffusers.utils.state_dict_utils import convert_all_state_dict_to_peft, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

__all__ = ["main"]

_FILE = Path(__file__).parent.parent / "data/lora_names/written.json"
_PACKAGES = ("diffusers", "transformers", "peft", "lycoris-lora")
_KEPT = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias")
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
Models = dict[str, torch.nn.Module]


def _clip(projection: bool = False) -> torch.nn.Module:
    config = CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64,
        projection_dim=16,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def _t5() -> torch.nn.Module:
    return T5EncoderModel(T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=64))


def _unet(**more: Any) -> torch.nn.Module:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4, **more
    )


def _sd1() -> torch.nn.Module:
    return _unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
    )


def _xl() -> torch.nn.Module:
    return _unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64,
        use_linear_projection=True,
    )  # fmt: skip


_HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
_FLUX = {"num_layers": 1, "num_single_layers": 1, "in_channels": 4, "joint_attention_dim": 16, **_HEADS}
_JOINT = [*_ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


def _flux() -> torch.nn.Module:
    return diffusers.FluxTransformer2DModel(pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), **_FLUX)


def _sd3() -> torch.nn.Module:
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        num_layers=1,
        caption_projection_dim=32,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        **_HEADS,
    )


def _flux2() -> torch.nn.Module:
    return diffusers.Flux2Transformer2DModel(**{**_FLUX, "axes_dims_rope": (4, 4, 4, 4)})


def _wan() -> torch.nn.Module:
    return diffusers.WanTransformer3DModel(num_layers=1, ffn_dim=32, text_dim=16, freq_dim=16, **_HEADS)


def _z_image() -> torch.nn.Module:
    return diffusers.ZImageTransformer2DModel(
        dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 4, 8]
    )


def _qwen() -> torch.nn.Module:
    return diffusers.QwenImageTransformer2DModel(
        num_layers=1, in_channels=16, joint_attention_dim=16, axes_dims_rope=(4, 4, 8), **_HEADS
    )


# By pipeline: its models and the layers that diffusers' own training scripts target.
_PIPELINES: dict[str, tuple[str, Callable[[], Models], dict[str, list[str]]]] = {
    "StableDiffusionPipeline": (
        "sd1", lambda: {"unet": _sd1(), "text_encoder": _clip()}, {"unet": [*_ATTENTION, "conv1", "conv_in"]}
    ),
    "StableDiffusionXLPipeline": (
        "sdxl",
        lambda: {"unet": _xl(), "text_encoder": _clip(), "text_encoder_2": _clip(projection=True)},
        {"unet": [*_ATTENTION, "add_embedding.linear_1"]},
    ),
    "StableDiffusion3Pipeline": (
        "sd3",
        lambda: {"transformer": _sd3(), "text_encoder": _clip(True), "text_encoder_2": _clip(True)},
        {"transformer": [*_JOINT, "norm_out.linear"]},
    ),
    "FluxPipeline": (
        "flux",
        lambda: {"transformer": _flux(), "text_encoder": _clip()},
        {"transformer": [*_JOINT, "proj_mlp", "proj_out", "norm_out.linear"]},
    ),
    "Flux2Pipeline": ("flux2", lambda: {"transformer": _flux2()}, {"transformer": [*_JOINT, "to_qkv_mlp_proj"]}),
    "WanPipeline": ("wan", lambda: {"transformer": _wan()}, {"transformer": [*_ATTENTION, "ffn.net.0.proj"]}),
    "ZImagePipeline": (
        "z_image",
        lambda: {"transformer": _z_image()},
        {"transformer": [*_ATTENTION, "w1", "layers.0.adaLN_modulation.0"]},
    ),
    "QwenImagePipeline": ("qwen_image", lambda: {"transformer": _qwen()}, {"transformer": [*_JOINT, "img_mod.1"]}),
}  # fmt: skip


def _config(targets: list[str]) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules=targets, rank_pattern={"to_q": 2}, alpha_pattern={"to_q": 1})


def _header(path: Path) -> tuple[list[str], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        metadata: dict[str, Any] = dict(file.metadata() or {})
        names = list(file.keys())
    if "lora_adapter_metadata" in metadata:
        found = json.loads(metadata["lora_adapter_metadata"])
        kept = {name: value for name, value in sorted(found.items()) if name.split(".")[-1] in _KEPT}
        metadata["lora_adapter_metadata"] = kept
    return names, metadata


def _saved(
    pipeline: str, models: Models, targets: dict[str, list[str]]
) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """Save adapters with the pipeline's `save_lora_weights`, and as its training scripts do for other programs."""
    layers = {}
    for part, model in models.items():
        inject_adapter_in_model(_config(targets.get(part, _TEXT)), model)  # as `add_adapter` of both libraries
        layers[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
    with tempfile.TemporaryDirectory() as folder:
        cls = getattr(diffusers, pipeline)
        cls.save_lora_weights(folder, **layers, **_collate_lora_metadata(dict(models)))
        path = Path(folder, "pytorch_lora_weights.safetensors")
        yield f"diffusers.{pipeline}.save_lora_weights", *_header(path)
        if "unet" in models:
            kohya = convert_state_dict_to_kohya(convert_all_state_dict_to_peft(load_file(path)))
            yield "diffusers.utils.convert_state_dict_to_kohya", list(kohya), {}


def _peft(model: torch.nn.Module, targets: list[str]) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    wrapped = get_peft_model(model, _config(targets))
    with tempfile.TemporaryDirectory() as folder:
        wrapped.save_pretrained(folder)
        names, metadata = _header(Path(folder, "adapter_model.safetensors"))
        config = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
        metadata["adapter_config.json"] = {name: config[name] for name in _KEPT if name in config}
        yield "peft.PeftModel.save_pretrained", names, metadata
    adapters = [name for name in wrapped.state_dict() if "lora_" in name]
    yield "peft.PeftModel.state_dict", adapters, {}


def _lycoris(model: torch.nn.Module) -> list[str]:
    from lycoris import LycorisNetwork, create_lycoris

    LycorisNetwork.apply_preset({"target_name": [".*attn.*"], "target_module": ["Linear"]})
    network = create_lycoris(model, 1.0, linear_dim=4, linear_alpha=2, algo="lora")
    network.apply_to()
    return list(network.state_dict())


def _short(names: list[str]) -> list[str]:
    """Keep some names of each part of a model, of different layers and roles."""
    parts: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        part = re.match(r"lora_[a-z]+\d?|[a-z]+(_[a-z]+)?(_\d)?", name)
        kinds = parts.setdefault(part[0] if part else "", {})
        kinds.setdefault(re.sub(r"\d+", "", name), name)
    kept = []
    for kinds in parts.values():
        found = list(kinds.values())
        kept += found[:: -(-len(found) // 6)]
    return kept


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Add what the installed versions write to the file."""
    warnings.simplefilter("ignore")
    entries = []
    for pipeline, (family, models, targets) in _PIPELINES.items():
        if not hasattr(diffusers, pipeline):
            continue
        denoiser = next(iter(targets))
        found = [*_saved(pipeline, models(), targets), *_peft(models()[denoiser], targets[denoiser])]
        entries += [(tool, family, names, metadata) for tool, names, metadata in found]
        if "lycoris-lora" in _versions():
            entries.append(("lycoris.create_lycoris", family, _lycoris(models()[denoiser]), {}))
    versions = _versions()
    old = json.loads(_FILE.read_text(encoding="utf-8")) if _FILE.exists() else {"versions": [], "written": []}
    runs: list[dict[str, str]] = old["versions"]
    run = runs.index(versions) if versions in runs else len(runs)
    runs[run:] = runs[run:] or [versions]
    kept = [entry for entry in old["written"] if entry["run"] != run]
    kept += [
        {"tool": tool, "family": family, "run": run, "names": _short(names), "metadata": metadata}
        for tool, family, names, metadata in entries
    ]
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in kept)
    _FILE.write_text(f'{{"versions": {json.dumps(runs)},\n"written": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{_FILE.name}: {len(kept)} entries, {_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
