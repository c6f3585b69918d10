"""OpenAI's images API, as its clients use it: ``/v1/images/generations``, ``/v1/images/edits`` and ``/v1/models``.

A field that would change the image and is not supported is refused by its name. Besides OpenAI's fields, keywords of
`Engine.generate` are taken: ``seed``, ``steps``, ``negative_prompt``, ...
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from email.message import Message
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse

from .._quoting import shown
from ..engine.streams import encoded
from ..images.files import decoded
from ..images.texts import read_texts, save_arguments
from ..params.image import ImageParams
from ..params.names import flatten, parameters
from .exchange import (
    AttendingStream,
    check_finished,
    client_of,
    content_of,
    finished,
    image_bytes,
    json_body,
    reading,
    service_of,
    signed_path,
)
from .fields import Fields
from .jobs import Job, JobRequest, Rejected
from .refusals import refusing_as, retry_after

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from .service import Service
    from .store import StoredImage

__all__ = ["router"]

_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
# What a quality multiplies the model's steps with, and the word for it in answers.
_QUALITIES = {
    "low": (0.5, "low"),
    "medium": (1.0, "medium"),
    "standard": (1.0, "medium"),
    "auto": (1.0, "medium"),
    "high": (2.0, "high"),
    "hd": (2.0, "high"),
}
_MOST_AUTOMATIC = 1 << 20  # pixels of an edited image whose size is not given
_MOST_IMAGES = 16  # of a request
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")  # of a form, whose names are read by it too
_MOST_PARTIAL = 3
_KEEP_ALIVE = 15.0  # seconds
_LOOK_AGAIN = 0.2  # seconds between two looks whether a client has left
_NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}

# Fields with the values at which they do nothing, and what to do instead of another.
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "background": (("auto", "opaque"), "images have no transparent pixels"),
    "style": (("vivid",), "describe it in the prompt"),
    "input_fidelity": (("low",), "send strength, from 0 (little is changed) to 1"),
    "complexity": (("auto", "medium"), "send quality, or steps"),
    "frame_count": ((), "there are no animations"),
    "frame_duration_ms": ((), "there are no animations"),
    "svg": ((), "images are made of pixels"),
    "markup": ((), "send a mask"),
}
_PATHS = {item.name: item.path for item in parameters(ImageParams)}
# Keywords of `Engine.generate` besides: all but those that OpenAI has other names for, images and files.
_KEYWORDS = sorted(
    {item.name for item in parameters(ImageParams) if item.annotation not in ("Pixels", "MaskPixels", "StrPath")}
    - {"prompt", "width", "height", "batch_count"}
)
_IDLE = ("moderation", "user", "safety_identifier")  # nothing is moderated
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def _error(error: Rejected) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    code = {"unknown_model": "model_not_found", "queue_full": "rate_limit_exceeded"}.get(error.type, error.type)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


def _refused(error: Rejected) -> Response:
    # The openai package sends a request again after any 5xx; a job that failed would fail twice more.
    headers = retry_after(error) or {"x-should-retry": "false"}
    return JSONResponse(_error(error), error.status, headers)


router = APIRouter(prefix="/v1", route_class=refusing_as(_refused), tags=["OpenAI"])


@dataclass(frozen=True)
class _Wanted:
    """A request: the job's parameters, and the form of the answer."""

    name: str
    model: str
    parameters: Mapping[str, Any]
    format: str
    compression: int
    by_url: bool
    quality: str
    streams: bool
    partial_images: int

    async def submitted(self, request: Request) -> Job:
        return await service_of(request).submit(
            JobRequest(
                "generate",
                self.model,
                self.parameters,
                client_of(request),
                key=request.headers.get("idempotency-key"),
                previews=self.streams and self.partial_images > 0,
            )
        )

    def common(self, image: StoredImage | None) -> dict[str, Any]:
        """Return what answers say of the images."""
        width, height = (
            (image.width, image.height) if image else (self.parameters.get("width"), self.parameters.get("height"))
        )
        size = f"{width}x{height}" if width and height else "auto"
        return {"background": "opaque", "output_format": self.format, "quality": self.quality, "size": size}

    def encoded(self, image: StoredImage) -> str:
        """Return an image in the format of the answer, in base64. It reads a file: call it on a thread."""
        content = content_of(image)
        if self.format != "png":
            parameters, record = read_texts(io.BytesIO(content), "the image")
            options: dict[str, Any] = {"quality": max(1, self.compression)}
            if parameters is not None and record is not None:
                options |= save_arguments(_FORMATS[self.format], parameters, record)
            content = encoded(decoded(content, "the image"), _FORMATS[self.format], options)
        return base64.b64encode(content).decode()


async def _wanted(name: str, given: Fields, service: Service) -> _Wanted:
    """Read the fields that both kinds of requests have, and then the keywords of `Engine.generate`."""
    model = given.text("model") or service.models.default
    if model not in service.models.names():
        names = ", ".join(service.models.names())
        raise Rejected(404, "unknown_model", f"there is no model {shown(model)}; the server has {names}", param="model")
    prompt = given.text("prompt")
    if prompt is None:
        raise given.wrong("prompt", "prompt must be a text, and there is none: send one")
    parameters: dict[str, Any] = {"prompt": prompt, "batch_count": given.integer("n")}
    size = given.text("size")
    if size not in (None, "", "auto"):
        found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size or "")
        if not found:
            raise given.wrong("size", f"size must be WIDTHxHEIGHT or auto, not {shown(size)}")
        parameters |= {"width": int(found[1]), "height": int(found[2])}
    factor, quality = given.choice("quality", _QUALITIES) or _QUALITIES["auto"]
    response, form = given.choice("response_format", {"b64_json": False, "url": True}), given.text("output_format")
    compression = given.integer("output_compression")
    streams, partial = bool(given.flag("stream")), given.integer("partial_images") or 0
    if (form or "png") not in _FORMATS:
        raise given.wrong("output_format", f"output_format must be one of {', '.join(_FORMATS)}, not {shown(form)}")
    if compression is not None and (not 0 <= compression <= 100 or ((form or "png") == "png" and compression != 100)):
        raise given.wrong("output_compression", "output_compression must be from 0 to 100, and 100 for PNG")
    if not 0 <= partial <= _MOST_PARTIAL or (partial and not streams):
        raise given.wrong("partial_images", f"partial_images must be from 0 to {_MOST_PARTIAL}, with stream=true")
    if response and (streams or (form or "png") != "png"):
        raise given.wrong(
            "response_format", "response_format url is for PNG files that are not streamed: ask for b64_json"
        )
    for field, (legal, instead) in _ONLY.items():
        given.only(field, legal, instead)
    given.drop(*_IDLE)
    parameters |= await _own_keywords(given, factor, model, service)
    return _Wanted(
        name,
        model,
        {key: value for key, value in parameters.items() if value is not None},
        form or "png",
        100 if compression is None else compression,
        bool(response),
        quality,
        streams,
        partial,
    )


async def _own_keywords(given: Fields, factor: float, model: str, service: Service) -> dict[str, Any]:
    """Return the keywords of `Engine.generate` that are sent besides, and the steps of the quality."""
    found = {name: value for name in _KEYWORDS if (value := given.take(name)) is not None}
    given.refuse_rest("docs/serve.md lists those that it has")
    if factor != 1:
        if "steps" in found:
            raise given.wrong("steps", "steps and quality both set the number of steps: send one")
        own = flatten((await service.facts(model)).filled)
        usual = {**own, **service.models.config(model).arguments.call_values}[_PATHS["steps"]]
        found["steps"] = max(1, round(factor * usual))
    return found


@router.post("/images/generations")
async def generations(request: Request) -> Response:
    """Generate images from a prompt."""
    given = Fields(await json_body(request))
    return await _answer(request, await _wanted("image_generation", given, service_of(request)))


@router.post("/images/edits")
async def edits(request: Request) -> Response:
    """Generate images from images."""
    service = service_of(request)
    images, mask, values = await _form(request)
    wanted = await _wanted("image_edit", Fields(values), service)
    content = [await image_bytes(image, "image", service) for image in images]
    mask = None if mask is None else await image_bytes(mask, "mask", service)
    refers = bool((await service.capabilities(wanted.model)).ref_images)
    parts = await reading(lambda: _edit(content, mask, wanted.parameters, refers))
    return await _answer(request, replace(wanted, parameters={**parts, **wanted.parameters}))


async def _form(request: Request) -> tuple[list[bytes], bytes | None, dict[str, Any]]:
    """Return the images, the mask and the other fields of a form."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Rejected(400, "invalid_request", "send a form (multipart/form-data) with the file of the image")
    images: list[bytes] = []
    mask, values = None, dict[str, Any]()
    async with _read_form(request) as form:
        for name, value in form.multi_items():
            plain = name.removesuffix("[]")
            if isinstance(value, UploadFile):
                if plain == "image":
                    images.append(await value.read())
                elif plain == "mask":
                    mask = await value.read()
                else:
                    values[plain] = value.filename
            else:
                values[plain] = _typed(value) if plain not in ("prompt", "negative_prompt") else value
    if not 1 <= len(images) <= _MOST_IMAGES:
        raise Rejected(400, "invalid_request", f"image must be 1 to {_MOST_IMAGES} files", param="image")
    return images, mask, values


@asynccontextmanager
async def _read_form(request: Request) -> AsyncIterator[FormData]:
    """Read a form, all of whose texts can be written again; a client may name any encoding for them."""
    header = Message()
    header["Content-Type"] = request.headers["content-type"]
    try:
        if header.get_content_charset("utf-8") not in _CHARSETS:
            raise UnicodeError
        async with request.form() as form:
            for name, value in form.multi_items():
                f"{name}{value.filename if isinstance(value, UploadFile) else value}".encode()
            yield form
    except UnicodeError as error:
        raise Rejected(400, "invalid_request", "a text of the form cannot be decoded: send it as UTF-8") from error


def _typed(text: str) -> Any:
    """Return the value in a form's text: a number, a list, ...; any other text is itself."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        if not isinstance(value, str):
            return value
    return text


def _edit(contents: list[bytes], mask: bytes | None, parameters: Mapping[str, Any], refers: bool) -> dict[str, Any]:
    """Return the parameters for the images of an edit: with a mask inpainting, else what the model is made for."""
    first = decoded(contents[0], "image")
    width, height = _automatic_size(*first.size)
    size = {"resize": "crop"} if "width" in parameters else {"resize": "fit", "width": width, "height": height}
    transparent = None if refers else _transparent(first)
    if mask is not None:
        image = decoded(mask, "mask")
        if image.size != first.size:
            raise Rejected(400, "invalid_image", "mask must have the size of the first image", param="mask")
        transparent = _transparent(image)
        if transparent is None:
            raise Rejected(
                400, "invalid_image", "mask must have transparent pixels where the image is edited", param="mask"
            )
    if transparent is not None:
        others = {"ref_images": contents[1:]} if contents[1:] else {}
        parts = {"init_image": first.convert("RGB"), "mask_image": transparent, **others}
    elif refers:
        others, parts = {}, {"ref_images": contents, "alpha": "white"}
    else:
        others, parts = (
            {"ref_images": contents[1:]} if contents[1:] else {},
            {"init_image": contents[0], "alpha": "white"},
        )
    if others and not refers:
        raise Rejected(400, "invalid_request", "this model takes one image: send one", param="image")
    return {**parts, **size}


def _automatic_size(width: int, height: int) -> tuple[int, int]:
    """Return the size of an image, or that of a smaller one with its aspect ratio if it has too many pixels."""
    scale = min(1.0, (_MOST_AUTOMATIC / (width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _transparent(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return a mask that is white where an image is transparent; None if it is nowhere."""
    import numpy as np

    if not image.has_transparency_data:
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return None if alpha.min() == 255 else (255 - alpha)[..., None]


async def _answer(request: Request, wanted: _Wanted) -> Response:
    job = await wanted.submitted(request)
    if wanted.streams:
        headers = {"Cache-Control": "no-store"}
        return AttendingStream(service_of(request), job, _events(request, wanted, job), headers)
    await finished(request, job)
    images = job.images
    if wanted.by_url:
        base = str(request.base_url).rstrip("/")
        data = [{"url": f"{base}{signed_path(request, image.id)}"} for image in images]
    else:
        data = [{"b64_json": await asyncio.to_thread(wanted.encoded, image)} for image in images]
    return JSONResponse(
        {"created": int(job.created), "data": data, "usage": _NO_TOKENS, **wanted.common(images[0] if images else None)}
    )


async def _events(request: Request, wanted: _Wanted, job: Job) -> AsyncIterator[str]:
    """Yield partial images, then the images, as server-sent events. A client that leaves cancels the job."""
    sent, silent = 0, 0.0
    events = aiter(job.events())
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=_LOOK_AGAIN)
            if not done:
                if await request.is_disconnected():
                    return
                silent += _LOOK_AGAIN
                if silent >= _KEEP_ALIVE:
                    silent = 0.0
                    yield ": still here\n\n"
                continue
            event, silent = pending.result(), 0.0
            if event is None:
                break
            if event.name == "preview" and sent < wanted.partial_images and _is_due(job, event.data, sent, wanted):
                partial = await asyncio.to_thread(_partial, event.data["image"], wanted)
                yield _event(wanted, "partial_image", {"b64_json": partial, "partial_image_index": sent})
                sent += 1
            pending = asyncio.ensure_future(anext(events, None))
    finally:
        pending.cancel()
    try:
        check_finished(job)
        for image in job.images:
            data = {"b64_json": await asyncio.to_thread(wanted.encoded, image), "usage": _NO_TOKENS}
            yield _event(wanted, "completed", data, image)
    except Rejected as error:
        yield f"event: error\ndata: {json.dumps({'type': 'error', **_error(error)})}\n\n"


def _is_due(job: Job, preview: Mapping[str, Any], sent: int, wanted: _Wanted) -> bool:
    """Return whether it is time for the next partial image: they divide the steps of all images evenly."""
    progress = job.progress
    if progress is None or not progress.steps:
        return False
    done: float = (preview["index"] + preview["step"] / progress.steps) / max(1, progress.images)
    return done * (wanted.partial_images + 1) >= sent + 1


def _partial(content: bytes, wanted: _Wanted) -> str:
    """Return a preview at the size and in the format of the image. It decodes and encodes: call it on a thread."""
    image = decoded(content, "the preview")
    width, height = (int(wanted.parameters.get(name, 0)) for name in ("width", "height"))
    if width and height:
        image = image.resize((width, height))
    options = {} if wanted.format == "png" else {"quality": max(1, wanted.compression)}
    return base64.b64encode(encoded(image, _FORMATS[wanted.format], options)).decode()


def _event(wanted: _Wanted, kind: str, data: Mapping[str, Any], image: StoredImage | None = None) -> str:
    name = f"{wanted.name}.{kind}"
    body = {"type": name, "created_at": int(time.time()), **wanted.common(image), **data}
    return f"event: {name}\ndata: {json.dumps(body)}\n\n"


@router.get("/models")
async def models(request: Request) -> Response:
    """Return the models."""
    names = service_of(request).models.names()
    return JSONResponse({"object": "list", "data": [_model(name) for name in names]})


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """Return a model."""
    names = service_of(request).models.names()
    if name not in names:
        message = f"there is no model {shown(name)}; the server has {', '.join(names)}"
        raise Rejected(404, "unknown_model", message, param="model")
    return JSONResponse(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "sdcffi"}


_STARTED = int(time.time())
