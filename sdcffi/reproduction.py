"""Generate an image again from the record in its file."""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ._files import expanded
from ._public import public
from ._quoting import shown
from ._records.digests import file_state, sha256
from ._records.finding import find_files, find_named, is_same
from ._records.origin import ImageRecord, image_record
from ._records.record import Record
from ._records.webui import WebuiText, read_webui_text
from ._version import __version__
from .engine.engine import Engine
from .engine.results import Result, VideoResult
from .engine.streams import ShownInNotebooks
from .engine.upscaler import Upscaler
from .errors import BackendUnavailableError, UnsupportedParameterError
from .images.compare import compare
from .images.convert import Alpha, Box, ImageLike, MaskLike, as_mask, as_rgb, box_mask, to_pillow
from .images.files import file_content, read_image
from .images.resize import RULES, resized
from .images.texts import read_texts
from .params.context import ContextParams
from .params.image import ImageParams
from .params.plain import attach_files, attach_images
from .params.step_cache import heeded
from .params.struct import StrPath
from .params.video import VideoParams

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["Mismatch", "Replay", "replay", "restored"]


_MODELS = (".safetensors", ".ckpt", ".gguf", ".pt")  # endings that web interfaces leave out
_AS_RECORDED = {"defaults": "engine"}  # a record is whole: what it lacks was the engine's own
_DIGITS = 10  # of a sha256 in their texts; older ones have another hash, of 8 digits


@public
@dataclass(frozen=True)
class Mismatch:
    """A difference between the recorded generation and this one.

    Attributes
    ----------
    what : str
        ``"engine commit"``, ``"native build"``, ``"sdcffi"``, ``"backend"``, ``"device"``, ``"threads"``, or the role
        of a file.
    recorded, now : str
        The recorded value, and the value now.
    """

    what: str
    recorded: str
    now: str

    def __str__(self) -> str:
        return f"{self.what}: recorded {self.recorded}, now {self.now}"


@public
@dataclass(frozen=True, eq=False, repr=False)
class Replay(ShownInNotebooks):
    """An image that was generated again. A notebook shows it.

    Attributes
    ----------
    recorded : Record
        The record in the file.
    result : Result or VideoResult
        What was generated now; the last image of a `Result` is the one of the file.
    differences : tuple of Mismatch
        What differs from the record; empty if nothing does.
    max_difference : int or None
        Largest difference of a sample, 0 to 255; 0 means the same, bit for bit. None if the file's format is lossy, or
        the sizes differ.
    psnr : float or None
        Peak signal-to-noise ratio in dB, ``10 log10(255**2 / mean squared error)``; infinite if both are the same. None
        if `max_difference` is None.
    """

    recorded: Record
    result: Result | VideoResult
    differences: tuple[Mismatch, ...]
    max_difference: int | None
    psnr: float | None

    @property
    def array(self) -> NDArray[np.uint8]:
        """The image, uint8 (H, W, 3)."""
        return _recorded_one(self.recorded, self.result)

    @property
    def image(self) -> Image.Image:
        """The image as a Pillow image."""
        return to_pillow(self.array)

    def _shown(self) -> list[Image.Image]:
        return [self.image]

    def __repr__(self) -> str:
        return f"<Replay: {'; '.join(self.lines())}>"

    def to_bytes(self, format: str = "PNG") -> bytes:
        """Return the image as `Result.to_bytes` does, or the whole video as `VideoResult.to_bytes` does."""
        if isinstance(self.result, VideoResult):
            return self.result.to_bytes(format)
        return self.result.to_bytes(format, len(self.result.arrays) - 1)

    def save(self, path: StrPath) -> Path:
        """Write the image as `Result.save` does, or the whole video as `VideoResult.save` does."""
        if isinstance(self.result, VideoResult):
            return self.result.save(path)[0]
        return self.result.save_one(len(self.result.arrays) - 1, path)

    def lines(self) -> list[str]:
        """Return lines of text: whether the pixels are the same and the engine another revision, and what differs."""
        if self.max_difference is None:
            same = "the image was generated again; the file's pixels cannot be compared with it"
        elif self.max_difference == 0:
            same = "the image is the same, bit for bit"
        else:
            same = f"the image differs: by up to {self.max_difference} of 255, PSNR {self.psnr:.1f} dB"
        if any(difference.what == "engine commit" for difference in self.differences):
            same += "; it was recorded with another revision of the engine"
        return [same, *(str(difference) for difference in self.differences)]


def replay(
    path: StrPath | bytes | IO[bytes],
    *,
    models: StrPath | Iterable[StrPath] | None = None,
    init_image: ImageLike | None = None,
    mask_image: MaskLike | None = None,
    control_image: ImageLike | None = None,
    ref_images: Sequence[ImageLike] = (),
    end_image: ImageLike | None = None,
    control_frames: Sequence[ImageLike] = (),
    id_images: Sequence[ImageLike] = (),
    alpha: Alpha = "refuse",
    backend: str | None = None,
    timeout: float | None = None,
    **engine: Any,
) -> Replay:
    """Generate the image in a file again: with the same model, parameters and seed, on the same backend.

    Parameters
    ----------
    path : path, bytes or open file
        A PNG, JPEG or WebP that `Result.save` wrote. Or one with the text ``parameters`` of AUTOMATIC1111's web
        interface: the model is looked up by its name and hash, LoRA tags in the first of `models` unless ``lora_dir``
        is given, and the image is similar at best, because another program generated it.
    models : path or iterable of paths, optional
        Directories in which the files of the model and LoRAs are looked up by name, including the directories below
        them. If several files have the name, the one with the recorded size and digest is used. The current directory
        and paths in the record are always tried too.
    init_image, mask_image, control_image, end_image : image, optional
        The original input images, which the file does not contain. The recorded digest shows which rule of ``resize=``
        was used on them.
    ref_images, control_frames, id_images : sequence of images
        The original reference images, control frames, and photographs for PhotoMaker.
    alpha : str or tuple
        The original value for transparent pixels, see `Engine.generate`.
    backend : str, optional
        As for `Engine`. None: the recorded device or CPU variant; if it is not here, another one of its backend.
    timeout : float, optional
        Time limit for generation, in seconds. None: no limit.
    **engine
        Further keywords of `Engine`, which win over the record: ``threads``, ``library``, ``isolated``,
        ``on_progress``, ...

    Returns
    -------
    Replay
        The image, and what differs.

    Raises
    ------
    ValueError
        If the file has no usable record, a file of the model is not found, or an input image is missing or differs from
        the original; an `UnsupportedParameterError` if a parameter was asked for that this engine lacks.
    SDError
        As `Engine` and `Engine.generate` raise.

    Notes
    -----
    The same build of the engine on the same device with the same number of threads should generate the same image, bit
    for bit. Another revision of the engine gets the recorded defaults as arguments; what it lacks is left out, and
    listed in `differences`. Image `i` of a batch is generated alone from ``seed + i``. If the batch has input images,
    the images before it are generated too, because the noise of the autoencoder comes from the first seed.
    """
    name = str(path) if isinstance(path, (str, os.PathLike)) else "the image"
    source = expanded(path) if isinstance(path, (str, os.PathLike)) else io.BytesIO(_content(path))
    is_table = isinstance(source, Path) and source.suffix.lower() in (".json", ".toml")
    parameters, own = (None, None) if is_table else read_texts(source, name)
    if parameters is not None and own is None:
        keywords = {"backend": backend or "auto", **_AS_RECORDED, **engine}
        return _replay_foreign(source, parameters, name, models, timeout, keywords)
    record = Record.from_file(source)
    one = {"init_image": init_image, "control_image": control_image, "mask_image": mask_image, "end_image": end_image}
    several = {"ref_images": ref_images, "control_frames": control_frames, "pm_params.id_images": id_images}
    images = _checked_images(record, one, several, alpha)
    files = find_files(record, models)
    keywords = {"backend": backend or record.device_id or record.backend, **_AS_RECORDED, **engine}
    other = record.backend if backend is None and "backend" not in engine else None
    result, unsupported = _repeat(record, files, images, timeout, keywords, other)
    if record.upscale_factor is not None and isinstance(result, Result):
        keywords["backend"] = result.record(0, digests=False).device_id
        result = _enlarged(result, record, files["upscaler"], timeout, keywords)
    differences = (*unsupported, *_differences(record, result), *_changed_files(record, files))
    compared = (None, None) if is_table else _compared(source, _recorded_one(record, result))
    return Replay(record, result, differences, *compared)


def _replay_foreign(
    source: Path | io.BytesIO,
    parameters: str,
    name: str,
    models: StrPath | Iterable[StrPath] | None,
    timeout: float | None,
    keywords: dict[str, Any],
) -> Replay:
    """Generate an image of another program again, as far as its text says how."""
    from PIL import Image

    text = read_webui_text(parameters, name)
    if text.params.strength is not None:
        raise ValueError(
            f"{name} was generated from an input image, which its text does not identify: use read_arguments({name!r})"
            " and generate(init_image=...), or sdcffi generate --params and --init-image"
        )
    if text.foreign_network is not None:
        raise ValueError(
            f"{name} had a second pass with the network {shown(text.foreign_network)}, which its text does not contain:"
            f" use read_arguments({name!r}), or sdcffi generate --params, and for generate() "
            + text.advice["Hires upscaler"].removeprefix("it is a network: ")
        )
    files, differences = _foreign_files(text, models, keywords)
    with Image.open(source) as image:
        record = text.record(files, image.size)
    if "<lora:" in (text.params.prompt or "") and "lora_dir" not in keywords and models is not None:
        first = [models] if isinstance(models, (str, os.PathLike)) else list(models)
        keywords = {**keywords, "lora_dir": first[0]}
    context, params = attach_files(record.context, files), text.params
    with Engine(context=context, **keywords) as engine:
        result = engine.generate(params.prompt or "", params=params, strict=False, timeout=timeout)
    differences = [
        Mismatch("program", text.program, f"sdcffi {__version__}"),
        *differences,
        *(Mismatch(unused, text.unused[unused], f"not used: {advice}") for unused, advice in text.advice.items()),
    ]
    return Replay(record, result, tuple(differences), *_compared(source, result.arrays[0]))


def _foreign_files(
    text: WebuiText, models: StrPath | Iterable[StrPath] | None, keywords: Mapping[str, Any]
) -> tuple[dict[str, Path], list[Mismatch]]:
    files: dict[str, Path] = {}
    differences: list[Mismatch] = []
    if not keywords.keys() & {"model", "diffusion_model"}:
        if text.model is None:
            raise ValueError("the image's text names no model: pass model=")
        digest = text.model_hash if text.model_hash and len(text.model_hash) == _DIGITS else None
        files["model_path"], same = find_named(text.model, digest, _MODELS, models)
        if not same:
            differences.append(Mismatch(f"model_path {text.model}", f"sha256 {digest}...", "another file of that name"))
    if text.vae and "vae" not in keywords:
        files["vae_path"], _ = find_named(text.vae, None, (), models)
    return files, differences


def _content(image: Any) -> bytes:
    return bytes(image) if isinstance(image, (bytes, bytearray, memoryview)) else file_content(image, "image")


def _enlarged(
    result: Result, record: Record, network: Path, timeout: float | None, keywords: Mapping[str, Any]
) -> Result:
    mine = {name: value for name, value in keywords.items() if name in inspect.signature(Upscaler).parameters}
    with Upscaler(network, tile_size=record.upscale_tile_size or 0, **mine) as upscaler:
        return upscaler.upscale(result, record.upscale_factor, timeout=timeout)


def _recorded_one(record: Record, result: Result | VideoResult) -> NDArray[np.uint8]:
    return result.arrays[record.index if isinstance(result, VideoResult) else -1]


def restored(record: Record, files: Mapping[str, Path], whole: bool) -> tuple[ContextParams, ImageParams | VideoParams]:
    """Return the parameters of context and call of a record, with the paths of its files.

    Parameters
    ----------
    files : mapping of str to Path
        Paths by role, from `find_files`.
    whole : bool
        True includes the values that the engine chose then. False has only those that were asked for.
    """
    context = record.resolved_context.updated(record.context) if whole else record.context
    if whole and len(set(record.lora_modes)) == 1:
        context = replace(context, lora_apply_mode=record.lora_modes[0])
    params = record.whole if whole else record.params
    if params.cache is not None:  # the engine's defaults are of all modes, and older versions took all
        params = replace(params, cache=heeded(params.cache))
    return attach_files(context, files), attach_files(params, files)


def _repeat(
    record: Record,
    files: Mapping[str, Path],
    images: Mapping[str, Any],
    timeout: float | None,
    keywords: Mapping[str, Any],
    other_backend: str | None,
) -> tuple[Result | VideoResult, list[Mismatch]]:
    unsupported: list[Mismatch] = []

    def leave_defaults(error: UnsupportedParameterError) -> None:
        """Go on with what was asked for: what this engine lacks is perhaps a default of the recorded one."""
        unsupported.append(Mismatch("parameters", "known to the engine", error.message))

    threads = record.resolved_context.n_threads
    asked, asked_params = restored(record, files, whole=False)
    context, whole_params = restored(record, files, whole=True)
    try:
        engine = _opened(context, keywords, other_backend)
    except UnsupportedParameterError as error:
        leave_defaults(error)
        with _of_another_revision(record):
            engine = _opened(replace(asked, n_threads=threads), keywords, other_backend)
    with engine:
        if engine.commit == record.commit:
            return _generate(engine, record, asked_params, images, timeout), unsupported
        try:
            return _generate(engine, record, whole_params, images, timeout), unsupported
        except UnsupportedParameterError as error:
            leave_defaults(error)
            with _of_another_revision(record):
                return _generate(engine, record, asked_params, images, timeout), unsupported


@contextmanager
def _of_another_revision(record: Record) -> Iterator[None]:
    """Say of a parameter that was asked for, and that this engine lacks, which engine had it."""
    try:
        yield
    except UnsupportedParameterError as error:
        raise UnsupportedParameterError(
            f"the image was generated by another revision of the engine (stable-diffusion.cpp {record.commit}), and"
            f" this one cannot do the same: {error.message}",
            error.log,
        ) from error


def _opened(context: ContextParams, keywords: Mapping[str, Any], other_backend: str | None) -> Engine:
    """Open an engine on the recorded device; if it is not here, on another one of its backend."""
    try:
        return Engine(context=context, **keywords)
    except BackendUnavailableError:
        if other_backend in (None, keywords["backend"]):
            raise
        return Engine(context=context, **{**keywords, "backend": other_backend})


def _generate(
    engine: Engine,
    record: Record,
    params: ImageParams | VideoParams,
    images: Mapping[str, Any],
    timeout: float | None,
) -> Result | VideoResult:
    prompt = params.prompt or ""
    if isinstance(params, VideoParams):
        params = replace(attach_images(params, images), seed=record.seed)
        return engine.generate_video(prompt, params=params, lora_tags=False, strict=False, timeout=timeout)
    before = record.index if images else 0
    if "mask_image" in images and params.paste_back is None:  # recorded before there was a way to put the original back
        params = replace(params, paste_back=False)
    params = replace(attach_images(params, images), seed=record.seed - before, batch_count=before + 1)
    return engine.generate(prompt, params=params, lora_tags=False, strict=False, timeout=timeout)


def _checked_images(
    record: Record,
    one: Mapping[str, ImageLike | Box | None],
    several: Mapping[str, Sequence[ImageLike]],
    alpha: Alpha,
) -> dict[str, NDArray[np.uint8]]:
    given = {role: _converted(role, image, one, alpha) for role, image in one.items() if image is not None}
    for base, images in several.items():
        given |= {f"{base}[{index}]": as_rgb(image, base, alpha) for index, image in enumerate(images)}
    expected = {image.role: image for image in record.images}
    if extra := sorted(given.keys() - expected.keys()):
        raise ValueError(f"the image was generated without {', '.join(extra)}: leave it out")
    if missing := [_described(image) for role, image in expected.items() if role not in given]:
        raise ValueError(f"the image needs input images that the file does not contain; give {', '.join(missing)}")
    return {role: _as_recorded(given[role], image) for role, image in expected.items()}


def _converted(role: str, image: Any, others: Mapping[str, Any], alpha: Alpha) -> NDArray[np.uint8]:
    if role != "mask_image":
        return as_rgb(image, role, alpha)
    if not isinstance(image, (tuple, list)):
        return as_mask(image, role, alpha)
    if others["init_image"] is None:
        raise ValueError("mask_image as a box needs init_image: give it too")
    height, width = as_rgb(others["init_image"], "init_image", alpha).shape[:2]
    return box_mask(image, (width, height), role)


def _as_recorded(pixels: NDArray[np.uint8], expected: ImageRecord) -> NDArray[np.uint8]:
    """Return the image as the engine got it: as it is, or resized by the rule that leads to the recorded digest."""
    height, width, _ = expected.shape
    for rule in RULES:
        candidate = resized(pixels, (width, height), rule)
        if image_record(expected.role, candidate) == expected:
            return candidate
    found = image_record(expected.role, pixels)
    raise ValueError(f"the original image was {_described(expected)}, not {_described(found)}: give the original")


def _described(image: ImageRecord) -> str:
    height, width, _ = image.shape
    return f"{image.role} ({width}x{height}, sha256 of its pixels {image.sha256[:12]}...)"


def _changed_files(record: Record, files: Mapping[str, Path]) -> Iterator[Mismatch]:
    for file in record.files:
        path = files[file.role]
        if not is_same(path, file):
            state = file_state(path)
            now = f"{state.size if state else 'no'} bytes, sha256 {sha256(path)[:12]}..."
            yield Mismatch(f"{file.role} {file.name}", f"{file.size} bytes, sha256 {(file.sha256 or '?')[:12]}...", now)


def _differences(record: Record, result: Result | VideoResult) -> Iterator[Mismatch]:
    now = result.record(0, digests=False)
    for what, name in {"engine commit": "commit", "native build": "build", "sdcffi": "version"}.items():
        yield from _difference(what, getattr(record, name), getattr(now, name))
    yield from _difference("backend", record.backend, now.backend)
    same = "device_id" if record.device_id else "device"  # older records have no device_id
    yield from _difference("device", *(f"{getattr(item, same)} ({item.hardware})" for item in (record, now)))
    yield from _difference("threads", record.resolved_context.n_threads, now.resolved_context.n_threads)
    yield from _difference("LoRA modes", ", ".join(record.lora_modes), ", ".join(now.lora_modes))


def _difference(what: str, recorded: object, now: object) -> Iterator[Mismatch]:
    if recorded != now:
        yield Mismatch(what, str(recorded), str(now))


def _compared(source: Path | io.BytesIO, generated: NDArray[np.uint8]) -> tuple[int | None, float | None]:
    is_table = isinstance(source, Path) and source.suffix.lower() in (".json", ".toml")
    image = None if is_table else read_image(source, "the image")
    pixels = np.asarray(image.convert("RGB")) if image is not None and image.format == "PNG" else None
    if pixels is None or pixels.shape != generated.shape:
        return None, None
    difference = compare(pixels, generated)
    return difference.largest, difference.psnr
