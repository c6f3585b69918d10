"""The server of `sdcffi.serve` on a cluster: its engines are replicas of Ray Serve, on any machine.

One replica has the application: the queue, the table of jobs and the results. So a job is found whoever asks, turns are
fair among all clients, and a key for idempotency holds everywhere. It computes nothing. Each model is a deployment of
its own, whose replicas have one engine each; Ray Serve starts and stops them by the number of jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from .._files import expanded
from .._numbers import check_integer
from .._warnings import collecting, warn
from ..engine.catalogue import refuse_open_variants
from ..errors import NativeCrashError
from ..events import Preview, Progress
from ..serve.config import ModelConfig, ServeConfig
from ..serve.http import app
from ..serve.models import Models, open_model, within

__all__ = ["application"]

_CLIENTS = 10_000  # requests that the application answers at a time: many of them follow a job
_ANSWER_SECONDS = 20.0  # that Ray waits for the application after its jobs had their time to finish


def application(
    config: ServeConfig, *, replicas: tuple[int, int] = (1, 4), resources: Mapping[str, float] | None = None
) -> serve.Application:
    """Return the server as an application of Ray Serve, for ``ray.serve.run`` or ``serve run``.

    Parameters
    ----------
    config : ServeConfig
        As of `sdcffi.serve.app`, except for what Ray does: where it listens, and ``workers`` and ``memory``. It needs
        ``keys``, or ``insecure=True``, since only Ray knows which machines reach the address that it listens on. All
        machines must have the models' files under these paths. ``store`` should be a directory that they share: then
        results are there too when the application moves to another machine.
    replicas : (int, int)
        The least and the most engines of each model. 0 as the least: a model is loaded by its first job.
    resources : mapping of str to float, optional
        What each engine takes of its machine: ``num_cpus``, ``num_gpus``, ``memory``, and others that you named. None:
        ``{"num_cpus": 1}``.

    Returns
    -------
    ray.serve.Application

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, or there are no keys.
    """
    if not (config.keys or config.insecure):
        raise ValueError(
            "there are no keys, and Ray may listen on an address that other machines reach: add keys= to the"
            " ServeConfig, or insecure=True if everybody who can reach it may use it"
        )
    for model in config.models:
        refuse_open_variants(model.arguments.engine["context"])
    least, most = replicas
    check_integer("replicas[0]", least, 0, 1 << 20)
    check_integer("replicas[1]", most, max(least, 1), 1 << 20)
    options = _actor_options(resources or {"num_cpus": 1})
    names = {model.name: f"model-{number}" for number, model in enumerate(config.models)}  # any text is a model's name
    deployment: Any = serve.deployment
    engines = [
        deployment(
            _EngineReplica,
            name=names[model.name],
            ray_actor_options=options,
            max_ongoing_requests=1,
            autoscaling_config={"min_replicas": least, "max_replicas": most, "target_ongoing_requests": 1},
        ).bind(model, _lora_dir(config, model))
        for model in config.models
    ]
    ours = replace(config, workers=most * len(engines), memory=None)

    def build() -> Any:
        return app(ours, _RemoteModels(ours, names, most))

    front = deployment(
        serve.ingress(build)(),
        name="application",
        num_replicas=1,
        max_ongoing_requests=_CLIENTS,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=config.grace + _ANSWER_SECONDS,
    )
    bound: serve.Application = front.bind(*engines)
    return bound


def _actor_options(resources: Mapping[str, float]) -> dict[str, Any]:
    known = {name: amount for name, amount in resources.items() if name in ("num_cpus", "num_gpus", "memory")}
    return {**known, "resources": {name: amount for name, amount in resources.items() if name not in known}}


def _lora_dir(config: ServeConfig, model: ModelConfig) -> Path | None:
    own = config.lora_dir if model.lora_dir is None else model.lora_dir
    return None if own is None else expanded(own, "lora_dir")


@dataclass(frozen=True)
class _Outcome:
    """What came of a call, and its warnings."""

    value: Any
    error: BaseException | None
    warnings: list[str]


class _EngineReplica:
    """A model on one machine; it does one job at a time."""

    def __init__(self, config: ModelConfig, lora_dir: Path | None) -> None:
        self._engine = open_model(config, lora_dir)

    async def run(self, method: str, keywords: Mapping[str, Any], previews: bool) -> AsyncIterator[Any]:
        """Yield the events of a call of the engine, and at last its `_Outcome`."""
        events: asyncio.Queue[Progress | Preview | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(event: Progress | Preview) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        listeners = {"on_progress": put, **({"on_preview": put} if previews else {})}
        with collecting() as warnings:
            task = asyncio.ensure_future(getattr(self._engine, method)(**keywords, **listeners))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            error = task.exception()
            yield _Outcome(task.result() if error is None else None, error, warnings)
        finally:  # also when the job is cancelled
            task.cancel()
            await asyncio.wait({task})


class _RemoteEngine:
    """The engine of the replica that is free next, with the calls that jobs make."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle.options(stream=True)

    async def agenerate(self, **keywords: Any) -> Any:
        """Generate images; see `Engine.agenerate`."""
        return await self._call("agenerate", **keywords)

    async def aupscale(self, **keywords: Any) -> Any:
        """Enlarge an image; see `Upscaler.aupscale`."""
        return await self._call("aupscale", **keywords)

    async def _call(
        self,
        method: str,
        *,
        timeout: float,
        on_progress: Callable[[Progress], object],
        on_preview: Callable[[Preview], object] | None = None,
        **keywords: Any,
    ) -> Any:
        response = self._handle.run.remote(method, {**keywords, "timeout": timeout}, on_preview is not None)

        async def outcome() -> _Outcome | None:
            async for item in response:
                if isinstance(item, _Outcome):
                    return item
                listener = on_progress if isinstance(item, Progress) else on_preview
                assert listener is not None
                listener(item)
            return None

        task = asyncio.ensure_future(outcome())
        try:
            found = await within(timeout, task)  # the wait for a replica included
        except RayTaskError:  # a mistake in the code above
            raise
        except (RayError, RayServeException) as error:
            raise NativeCrashError(f"the machine that ran the job was lost ({type(error).__name__})") from error
        except BaseException:
            response.cancel()
            raise
        finally:
            task.cancel()
        if found is None:
            raise NativeCrashError("the machine that ran the job gave no answer")
        for message in found.warnings:
            warn(message)
        if found.error is not None:
            raise found.error
        return found.value


class _RemoteModels(Models):
    """The models of a server whose engines are replicas elsewhere: Ray loads and unloads them."""

    def __init__(self, config: ServeConfig, deployments: Mapping[str, str], most: int) -> None:
        super().__init__(config.models, config.lora_dir)
        self._deployments, self._most = deployments, most

    def is_free(self, name: str) -> bool:
        """Return whether another job may have an engine of a model."""
        return self._entries[name].at_work < self._most

    def describe(self, name: str) -> dict[str, Any]:
        """Return what clients are told of a model, as plain data."""
        return {**super().describe(name), "loaded": True, "busy": not self.is_free(name)}

    @asynccontextmanager
    async def use(self, name: str, seconds: float | None = None) -> AsyncIterator[Any]:
        """Yield an engine of a model for one job. It is chosen when it is called, whose time limit has the wait."""
        yield _RemoteEngine(serve.get_deployment_handle(self._deployments[name]))

    async def load_pinned(self) -> None:
        """Do nothing: the least number of replicas is loaded."""
