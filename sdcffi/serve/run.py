"""Run the server with uvicorn, and stop it without losing a job."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from ..errors import SDError
from .config import ServeConfig
from .connections import Connection, allow_many
from .http import app
from .service import Service

__all__ = ["Server", "prepared", "run"]

_ANSWER_SECONDS = 5  # in which answers must have been sent, once the jobs have ended


def run(config: ServeConfig, on_ready: Callable[[str], object] = lambda _: None) -> None:
    """Serve until the process is interrupted (SIGINT, SIGTERM).

    Then no more jobs are taken, those that run have ``config.grace`` seconds to finish, those that wait are answered
    that the server stops, and what is finished is kept. The second time, it ends at once.

    Parameters
    ----------
    config : ServeConfig
    on_ready : callable
        Called with the address of the server once it takes requests.

    Raises
    ------
    ValueError
        If a model's files are missing, or are not those of a model.
    SDError
        If it cannot listen on the address, or another server has the directory of the results.
    """
    allow_many()
    server, listener = prepared(config, on_ready)
    with listener:
        server.run([listener])


def prepared(config: ServeConfig, on_ready: Callable[[str], object]) -> tuple[Server, socket.socket]:
    """Return a server that can be run, and the socket on which it will listen; see `run`."""
    application = app(config)
    listener = _listener(config)
    server = Server(
        uvicorn.Config(
            application,
            http=Connection,  # whatever else is installed
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=config.behind_proxy,
            timeout_graceful_shutdown=_ANSWER_SECONDS,
            lifespan="on",
        ),
        application.state.service,
        lambda: on_ready(_address(config, listener)),
    )
    return server, listener


def _listener(config: ServeConfig) -> socket.socket:
    """Return a socket that listens already, so that its port is known."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host.strip("[]"), config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise SDError(
            f"cannot listen on {config.host}, port {config.port}: {error.strerror or error}; choose another --port"
        ) from error
    return listener


def _address(config: ServeConfig, listener: socket.socket) -> str:
    host = f"[{config.host.strip('[]')}]" if ":" in config.host else config.host
    return f"http://{host}:{listener.getsockname()[1]}"


class Server(uvicorn.Server):
    """Stops the service first, and answers until then: clients still ask for what runs."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self.service, self._on_ready = service, on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._asked = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the service, then take requests."""
        self._loop = asyncio.get_running_loop()
        self._starting = asyncio.ensure_future(self.service.start())
        await asyncio.wait({self._starting})
        if self.should_exit:  # models may load for minutes, and nobody waits for them any more
            await self.service.stop()  # it may have started just now
            return
        self._starting.result()  # here, since what it raises is for the caller, not for a log
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; the second time, end at once."""
        if self._loop is None or not self.started:
            super().handle_exit(sig, frame)
            if self._loop is not None and self._starting is not None:
                self._loop.call_soon_threadsafe(self._starting.cancel)
        elif self._asked:
            self.should_exit = self.force_exit = True
        else:
            self._asked = True
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stopping = asyncio.ensure_future(self.service.stop())
        self._stopping.add_done_callback(self._stopped)

    def _stopped(self, _: object) -> None:
        self.should_exit = True
