"""The devices of this machine: every backend, built or not, its devices, and the CPU's variants."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._bindings.requests import Opening
from ._machine.backends import BACKENDS, backend_choice
from ._machine.builds import locate
from ._machine.devices import Device, Variant
from ._machine.probes import DEVICES
from ._process.calls import run_alone
from ._public import public
from .errors import BackendUnavailableError, SDError
from .events import Listeners, LogFunction

if TYPE_CHECKING:
    from ._bindings.requests import Description
    from .params.struct import StrPath

__all__ = ["BackendReport", "Inventory", "list_devices"]


@public
@dataclass(frozen=True)
class BackendReport:
    """A backend, and the devices that it finds here.

    Attributes
    ----------
    name : str
        ``"cuda"``, ...
    built : bool
        Whether it is part of the native build.
    devices : tuple of Device
        Devices that it finds.
    problem : str
        Why it finds none, and what to run. Empty if it finds some, and if it is neither built nor useful here.
    """

    name: str
    built: bool
    devices: tuple[Device, ...]
    problem: str

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as a dictionary."""
        devices = [device.as_dict() for device in self.devices]
        return {"name": self.name, "built": self.built, "devices": devices, "problem": self.problem}


@public
@dataclass(frozen=True)
class Inventory:
    """The result of `list_devices`.

    Attributes
    ----------
    directory : str
        Directory of the native build.
    device : Device or None
        Device that an `Engine` would use, with the reason. None if there is none.
    backends : tuple of BackendReport
        All known backends, those that are built first.
    variants : tuple of Variant
        Variants of the CPU backend, the best for this processor first.
    problem : str
        Why there is no `device`; empty if there is one.
    """

    directory: str
    device: Device | None
    backends: tuple[BackendReport, ...]
    variants: tuple[Variant, ...]
    problem: str = ""

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices of all backends."""
        return tuple(device for backend in self.backends for device in backend.devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices)

    def __len__(self) -> int:
        return len(self.devices)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a dictionary that `json.dumps` accepts."""
        return {
            "directory": self.directory,
            "device": self.device and self.device.as_dict(),
            "backends": [backend.as_dict() for backend in self.backends],
            "variants": [variant.as_dict() for variant in self.variants],
            "problem": self.problem,
        }

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text."""
        for backend in self.backends:
            for device in backend.devices:
                chosen = self.device is not None and device.id == self.device.id
                memory = f"{device.memory_free / 2**30:.1f} of {device.memory_total / 2**30:.1f} GiB free"
                mark = f"  <- used ({device.reason})" if chosen and self.device else ""
                yield f"device {device.id}: {device.description}, {memory}{mark}"
            if backend.problem:
                yield f"backend {backend.name}: {backend.problem}"
        for variant in self.variants:
            if variant.name is not None:
                best = "  <- used with backend='cpu'" if variant.score and variant is self.variants[0] else ""
                yield f"variant cpu:{variant.name}: {variant.state}{best}"
        if absent := [backend.name for backend in self.backends if not (backend.built or backend.problem)]:
            yield f"not built: {', '.join(absent)}"
        if self.problem:
            yield f"no usable device: {self.problem}"


def list_devices(
    library: StrPath | None = None, *, backend: str = "auto", on_log: LogFunction | None = None
) -> Inventory:
    """List every backend that is built or could be, its devices, and the CPU's variants.

    Each backend is examined in its own process, so that a crash does not hide the others.

    Parameters
    ----------
    library : path, optional
        The native build, as for `Engine`.
    backend : str
        As for `Engine`; it decides `Inventory.device`.
    on_log : callable, optional
        Called with each `Log` line. None: the log is dropped.

    Returns
    -------
    Inventory
        Plain data; ``as_dict()`` can be written as JSON.

    Raises
    ------
    LibraryNotFoundError, LayoutMismatchError
        If there is no native build, or its manifest is damaged. Other damage is a `problem`.
    TypeError, ValueError
        If `backend` is not a legal word.
    """
    return survey(library, backend, on_log)[1]


def survey(
    library: StrPath | None, backend: str, on_log: LogFunction | None
) -> tuple[Description | SDError, Inventory]:
    """Return what the library says of itself and of `backend`, or why that cannot be used, and `list_devices`."""
    listeners = Listeners(on_log)
    build = locate(library)
    found: dict[str, Description] = {}
    errors: dict[str, SDError] = {}

    def ask(word: str) -> Description | SDError:
        try:
            description: Description = run_alone(
                Opening(library, backend_choice(word)), "describe", listeners=listeners
            )
        except SDError as error:
            errors[word] = error
            return error
        found.update({device.backend: description for device in description.devices})
        return description

    chosen = ask(backend)
    for name in build.backends:
        if name not in found and name not in errors:
            ask(name)
    reports = [
        BackendReport(name, True, _of(found.get(name), name), _reason(errors.get(name))) for name in build.backends
    ]
    reports += [BackendReport(name, True, (), reason) for name, reason in build.refused.items()]
    others = [name for name in BACKENDS if name not in (*build.backends, *build.refused)]
    reports += [BackendReport(name, False, (), _use_of(name, build.backends)) for name in others]
    variants = next((description.variants for description in found.values()), ())
    inventory = Inventory(
        str(build.directory),
        None if isinstance(chosen, SDError) else chosen.device,
        tuple(reports),
        variants,
        _reason(chosen) if isinstance(chosen, SDError) else "",
    )
    return chosen, inventory


def _reason(error: SDError | None) -> str:
    if error is None:
        return ""
    return error.message if isinstance(error, BackendUnavailableError) else f"{type(error).__name__}: {error.message}"


def _of(description: Description | None, backend: str) -> tuple[Device, ...]:
    return tuple(device for device in description.devices if device.backend == backend) if description else ()


def _use_of(name: str, built: Collection[str]) -> str:
    """Return how to add a backend that is not built, if it seems to have a device here; else an empty string."""
    if not DEVICES[name]():
        return ""
    return (
        f"not built, but a device seems to be here. To add it: python -m sdcffi build --backend"
        f" {','.join([*sorted(built), name])}"
    )
