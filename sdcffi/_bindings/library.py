"""Load and verify the native library. A process has one.

ggml keeps its backends in globals, and the engine its callbacks. So `load` returns the same `Library` each time and
refuses to load another one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .._machine.builds import NativeBuild, locate
from ..errors import (
    CancelledError,
    LayoutMismatchError,
    LibraryNotFoundError,
    NativeAssertError,
    NativeError,
    OutOfMemoryError,
    SDError,
)
from .causes import cause
from .layout import check_layout, declared_layout, layout_table

__all__ = ["Library", "load"]


class Library:
    """The loaded native library.

    Attributes
    ----------
    build : NativeBuild
        The build that was loaded.
    ffi, lib
        cffi's objects for types and for functions.
    lock : threading.Lock
        Held during each call that can emit events, since the engine's callbacks are global to the process.
    """

    def __init__(self, build: NativeBuild) -> None:
        self.build = build
        self.lock = threading.Lock()
        self._enums: dict[str, dict[str, int]] = {}
        self.ffi = _declarations(build)
        for path in (*build.support, build.library):
            build.verify(path)
        self.lib = _open(self.ffi, build)
        check_layout(declared_layout(self.ffi), layout_table(self._layout_rows()))

    def _layout_rows(self) -> Iterator[tuple[str, str, int, int]]:
        count = self.ffi.new("size_t *")
        rows = self.lib.sdg_layout(count)
        for i in range(count[0]):
            yield self.text(rows[i].structure), self.text(rows[i].field), int(rows[i].offset), int(rows[i].size)

    def text(self, pointer: Any) -> str:
        """Return a copy of a C string; an empty one for NULL."""
        return "" if pointer == self.ffi.NULL else self.ffi.string(pointer).decode("utf-8", "replace")

    def check(
        self, call: Callable[[Any], int], failure: type[SDError], message: str, log: Callable[[], tuple[str, ...]]
    ) -> None:
        """Make a guarded call, and raise the error that it reports. This is the only place that maps native errors.

        Parameters
        ----------
        call : callable
            Takes an `sdg_error *` to fill in, and returns the status.
        failure : type
            Raised if the engine reports failure in its own way, with the reason only in its log.
        message : str
            What failed: the beginning of the error's message.
        log : callable
            Returns the last lines of the native log.

        Raises
        ------
        OutOfMemoryError, NativeAssertError, NativeError, CancelledError
            By the status.
        SDError
            An instance of `failure` for any other status.
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
        reason = self.text(error.text) or cause(lines)
        raise kinds.get(status, failure)(f"{message}: {reason}" if reason else message, lines)

    def enum(self, ctype: Any) -> dict[str, int]:
        """Return the legal names of a C enum with their values, as the built library spells them.

        Names come from the library's own function for this enum (`sd_scheduler_name` for `scheduler_t`). If there is
        no such function, they are the enumerators in lower case without their common prefix.

        Parameters
        ----------
        ctype : cffi type
            Such as ``ffi.typeof("enum scheduler_t")``.

        Returns
        -------
        dict of str to int
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


def _common_words(names: list[str]) -> str:
    """Return the words with which all names begin: "SD_CACHE_" for SD_CACHE_UCACHE and SD_CACHE_DBCACHE."""
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
        raise LayoutMismatchError(
            f"{path} cannot be read as C declarations: {error}. Build it again: python -m sdcffi build"
        ) from error
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
    """Return the process's native library, which the first call loads.

    Parameters
    ----------
    argument : path, optional
        See `_machine.builds.locate`. None: the library that is loaded already, else the default one.

    Returns
    -------
    Library
        The same object each time.

    Raises
    ------
    LibraryNotFoundError
        If there is none, or if this process has already loaded another one.
    LayoutMismatchError
        If library, declarations and manifest come from different builds.
    """
    global _loaded
    with _loading:
        build = locate(argument) if argument is not None or _loaded is None else _loaded.build
        if _loaded is None:
            _loaded = Library(build)
        elif build.directory != _loaded.build.directory:
            raise LibraryNotFoundError(
                f"{build.directory} cannot be loaded, because this process has already loaded"
                f" {_loaded.build.directory}; use another process"
            )
        return _loaded
