"""Evaluate the demonstration model: ``python -m tests.train_demo.evaluate --model DIRECTORY``.

Captions of scenes that were held out from training are drawn by the engine, and `measure` tells from the pixels what is
right. It knows nothing of the model: the table is the same for any that draws such scenes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tables import table

from sdcffi import Engine
from sdcffi._files import replacing
from sdcffi.images.compare import compare
from sdcffi.images.contact_sheet import contact_sheet

from .drawings import COLOURS, SHAPES, SIDE, Pixels, Rng, Scene, caption, draw_scene, pair, render
from .measure import Verdict, has_style, judge, keeps_colours

Share = dict[str, float]

MODES = ("at_runtime", "immediately")
ATTRIBUTES = ("colour", "background", "shape", "position")
KINDS = ("one object", "two objects", "plain", "stripes", "gradient", *SHAPES)
STRENGTH = 0.6  # of image to image
LATENT = 16  # pixels: what is within so many of a mask may change
KEPT = 25.0  # dB between what is outside the mask before and after, which goes through the autoencoder
SHEET, SHEET_ROWS = 24, 8


# -- what is drawn ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One picture to draw: the scene that it is to show, and `Engine.generate`'s keywords."""

    scene: Scene
    prompt: str
    seed: int
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """Pictures of tasks, and the seconds that each took."""

    tasks: Sequence[Task]
    pictures: list[Pixels]
    seconds: list[float]

    def verdicts(self) -> list[Verdict]:
        """What each has right."""
        return [judge(pixels, task.scene) for task, pixels in zip(self.tasks, self.pictures, strict=True)]

    def psnr(self, other: Drawn) -> float | None:
        """Median likeness with other drawings of the same tasks, in dB; None where they are equal."""
        value = median(compare(*both).psnr for both in zip(self.pictures, other.pictures, strict=False))
        return None if math.isinf(value) else value


def held_out(count: int, rng: Rng, fits: Callable[[Scene], bool] = lambda scene: True) -> list[Task]:
    """So many scenes that were not trained on, in words."""
    tasks: list[Task] = []
    while len(tasks) < count:
        scene = draw_scene(rng)
        if scene.held_out and fits(scene):
            tasks.append(Task(scene, caption(scene, rng), seed=len(tasks)))
    return tasks


def _shows(style: str) -> Callable[[Scene], bool]:
    """Whether a scene can show a style at all: drawn in it, it has it, and drawn plainly it has not."""

    def shows(scene: Scene) -> bool:
        plain, styled = render(scene), render(scene, style=style)
        return (
            has_style(styled, scene, style)
            and keeps_colours(styled, scene, style)
            and not has_style(plain, scene, style)
        )

    return shows


def recoloured(count: int, rng: Rng, side: int) -> list[Task]:
    """Image to image: a drawing, and words in which an object's colour is another."""
    tasks = []
    for task in held_out(count, rng, lambda scene: not scene.relation):
        thing, ground = task.scene.things[0], task.scene.ground
        colour = str(rng.choice([name for name in COLOURS if name not in (thing.colour, *ground.colours)]))
        scene = replace(task.scene, things=(replace(thing, colour=colour),))
        more = {"init_image": render(task.scene, side), "strength": STRENGTH}
        tasks.append(Task(scene, caption(scene, rng), task.seed, more))
    return tasks


def inpainted(count: int, rng: Rng, side: int) -> list[Task]:
    """Inpainting: a drawing of two objects, a box around the first, and words in which another stands there."""
    tasks = []
    for task in held_out(count, rng, lambda scene: bool(scene.relation)):
        first, second = task.scene.things
        free = [name for name in COLOURS if name not in (first.colour, *task.scene.ground.colours)]
        drawn = str(rng.choice([name for name in SHAPES if name != first.shape])), str(rng.choice(free))
        scene = pair(drawn, (second.shape, second.colour), task.scene.relation, task.scene.ground)
        reach = 1.2 * first.radius / SIDE
        box = [round(side * edge) for edge in (first.x - reach, first.y - reach, first.x + reach, first.y + reach)]
        more = {"init_image": render(task.scene, side), "mask_image": tuple(box), "strength": 1.0}
        tasks.append(Task(scene, caption(scene, rng), task.seed, more))
    return tasks


class Evaluation:
    """Draws as the options say, and writes down what came of it.

    Parameters
    ----------
    options : argparse.Namespace
        Of `_parse`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._drawing = {"width": options.side, "height": options.side, "steps": options.steps}
        self._drawing["cfg_scale"] = options.cfg_scale
        self.results: dict[str, Any] = {
            "model": {path.name: path.stat().st_size for path in model_files(options.model).values()},
            "settings": {"count": options.count, "others": options.others, "part": options.part, **self._drawing},
        }
        self.columns: dict[str, Drawn] = {}

    def run(self) -> None:
        """Do all, and write the results after each part."""
        rng = np.random.default_rng(self._options.seed)
        self._types(held_out(self._options.count, rng))
        for path in self._options.loras:
            self._lora(path, held_out(self._options.part, rng, _shows(path.stem)))
            self._write()
        self._backends()
        self._edits(rng)
        self._write()

    def _types(self, tasks: list[Task]) -> None:
        for weights in self._options.types:
            count = self._options.count if not self.columns else self._options.others
            with self._engine(type=weights) as engine:
                drawn = self.columns[weights] = self._draw(engine, tasks[:count], weights)
            reference = self.columns[self._options.types[0]]
            psnr = drawn.psnr(reference) if drawn is not reference else None
            self.results.setdefault("types", {})[weights] = _accuracy(drawn) | {"psnr": psnr}
            self._write()

    def _lora(self, path: Path, tasks: list[Task]) -> None:
        style = path.stem

        def measured(drawn: Drawn) -> dict[str, Any]:
            both = list(zip(drawn.pictures, (task.scene for task in tasks), strict=True))
            return {
                "style": wilson(has_style(pixels, scene, style) for pixels, scene in both),
                "colours": wilson(keeps_colours(pixels, scene, style) for pixels, scene in both),
                "seconds": median(drawn.seconds),
            }

        rows: dict[str, Any] = {}
        columns: dict[str, Drawn] = {}
        for mode in MODES:
            with self._engine(type=self._options.types[0], lora_apply_mode=mode) as engine:
                columns[mode] = self._draw(engine, tasks, f"{style} {mode}", loras=[path])
                rows[mode] = measured(columns[mode])
                if mode == MODES[0]:
                    plain = self._draw(engine, tasks, f"without {style}")
                    rows["without"] = {"style": measured(plain)["style"]}
        rows["psnr"] = columns[MODES[0]].psnr(columns[MODES[1]])
        self.results.setdefault("loras", {})[style] = {"bytes": path.stat().st_size, **rows}

    def _backends(self) -> None:
        reference = self.columns[self._options.types[0]]
        for backend in self._options.backend:
            with self._engine(type=self._options.types[0], backend=backend) as engine:
                drawn = self._draw(engine, reference.tasks[: self._options.part], backend)
                device = str(engine.device)
            row = {"device": device, **_accuracy(drawn), "psnr": drawn.psnr(reference)}
            self.results.setdefault("backends", {})[backend] = row

    def _edits(self, rng: Rng) -> None:
        if not self._options.part:
            return
        tasks = {
            "image to image": recoloured(self._options.part, rng, self._options.side),
            "inpainting": inpainted(self._options.part, rng, self._options.side),
        }
        with self._engine(type=self._options.types[0]) as engine:
            drawn = {name: self._draw(engine, its, name) for name, its in tasks.items()}
        edits = {name: _accuracy(its) for name, its in drawn.items()}
        outside = [_outside(*both) for both in zip(tasks["inpainting"], drawn["inpainting"].pictures, strict=True)]
        edits["inpainting"] |= {"kept": wilson(psnr > KEPT for psnr in outside), "outside": median(outside)}
        self.results["edits"] = edits

    def _engine(self, **keywords: Any) -> Engine:
        options = self._options
        return Engine(
            **{"library": options.library, "threads": options.threads, **model_files(options.model), **keywords}
        )

    def _draw(self, engine: Engine, tasks: Sequence[Task], title: str, **more: Any) -> Drawn:
        drawn = Drawn(tasks, [], [])
        for index, task in enumerate(tasks):
            started = time.perf_counter()
            result = engine.generate(task.prompt, seed=task.seed, **self._drawing, **task.more, **more)
            drawn.seconds.append(time.perf_counter() - started)
            drawn.pictures.append(result.arrays[0].copy())
            print(f"\r{title}: {index + 1} of {len(tasks)}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return drawn

    def _write(self) -> None:
        options = self._options
        texts = {options.json: json.dumps(self.results, indent=1) + "\n", options.markdown: markdown(self.results)}
        for path, text in texts.items():
            if path:
                with replacing(path) as temporary:
                    temporary.write_text(text, "utf-8")
        if options.sheet and self.columns:
            sheet(self.columns).save(options.sheet)


def model_files(model: Path) -> dict[str, Path]:
    """The model's files by `Engine`'s keywords, whatever their format."""
    names = {"diffusion_model": "dit", "llm": "llm", "taesd": "taef2"}
    return {keyword: min(model.glob(f"{name}*")) for keyword, name in names.items()}


# -- what came of it --------------------------------------------------------------------------------------------------


def wilson(judgements: Iterable[bool]) -> Share:
    """How many are right, with Wilson's interval of 95 %."""
    values = list(judgements)
    n, right = len(values), sum(values)
    if not n:
        return {"right": 0, "of": 0}
    z, p = 1.96, right / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {"right": right, "of": n, "share": p, "low": low, "high": high}


def _all_four(verdict: Verdict) -> bool:
    return all(getattr(verdict, name) for name in ATTRIBUTES)


def _shares(judged: Sequence[tuple[Scene, Verdict]]) -> dict[str, Share]:
    shares = {name: wilson(getattr(verdict, name) for _, verdict in judged) for name in ATTRIBUTES}
    shares["all four"] = wilson(_all_four(verdict) for _, verdict in judged)
    shares["size"] = wilson(verdict.size for scene, verdict in judged if scene.size)
    return shares


def _accuracy(drawn: Drawn) -> dict[str, Any]:
    """Of all pictures, of each kind of scene, and of those with each shape; and each wrong one."""
    judged = [(task.scene, verdict) for task, verdict in zip(drawn.tasks, drawn.verdicts(), strict=True)]
    return {
        "seconds": median(drawn.seconds),
        "accuracy": _shares(judged),
        "by kind": {kind: _shares([it for it in judged if kind in _kinds(it[0])]) for kind in KINDS},
        "wrong": [
            {"prompt": task.prompt, "seed": task.seed, "wrong": _wrong(verdict)}
            for task, (_, verdict) in zip(drawn.tasks, judged, strict=True)
            if not verdict.right
        ],
    }


def _kinds(scene: Scene) -> set[str]:
    """Which of `KINDS` a scene is."""
    return {KINDS[len(scene.things) - 1], scene.ground.kind, *(thing.shape for thing in scene.things)}


def _wrong(verdict: Verdict) -> list[str]:
    return [each.name for each in fields(verdict) if not getattr(verdict, each.name)]


def _outside(task: Task, pixels: Pixels) -> float:
    """Likeness with the first picture, in dB, of what is outside the mask."""
    left, top, right, bottom = task.more["mask_image"]
    before = task.more["init_image"]
    outside = np.ones(pixels.shape[:2], bool)
    outside[max(top - LATENT, 0) : bottom + LATENT, max(left - LATENT, 0) : right + LATENT] = False
    return compare(before[outside][None], pixels[outside][None]).psnr


# -- tables -----------------------------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    """All results that there are, as tables."""
    settings, columns = results["settings"], [*ATTRIBUTES, "all four", "size"]
    files = ", ".join(f"`{name}` {size / 1e6:.1f} MB" for name, size in results["model"].items())
    about = (
        f"{settings['width']}x{settings['height']} pixels, {settings['steps']} steps, guidance "
        f"{settings['cfg_scale']:g}; {files}. Scenes held out from training; in brackets 95 % intervals (Wilson). "
        "Size: where a word says it. Seconds of a picture and PSNR are medians."
    )
    parts = [about]
    if types := results.get("types"):
        first = next(iter(types))
        rows = [
            [
                name,
                str(row["accuracy"]["colour"]["of"]),
                *_cells(row["accuracy"], columns),
                f"{row['seconds']:.2f}",
                "" if name == first else _decibel(row),
            ]
            for name, row in types.items()
        ]
        parts.append(table(["weights", "pictures", *columns, "seconds", f"PSNR to {first}"], rows))
        of = {name: shares["colour"]["of"] for name, shares in types[first]["by kind"].items()}
        kinds = [
            [name, str(of[name]), *_cells(shares, columns)]
            for name, shares in types[first]["by kind"].items()
            if of[name]
        ]
        parts.append(table([f"scenes with ({first})", "pictures", *columns], kinds))
    if loras := results.get("loras"):
        rows = [
            [name, f"{row['bytes'] / 1e3:.0f}", _cell(row["without"]["style"])]
            + [_cell(row[mode][what]) for mode in MODES for what in ("style", "colours")]
            + [_decibel(row)]
            for name, row in loras.items()
        ]
        titles = [f"{what}, {mode}" for mode in MODES for what in ("style", "colours kept")]
        parts.append(table(["LoRA", "kB", "style without it", *titles, "PSNR between the modes"], rows))
    if backends := results.get("backends"):
        rows = [
            [name, row["device"], *_cells(row["accuracy"], columns), f"{row['seconds']:.2f}", _decibel(row)]
            for name, row in backends.items()
        ]
        parts.append(table(["backend", "device", *columns, "seconds", "PSNR to the first table's"], rows))
    if edits := results.get("edits"):
        rows = [
            [name, *_cells(row["accuracy"], columns), _cell(row["kept"]) if "kept" in row else ""]
            for name, row in edits.items()
        ]
        parts.append(table(["editing", *columns, f"outside kept (PSNR > {KEPT:g})"], rows))
    return "\n\n".join(parts) + "\n"


def _cells(shares: dict[str, Share], columns: Sequence[str]) -> list[str]:
    return [_cell(shares[column]) for column in columns]


def _cell(share: Share) -> str:
    if not share["of"]:
        return ""
    return f"{100 * share['share']:.1f} % ({100 * share['low']:.0f} to {100 * share['high']:.0f})"


def _decibel(row: dict[str, Any]) -> str:
    return "equal" if row["psnr"] is None else f"{row['psnr']:.1f} dB"


def sheet(columns: dict[str, Drawn]) -> Image.Image:
    """The first pictures of each weight type, framed green where all is right and else red, beside their prompts."""
    framed = {
        name: [
            ImageOps.expand(Image.fromarray(pixels), 3, "green" if verdict.right else "red")
            for pixels, verdict in zip(drawn.pictures[:SHEET], drawn.verdicts(), strict=False)
        ]
        for name, drawn in columns.items()
    }
    first = next(iter(columns.values()))
    labels = [
        f"{task.prompt}{' - wrong: ' if not verdict.right else ''}{', '.join(_wrong(verdict))}"
        for task, verdict in zip(first.tasks[:SHEET], first.verdicts(), strict=False)
    ]
    rows = [list(row) for row in zip(*framed.values(), strict=True)]
    parts = [
        contact_sheet(rows[start : start + SHEET_ROWS], labels[start : start + SHEET_ROWS], list(columns))
        for start in range(0, len(rows), SHEET_ROWS)
    ]
    whole = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
    for index, part in enumerate(parts):
        whole.paste(part, (sum(before.width for before in parts[:index]), 0))
    return whole


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.train_demo.evaluate", description="Measure what the demonstration model draws."
    )
    parser.add_argument("--model", type=Path, required=True, help="directory of dit, llm and taef2")
    parser.add_argument("--count", type=int, default=500, help="pictures of the first weight type (default 500)")
    parser.add_argument("--others", type=int, metavar="COUNT", help="of each further one (default: as many)")
    parser.add_argument("--part", type=int, default=100, help="of each LoRA, backend and way of editing (default 100)")
    parser.add_argument(
        "--types", type=lambda text: text.split(","), default=["f16", "q8_0", "q4_0"], metavar="TYPE,...",
        help="weight types; the first is what others are compared with, and all else is drawn with",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cfg-scale", type=float, default=2.0)
    parser.add_argument("--side", type=int, default=SIDE, help=f"width and height in pixels (default {SIDE})")
    parser.add_argument("--loras", type=Path, nargs="*", default=[], metavar="FILE", help="named by their style")
    parser.add_argument("--backend", nargs="*", default=[], help="names to draw with in turn, as for Engine")
    parser.add_argument("--library", type=Path, help="the native build to use")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--seed", type=int, default=7, help="of the scenes (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results, and each wrong picture's prompt")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help=f"write a PNG of the first {SHEET} pictures")
    return parser.parse_args()


def main() -> None:
    evaluation = Evaluation(_parse())
    evaluation.run()
    print(markdown(evaluation.results))


if __name__ == "__main__":
    main()
