"""Clients that send nothing, read nothing, leave in the middle, or want another protocol."""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tiny_model import TinyModel

pytest.importorskip("fastapi")

from serving import TINY, Running, serving, tiny_config

from sdcffi.serve import connections


@pytest.fixture(scope="module")
def server(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tiny_config(tiny_model, tmp_path_factory.mktemp("store"))) as running:
        yield running


@contextmanager
def connected(server: Running, sent: bytes = b"", receive_buffer: int = 1 << 16) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.settimeout(20)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect((host, int(port)))
        connection.sendall(sent)
        yield connection


def request(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def is_cut(connection: socket.socket) -> bool:
    """Whether the server ends a connection, whatever it sends before."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LOOK_SECONDS", 0.3)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo", request("GET /healthz", "Content-Length: 9") + b"x"])
def test_a_client_that_asks_nothing_loses_its_connection(server: Running, quick: None, sent: bytes) -> None:
    with connected(server, sent) as connection:
        assert is_cut(connection)


def is_refused(connection: socket.socket, part: bytes, most: int, pause: float = 0) -> bool:
    """Whether the server ends a connection while a client still sends."""
    try:
        for _ in range(most):
            connection.sendall(part)
            time.sleep(pause)
    except OSError:
        return True
    return False


def test_a_client_that_sends_a_letter_now_and_then_loses_its_connection(server: Running, quick: None) -> None:
    with connected(server, b"GET / HTTP/1.1\r\nX: ") as connection:
        assert is_refused(connection, b"x", 200, 0.1)


def test_a_client_that_reads_nothing_loses_its_connection(server: Running, quick: None) -> None:
    asks = request("GET /api/openapi.json") * 200
    with connected(server, asks, receive_buffer=4096) as connection:
        time.sleep(2)
        received = 0
        try:
            while part := connection.recv(1 << 20):
                received += len(part)
        except ConnectionResetError:
            pass
        assert received < 200 * 20_000


def test_a_client_that_waits_for_its_job_keeps_its_connection(server: Running, quick: None) -> None:
    with server.http() as http, server.client() as client:
        body = {"parameters": {"prompt": "a cat", **TINY, "steps": 100}}
        answer = http.post("/api/jobs?wait=true", json=body)
        assert (answer.status_code, answer.json()["state"]) == (200, "finished")
        job = client.submit("a cat", **{**TINY, "steps": 100})
        assert [event.name for event in client.events(job)][-1] == "finished"


def test_a_head_without_end_is_refused(server: Running) -> None:
    with connected(server, b"GET / HTTP/1.1\r\n") as connection:
        assert is_refused(connection, b"X: " + b"x" * 10_000 + b"\r\n", 5000)


def test_there_are_no_web_sockets(server: Running) -> None:
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + "A" * 22 + "==",
    )
    with connected(server, request("GET /api/jobs", *upgrade)) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    ("path", "kind"), [("/api/jobs", "application/json"), ("/v1/images/edits", "multipart/form-data; boundary=x")]
)
def test_a_client_that_leaves_while_it_sends_is_no_error(
    server: Running, caplog: pytest.LogCaptureFixture, path: str, kind: str
) -> None:
    head = request(f"POST {path}", "Content-Length: 1000", f"Content-Type: {kind}")
    with caplog.at_level(logging.INFO):
        with connected(server, head + b"--x") as connection:
            time.sleep(0.3)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end = time.monotonic() + 10
        while '"status": 499' not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
    assert '"status": 499' in caplog.text
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_as_many_files_as_the_system_allows_may_be_open() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        connections.allow_many()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(soft, 1 << 16)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
