"""Tell whether an image file is what a call would generate, by the record in it: so that a batch continues rightly.

What was asked for is compared, not what the engine made of it: an image is not generated again because the number of
threads changed, or because another revision of the engine is installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._catalogue.loras import with_lora_files
from .._checks.context import located
from .._checks.image import MASK_BLUR, with_network
from .._models.loras import as_loras, merge_tags
from .._models.upscaler_file import read_network
from .._records.digests import file_state, sha256
from .._records.origin import FileRecord, ImageRecord, image_record
from .._records.record import Record
from ..errors import SDError
from ..events import Listeners
from ..images.convert import as_mask, as_rgb, box_mask
from ..images.resize import fitted_size, resized
from ..images.texts import read_texts
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.names import flatten, parameters
from ..params.other_names import ENUMS, meant, with_engine_names
from ..params.plain import detach, plain
from ..params.struct import Struct
from .catalogue import resolve_names

__all__ = ["Request", "Unrecorded"]

Values = dict[tuple[str, ...], Any]

# Fields of the context that say how to compute, not what.
_HOW = frozenset(
    {"n_threads", "enable_mmap", "offload_params_to_cpu", "keep_clip_on_cpu", "keep_control_net_on_cpu"}
    | {"keep_vae_on_cpu", "flash_attn", "diffusion_flash_attn", "diffusion_conv_direct", "vae_conv_direct"}
    | {"max_vram", "free_params_immediately", "vae_decode_only", "tae_preview_only"}
)
# Fields whose values are names, which other tools write otherwise; other strings mean what is in them, to the letter.
_LABELS = frozenset({*ENUMS, "wtype", "rng_type", "sampler_rng_type", "prediction", "lora_apply_mode"})
_NAMES = {item.path: item.name for struct in (ContextParams, ImageParams) for item in parameters(struct)}
_MULTIPLES = (1, 8, 16, 32, 64)  # of the models' sizes, in pixels
_FILLED_IN: Values = {("mask_blur",): MASK_BLUR, ("paste_back",): True}  # with a mask
_IMAGES: tuple[tuple[str, ...], ...] = (
    ("init_image",),
    ("mask_image",),
    ("control_image",),
    ("ref_images",),
    ("pm_params", "id_images"),
)


class Unrecorded(Exception):
    """An image file has no record, so it cannot be told what it shows."""


class Request:
    """What the calls of a batch have in common.

    Parameters
    ----------
    engine : mapping
        Keywords of `Engine`, among them ``context``.
    network : path, optional
        Network that enlarges the images afterwards. None: they stay as they are.
    repeats, tile_size : int
        How often it runs, and the side of its tiles.
    """

    def __init__(
        self, engine: Mapping[str, Any], network: Path | None = None, repeats: int = 1, tile_size: int = 0
    ) -> None:
        context = ContextParams.of(engine["context"], "context")
        if engine.get("circular"):
            context = replace(context, circular_x=True, circular_y=True)
        context, _ = resolve_names(context, engine.get("library"), engine.get("backend", "auto"), Listeners())
        struct, self._files, _ = detach(located(context))
        self._context = _compared(struct)
        self._lora_dir = engine.get("lora_dir")
        self._of_engine = engine.get("defaults") == "engine"
        self._network = None if network is None else read_network("upscale_model", network)
        self._repeats, self._tile_size = repeats, tile_size
        self._same_files: dict[tuple[Path, FileRecord], bool] = {}

    def difference(self, path: Path, index: int, call: Mapping[str, Any]) -> str | None:
        """Compare an image file with what a call would generate.

        Parameters
        ----------
        path : Path
            An existing file.
        index : int
            Number of the image in the batch of the call, from 0.
        call : mapping
            Keywords of `Engine.generate`.

        Returns
        -------
        str or None
                What is wrong with the file, to be said after its name: ``"differs in prompt"``. None:
            nothing.

        Raises
        ------
        Unrecorded
            If the image has no record.
        """
        try:
            text = read_texts(path)[1]
        except ValueError:
            return "is damaged"
        if text is None:
            raise Unrecorded
        try:
            record = Record.from_json(text)
            found = next(self._differences(record, path, index, call), None)
            return None if found is None else f"differs in {found}"
        except (ValueError, TypeError, OSError, SDError) as error:  # the call will say what is wrong with it
            return f"cannot be compared: {error}"

    def _differences(self, record: Record, path: Path, index: int, call: Mapping[str, Any]) -> Iterator[str]:
        if record.kind != "image" or record.index != index:
            yield "place in a batch"
        yield from _unequal(self._context, _compared(record.context), flatten(record.resolved_context))
        params = self._with_adapters(call)
        images = {names: _at(params, names) for names in _IMAGES}
        params = with_engine_names(params, _names_of(record))
        struct, files, _ = detach(_without_images(params))
        strict = call.get("strict", True)
        if not strict:  # adapters that do not fit are not in the record
            files = {role: file for role, file in files.items() if not role.startswith("loras[")}
        yield from self._unequal_files(record, {**self._files, **files})
        yield from _unequal_images(record, images, call, path)
        wanted, recorded = _compared(struct), _compared(record.params)
        filled = record.defaults or {}
        if self._of_engine and filled:
            yield "defaults"
        recorded = {path: value for path, value in recorded.items() if _NAMES.get(path) not in filled}
        seed = wanted.pop(("seed",), None)
        recorded.pop(("seed",), None)
        if seed is not None and seed >= 0 and record.seed - record.index != seed:
            yield "seed"
        if not strict:
            wanted.pop(("loras",), None)
            recorded.pop(("loras",), None)
        wanted, recorded = ({("batch_count",): 1, **values} for values in (wanted, recorded))
        if images[("mask_image",)] is not None:
            wanted = _FILLED_IN | wanted
        if record.images:
            yield from _unequal_sizes(wanted, record, call.get("resize", "error"), images)
            for values in (wanted, recorded):
                values.pop(("width",), None)
                values.pop(("height",), None)
        yield from _unequal(wanted, recorded, flatten(record.resolved_params))
        yield from self._unequal_upscaling(record)

    def _with_adapters(self, call: Mapping[str, Any]) -> ImageParams:
        params = with_network(ImageParams.of(call.get("params"), "params"))
        prompt, (loras, _) = call["prompt"], with_lora_files(params.loras or (), self._lora_dir is not None)
        if call.get("lora_tags", True):
            prompt, adapters = merge_tags(prompt, loras, self._lora_dir)
        else:
            adapters = as_loras(loras, self._lora_dir)
        return replace(params, prompt=prompt, loras=adapters or None)

    def _unequal_files(self, record: Record, files: Mapping[str, Path]) -> Iterator[str]:
        recorded = {file.role: file for file in record.files}
        for role, path in files.items():
            file = recorded.get(role)
            if file is None or not self._is_same(path, file):
                yield path.name

    def _is_same(self, path: Path, file: FileRecord) -> bool:
        if (path, file) not in self._same_files:
            state = file_state(path)
            same_size = state is not None and (file.size is None or state.size == file.size)
            self._same_files[path, file] = same_size and (file.sha256 is None or sha256(path) == file.sha256)
        return self._same_files[path, file]

    def _unequal_upscaling(self, record: Record) -> Iterator[str]:
        network = self._network
        if (network is None) != (record.upscale_factor is None):
            yield "upscale_model"
        elif network is not None:
            yield from self._unequal_files(record, {"upscaler": network.path})
            if network.factor and record.upscale_factor != network.factor**self._repeats:
                yield "upscale_repeats"
            if record.upscale_tile_size != self._tile_size:
                yield "upscale_tile_size"


def _compared(struct: Struct) -> Values:
    """Return the values that decide what is generated, by path, as plain data."""
    return {path: plain(value) for path, value in flatten(struct).items() if path[-1] not in _HOW}


def _names_of(record: Record) -> dict[str, tuple[str, ...]]:
    """Return the names of each C enumeration in a record: what a call asks for by other names may mean them."""
    recorded = {**flatten(record.resolved_params), **flatten(record.params)}
    names: dict[str, tuple[str, ...]] = {}
    for path, value in recorded.items():
        if path[-1] in ENUMS and isinstance(value, str):
            names[ENUMS[path[-1]]] = (*names.get(ENUMS[path[-1]], ()), value)
    return names


def _unequal(wanted: Values, recorded: Values, resolved: Values) -> Iterator[str]:
    """Yield the names of values that differ: those that are asked for now, or were, or both."""
    for path in {**wanted, **recorded}:
        asked, had = wanted.get(path), recorded.get(path, resolved.get(path))
        if (asked is None and path in recorded) or not _is_equal(asked, had, path[-1]):
            yield _NAMES.get(path, ".".join(path))


def _is_equal(one: Any, other: Any, name: str) -> bool:
    if isinstance(one, str) and isinstance(other, str) and name in _LABELS:
        return bool(meant(one, [other]) == other)
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)  # the engine's are of 32 bits
    return bool(one == other)


def _at(struct: Any, names: Sequence[str]) -> Any:
    for name in names:
        struct = None if struct is None else getattr(struct, name)
    return struct


def _without_images(params: ImageParams) -> ImageParams:
    whole = replace(params, init_image=None, mask_image=None, control_image=None, ref_images=None)
    return whole if params.pm_params is None else replace(whole, pm_params=replace(params.pm_params, id_images=None))


def _unequal_sizes(wanted: Values, record: Record, rule: str, images: Mapping[tuple[str, ...], Any]) -> Iterator[str]:
    """Compare the requested size with that of the record, whose size came from an input image, or was rounded."""
    recorded = record.params.width, record.params.height
    asked = wanted.get(("width",)), wanted.get(("height",))
    leading = images[("init_image",)]
    if rule == "fit" and leading is not None and asked[0] is not None and asked[1] is not None:
        height, width = as_rgb(leading, "init_image", "ignore").shape[:2]
        boxes = {by: (math.ceil(asked[0] / by) * by, math.ceil(asked[1] / by) * by) for by in _MULTIPLES}
        if recorded not in [fitted_size((width, height), box, by) for by, box in boxes.items()]:
            yield "size"
        return
    for name, now, before in zip(("width", "height"), asked, recorded, strict=True):
        if now is not None and before not in [math.ceil(now / by) * by for by in _MULTIPLES]:
            yield name


def _unequal_images(
    record: Record, images: Mapping[tuple[str, ...], Any], call: Mapping[str, Any], path: Path
) -> Iterator[str]:
    recorded = {image.role: image for image in record.images}
    for names, value in images.items():
        role = ".".join(names)
        several = isinstance(value, (list, tuple)) and names != ("mask_image",)
        items = {f"{role}[{index}]": item for index, item in enumerate(value)} if several else {role: value}
        given = {role: item for role, item in items.items() if item is not None}
        if given.keys() != {found for found in recorded if found.partition("[")[0] == role}:
            yield role
            continue
        for name, item in given.items():
            if name == "control_image" and call.get("canny"):  # the record has its edges
                same = Path(item).stat().st_mtime <= path.stat().st_mtime
            else:
                same = _is_same_image(item, recorded[name], call, images[("init_image",)])
            if not same:
                yield name


def _is_same_image(image: Any, recorded: ImageRecord, call: Mapping[str, Any], init: Any) -> bool:
    alpha, rule = call.get("alpha", "refuse"), call.get("resize", "error")
    if recorded.role != "mask_image":
        pixels = as_rgb(image, recorded.role, alpha)
    elif isinstance(image, (list, tuple)):
        height, width = as_rgb(init, "init_image", alpha).shape[:2]
        pixels = box_mask(tuple(image), (width, height), "mask_image")
    else:
        pixels = as_mask(image, "mask_image", alpha)
    height, width, _ = recorded.shape
    if rule != "error":
        pixels = resized(pixels, (width, height), rule)
    return image_record(recorded.role, pixels) == recorded
