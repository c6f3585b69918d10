"""Measures images of `drawings.Scene`: what they show, from the pixels alone.

An image is taken apart as a person would do it. The ground is that of all grounds (plain, stripes or gradient, in the
colours of the palette) which explains most of it; what differs from the ground is objects; each object has the colour
of the palette that is nearest, and the shape whose template covers it best once brought to its centre and size. Only
then is it compared with the scene. Images of other sizes than 128 pixels are scaled down to it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from .drawings import (
    COLOURS,
    COLUMNS,
    OUTLINE,
    RELATIONS,
    RIM,
    ROWS,
    SHAPES,
    SIDE,
    Field,
    Ground,
    Pixels,
    Scene,
    distances,
    ground_pixels,
    single,
)

Mask = npt.NDArray[np.bool_]

GROUND_SIDE = 16  # the ground is looked for in an image of this size
DIFFERENT = 40.0  # from the ground, of an object; the two most alike colours, orange and yellow, are 87 apart
LEAST_AREA = 150  # pixels, of an object; the smallest, a crescent, has 400
MOST_AREA = 0.45  # of the image, for all objects; the largest circle has 0.34
OVERLAP = 0.75  # intersection over union of an object with its template
NEAR = 0.1  # of the side, between an object and its place; places are 0.23 apart
SIZE_LIMITS = {"small": (0.0, 23.0), "": (0.0, 1e9), "large": (34.0, 1e9)}  # radius; no word, no limit


@dataclass(frozen=True)
class Verdict:
    """What an image has right.

    Attributes
    ----------
    colour, shape : bool
        Each object's.
    background : bool
        The kind of the ground and its colours; of stripes in either order, as the words leave it open.
    position : bool
        Each object is where the words put it; two objects relate as they say.
    size : bool
        Small or large, if a word says so.
    """

    colour: bool
    background: bool
    shape: bool
    position: bool
    size: bool

    @property
    def right(self) -> bool:
        """Whether all is."""
        return all(astuple(self))


@dataclass(frozen=True)
class Seen:
    """An object found in an image.

    Attributes
    ----------
    colour, shape : str
        The nearest of the palette; that of the template that covers it best.
    overlap : float
        Intersection over union with that template.
    radius, x, y : float
        As in `drawings.Thing`, but in pixels; the place is the centre of its area.
    """

    colour: str
    shape: str
    overlap: float
    radius: float
    x: float
    y: float


def judge(pixels: Pixels, scene: Scene) -> Verdict:
    """Compare an image with the scene that it is to show.

    Parameters
    ----------
    pixels : numpy.ndarray
        ``uint8 (side, side, 3)``.
    scene : Scene
        As the caption has it: places follow from its words.

    Returns
    -------
    Verdict
    """
    picture = _picture(pixels)
    ground, behind = _ground(picture)
    objects = _objects(picture, behind, len(scene.things))
    share = float(np.mean(_away(picture, behind) > DIFFERENT))
    background = share < MOST_AREA and _same(ground, scene.ground)
    verdicts = [_verdict(order, scene, background) for order in itertools.permutations(objects)]
    return max(verdicts, key=lambda it: (it.colour + it.shape, it.position))  # which is which follows from its looks


def _verdict(objects: Sequence[Seen | None], scene: Scene, background: bool) -> Verdict:
    """Compare objects in the order of the scene's."""
    pairs = list(zip(objects, scene.things, strict=True))
    smallest, largest = SIZE_LIMITS[scene.size]
    return Verdict(
        colour=all(seen is not None and seen.colour == thing.colour for seen, thing in pairs),
        background=background,
        shape=all(seen is not None and seen.shape == thing.shape and seen.overlap > OVERLAP for seen, thing in pairs),
        position=_well_placed(objects, scene),
        size=all(seen is not None and smallest <= seen.radius <= largest for seen in objects),
    )


def _well_placed(objects: Sequence[Seen | None], scene: Scene) -> bool:
    """Whether each object is near its place, and nearer to it than to any that other words name."""
    if scene.relation:
        orders = [RELATIONS[scene.relation]] + [RELATIONS["right of"]] * (scene.relation == "and")
        return any(all(map(_is_near, objects, order)) for order in orders)

    def place(column: str, row: str) -> tuple[float, float]:
        thing = scene.things[0]
        placed = single(thing.shape, thing.colour, scene.ground, size=scene.size, column=column, row=row).things[0]
        return placed.x, placed.y

    away = {words: _distance(objects[0], place(*words)) for words in itertools.product(COLUMNS, ROWS)}
    return min(away, key=away.__getitem__) == (scene.column, scene.row) and min(away.values()) < NEAR


def _is_near(seen: Seen | None, place: tuple[float, float]) -> bool:
    return _distance(seen, place) < NEAR


def _distance(seen: Seen | None, place: tuple[float, float]) -> float:
    """How far an object is from its place, in shares of the side."""
    return float(np.hypot(seen.x / SIDE - place[0], seen.y / SIDE - place[1])) if seen else np.inf


def _same(one: Ground, other: Ground) -> bool:
    return one.kind == other.kind and (
        one.colours == other.colours or (one.kind == "stripes" and set(one.colours) == set(other.colours))
    )


# -- styles -----------------------------------------------------------------------------------------------------------

STYLE_REACH = 6.0  # pixels around an object's nominal place within which it is looked for
LINE_REACH = round(OUTLINE / 2) + 1  # pixels
LINES = 0.12  # of an object of lines, what is further than that from its edge
DARK = 64.0  # of 255: brightness of a ground at night; by day black alone is darker
GLOW = 0.12  # of the way from the ground to the colour of an object 5 to 11 pixels away
WHITE_RIM = 0.33  # of the area of a sticker's rim, how much is white near its edge
RIM_REACH = 4.0  # pixels, by which an edge may be elsewhere


def has_style(pixels: Pixels, scene: Scene, style: str) -> bool:
    """Whether an image of a scene is drawn in a style.

    Parameters
    ----------
    pixels : numpy.ndarray
        ``uint8 (side, side, 3)``.
    scene : Scene
        What it shows.
    style : str
        ``"outline"``: the ground is seen within the objects, and a line in their colour around it. ``"sticker"``:
        around them is a white rim, and no more white. ``"night"``: the ground is dark, and the objects glow in it. Not
        all scenes can tell: thin objects are all outline, a rim on white is not seen.
    """
    return {"outline": _is_outline, "sticker": _is_sticker, "night": _is_night}[style](pixels, scene)


def keeps_colours(pixels: Pixels, scene: Scene, style: str) -> bool:
    """Whether the objects of an image in a style have the colours that the scene names."""
    picture = _picture(pixels)
    behind = _night_ground(picture, scene) if style == "night" else _ground(picture)[1]
    reach = -1.0 if style == "sticker" else STYLE_REACH  # within the rim
    regions = [distance < reach for distance in distances(scene, SIDE)]
    colours = [_name(_drawn(picture, behind, region)[0]) for region in regions]
    return colours == [thing.colour for thing in scene.things]


def _is_outline(pixels: Pixels, scene: Scene) -> bool:
    picture = _picture(pixels)
    behind = _ground(picture)[1]

    def is_outline(distance: Field) -> bool:
        drawn = _drawn(picture, behind, distance < STYLE_REACH)[1]
        thick = _filtered(drawn, ImageFilter.MinFilter(2 * LINE_REACH + 1))
        filled, line = (distance < 0).sum(), ((distance < 0) & (distance > -OUTLINE)).sum()
        return bool(thick.sum() < LINES * drawn.sum() and 0.5 * line < drawn.sum() < min(1.8 * line, 0.9 * filled))

    return all(map(is_outline, distances(scene, SIDE)))


def _is_sticker(pixels: Pixels, scene: Scene) -> bool:
    picture = _picture(pixels)
    white = _nearest(picture) == list(COLOURS).index("white")

    def has_rim(distance: Field) -> bool:
        near = white[(distance > -RIM_REACH) & (distance < RIM + RIM_REACH)].sum()
        area = ((distance > 0) & (distance < RIM)).sum()
        beyond = white[(distance > RIM + RIM_REACH + 1) & (distance < 2 * RIM + RIM_REACH)].mean()
        return bool(near > WHITE_RIM * area and beyond < WHITE_RIM)

    return all(map(has_rim, distances(scene, SIDE)))


def _is_night(pixels: Pixels, scene: Scene) -> bool:
    picture = _picture(pixels)
    behind = _night_ground(picture, scene)
    dark = np.percentile(picture[_far(scene)].mean(-1), 90) < DARK

    def glows(colour: str, distance: Field) -> bool:
        contrast = np.array(COLOURS[colour], np.float32) - behind[0, 0]
        share = ((picture - behind) * contrast).sum(-1) / max((contrast**2).sum(), 1.0)
        return bool(share[(distance > 5) & (distance < 11)].mean() > GLOW)

    return bool(dark) and all(
        glows(thing.colour, distance)
        for thing, distance in zip(scene.things, distances(scene, SIDE), strict=True)
        if thing.colour != "black"
    )


def _far(scene: Scene) -> Mask:
    """Pixels that no glow reaches."""
    far: Mask = np.min(distances(scene, SIDE), axis=0) > 20
    return far


def _night_ground(picture: Field, scene: Scene) -> Field:
    return np.broadcast_to(np.median(picture[_far(scene)], axis=0), picture.shape)


# -- taking an image apart --------------------------------------------------------------------------------------------


def _picture(pixels: Pixels) -> Field:
    """The image at `SIDE`, without single odd pixels."""
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image.filter(ImageFilter.MedianFilter(3)), np.float32)


@functools.cache
def _grounds() -> tuple[list[Ground], Field]:
    """All grounds, and their images."""
    kinds = [Ground("plain", (colour,)) for colour in COLOURS]
    kinds += [Ground(kind, two) for kind in ("stripes", "gradient") for two in itertools.permutations(COLOURS, 2)]
    return kinds, np.stack([ground_pixels(ground, GROUND_SIDE) for ground in kinds])


def _ground(picture: Field) -> tuple[Ground, Field]:
    """The ground that explains most of the image, and its image with the colours as they are in this one."""
    step = SIDE // GROUND_SIDE
    cells = picture.reshape(GROUND_SIDE, step, GROUND_SIDE, step, 3).mean((1, 3))
    grounds, templates = _grounds()
    errors = np.minimum(((templates - cells) ** 2).sum(-1), (2 * DIFFERENT) ** 2)  # objects count no more than that
    best = int(errors.mean((1, 2)).argmin())
    fits = errors[best] <= np.median(errors[best])  # objects are less than half of an image
    drift = np.median((cells - templates[best])[fits], axis=0)
    return grounds[best], ground_pixels(grounds[best], SIDE) + drift


def _away(picture: Field, behind: Field) -> Field:
    """How far each pixel is from the colours of the ground next to it; stripes with soft edges are no objects."""
    image = Image.fromarray(behind.round().clip(0, 255).astype(np.uint8))
    low, high = (
        np.asarray(image.filter(extreme(3)), np.float32) for extreme in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    away: Field = np.linalg.norm(picture - picture.clip(low, high), axis=-1)
    return away


def _objects(picture: Field, behind: Field, count: int) -> list[Seen | None]:
    """So many objects before a ground; None for one that is not there."""
    away = _away(picture, behind)
    core = _filtered(away > DIFFERENT, ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3))
    around = _filtered(core, ImageFilter.MaxFilter(5))
    parts = _halves(core) if count == 2 else [np.ones_like(core)]
    return [_seen(picture, behind, around & part) for part in parts]


def _seen(picture: Field, behind: Field, region: Mask) -> Seen | None:
    """The object within a region, if there is one."""
    if not region.any():
        return None
    colour, mask = _drawn(picture, behind, region)
    if mask.sum() < LEAST_AREA:
        return None
    x, y, spread = _moments(mask)
    column, row = (np.clip(np.floor(centre + spread * _FRAME), 0, SIDE - 1).astype(int) for centre in (x, y))
    framed = mask[np.ix_(row, column)]
    overlaps = {shape: _overlap(framed, template.framed) for shape, template in _templates().items()}
    shape = max(overlaps, key=overlaps.__getitem__)
    template = _templates()[shape]
    radius = spread / template.spread
    return Seen(_name(colour), shape, overlaps[shape], radius, x - radius * template.x, y - radius * template.y)


def _halves(mask: Mask) -> list[Mask]:
    """All pixels in two halves, so that those of a mask are as close together as can be (k-means)."""
    points, (rows, columns) = np.argwhere(mask), np.indices(mask.shape)
    best, spread = np.zeros_like(mask), np.inf
    for start in ([[SIDE / 2, 0], [SIDE / 2, SIDE]], [[0, SIDE / 2], [SIDE, SIDE / 2]]):
        centres = np.array(start)
        for _ in range(10):
            squares = ((points[:, None] - centres) ** 2).sum(-1)
            nearest = squares.argmin(1)
            if set(nearest) != {0, 1}:
                break
            centres = np.stack([points[nearest == half].mean(0) for half in (0, 1)])
        if len(points) and squares.min(1).sum() < spread:
            spread = squares.min(1).sum()
            (y0, x0), (y1, x1) = centres
            best = np.hypot(rows - y0, columns - x0) < np.hypot(rows - y1, columns - x1)
    return [best, ~best]


def _drawn(picture: Field, behind: Field, region: Mask) -> tuple[Field, Mask]:
    """The colour of what stands out most within a region, and all that stands out half as much as that colour would."""
    away = _away(picture, behind)
    clear = region & (away >= 0.7 * np.percentile(away[region], 95))
    colour = np.median(picture[clear], axis=0)
    return colour, region & (away >= 0.5 * np.linalg.norm(colour - behind, axis=-1))


def _name(colour: Field) -> str:
    """The nearest colour of the palette."""
    return list(COLOURS)[int(_nearest(colour))]


def _nearest(colours: Field) -> npt.NDArray[np.intp]:
    """Places in the palette of the colours nearest to these, whose last axis is red, green and blue."""
    nearest: npt.NDArray[np.intp] = np.linalg.norm(
        colours[..., None, :] - np.array(list(COLOURS.values())), axis=-1
    ).argmin(-1)
    return nearest


def _filtered(mask: Mask, *filters: ImageFilter.RankFilter) -> Mask:
    image = Image.fromarray(mask.astype(np.uint8))
    for each in filters:
        image = image.filter(each)
    return np.asarray(image, bool)


# -- shapes -----------------------------------------------------------------------------------------------------------

_FRAME = np.linspace(-2.5, 2.5, 80)  # around the centre of an area, in units of its spread; the tips of a star are at 2


@dataclass(frozen=True)
class Template:
    """A shape of radius 1: the centre of its area, its spread around that, and its mask in their frame."""

    x: float
    y: float
    spread: float
    framed: Mask


@functools.cache
def _templates() -> dict[str, Template]:
    radius = SIDE / 4
    x, y = np.meshgrid(*2 * [np.arange(SIDE, dtype=np.float32) + 0.5 - SIDE / 2])
    templates = {}
    for shape, distance in SHAPES.items():
        left, top, spread = (float(value) for value in _moments(distance(x, y, radius) < 0))
        left, top, spread = (left - SIDE / 2) / radius, (top - SIDE / 2) / radius, spread / radius
        frame: Field = np.asarray(np.meshgrid(left + spread * _FRAME, top + spread * _FRAME), np.float32)
        templates[shape] = Template(left, top, spread, distance(frame[0], frame[1], 1.0) < 0)
    return templates


def _moments(mask: Mask) -> tuple[float, float, float]:
    """The centre of an area, and the root of the mean square distance from it."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5), float(np.hypot(columns.std(), rows.std()))


def _overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())
