"""A server on a thread that speaks the protocol of the Hugging Face Hub, to its real client, and has faults on demand.

Files of weights are stored elsewhere, as the Hub's are: a request for one is redirected to another host, which gets no
token. The server also has plain files, below ``/files/``.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from places import ROOT

TOKEN = "hf_good"
STORED_ELSEWHERE = (".safetensors", ".gguf", ".bin", ".ckpt")
BLOCK = 1 << 14


@dataclass
class Repository:
    """A repository of models.

    Attributes
    ----------
    files : dict of str to bytes
    gated, private : bool
        Whether only `TOKEN` may read its files, or see it at all.
    branches : dict of str to Repository
        Other revisions, by name.
    """

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    branches: dict[str, Repository] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr({name: sha256(self.files[name]) for name in sorted(self.files)}).encode()).hexdigest()

    def at(self, revision: str) -> Repository | None:
        known = {"main": self, self.commit: self, **self.branches}
        return known.get(revision) or next((one for one in self.branches.values() if one.commit == revision), None)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one transfer.

    Attributes
    ----------
    status : int
        Status to answer with, with the headers. 0: none.
    cut : int, optional
        The connection is closed after so many bytes.
    stall : float
        Seconds before it is.
    content : bytes, optional
        What is sent in place of the file.
    headers : dict
    ignores_range : bool
        Whether all of the file is sent, whatever was asked for.
    """

    status: int = 0
    cut: int | None = None
    stall: float = 0.0
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    ignores_range: bool = False


@dataclass(frozen=True)
class Seen:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes
    ----------
    repositories : dict of str to Repository
    files : dict of str to bytes
        Those below ``/files/``.
    faults : deque of Fault
        For the next transfers of files.
    answer : Fault or None
        What requests for what is in a repository are answered with, in place of that.
    seen : list of Seen
    sent : int
        Bytes of files that were sent.
    pause : float
        Seconds after each block of 16 KiB.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.files: dict[str, bytes] = {}
        self.faults: deque[Fault] = deque()
        self.answer: Fault | None = None
        self.seen: list[Seen] = []
        self.sent = 0
        self.pause = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes], **changes: Any) -> Repository:
        self.repositories[name] = Repository(files, **changes)
        return self.repositories[name]

    def put(self, name: str, content: bytes) -> str:
        """Put a plain file there; return the reference to it."""
        self.files[name] = content
        return f"{self.url}/files/{name}#sha256={sha256(content)}"

    def paths(self, method: str) -> list[str]:
        return [one.path for one in self.seen if one.method == method]

    def transfers(self) -> list[str]:
        """The ranges of the transfers of files that are stored elsewhere; empty: from the start."""
        return [
            one.headers.get("range", "")
            for one in self.seen
            if one.method == "GET" and one.path.startswith(("/stored/", "/files/"))
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:  # a client that was killed
        pass


def environment(home: Path, hub: Hub) -> dict[str, str]:
    """The environment of a program of a user with an empty cache, whose Hub is the server."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    places = {"HF_HOME": str(home / "huggingface"), "SDCFFI_CACHE": str(home / "cache")}
    return {**others, **places, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url}


@contextmanager
def running() -> Iterator[Hub]:
    """Run a server during the block."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.server.seen.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        if words[0] == "files":
            content = self.server.files.get("/".join(words[1:]))
            self._refuse(404) if content is None else self._transfer(content)
        elif words[0] == "stored":
            contents = {sha256(one): one for one in self._all_contents()}
            self._transfer(contents[words[1]])
        elif fault := self.server.answer:
            self._answer(fault.status or 200, fault.content or b"", fault.headers)
        elif words[:2] == ["api", "models"]:
            self._info("/".join(words[2:4]), words[5] if len(words) > 5 else "main", "tree" in words[4:5])
        elif len(words) > 4 and words[2] == "resolve":
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        else:
            self._refuse(404)

    def _all_contents(self) -> Iterator[bytes]:
        for repository in self.server.repositories.values():
            for one in (repository, *repository.branches.values()):
                yield from one.files.values()

    def _found(self, name: str, revision: str, reads: bool) -> Repository | None:
        repository = self.server.repositories.get(name)
        token = self.headers.get("Authorization")
        allowed = token == f"Bearer {TOKEN}"
        if token and not allowed:
            self._refuse(401, message="Invalid credentials in Authorization header")
        elif repository is None or (repository.private and not allowed):
            self._refuse(404 if token else 401, "RepoNotFound")
        elif repository.gated and reads and not allowed:
            self._refuse(401, "GatedRepo", f"Access to model {name} is restricted")
        elif (at := repository.at(revision)) is None:
            self._refuse(404, "RevisionNotFound")
        else:
            return at
        return None

    def _info(self, name: str, revision: str, tree: bool) -> None:
        repository = self._found(name, revision, reads=False)
        if repository is None:
            return
        files = []
        for path, content in repository.files.items():
            size, digest, etag = len(content), sha256(content), _etag(content)
            file: dict[str, Any] = {"rfilename": path, "size": size, "blobId": etag}
            if tree:
                file = {"type": "file", "path": path, "size": size, "oid": etag}
            if path.endswith(STORED_ELSEWHERE):
                file["lfs"] = {"size": size, "oid" if tree else "sha256": digest, "pointerSize": 130}
            files.append(file)
        info = {"id": name, "sha": repository.commit, "siblings": files, "private": repository.private}
        self._answer(200, json.dumps(files if tree else info).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._found(name, revision, reads=True)
        if repository is None:
            return
        content = repository.files.get(path)
        headers = {"X-Repo-Commit": repository.commit}
        if content is None:
            self._refuse(404, "EntryNotFound", headers=headers)
        elif path.endswith(STORED_ELSEWHERE):
            digest = sha256(content)
            headers |= {
                "Location": f"http://localhost:{self.server.server_port}/stored/{digest}",  # another host
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
            }
            self._answer(302, b"", headers)
        else:
            self._answer(200, content, {**headers, "ETag": f'"{_etag(content)}"'})

    def _transfer(self, content: bytes) -> None:
        fault = self.server.faults.popleft() if self.server.faults and self.command == "GET" else Fault()
        if fault.status:
            self._answer(fault.status, b"", fault.headers)
            return
        content = content if fault.content is None else fault.content
        asked = "" if fault.ignores_range else self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        if start and start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if asked else {}
        headers = {"Accept-Ranges": "bytes", **ranged}
        self._answer(206 if asked else 200, content[start:], headers, fault.cut, transfer=True)
        time.sleep(fault.stall)

    def _answer(
        self, status: int, content: bytes, headers: dict[str, str], cut: int | None = None, transfer: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        content = content if cut is None else content[:cut]
        for at in range(0, len(content), BLOCK):
            if transfer:
                self.server.sent += len(content[at : at + BLOCK])
            self.wfile.write(content[at : at + BLOCK])
            time.sleep(self.server.pause)
        if cut is not None:
            self.close_connection = True

    def _refuse(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": message}
        self._answer(status, b"", {**(headers or {}), **{name: text for name, text in said.items() if text}})


@cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def _etag(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
