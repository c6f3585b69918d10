"""The API of AUTOMATIC1111's web interface, as its clients use it: ``/sdapi/v1/...``.

A field that would change the image and is not supported is refused by its name, so that no client gets another image
than it asked for. Fields that every client sends are taken at the value with which they do nothing.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from .._quoting import shown
from .._records.infotext import sampler_label, scheduler_label
from .._records.webui import text_parts
from .._version import __version__
from ..images.convert import as_rgb, to_pillow
from ..images.files import decoded
from ..images.texts import read_texts
from ..params.other_names import AUTOMATIC
from .exchange import client_of, content_of, finished, image_bytes, json_body, reading, service_of
from .fields import Fields
from .inpainting import Region
from .jobs import Job, JobRequest, Rejected
from .messages import without_paths
from .refusals import refusing_as, retry_after
from .webui_requests import FILTERS, KNOWN, LATENT, STATUS, Call, Settings, read_call, read_settings

if TYPE_CHECKING:
    from PIL import Image

    from .service import Service
    from .store import StoredImage

__all__ = ["router"]

_MOST_CLIENTS = 10_000  # whose settings are remembered


def _refused(error: Rejected) -> Response:
    body = {"error": error.type, "detail": error.message, "body": "", "errors": error.message}
    return JSONResponse(body, error.status, retry_after(error))


router = APIRouter(prefix="/sdapi/v1", route_class=refusing_as(_refused), tags=["AUTOMATIC1111"])


class _Chosen:
    """The settings of each client; those who have not asked for long are forgotten."""

    def __init__(self) -> None:
        self._settings: OrderedDict[str, Settings] = OrderedDict()

    def of(self, client: str) -> Settings:
        return self._settings.get(client, Settings())

    def update(self, client: str, settings: Settings) -> None:
        self._settings[client] = self.of(client).updated(settings)
        self._settings.move_to_end(client)
        while len(self._settings) > _MOST_CLIENTS:
            self._settings.popitem(last=False)


def _chosen(request: Request) -> _Chosen:
    state = request.app.state
    if not hasattr(state, "webui_settings"):
        state.webui_settings = _Chosen()
    chosen: _Chosen = state.webui_settings
    return chosen


# Generation.


@router.post("/txt2img")
async def txt2img(request: Request) -> Response:
    """Generate images from a prompt."""
    return await _generate(request, from_image=False)


@router.post("/img2img")
async def img2img(request: Request) -> Response:
    """Generate images from an image."""
    return await _generate(request, from_image=True)


async def _generate(request: Request, *, from_image: bool) -> Response:
    service, client, body = service_of(request), client_of(request), await json_body(request)
    chosen = _chosen(request)
    if body.get("override_settings_restore_afterwards") is False:
        chosen.update(client, read_settings(body.get("override_settings"), "override_settings", service))

    def read() -> Call:
        try:
            return read_call(body, chosen.of(client), service, from_image=from_image)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise Rejected(STATUS, "invalid_request_error", without_paths(str(error))) from error

    call = await asyncio.to_thread(read)
    job = await service.submit(JobRequest("generate", call.model, call.parameters, client, previews=True))
    await _ended(request, job)
    return JSONResponse(await asyncio.to_thread(_answer, call, job))


async def _ended(request: Request, job: Job) -> None:
    """Wait for a job; one that the client interrupted has ended too, with fewer images."""
    try:
        await finished(request, job)
    except Rejected:
        if job.state != "cancelled" or job.error is not None:
            raise


def _answer(call: Call, job: Job) -> dict[str, Any]:
    """Return the answer to a request for images. It reads files: call it on a thread."""
    files, texts = [], []
    for image in job.images:
        content = content_of(image)
        text = read_texts(io.BytesIO(content), "the image")[0] or ""
        files.append(content if call.region is None else _whole(content, text, call.region))
        texts.append(text)
    return {
        "images": [base64.b64encode(content).decode() for content in files] if call.sends_images else [],
        "parameters": call.echo,
        "info": json.dumps(_info(call, job, texts)),
    }


def _whole(content: bytes, text: str, region: Region) -> bytes:
    """Return the file of the whole image; its text is that of the part, whose record it is not."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", text)
    buffer = io.BytesIO()
    to_pillow(region.put_back(as_rgb(content, "the image"))).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _info(call: Call, job: Job, texts: list[str]) -> dict[str, Any]:
    """Return what the web interface says of images: what the texts in them have."""
    images: list[StoredImage] = job.images
    values: dict[str, str] = {}
    for text in texts[:1]:
        with suppress(ValueError):
            values = text_parts(text, "the image")[2]
    prompt, negative = call.parameters["prompt"], call.parameters.get("negative_prompt", "")
    seeds = [image.seed for image in images]
    strength = values.get("Denoising strength")
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * len(images),
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(images),
        "seed": seeds[0] if seeds else -1,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(images),
        "subseed_strength": 0,
        "width": images[0].width if images else None,
        "height": images[0].height if images else None,
        "sampler_name": values.get("Sampler"),
        "cfg_scale": _number(values.get("CFG scale")),
        "steps": _number(values.get("Steps")),
        "batch_size": call.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.request.model,
        "sd_model_hash": values.get("Model hash"),
        "sd_vae_name": values.get("VAE"),
        "sd_vae_hash": values.get("VAE hash"),
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": _number(strength),
        "extra_generation_params": {
            name: value for name, value in values.items() if name in ("Schedule type", "Mask blur", "Lora hashes")
        },
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created)),
        "clip_skip": int(values.get("Clip skip", 1)),
        "is_using_inpainting_conditioning": False,
        "version": f"sdcffi {__version__}",
        "loras": job.loras,
        "warnings": job.warnings,
    }


def _number(text: str | None) -> float | int | None:
    if text is None:
        return None
    number = float(text)
    return int(number) if number.is_integer() else number


# Progress.


@router.get("/progress")
async def progress(request: Request, skip_current_image: bool = False) -> Response:
    """Return how far the client's job is."""
    jobs = _at_work(request)
    job = jobs[0] if jobs else None
    done = job.progress if job else None
    fraction = done.fraction if done else 0.0
    seconds = time.time() - job.started if job and job.started else 0.0
    state = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": job.id if job else "",
        "job_count": len(jobs),
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created if job else time.time())),
        "job_no": max(0, done.image - 1) if done else 0,
        "sampling_step": done.step if done and done.phase == "sample" else 0,
        "sampling_steps": done.steps if done and done.phase == "sample" else 0,
    }
    preview = job.last("preview") if job and not skip_current_image else None
    image = preview.data["image"] if preview else None
    answer = {
        "progress": max(fraction, 0.01) if jobs else 0.0,
        "eta_relative": seconds / fraction - seconds if fraction else 0.0,
        "state": state,
        "current_image": None if image is None else await asyncio.to_thread(_as_png, image),
        "textinfo": None if job is None or job.position is None else f"{job.position} in the queue",
    }
    return JSONResponse(answer)


def _at_work(request: Request) -> list[Job]:
    """Return the client's jobs that have not ended: those that run, then those that wait, the oldest first."""
    return service_of(request).live_jobs(client_of(request))


def _as_png(content: bytes) -> str:
    buffer = io.BytesIO()
    decoded(content, "the preview").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@router.post("/interrupt")
async def interrupt(request: Request) -> Response:
    """Cancel the client's job that runs; if none runs, the one that waits longest."""
    for job in _at_work(request)[:1]:
        await service_of(request).cancel(job.id, client_of(request))
    return JSONResponse({})


@router.post("/skip")
async def skip(request: Request) -> Response:
    """Refuse to go on with the next image of a batch."""
    raise Rejected(501, "not_supported", "an image of a batch cannot be skipped: interrupt the job")


# Settings and names.


@router.get("/options")
async def options(request: Request) -> Response:
    """Return the client's settings."""
    return JSONResponse(_chosen(request).of(client_of(request)).shown(service_of(request)))


@router.post("/options")
async def set_options(request: Request) -> Response:
    """Change the client's settings."""
    settings = read_settings(await json_body(request), "options", service_of(request))
    _chosen(request).update(client_of(request), settings)
    return JSONResponse(None)


@router.get("/sd-models")
async def sd_models(request: Request) -> Response:
    """Return the models; none has a path here."""
    return JSONResponse(
        [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
            for name in service_of(request).models.names()
        ]
    )


@router.get("/loras")
async def loras(request: Request) -> Response:
    """Return the adapters for the client's model."""
    service, model = service_of(request), _chosen(request).of(client_of(request)).model
    names = await asyncio.to_thread(service.loras, model or "")
    return JSONResponse([{"name": name, "alias": name, "path": name, "metadata": {}} for name in names])


@router.get("/samplers")
async def samplers(request: Request) -> Response:
    """Return the samplers for the client's model, by the web interface's names."""
    names = await service_of(request).samplers(_chosen(request).of(client_of(request)).model or "")
    return JSONResponse([{"name": sampler_label(name), "aliases": [name], "options": {}} for name in names])


@router.get("/schedulers")
async def schedulers(request: Request) -> Response:
    """Return the schedulers for the client's model."""
    names = await service_of(request).schedulers(_chosen(request).of(client_of(request)).model or "")
    rest = {"default_rho": -1.0, "need_inner_model": False}
    automatic = {"name": AUTOMATIC.lower(), "label": AUTOMATIC, "aliases": None, **rest}
    found = [{"name": name, "label": scheduler_label(name), "aliases": None, **rest} for name in names]
    return JSONResponse([automatic, *found])


@router.get("/upscalers")
async def upscalers(request: Request) -> Response:
    """Return the upscalers: none, filters, and the server's networks."""
    names = ("None", *FILTERS, *service_of(request).upscalers())
    return JSONResponse(
        [{"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4.0} for name in names]
    )


@router.get("/latent-upscale-modes")
async def latent_upscale_modes() -> Response:
    """Return the ways to enlarge latents before a second pass."""
    return JSONResponse([{"name": name} for name in LATENT])


_EMPTY: dict[str, Any] = {
    **{name: [] for name in ("sd-vae", "sd-modules", "hypernetworks", "face-restorers", "realesrgan-models")},
    **{name: [] for name in ("prompt-styles", "script-info", "extensions")},
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "cmd-flags": {},
    "memory": {"ram": {}, "cuda": {}},
}


def _always(value: Any) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def answer() -> Response:
        return JSONResponse(value)

    return answer


for _name, _value in _EMPTY.items():  # what clients ask for, and the server has not
    router.add_api_route(f"/{_name}", _always(_value), methods=["GET"], include_in_schema=False)


@router.post("/refresh-checkpoints")
@router.post("/refresh-vae")
@router.post("/refresh-loras")
@router.post("/unload-checkpoint")
@router.post("/reload-checkpoint")
async def refresh() -> Response:
    """Do nothing: lists are read anew each time, and the server loads and unloads models by itself."""
    return JSONResponse({})


# Images that exist.


@router.post("/extra-single-image")
async def extra_single_image(request: Request) -> Response:
    """Enlarge an image."""
    given = Fields(await json_body(request), STATUS)
    content = await _sent_image(given.take("image"), "image", request)
    upscaling = _Upscaling.read(given, service_of(request))
    given.refuse_rest(KNOWN)
    return JSONResponse({"html_info": "", "image": await _enlarged(request, content, upscaling)})


@router.post("/extra-batch-images")
async def extra_batch_images(request: Request) -> Response:
    """Enlarge images."""
    given = Fields(await json_body(request), STATUS)
    items = given.take("imageList")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise given.wrong("imageList", "imageList must be a list of objects with data and name")
    most = service_of(request).config.most_images
    if len(items) > most:
        raise given.wrong("imageList", f"imageList must have at most {most} images on this server, not {len(items):,}")
    contents = [await _sent_image(item.get("data"), "imageList.data", request) for item in items]
    upscaling = _Upscaling.read(given, service_of(request))
    given.refuse_rest(KNOWN)
    images = [await _enlarged(request, content, upscaling) for content in contents]
    return JSONResponse({"html_info": "", "images": images if upscaling.shown else []})


@dataclass(frozen=True)
class _Upscaling:
    """How an image is enlarged: by which upscaler, and by a factor or to a size."""

    upscaler: str
    factor: float
    size: tuple[int, int] | None
    crops: bool
    shown: bool

    @classmethod
    def read(cls, given: Fields, service: Service) -> _Upscaling:
        name = given.text("upscaler_1") or "None"
        legal = ("None", *FILTERS, *service.upscalers())
        if name not in legal:
            raise given.wrong("upscaler_1", f"upscaler_1 must be one of {', '.join(legal)}, not {shown(name)}")
        second = given.text("upscaler_2")
        if given.number("extras_upscaler_2_visibility") and second not in (None, "", "None"):
            raise given.wrong("upscaler_2", "upscaler_2 is not supported: one upscaler enlarges the image")
        for restorer in ("gfpgan_visibility", "codeformer_visibility"):
            given.only(restorer, (0,), "faces are not restored")
        given.drop("codeformer_weight", "upscale_first")
        mode, factor = given.integer("resize_mode") or 0, given.number("upscaling_resize")
        width, height = given.integer("upscaling_resize_w"), given.integer("upscaling_resize_h")
        crops, shows = given.flag("upscaling_crop"), given.flag("show_extras_results")
        if mode not in (0, 1):
            raise given.wrong("resize_mode", f"resize_mode must be 0 (a factor) or 1 (a size), not {mode}")
        for side in (width, height):
            if mode == 1 and (side or 512) < 1:
                raise given.wrong("upscaling_resize_w", "upscaling_resize_w and upscaling_resize_h must be at least 1")
        factor = 2.0 if factor is None else factor
        if not 0 < factor <= 16:
            raise given.wrong("upscaling_resize", f"upscaling_resize must be above 0 and at most 16, not {factor:g}")
        size = (width or 512, height or 512) if mode == 1 else None
        return cls(name, factor, size, crops is not False, shows is not False)

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Return the size to which an image is enlarged, before it is cropped."""
        scale = self.factor
        if self.size is not None:
            scales = self.size[0] / width, self.size[1] / height
            scale = max(scales) if self.crops else min(scales)
        return max(1, round(width * scale)), max(1, round(height * scale))


async def _enlarged(request: Request, content: bytes, upscaling: _Upscaling) -> str | None:
    service, name = service_of(request), upscaling.upscaler
    image = await reading(lambda: to_pillow(as_rgb(content, "image", "white")), STATUS)
    target = upscaling.target(*image.size)
    if target[0] * target[1] > 4 * service.config.most_pixels:
        raise Rejected(STATUS, "invalid_request_error", f"{target[0]}x{target[1]} pixels are too many for this server")
    if name not in ("None", *FILTERS) and (factor := target[0] / image.size[0]) > 1:
        job = await service.submit(JobRequest("upscale", name, {"image": image, "factor": factor}, client_of(request)))
        await _ended(request, job)
        if not job.images:
            return None
        image = await asyncio.to_thread(lambda: decoded(content_of(job.images[0]), "the image"))
    return await asyncio.to_thread(_fitted, image, upscaling, target) if upscaling.shown else None


def _fitted(image: Image.Image, upscaling: _Upscaling, target: tuple[int, int]) -> str:
    from PIL.Image import Resampling

    if upscaling.upscaler != "None" and image.size != target:
        kernel = Resampling.NEAREST if upscaling.upscaler == "Nearest" else Resampling.LANCZOS
        image = image.resize(target, kernel)
    if upscaling.upscaler != "None" and upscaling.size is not None and upscaling.crops:
        left, top = (image.width - upscaling.size[0]) // 2, (image.height - upscaling.size[1]) // 2
        image = image.crop((left, top, left + upscaling.size[0], top + upscaling.size[1]))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@router.post("/png-info")
async def png_info(request: Request) -> Response:
    """Return the parameters that an image has, as text and by their names."""
    given = Fields(await json_body(request), STATUS)
    content = await _sent_image(given.take("image"), "image", request)
    given.refuse_rest(KNOWN)
    return JSONResponse(await reading(lambda: _texts_of(content), STATUS))


def _texts_of(content: bytes) -> dict[str, Any]:
    image = decoded(content, "image")
    text = read_texts(io.BytesIO(content), "image")[0] or ""
    items = {name: value for name, value in image.info.items() if isinstance(name, str) and isinstance(value, str)}
    parameters: dict[str, Any] = {}
    with suppress(ValueError):
        prompt, negative, values = text_parts(text, "image")
        parameters = {"Prompt": prompt, "Negative prompt": negative, **values}
        if size := re.fullmatch(r"(\d+)x(\d+)", values.get("Size", "")):
            parameters |= {"Size-1": size[1], "Size-2": size[2]}
    return {"info": text, "items": items, "parameters": parameters}


async def _sent_image(value: Any, name: str, request: Request) -> bytes:
    try:
        return await image_bytes(value, name, service_of(request))
    except Rejected as error:
        raise Rejected(STATUS, error.type, error.message, param=error.param) from error
