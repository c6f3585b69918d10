"""`canny`: the edges of an image, as input for a ControlNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._bindings.requests import Edges, Opening
from .._machine.backends import CPU
from .._numbers import check_flags, check_number
from .._process.calls import run_alone
from .._quoting import shown
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
    high_threshold: float = Edges.high_threshold,
    low_threshold: float = Edges.low_threshold,
    weak: float = Edges.weak,
    strong: float = Edges.strong,
    inverse: bool = Edges.inverse,
    library: StrPath | None = None,
    isolated: bool = True,
    timeout: float | None = None,
    on_log: LogFunction | None = None,
) -> NDArray[np.uint8]:
    """Return the edges of an image, as sd-cli's ``--canny`` does. `Engine.generate` does the same with ``canny=True``.

    This runs the engine's own `preprocess_canny`, which differs from OpenCV's Canny filter: it thins edges only in the
    vertical direction, so vertical edges are broken or missing.

    Parameters
    ----------
    image : image
        As in `Engine.generate`. It is not changed.
    high_threshold : float
        Part of the strongest gradient, 0 to 1. A gradient that reaches it is an edge.
    low_threshold : float
        Part of the high threshold, 0 to 1. A gradient that reaches it is an edge if it touches one.
    weak, strong : float
        Brightness, 0 to 1, that marks gradients above the low and the high threshold while edges are followed. They
        must differ. Edges have the brightness `strong` in the result.
    inverse : bool
        True returns black edges on white. False returns white edges on black.
    library, isolated : optional
        As in `Engine`. A child process takes about 0.3 s to start; with ``isolated=False`` there is none.
    timeout : float, optional
        Time limit for the call, in seconds. None: no limit.
    on_log : callable, optional
        Function that is called with each `Log`.

    Returns
    -------
    uint8 array (H, W, 3)
        A new array that the caller owns, with three equal channels. The three pixels along the border are never edges.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong. No native code has run then.
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
    """Refuse settings with which nothing, or everything, would be an edge.

    Raises
    ------
    TypeError, ValueError
        With the value and the legal ones.
    """
    settings: dict[str, Any] = {name: getattr(edges, name) for name in ("high_threshold", "low_threshold")}
    settings |= {"weak": edges.weak, "strong": edges.strong}
    for name, value in settings.items():
        if value is None:
            raise TypeError(f"{name} must be a number, not None")
        check_number(name, value, 0, 1)
    if edges.weak == edges.strong:
        raise ValueError(f"weak and strong must differ, but both are {shown(edges.weak)}")
    check_flags(inverse=edges.inverse)
