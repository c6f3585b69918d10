"""Find the engine's weights behind the names that tools give to a LoRA's modules.

The names that are possible are made from the weights that a model has and from the table ``lora_names.toml``, and a
module's name is looked up among them. Nothing is split by guess: an underscore may belong to a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..params.lora_plan import Place
from .lora_name_table import Family, NameTable, Part, Piece, Row, normal, read_name_table, split_numbers

__all__ = ["Names"]

_ENDINGS = (".weight", ".scale", ".gamma")  # of what a module multiplies with
_Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Meaning:
    """What a name means in this model: pieces of the engine's modules, and their row of the table, if it is from one."""

    pieces: tuple[Piece, ...]
    row: Row | None = None


class _Weights:
    """The weights of a part of a model, and the names by which tools call its modules."""

    def __init__(self, part: Part, root: str, weights: Mapping[str, _Shape], tables: tuple[str, ...]) -> None:
        self.part = part
        self.full: dict[str, tuple[str, _Shape]] = {}  # by module: the weight's name and shape
        self.biases: dict[str, tuple[str, _Shape]] = {}
        for name, shape in weights.items():
            self._add(name, name[len(root) :], shape)
        self.names: dict[str, _Meaning] = {}
        self.ambiguous: dict[str, set[str]] = {}
        self._name(tables)

    def _add(self, name: str, rest: str, shape: _Shape) -> None:
        if rest.endswith(".bias"):
            self.biases[rest[:-5]] = (name, shape)
            return
        for ending in _ENDINGS:
            if rest.endswith(ending):
                self.full[rest[: -len(ending)]] = (name, shape)
                return
        self.full[rest] = (name, shape)

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
        if known.row and meaning.row and known.row.name == meaning.row.name:  # several meanings, in order
            self.names[key] = min(known, meaning, key=lambda one: one.row.choice if one.row else 0)
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
        self.parts = {name: self._part(name, root, found) for name, (root, found) in grouped.items()}
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
        title = self.family.title if self.family else "of an unknown family"
        if module.startswith(self._table.parts["high_noise"].prefixes) and "high_noise" not in self.parts:
            return "it is of a high noise diffusion model, which this model does not have"
        for position, prefixes in enumerate(self._table.positions):
            if module.startswith(prefixes) and not self._has_encoder(position):
                return f"it is of text encoder {position + 1}, which this model does not have"
        return _explain_family(self._rests(module), self.family, title)

    def _has_encoder(self, position: int) -> bool:
        encoders = self.family.encoders if self.family else ()
        return position < len(encoders) and encoders[position] in self.parts

    def _part(self, name: str, root: str, found: Mapping[str, _Shape]) -> _Weights:
        part = self._table.parts[name]
        tables = part.tables or (self.family.tables if self.family else ())
        return _Weights(part, root, found, tables)

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
        return sorted(((prefix, names) for prefix, names in present.items() if names), key=lambda item: -len(item[0]))

    def _find(self, module: str, biases: bool) -> tuple[Place, ...] | None:
        hits = self._hits(module)
        if len(hits) != 1 or hits[0][2] in hits[0][0].ambiguous:
            return None
        weights, meaning, _ = hits[0]
        return weights.places(meaning, biases)

    def _hits(self, module: str) -> list[tuple[_Weights, _Meaning, str]]:
        """Return what a name means, with its normal form; more than one if it may be of several parts."""
        for form in _forms(module):
            for prefix, names in self._prefixes:
                if form.startswith(prefix):
                    key = normal(form[len(prefix) :])
                    parts = [self.parts[name] for name in names]
                    hits = [(part, part.names[key], key) for part in parts if key in part.names]
                    if hits:
                        return hits
        return []

    def _rests(self, module: str) -> list[str]:
        """Return the normal forms that remain of a name without each prefix that it may have."""
        prefixes = {prefix for part in self._table.parts.values() for prefix in part.prefixes}
        prefixes.update(prefix for position in self._table.positions for prefix in position)
        return [normal(form[len(p) :]) for form in _forms(module) for p in prefixes if form.startswith(p)]


def _forms(module: str) -> Iterator[str]:
    """A name as it is, and without what wrappers of networks put into it."""
    yield module
    plain = module
    for word in ("base_model.model.", "_orig_mod.", "_fsdp_wrapped_module.", "module."):
        if plain.startswith(word) or f".{word}" in plain:
            plain = plain.replace(word, "")
    plain = plain.removesuffix(".base_layer").removesuffix(".lora_linear_layer").removesuffix(".lora_layer")
    if plain != module:
        yield plain
    if plain.startswith("lora."):
        yield plain[5:]
    if ".processor." in plain:  # attention processors, of which diffusers made adapters once
        yield plain.replace(".processor.", ".").removesuffix("_lora")


def _grouped(weights: Mapping[str, _Shape], table: NameTable) -> dict[str, tuple[str, dict[str, _Shape]]]:
    """Return the weights of each part, with the beginning of their names."""
    roots = sorted(
        ((root, name) for name, part in table.parts.items() for root in part.engine), key=lambda r: -len(r[0])
    )
    found: dict[str, tuple[str, dict[str, _Shape]]] = {}
    for weight, shape in weights.items():
        for root, name in roots:
            if weight.startswith(root):
                found.setdefault(name, (root, {}))[1][weight] = shape
                break
    return found


def _recognise(diffusion: tuple[str, Mapping[str, _Shape]], table: NameTable) -> Family | None:
    root, weights = diffusion
    templates = {split_numbers(name[len(root) :].rpartition(".")[0])[0] for name in weights}

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


def _explain_family(rests: list[str], family: Family | None, title: str) -> str:
    known = [item for item in read_name_table().families if any(map(_pattern(item).fullmatch, rests))]
    if family in known:
        return f"this model, {title}, has no such layer: it is smaller, or another variant"
    if known:
        return f"it is of {' or '.join(item.title for item in known)}, this model is {title}"
    return f"no tool is known that names a module of {title} so"


@lru_cache(maxsize=64)
def _pattern(family: Family) -> re.Pattern[str]:
    """Return an expression for all names of a family, in their normal form."""
    table = read_name_table()
    tables = [table.tables[name] for name in family.tables]
    names = dict.fromkeys(name for one in tables for name in (*one.modules, *(row.name for row in one.rows)))
    return re.compile("|".join(re.escape(normal(name)).replace(r"\*", r"\d+") for name in names))
