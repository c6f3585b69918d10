"""Images of the engine beside those of other implementations."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from families import FamilyModel
from network_cases import FINGERPRINT, Case, Network, fingerprint, picture
from places import ROOT
from sdcli import THREADS

from sdcffi import Engine, Guidance, ImageParams, SampleParams, VideoParams
from sdcffi.images.compare import compare

DATA = ROOT / "tests" / "data" / "networks"
REVISIONS = ("2026-05", "2026-08")
Pixels = npt.NDArray[np.uint8]


@cache
def references(family: str) -> dict[str, Pixels]:
    """The images of a family by the name of the case; of a video, its frames one below the other."""
    with np.load(DATA / f"{family}.npz") as data:
        return {name: data[name] for name in data if name != FINGERPRINT}


def has_references(family: str, model: FamilyModel) -> bool:
    """Whether the references were computed with these weights."""
    with np.load(DATA / f"{family}.npz") as data:
        return int(data[FINGERPRINT]) == fingerprint(model)


def open_network(network: Network, model: FamilyModel, **keywords: Any) -> Engine:
    return Engine(**{"backend": "cpu", **model.engine, **network.engine, **keywords}, threads=THREADS, rng="cpu")


def runs_on(network: Network, revision: str) -> bool:
    """Whether a network is compared on a revision; on one that nobody has named yet, as on the newest."""
    return (revision if revision in REVISIONS else REVISIONS[-1]) in network.revisions


def generate(engine: Engine, network: Network, case: Case) -> Pixels:
    """Generate with Euler's method at the case's noise levels."""
    guidance = Guidance(distilled_guidance=case.guidance or 3.5)  # as the oracle has it
    sample = SampleParams(custom_sigmas=case.sigmas(network), guidance=guidance)
    call: dict[str, Any] = {
        "width": case.width,
        "height": case.height,
        "steps": len(case.sigmas(network)) - 1,
        "cfg_scale": case.cfg,
        "seed": case.seed,
        "sampler": "euler",
        "negative_prompt": case.negative,
        **case.more,
    }
    if case.strength:
        call |= {"init_image": picture(case), "strength": case.strength}
    if case.frames:
        call |= {"video_frames": case.frames, "params": VideoParams(sample_params=sample)}
        return np.concatenate(engine.generate_video(case.prompt, **call).arrays)
    (image,) = engine.generate(case.prompt, **call, params=ImageParams(sample_params=sample)).arrays
    return image


def decibels(family: str, name: str, image: Pixels) -> float:
    """PSNR against the reference; equal images have 99."""
    psnr = compare(image, references(family)[name]).psnr
    return 99.0 if math.isinf(psnr) else psnr
