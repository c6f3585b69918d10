"""Read the fields of a request of another program: each by its name and type, and none is passed over in silence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from .._quoting import printable, shown
from ..images.files import read
from .jobs import Rejected

__all__ = ["Fields"]

_LEAST_INTEGER, _MOST_INTEGER = -(1 << 63), (1 << 64) - 1
_T = TypeVar("_T")


class Fields:
    """The fields of a request. What is taken is gone; `refuse_rest` refuses what is left.

    Values are read as those programs read them: a number may be a text, as ``"20"``, and None is as good as absent.

    Parameters
    ----------
    values : mapping
        The fields, as JSON or a form has them.
    status : int
        HTTP status of a refusal.
    within : str, optional
        Name of the field that they are in, for messages.
    """

    def __init__(self, values: Any, status: int = 400, within: str = "") -> None:
        self._status, self._within = status, within
        if not isinstance(values, Mapping):
            where = within or "the body"
            raise self.wrong(within, f"{where} must be a JSON object, not {shown(values)}")
        self._rest = dict(values)

    def wrong(self, name: str, message: str) -> Rejected:
        """Return the refusal of a field."""
        path = f"{self._within}.{name}" if self._within and name != self._within else name
        return Rejected(self._status, "invalid_request_error", message.replace(name, path, 1), param=path or None)

    def take(self, name: str) -> Any:
        """Return a value as it is."""
        return self._rest.pop(name, None)

    def text(self, name: str) -> str | None:
        """Return a text."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, f"{name} must be a text, not {shown(value)}")
        return value

    def number(self, name: str) -> float | None:
        """Return a number."""
        value = self.take(name)
        if value is None or value == "":
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.wrong(name, f"{name} must be a number, not {shown(value)}")
        return number

    def integer(self, name: str) -> int | None:
        """Return an integer of at most 64 bits; those of JSON are exact."""
        value = self._rest.get(name)
        number = self.take(name) if type(value) is int else self.number(name)
        if number is None:
            return None
        if number != int(number):
            raise self.wrong(name, f"{name} must be an integer, not {shown(value)}")
        if not _LEAST_INTEGER <= number <= _MOST_INTEGER:
            raise self.wrong(name, f"{name} must be an integer of at most 64 bits, not {shown(value)}")
        return int(number)

    def flag(self, name: str) -> bool | None:
        """Return whether something is wanted."""
        value = self.take(name)
        word = value.lower() if isinstance(value, str) else value
        if word in (None, ""):
            return None
        if word in (True, "true", "1"):
            return True
        if word in (False, "false", "0"):
            return False
        raise self.wrong(name, f"{name} must be true or false, not {shown(value)}")

    def choice(self, name: str, choices: Mapping[str, _T]) -> _T | None:
        """Return what a word stands for."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(name, f"{name} must be one of {', '.join(choices)}, not {shown(value)}")
        return choices[value]

    def image(self, name: str, value: Any = None) -> bytes | None:
        """Return the bytes of an image that is given as base64 or as a ``data:`` URL, never by an address or path.

        Parameters
        ----------
        name : str
        value : str, optional
            The value, if it is not the field itself.
        """
        value = self.take(name) if value is None else value
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.wrong(name, f"{name} must be an image in base64, not {shown(value)}")
        url = value if value[:5].lower() == "data:" else f"data:;base64,{value}"
        try:
            return read(url, name)
        except ValueError:
            raise self.wrong(
                name, f"{name} must be an image in base64, or as a data: URL: addresses and paths are not opened"
            ) from None

    def only(self, name: str, legal: tuple[Any, ...], instead: str) -> None:
        """Refuse a field unless it has a value with which it does nothing."""
        value = self.take(name)
        if value is None or any((value == item and type(value) is not bool) or value is item for item in legal):
            return
        raise self.wrong(name, f"{name} is not supported with the value {shown(value)}: {instead}")

    def drop(self, *names: str) -> None:
        """Pass over fields that change nothing here, whatever they are."""
        for name in names:
            self.take(name)

    def refuse_rest(self, known: str) -> None:
        """Refuse what nobody has taken; `known` says where the fields are listed."""
        for name, value in self._rest.items():
            if value is not None:
                shown_name = printable(name[:100].encode(errors="backslashreplace").decode())
                raise self.wrong(shown_name, f"{shown_name} is not a field that this server has: {known}")

    def rest(self) -> dict[str, Any]:
        """Return what is left."""
        rest, self._rest = self._rest, {}
        return rest
