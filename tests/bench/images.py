"""What an image costs on its way in and out, without the engine's own work.

    python -m tests.bench.images [--rounds N] [--size PIXELS]

in     from what the caller has to the filled C struct, as with isolated=False
share  the same to shared memory, mapped, and to the C struct that lies on it, as with isolated=True
out    from the engine's memory to `result.arrays`, and from there to Pillow and PNG

Medians with quartiles. Nothing is generated: no model is needed.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdcffi import ImageParams
from sdcffi._bindings.library import Library, load
from sdcffi._bindings.marshal import Marshaller
from sdcffi._checks.inputs import take_images
from sdcffi._models.files import Model
from sdcffi._process.channel import Channel
from sdcffi.images.convert import to_pillow

from .isolation import show

AIMS = {"in: numpy uint8 RGB": 0.001, "in: Pillow RGB": 0.010}  # seconds


def photograph(size: int) -> Any:
    """Smooth pixels with some noise, which PNG compresses about as little as a photograph."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    smooth = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
    return np.clip(smooth + rng.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)


def sources(pixels: Any, directory: Path) -> dict[str, Any]:
    """What a caller may have, by name."""
    image = Image.fromarray(pixels)
    opacity = np.tile(np.arange(pixels.shape[1], dtype=np.uint8), (pixels.shape[0], 1))
    image.save(directory / "picture.png", compress_level=1)
    image.save(directory / "picture.jpg", quality=90)
    return {
        "numpy uint8 RGB": pixels,
        "Pillow RGB": image,
        "numpy float32": (pixels / 255).astype(np.float32),
        "numpy float16": (pixels / 255).astype(np.float16),
        "numpy gray": np.ascontiguousarray(pixels[..., 0]),
        "numpy strided": pixels[:, ::-1],
        "numpy RGBA on white": np.dstack([pixels, opacity]),
        "Pillow RGBA on white": Image.fromarray(np.dstack([pixels, opacity])),
        "Pillow I;16": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "path of a PNG": directory / "picture.png",
        "path of a JPEG": directory / "picture.jpg",
        "bytes of a JPEG": (directory / "picture.jpg").read_bytes(),
    }


def taken(picture: Any, **more: Any) -> ImageParams:
    """A call that begins with an image."""
    return take_images(ImageParams(init_image=picture), Model(), alpha="white", **more)


def shared(channels: tuple[Channel, Channel], library: Library, params: ImageParams) -> None:
    """Send a call to the other end, and fill the C struct there."""
    sender = threading.Thread(target=channels[0].send, args=(params,))
    sender.start()
    Marshaller(library).struct(channels[1].receive())
    sender.join()


def measure(name: str, act: Callable[[], object], rounds: int) -> bool:
    """Time something and print its row; whether its median meets the aim."""
    act()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return show(name, seconds, AIMS.get(name))


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.images", description="what images cost")
    parser.add_argument("--rounds", type=int, default=30, help="of each row (default 30)")
    parser.add_argument("--size", type=int, default=1024, help="width and height in pixels (default 1024)")
    options = parser.parse_args()
    library, pixels = load(), photograph(options.size)
    ours, theirs = (Channel(end) for end in multiprocessing.Pipe())
    met = []
    with tempfile.TemporaryDirectory() as name:
        given = sources(pixels, Path(name))
        for kind, source in given.items():
            met.append(measure(f"in: {kind}", lambda s=source: Marshaller(library).struct(taken(s)), options.rounds))
        for kind in ("numpy uint8 RGB", "Pillow RGB"):
            source = given[kind]
            measure(f"share: {kind}", lambda s=source: shared((ours, theirs), library, taken(s)), options.rounds)
        half = Image.fromarray(pixels).reduce(2)
        target = {"width": options.size, "height": options.size}
        enlarge = ImageParams(init_image=half, **target)
        measure("in: Pillow, half the size, crop", lambda: take_images(enlarge, Model(), "crop"), options.rounds)
    measure("out: arrays to Pillow", lambda: to_pillow(pixels), options.rounds)
    measure("out: Pillow to PNG", lambda: to_pillow(pixels).save(io.BytesIO(), "PNG"), max(3, options.rounds // 10))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
