"""Models: engines by name, loaded when a job needs one; the least recently used leaves when memory is short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ..engine.capabilities import Capabilities
from ..engine.engine import Engine
from ..engine.upscaler import Upscaler
from ..errors import OutOfMemoryError
from .config import ModelConfig

__all__ = ["Models"]


class _Model:
    """A model and, while it is loaded, its engine."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.engine: Engine | Upscaler | None = None
        self.lock = asyncio.Lock()
        self.used = 0.0
        self.at_work = False
        self.capabilities: Capabilities | None = None


class Models:
    """The server's models.

    Parameters
    ----------
    configs : tuple of ModelConfig
    lora_dir : str, optional
        Directory of the adapters for models without one of their own.
    memory : int, optional
        Size of the weights that may be loaded at a time.
    """

    def __init__(
        self, configs: tuple[ModelConfig, ...], lora_dir: str | None = None, memory: int | None = None
    ) -> None:
        self._models = {config.name: _Model(config) for config in configs}
        self._lora_dir, self._memory = lora_dir, memory
        self.default = self.names()[0]

    def names(self) -> list[str]:
        """Return the names of the models that generate."""
        return [name for name, model in self._models.items() if model.config.kind == "generate"]

    def upscalers(self) -> list[str]:
        """Return the names of the upscaling networks."""
        return [name for name, model in self._models.items() if model.config.kind == "upscale"]

    def config(self, name: str) -> ModelConfig:
        """Return what the server was told of a model."""
        return self._models[name].config

    def lora_dir(self, name: str) -> str | None:
        """Return the directory of a model's adapters."""
        return self._models[name].config.lora_dir or self._lora_dir

    def describe(self, name: str) -> dict[str, Any]:
        """Return what clients are told of a model."""
        model = self._models[name]
        return {
            "name": name,
            "default": name == self.default,
            "loaded": model.engine is not None,
            "busy": model.at_work,
            "pinned": model.config.pinned,
        }

    def is_free(self, name: str) -> bool:
        """Return whether no job uses a model."""
        return not self._models[name].at_work

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Any]:
        """Hold the engine of a model for one job; it is loaded if need be."""
        model = self._models[name]
        model.at_work = True
        try:
            async with model.lock:
                if model.engine is None:
                    model.engine = await self._load(model)
                yield model.engine
        finally:
            model.at_work, model.used = False, time.monotonic()

    async def _load(self, model: _Model) -> Engine | Upscaler:
        while True:
            try:
                return await asyncio.to_thread(self._open, model.config)
            except OutOfMemoryError:
                if not await self._drop_one():
                    raise

    async def _drop_one(self) -> bool:
        loaded = [model for model in self._models.values() if model.engine and not model.at_work]
        candidates = [model for model in loaded if not model.config.pinned]
        if not candidates:
            return False
        least = min(candidates, key=lambda model: model.used)
        engine, least.engine = least.engine, None
        assert engine is not None
        await asyncio.to_thread(engine.close)
        return True

    def _open(self, config: ModelConfig) -> Engine | Upscaler:
        if config.kind == "upscale":
            return Upscaler(**config.arguments.engine_others)
        keywords = {"memory_check": "strict", **config.arguments.engine}
        if config.lora_dir is None and self._lora_dir is not None:
            keywords["lora_dir"] = self._lora_dir
        return Engine(**keywords)

    async def capabilities(self, name: str) -> Capabilities:
        """Return what a model can do, which loads it the first time; asked again, it is remembered."""
        model = self._models[name]
        if model.capabilities is None:
            async with self.use(name) as engine:
                model.capabilities = await asyncio.to_thread(engine.capabilities)
        return model.capabilities

    async def load_pinned(self) -> None:
        """Load the models that stay loaded."""
        for name, model in self._models.items():
            if model.config.pinned:
                async with self.use(name):
                    pass

    async def close(self) -> None:
        """Close every engine."""
        for model in self._models.values():
            engine, model.engine = model.engine, None
            if engine is not None:
                await asyncio.to_thread(engine.close)
