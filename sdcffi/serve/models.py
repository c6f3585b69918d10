"""Models: engines by name, loaded when a job needs one; the least recently used leaves when memory is short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .._checks.context import check_context
from .._defaults.recommended import Recommended
from .._files import expanded
from .._models.memory import weight_bytes
from .._models.upscaler_file import read_network
from .._process.aio import in_thread
from .._references import local_path
from ..engine.capabilities import Capabilities
from ..engine.catalogue import resolve_names, resolve_variants
from ..engine.engine import USABLE, Engine
from ..engine.upscaler import Upscaler
from ..errors import OutOfMemoryError
from ..events import Listeners
from ..params.image import ImageParams
from ..params.names import flatten
from .config import ModelConfig

if TYPE_CHECKING:
    from .._models.files import Model

__all__ = ["Facts", "Models", "open_model", "within"]

_MIB = 1 << 20

_T = TypeVar("_T")


@dataclass(frozen=True)
class Facts:
    """What is known of a model before a job runs.

    Attributes
    ----------
    files : Model
        What its files hold.
    capabilities : Capabilities
    defaults : ImageParams
        The engine's own.
    recommended : Recommended
        What suits the model, where a call says nothing.
    names : mapping
        The names of each C enumeration.
    """

    files: Model
    capabilities: Capabilities
    defaults: ImageParams
    recommended: Recommended
    names: Mapping[str, tuple[str, ...]]

    @property
    def filled(self) -> ImageParams:
        """What a call uses that says nothing."""
        return self.defaults.updated(self.recommended.params(ImageParams))


class _Entry:
    """A model and, while it is loaded, its engine."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.files: Model | None = None
        self.factor = 1  # of an upscaling network
        if config.kind == "upscale":
            path = local_path(config.arguments.engine_others["model"], f"upscaler {config.name}")
            self.factor = read_network(f"upscaler {config.name}", path).factor
            self.folders = {path.parent.absolute()}
            self.size = path.stat().st_size
        else:
            engine = config.arguments.engine
            where = engine.get("library"), engine.get("backend", "auto")
            context = resolve_variants(engine["context"], *where)
            self.config = replace(config, arguments=replace(config.arguments, context_values=flatten(context)))
            context, _ = resolve_names(USABLE.updated(context), *where, Listeners())
            context, self.files = check_context(context)
            self.folders = {file.path.parent.absolute() for file in self.files.files}
            self.size = weight_bytes(self.files, context)
        self.engine: Engine | Upscaler | None = None
        self.loading: asyncio.Task[Engine | Upscaler] | None = None
        self.learning: asyncio.Task[Facts] | None = None
        self.at_work = 0  # holders: a job, and what it does with the engine
        self.used = 0.0


def keywords_of(config: ModelConfig, lora_dir: Path | None) -> dict[str, Any]:
    """Return the keywords of a model's `Engine`, or of its `Upscaler`."""
    if config.kind == "upscale":
        return config.arguments.engine_others
    keywords = {"memory_check": "strict", **config.arguments.engine}
    return keywords if lora_dir is None else {**keywords, "lora_dir": lora_dir}


def open_model(config: ModelConfig, lora_dir: Path | None) -> Engine | Upscaler:
    """Load a model."""
    return (Upscaler if config.kind == "upscale" else Engine)(**keywords_of(config, lora_dir))


class Models:
    """The server's models.

    Parameters
    ----------
    configs : tuple of ModelConfig
    lora_dir : Path, optional
        Directory of the adapters for models without one of their own.
    memory : int, optional
        Size of the weights that may be loaded at a time, in bytes. None: as much as is free.

    Raises
    ------
    ValueError
        If a model's files are missing, or are not those of a model.
    """

    def __init__(
        self, configs: tuple[ModelConfig, ...], lora_dir: Path | None = None, memory: int | None = None
    ) -> None:
        self._entries = {config.name: _Entry(config) for config in configs}
        self._lora_dir, self._memory = lora_dir, memory
        self._loads = asyncio.Lock()  # one at a time: two would count the same free memory
        self._released = asyncio.Event()
        self.default = self.names()[0]

    def names(self) -> list[str]:
        """Return the names of the models that generate."""
        return [name for name, entry in self._entries.items() if entry.config.kind == "generate"]

    def upscalers(self) -> list[str]:
        """Return the names of the upscaling networks."""
        return [name for name, entry in self._entries.items() if entry.config.kind == "upscale"]

    def config(self, name: str) -> ModelConfig:
        """Return what the server was told of a model."""
        return self._entries[name].config

    def lora_dir(self, name: str) -> Path | None:
        """Return the directory of a model's adapters."""
        own = self._entries[name].config.lora_dir
        return self._lora_dir if own is None else expanded(own, "lora_dir")

    def folders(self) -> list[Path]:
        """Return the directories of all files, which clients are not told."""
        found = {folder for name in self._entries if (folder := self.lora_dir(name)) is not None}
        for entry in self._entries.values():
            values = [*entry.config.arguments.context_values.values(), *entry.config.arguments.engine_others.values()]
            paths = [Path(value).expanduser() for value in values if isinstance(value, (str, Path))]
            found |= {path.absolute().parent for path in paths if path.exists()}
            found |= entry.folders  # also of what was downloaded
        return sorted(found)

    def describe(self, name: str) -> dict[str, Any]:
        """Return what clients are told of a model, as plain data."""
        entry = self._entries[name]
        kind = entry.files.architecture if entry.files else None
        return {
            "name": name,
            "family": kind.name if kind else None,
            "title": kind.title if kind else None,
            "default": name == self.default,
            "loaded": entry.engine is not None,
            "busy": entry.at_work > 0,
            "pinned": entry.config.pinned,
        }

    def pids(self) -> dict[str, int]:
        """Return the process ids of the engines that are loaded, by model."""
        found = {name: entry.engine.pid for name, entry in self._entries.items() if entry.engine is not None}
        return {name: pid for name, pid in found.items() if pid is not None}

    def is_from(self, name: str, files: Collection[str]) -> bool:
        """Return whether one of these file names, with or without its ending, is that of a model's main file."""
        context = self._entries[name].config.arguments.context_values
        for key in ("model_path", "diffusion_model_path"):
            if value := context.get((key,)):
                return not {Path(value).name, Path(value).stem}.isdisjoint(files)
        return False

    def factor(self, name: str) -> int:
        """Return an upscaling network's own factor."""
        return self._entries[name].factor

    def is_free(self, name: str) -> bool:
        """Return whether no job uses a model."""
        return not self._entries[name].at_work

    @contextmanager
    def reserved(self, name: str) -> Iterator[None]:
        """Hold a model for one job from now on, loaded or not: it is not free, and not unloaded for others."""
        entry = self._entries[name]
        entry.at_work += 1
        try:
            yield
        finally:
            entry.at_work -= 1
            entry.used = time.monotonic()
            self._released.set()

    @asynccontextmanager
    async def use(self, name: str, seconds: float | None = None) -> AsyncIterator[Any]:
        """Hold the engine of a model for one job; it is loaded if need be.

        Parameters
        ----------
        name : str
        seconds : float, optional
            How long to wait until it is loaded.

        Raises
        ------
        asyncio.TimeoutError
            If it takes longer. Loading goes on, for the next job.
        """
        entry = self._entries[name]
        with self.reserved(name):
            yield entry.engine or await within(seconds, self._loading(entry))

    def _loading(self, entry: _Entry) -> asyncio.Task[Engine | Upscaler]:
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry))
            entry.loading.add_done_callback(_seen)
        return entry.loading

    async def _load(self, entry: _Entry) -> Engine | Upscaler:
        try:
            async with self._loads:
                await self._keep_within(entry.size)
                while True:
                    try:
                        entry.engine = await in_thread(lambda: self._open(entry.config))
                        return entry.engine
                    except OutOfMemoryError:
                        if not await self.make_room(wait=True):
                            raise
        finally:
            entry.loading = None

    async def _keep_within(self, size: int) -> None:
        if self._memory is None:
            return
        while (loaded := sum(entry.size for entry in self._entries.values() if entry.engine)) + size > self._memory:
            if not await self.make_room(wait=True):
                raise OutOfMemoryError(
                    f"the model needs {size / _MIB:,.0f} MiB, and {loaded / _MIB:,.0f} of {self._memory / _MIB:,.0f}"
                    " MiB are taken by models that stay; raise memory in the server's configuration, or pin fewer"
                )

    async def make_room(self, *, wait: bool = False, keep: str = "") -> bool:
        """Unload the model that was used least recently, of those that are not at work.

        Parameters
        ----------
        wait : bool
            Whether to wait for one at work, if all are.
        keep : str
            Name of a model that stays: the one that room is made for.

        Returns
        -------
        bool
            False if there is none that may be unloaded.
        """
        while True:
            others = [entry for name, entry in self._entries.items() if name != keep]
            loaded = [entry for entry in others if entry.engine and not entry.config.pinned]
            idle = [entry for entry in loaded if not entry.at_work]
            if idle:
                await self._unload(min(idle, key=lambda entry: entry.used))
                return True
            if not (wait and loaded):
                return False
            self._released.clear()
            await self._released.wait()
            if not all(entry.engine for entry in loaded):  # one was lost meanwhile
                return True

    async def unload(self, name: str) -> None:
        """Unload a model, whose engine is lost: the next job loads it again."""
        await self._unload(self._entries[name])

    async def _unload(self, entry: _Entry) -> None:
        engine, entry.engine = entry.engine, None
        if engine is not None:
            await asyncio.to_thread(engine.close)
            self._released.set()

    def _keywords(self, config: ModelConfig) -> dict[str, Any]:
        return keywords_of(config, self.lora_dir(config.name))

    def _open(self, config: ModelConfig) -> Engine | Upscaler:
        return open_model(config, self.lora_dir(config.name))

    async def facts(self, name: str) -> Facts:
        """Return what is known of a model. It is looked up once, without loading the weights."""
        entry = self._entries[name]
        task = entry.learning
        if task is None or (task.done() and task.exception() is not None):
            task = entry.learning = asyncio.create_task(asyncio.to_thread(self._look, entry))
        return await asyncio.shield(task)

    def _look(self, entry: _Entry) -> Facts:
        assert entry.files is not None
        with Engine(**{**self._keywords(entry.config), "load_weights": False}) as engine:
            opened = engine._opened
            own = opened.defaults.image
            return Facts(entry.files, engine.capabilities(), own, engine._recommended, opened.names)

    async def load_pinned(self) -> None:
        """Load the models that stay loaded."""
        for name, entry in self._entries.items():
            if entry.config.pinned:
                async with self.use(name):
                    pass

    async def close(self) -> None:
        """Unload all models, and stop loading others."""
        loads = [entry.loading for entry in self._entries.values() if entry.loading is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        for entry in self._entries.values():
            await self._unload(entry)


async def within(seconds: float | None, task: asyncio.Task[_T]) -> _T:
    """Return what a task returns, which goes on if it takes longer. Unlike `asyncio.wait_for`, loses no cancel."""
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        raise asyncio.TimeoutError
    return task.result()


def _seen(task: asyncio.Task[Any]) -> None:
    """Take note of how a task ended, which nobody may wait for any more."""
    if not task.cancelled():
        task.exception()
