"""The results of ``sdcffi lora inspect`` and ``sdcffi lora grid``; `cli` prints them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._models.lora_about import about, made_for
from .._models.lora_file import LoraFile, read_lora
from ..engine.results import check_image_path
from ..params.lora import multiplier_of
from ._sheets import generate_sheet

if TYPE_CHECKING:
    from PIL import Image

    from ..params.lora import Lora, LoraReport

__all__ = ["inspect", "make_grid", "parse_numbers"]

_Place = tuple[int | None, float, int]  # of an image: number of the LoRA, strength, seed
_MOST_BLOCKS = 40  # lines of `inspect`
_BLOCK = re.compile(r"^(.*?\d+)(?:[._](?=\D)|$)")


def inspect(path: Path, as_json: bool = False, fit: LoraReport | None = None) -> list[str]:
    """Describe a LoRA file, from its header alone.

    Parameters
    ----------
    path : Path
        The file.
    as_json : bool
        True returns one JSON object instead of lines for people.
    fit : LoraReport, optional
        Report of `Engine.check_loras` on it, for a model.

    Raises
    ------
    LoraError
        If the file cannot be used.
    """
    lora = read_lora(path)
    if as_json:
        facts = _facts(lora) | ({"fit": asdict(fit)} if fit else {})
        return json.dumps(facts, indent=2).splitlines()
    return [*_describe(lora), *(_describe_fit(fit) if fit else ())]


def _describe_fit(report: LoraReport) -> list[str]:
    lines = [
        f"for this model: {report.applied} of {report.total} tensors, on {', '.join(report.types) or 'no'} weights"
    ]
    lines += [f"  does not fit: {misfit}" for misfit in report.misfits[:_MOST_BLOCKS]]
    lines += [f"  ignored: {name}" for name in report.skipped[:_MOST_BLOCKS]]
    if (more := max(len(report.misfits), len(report.skipped)) - _MOST_BLOCKS) > 0:
        lines.append(f"  and {more} more")
    return lines


def _facts(lora: LoraFile) -> dict[str, Any]:
    return {
        "path": str(lora.path),
        "format": lora.format,
        "size": lora.size,
        "kinds": lora.kinds,
        "naming": lora.naming,
        "architecture": lora.architecture,
        "architecture_reason": lora.architecture_reason,
        "dtypes": lora.dtypes,
        "blocks": _blocks(lora),
        "modules": _modules(lora),
        "about": {**asdict(about(lora)), "made_for": made_for(lora)},
        "unused": lora.unused,
        "left_out": dict(lora.left_out),
        "tensors": {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in lora.tensors.items()},
    }


def _modules(lora: LoraFile) -> dict[str, Any]:
    """Return the facts of each module; a module with several kinds, such as a bias besides, has those of the first."""
    modules: dict[str, Any] = {}
    for one in lora.adapters:
        kinds = modules.get(one.module, {}).get("kinds", [])
        if one.kind not in kinds:
            kinds.append(one.kind)
        strength = {"scale": one.strength.scale, "alpha_from": one.strength.source or None}
        facts = {"kinds": kinds, "rank": one.rank, "alpha": one.strength.alpha, **strength}
        modules.setdefault(one.module, facts)
    return modules


def _describe(lora: LoraFile) -> Iterator[str]:
    yield f"{lora.path}: {lora.format}, {_bytes(lora.size)}, {len(lora.tensors)} tensors"
    yield f"kind: {', '.join(lora.kinds) or 'not a LoRA'}; names: {lora.naming or 'unknown'}"
    yield f"architecture: {lora.architecture or 'unknown'} ({lora.architecture_reason})"
    if lora.dtypes:
        yield f"dtypes: {_counted(lora.dtypes)}"
    if lora.ranks:
        yield f"rank: {_counted(Counter(lora.ranks.values()))}"
    yield _describe_alpha(lora)
    blocks = _blocks(lora)
    yield f"targets: {len(lora.targets)} modules in {len(blocks)} blocks"
    for block, count in list(blocks.items())[:_MOST_BLOCKS]:
        yield f"  {block}: {count}"
    if len(blocks) > _MOST_BLOCKS:
        yield f"  and {len(blocks) - _MOST_BLOCKS} more"
    yield from _describe_origin(lora)
    for reason, count in Counter(lora.left_out.values()).items():
        names = [name for name, its in lora.left_out.items() if its == reason]
        yield f"left out: {count} tensors, such as {', '.join(names[:3])}: {reason}"


def _describe_alpha(lora: LoraFile) -> str:
    own = [one.strength for one in lora.adapters if one.strength.source]
    alphas = _counted(Counter(one.alpha for one in own if one.alpha is not None))
    text = f"alpha: {alphas or 'none, so the scale is 1'}"
    if own:
        sources = _counted(Counter(one.source for one in own))
        scales = _counted(Counter(one.strength.scale for one in lora.adapters if one.kind != "diff"))
        text += f" (from {sources}; scale {scales})"
    if unread := about(lora).unread_alpha:
        text += f"; {unread} in the metadata is not applied, as in other loaders"
    return text


def _describe_origin(lora: LoraFile) -> Iterator[str]:
    facts = about(lora)
    if facts.trigger_words:
        yield f"trigger words: {', '.join(facts.trigger_words)}"
    if facts.tags:
        yield f"most frequent tags: {', '.join(f'{tag} ({count}x)' for tag, count in facts.tags.items())}"
    if facts.base_model:
        yield f"base model: {', '.join(f'{value} ({key})' for key, value in facts.base_model.items())}"
    if facts.tool:
        yield f"written by: {facts.tool}"


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _counted(counts: dict[Any, int]) -> str:
    """Return values with their counts: ``4 (12x), 8 (2x)``."""
    if len(counts) < 2:
        return _label(next(iter(counts), ""))
    most = sorted(counts.items(), key=lambda item: -item[1])
    text = ", ".join(f"{_label(value)} ({count}x)" for value, count in most[:8])
    return text if len(most) <= 8 else f"{text}, and {len(most) - 8} other values"


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _blocks(lora: LoraFile) -> dict[str, int]:
    """Return the number of modules by block: a name up to the end of its first number."""
    matches = ((target, _BLOCK.match(target)) for target in lora.targets)
    return dict(Counter(match[1] if match else target for target, match in matches))


def parse_numbers(text: str, kind: Callable[[str], Any], flag: str) -> list[Any]:
    """Read numbers that are separated by commas.

    Parameters
    ----------
    text : str
        Such as ``"0,0.5,1"``.
    kind : type
        float or int.
    flag : str
        Name of the flag in messages.

    Raises
    ------
    ValueError
        If one is not a finite number, or is given twice.
    """
    try:
        numbers = [kind(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) for number in numbers) or len({*numbers}) < len(numbers):
        raise ValueError(f"{flag} must be different {kind.__name__}s separated by commas, not {text!r}")
    return numbers


def make_grid(
    generate: Callable[..., Any],
    loras: Sequence[Lora],
    scales: Sequence[float],
    seeds: Sequence[int],
    output: Path,
    title: str = "",
    explained: Callable[[str], str] = str,
) -> Path:
    """Generate images with each adapter at each strength and seed, and write them as a contact sheet.

    Parameters
    ----------
    generate : callable
        Called as ``generate(loras=[...], seed=...)``; returns a `Result`, as `Engine.generate` does.
    loras : sequence of Lora
        Checked LoRAs. Each is used alone; its multiplier is multiplied by the scales.
    scales : sequence of float
        Strengths, one column each. The first column is without LoRA (scale 0), generated once per seed.
    seeds : sequence of int
        Random seeds, one row each for every LoRA.
    output : path
        Image file to write.
    title : str
        Line above the sheet.
    explained : callable
        Returns the message of an error in the words of the command.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the file's ending is not an image format; before anything is generated.
    SDError, KeyboardInterrupt
        As `generate_sheet` raises them.
    """
    check_image_path(output)
    if not loras:
        raise ValueError("a grid needs at least one LoRA")
    columns = [0.0, *(scale for scale in scales if scale)]
    numbers = range(len(loras))

    def image(place: _Place) -> Image.Image:
        number, scale, seed = place
        adapters = [] if number is None else [_scaled(loras[number], scale)]
        generated: Image.Image = generate(loras=adapters, seed=seed).images[0]
        return generated

    def at(number: int, scale: float, seed: int) -> _Place:
        return (number, scale, seed) if scale else (None, 0.0, seed)

    def said(place: _Place) -> str:
        number, scale, seed = place
        return f"{'no LoRA' if number is None else f'{labels[number]} {scale:g}'}, seed {seed}"

    labels = _labels(loras)
    return generate_sheet(
        image,
        [
            *(at(0, 0, seed) for seed in seeds),
            *(at(number, scale, seed) for number in numbers for scale in columns[1:] for seed in seeds),
        ],
        [[at(number, scale, seed) for scale in columns] for number in numbers for seed in seeds],
        (
            [f"{label}, seed {seed}" for label in labels for seed in seeds],
            ["no LoRA", *(f"{scale:g}" for scale in columns[1:])],
        ),
        output,
        title=title,
        said=said,
        explained=explained,
    )


def _labels(loras: Sequence[Lora]) -> list[str]:
    labels = [lora.name or Path(lora.path).stem for lora in loras]
    return labels if len({*labels}) == len(labels) else [str(lora.path) for lora in loras]


def _scaled(lora: Lora, scale: float) -> Lora:
    return replace(lora, multiplier=multiplier_of(lora) * scale)
