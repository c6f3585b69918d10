"""Who may ask: keys, cookies and signatures, and requests that a page of others makes a browser send."""

from __future__ import annotations

import base64
import binascii
import hmac
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from .._quoting import shown
from .jobs import Rejected

if TYPE_CHECKING:
    from .config import ServeConfig
    from .service import Service

__all__ = ["COOKIE", "Access", "is_open"]

COOKIE = "sdcffi"
_OPEN = frozenset({"/", "/healthz", "/readyz", "/favicon.ico", "/api/login"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class Access:
    """Says who a client is, or refuses it.

    Parameters
    ----------
    config : ServeConfig
    service : Service
        It knows the signatures of images.
    """

    def __init__(self, config: ServeConfig, service: Service) -> None:
        self._config, self._service = config, service
        self._keys = {name: key.encode() for name, key in config.keys.items()}
        self._cookies = {name: self.cookie(key).encode() for name, key in config.keys.items()}
        name = socket.gethostname().lower()
        self._hosts = _THIS_MACHINE | {config.host.strip("[]").lower(), name, f"{name}.local", *config.hosts}

    def client(self, connection: HTTPConnection) -> str:
        """Return who asks: the name of its key, or its address if the server has no keys.

        Raises
        ------
        Rejected
            If it may not.
        """
        host = _name_in(f"//{connection.headers.get('host', '')}", "Host")
        self._refuse_pages_of_others(connection)
        address = connection.client.host if connection.client else ""
        if not self._keys:
            self._check_host(host)
            return address
        name = self.named(connection)
        if name is not None:
            return name
        if is_open(connection) or self.is_signed(connection):
            return address
        raise Rejected(401, "unauthorized", "this server needs a key: send it as Authorization: Bearer KEY")

    def named(self, connection: HTTPConnection) -> str | None:
        """Return the name of the key that a request has."""
        kind, _, value = connection.headers.get("authorization", "").partition(" ")
        value = value.strip()
        if kind.lower() == "basic":  # for programs that ask for a user and a password: the password is the key
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return None
        if kind.lower() in ("basic", "bearer"):
            return self.key_name(value)
        return _find(self._cookies, connection.cookies.get(COOKIE, ""))

    def key_name(self, key: str) -> str | None:
        """Return the name of a key; None if it is no key of this server."""
        return _find(self._keys, key)

    @staticmethod
    def cookie(key: str) -> str:
        """Return the cookie for a key, from which nobody learns the key."""
        return hmac.new(key.encode(), b"sdcffi cookie", "sha256").hexdigest()

    def is_signed(self, connection: HTTPConnection) -> bool:
        """Return whether a request has the signature of the image that it asks for."""
        start, _, image_id = _path(connection).rpartition("/")
        given = connection.query_params.get("signature", "")
        return start == "/api/images" and _same(self._service.signature(image_id).encode(), given)

    def _check_host(self, host: str) -> None:
        """Without keys, refuse a name that is not the server's: a page of others may have its name point here."""
        if host in self._hosts:
            return
        try:
            ip_address(host)
        except ValueError:
            raise Rejected(
                421,
                "unknown_host",
                f"this server has no name {shown(host)}: add it to hosts in the server's configuration, or use keys",
            ) from None

    def _refuse_pages_of_others(self, connection: HTTPConnection) -> None:
        """Refuse what a page of another site sends, with the user's cookie or from the user's machine."""
        origin = connection.headers.get("origin")
        if origin is None or connection.scope["method"] in _SAFE or "authorization" in connection.headers:
            return
        if origin in self._config.cors or "*" in self._config.cors:
            return
        name, place = _name_in(origin, "Origin"), urlsplit(origin).netloc.lower()
        if place != connection.headers.get("host", "").lower() and name not in self._config.hosts:
            raise Rejected(
                403, "foreign_origin", f"pages of {shown(origin)} may not use this server: add it to cors if they may"
            )


def is_open(connection: HTTPConnection) -> bool:
    """Return whether a request is for a path that needs no key."""
    path = _path(connection)
    return path in _OPEN or path.startswith("/page/")


def _name_in(url: str, header: str) -> str:
    """Return the name of the host in a header, in small letters."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        raise Rejected(400, "invalid_request", f"the header {header} has no valid address: {shown(url)}") from None


def _path(connection: HTTPConnection) -> str:
    """Return the path by which a request is routed: ``connection.url`` is made with the header Host."""
    return str(connection.scope["path"]).removeprefix(str(connection.scope.get("root_path", "")))


def _find(secrets: dict[str, bytes], given: str) -> str | None:
    """Return the name of a secret, in a time that does not depend on it."""
    found = [name for name, secret in secrets.items() if _same(secret, given)]
    return found[0] if found else None


def _same(secret: bytes, given: str) -> bool:
    return hmac.compare_digest(secret, given.encode("utf-8", "surrogateescape"))
