"""The JSON of our API: bodies that are checked by these, and answers that the OpenAPI page describes."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..engine.engine import Engine
from ..images.resize import Resize
from ..params.image import ImageParams
from ..params.names import Parameter, parameters
from ..params.plain import plain
from .jobs import Rejected
from .models import Facts

__all__ = ["ErrorAnswer", "JobAnswer", "JobBody", "JobsAnswer", "KeptJob", "ReadAnswer", "checked", "parameter_schema"]

_IMAGE = {"type": "string", "contentEncoding": "base64"}
_LORA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "Name in the server's directory."},
        "strength": {"type": "number", "default": 1},
        "weights": {"description": "Strengths of parts and blocks, as in `sdcffi.Lora`."},
        "is_high_noise": {"type": "boolean", "default": False},
    },
    "required": ["name"],
}
_BOX = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_OTHERS = ("lora_tags", "strict", "canny", "resize", "alpha")  # keywords of generate that are no fields of its structs


class JobBody(BaseModel):
    """A job to submit."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["generate", "upscale"] = "generate"
    model: str | None = Field(None, description="Name of a model, or of an upscaling network. None: the default model.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="What to generate, see /api/parameters. To upscale: image, and factor. Images are base64 or data"
        " URLs.",
    )
    timeout: float | None = Field(None, description="Time limit for running, in seconds. None: the server's.")
    retry: int = Field(0, description="How often to try again if the engine crashes.")
    previews: bool = Field(False, description="Whether to make previews, for /api/jobs/{id}/events.")


class ProgressAnswer(BaseModel):
    """How far a job is."""

    phase: str = Field(description="load, lora, encode, sample, decode or upscale.")
    step: int
    steps: int
    fraction: float = Field(description="Of the whole job, from 0 to 1.")
    image: int = Field(description="Number of the image in the batch, from 1; 0 before sampling.")
    images: int


class ImageAnswer(BaseModel):
    """An image of a job."""

    id: str
    url: str
    record_url: str | None = Field(description="How it was made; None for an image that was only upscaled.")
    width: int
    height: int
    seed: int | None
    media_type: str


class ErrorPart(BaseModel):
    """What is wrong, then what to do."""

    type: str
    message: str
    param: str | None = None


class ErrorAnswer(BaseModel):
    """Why a request was not taken."""

    error: ErrorPart


class JobError(BaseModel):
    """Why a job failed."""

    type: str
    message: str
    status: int


class JobAnswer(BaseModel):
    """A job."""

    id: str
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    kind: Literal["generate", "upscale"]
    model: str
    parameters: dict[str, Any] = Field(description="Those that were given, without images and LoRAs.")
    created: float = Field(description="Seconds since 1970, as are the next two.")
    started: float | None
    ended: float | None
    position: int | None = Field(description="Place in the queue, from 1.")
    attempts: int
    progress: ProgressAnswer | None
    images: list[ImageAnswer] = Field(description="Once it is finished.")
    loras: list[dict[str, Any]] = Field(description="How each LoRA was applied, as the engine counted.")
    warnings: list[str]
    error: JobError | None


class JobsAnswer(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobAnswer]


class KeptImage(BaseModel):
    """An image of a job that is kept."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(pattern="^[0-9a-f]{32}-[0-9]{1,4}$")
    width: int
    height: int
    seed: int | None
    has_record: bool


class KeptJob(BaseModel):
    """What is kept of a job, which may have been damaged since."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["generate", "upscale"]
    model: str
    parameters: dict[str, bool | int | float | str]
    client: str
    key: str | None
    retry: int
    timeout: float | None
    id: str
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    created: float
    started: float | None
    ended: float | None
    loras: list[dict[str, Any]]
    warnings: list[str]
    attempts: int
    digest: str
    error: JobError | None
    images: list[KeptImage]


class ReadAnswer(BaseModel):
    """What an image says of how it was made."""

    parameters: dict[str, Any]
    model: str | None = Field(description="A model of this server with the same file; None if there is none.")
    warnings: list[str]


def checked(data: dict[str, Any]) -> JobBody:
    """Return the body of a job.

    Raises
    ------
    Rejected
        If something in it is unknown or of another type.
    """
    try:
        return JobBody.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise Rejected(400, "invalid_request", f"{name}: {first['msg']}", param=name) from error


def parameter_schema(facts: Facts, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of what a job with ``"kind": "generate"`` takes as parameters.

    Parameters
    ----------
    facts : Facts
        Of the model.
    defaults : dict
        The server's for this model, by name.
    """
    own = {item.name: _value(facts.filled, item) for item in parameters(ImageParams)}
    enums = {"sampler": facts.capabilities.samplers, "scheduler": facts.capabilities.schedulers}
    enums |= {"cache_mode": facts.capabilities.cache_modes, "hires_upscaler": facts.capabilities.hires_upscalers}
    properties = {}
    for item in parameters(ImageParams):
        if item.annotation == "StrPath":  # a file of the server
            continue
        schema = {**_type(item), "description": item.help}
        if item.name in enums:
            schema["examples"] = list(enums[item.name])  # names of other tools are taken too
        default = defaults.get(item.name, own[item.name])
        if default is not None and item.annotation not in ("Pixels", "MaskPixels", "Lora"):
            schema["default"] = plain(default)
        properties[item.name] = schema
    signature = inspect.signature(Engine.generate).parameters
    for name in _OTHERS:
        default = signature[name].default
        properties[name] = {"type": _TYPES[type(default)], "default": defaults.get(name, default)}
    properties["resize"]["enum"] = list(get_args(Resize))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "parameters",
        "type": "object",
        "properties": properties,
        "required": [] if "prompt" in defaults else ["prompt"],
        "additionalProperties": False,
    }


def _type(item: Parameter) -> dict[str, Any]:
    if item.annotation == "Lora":
        return {"type": "array", "items": _LORA}
    if item.annotation == "MaskPixels":
        return {"anyOf": [_IMAGE, _BOX]}
    one = dict(_IMAGE) if item.annotation == "Pixels" else {"type": _TYPES[item.kind]}
    return {"type": "array", "items": one} if item.many else one


def _value(struct: Any, item: Parameter) -> Any:
    for name in item.path:
        struct = None if struct is None else getattr(struct, name)
    return struct
