"""The files of a model, checked by their headers before anything native runs: what each is, and what they make up.

The engine loads a file that it cannot read, or that lies in another file's place, with a warning in its log and fails
later, draws rubbish, or stops the process. Names get the prefixes that `StableDiffusionGGML::init` of
stable-diffusion.cpp gives them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import PathNotFoundError
from ..params.context import ContextParams
from ..params.struct import StrPath
from .architectures import Architecture, identify
from .headers import INTEGERS, HeaderError, Tensor, read_header

__all__ = ["UNKNOWN", "Model", "ModelFile", "examine", "read_file", "read_model"]

UNKNOWN = "a file of unknown kind"

_PREFIXES = {  # what the engine puts before names that do not have it
    "diffusion_model_path": "model.diffusion_model.",
    "high_noise_diffusion_model_path": "model.high_noise_diffusion_model.",
    "clip_l_path": "text_encoders.clip_l.",
    "clip_g_path": "text_encoders.clip_g.",
    "clip_vision_path": "clip_vision.",
    "t5xxl_path": "text_encoders.t5xxl.",
    "llm_path": "text_encoders.llm.",
    "llm_vision_path": "text_encoders.llm.visual.",
    "vae_path": "vae.",
    "taesd_path": "tae.",
}
_DIFFUSERS = {  # files of a diffusers directory, with their prefixes; only the first has to be there
    "unet/diffusion_pytorch_model.safetensors": "unet.",
    "vae/diffusion_pytorch_model.safetensors": "vae.",
    "text_encoder/model.safetensors": "te.",
    "text_encoder_2/model.safetensors": "te.1.",
}
_DIFFUSION = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.")
# Parts of a model by their names' start; what stands first counts.
_PARTS = {
    "diffusion_model": _DIFFUSION,
    "clip_g": (
        *("cond_stage_model.1.", "conditioner.embedders.1.", "te.1.", "te2.", "text_encoder.2.", "text_encoder_2."),
        "text_encoders.clip_g.",
    ),
    "clip_l": (
        *("cond_stage_model.", "conditioner.embedders.0.", "te.", "te1.", "text_encoder.", "text_model."),
        "text_encoders.clip_l.",
    ),
    "t5xxl": ("text_encoders.t5xxl.", "te3."),
    "clip_vision": ("clip_vision.",),
    "llm": ("text_encoders.",),
    "vae": ("first_stage_model.", "vae."),
    "taesd": ("tae.",),
}
# The engine keeps the vectors of XL's two encoders in one buffer and reads one encoder's with the other's offsets.
_EMBEDDING_WIDTHS = {"sd1": (768,), "sd2": (1024,)}
_EMBEDDING_TYPES = ("F32", "F16", "BF16")
_LORA = re.compile(r"lora_(down|up|mid|A|B)\b|lora\.(down|up)\.|hada_w[12]_|lokr_w[12]")
# What a file is by itself, told from its names as they stand in it.
_KINDS = {
    "a ControlNet": r"control_model\.|zero_convs\.|input_hint_block\.|controlnet_",
    "a text encoder": r"text_model\.|encoder\.block\.\d|model\.(layers\.\d|embed_tokens\.)|token_embd\.|(enc\.)?blk\.",
    "a tiny autoencoder": r"(tae\.)?(en|de)coder\.(layers\.)?\d",
    "an autoencoder": r"(first_stage_model\.|vae\.)?((encoder|decoder)\.|(post_)?quant_conv\.|conv[12]\.)",
}
_AUTOENCODERS = {"a tiny autoencoder": "taesd", "an autoencoder": "vae"}
_KEYWORDS = {"a ControlNet": "control_net", "a text encoder": "clip_l=, t5xxl= or llm", **_AUTOENCODERS}
_TAKEN = {  # slots in which a kind is in its place
    "a ControlNet": {"control_net_path"},
    "a text encoder": {slot for slot in _PREFIXES if slot.startswith(("clip", "t5", "llm"))},
    "a tiny autoencoder": {"taesd_path"},
    "an autoencoder": {"vae_path"},
    "a diffusion model": {"model_path", "diffusion_model_path", "high_noise_diffusion_model_path"},
    "a LoRA": {"photo_maker_path"},
}


@dataclass(frozen=True)
class ModelFile:
    """One file: the field of `ContextParams` it was given as, and its tensors, none for ``"torch"`` formats."""

    slot: str
    path: Path
    format: str
    tensors: Mapping[str, Tensor]

    @property
    def keyword(self) -> str:
        """Its name among `Engine`'s keywords."""
        return _keyword(self.slot)

    @property
    def prefixed(self) -> Iterable[tuple[str, Tensor]]:
        """Tensors with the names that the engine gives them."""
        prefix = _PREFIXES.get(self.slot, "")
        return ((name if name.startswith(prefix) else prefix + name, tensor) for name, tensor in self.tensors.items())


@dataclass(frozen=True)
class Model:
    """What the files of a model make together.

    Attributes
    ----------
    files : tuple of ModelFile
        All of them, without embeddings.
    architecture : Architecture or None
        None where it is not known.
    parts : frozenset of str
        ``"diffusion_model"``, ``"clip_l"``, ``"clip_g"``, ``"t5xxl"``, ``"clip_vision"``, ``"llm"``, ``"vae"``,
        ``"taesd"``: those there.
    opaque : bool
        Whether there are PyTorch files, whose tensors only the engine reads.
    encodes : bool or None
        Whether it takes pictures in: it has an encoder, and is not told to decode only. None where it is not known.
    takes_hint : bool or None
        Whether `control_image` acts. None where it is not known.
    """

    files: tuple[ModelFile, ...] = ()
    architecture: Architecture | None = None
    parts: frozenset[str] = frozenset()
    opaque: bool = True
    encodes: bool | None = None
    takes_hint: bool | None = None

    @property
    def pixel_multiple(self) -> int | None:
        """What width and height are rounded up to; None where it is not known."""
        return self.architecture.pixel_multiple if self.architecture else None

    @property
    def has_high_noise(self) -> bool | None:
        """Whether there is a high-noise model beside; None where nothing is known."""
        slots = {file.slot for file in self.files}
        return "high_noise_diffusion_model_path" in slots if slots else None

    @property
    def is_video(self) -> bool:
        """Whether it makes videos only."""
        return self.architecture is not None and self.architecture.is_video


def read_model(params: ContextParams) -> Model:
    """Read and check the files of a model.

    Raises
    ------
    ValueError
        If a file cannot be read, is in another one's place, or if one is missing.
    """
    model = _gathered(
        params,
        [file for slot, value in params.given().items() if slot.endswith("_path") for file in _files(slot, value)],
    )
    _check_together(model, params)
    for embedding in params.embeddings or ():
        _check_embedding(read_file(f"embeddings[{embedding.name!r}]", Path(embedding.path)), model)
    return model


def examine(path: Path) -> tuple[str, Model, ContextParams, list[str]]:
    """Tell what a file is by itself, wherever it belongs.

    Returns
    -------
    str
        ``"a whole model"``, ``"a diffusion model"``, ``"a LoRA"``, ``"a file of unknown kind"``, ...
    Model
        What it makes alone.
    ContextParams
        With the file in its place; for what is no model in the place of one.
    list of str
        The keywords of `Engine` that have to come with it.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    whole = ContextParams(model_path=path, vae_decode_only=False)
    files = _of_diffusers(path) if os.path.isdir(path) else [read_file("model_path", path)]
    model, kind = _gathered(whole, files), _kind(files[0])
    if kind not in (None, "a diffusion model"):
        return str(kind), replace(model, architecture=None), whole, []
    if model.architecture is None:
        alone = replace(whole, model_path=None, diffusion_model_path=path)
        files = [replace(file, slot="diffusion_model_path") for file in files]
        model, whole = _gathered(alone, files), alone
    if model.architecture is None:
        return kind or UNKNOWN, model, whole, []
    missing = [] if model.opaque else _missing(model, model.architecture, whole)
    kind = "a whole model" if model.parts - {"diffusion_model"} else "a diffusion model"
    return kind, model, whole, missing


def _gathered(params: ContextParams, found: Iterable[ModelFile]) -> Model:
    files = tuple(found)
    opaque = any(file.format == "torch" for file in files)
    names = {name: tensor for file in files for name, tensor in file.prefixed}
    diffusion = {
        name.removeprefix(prefix): tensor.shape
        for name, tensor in names.items()
        if (prefix := next((start for start in _DIFFUSION if name.startswith(start)), None))
    }
    architecture = identify(diffusion)
    takes_hint = architecture.takes_hint if architecture else None
    return Model(
        files=files,
        architecture=architecture,
        parts=_parts(files, names),
        opaque=opaque,
        encodes=_encodes(params, names, opaque),
        takes_hint=takes_hint if params.control_net_path is None else True,
    )


def _files(slot: str, value: StrPath) -> list[ModelFile]:
    path = Path(value)
    if slot == "model_path" and os.path.isdir(path):  # unlike Path.is_dir, False for a name too long for the system
        return _of_diffusers(path)
    file = read_file(slot, path)
    _check_place(file)
    return [file]


def _of_diffusers(path: Path) -> list[ModelFile]:
    first = next(iter(_DIFFUSERS))
    if not (path / first).is_file():
        raise ValueError(f"model: {path} is a directory without {first}: no diffusers model that the engine reads")
    found = []
    for name, prefix in _DIFFUSERS.items():
        if (path / name).is_file():
            file = read_file("model_path", path / name)
            found.append(replace(file, tensors={prefix + key: tensor for key, tensor in file.tensors.items()}))
    return found


def read_file(slot: str, path: Path) -> ModelFile:
    """Read the header of one file.

    Raises
    ------
    HeaderError
        If it is no regular file, is empty, its header is malformed or describes data that it does not hold.
    """
    path = path.expanduser()
    keyword = _keyword(slot)
    if not os.path.exists(path):  # unlike Path.exists, False for a name too long for the system
        raise PathNotFoundError(f"{keyword}: {os.fspath(path)!r} does not exist")
    if not path.is_file():
        raise HeaderError(f"{keyword}: {path} is not a regular file")
    try:
        if path.stat().st_size == 0:
            raise HeaderError("it is empty")
        kind, tensors = read_header(path, whole_model=True)
        if kind != "torch" and not tensors:
            raise HeaderError("it holds no tensor")
        _check_numbers(tensors)
    except (HeaderError, OSError) as error:
        raise HeaderError(f"{keyword}: {path} cannot be read: {error}") from error
    return ModelFile(slot, path, kind, tensors)


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype in INTEGERS and name.endswith((".weight", ".bias", ".scale")):
            raise HeaderError(f"tensor {name!r}: {tensor.dtype}; weights are no integers")


def _keyword(slot: str) -> str:
    return slot.removesuffix("_path")


def _check_place(file: ModelFile) -> None:
    """Refuse what is certainly something else than what its place is for."""
    kind = _kind(file)
    if kind is None or file.slot in _TAKEN[kind]:
        return
    if kind == "a LoRA":
        raise ValueError(f"{file.keyword}: {file.path} is a LoRA; give it to generate() as loras=")
    keyword = _KEYWORDS.get(kind, "model= or diffusion_model")
    raise ValueError(f"{file.keyword}: {file.path} is {kind}; give it as {keyword}=")


def _kind(file: ModelFile) -> str | None:
    names = file.tensors
    adapters = sum(bool(_LORA.search(name)) for name in names)
    if adapters > len(names) / 2:
        return "a LoRA"
    if any(name.startswith(_DIFFUSION[:-1]) for name in names):
        return "a diffusion model"
    for kind, pattern in _KINDS.items():
        matching = sum(bool(re.match(pattern, name)) for name in names)
        if kind in _AUTOENCODERS and not any(len(tensor.shape) >= 4 for tensor in names.values()):
            continue  # it has convolutions
        if matching > len(names) / 2 or (kind == "a ControlNet" and matching):
            return kind
    return None


def _parts(files: tuple[ModelFile, ...], names: Mapping[str, Tensor]) -> frozenset[str]:
    parts = {file.keyword for file in files if file.format == "torch"}
    for name in names:
        part = next((part for part, starts in _PARTS.items() if name.startswith(starts)), None)
        if part:
            parts.add(part)
    return frozenset(parts)


def _encodes(params: ContextParams, names: Mapping[str, Tensor], opaque: bool) -> bool | None:
    if params.vae_decode_only is not False:
        return False
    starts = _PARTS["taesd"] if params.taesd_path and not params.tae_preview_only else _PARTS["vae"]
    inner = [name for name in names if name.startswith(starts)]
    if opaque or not any("decoder." in name for name in inner):
        return None
    return any("encoder." in name for name in inner)


def _check_together(model: Model, params: ContextParams) -> None:
    architecture = model.architecture
    if architecture is None:
        _check_unprefixed(model)
        return
    if params.control_net_path is not None and not architecture.is_unet:
        raise ValueError(f"control_net: {architecture.title} takes none; Stable Diffusion 1, 2 and XL do")
    if params.embeddings and not architecture.takes_embeddings:
        raise ValueError(f"embeddings: {architecture.title} takes none; Stable Diffusion 1 and 2 do")
    if params.high_noise_diffusion_model_path is not None and architecture.name != "wan":
        raise ValueError(f"high_noise_diffusion_model: only Wan 2.2 has one, this is {architecture.title}")
    missing = [] if model.opaque else _missing(model, architecture, params)
    if missing:
        first = model.files[0]
        held = "only the diffusion model" if model.parts == {"diffusion_model"} else " and ".join(sorted(model.parts))
        whose = first.path.name if len(model.files) == 1 else "these files"
        verb = "holds" if len(model.files) == 1 else "hold"
        raise ValueError(f"{whose} {verb} {held} of {architecture.title}; it also needs {' and '.join(missing)}")


def _missing(model: Model, architecture: Architecture, params: ContextParams) -> list[str]:
    missing = [f"{encoder}=" for encoder in architecture.encoders if encoder not in model.parts]
    if "vae" not in model.parts and architecture.has_autoencoder:
        if params.tae_preview_only:
            missing.append("vae=")
        elif "taesd" not in model.parts:
            missing.append("vae= or taesd=")
    return missing


def _check_unprefixed(model: Model) -> None:
    for file in model.files:
        if file.slot == "model_path":
            alone = identify({name: tensor.shape for name, tensor in file.tensors.items()})
            if alone:
                raise ValueError(
                    f"model: {file.path} is the diffusion model of {alone.title} alone; give it as diffusion_model="
                )


def _check_embedding(file: ModelFile, model: Model) -> None:
    """The engine passes over what it does not take, and the word then stands for nothing."""
    if file.format == "torch":
        return
    widths = _EMBEDDING_WIDTHS.get(model.architecture.name if model.architecture else "", (768, 1024))
    words = {name: tensor for name, tensor in file.tensors.items() if tensor.shape[-1:] and tensor.shape[-1] in widths}
    if not words:
        shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in list(file.tensors.items())[:3])
        raise ValueError(
            f"{file.keyword}: {file.path} has no tensor of width {' or '.join(map(str, widths))}: {shapes}"
        )
    for name, tensor in words.items():
        if tensor.dtype not in _EMBEDDING_TYPES:
            legal = ", ".join(_EMBEDDING_TYPES)
            raise ValueError(f"{file.keyword}: {file.path}: tensor {name!r} is {tensor.dtype}, not one of {legal}")
