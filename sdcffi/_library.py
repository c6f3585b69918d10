"""Load the native library: dlopen, verify, load backend plug-ins. One per process.

ggml keeps its backends and the engine its callbacks in globals, so a process has one native library with one set
of backends; `load` gives the same `Library` each time and refuses another one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ._layout import check_layout, declared_layout, layout_table
from ._locate import NativeBuild, locate
from .errors import (
    BackendUnavailableError,
    CancelledError,
    LayoutMismatchError,
    LibraryNotFoundError,
    NativeAssertError,
    NativeError,
    OutOfMemoryError,
    SDError,
)

__all__ = ["Device", "Library", "load"]


_BACKENDS = {"mtl": "metal", "rocm": "hip"}  # ggml's registry names that are not the backends' build names


@dataclass(frozen=True)
class Device:
    """A compute device that the loaded backends offer.

    Attributes
    ----------
    name : str
        As ggml names it: ``"CPU"``, ``"CUDA0"``.
    description : str
        The hardware's own name.
    backend : str
        ``"cpu"``, ``"cuda"``, ``"vulkan"``, ...
    type : str
        ``"cpu"``, ``"gpu"``, ``"igpu"`` or ``"accel"``.
    memory_free, memory_total : int
        Bytes; 0 where the backend cannot tell.
    """

    name: str
    description: str
    backend: str
    type: str
    memory_free: int
    memory_total: int

    def as_dict(self) -> dict[str, object]:
        """Give the attributes as a dictionary."""
        return asdict(self)


class Library:
    """The loaded native library.

    Attributes
    ----------
    build : NativeBuild
        What was loaded.
    ffi, lib
        cffi's two halves: types and functions.
    lock : threading.Lock
        Held for each call that can raise events: the engine's callbacks are process-global.
    skipped : dict of str to str
        Backends that ``"auto"`` passed over, with the reason.
    """

    def __init__(self, build: NativeBuild) -> None:
        self.build = build
        self.lock = threading.Lock()
        self.skipped: dict[str, str] = {}
        self._backends: set[str] = set()
        self._enums: dict[str, dict[str, int]] = {}
        self.ffi = _declarations(build)
        build.verify(build.library)
        self.lib = _open(self.ffi, build)
        check_layout(declared_layout(self.ffi), layout_table(self._layout_rows()))

    def _layout_rows(self) -> Iterator[tuple[str, str, int, int]]:
        count = self.ffi.new("size_t *")
        rows = self.lib.sdg_layout(count)
        for i in range(count[0]):
            yield self.text(rows[i].structure), self.text(rows[i].field), int(rows[i].offset), int(rows[i].size)

    def text(self, pointer: Any) -> str:
        """Copy a C string; NULL gives an empty one."""
        return "" if pointer == self.ffi.NULL else self.ffi.string(pointer).decode("utf-8", "replace")

    def check(
        self, call: Callable[[Any], int], failure: type[SDError], message: str, log: Callable[[], tuple[str, ...]]
    ) -> None:
        """Make a guarded call and raise what it reports. This is the only place that maps native errors.

        Parameters
        ----------
        call : callable
            Takes the error record to be filled in, returns the status.
        failure : type
            Raised where the engine reports failure in its own way, without a reason except in its log.
        message : str
            What was being done: the beginning of every message.
        log : callable
            Gives the native log's last lines.
        """
        error = self.ffi.new("sdg_error *")
        status = call(error)
        if status == self.lib.SDG_OK:
            return
        kinds: dict[int, type[SDError]] = {
            self.lib.SDG_OUT_OF_MEMORY: OutOfMemoryError,
            self.lib.SDG_ASSERT: NativeAssertError,
            self.lib.SDG_EXCEPTION: NativeError,
            self.lib.SDG_CANCELLED: CancelledError,
        }
        lines = log()
        reported = (line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: "))
        reason = self.text(error.text) or next(reported, "")
        raise kinds.get(status, failure)(f"{message}: {reason}" if reason else message, lines)

    def enum(self, ctype: Any) -> dict[str, int]:
        """Give the legal names of a C enum with their values, as the built library spells them.

        Names come from the library's own function for this enum (`sd_scheduler_name` for `scheduler_t`); an enum
        without one gives its enumerators, lower case, without their common prefix.
        """
        cname = ctype.cname.removeprefix("enum ")
        if cname not in self._enums:
            values = {name: value for value, name in sorted(ctype.elements.items()) if not name.endswith("_COUNT")}
            function = f"sd_{cname.removeprefix('sd_').removesuffix('_t')}_name"
            namer = getattr(self.lib, function, None)
            prefix = _common_words(list(values))
            self._enums[cname] = {
                self.text(namer(value)) if namer else name.removeprefix(prefix).lower(): value
                for name, value in values.items()
            }
        return self._enums[cname]

    def devices(self) -> list[Device]:
        """List the devices of the backends loaded so far."""
        return [self._device(index) for index in range(self.lib.sdg_device_count())]

    def _device(self, index: int) -> Device:
        row = self.ffi.new("sdg_device *")
        self.check(
            lambda error: self.lib.sdg_get_device(index, row, error), NativeError, f"cannot read device {index}", tuple
        )
        return Device(
            self.text(row.name),
            self.text(row.description),
            _BACKENDS.get(registry := self.text(row.backend).lower(), registry),
            self.text(row.type),
            int(row.memory_free),
            int(row.memory_total),
        )

    def use_backend(self, name: str, log: Callable[[], tuple[str, ...]]) -> Device:
        """Load the plug-ins of a backend and give the device that the engine will compute on.

        Parameters
        ----------
        name : str
            ``"auto"`` (every backend that was built and can be loaded here), or one backend's name.
        log : callable
            Gives the native log's last lines.

        Raises
        ------
        BackendUnavailableError
            If it was not built, cannot be loaded, has no device, or the process already computes on another one.
        """
        built = self.build.backends
        wanted = [item for item in built if item != "cpu"] if name == "auto" else [name]
        if unknown := [item for item in wanted if item not in built]:
            raise BackendUnavailableError(
                f"backend {unknown[0]!r} is not part of this build, which has {', '.join(sorted(built))}."
                f" To add it: python -m sdcffi build --backend {','.join([*sorted(built), unknown[0]])}"
            )
        self._load_plugins("cpu", log)
        for item in wanted:
            try:
                self._load_plugins(item, log)
            except BackendUnavailableError as error:
                if name != "auto":
                    raise
                self.skipped[item] = error.message
        devices = self.devices()
        for item in sorted(self._backends - {device.backend for device in devices}):
            self.skipped[item] = f"backend {item!r} is loaded but has no device here"
        return _chosen_device(name, devices)

    def _load_plugins(self, name: str, log: Callable[[], tuple[str, ...]]) -> None:
        if name in self._backends:
            return
        path = self._best_plugin(name)
        self.build.verify(path)
        self.check(
            lambda error: self.lib.sdg_load_backend(str(path).encode(), error),
            BackendUnavailableError,
            f"backend {name!r} ({path.name}) cannot be loaded here",
            log,
        )
        self._backends.add(name)

    def _best_plugin(self, name: str) -> Path:
        files = self.build.backends[name]
        if len(files) == 1:
            return files[0]
        scores = {path: self.lib.sdg_backend_score(str(path).encode()) for path in files}
        best = max(files, key=lambda path: scores[path])
        if scores[best] == 0:
            raise BackendUnavailableError(
                f"none of this build's variants of backend {name!r} runs on this machine: "
                + ", ".join(path.name for path in files)
            )
        return best


def _chosen_device(name: str, devices: list[Device]) -> Device:
    order = ("gpu", "igpu", "cpu")  # as upstream's get_default_backend_name chooses
    chosen = next((device for kind in order for device in devices if device.type == kind), None)
    if chosen is None:
        raise BackendUnavailableError("the loaded backends offer no device to compute on")
    if name in ("auto", chosen.backend):
        return chosen
    available = [device.backend for device in devices]
    if name in available:
        raise BackendUnavailableError(
            f"backend {name!r} was asked for, but this process has already loaded {chosen.backend!r}, which the engine"
            " prefers; use another process"
        )
    raise BackendUnavailableError(f"backend {name!r} is loaded but has no device here; devices: {', '.join(available)}")


def _common_words(names: list[str]) -> str:
    """Give the words that all names begin with: "SD_CACHE_" of SD_CACHE_UCACHE, SD_CACHE_DBCACHE."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind("_", 0, same) + 1]


def _declarations(build: NativeBuild) -> Any:
    import cffi

    path = build.directory / "cdef.h"
    build.verify(path)
    ffi = cffi.FFI()
    try:
        ffi.cdef(path.read_text(encoding="utf-8"))
    except (cffi.CDefError, cffi.FFIError) as error:
        raise LayoutMismatchError(f"{path} cannot be read as C declarations: {error}") from error
    return ffi


@contextmanager
def _no_debugger() -> Iterator[None]:
    """Keep ggml's static initialiser from installing a terminate handler that forks a debugger."""
    before = os.environ.get("GGML_NO_BACKTRACE")
    os.environ["GGML_NO_BACKTRACE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["GGML_NO_BACKTRACE"]
        else:
            os.environ["GGML_NO_BACKTRACE"] = before


def _open(ffi: Any, build: NativeBuild) -> Any:
    try:
        with _no_debugger():
            if sys.platform == "win32":
                with os.add_dll_directory(str(build.directory)):
                    return ffi.dlopen(str(build.library))
            return ffi.dlopen(str(build.library), ffi.RTLD_NOW | ffi.RTLD_LOCAL)
    except OSError as error:
        raise LibraryNotFoundError(
            f"{build.library} cannot be loaded: {error}. Build it again on this machine: python -m sdcffi build"
        ) from error


_loaded: Library | None = None
_loading = threading.Lock()


def load(argument: str | os.PathLike[str] | None = None) -> Library:
    """Give the process's native library, loading it at the first call.

    Parameters
    ----------
    argument : path, optional
        See `_locate.locate`.

    Raises
    ------
    LibraryNotFoundError
        If there is none, or this process has already loaded another one.
    LayoutMismatchError
        If library, declarations and manifest do not belong together.
    """
    global _loaded
    with _loading:
        build = locate(argument) if argument is not None or _loaded is None else _loaded.build
        if _loaded is None:
            _loaded = Library(build)
        elif build.directory != _loaded.build.directory:
            raise LibraryNotFoundError(
                f"{build.directory} was asked for, but this process has already loaded {_loaded.build.directory};"
                " a process has one native library"
            )
        return _loaded
