"""Devices and CPU variants, and the choice between them. This module loads no library."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from .._public import public
from ..errors import BackendUnavailableError
from .backends import PREFERENCE, BackendChoice

__all__ = ["Device", "Variant", "chosen_device", "chosen_variant", "computes", "numbered"]

_GIB = 1 << 30
_PORTABLE = "python -m sdcffi build --cpu portable"


@public
@dataclass(frozen=True)
class Device:
    """A compute device of the loaded backends.

    Attributes
    ----------
    name : str
        Name in ggml: ``"CPU"``, ``"CUDA0"``.
    description : str
        Name of the hardware.
    backend : str
        ``"cpu"``, ``"cuda"``, ``"vulkan"``, ...
    type : str
        ``"cpu"``, ``"gpu"``, ``"igpu"`` or ``"accel"``.
    memory_free, memory_total : int
        Bytes; 0 if the backend does not report them.
    index : int
        Number among the devices of its backend, from 0.
    variant : str or None
        For the CPU, the variant that is loaded: ``"haswell"``. None in a build for one machine, and for a GPU.
    reason : str
        Why it was chosen; empty if it was not chosen.
    """

    name: str
    description: str
    backend: str
    type: str
    memory_free: int
    memory_total: int
    index: int = 0
    variant: str | None = None
    reason: str = ""

    @property
    def id(self) -> str:
        """The word for ``backend=`` that chooses this device: ``"cuda:1"``, ``"cpu:haswell"``, ``"cpu"``."""
        if self.backend == "cpu":
            return f"cpu:{self.variant}" if self.variant else "cpu"
        return f"{self.backend}:{self.index}"

    def as_dict(self) -> dict[str, object]:
        """Return the attributes and `id` as a dictionary."""
        return {"id": self.id, **asdict(self)}


@public
@dataclass(frozen=True)
class Variant:
    """A build of the CPU backend for certain processors.

    Attributes
    ----------
    name : str or None
        ``"haswell"``, ... None if it is the only one, built for one machine.
    file : str
        File name of the plug-in.
    score : int
        How well it suits this processor, by its own score; 0 if this processor lacks instructions that it needs.
    missing : bool
        Whether the plug-in was built, but is missing now.
    """

    name: str | None
    file: str
    score: int
    missing: bool = False

    @property
    def state(self) -> str:
        """In words, whether it runs here."""
        if self.missing:
            return "missing"
        return f"runs here, score {self.score}" if self.score else "not for this processor"

    def as_dict(self) -> dict[str, object]:
        """Return the attributes as a dictionary."""
        return asdict(self)


def computes(device: Device) -> bool:
    """Return whether the engine can compute on this device alone."""
    return device.type in ("gpu", "igpu", "cpu")


def numbered(devices: Sequence[Device]) -> list[Device]:
    """Return the devices with their numbers in their backend."""
    counts: dict[str, int] = {}
    rows = []
    for device in devices:
        index = counts.get(device.backend, 0)
        counts[device.backend] = index + 1
        rows.append(replace(device, index=index))
    return rows


def chosen_variant(variants: Sequence[Variant], asked: str | None) -> Variant:
    """Choose a variant of the CPU backend.

    Raises
    ------
    BackendUnavailableError
        If none runs here, or if the requested one is not built or does not run here.
    """
    running = sorted((item for item in variants if item.score), key=lambda item: -item.score)
    names = ", ".join(item.name or item.file for item in running) or "none"
    if asked is None:
        if running:
            return running[0]
        files = ", ".join(item.file for item in variants)
        raise BackendUnavailableError(
            f"no CPU variant of this build runs on this machine: {files}. Run: python -m sdcffi build"
        )
    found = next((item for item in variants if item.name == asked), None)
    if found is None and all(item.name is None for item in variants):
        raise BackendUnavailableError(
            f"backend 'cpu:{asked}': this build has no CPU variants, because it was compiled for one machine."
            f" To build them, run: {_PORTABLE}"
        )
    if found is None:
        built = ", ".join(sorted(item.name or item.file for item in variants))
        raise BackendUnavailableError(
            f"backend 'cpu:{asked}' is not built; this build has the variants {built}. To build all, run: {_PORTABLE}"
        )
    if found.missing:
        raise BackendUnavailableError(f"backend 'cpu:{asked}': the library {found.file} is missing. Run: {_PORTABLE}")
    if not found.score:
        raise BackendUnavailableError(
            f"backend 'cpu:{asked}' needs CPU instructions that this processor lacks. Variants that run here: {names}."
            " Use backend='cpu' for the best one"
        )
    return found


def chosen_device(
    choice: BackendChoice, devices: Sequence[Device], skipped: Mapping[str, str], variants: Collection[Variant] = ()
) -> Device:
    """Choose a device of the loaded backends, with the reason.

    Parameters
    ----------
    choice : BackendChoice
        What was asked for; an explicit backend is loaded.
    devices : sequence of Device
        All devices of the loaded backends.
    skipped : mapping of str to str
        By name, backends that are not loaded, with the reason.
    variants : collection of Variant
        Variants of the CPU backend.

    Raises
    ------
    BackendUnavailableError
        If there is none, or none of the requested backend and number.
    """
    usable = [device for device in devices if computes(device)]
    if choice.name == "auto":
        return _automatic(usable, skipped, variants)
    asked = f"{choice} was asked for" + ("" if choice.origin == "backend" else f" by {choice.origin}")
    if choice.name == "cpu":
        several = choice.variant is None and len(variants) > 1
        return _because(_first_cpu(usable), f"{asked}; {_of_variants(variants)}" if several else asked)
    own = [device for device in usable if device.backend == choice.name]
    if not own:
        raise BackendUnavailableError(skipped.get(choice.name, f"backend {choice.name!r} has no device here"))
    if choice.index is None:
        rank = "its only device" if len(own) == 1 else f"the best of its {len(own)} devices"
        return _because(min(own, key=_rank), f"{asked}; {rank}")
    if choice.index >= len(own):
        there = ", ".join(f"{device.id} ({device.description})" for device in own)
        raise BackendUnavailableError(f"backend '{choice}': there is no such device; use one of {there}")
    return _because(own[choice.index], asked)


def _automatic(devices: Sequence[Device], skipped: Mapping[str, str], variants: Collection[Variant]) -> Device:
    gpus = [device for device in devices if device.type != "cpu"]
    if gpus:
        rank = "the only GPU found" if len(gpus) == 1 else f"the best of {len(gpus)} GPUs found"
        return _because(min(gpus, key=_rank), f"auto: {rank}{_reasons(skipped, '; not usable: ')}")
    without = _reasons(skipped, ": ") or " backend in this build"
    return _because(_first_cpu(devices), f"auto: no GPU{without}; {_of_variants(variants)}")


def _rank(device: Device) -> tuple[bool, int, int, int]:
    """Return a sort key: discrete before integrated, the better backend, more memory in whole GiB, the number."""
    order = PREFERENCE.index(device.backend) if device.backend in PREFERENCE else len(PREFERENCE)
    return device.type != "gpu", order, -round(device.memory_total / _GIB), device.index


def _first_cpu(devices: Sequence[Device]) -> Device:
    found = next((device for device in devices if device.type == "cpu"), None)
    if found is None:
        raise BackendUnavailableError("the loaded backends have no usable device. Run: sdcffi doctor")
    return found


def _because(device: Device, reason: str) -> Device:
    return replace(device, reason=reason)


def _reasons(skipped: Mapping[str, str], before: str) -> str:
    return before + "; ".join(skipped.values()) if skipped else ""


def _of_variants(variants: Collection[Variant]) -> str:
    running = sum(bool(item.score) for item in variants)
    missing = [item.file for item in variants if item.missing]
    words = f"the best of {running} CPU variants that run here" if len(variants) > 1 else "the CPU"
    return words + (f" ({', '.join(missing)} missing)" if missing else "")
