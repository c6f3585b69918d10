"""Edges of a picture, as a ControlNet's hint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._bindings.requests import Edges, Opening
from .._machine.backends import CPU
from .._numbers import check_number
from .._process.calls import run_alone
from ..events import Listeners
from ..images.convert import ImageLike, as_rgb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..events import LogFunction
    from ..params.struct import StrPath

__all__ = ["canny"]


def canny(
    image: ImageLike,
    *,
    high_threshold: float = 0.08,
    low_threshold: float = 0.08,
    weak: float = 0.8,
    strong: float = 1.0,
    inverse: bool = False,
    library: StrPath | None = None,
    isolated: bool = True,
    timeout: float | None = None,
    on_log: LogFunction | None = None,
) -> NDArray[np.uint8]:
    """Find the edges of a picture, as sd-cli's ``--canny`` does; `Engine.generate` does it with ``canny=True``.

    It is the engine's own `preprocess_canny`, which differs from others (OpenCV's): edges are thinned by looking up and
    down only, so those that run straight up and down come out broken or not at all.

    Parameters
    ----------
    image : picture
        As for `Engine.generate`. It is not changed.
    high_threshold : float
        0 to 1, of the strongest gradient: what reaches it is an edge.
    low_threshold : float
        0 to 1, of the high threshold: what reaches it is an edge where it touches one.
    weak, strong : float
        0 to 1: brightness that marks the two while edges are followed; edges come out as `strong`. They must differ.
    inverse : bool
        Black edges on white.
    library, isolated, timeout, on_log : optional
        As for `Engine`. A child process takes about 0.3 s to start; with ``isolated=False`` there is none.

    Returns
    -------
    uint8 array (H, W, 3)
        Grey, the three channels equal; three pixels at the border are never edges. The caller's own.

    Raises
    ------
    TypeError, ValueError
        For a bad argument, before anything native runs.
    """
    edges = Edges(high_threshold, low_threshold, weak, strong, inverse)
    check_edges(edges)
    pixels = as_rgb(image, "image")
    listeners = Listeners(on_log)
    opening = Opening(library, CPU)
    found: NDArray[np.uint8] = run_alone(
        opening, "canny", pixels, edges, isolated=isolated, listeners=listeners, timeout=timeout
    )
    return found


def check_edges(edges: Edges) -> None:
    """Refuse settings with which no edges would be found, or everything were one."""
    settings: dict[str, Any] = {name: getattr(edges, name) for name in ("high_threshold", "low_threshold")}
    settings |= {"weak": edges.weak, "strong": edges.strong}
    for name, value in settings.items():
        if value is None:
            raise TypeError(f"{name} must be a number, not None")
        check_number(name, value, 0, 1)
    if edges.weak == edges.strong:
        raise ValueError(f"weak and strong must differ: both are {edges.weak!r}")
    if not isinstance(edges.inverse, bool):
        raise TypeError(f"inverse must be True or False, not {edges.inverse!r}")
