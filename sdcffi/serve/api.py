"""Our own API: jobs, their events, images and records."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from ..params.lora import Lora
from .exchange import client_of, image_bytes, json_body, service_of
from .jobs import Job, JobEvent, JobRequest, Rejected
from .store import StoredImage

__all__ = ["router"]

router = APIRouter(prefix="/api")
_KEEP_ALIVE = 15.0  # seconds
_IMAGES = ("init_image", "mask_image", "control_image", "image")
_NOT_FOUND = Rejected(404, "not_found", "there is no such job: it has expired, or is not yours")


def image_json(image: StoredImage) -> dict[str, Any]:
    """Return what clients are told of an image."""
    url = f"/api/images/{image.id}"
    return {
        **{name: getattr(image, name) for name in ("id", "width", "height", "seed", "media_type")},
        "url": url,
        "record_url": f"{url}/record" if image.record else None,
    }


def job_json(job: Job) -> dict[str, Any]:
    """Return what clients are told of a job."""
    return {
        "id": job.id,
        "state": job.state,
        "kind": job.request.kind,
        "model": job.request.model,
        **{name: getattr(job, name) for name in ("created", "started", "ended", "position", "loras", "warnings")},
        "progress": job.progress and job.progress.as_dict(),
        "images": [image_json(image) for image in job.images] if job.state == "finished" else [],
        "error": job.error and job.error.as_dict(),
    }


@router.post("/jobs", status_code=202)
async def submit(request: Request) -> Response:
    """Submit a job."""
    service, body = service_of(request), await json_body(request)
    parameters = dict(body.get("parameters") or {})
    if "mask" in parameters:
        parameters["mask_image"] = parameters.pop("mask")
    for name in _IMAGES:
        if isinstance(parameters.get(name), str):
            parameters[name] = await image_bytes(parameters[name], name, service)
    if "ref_images" in parameters:
        parameters["ref_images"] = [await image_bytes(item, "ref_images", service) for item in parameters["ref_images"]]
    if "loras" in parameters:
        parameters["loras"] = [_lora(item) for item in parameters["loras"]]
    job = await service.submit(
        JobRequest(
            kind=body.get("kind", "generate"),
            model=body.get("model") or "",
            parameters=parameters,
            client=client_of(request),
            timeout=body.get("timeout"),
            retry=body.get("retry", 0),
            key=request.headers.get("idempotency-key"),
            previews=bool(body.get("previews", False)),
        )
    )
    return JSONResponse(job_json(job), 202)


def _lora(item: Any) -> Any:
    if isinstance(item, dict):
        rest = dict(item)
        return Lora(rest.pop("name", ""), rest.pop("strength", 1.0), **rest)
    return item


def _job(request: Request, id: str) -> Job:
    job = service_of(request).get(id, client_of(request))
    if job is None:
        raise _NOT_FOUND
    return job


@router.get("/jobs")
async def jobs(request: Request) -> Response:
    """Return the client's jobs, the newest first."""
    return JSONResponse({"jobs": [job_json(job) for job in service_of(request).jobs(client_of(request))]})


@router.get("/jobs/{id}")
async def job(request: Request, id: str) -> Response:
    """Return a job."""
    return JSONResponse(job_json(_job(request, id)))


@router.delete("/jobs/{id}")
async def cancel(request: Request, id: str) -> Response:
    """Cancel a job that waits or runs."""
    found = _job(request, id)
    await service_of(request).cancel(id, client_of(request))
    return JSONResponse(job_json(found))


@router.get("/jobs/{id}/events")
async def events(request: Request, id: str) -> Response:
    """Follow a job: server-sent events."""
    last = request.headers.get("last-event-id", "0")
    stream = _stream(_job(request, id), int(last) if last.isdecimal() else 0)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _stream(job: Job, after: int) -> AsyncIterator[str]:
    events = aiter(job.events(after))
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=_KEEP_ALIVE)
            if not done:
                yield ": still here\n\n"
                continue
            event = pending.result()
            if event is None:
                return
            yield f"id: {event.id}\nevent: {event.name}\ndata: {json.dumps(_event_json(job, event))}\n\n"
            pending = asyncio.ensure_future(anext(events, None))
    finally:
        pending.cancel()


def _event_json(job: Job, event: JobEvent) -> Any:
    if event.name == "preview":
        return {**event.data, "image": f"data:image/jpeg;base64,{base64.b64encode(event.data['image']).decode()}"}
    if event.name == "image":
        return next(image_json(image) for image in job.images if image.id == event.data["id"])
    return event.data if event.name == "progress" else job_json(job)


def _image(request: Request, id: str) -> StoredImage:
    image = service_of(request).image(id, client_of(request))
    if image is None:
        raise Rejected(404, "not_found", "there is no such image: it has expired, or is not yours")
    return image


@router.get("/images/{id}")
async def image(request: Request, id: str) -> Response:
    """Return the file of an image, with its record inside."""
    found = _image(request, id)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(await asyncio.to_thread(found.read), media_type=found.media_type, headers=headers)


@router.get("/images/{id}/record")
async def record(request: Request, id: str) -> Response:
    """Return the record of an image."""
    return JSONResponse(_image(request, id).record)


@router.get("/models")
async def models(request: Request) -> Response:
    """Return the models."""
    models = service_of(request).models
    return JSONResponse({"default": models.default, "models": [models.describe(name) for name in models.names()]})


@router.get("/loras")
async def loras(request: Request, model: str = "") -> Response:
    """Return the names of the adapters for a model."""
    return JSONResponse({"loras": await asyncio.to_thread(service_of(request).loras, model)})


@router.get("/samplers")
async def samplers(request: Request, model: str = "") -> Response:
    """Return the names of the samplers for a model."""
    return JSONResponse({"samplers": await service_of(request).samplers(model)})


@router.get("/schedulers")
async def schedulers(request: Request, model: str = "") -> Response:
    """Return the names of the schedulers for a model."""
    return JSONResponse({"schedulers": await service_of(request).schedulers(model)})


@router.get("/upscalers")
async def upscalers(request: Request) -> Response:
    """Return the names of the upscaling networks."""
    return JSONResponse({"upscalers": service_of(request).upscalers()})
