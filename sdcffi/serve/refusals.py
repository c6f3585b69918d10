"""Answer refusals in the form of another program's API."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from .jobs import Rejected

__all__ = ["refusing_as", "retry_after"]


def refusing_as(answer: Callable[[Rejected], Response]) -> type[APIRoute]:
    """Return the class for a router's routes, which answer refusals so."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def answered(request: Request) -> Response:
                try:
                    return await handler(request)
                except Rejected as error:
                    return answer(error)

            return answered

    return Route


def retry_after(error: Rejected) -> dict[str, str]:
    """Return the header that says when it is worth trying again, if it is."""
    return {} if error.retry_after is None else {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
