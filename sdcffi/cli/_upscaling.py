"""Upscaling after generation: a network enlarges the images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._terminal import logger

if TYPE_CHECKING:
    from ..engine.results import Result
    from ..events import Progress
    from ..parameter_files import Arguments

__all__ = ["add_upscaling", "check_upscaling", "upscaling"]


def add_upscaling(command: argparse.ArgumentParser) -> None:
    """Add its flags."""
    group = command.add_argument_group("upscaling")
    group.add_argument("--upscale-model", metavar="PATH", help="enlarge the images with this network")
    group.add_argument(
        "--upscale-repeats", type=int, default=1, metavar="INT", help="number of upscaling passes, 1 to 3 (default: 1)"
    )
    group.add_argument(
        "--upscale-tile-size",
        type=int,
        default=128,
        metavar="INT",
        help="side of a tile in pixels; 0: the whole image (default: 128)",
    )


def check_upscaling(options: argparse.Namespace) -> float:
    """Refuse a file that is not an upscaling network, before minutes of work; return the factor, 1 without a network.

    The factor of a PyTorch file is not known: 1 is returned.
    """
    from .._models.upscaler_file import MOST_PASSES, read_network
    from .._numbers import check_integer
    from .._references import local_path

    check_integer("upscale_repeats", options.upscale_repeats, 1, MOST_PASSES)
    if options.upscale_model is None:
        if options.upscale_repeats != 1:
            raise ValueError("--upscale-repeats needs --upscale-model: give the network, or leave it out")
        return 1
    network = read_network("upscale_model", local_path(options.upscale_model))
    return float((network.factor or 1) ** options.upscale_repeats)


@contextmanager
def upscaling(
    options: argparse.Namespace, given: Arguments, on_progress: Callable[[Progress], None]
) -> Iterator[Callable[[Result], Result]]:
    """Return a function that enlarges a result; without ``--upscale-model``, it returns the result as it is."""
    if options.upscale_model is None:
        yield lambda result: result
        return
    from ..engine.upscaler import Upscaler

    engine = given.engine
    keywords = {name: engine[name] for name in ("backend", "library") if name in engine}
    with Upscaler(
        options.upscale_model,
        tile_size=options.upscale_tile_size,
        threads=engine["context"].n_threads,
        on_log=logger(options),
        on_progress=on_progress,
        **keywords,
    ) as upscaler:
        yield lambda result: upscaler.upscale(result, upscaler.factor**options.upscale_repeats)
