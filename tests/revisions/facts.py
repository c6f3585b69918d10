"""What an engine can do, told from its source: the words that it knows, and the features that its header has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdcffi._files import replacing

from .interface import Interface, read_interface

Facts = Mapping[str, Sequence[str]]
"""Words or features, by the kind of thing that they are."""

FILE = Path(__file__).with_name("facts.json")
WORDS = {
    "models": "model_version_to_str",
    "samplers": "sample_method_to_str",
    "schedulers": "scheduler_to_str",
    "predictions": "prediction_to_str",
}
"""The arrays of words in upstream's source, by what the words are for."""

FEATURES = {
    "LoRA, merged into the weights or at runtime": "sd_ctx_params_t.lora_apply_mode",
    "ControlNet": "sd_ctx_params_t.control_net_path",
    "another ControlNet without loading the model again": "sd_ctx_load_control_net",
    "PhotoMaker": "sd_ctx_params_t.photo_maker_path",
    "PuLID": "sd_ctx_params_t.pulid_weights_path",
    "IP-Adapter": "sd_ctx_params_t.ip_adapter_path",
    "AnimateDiff: motion modules": "sd_ctx_params_t.motion_module_path",
    "ADetailer: faces and hands drawn again": "new_adetailer_ctx",
    "videos": "generate_video",
    "upscaling": "new_upscaler_ctx",
    "reference images": "sd_img_gen_params_t.ref_images",
    "second pass at a larger size, for images": "sd_img_gen_params_t.hires",
    "second pass at a larger size, for videos": "sd_vid_gen_params_t.hires",
    "step cache": "sd_img_gen_params_t.cache",
    "images in layers": "sd_img_gen_params_t.qwen_image_layers",
    "videos with sound": "sd_ctx_params_t.audio_vae_path",
    "reference images, videos and sound for videos": "sd_vid_gen_params_t.ref_videos",
    "tiles in time for videos": "sd_tiling_params_t.temporal_tiling",
    "cancel, by the engine itself between steps": "sd_cancel_generation",
    "conversion of model files": "convert",
    "conversion of several files into one": "convert_with_components",
    "conversion with an importance matrix": "load_imatrix",
    "each part of a model on any device": "sd_ctx_params_t.backend",
    "weights split over several GPUs": "sd_ctx_params_t.split_mode",
    "devices of other machines (RPC)": "sd_ctx_params_t.rpc_servers",
    "placement that fits the memory by itself": "sd_ctx_params_t.auto_fit",
    "weights streamed from memory or disk": "sd_ctx_params_t.stream_layers",
}
"""The function, or the field of a struct, by which a feature is known."""


def read_facts(tree: Path) -> Facts:
    """Read what an engine can do from its source tree."""
    interface = read_interface(tree / "include" / "stable-diffusion.h")
    sources = [path.read_text("utf-8", errors="replace") for path in sorted((tree / "src").rglob("*.cpp"))]
    words = {kind: _words(sources, array) for kind, array in WORDS.items()}
    types = interface.enumerations["sd_type_t"]
    names = [name.removeprefix("SD_TYPE_").lower() for name in types if not name.endswith("_COUNT")]
    return {
        **words,
        "tensor types": names,
        "features": [name for name in FEATURES if _is_in(FEATURES[name], interface)],
    }


def load_facts() -> dict[str, Facts]:
    """Return what is stored, by the names of revisions."""
    stored: dict[str, Facts] = json.loads(FILE.read_text("utf-8"))
    return stored


def store_facts(facts: Mapping[str, Facts]) -> None:
    """Replace what is stored."""
    with replacing(FILE) as temporary:
        temporary.write_text(json.dumps(dict(sorted(facts.items())), indent=1) + "\n", "utf-8")


def _is_in(mark: str, interface: Interface) -> bool:
    struct, _, field = mark.partition(".")
    return field in interface.structs.get(struct, {}) if field else struct in interface.functions


def _words(sources: Sequence[str], array: str) -> list[str]:
    pattern = re.compile(rf"\b{array}\[\]\s*=\s*\{{(.*?)\}};", re.DOTALL)
    found = [match[1] for source in sources if (match := pattern.search(source))]
    if len(found) != 1:
        raise ValueError(f"{len(found)} arrays {array} in the source, not one: name what took its place in WORDS")
    return re.findall(r'"([^"]+)"', found[0])
