"""Our own API: jobs, their events, images and records."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse

from .._records.record import Record
from .._records.webui import read_webui_text
from .._warnings import collecting
from ..images.texts import read_texts
from ..params.context import ContextParams
from ..params.image import ImageParams
from ..params.lora import Lora, multiplier_of
from ..params.names import flatten, parameters
from ..params.plain import plain
from .exchange import MOST_LISTED, AttendingStream, client_of, finished, image_bytes, json_body, service_of
from .jobs import Job, JobEvent, JobRequest, Rejected
from .schemas import ErrorAnswer, JobAnswer, JobBody, JobsAnswer, ReadAnswer, checked, parameter_schema
from .service import Service
from .store import StoredImage

__all__ = ["image_json", "job_json", "router"]

_ERRORS: dict[int | str, dict[str, Any]] = {400: {"model": ErrorAnswer}, 404: {"model": ErrorAnswer}}
_MOST_TOLD = 1000  # jobs in an answer
_KEEP_ALIVE = 15.0  # seconds without an event, after which a comment is sent
_IMAGES = ("init_image", "mask_image", "control_image", "image")
_LISTS = ("ref_images", "pm_id_images")
_SHORT_NAMES = {"mask": "mask_image"}

router = APIRouter(prefix="/api")


def image_json(image: StoredImage) -> dict[str, Any]:
    """Return what clients are told of an image."""
    url = f"/api/images/{image.id}"
    return {
        **{name: getattr(image, name) for name in ("id", "width", "height", "seed", "media_type")},
        "url": url,
        "record_url": f"{url}/record" if image.has_record else None,
    }


def job_json(job: Job) -> dict[str, Any]:
    """Return what clients are told of a job."""
    names = ("created", "started", "ended", "position", "attempts", "loras", "warnings")
    return {
        "id": job.id,
        "state": job.state,
        "kind": job.request.kind,
        "model": job.request.model,
        "parameters": dict(job.request.parameters),
        **{name: getattr(job, name) for name in names},
        "progress": job.progress and job.progress.as_dict(),
        "images": [image_json(image) for image in job.images],
        "error": job.error and job.error.as_dict(),
    }


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobAnswer,
    responses={**_ERRORS, 200: {"model": JobAnswer}, 413: {"model": ErrorAnswer}, 429: {"model": ErrorAnswer}},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": JobBody.model_json_schema()}}},
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string"},
                "description": "A request with the same key is the same job, so that it can be sent again.",
            }
        ],
    },
)
async def submit(request: Request, wait: bool = False) -> Response:
    """Submit a job. With ``wait`` the answer comes when it has ended, and it is cancelled if the client leaves."""
    service = service_of(request)
    body = checked(await json_body(request))
    job = await service.submit(
        JobRequest(
            kind=body.kind,
            model=body.model or "",
            parameters=await _decoded(body.parameters, service),
            client=client_of(request),
            timeout=body.timeout,
            retry=body.retry,
            key=request.headers.get("idempotency-key"),
            previews=body.previews,
        )
    )
    if wait:
        return JSONResponse(job_json(await finished(request, job)))
    return JSONResponse(job_json(job), 202, {"Location": f"/api/jobs/{job.id}"})


async def _decoded(given: dict[str, Any], service: Service) -> dict[str, Any]:
    """Return parameters with images and LoRAs in place of their JSON."""
    values = {_SHORT_NAMES.get(name, name): value for name, value in given.items()}
    for name in _IMAGES:
        value = values.get(name)
        if name == "mask_image" and isinstance(value, list):  # a box
            values[name] = tuple(value)
        elif value is not None:
            values[name] = await image_bytes(value, name, service)
    for name in _LISTS:
        if name in values:
            listed = _list(values[name], name)
            if len(listed) > MOST_LISTED:
                message = f"{name} must have at most {MOST_LISTED} images on this server, not {len(listed):,}"
                raise Rejected(400, "invalid_request", message, param=name)
            values[name] = [await image_bytes(one, name, service) for one in listed]
    if "loras" in values:
        values["loras"] = [_lora(one) for one in _list(values["loras"], "loras")]
    return values


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise Rejected(400, "invalid_request", f"{name} must be a list", param=name)
    return value


def _lora(item: Any) -> Lora:
    given = {"name": item} if isinstance(item, str) else item
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        message = 'a LoRA must be {"name": ..., "strength": ...}: GET /api/loras has the names'
        raise Rejected(400, "invalid_request", message, param="loras")
    rest = dict(given)
    try:
        return Lora(path=rest.pop("name"), multiplier=rest.pop("strength", None), **rest)
    except (TypeError, ValueError) as error:
        raise Rejected(400, "invalid_request", f"loras: {error}", param="loras") from error


def _job(request: Request, id: str) -> Job:
    job = service_of(request).get(id, client_of(request))
    if job is None:
        raise Rejected(404, "not_found", "there is no such job: it has expired, or is not yours")
    return job


@router.get("/jobs", response_model=JobsAnswer)
async def jobs(request: Request, limit: int = 100) -> Response:
    """Return the client's jobs, the newest first; at most 1,000."""
    found = service_of(request).jobs(client_of(request), min(max(0, limit), _MOST_TOLD))
    return JSONResponse({"jobs": [job_json(job) for job in found]})


@router.get("/jobs/{id}", response_model=JobAnswer, responses=_ERRORS)
async def job(request: Request, id: str) -> Response:
    """Return a job."""
    return JSONResponse(job_json(_job(request, id)))


@router.delete("/jobs/{id}", response_model=JobAnswer, responses=_ERRORS)
async def cancel(request: Request, id: str) -> Response:
    """Cancel a job that waits or runs. One that has ended stays as it is."""
    found = _job(request, id)
    await service_of(request).cancel(id, client_of(request))
    return JSONResponse(job_json(found))


@router.get("/jobs/{id}/events", responses={**_ERRORS, 200: {"content": {"text/event-stream": {}}}})
async def events(request: Request, id: str, cancel: bool = False) -> Response:
    """Follow a job by server-sent events: queued, started, progress, preview, image, and finished, failed or cancelled.

    With ``cancel`` the job is cancelled when the client leaves.
    """
    found = _job(request, id)
    last = request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdecimal() and len(last) < 10 else 0
    if found.has_ended and after and after >= found.last_event:
        return Response(status_code=204)  # a browser then stops asking
    stream = _stream(found, after)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second for nginx
    if cancel:
        return AttendingStream(service_of(request), found, stream, headers)
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _stream(job: Job, after: int) -> AsyncIterator[str]:
    events = aiter(job.events(after))
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait({following}, timeout=_KEEP_ALIVE)
            if not following.done():
                yield ": the job goes on\n\n"
                continue
            event = following.result()
            if event is None:
                return
            yield f"id: {event.id}\nevent: {event.name}\ndata: {json.dumps(_event_json(job, event))}\n\n"
            following = asyncio.ensure_future(anext(events, None))
    finally:
        following.cancel()


def _event_json(job: Job, event: JobEvent) -> Any:
    if event.name == "preview":
        image = base64.b64encode(event.data["image"]).decode()
        return {**event.data, "image": f"data:image/jpeg;base64,{image}"}
    if event.name == "image":
        return next(image_json(image) for image in job.images if image.id == event.data["id"])
    return event.data if event.name == "progress" else job_json(job)


def _image(request: Request, id: str) -> StoredImage:
    client = None if request.scope.get("sdcffi.signed") else client_of(request)
    image = service_of(request).image(id, client)
    if image is None:
        raise Rejected(404, "not_found", "there is no such image: it has expired, or is not yours")
    return image


@router.get("/images/{id}", responses={**_ERRORS, 200: {"content": {"image/png": {}}}})
async def image(request: Request, id: str) -> Response:
    """Return the file of an image, with its record inside."""
    found = _image(request, id)
    headers = {
        "Cache-Control": "private, max-age=86400, immutable",
        "Content-Disposition": f'inline; filename="{found.id}.png"',
        "X-Content-Type-Options": "nosniff",
    }
    try:
        content = await asyncio.to_thread(found.read)
    except OSError as error:
        raise Rejected(404, "not_found", "this image has just expired") from error
    return Response(content, media_type=found.media_type, headers=headers)


@router.get("/images/{id}/record", responses=_ERRORS)
async def record(request: Request, id: str) -> Response:
    """Return how an image was made."""
    found = _image(request, id)
    try:
        data = await asyncio.to_thread(lambda: found.record)
    except (OSError, ValueError) as error:
        raise Rejected(404, "not_found", "this image has just expired") from error
    if data is None:
        raise Rejected(404, "no_record", "this image was only upscaled, and has no record")
    return JSONResponse(data)


@router.post(
    "/read",
    response_model=ReadAnswer,
    responses={**_ERRORS, 422: {"model": ErrorAnswer}},
    openapi_extra={"requestBody": {"required": True, "content": {"image/*": {"schema": {"format": "binary"}}}}},
)
async def read(request: Request) -> Response:
    """Return the parameters that an image file has, of sdcffi, AUTOMATIC1111 and others."""
    content = await image_bytes(await request.body(), "the image", service_of(request))
    try:
        found = await asyncio.to_thread(_read, content)
    except ValueError as error:
        raise Rejected(422, "no_record", str(error)) from error
    files = found.pop("files")
    models = service_of(request).models
    found["model"] = next((name for name in models.names() if models.is_from(name, files)), None)
    return JSONResponse(found)


def _read(content: bytes) -> dict[str, Any]:
    name = "the image"
    with collecting() as warnings:
        text, record = read_texts(io.BytesIO(content), name)
        if record is None and text is not None:
            found = read_webui_text(text, name)
            params, files = found.params, {found.model} if found.model else set()
            warnings += [f"not used: {unused}: {advice}" for unused, advice in found.advice.items()]
        else:
            its = Record.from_texts(text, record, name)
            if not isinstance(its.params, ImageParams):
                raise ValueError("the image is a frame of a video")
            params, files = its.params, {file.name for file in its.files}
            params = params.updated(ImageParams(seed=its.seed, batch_count=1))
            if its.images:
                roles = ", ".join(image.role for image in its.images)
                warnings.append(f"it was generated with input images that it does not contain: {roles}")
    names = {item.path: item.name for item in parameters(ImageParams) if item.annotation != "StrPath"}
    values = {names[path]: plain(value) for path, value in flatten(params).items() if path in names}
    if loras := params.loras:
        values["loras"] = [_lora_json(one) for one in loras]
    return {"parameters": values, "files": files, "warnings": warnings}


def _lora_json(lora: Any) -> dict[str, Any]:
    told = {"name": Path(lora.path).stem, "strength": multiplier_of(lora)}
    return {**told, "weights": plain(lora.weights)} if lora.weights is not None else told


@router.get("/models")
async def models(request: Request) -> Response:
    """Return the models."""
    models = service_of(request).models
    return JSONResponse({"default": models.default, "models": [models.describe(name) for name in models.names()]})


@router.get("/models/{name}", responses=_ERRORS)
async def model(request: Request, name: str) -> Response:
    """Return a model, and what it can do."""
    can = (await service_of(request).capabilities(name)).as_dict()
    return JSONResponse({**service_of(request).models.describe(name), "capabilities": can})


@router.get("/loras", responses=_ERRORS)
async def loras(request: Request, model: str = "") -> Response:
    """Return the names of the adapters for a model."""
    service = service_of(request)
    if model and model not in service.models.names():
        raise Rejected(404, "unknown_model", "there is no such model", param="model")
    return JSONResponse({"loras": await asyncio.to_thread(service.loras, model)})


@router.get("/samplers", responses=_ERRORS)
async def samplers(request: Request, model: str = "") -> Response:
    """Return the names of the samplers for a model."""
    return JSONResponse({"samplers": await service_of(request).samplers(model)})


@router.get("/schedulers", responses=_ERRORS)
async def schedulers(request: Request, model: str = "") -> Response:
    """Return the names of the schedulers for a model."""
    return JSONResponse({"schedulers": await service_of(request).schedulers(model)})


@router.get("/upscalers")
async def upscalers(request: Request) -> Response:
    """Return the names of the upscaling networks."""
    return JSONResponse({"upscalers": service_of(request).upscalers()})


@router.get("/parameters", responses=_ERRORS)
async def parameters_of(request: Request, model: str = "") -> Response:
    """Return the JSON schema of the parameters of a job that generates, with the defaults for a model."""
    service = service_of(request)
    facts = await service.facts(model)
    arguments = service.models.config(model or service.models.default).arguments
    named = {item.name for item in parameters(ContextParams)} | arguments.engine_others.keys()
    defaults = {name: value for name, value in arguments.table().items() if name not in named}
    return JSONResponse(parameter_schema(facts, defaults))


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Return the API as a page, made from its OpenAPI description."""
    described = request.app.openapi()
    parts = [f"<h1>{escape(described['info']['title'])} {escape(described['info']['version'])}</h1>"]
    parts.append('<p>The whole description, for programs: <a href="/api/openapi.json">/api/openapi.json</a></p>')
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts += _operation(method, path, operation, described)
    style = "body{font:16px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em;color-scheme:light dark}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{style}</style>'
    return HTMLResponse(f'<!doctype html><html lang="en"><head><title>API</title>{head}</head>{"".join(parts)}</html>')


def _operation(method: str, path: str, operation: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"]
    for item in operation.get("parameters", ()):
        text = item.get("description") or item["schema"].get("type", "")
        parts.append(f"<p><code>{escape(item['name'])}</code> ({escape(item['in'])}): {escape(text)}</p>")
    bodies = {"request": operation.get("requestBody", {}), **operation.get("responses", {})}
    for name, body in bodies.items():
        for kind, content in body.get("content", {}).items():
            schema = content.get("schema", {})
            schema = whole["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
            fields = json.dumps(schema.get("properties", {}), indent=2)
            detail = f"<pre>{escape(fields)}</pre>" if schema.get("properties") else ""
            parts.append(f"<details><summary>{escape(name)}: {escape(kind)}</summary>{detail}</details>")
    return parts
