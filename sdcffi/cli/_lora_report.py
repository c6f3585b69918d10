"""The commands ``sdcffi lora inspect`` and ``sdcffi lora grid``; what they find is printed by `cli`."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import replacing
from .._models.lora_file import LoraFile, read_lora
from ..engine.results import check_image_path
from ..images.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from PIL import Image

    from ..params.lora import Lora, LoraReport

__all__ = ["draw_grid", "inspect", "parse_numbers"]

_MOST_BLOCKS = 40  # lines of `inspect`
_BLOCK = re.compile(r"^(.*?\d+)(?:[._](?=\D)|$)")


def inspect(path: Path, as_json: bool = False, fit: LoraReport | None = None) -> list[str]:
    """Describe a LoRA file, from its header alone.

    Parameters
    ----------
    path : Path
        The file.
    as_json : bool
        One JSON object in place of lines for people.
    fit : LoraReport, optional
        What `Engine.check_loras` says of it for a model.

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
    lines += [f"  passed over: {name}" for name in report.skipped[:_MOST_BLOCKS]]
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
        "modules": {
            target: {"rank": lora.ranks.get(target), "alpha": lora.alphas.get(target)} for target in lora.targets
        },
        "unused": lora.unused,
        "tensors": {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in lora.tensors.items()},
    }


def _describe(lora: LoraFile) -> Iterator[str]:
    yield f"{lora.path}: {lora.format}, {_bytes(lora.size)}, {len(lora.tensors)} tensors"
    yield f"kind: {', '.join(lora.kinds) or 'no adapter'}; names: {lora.naming or 'of no known style'}"
    yield f"architecture: {lora.architecture or 'unknown'} ({lora.architecture_reason})"
    if lora.dtypes:
        yield f"dtypes: {_counted(lora.dtypes)}"
    if lora.ranks:
        yield f"rank: {_counted(Counter(lora.ranks.values()))}"
    yield f"alpha: {_counted(Counter(lora.alphas.values())) if lora.alphas else 'none, so the scale is 1'}"
    blocks = _blocks(lora)
    yield f"targets: {len(lora.targets)} modules in {len(blocks)} blocks"
    for block, count in list(blocks.items())[:_MOST_BLOCKS]:
        yield f"  {block}: {count}"
    if len(blocks) > _MOST_BLOCKS:
        yield f"  and {len(blocks) - _MOST_BLOCKS} more"
    if lora.unused:
        yield f"passed over by the engine: {len(lora.unused)} tensors, such as {', '.join(lora.unused[:3])}"


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _counted(counts: dict[Any, int]) -> str:
    """Say ``4 (12 times), 8 (twice)`` the short way."""
    if len(counts) == 1:
        return _label(next(iter(counts)))
    most = sorted(counts.items(), key=lambda item: -item[1])
    text = ", ".join(f"{_label(value)} ({count}x)" for value, count in most[:8])
    return text if len(most) <= 8 else f"{text}, and {len(most) - 8} other values"


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _blocks(lora: LoraFile) -> dict[str, int]:
    """Number of modules by block: a name up to the end of its first number."""
    matches = ((target, _BLOCK.match(target)) for target in lora.targets)
    return dict(Counter(match[1] if match else target for target, match in matches))


def parse_numbers(text: str, kind: Callable[[str], Any], flag: str) -> list[Any]:
    """Read numbers with commas between them.

    Parameters
    ----------
    text : str
        Such as ``"0,0.5,1"``.
    kind : type
        float or int.
    flag : str
        What to call it in messages.

    Raises
    ------
    ValueError
        If one is no finite number, or stands there twice.
    """
    try:
        numbers = [kind(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) for number in numbers) or len({*numbers}) < len(numbers):
        raise ValueError(f"{flag} must be different {kind.__name__}s with commas between them, not {text!r}")
    return numbers


def draw_grid(
    generate: Callable[..., Any],
    loras: Sequence[Lora],
    scales: Sequence[float],
    seeds: Sequence[int],
    output: Path,
    title: str = "",
) -> Path:
    """Draw each adapter at each strength with each seed, and lay the pictures out as a contact sheet.

    Parameters
    ----------
    generate : callable
        Called as ``generate(loras=[...], seed=...)`` and gives a `Result`, as `Engine.generate` does.
    loras : sequence of Lora
        Checked ones. Each is drawn alone; its multiplier is multiplied with the scales.
    scales, seeds : sequence of numbers
        A column each, and a row each within an adapter's rows. The picture without LoRA stands first in every row
        (scale 0), and is drawn once a seed.
    output : path
        The picture file to write.
    title : str
        A line above all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the file's ending is no picture format, before anything is drawn.
    """
    picture_format = check_image_path(output)
    if not loras:
        raise ValueError("a grid needs at least one LoRA")
    wanted = [0.0, *(scale for scale in scales if scale)]
    base = {seed: _picture(generate, [], seed) for seed in seeds}
    pictures = {
        (lora, scale, seed): _picture(generate, [_scaled(lora, scale)], seed) if scale else base[seed]
        for lora in loras
        for scale in wanted
        for seed in seeds
    }
    sheet = contact_sheet(
        [[pictures[lora, scale, seed] for scale in wanted] for lora in loras for seed in seeds],
        rows=[f"{label}, seed {seed}" for label in _labels(loras) for seed in seeds],
        columns=["no LoRA", *(f"{scale:g}" for scale in wanted[1:])],
        title=title,
    )
    with replacing(output) as temporary:
        sheet.save(temporary, format=picture_format)
    return output


def _labels(loras: Sequence[Lora]) -> list[str]:
    labels = [lora.name or Path(lora.path).stem for lora in loras]
    return labels if len({*labels}) == len(labels) else [str(lora.path) for lora in loras]


def _scaled(lora: Lora, scale: float) -> Lora:
    return replace(lora, multiplier=lora.multiplier * scale)


def _picture(generate: Callable[..., Any], loras: list[Lora], seed: int) -> Image.Image:
    image: Image.Image = generate(loras=loras, seed=seed).images[0]
    return image
