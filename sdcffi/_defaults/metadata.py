"""What a model's file says of itself: in the metadata of safetensors and gguf, and in folders that diffusers writes.

- ``sdcffi.steps``, ``sdcffi.sampler``, ...: our own, by the names of parameter files; `convert` carries them over;
- ``modelspec.resolution``, ``.architecture``, ``.prediction_type``, ``.encoder_layer``: Stability's ModelSpec, which
  sd-scripts, ComfyUI and others write;
- ``general.name``, ``.basename``, ``.finetune``: of gguf, which llama.cpp's tools and others write;
- ``sample_size`` in the folder of diffusers' UNet, and ``prediction_type`` in that of its scheduler.

A title in ModelSpec is not read: ComfyUI writes the file's name there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._models.files import Model, ModelFile
from .._models.headers import read_metadata
from .._numbers import check_integer, check_number
from .._quoting import shown
from .._warnings import warn
from ..params.names import parameters
from ..params.other_names import check_known
from ..params.plain import read_table
from ..params.video import VideoParams
from .families import Value

__all__ = ["LIMITS", "OURS", "Stated", "carried", "stated"]

OURS = "sdcffi."
"""Beginning of our own keys."""

# What a file may ask for, within these limits; a file is not trusted with more of a machine's time and memory.
LIMITS: Mapping[str, tuple[float, float] | None] = {
    "width": (64, 4096),
    "height": (64, 4096),
    "video_frames": (1, 256),
    "steps": (1, 200),
    "cfg_scale": (0, 50),
    "guidance": (0, 100),
    "guidance_rescale": (0, 1),
    "sampler": None,
    "scheduler": None,
    "eta": (0, 1),
    "flow_shift": (0, 100),
    "clip_skip": (1, 12),
    "high_noise_cfg_scale": (0, 50),
    "high_noise_sampler": None,
}

_TELLING = ("modelspec.architecture", "general.name", "general.basename", "general.finetune")
_PREDICTIONS = ("modelspec.prediction_type", "modelspec.predict_key")  # the second is ComfyUI's
_OF_THE_FILE = ("modelspec.hash_sha256", "modelspec.thumbnail")  # the second is an image
_PARAMETERS = {item.name: item for item in parameters(VideoParams)}
_UNET = "diffusion_pytorch_model.safetensors"
_LATENT = 8  # pixels of a UNet's latent pixel


class Stated:
    """What a file states.

    Attributes
    ----------
    values : dict of str to int, float or str
        By the names of parameter files.
    words : set of str
        Words that may tell which kind of its family it is, in lower case; ``"v"`` for a model that predicts v.
    place : str
        The file, for messages.
    """

    def __init__(self, place: str) -> None:
        self.values: dict[str, Value] = {}
        self.words: set[str] = set()
        self.place = place

    def take(self, name: str, text: Any, *, ours: bool) -> None:
        """Take a value, if it is legal; if it is not, and the key is ours, warn."""
        try:
            self.values[name] = _legal(name, text)
        except (TypeError, ValueError) as error:
            if ours:
                warn(f"{self.place}: {OURS}{name} in its metadata is ignored: {error}; write the file anew")


def stated(model: Model) -> Stated:
    """Return what the file of a model's diffusion network states.

    Parameters
    ----------
    model : Model
        The result of `check_context`.

    Warns
    -----
    UserWarning
        If one of our own keys has no legal value.
    """
    file = next((file for file in model.files if file.slot in ("diffusion_model_path", "model_path")), None)
    if file is None:
        return Stated("")
    found = Stated(file.path.name)
    if file.path.name == _UNET:
        _read_folders(file.path.parent, found)
    texts = {} if file.format == "torch" else read_metadata(file.parts[0])
    match = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", texts.get("modelspec.resolution", ""))
    for name, text in zip(("width", "height"), match.groups() if match else (), strict=False):
        found.take(name, text, ours=False)
    layers = model.architecture.clip_layers if model.architecture else None
    if layers and (layer := texts.get("modelspec.encoder_layer")):
        found.take("clip_skip", layer, ours=False)
    for name in LIMITS:
        if (value := texts.get(OURS + name)) is not None:
            found.take(name, value, ours=True)
    for key in _TELLING:
        found.words |= set(re.findall(r"[a-z0-9]+", texts.get(key, "").lower()))
    if any(texts.get(key, "").lower().startswith("v") for key in _PREDICTIONS):
        found.words.add("v")
    return found


def carried(file: ModelFile) -> dict[str, str]:
    """Return the texts of a file that stay true of its weights in another type or format, by key."""
    texts = {} if file.format == "torch" else read_metadata(file.parts[0])
    return {
        key: text
        for key, text in texts.items()
        if key.startswith((OURS, *_TELLING, "modelspec.")) and key not in _OF_THE_FILE
    }


def _read_folders(folder: Path, found: Stated) -> None:
    size = _table(folder / "config.json").get("sample_size")
    if isinstance(size, int):
        for name in ("width", "height"):
            found.take(name, _LATENT * size, ours=False)
    if _table(folder.parent / "scheduler" / "scheduler_config.json").get("prediction_type") == "v_prediction":
        found.words.add("v")


def _table(path: Path) -> dict[str, Any]:
    try:
        return read_table(path)
    except ValueError:
        return {}


def _legal(name: str, text: Any) -> Value:
    limits, kind = LIMITS[name], _PARAMETERS[name].kind
    if limits is None:
        check_known(name, text, _PARAMETERS[name].path[-1])
        return str(text)
    try:
        value = kind(text)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be of type {kind.__name__}, not {shown(text)}") from None
    (check_integer if kind is int else check_number)(name, value, *limits)
    return value  # type: ignore[no-any-return]
