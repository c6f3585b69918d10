"""Read the text ``parameters`` of AUTOMATIC1111's web interface, of its relatives, and of sd-cli; `infotext` writes it.

The text has the prompt, lines from ``Negative prompt:`` on, and a last line of ``Name: value`` pairs. It is read in one
pass, so that a long text takes no longer than its length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .._quoting import shown
from ..params.context import ContextParams
from ..params.image import Hires, ImageParams
from ..params.other_names import AUTOMATIC
from ..params.sampling import Guidance, SampleParams
from .origin import FileRecord
from .record import Record

__all__ = ["WebuiText", "read_webui_text", "text_parts"]

_Number = TypeVar("_Number", int, float)
_NEGATIVE = "Negative prompt:"
_UPSCALERS = frozenset({"None", "Lanczos", "Nearest"})  # others, but for "Latent...", are networks
_LEAST_PAIRS = 3  # in the last line, as in the web interface; fewer are the end of a prompt
# Schedules of "Automatic" by sampler, from sd_samplers_kdiffusion.py; of the others it is the uniform one.
_AUTOMATIC = {
    **dict.fromkeys(("DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a"), "karras"),
    **dict.fromkeys(("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"), "exponential"),
}
# Names that change nothing here, or that only describe the file.
_IDLE = frozenset(
    {
        "Version",
        "Model",
        "Model hash",
        "VAE",
        "VAE hash",
        "Lora hashes",
        "TI hashes",
        "Hashes",
        "Batch size",
        "Batch pos",
    }
    | {"User", "Created Date", "Civitai resources", "Civitai metadata", "Size", "Module 1", "Module 2", "Module 3"}
)


# What to pass for names whose values need something that the text does not have.
_ADVICE = {
    "Mask blur": "pass init_image=, mask_image= and mask_blur=",
    "ControlNet": "pass control_net= to Engine, and control_image= and control_strength= to generate()",
    "Hires upscaler": "it is a network: pass its file as Hires(upscaler='Model', model_path=...), or --hires-upscaler"
    " Latent",
}


@dataclass(frozen=True)
class WebuiText:
    """What another program says of an image.

    Attributes
    ----------
    params : ImageParams
        The call; its prompt has the LoRA tags.
    rng : str or None
        Random number generator of the first noise. None: it does not say.
    model, model_hash : str or None
        Name of the model's file without its ending, and the beginning of its sha256.
    vae : str or None
        Name of the autoencoder's file.
    program : str
        The program that wrote it.
    unused : dict of str to str
        What it says besides, and is not done.
    """

    params: ImageParams
    rng: str | None
    model: str | None
    model_hash: str | None
    vae: str | None
    program: str
    unused: dict[str, str]

    @property
    def advice(self) -> dict[str, str]:
        """Why each name of `unused` is not used: what to pass besides, or that it is unknown here."""
        unknown = "the engine has nothing of the kind"
        return {name: _ADVICE.get(name.rstrip("0123456789 "), unknown) for name in self.unused}

    @property
    def foreign_network(self) -> str | None:
        """Name of the network of the second pass, which must be replaced: the engine has no such upscaler."""
        return self.unused.get("Hires upscaler")

    def record(self, files: Mapping[str, Path], size: tuple[int, int]) -> Record:
        """Return the record of an image of this size, with files by their roles; it has neither commit nor build."""
        paths: dict[str, Any] = {role: path.name for role, path in files.items()}
        context = ContextParams(rng_type=self.rng, **paths)
        return Record(
            context=context,
            params=self.params,
            resolved_context=context,
            resolved_params=ImageParams(),
            seed=self.params.seed or 0,
            index=0,
            width=size[0],
            height=size[1],
            files=tuple(FileRecord(role=role, name=path.name) for role, path in files.items()),
            commit="",
            build="",
            version=self.program,
            backend="auto",
            device="",
            hardware="",
        )


def read_webui_text(text: str, source: str) -> WebuiText:
    """Read the text.

    Parameters
    ----------
    text : str
    source : str
        Name of the file, for messages.

    Raises
    ------
    ValueError
        If it has no parameters, or one that is not what its name says.
    """
    prompt, negative, values = text_parts(text, source)
    taken = _Values(values, source)
    params = ImageParams(
        prompt=prompt,
        negative_prompt=negative or None,
        seed=taken.number("Seed", int),
        clip_skip=taken.number("Clip skip", int),
        sample_params=_sampling(taken),
        **_sizes(taken),
    )
    rng = taken.take("RNG")
    unused = {name: value for name, value in values.items() if name not in taken.names | _IDLE}
    upscaler = values.get("Hires upscaler", "None")
    if params.hires and not upscaler.startswith("Latent") and upscaler not in _UPSCALERS:
        unused["Hires upscaler"] = upscaler
    model, vae = values.get("Model"), values.get("VAE")
    return WebuiText(
        params,
        {"gpu": "cuda", "nv": "cuda"}.get(rng.lower(), rng.lower()) if rng else None,
        model or None,
        values.get("Model hash") or None,
        None if vae in ("", "None", AUTOMATIC) else vae,
        values.get("Version") or "AUTOMATIC1111's web interface, or a relative of it",
        unused,
    )


def text_parts(text: str, source: str) -> tuple[str, str, dict[str, str]]:
    """Split the text into prompt, negative prompt and values by their names.

    Raises
    ------
    ValueError
        If it has no parameters.
    """
    *lines, last = text.strip().rstrip("\0").split("\n")
    values = dict(_pairs(last))
    if len(values) < _LEAST_PAIRS:
        raise ValueError(f"{source}: the text has no line of parameters, such as 'Steps: 20, Sampler: Euler a'")
    begin = next((index for index, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[begin:]).removeprefix(_NEGATIVE).strip()
    return "\n".join(lines[:begin]).strip(), negative, values


class _Values:
    """The values of the last line, each by its name; `names` has those that were asked for."""

    def __init__(self, values: Mapping[str, str], source: str) -> None:
        self._values, self._source = values, source
        self.names: set[str] = set()

    def take(self, name: str) -> str | None:
        self.names.add(name)
        return self._values.get(name)

    def number(self, name: str, kind: Callable[[str], _Number]) -> _Number | None:
        text = self.take(name)
        try:
            return None if text is None else kind(text)
        except ValueError:
            raise ValueError(f"{self._source}: {name} must be a number, not {shown(text)}") from None

    def size(self, name: str) -> tuple[int, int] | None:
        text = self.take(name)
        width, x, height = (text or "").partition("x")
        if text is None:
            return None
        if not x or not width.isdecimal() or not height.isdecimal():
            raise ValueError(f"{self._source}: {name} must be WIDTHxHEIGHT, not {shown(text)}")
        return int(width), int(height)


def _sampling(taken: _Values) -> SampleParams:
    sampler, schedule = taken.take("Sampler"), taken.take("Schedule type")
    if schedule == AUTOMATIC:
        schedule = _AUTOMATIC.get(sampler or "", "discrete")
    guidance = Guidance(
        txt_cfg=taken.number("CFG scale", float),
        distilled_guidance=_first(taken.number("Distilled CFG Scale", float), taken.number("Guidance", float)),
    )
    return SampleParams(
        sample_method=sampler,
        scheduler=schedule,
        sample_steps=taken.number("Steps", int),
        eta=taken.number("Eta", float),
        flow_shift=taken.number("Shift", float),
        guidance=guidance if guidance.given() else None,
    )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _sizes(taken: _Values) -> dict[str, Any]:
    """Return the size of the image, and the second pass or the strength of an input image."""
    size, large = taken.size("Size"), taken.size("Hires resize")
    scale, strength = taken.number("Hires upscale", float), taken.number("Denoising strength", float)
    steps, upscaler = taken.number("Hires steps", int), taken.take("Hires upscaler")
    values: dict[str, Any] = {"width": size[0], "height": size[1]} if size else {}
    if large is None and scale is None:
        return {**values, "strength": strength}
    target: dict[str, Any] = {"target_width": large[0], "target_height": large[1]} if large else {"scale": scale}
    if upscaler == "None":  # it enlarges so, in modules/upscaler.py
        upscaler = "Lanczos"
    second = Hires(upscaler=upscaler, steps=steps or None, denoising_strength=strength, **target)
    return {**values, "hires": second}


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Yield names and values: a value goes to the next comma, or to the end of its quotes or brackets."""
    at = 0
    while (colon := line.find(":", at)) >= 0:
        name, start = line[at:colon].strip(), colon + 1
        while line[start : start + 1] == " ":
            start += 1
        value, end = _value(line, start)
        yield name, value
        comma = line.find(",", end)
        if comma < 0:
            return
        at = comma + 1


def _value(line: str, start: int) -> tuple[str, int]:
    if line[start : start + 1] in ('"', "[", "{"):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
            return value if isinstance(value, str) else line[start:end], end
        except (ValueError, RecursionError):
            pass
    comma = line.find(",", start)
    end = len(line) if comma < 0 else comma
    return line[start:end].strip(), end
