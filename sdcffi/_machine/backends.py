"""The compute backends by name, and the words that choose one: ``"auto"``, ``"cuda:1"``, ``"cpu:haswell"``, ..."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._numbers import as_text
from .._quoting import shown

__all__ = [
    "AUTO",
    "BACKENDS",
    "CPU",
    "ENVIRONMENT",
    "PREFERENCE",
    "BackendChoice",
    "backend_choice",
    "backend_of_registry",
]

# The names under which ggml registers the backends, by our names.
BACKENDS = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "metal": "MTL",
    "vulkan": "Vulkan",
    "hip": "ROCm",
    "sycl": "SYCL",
    "opencl": "OpenCL",
    "musa": "MUSA",
}
# Order for "auto" if several backends find a device: the maker's own interface before the common ones.
PREFERENCE = ("cuda", "hip", "musa", "metal", "sycl", "vulkan", "opencl")
ENVIRONMENT = "SDCFFI_BACKEND"
_LEGAL = (
    f"auto, one of {', '.join(BACKENDS)}, one of these with the number of a device, such as cuda:1, or a CPU variant,"
    " such as cpu:haswell"
)


@dataclass(frozen=True)
class BackendChoice:
    """The backend, device or CPU variant that was asked for.

    Attributes
    ----------
    name : str
        ``"auto"``, or a key of `BACKENDS`.
    index : int or None
        Number of its device, from 0. None: the best one.
    variant : str or None
        CPU variant. None: the best one.
    origin : str
        What asked for it: ``"backend"`` or `ENVIRONMENT`.
    """

    name: str
    index: int | None = None
    variant: str | None = None
    origin: str = "backend"

    def __str__(self) -> str:
        part = self.variant if self.index is None else self.index
        return self.name if part is None else f"{self.name}:{part}"


AUTO, CPU = BackendChoice("auto"), BackendChoice("cpu")


def backend_choice(backend: str) -> BackendChoice:
    """Read the word for ``backend=``; the environment variable SDCFFI_BACKEND replaces ``"auto"``.

    Raises
    ------
    TypeError, ValueError
        If it is not a legal word; the message lists them.
    """
    backend = as_text("backend", backend)
    asked = os.environ.get(ENVIRONMENT)
    return _read(asked, ENVIRONMENT) if backend.lower() == "auto" and asked else _read(backend, "backend")


def _read(text: str, origin: str) -> BackendChoice:
    name, colon, part = text.lower().partition(":")
    if name == "auto" and not colon:
        return BackendChoice("auto", origin=origin)
    if name in BACKENDS and not colon:
        return BackendChoice(name, origin=origin)
    if name == "cpu" and part.replace("_", "").replace(".", "").isalnum() and part.isascii():
        return BackendChoice(name, variant=part, origin=origin)
    if name in BACKENDS and name != "cpu" and part.isdecimal() and part.isascii():
        return BackendChoice(name, index=int(part), origin=origin)
    raise ValueError(f"{origin} must be {_LEGAL}; not {shown(text)}")


def backend_of_registry(registry: str) -> str:
    """Return our name of a backend that ggml registered; an unknown name in lower case."""
    names = {theirs.lower(): ours for ours, theirs in BACKENDS.items()}
    return names.get(registry.lower(), registry.lower())
