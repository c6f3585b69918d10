"""Load backend plug-ins in this process, choose a device, and make the engine use it.

The engine computes on the first GPU in ggml's registry, else on the first integrated GPU, else on the CPU. It has no
parameter for the device. So while a model is loaded the registry offers only the CPU and the chosen device:

    registered                               while `computing_on` CUDA1
    CPU, CUDA0, CUDA1, Vulkan0      -->      CPU, CUDA1
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from .._machine.backends import PREFERENCE, BackendChoice, backend_of_registry
from .._machine.devices import Device, Variant, chosen_device, chosen_variant, computes, numbered
from .._machine.drivers import why_no_device, why_not_loaded, why_not_this_processor
from ..errors import BackendUnavailableError, LayoutMismatchError, NativeError, SDError
from .library import Library

__all__ = ["Plugins", "plugins_of", "variant_of"]

LogLines = Callable[[], tuple[str, ...]]

_NOT_BEGUN = "ggml_backend_init returned NULL"
_HALF_SUMS, _SINGLE_SUMS = (f"GGML_CUDA_FORCE_CUBLAS_COMPUTE_{bits}F" for bits in (16, 32))
_VARIANT = re.compile(r"(?:lib)?ggml-cpu-([\w.]+)\.(?:so|dylib|dll)")


class Plugins:
    """The backends in the process of a library.

    Attributes
    ----------
    skipped : dict of str to str
        Backends that ``"auto"`` did not use, with the reason.
    """

    def __init__(self, library: Library) -> None:
        self.skipped: dict[str, str] = {}
        self._library = library
        self._loaded: dict[str, Path] = {}
        self._without_device: dict[str, BackendUnavailableError] = {}

    def devices(self) -> list[Device]:
        """List the devices of the backends loaded so far."""
        count = self._library.lib.sdg_device_count()
        return numbered([self._device(index) for index in range(count)])

    def _device(self, index: int) -> Device:
        library = self._library
        row = library.ffi.new("sdg_device *")
        library.check(
            lambda error: library.lib.sdg_get_device(index, row, error),
            NativeError,
            f"cannot read device {index}",
            tuple,
        )
        backend = backend_of_registry(library.text(row.backend))
        return Device(
            library.text(row.name),
            library.text(row.description),
            backend,
            library.text(row.type),
            int(row.memory_free),
            int(row.memory_total),
            variant=variant_of(self._loaded["cpu"]) if backend == "cpu" else None,
        )

    def variants(self) -> list[Variant]:
        """List the variants of the CPU backend, the best first."""
        rows = [self._scored(path) for path in self._library.build.backends["cpu"]]
        return sorted(rows, key=lambda item: (-item.score, item.file))

    def _scored(self, path: Path) -> Variant:
        library = self._library
        if not path.is_file():
            return Variant(variant_of(path), path.name, 0, missing=True)
        library.build.verify(path)  # the score is asked of the file itself, which is loaded for it
        return Variant(variant_of(path), path.name, int(library.lib.sdg_backend_score(str(path).encode())))

    def use(self, choice: BackendChoice, log: LogLines) -> Device:
        """Load the plug-ins that a choice needs, and return the device.

        Parameters
        ----------
        choice : BackendChoice
            The request. ``"auto"`` tries the backends in the order of `PREFERENCE` until one has a GPU that is not
            integrated.
        log : callable
            Returns the last lines of the native log.

        Returns
        -------
        Device

        Raises
        ------
        BackendUnavailableError
            If the backend was not built, cannot be loaded, or does not have the device. The message says what to run.
        LayoutMismatchError
            If its library is not the one that was built, or is an add-on for another build.
        """
        built = self._library.build.backends
        refused = self._library.build.refused
        if choice.name in refused:
            raise LayoutMismatchError(refused[choice.name])
        self.skipped.update(refused)
        if choice.name not in ("auto", *built):
            raise BackendUnavailableError(
                f"backend {choice.name!r} is not part of this build, which has {', '.join(sorted(built))}."
                f" To add it: python -m sdcffi build --backend {','.join([*sorted(built), choice.name])}"
            )
        variants = self._load_cpu(choice.variant, log)
        for name in [name for name in PREFERENCE if name in built] if choice.name == "auto" else [choice.name]:
            try:
                self._load_gpu(name, log)
            except (BackendUnavailableError, LayoutMismatchError) as error:
                if choice.name != "auto":
                    raise
                self.skipped[name] = error.message
            if choice.name == "auto" and any(device.type == "gpu" for device in self.devices()):
                break
        return chosen_device(choice, self.devices(), self.skipped, variants)

    def _load_cpu(self, asked: str | None, log: LogLines) -> list[Variant]:
        """Load a variant of the CPU backend, unless one is loaded: a process can have only one."""
        variants = self.variants() if len(self._library.build.backends["cpu"]) > 1 or asked else []
        loaded = self._loaded.get("cpu")
        if loaded is None:
            file = chosen_variant(variants, asked).file if variants else self._library.build.backends["cpu"][0].name
            self._load("cpu", self._library.build.directory / file, log)
        elif asked and chosen_variant(variants, asked).file != loaded.name:
            raise BackendUnavailableError(
                f"backend 'cpu:{asked}' cannot be loaded, because this process has already loaded {loaded.name}; use"
                " isolated=True, or another process"
            )
        return variants

    def _load_gpu(self, name: str, log: LogLines) -> None:
        if name in self._without_device:
            raise self._without_device[name]
        if name == "cpu" or name in self._loaded:
            return
        path = self._library.build.backends[name][0]
        if not path.is_file():
            build = self._library.build
            rebuild = f"python -m sdcffi build --backend {','.join(sorted(build.backends))}"
            again = build.reinstallation(path.name) or rebuild
            raise BackendUnavailableError(f"backend {name!r}: the library {path} is missing. Run: {again}")
        _add_up_in_single_precision()
        self._load(name, path, log)
        if not any(device.backend == name and computes(device) for device in self.devices()):
            self._without_device[name] = BackendUnavailableError(
                f"backend {name!r} is loaded but has no device here: {why_no_device(name, log())}", log()
            )
            raise self._without_device[name]

    def _load(self, name: str, path: Path, log: LogLines) -> None:
        library = self._library
        library.build.verify(path)
        try:
            library.check(
                lambda error: library.lib.sdg_load_backend(str(path).encode(), error),
                BackendUnavailableError,
                f"backend {name!r} ({path.name}) cannot be loaded here",
                log,
            )
        except SDError as error:
            advice = why_not_loaded(error.message)
            if name == "cpu" and not library.lib.sdg_backend_score(str(path).encode()):
                advice = advice or why_not_this_processor(library.build.manifest["options"])
            if _NOT_BEGUN in error.message:  # as Vulkan's does without a driver
                advice = why_no_device(name, log())
            message = f"{error.message}; {advice}" if advice else error.message
            raise BackendUnavailableError(message, error.log) from error
        self._loaded[name] = path

    @contextmanager
    def computing_on(self, device: Device) -> Iterator[None]:
        """Let the engine find only this device and the CPU during the block. The caller holds the library's lock."""
        library, name = self._library, device.name.encode()
        library.check(
            lambda error: library.lib.sdg_offer_device(name, error),
            NativeError,
            f"device {device.name} cannot be selected",
            tuple,
        )
        try:
            yield
        finally:
            library.check(
                library.lib.sdg_offer_all_devices, NativeError, "the other devices cannot be offered again", tuple
            )


def _add_up_in_single_precision() -> None:
    """Let CUDA add up products of f16 weights in single precision, as PyTorch does, unless the environment says how.

    By default ggml adds them up in half precision: images are 5 to 10 dB further from the reference, and what exceeds
    65504 is infinite. It reads the variables at its first product.
    """
    if not os.environ.keys() & {_HALF_SUMS, _SINGLE_SUMS}:
        os.environ[_SINGLE_SUMS] = "1"


@cache
def plugins_of(library: Library) -> Plugins:
    """Return the plug-ins of the process's library, always the same object."""
    return Plugins(library)


def variant_of(path: Path) -> str | None:
    """Return the name of a CPU variant by the name of its file. None for a build for one machine."""
    found = _VARIANT.fullmatch(path.name)
    return found[1] if found else None
