"""What a server is told: its models, limits and keys, from a TOML file or in Python. All is checked when it is made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from .._files import cache_directory, expanded
from .._numbers import check_flags, check_integer, check_number
from .._quoting import shown
from ..demo import demo_model
from ..engine.upscaler import Upscaler
from ..parameter_files import Arguments, as_arguments
from ..params.plain import check_keys, read_table

__all__ = ["ModelConfig", "ServeConfig"]

_MOST_NAME = 100  # characters
_SHORTEST_KEY = 16  # characters


@dataclass(frozen=True)
class ModelConfig:
    """A model that the server offers.

    Parameters
    ----------
    name : str
        Its name for clients.
    arguments : Arguments
        Keywords of `Engine`, and defaults for the keywords of `Engine.generate` that a request does not give.
    pinned : bool
        True loads it when the server starts, and never unloads it.
    kind : str
        ``"generate"``, or ``"upscale"`` for an upscaling network.
    """

    name: str
    arguments: Arguments
    pinned: bool = False
    kind: Literal["generate", "upscale"] = "generate"

    @classmethod
    def of(cls, name: str, table: Mapping[str, Any], where: str = "") -> ModelConfig:
        """Return the model in a table: parameters as in a parameter file, and ``pinned``.

        Raises
        ------
        TypeError, ValueError
            If a name or value is wrong.
        """
        where = where or f"model {shown(name)}"
        _check_name(name, where)
        if not isinstance(table, Mapping):
            raise TypeError(f"{where} must be a table of parameters, not {shown(table)}")
        rest = dict(table)
        pinned = rest.pop("pinned", False)
        check_flags(pinned=pinned)
        if not rest:
            raise ValueError(f"{where} has no files: write model = 'PATH', or diffusion_model = 'PATH' and its others")
        return cls(name, as_arguments(rest, where), pinned)

    @classmethod
    def upscaler(cls, name: str, given: str | Mapping[str, Any], where: str = "") -> ModelConfig:
        """Return an upscaling network: its path, or a table of keywords of `Upscaler`.

        Raises
        ------
        TypeError, ValueError
            If a name is wrong.
        """
        where = where or f"upscaler {shown(name)}"
        _check_name(name, where)
        table = {"model": given} if isinstance(given, str) else given
        if not isinstance(table, Mapping):
            raise TypeError(f"{where} must be a path or a table of parameters, not {shown(given)}")
        legal = {word for word in inspect.signature(Upscaler).parameters if not word.startswith("on_")}
        check_keys(table, legal | {"pinned"}, where)
        if "model" not in table:
            raise ValueError(f"{where} has no file: write model = 'PATH'")
        rest = dict(table)
        pinned = rest.pop("pinned", False)
        check_flags(pinned=pinned)
        return cls(name, Arguments(engine_others=rest), pinned, "upscale")

    @property
    def lora_dir(self) -> str | None:
        """The directory of its adapters."""
        value = self.arguments.engine_others.get("lora_dir")
        return None if value is None else str(value)


def _check_name(name: str, where: str) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > _MOST_NAME or not name.isprintable():
        raise ValueError(f"{where}: a name must have 1 to {_MOST_NAME} printable characters")


def _texts(name: str, values: Any) -> tuple[str, ...]:
    """Return names or addresses as browsers send them: in small letters."""
    if not isinstance(values, (list, tuple, set, frozenset)) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} must be a list of texts, as ['example.org'], not {shown(values)}")
    return tuple(value.lower() for value in values)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What a server is told. `from_file` reads it from TOML.

    Parameters
    ----------
    models : sequence of ModelConfig
        The models and upscaling networks, at least one model. The first is the default.
    host : str
        Address to listen on. Another than a loopback address needs `keys`, or `insecure`.
    port : int
        Port to listen on. 0: any that is free.
    keys : mapping of str to str
        API keys: the key of each client, by its name. Empty: everybody may use the server.
    insecure : bool
        True listens on any address without keys.
    cors : sequence of str
        Origins of pages of others that may call the server, as ``"https://example.org"``; ``"*"`` is all of them.
    hosts : sequence of str
        Names by which the server is called, if they are others than `host` and those of this machine. They are checked
        only without keys, since a page of others could call the server by a name of its own.
    lora_dir : path, optional
        Directory of the adapters, for models that have no ``lora_dir`` of their own.
    store : path, optional
        Directory in which results are kept. None: one in the cache directory, by the port.
    store_jobs, store_bytes : int
        Number of jobs whose results are kept, and their size in bytes. The oldest leave first.
    store_seconds : float
        How long a result is kept.
    memory : int, optional
        Size of the weights that may be loaded at a time, in bytes. None: as much as is free.
    workers : int
        Number of jobs that run at a time, each with another model.
    queue : int
        Number of jobs that may wait.
    queue_per_client : int
        Number of jobs of one client that may wait.
    queue_bytes : int
        Size of the input images of all jobs that wait, in bytes, as pixels.
    timeout : float
        Longest time that a job may run, in seconds; a request may ask for less.
    most_pixels, most_steps, most_images, most_retries : int
        Limits of a request: pixels of an image, steps, images of a job, and how often a job is tried again.
    request_bytes : int
        Size of a request's body, in bytes. The bodies of all requests that are not yet answered have at most as many
        as `queue_bytes`, or this if it is more.
    grace : float
        Time to finish jobs that run when the server is stopped, in seconds.
    behind_proxy : bool
        True takes a client's address from the header ``X-Forwarded-For`` of a proxy on this machine.
    """

    models: tuple[ModelConfig, ...]
    host: str = "127.0.0.1"
    port: int = 7860
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    insecure: bool = False
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    lora_dir: Path | None = None
    store: Path | None = None
    store_jobs: int = 10_000
    store_bytes: int = 4 << 30
    store_seconds: float = 24 * 3600.0
    memory: int | None = None
    workers: int = 1
    queue: int = 512
    queue_per_client: int = 64
    queue_bytes: int = 1 << 30
    timeout: float = 600.0
    most_pixels: int = 4 << 20
    most_steps: int = 200
    most_images: int = 16
    most_retries: int = 3
    request_bytes: int = 64 << 20
    grace: float = 30.0
    behind_proxy: bool = False

    def __post_init__(self) -> None:
        for name in ("cors", "hosts"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        names = [model.name for model in self.models]
        if not any(model.kind == "generate" for model in self.models):
            raise ValueError("there is no model to serve: name one as MODEL, in the configuration, or pass --demo")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two models are named {shown(twice[0])}: give each a name of its own")
        check_flags(insecure=self.insecure, behind_proxy=self.behind_proxy)
        check_integer("port", self.port, 0, 65535)
        sizes = ("store_jobs", "store_bytes", "queue_bytes", "most_pixels", "most_steps", "request_bytes")
        for name in ("workers", "queue", "queue_per_client", *sizes):
            check_integer(name, getattr(self, name), 1, 1 << 60)
        check_integer("most_images", self.most_images, 1, 1000)
        check_integer("most_retries", self.most_retries, 0, 100)
        if self.memory is not None:
            check_integer("memory", self.memory, 1, 1 << 60)
        for name in ("store_seconds", "timeout"):
            check_number(name, getattr(self, name), 0.001)
        check_number("grace", self.grace, 0)
        for name, key in self.keys.items():
            _check_name(name, f"key {shown(name)}")
            if not isinstance(key, str) or len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable():
                raise ValueError(
                    f"the key of {shown(name)} must have at least {_SHORTEST_KEY} characters of ASCII; make one with"
                    " python3 -c 'import secrets; print(secrets.token_urlsafe(24))'"
                )
        first: dict[str, str] = {}
        for name, key in self.keys.items():
            if (other := first.setdefault(key, name)) != name:
                raise ValueError(
                    f"{shown(other)} and {shown(name)} have the same key, so that the server could not tell them apart:"
                    " give each a key of its own"
                )
        if not (self.is_loopback or self.keys or self.insecure):
            raise ValueError(
                f"host {shown(self.host)} can be reached from other machines, and there are no keys: add keys, or pass"
                " --insecure if everybody who can reach it may use it"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return self.host == "localhost" or ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def directory(self) -> Path:
        """The directory in which results are kept."""
        return self.store if self.store is not None else cache_directory() / f"serve-{self.port}"

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> ServeConfig:
        """Read a TOML or JSON file; `docs/serve.md` describes it.

        Parameters
        ----------
        path : path
        **changes
            Values that replace those of the file; None does not.

        Raises
        ------
        TypeError, ValueError
            If the file cannot be read, or a name or value is wrong.
        """
        return cls.of(read_table(path), str(path), **changes)

    @classmethod
    def of(cls, table: Mapping[str, Any], where: str = "configuration", **changes: Any) -> ServeConfig:
        """Return the configuration in a table: the parameters of this class, ``[models.NAME]`` and ``[upscalers]``."""
        known = {item.name for item in fields(cls)} | {"upscalers"}
        check_keys(table, known, where)
        values = dict(table)
        models = values.pop("models", {})
        upscalers = values.pop("upscalers", {})
        for name, given in (("models", models), ("upscalers", upscalers), ("keys", values.get("keys", {}))):
            if not isinstance(given, Mapping):
                raise TypeError(f"{where}: {name} must be a table, not {shown(given)}")
        found = [ModelConfig.of(name, its, f"{where}: models.{name}") for name, its in models.items()]
        found += [ModelConfig.upscaler(name, its, f"{where}: upscalers.{name}") for name, its in upscalers.items()]
        values |= {name: value for name, value in changes.items() if value is not None and name != "models"}
        for name in ("lora_dir", "store"):
            if values.get(name) is not None:
                values[name] = expanded(values[name], name)
        return cls(models=(*changes.get("models", ()), *found), **values)

    @classmethod
    def demo(cls, **changes: Any) -> ServeConfig:
        """Return a configuration with the small model in the package."""
        table = {name: str(path) for name, path in demo_model().items()}
        return cls.of({}, models=(ModelConfig.of("demo", table),), **changes)
