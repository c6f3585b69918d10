"""Check the files of a model by their headers before native code reads them.

If the engine cannot read a file, or gets the wrong kind of file, it only logs a warning. It then fails later, generates
rubbish, or ends the process. Tensor names get the prefixes of `StableDiffusionGGML::init` in stable-diffusion.cpp.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._files import expanded
from .._quoting import shown, shown_path
from ..errors import PathNotFoundError
from ..params.context import ContextParams
from ..params.struct import StrPath
from .architectures import Architecture, identify
from .companions import sort_companions
from .headers import INTEGERS, HeaderError, Tensor, read_header
from .kinds import DIFFUSION, check_place, kind_of
from .places import components, file_at, parts_of

__all__ = ["UNKNOWN", "Model", "ModelFile", "examine", "locate", "read_file", "read_model"]

UNKNOWN = "a file of unknown kind"

_PREFIXES = {  # the engine adds it to names that lack it
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
_DIFFUSERS = {  # files of a diffusers directory, with their prefixes; only the first is required
    "unet/diffusion_pytorch_model.safetensors": "unet.",
    "vae/diffusion_pytorch_model.safetensors": "vae.",
    "text_encoder/model.safetensors": "te.",
    "text_encoder_2/model.safetensors": "te2.",
}
# Parts of a model by the beginning of tensor names; the first match counts.
_PARTS = {
    "diffusion_model": DIFFUSION,
    "clip_g": (
        *("cond_stage_model.1.", "conditioner.embedders.1.", "te2.", "text_encoder.2.", "text_encoder_2."),
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
_MOST_VECTORS = 1000


@dataclass(frozen=True)
class ModelFile:
    """One file of a model.

    Attributes
    ----------
    slot : str
        Field of `ContextParams` that names the file.
    path : Path
        The file, or the first of its parts.
    format : str
        ``"safetensors"``, ``"gguf"`` or ``"torch"``.
    tensors : mapping of str to Tensor
        Those that the engine reads.
    unused : mapping of str to str
        Names of the others, and why they are of no use.
    parts : tuple of Path
        All of its parts; just the file if it is whole.
    """

    slot: str
    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    unused: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()

    @property
    def keyword(self) -> str:
        """The keyword of `Engine` that names the file."""
        return _keyword(self.slot)

    @property
    def prefixed(self) -> Iterable[tuple[str, Tensor]]:
        """Its tensors, by the names that the engine uses."""
        prefix = _PREFIXES.get(self.slot, "")
        return ((name if name.startswith(prefix) else prefix + name, tensor) for name, tensor in self.tensors.items())


@dataclass(frozen=True)
class Model:
    """The properties of a model, from all of its files.

    Attributes
    ----------
    files : tuple of ModelFile
        All files except embeddings.
    architecture : Architecture or None
        None: unknown.
    parts : frozenset of str
        ``"diffusion_model"``, ``"clip_l"``, ``"clip_g"``, ``"t5xxl"``, ``"clip_vision"``, ``"llm"``, ``"vae"``,
        ``"taesd"``: those that it has.
    encodes : bool or None
        Whether it can encode input images: it has an encoder, and `vae_decode_only` is False. None: unknown.
    takes_hint : bool or None
        Whether `control_image` has an effect. None: unknown.
    prediction : str or None
        How its output is meant, as far as samplers differ by it: ``"flow"``, ``"edm_v"`` or ``"eps_or_v"``. None:
        unknown.
    """

    files: tuple[ModelFile, ...] = ()
    architecture: Architecture | None = None
    parts: frozenset[str] = frozenset()
    encodes: bool | None = None
    takes_hint: bool | None = None
    prediction: str | None = None

    @property
    def pixel_multiple(self) -> int | None:
        """Width and height are rounded up to multiples of it, in pixels. None: unknown."""
        return self.architecture.pixel_multiple if self.architecture else None

    @property
    def has_high_noise(self) -> bool | None:
        """Whether it has a high-noise model. None: unknown."""
        slots = {file.slot for file in self.files}
        return "high_noise_diffusion_model_path" in slots if slots else None

    @property
    def is_video(self) -> bool:
        """Whether it generates videos only."""
        return self.architecture is not None and self.architecture.is_video


def locate(files: Mapping[str, Path]) -> dict[str, Path]:
    """Find the files that the paths of a model stand for.

    Parameters
    ----------
    files : mapping of str to Path
        By field of `ContextParams`: files, indexes of files in parts, directories.

    Returns
    -------
    dict of str to Path
        Files, and as ``model_path`` a diffusers directory that the engine reads itself. A directory of a transformer
        becomes its files; those that are given themselves count.

    Raises
    ------
    ValueError
        If a directory has no file of weights, or several.
    """
    model = files.get("model_path")
    if model is None or not os.path.isdir(model):
        return {slot: file_at(_keyword(slot), path) for slot, path in files.items()}
    rest = {slot: path for slot, path in files.items() if slot != "model_path"}
    if (model / next(iter(_DIFFUSERS))).is_file():
        return {"model_path": model, **locate(rest)}
    if (model / "unet").is_dir():
        _of_diffusers(model)
    if slots := components(model):
        _check_transformer(model, slots["diffusion_model_path"])
        return {**slots, **locate(rest)}
    return {"model_path": file_at("model", model), **locate(rest)}


def _check_transformer(directory: Path, path: Path) -> None:
    file = read_file("diffusion_model_path", path)
    if _gathered(ContextParams(diffusion_model_path=path), [file]).architecture is None:
        first = ", ".join(repr(name) for name in list(file.tensors)[:2])
        raise ValueError(
            f"model: the transformer in {directory} has names of diffusers, which the engine does not know ({first},"
            " ...): pass the model's original single file as diffusion_model=, and the folders of its text encoders and"
            " autoencoder as clip_l=, t5xxl=, llm= and vae="
        )


def read_model(params: ContextParams) -> Model:
    """Read and check the files of a model.

    Parameters
    ----------
    params : ContextParams
        The paths.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If a file cannot be read or is of the wrong kind, or if one is missing.
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
    """Identify a single file.

    Parameters
    ----------
    path : Path
        A file, or a diffusers directory.

    Returns
    -------
    kind : str
        ``"a whole model"``, ``"a diffusion model"``, ``"a LoRA"``, ``"a file of unknown kind"``, ...
    model : Model
        The properties of the file alone.
    params : ContextParams
        Names the file as a diffusion model if it is one, else as a whole model.
    missing : list of str
        Keywords of `Engine` for the files that it also needs.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    slots = components(path) if os.path.isdir(path) else {}
    if slots:
        params = replace(ContextParams(vae_decode_only=False), **dict[str, Any](slots))
        model = _gathered(params, [read_file(slot, file) for slot, file in slots.items()])
        missing = _missing(model, model.architecture, params) if model.architecture else []
        return "a whole model", model, params, missing
    if not os.path.isfile(os.path.join(path, next(iter(_DIFFUSERS)))):
        path = file_at("model", path)
    whole = ContextParams(model_path=path, vae_decode_only=False)
    files = _of_diffusers(path) if os.path.isdir(path) else [read_file("model_path", path)]
    model, kind = _gathered(whole, files), kind_of(files[0].tensors)
    if kind not in (None, "a diffusion model"):
        return str(kind), replace(model, architecture=None), whole, []
    if model.architecture is None:
        alone = replace(whole, model_path=None, diffusion_model_path=path)
        files = [replace(file, slot="diffusion_model_path") for file in files]
        model, whole = _gathered(alone, files), alone
    if model.architecture is None:
        return kind or UNKNOWN, model, whole, []
    missing = _missing(model, model.architecture, whole)
    kind = "a whole model" if model.parts - {"diffusion_model"} else "a diffusion model"
    return kind, model, whole, missing


def _gathered(params: ContextParams, found: Iterable[ModelFile]) -> Model:
    files = tuple(found)
    names = {name: tensor for file in files for name, tensor in file.prefixed}
    diffusion = {
        name.removeprefix(prefix): tensor.shape
        for name, tensor in names.items()
        if (prefix := next((start for start in DIFFUSION if name.startswith(start)), None))
    }
    architecture = identify(diffusion)
    takes_hint = architecture.takes_hint if architecture else None
    return Model(
        files=files,
        architecture=architecture,
        parts=_parts(names),
        encodes=_encodes(params, names),
        takes_hint=takes_hint if params.control_net_path is None else True,
        prediction=_prediction(params, names, architecture),
    )


def _files(slot: str, value: StrPath) -> list[ModelFile]:
    path = Path(value)
    if slot == "model_path" and os.path.isdir(path):  # Path.is_dir raises for names that are too long
        return _of_diffusers(path)
    file = read_file(slot, path)
    check_place(file.slot, file.path, file.tensors)
    return [file]


def _of_diffusers(path: Path) -> list[ModelFile]:
    first = next(iter(_DIFFUSERS))
    if not (path / first).is_file():
        raise ValueError(
            f"model: the directory {path} has no {first}: give the file of its weights that name (one of fp16, for"
            " example), or pass a single file"
        )
    found = []
    for name, prefix in _DIFFUSERS.items():
        if (path / name).is_file():
            file = read_file("model_path", path / name)
            found.append(replace(file, tensors={prefix + key: tensor for key, tensor in file.tensors.items()}))
    return found


def read_file(slot: str, path: Path) -> ModelFile:
    """Read the header of one file.

    Parameters
    ----------
    slot : str
        Field of `ContextParams` that names the file, for messages.
    path : Path
        The file; ``~`` is expanded.

    Returns
    -------
    ModelFile

    Raises
    ------
    HeaderError
        If it is not a regular file, is empty, or has a malformed header or less data than the header describes. The
        same for each of its parts.
    """
    path = expanded(path)
    keyword = _keyword(slot)
    if not os.path.exists(path):  # Path.exists raises for names that are too long
        raise PathNotFoundError(f"{keyword}: {shown_path(path)!r} does not exist")
    if not path.is_file():
        raise HeaderError(f"{keyword}: {path} is not a regular file")
    parts = parts_of(keyword, path)
    headers = [_read_part(keyword, part) for part in parts]
    places = {name: part.name for part, (_, found) in zip(parts, headers, strict=True) for name in found}
    read = [
        (kind, *_sorted(keyword, part, kind, found, places)) for part, (kind, found) in zip(parts, headers, strict=True)
    ]
    kinds = {kind for kind, _, _ in read}
    tensors = {name: tensor for _, own, _ in read for name, tensor in own.items()}
    unused = {name: why for _, _, unused in read for name, why in unused.items()}
    if len(kinds) > 1 or len(tensors) != sum(len(own) for _, own, _ in read):
        raise HeaderError(f"{keyword}: the {len(parts)} parts of {path} do not belong together: download them again")
    if not tensors:
        raise HeaderError(f"{keyword}: {path} cannot be read: it has no tensors")
    return ModelFile(slot, path, kinds.pop(), tensors, unused, tuple(parts))


def _read_part(keyword: str, path: Path) -> tuple[str, dict[str, Tensor]]:
    try:
        if path.stat().st_size == 0:
            raise HeaderError("it is empty")
        return read_header(path, whole_model=True)
    except (HeaderError, OSError) as error:
        raise HeaderError(f"{keyword}: {path} cannot be read: {error}") from error


def _sorted(
    keyword: str, path: Path, kind: str, found: Mapping[str, Tensor], places: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors, unused = sort_companions(
            path, kind, found, {name: part for name, part in places.items() if name not in found}
        )
        _check_numbers(tensors)
    except (HeaderError, OSError) as error:
        raise HeaderError(f"{keyword}: {path} cannot be read: {error}") from error
    return tensors, unused


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype in INTEGERS and name.endswith((".weight", ".bias", ".scale")):
            raise HeaderError(f"tensor {name!r} has type {tensor.dtype}, but the engine takes no integers as weights")


def _keyword(slot: str) -> str:
    return slot.removesuffix("_path")


def _parts(names: Mapping[str, Tensor]) -> frozenset[str]:
    parts = set()
    for name in names:
        part = next((part for part, starts in _PARTS.items() if name.startswith(starts)), None)
        if part:
            parts.add(part)
    return frozenset(parts)


def _prediction(params: ContextParams, names: Mapping[str, Tensor], architecture: Architecture | None) -> str | None:
    """Return how the output of a model is meant: as the caller says, else as its tensors tell the engine."""
    if params.prediction is not None:
        asked = str(params.prediction)
        return "flow" if asked.endswith("_flow") else {"edm_v": asked}.get(asked, "eps_or_v")
    if architecture is None:
        return None
    if architecture.name == "sdxl" and "edm_vpred.sigma_max" in names:
        return "edm_v"
    return "eps_or_v" if architecture.is_unet or architecture.name == "svd" else "flow"


def _encodes(params: ContextParams, names: Mapping[str, Tensor]) -> bool | None:
    if params.vae_decode_only is not False:
        return False
    starts = _PARTS["taesd"] if params.taesd_path and not params.tae_preview_only else _PARTS["vae"]
    inner = [name for name in names if name.startswith(starts)]
    if not any("decoder." in name for name in inner):
        return None
    return any("encoder." in name for name in inner)


def _check_together(model: Model, params: ContextParams) -> None:
    architecture = model.architecture
    if architecture is None:
        _check_unprefixed(model)
        return
    if params.control_net_path is not None and not architecture.is_unet:
        raise ValueError(f"control_net: {architecture.title} takes no ControlNets; use Stable Diffusion 1, 2 or XL")
    if params.embeddings and not architecture.takes_embeddings:
        raise ValueError(f"embeddings: {architecture.title} takes no embeddings; use Stable Diffusion 1 or 2")
    if params.high_noise_diffusion_model_path is not None and architecture.name != "wan":
        raise ValueError(f"high_noise_diffusion_model: {architecture.title} has none, only Wan 2.2 does; leave it out")
    missing = _missing(model, architecture, params)
    if missing:
        first = model.files[0]
        held = "only the diffusion model" if model.parts == {"diffusion_model"} else " and ".join(sorted(model.parts))
        whose = first.path.name if len(model.files) == 1 else "these files"
        verb = "holds" if len(model.files) == 1 else "hold"
        raise ValueError(f"{whose} {verb} {held} of {architecture.title}; it also needs {' and '.join(missing)}")


def _missing(model: Model, architecture: Architecture, params: ContextParams) -> list[str]:
    missing = [f"{encoder}=" for encoder in architecture.encoders if encoder not in model.parts]
    if architecture.one_of and not model.parts.intersection(architecture.one_of):
        missing.append(" or ".join(f"{encoder}=" for encoder in architecture.one_of))
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
                    f"model: {file.path} is only the diffusion model of {alone.title}: pass it as diffusion_model="
                )


def _check_embedding(file: ModelFile, model: Model) -> None:
    """Refuse an embedding that the engine would ignore or misread: it takes one tensor, and stops at any other."""
    widths = _EMBEDDING_WIDTHS.get(model.architecture.name if model.architecture else "", (768, 1024))
    wanted = f"one tensor of width {' or '.join(map(str, widths))}"
    shapes = ", ".join(f"{shown(name)} {tensor.shape}" for name, tensor in list(file.tensors.items())[:3])
    name, tensor = next(iter(file.tensors.items()))
    if len(file.tensors) != 1 or tensor.shape[-1:] not in [(width,) for width in widths]:
        more = f" and {len(file.tensors) - 3} more" if len(file.tensors) > 3 else ""
        family = f" for {model.architecture.title}" if model.architecture else ""
        raise ValueError(f"{file.keyword}: {file.path} must have {wanted}{family}; it has {shapes}{more}")
    if len(tensor.shape) > 2 or math.prod(tensor.shape[:-1]) not in range(1, _MOST_VECTORS + 1):
        raise ValueError(
            f"{file.keyword}: {file.path} must have 1 to {_MOST_VECTORS} vectors, not shape {tensor.shape}"
        )
    if tensor.dtype not in _EMBEDDING_TYPES:
        legal = ", ".join(_EMBEDDING_TYPES)
        raise ValueError(f"{file.keyword}: {file.path}: tensor {name!r} must be one of {legal}, not {tensor.dtype}")
