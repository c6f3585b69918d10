"""The record of how an image was generated, to be stored in its file and to generate it again."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from .._files import expanded, replacing
from .._numbers import check_integer, check_number
from .._public import public
from .._quoting import shortened, shown, shown_path
from .._references import parse
from .._version import __version__
from ..images.files import file_content
from ..images.pixels import MOST_SIDE
from ..images.texts import read_texts
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.names import flatten, parameters
from ..params.plain import check_keys, decode, detach, encode, parse_json, read_table
from ..params.sampling import Guidance, SampleParams
from ..params.struct import StrPath, Struct
from ..params.video import VideoParams
from .infotext import infotext, lora_name, plain_name, sampler_label, scheduler_label
from .origin import FileRecord, ImageRecord, Origin, file_record, image_record, is_plain

__all__ = ["Record", "record_of"]

_FORMAT = 1
_MOST_SEED = (1 << 63) - 1
_MOST_INDEX = 10_000  # of a batch or video
_MOST_SIDE = 64 * MOST_SIDE  # pixels; three passes of an upscaling network make an image 64 times as wide
_TEXTS = ("commit", "build", "version", "backend", "device", "hardware", "device_id")
_KINDS: dict[str, type[Struct]] = {"image": ImageParams, "video": VideoParams}


@public
@dataclass(frozen=True, kw_only=True)
class Record:
    """How one image was generated. `Result.record` returns it, `from_file` reads it from a file.

    Attributes
    ----------
    kind : str
        ``"image"`` or ``"video"``.
    context : ContextParams
        Model and options as requested, with file names in place of paths.
    params : ImageParams or VideoParams
        The call as requested, and with the values of `defaults`; with LoRA tags removed from the prompt and without
        input images.
    resolved_context, resolved_params
        The same with the engine's defaults filled in: threads, steps, sampler, scheduler, ... Values that the engine
        chooses internally stay None (eta, flow shift).
    seed, index : int
        Seed of this image, and its index in the batch or video, from 0.
    width, height : int
        Size of the image, in pixels.
    files, images : tuple of FileRecord, tuple of ImageRecord
        Files and input images that were used.
    lora_modes : tuple of str
        How each adapter was applied: ``"immediately"`` or ``"at_runtime"``.
    upscale_factor, upscale_tile_size : float, int, optional
        How the image was upscaled afterwards: factor of the size, and side of the tiles in pixels. The network is in
        `files` as ``"upscaler"``. None: the image was not upscaled.
    commit, build, version : str
        The engine's commit, the key of its build, and sdcffi's version.
    backend, device, hardware : str
        Such as ``"cuda"``, ``"CUDA0"`` and the product name of the device.
    device_id : str, optional
        Value of ``backend=`` for this device or CPU variant: ``"cuda:0"``, ``"cpu:haswell"``. None in older records.
    defaults : dict of str to str, optional
        Where the values of `params` come from that the call left open, by name; see `Engine.defaults`. None: nowhere,
        or in older records, with which the engine's own values were used.
    """

    kind: str = "image"
    context: ContextParams
    params: ImageParams | VideoParams
    resolved_context: ContextParams
    resolved_params: ImageParams | VideoParams
    seed: int
    index: int
    width: int
    height: int
    files: tuple[FileRecord, ...] = ()
    images: tuple[ImageRecord, ...] = ()
    lora_modes: tuple[str, ...] = ()
    upscale_factor: float | None = None
    upscale_tile_size: int | None = None
    commit: str
    build: str
    version: str
    backend: str
    device: str
    hardware: str
    device_id: str | None = None
    defaults: Mapping[str, str] | None = None

    @property
    def whole(self) -> ImageParams | VideoParams:
        """The call with the engine's defaults filled in."""
        return self.resolved_params.updated(self.params)  # type: ignore[arg-type]

    def infotext(self) -> str:
        """Return the text that AUTOMATIC1111's web interface writes into images, and that viewers read."""
        whole = self.whole
        values = {**_sampling_values(whole), "Seed": self.seed, **self._image_values(), **self._file_values()}
        return infotext(whole.prompt or "", whole.negative_prompt or "", whole.loras or (), values)

    def _image_values(self) -> dict[str, Any]:
        call: Any = self.whole
        hires = self.params.given().get("hires")
        first = call.width or self.width, call.height or self.height
        second_size = tuple(round(side / (self.upscale_factor or 1)) for side in (self.width, self.height))
        width, height = first if hires and hires.enabled else second_size
        has_init = any(image.role == "init_image" for image in self.images)
        values = {
            "Size": f"{width}x{height}",
            "Denoising strength": call.strength if has_init else None,
            "Mask blur": call.mask_blur if self.kind == "image" and call.paste_back else None,
            "Clip skip": call.clip_skip if (call.clip_skip or 0) > 1 else None,
        }
        if hires and hires.enabled:
            second = call.hires
            values |= {
                "Denoising strength": second.denoising_strength,
                "Hires resize": f"{second_size[0]}x{second_size[1]}",
                "Hires steps": second.steps or None,
                "Hires upscaler": second.upscaler,
            }
        if call.given().get("batch_count", 1) > 1:
            values |= {"Batch size": call.batch_count, "Batch pos": self.index}
        if self.upscale_factor is not None:
            network = next(file.name for file in self.files if file.role == "upscaler")
            values |= {"Postprocess upscale by": self.upscale_factor, "Postprocess upscaler": plain_name(network)}
        return values

    def _file_values(self) -> dict[str, Any]:
        by_role = {file.role: file for file in self.files}
        model = by_role.get("model_path") or by_role.get("diffusion_model_path")
        vae = by_role.get("vae_path")
        hashes = [
            f"{lora_name(lora)}: {file.tensors_sha256[:12]}"
            for index, lora in enumerate(self.params.loras or ())
            if (file := by_role.get(f"loras[{index}].path")) and file.tensors_sha256
        ]
        return {
            "Model hash": model.sha256[:10] if model and model.sha256 else None,
            "Model": plain_name(Path(model.name).stem) if model else None,
            "VAE hash": vae.sha256[:10] if vae and vae.sha256 else None,
            "VAE": plain_name(vae.name) if vae else None,
            "Lora hashes": ", ".join(hashes) or None,
            "Version": f"sdcffi {self.version}",
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data, without fields that are None."""
        data: dict[str, Any] = {"sdcffi": _FORMAT}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Struct):
                data[item.name] = encode(value)
            elif item.name in ("files", "images"):
                data[item.name] = [{key: x for key, x in asdict(part).items() if x is not None} for part in value]
            elif value is not None:
                data[item.name] = list(value) if isinstance(value, tuple) else value
        return data

    def to_json(self, indent: int | None = None) -> str:
        """Return the record as JSON, in ASCII.

        Parameters
        ----------
        indent : int, optional
            Number of spaces per level. None: everything on one line.
        """
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Any, source: str = "record") -> Record:
        """Read the result of `to_dict`; see `from_json`."""
        if not isinstance(data, Mapping) or "sdcffi" not in data:
            raise ValueError(f"{source} is not a record of sdcffi: it has no key 'sdcffi'")
        if data["sdcffi"] != _FORMAT:
            raise ValueError(
                f"{source} has format {shown(data['sdcffi'])}, and this sdcffi reads format {_FORMAT}: install a newer"
                " one"
            )
        values = {name: value for name, value in data.items() if name != "sdcffi"}
        names = [item.name for item in fields(cls)]
        check_keys(values, names, source)
        optional = [item.name for item in fields(cls) if item.default is None]
        if missing := [name for name in names if name not in values and name not in optional]:
            raise ValueError(f"{source} is damaged: it has no {', '.join(missing)}")
        if values["kind"] not in _KINDS:
            raise ValueError(f"{source}: kind must be one of {', '.join(_KINDS)}, not {shown(values['kind'])}")
        try:
            return cls(**_decoded(values, source))
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{source} is damaged: {shortened(error)}") from error

    @classmethod
    def from_json(cls, text: str, source: str = "record") -> Record:
        """Read the result of `to_json`.

        Parameters
        ----------
        text : str
        source : str
            Name of the text, for messages.

        Raises
        ------
        ValueError
            If the text is not a record, is damaged, or was written by a newer sdcffi.
        """
        return cls.from_dict(parse_json(text, source), source)

    def to_file(self, path: StrPath) -> Path:
        """Write the record as JSON to a file with the ending ``.json``.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            If the ending is another one.
        """
        target = expanded(path)
        if target.suffix.lower() != ".json":
            raise ValueError(f"{target} must end in .json: records are written as JSON")
        with replacing(target) as temporary:
            temporary.write_text(self.to_json(indent=1) + "\n", encoding="utf-8")
        return target

    @classmethod
    def from_file(cls, path: StrPath | bytes | IO[bytes]) -> Record:
        """Read the record in an image that `Result.save` wrote, or one that stands alone.

        Parameters
        ----------
        path : path, bytes or open file
            PNG, JPEG or WebP; or ``.json``, as `to_file` writes it, or ``.toml``. The bytes of an image, or one that is
            open, are read too.

        Raises
        ------
        ValueError
            If the file has no record, or a damaged one; a `PathNotFoundError` if it does not exist.
        """
        if not isinstance(path, (str, os.PathLike)):
            content = path if isinstance(path, (bytes, bytearray, memoryview)) else file_content(path, "image")
            return cls.from_texts(*read_texts(io.BytesIO(content), "the image"), "the image")
        source = expanded(path)
        if source.suffix.lower() in (".json", ".toml"):
            return cls.from_dict(read_table(source), str(path))
        return cls.from_texts(*read_texts(source), str(path))

    @classmethod
    def from_texts(cls, parameters: str | None, record: str | None, source: str) -> Record:
        """Read the record of the two texts that an image may have, see `from_file`."""
        if record is None and parameters is not None:
            raise ValueError(
                f"{source} has AUTOMATIC1111's parameters, but no sdcffi metadata: from another program, whose"
                " parameters replay() and read_arguments() take"
            )
        if record is None:
            raise ValueError(f"{source} has no sdcffi metadata: it was stripped, or another program wrote the image")
        return cls.from_json(record, f"the record in {source}")


def record_of(
    origin: Origin,
    params: ImageParams | VideoParams,
    *,
    seed: int,
    index: int,
    shape: Sequence[int],
    lora_modes: Sequence[str] = (),
    digests: bool = True,
    paths: bool = False,
) -> Record:
    """Put together what made an image; see `Result.record`."""
    context, model_files, _ = detach(origin.context)
    call, call_files, images = detach(params)
    upscaling = origin.upscaling
    afterwards = {"upscaler": upscaling.path} if upscaling else {}
    return Record(
        kind=next(kind for kind, struct in _KINDS.items() if isinstance(params, struct)),
        context=context,
        params=call,
        resolved_context=origin.resolved_context,
        resolved_params=origin.resolved_params,  # type: ignore[arg-type]
        seed=seed,
        index=index,
        width=shape[1],
        height=shape[0],
        files=tuple(
            file_record(role, path, origin.states.get(path), digests, paths)
            for role, path in (model_files | call_files | afterwards).items()
        ),
        images=tuple(image_record(role, pixels) for role, pixels in images.items()),
        lora_modes=tuple(lora_modes),
        upscale_factor=upscaling.factor if upscaling else None,
        upscale_tile_size=upscaling.tile_size if upscaling else None,
        commit=origin.commit,
        build=origin.build,
        version=__version__,
        backend=origin.device.backend,
        device=origin.device.name,
        hardware=origin.device.description,
        device_id=origin.device.id,
        defaults=origin.defaults or None,
    )


def _sampling_values(call: ImageParams | VideoParams) -> dict[str, Any]:
    sample = call.sample_params or SampleParams()
    guidance = sample.guidance or Guidance()
    return {
        "Steps": sample.sample_steps,
        "Sampler": sampler_label(sample.sample_method),
        "Schedule type": scheduler_label(sample.scheduler) if sample.custom_sigmas is None else None,
        "CFG scale": guidance.txt_cfg,
    }


def _decoded(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read a record's values; whoever wrote them, nothing of them is looked up or opened that is not checked here."""
    params = _KINDS[values["kind"]]
    for name, most in {"seed": _MOST_SEED, "index": _MOST_INDEX, "width": _MOST_SIDE, "height": _MOST_SIDE}.items():
        if type(values[name]) is not int or not 0 <= values[name] <= most:
            raise ValueError(
                f"{source} is damaged: {name} must be an integer from 0 to {most}, not {shown(values[name])}"
            )
    check_number(f"{source}: upscale_factor", values.get("upscale_factor"), 0)
    check_integer(f"{source}: upscale_tile_size", values.get("upscale_tile_size"), 0, _MOST_SIDE)
    if not all(isinstance(values.get(name), (str, type(None))) for name in _TEXTS):
        raise ValueError(f"{source} is damaged: {', '.join(_TEXTS)} must be texts")
    defaults = values.get("defaults")
    if defaults is not None and not (
        isinstance(defaults, Mapping) and all(isinstance(text, str) for text in defaults.values())
    ):
        raise ValueError(f"{source} is damaged: defaults must be texts by name, not {shown(defaults)}")
    structs = {
        "context": decode(ContextParams, values["context"], f"{source}: context"),
        "params": decode(params, values["params"], f"{source}: params"),
        "resolved_context": decode(ContextParams, values["resolved_context"], f"{source}: resolved_context"),
        "resolved_params": decode(params, values["resolved_params"], f"{source}: resolved_params"),
    }
    for struct in (structs["params"], structs["resolved_params"]):
        given = flatten(struct)  # an image may be a path, also of a server's
        if image := next(
            (item for item in parameters(params) if "Pixels" in item.annotation and item.path in given), None
        ):
            raise ValueError(f"{source} is damaged: it has {image.name}, but a record has no input images")
    files = tuple(_file(item, source) for item in values["files"])
    named = {role: path for struct in structs.values() for role, path in detach(struct)[1].items()}
    needed = set(named)
    needed |= {"upscaler"} if values.get("upscale_factor") is not None else set()
    if missing := sorted(needed - {file.role for file in files}):
        raise ValueError(f"{source} is damaged: its files have no {shortened(', '.join(missing))}")
    if wrong := next((path for path in named.values() if path.name != str(path) or parse(str(path))), None):
        raise ValueError(f"{source} is damaged: {shown_path(wrong)} is not the name of a file")
    modes = tuple(values["lora_modes"])
    if not all(isinstance(mode, str) for mode in modes):
        raise ValueError(f"{source} is damaged: lora_modes must be texts, not {shown(values['lora_modes'])}")
    images = tuple(_image(item, source) for item in values["images"])
    return {**values, **structs, "files": files, "images": images, "lora_modes": modes}


def _file(item: Any, source: str) -> FileRecord:
    """Read a file's record; its name is a plain one, with which nothing outside of the given directories is found."""
    file = FileRecord(**item)
    texts = file.role, file.name, file.sha256 or "", file.tensors_sha256 or "", file.path or "", file.reference or ""
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{source} is damaged: {shown(item)} must have texts for role, name and digests")
    if not is_plain(file.name) or "\0" in (file.path or ""):
        raise ValueError(f"{source} is damaged: {shown(file.name)} is not the name of a file")
    check_integer(f"{source}: size of {shown(file.name)}", file.size, 0, math.inf)
    if file.reference is not None and parse(file.reference) is None:
        raise ValueError(f"{source} is damaged: {shown(file.reference)} is not a reference to a file")
    return file


def _image(item: Any, source: str) -> ImageRecord:
    image = ImageRecord(**{**item, "shape": tuple(item["shape"])})
    sides = [type(side) is int and 1 <= side <= _MOST_SIDE for side in image.shape]
    if len(sides) != 3 or not all(sides) or not isinstance(image.role, str) or not isinstance(image.sha256, str):
        raise ValueError(f"{source} is damaged: {shown(item)} does not describe an image")
    return image
