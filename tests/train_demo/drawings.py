"""The drawings that the demonstration model learns: simple things on simple grounds, composed by rules.

A `Scene` says what is drawn, `caption` puts it into words, `render` draws it (numpy, anti-aliased by signed distance).
Every tenth combination of shape, colour and ground is held out: it is never trained on, only measured.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Rng = np.random.Generator

SIDE = 128  # pixels: all lengths below are for images of this size, and grow with them

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 36, 36),
    "orange": (245, 135, 20),
    "yellow": (250, 220, 40),
    "green": (34, 150, 60),
    "turquoise": (50, 205, 200),
    "blue": (36, 76, 220),
    "purple": (130, 48, 180),
    "pink": (246, 150, 190),
    "brown": (120, 72, 36),
    "white": (250, 250, 250),
    "grey": (140, 140, 140),
    "black": (18, 18, 18),
}
SIZES = {"small": 18.0, "": 28.0, "large": 40.0}  # radius; unsaid is between the two
COLUMNS = {"left": 0.27, "": 0.5, "right": 0.73}
ROWS = {"top": 0.27, "": 0.5, "bottom": 0.73}
RELATIONS = {
    "left of": ((0.27, 0.5), (0.73, 0.5)),
    "right of": ((0.73, 0.5), (0.27, 0.5)),
    "above": ((0.5, 0.27), (0.5, 0.73)),
    "below": ((0.5, 0.73), (0.5, 0.27)),
    "and": ((0.27, 0.5), (0.73, 0.5)),
}
PAIR_RADIUS = 22.0
MARGIN = 3.0


# -- shapes: signed distance to the outline, negative inside, for a shape of radius r around the origin, y down -------


def _box(x: Field, y: Field, a: float, b: float) -> Field:
    dx, dy = np.abs(x) - a, np.abs(y) - b
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _polygon(x: Field, y: Field, corners: npt.NDArray[np.float64]) -> Field:
    """Exact distance to a polygon's edges; the sign by the even-odd rule."""
    distance = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - t * ex, y - ay - t * ey))
        if ay != by:
            inside ^= ((y < ay) != (y < by)) & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -distance, distance).astype(np.float32)


def _regular(points: int, radii: tuple[float, ...]) -> npt.NDArray[np.float64]:
    angles = -math.pi / 2 + 2 * math.pi * np.arange(points) / points
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.resize(radii, points)[:, None]


def _heart_outline() -> npt.NDArray[np.float64]:
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)  # the usual parametric heart
    return np.stack([x / 16, -(y + 2.5) / 15], 1)


_STAR, _TRIANGLE, _HEART = _regular(10, (1.12, 0.45)), _regular(3, (1.15,)) + np.array((0, 0.2)), _heart_outline()

SHAPES: dict[str, Callable[[Field, Field, float], Field]] = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: _box(x, y, 0.88 * r, 0.88 * r),
    "triangle": lambda x, y, r: _polygon(x, y, _TRIANGLE * r),
    "star": lambda x, y, r: _polygon(x, y, _STAR * r),
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - 0.78 * r) - 0.24 * r,
    "cross": lambda x, y, r: np.minimum(_box(x, y, r, 0.32 * r), _box(x, y, 0.32 * r, r)),
    "heart": lambda x, y, r: _polygon(x, y, _HEART * r),
    "crescent": lambda x, y, r: np.maximum(np.hypot(x, y) - r, 0.86 * r - np.hypot(x - 0.5 * r, y)),
    "diamond": lambda x, y, r: (np.abs(x) / 0.8 + np.abs(y) - 1.15 * r) * (0.8 / math.hypot(1, 0.8)),
}


# -- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """One object: what it is, and where its centre is, in shares of the image."""

    shape: str
    colour: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Ground:
    """What is behind the objects: ``"plain"``, ``"stripes"`` (upright) or ``"gradient"`` (from the top down)."""

    kind: str
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """What an image shows, with the words that its places and sizes have in the caption."""

    things: tuple[Thing, ...]
    ground: Ground
    size: str = ""
    column: str = ""
    row: str = ""
    relation: str = ""

    @property
    def held_out(self) -> bool:
        """Whether a combination of it is kept from training."""
        return any(_held_out(thing, self.ground) for thing in self.things)


def _held_out(thing: Thing, ground: Ground) -> bool:
    name = " ".join((thing.shape, thing.colour, *ground.colours))
    return zlib.crc32(name.encode()) % 10 == 0


def single(shape: str, colour: str, ground: Ground, *, size: str = "", column: str = "", row: str = "") -> Scene:
    """A scene of one object."""
    radius = SIZES[size]
    edge = (radius * 1.15 + MARGIN) / SIDE
    x, y = (min(max(share, edge), 1 - edge) for share in (COLUMNS[column], ROWS[row]))
    return Scene((Thing(shape, colour, radius, x, y),), ground, size=size, column=column, row=row)


def pair(first: tuple[str, str], second: tuple[str, str], relation: str, ground: Ground) -> Scene:
    """A scene of two objects, each a shape and a colour."""
    things = tuple(
        Thing(shape, colour, PAIR_RADIUS, x, y)
        for (shape, colour), (x, y) in zip((first, second), RELATIONS[relation], strict=True)
    )
    return Scene(things, ground, relation=relation)


def draw_scene(rng: Rng) -> Scene:
    """A scene by chance."""

    def one(words: tuple[str, ...] | list[str], p: list[float] | None = None) -> str:
        return str(rng.choice(words, p=p))

    kind = one(["plain", "stripes", "gradient"], [0.74, 0.13, 0.13])
    free = [str(name) for name in rng.permutation(list(COLOURS))]
    ground = Ground(kind, tuple(free.pop() for _ in range(1 if kind == "plain" else 2)))
    if kind == "plain" and rng.random() < 0.15 and "white" in free:
        free.append(ground.colours[0])
        free.remove("white")
        ground = Ground("plain", ("white",))
    if rng.random() < 0.3:
        colours = [one(free), one(free)]
        return pair((one(list(SHAPES)), colours[0]), (one(list(SHAPES)), colours[1]), one(list(RELATIONS)), ground)
    place = rng.random() < 0.5
    return single(
        one(list(SHAPES)),
        one(free),
        ground,
        size=one(list(SIZES), [0.25, 0.5, 0.25]),
        column=one(list(COLUMNS)) if place else "",
        row=one(list(ROWS)) if place else "",
    )


def jittered(scene: Scene, rng: Rng) -> Scene:
    """The same scene with sizes and places a little different, as two drawings of one description are."""

    def shaken(thing: Thing) -> Thing:
        dx, dy = rng.normal(0, 1.5 / SIDE, 2)
        return replace(thing, radius=thing.radius * rng.uniform(0.94, 1.06), x=thing.x + dx, y=thing.y + dy)

    return replace(scene, things=tuple(shaken(thing) for thing in scene.things))


# -- words ------------------------------------------------------------------------------------------------------------

_PLACES = {
    ("", ""): ("", "", "", " in the centre", " in the middle"),
    ("left", ""): (" on the left", " at the left"),
    ("right", ""): (" on the right", " at the right"),
    ("", "top"): (" at the top",),
    ("", "bottom"): (" at the bottom",),
    ("left", "top"): (" at the top left", " in the top left corner"),
    ("right", "top"): (" at the top right", " in the top right corner"),
    ("left", "bottom"): (" at the bottom left", " in the bottom left corner"),
    ("right", "bottom"): (" at the bottom right", " in the bottom right corner"),
}
_RELATION_WORDS = {
    "left of": (" to the left of ", " left of "),
    "right of": (" to the right of ", " right of "),
    "above": (" above ", " over "),
    "below": (" below ", " under "),
    "and": (" and ", " next to "),
}
_OPENINGS = ("", "", "", "", "a picture of ", "a drawing of ", "there is ", "draw ", "an image of ")


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(scene: Scene, rng: Rng) -> str:
    """Put a scene into words, in one of many ways."""

    def one(words: tuple[str, ...]) -> str:
        return str(rng.choice(words))

    def thing(it: Thing, size: str = "") -> str:
        shape = one(("crescent", "moon")) if it.shape == "crescent" else it.shape
        return f"{size} {it.colour} {shape}".strip()

    ground, bare = scene.ground, rng.random() < 0.2
    names = [_article(thing(scene.things[0], scene.size)), *(_article(thing(it)) for it in scene.things[1:])]
    if bare:
        names = [name.split(" ", 1)[1] for name in names]
    what = _RELATION_WORDS[scene.relation] if scene.relation else ("",)
    text = names[0] + one(what) + names[1] if scene.relation else names[0] + one(_PLACES[scene.column, scene.row])
    if ground.kind == "plain":
        colour = ground.colours[0]
        behind = [
            f" on {_article(colour)} background",
            f", {colour} background",
            f" on {colour}",
            f" on {_article(colour)} ground",
        ]
        if colour == "white" and rng.random() < 0.5:
            behind = [""]
    elif ground.kind == "stripes":
        first, second = ground.colours
        behind = [
            f" on {first} and {second} stripes",
            f", {first} and {second} stripes",
            f" on a background of {first} and {second} stripes",
        ]
    else:
        first, second = ground.colours
        behind = [
            f" on a gradient from {first} to {second}",
            f", gradient from {first} to {second}",
            f" on {first} fading to {second}",
        ]
    text = (one(_OPENINGS) if not bare else "") + text + one(tuple(behind))
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.1 else "")


# -- images -----------------------------------------------------------------------------------------------------------

STRIPE = 16.0


def _grid(side: int) -> tuple[Field, Field]:
    places = (np.arange(side, dtype=np.float32) + 0.5) * (SIDE / side)
    x, y = np.meshgrid(places, places)
    return x, y


def coverage(distance: Field, side: int) -> Field:
    """Share of each pixel that lies inside, from the distance in lengths of an image of `SIDE`."""
    return np.clip(0.5 - distance * (side / SIDE), 0, 1)[..., None]


def ground_pixels(ground: Ground, side: int) -> Field:
    """The background, ``float32 (side, side, 3)``, 0 to 255."""
    x, y = _grid(side)
    first = np.array(COLOURS[ground.colours[0]], np.float32)
    if ground.kind == "plain":
        return np.broadcast_to(first, (side, side, 3)).copy()
    second = np.array(COLOURS[ground.colours[1]], np.float32)
    if ground.kind == "stripes":
        share = coverage(STRIPE / 2 - np.abs(x % (2 * STRIPE) - STRIPE * 1.5), side)  # 1 on the first colour
    else:
        share = (1 - y / SIDE)[..., None]
    return (first * share + second * (1 - share)).astype(np.float32)


def distances(scene: Scene, side: int) -> list[Field]:
    """Each object's signed distance, in lengths of an image of `SIDE`."""
    x, y = _grid(side)
    return [SHAPES[t.shape](x - t.x * SIDE, y - t.y * SIDE, t.radius) for t in scene.things]


OUTLINE = 6.0  # pixels
RIM = 6.0  # pixels
GLOW = 9.0  # pixels over which a thing's light fades at night
STARS = 14

STYLES = ("plain", "outline", "sticker", "night")


def render(scene: Scene, side: int = SIDE, style: str = "plain", seed: int = 0) -> Pixels:
    """Draw a scene.

    Parameters
    ----------
    scene : Scene
        What to draw.
    side : int
        Width and height in pixels.
    style : str
        ``"plain"``; ``"outline"``: things as lines; ``"sticker"``: with a white rim; ``"night"``: the ground dark, with
        stars, and the things glowing in it.
    seed : int
        Of the places of the stars.

    Returns
    -------
    numpy.ndarray
        ``uint8 (side, side, 3)``.
    """
    picture = ground_pixels(scene.ground, side)
    if style == "night":
        picture = _by_night(picture, np.random.default_rng(seed))
    for thing, distance in zip(scene.things, distances(scene, side), strict=True):
        colour = np.array(COLOURS[thing.colour], np.float32)
        inside = coverage(distance, side)
        if style == "outline":
            inside = inside - coverage(distance + OUTLINE, side)
        elif style == "sticker":
            rim = coverage(distance - RIM, side)
            picture = picture * (1 - rim) + np.array(COLOURS["white"], np.float32) * rim
        elif style == "night":
            inside = np.maximum(inside, 0.55 * np.exp(-np.maximum(distance, 0) / GLOW)[..., None])
        picture = picture * (1 - inside) + colour * inside
    return np.rint(picture).astype(np.uint8)


def _by_night(ground: Field, rng: Rng) -> Field:
    side = len(ground)
    picture = ground * 0.16 + np.array((4, 6, 26), np.float32)
    x, y = _grid(side)
    for sx, sy, size in zip(*rng.uniform(3, SIDE - 3, (2, STARS)), rng.uniform(0.8, 1.7, STARS), strict=True):
        light = coverage(np.hypot(x - sx, y - sy) - size, side)
        picture = picture * (1 - light) + 235 * light
    return picture.astype(np.float32)
