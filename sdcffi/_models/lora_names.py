"""Find the engine's weights behind the names that tools give to a LoRA's modules.

The names that are possible are made from the weights that a model has and from the table ``lora_names.toml``, and a
module's name is looked up among them. Nothing is split by guess: an underscore may belong to a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..params.lora_plan import Place
from .lora_name_families import ENDINGS, families_of, spellings
from .lora_name_table import Family, NameTable, Part, Piece, Row, normal, read_name_table, split_numbers

__all__ = ["Names"]

_Shape = tuple[int, ...]
_Group = dict[str, tuple[str, _Shape]]  # weights of a part by what follows its root: their name and shape


@dataclass(frozen=True)
class _Meaning:
    """What a name means in this model: pieces of the engine's modules, and the row of the table that says so."""

    pieces: tuple[Piece, ...]
    row: Row | None = None


class _Weights:
    """The weights of a part of a model, and the names by which tools call its modules."""

    def __init__(self, part: Part, weights: _Group, tables: tuple[str, ...]) -> None:
        self.part = part
        self.full: _Group = {}  # by module
        self.biases: _Group = {}
        for rest, weight in weights.items():
            self._add(rest, weight)
        self.names: dict[str, _Meaning] = {}
        self.ambiguous: dict[str, set[str]] = {}
        self._name(tables)

    def _add(self, rest: str, weight: tuple[str, _Shape]) -> None:
        module, _, kind = rest.rpartition(".")
        if kind == "bias":
            self.biases[module] = weight
        else:
            self.full[module if f".{kind}" in ENDINGS else rest] = weight

    def _name(self, tables: tuple[str, ...]) -> None:
        optional = [beginning for table in tables for beginning in read_name_table().tables[table].optional]
        index = _index(tables)
        later: list[tuple[str, _Meaning]] = []
        for module in self.full:
            own = _Meaning((Piece(module),))
            for short in [module, *(module.removeprefix(beginning) for beginning in optional)]:
                self._put(short, own)
            template, numbers = split_numbers(module)
            if numbers:
                later.append((module, own))
            for row, literals in index.get(template, ()):
                found = _captured(literals, numbers)
                meaning = None if found is None else self._meaning(row, found)
                if meaning and found is not None:
                    name = _filled(row.name, found)
                    later.append((name, meaning))
                    for short in [name, *(name.removeprefix(beginning) for beginning in optional)]:
                        self._put(short, meaning)
        for name, meaning in later:  # `to_out` of old files is `to_out.0`, unless it is something else
            if name.endswith(".to_out.0"):
                self.names.setdefault(normal(name[:-2]), meaning)

    def _put(self, name: str, meaning: _Meaning) -> None:
        key = normal(name)
        known = self.names.setdefault(key, meaning)
        if known is meaning or known.pieces == meaning.pieces:
            return
        if known.row and meaning.row and known.row.name == meaning.row.name and known.row.choice != meaning.row.choice:
            self.names[key] = known if known.row.choice < meaning.row.choice else meaning
        else:
            self.ambiguous.setdefault(key, set()).update(piece.module for piece in (*known.pieces, *meaning.pieces))

    def _meaning(self, row: Row, numbers: tuple[str, ...]) -> _Meaning | None:
        pieces = tuple(
            Piece(_filled(piece.module, numbers), piece.part, piece.columns, piece.transposed) for piece in row.pieces
        )
        if any(piece.module not in self.full for piece in pieces):
            return None
        shape = self.full[pieces[0].module][1]
        if row.when and (len(shape) < 2 or shape[0] != row.when * shape[1]):
            return None
        return _Meaning(pieces, row)

    def places(self, meaning: _Meaning, biases: bool) -> tuple[Place, ...] | None:
        """Return the places of a meaning in the weights, or in the biases; None if there are none."""
        source = self.biases if biases else self.full
        if any(piece.module not in source for piece in meaning.pieces):
            return None
        alone = len(meaning.pieces) == 1
        places, at = [], 0
        for piece in meaning.pieces:
            name, shape = source[piece.module]
            first, count = _rows(piece, shape, self.full[piece.module][1])
            whole = alone and not piece.part and not piece.columns
            places.append(Place(name, first, at, 0 if whole else count, piece.transposed))
            at += count
        return tuple(places)


class Names:
    """The names of a model's modules.

    Parameters
    ----------
    weights : mapping of str to tuple of int
        Shapes of the engine's weights, rows first, by their names.
    high_noise : bool
        Whether names without a hint are those of the high noise diffusion model.
    """

    def __init__(self, weights: Mapping[str, _Shape], high_noise: bool = False) -> None:
        self._table = read_name_table()
        grouped = _grouped(weights, self._table)
        diffusion = grouped.get("diffusion") or grouped.get("high_noise")
        self.family = _recognise(diffusion, self._table) if diffusion else None
        self.parts = {name: self._part(name, found) for name, found in grouped.items()}
        self._prefixes = self._read_prefixes("high_noise" if high_noise and "high_noise" in grouped else "diffusion")

    def find(self, module: str) -> tuple[Place, ...] | None:
        """Find the places of a module's weight.

        Parameters
        ----------
        module : str
            The name in the file, without the adapter's ending: ``"transformer.transformer_blocks.0.attn.to_q"``.

        Returns
        -------
        tuple of Place or None
            None if this model has no such module, or if the name may mean several; `explain` tells which.
        """
        return self._find(module, biases=False)

    def find_bias(self, module: str) -> tuple[Place, ...] | None:
        """Find the places of a module's bias; None as in `find`, or if the module has no bias."""
        return self._find(module, biases=True)

    def explain(self, module: str) -> str:
        """Return why `find` returns None for a module, as the end of a sentence."""
        hits = self._hits(module)
        if len(hits) > 1:
            titles = sorted({weights.part.title for weights, _, _ in hits})
            return f"it may be of the {' or the '.join(titles)}"
        if hits and hits[0][2] in hits[0][0].ambiguous:
            return f"it may be any of {', '.join(sorted(hits[0][0].ambiguous[hits[0][2]]))}"
        if hits:
            return "the module is there, without a bias"
        title = self.family.title if self.family else "an unknown family"
        if module.startswith(self._table.parts["high_noise"].prefixes) and "high_noise" not in self.parts:
            return "it is of a high noise diffusion model, which this model does not have"
        for prefix, position in sorted(
            ((prefix, n) for n, prefixes in enumerate(self._table.positions) for prefix in prefixes), key=_longest
        ):
            if module.startswith(prefix):
                if self._has_encoder(position):
                    break
                return f"it is of text encoder {position + 1}, which this model does not have"
        known = families_of([module])
        if self.family in known:
            return f"this model, {title}, has no such layer: it is smaller, or another variant"
        if known:
            return f"it is a module of {' or '.join(item.title for item in known)}, this model is {title}"
        return f"no tool is known to give this name to a module of {title}"

    def _has_encoder(self, position: int) -> bool:
        encoders = self.family.encoders if self.family else ()
        return position < len(encoders) and encoders[position] in self.parts

    def _part(self, name: str, found: _Group) -> _Weights:
        part = self._table.parts[name]
        tables = part.tables or (self.family.tables if self.family else ())
        return _Weights(part, found, tables)

    def _read_prefixes(self, diffusion: str) -> list[tuple[str, tuple[str, ...]]]:
        """The prefixes that files may have with the parts that they mean, the longest first."""
        found: dict[str, list[str]] = {}
        for name, part in self._table.parts.items():
            for prefix in part.prefixes:
                found.setdefault(prefix, []).append(diffusion if name == "diffusion" else name)
        for position, encoder in enumerate(self.family.encoders if self.family else ()):
            for prefix in self._table.positions[position]:
                if encoder not in found.setdefault(prefix, []):
                    found[prefix].append(encoder)
        present = {prefix: tuple(name for name in names if name in self.parts) for prefix, names in found.items()}
        return sorted(((prefix, names) for prefix, names in present.items() if names), key=_longest)

    def _find(self, module: str, biases: bool) -> tuple[Place, ...] | None:
        hits = self._hits(module)
        if len(hits) != 1 or hits[0][2] in hits[0][0].ambiguous:
            return None
        weights, meaning, _ = hits[0]
        return weights.places(meaning, biases)

    def _hits(self, module: str) -> list[tuple[_Weights, _Meaning, str]]:
        """Return what a name means, with its normal form; more than one if it may be of several parts."""
        for form in spellings(module):
            for prefix, names in self._prefixes:
                if form.startswith(prefix):
                    key = normal(form[len(prefix) :])
                    parts = [self.parts[name] for name in names]
                    hits = [(part, part.names[key], key) for part in parts if key in part.names]
                    if hits:  # a name that does not say of which part it is means the diffusion model
                        return hits[:1] if hits[0][0].part.name in ("diffusion", "high_noise") else hits
        return []


def _longest(item: tuple[str, object]) -> int:
    return -len(item[0])


def _grouped(weights: Mapping[str, _Shape], table: NameTable) -> dict[str, _Group]:
    """Return the weights of each part."""
    roots = sorted(
        ((root, name) for name, part in table.parts.items() for root in part.engine), key=lambda r: -len(r[0])
    )
    found: dict[str, _Group] = {}
    for weight, shape in weights.items():
        for root, name in roots:
            if weight.startswith(root):
                found.setdefault(name, {})[weight[len(root) :]] = (weight, shape)
                break
    return found


def _recognise(weights: _Group, table: NameTable) -> Family | None:
    templates = {split_numbers(name.rpartition(".")[0])[0] for name in weights}

    def is_there(module: str) -> bool:
        return split_numbers(module)[0] in templates

    for family in table.families:
        if all(map(is_there, family.has)) and not any(map(is_there, family.lacks)):
            return family
    return None


@lru_cache(maxsize=16)
def _index(tables: tuple[str, ...]) -> dict[str, list[tuple[Row, tuple[str, ...]]]]:
    """Rows by the form of their first module, with its numbers."""
    found: dict[str, list[tuple[Row, tuple[str, ...]]]] = {}
    for table in tables:
        for row in read_name_table().tables[table].rows:
            template, numbers = split_numbers(row.pieces[0].module)
            found.setdefault(template, []).append((row, numbers))
    return found


def _captured(literals: tuple[str, ...], numbers: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the numbers that stand where the row has stars; None if others differ."""
    if any(literal not in ("*", number) for literal, number in zip(literals, numbers, strict=True)):
        return None
    return tuple(number for literal, number in zip(literals, numbers, strict=True) if literal == "*")


def _filled(pattern: str, numbers: tuple[str, ...]) -> str:
    for number in numbers:
        pattern = pattern.replace("*", number, 1)
    return pattern


def _rows(piece: Piece, shape: _Shape, weight: _Shape) -> tuple[int, int]:
    """Return the first row of a piece, and how many it has."""
    rows = shape[0] if shape else 1
    if piece.part:
        index, count = piece.part
        return index * (rows // count), rows // count
    if piece.columns:
        first, end = (factor * weight[1] for factor in piece.columns)
        return first, (end or rows) - first
    return 0, rows
