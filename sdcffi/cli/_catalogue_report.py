"""The reports of ``sdcffi models list`` and ``show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .._catalogue.entries import Entry, File, LoraEntry, ModelEntry, Variant
from .._catalogue.files import files_of, has, is_ours, local, size_of, total
from .._catalogue.reader import Catalogue
from .._catalogue.variants import Room, choose, needed
from .._references.weights import size_text

__all__ = ["catalogue_lines", "describe_catalogue", "describe_entry", "entry_lines", "removable"]


def describe_catalogue(catalogue: Catalogue, room: Room) -> dict[str, Any]:
    """Describe all entries, and which variants fit.

    Returns
    -------
    dict
        ``memory`` with ``place`` and ``free`` (bytes, or None), and ``models`` and ``loras``: lists of what
        `describe_entry` returns. Each variant also has ``memory``, the estimate in bytes, and ``fits``; None: unknown.
        Each model has ``auto``, the variant that would be taken.
    """
    models = []
    for entry in catalogue.models:
        report = describe_entry(entry)
        for variant in report["variants"]:
            size = needed(entry, entry.variants[variant["name"]], room)
            variant["memory"] = size
            variant["fits"] = None if size is None or room.free is None else size <= room.free
        models.append({**report, "auto": choose(entry, room)[0].name})
    return {
        "memory": {"place": room.place, "free": room.free},
        "models": models,
        "loras": [describe_entry(entry) for entry in catalogue.loras],
    }


def describe_entry(entry: Entry) -> dict[str, Any]:
    """Describe an entry.

    Returns
    -------
    dict
        ``name``, ``title``, ``licence``, ``good_at``, ``page``, ``source`` (the user's file that it is from, or None)
        and ``parameters``, each with ``value`` and ``source``. Of a model, ``family``, ``engines`` and ``variants``,
        each with ``name``, ``bytes``, ``downloaded`` and ``files``; of a LoRA, ``base``, ``strength``, ``bytes``,
        ``downloaded`` and ``files``. A file has ``role``, ``reference``, ``bytes``, ``sha256``, ``confirmed`` and
        ``path`` (None: it is not on this machine).
    """
    report: dict[str, Any] = {
        name: getattr(entry, name) for name in ("name", "title", "licence", "good_at", "page")
    } | {"source": entry.source or None}
    if isinstance(entry, ModelEntry):
        report["family"], report["engines"] = entry.family, list(entry.engines)
        report["variants"] = [_variant(entry, variant) for variant in entry.variants.values()]
        recommended = {**entry.options, **entry.parameters}
    else:
        assert isinstance(entry, LoraEntry)
        report["base"], report["strength"] = list(entry.base), entry.strength
        report |= _sizes([("lora", entry.file)])
        recommended = dict(entry.parameters)
    return {**report, "parameters": {name: value._asdict() for name, value in recommended.items()}}


def _variant(entry: ModelEntry, variant: Variant) -> dict[str, Any]:
    return {"name": variant.name, **_sizes(list(variant.files.items()))}


def _sizes(files: list[tuple[str, File]]) -> dict[str, Any]:
    return {
        "bytes": total(file for _, file in files),
        "downloaded": has(file for _, file in files),
        "files": [_file(role, file) for role, file in files],
    }


def _file(role: str, file: File) -> dict[str, Any]:
    path = local(file)
    return {
        "role": role,
        "reference": file.reference,
        "bytes": size_of(file),
        "sha256": file.sha256,
        "confirmed": file.confirmed,
        "path": None if path is None else str(path),
    }


def catalogue_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report of `describe_catalogue`, for people."""
    memory = report["memory"]
    free = "unknown" if memory["free"] is None else size_text(memory["free"])
    rows = [("model", "variants (* fits)", "download", "on this machine", "what it is")]
    for model in report["models"]:
        auto = next(variant for variant in model["variants"] if variant["name"] == model["auto"])
        variants = ", ".join(variant["name"] + "*" * bool(variant["fits"]) for variant in model["variants"])
        there = ", ".join(variant["name"] for variant in model["variants"] if variant["downloaded"])
        rows.append((model["name"], variants, _download(auto), there or "-", model["title"]))
    yield from _columns(rows)
    yield ""
    rows = [("lora", "for", "download", "on this machine", "what it is")]
    for lora in report["loras"]:
        rows.append(
            (
                lora["name"],
                ", ".join(lora["base"]),
                _download(lora),
                "yes" if lora["downloaded"] else "-",
                lora["title"],
            )
        )
    yield from _columns(rows)
    yield ""
    yield f"free memory of {memory['place']}: {free}; the download is that of the variant that would be taken"
    yield "to use one: sdcffi generate -m catalogue:NAME, or Engine('catalogue:NAME')"


def _download(sizes: dict[str, Any]) -> str:
    return "?" if sizes["bytes"] is None else size_text(sizes["bytes"])


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def entry_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report of `describe_entry`, for people."""
    yield f"{report['name']}: {report['title']}"
    yield f"good at: {report['good_at']}"
    yield f"licence: {report['licence']}"
    yield f"more: {report['page']}"
    if report["source"]:
        yield f"from: {report['source']}"
    if "base" in report:
        yield f"for: {', '.join(report['base'])}; strength {report['strength']:g}"
        yield from _file_lines(report["files"])
    else:
        yield f"family: {report['family']}; runs on engine {' and '.join(report['engines'])}"
        for variant in report["variants"]:
            mark = ", on this machine" if variant["downloaded"] else ""
            yield f"variant {variant['name']}: {_download(variant)}{mark}"
            yield from _file_lines(variant["files"])
    if report["parameters"]:
        yield "recommended:"
    for name, item in report["parameters"].items():
        yield f"  {name} = {item['value']}  ({item['source']})"


def _file_lines(files: list[dict[str, Any]]) -> Iterator[str]:
    for file in files:
        size = "size unknown" if file["bytes"] is None else size_text(file["bytes"])
        doubt = "" if file["confirmed"] else ", not confirmed"
        yield f"  {file['role']}: {file['reference']} ({size}{doubt})"
        if file["path"]:
            yield f"    {file['path']}"


def removable(
    catalogue: Catalogue, entry: Entry, variant: Variant | None
) -> Iterator[tuple[File, Path, tuple[str, ...]]]:
    """Yield the downloaded files of an entry: where each is, and which other downloaded entries need it."""
    for file in files_of(entry, variant):
        path = local(file)
        if path is None or not is_ours(file):
            continue
        others = [
            name if of is None else f"{name}/{of}"
            for name, of, files in _downloads(catalogue)
            if file.reference in files and not (name == entry.name and (variant is None or of == variant.name))
        ]
        yield file, path, tuple(others)


def _downloads(catalogue: Catalogue) -> Iterator[tuple[str, str | None, set[str]]]:
    """Yield the names of what is downloaded, with its variant, and the references of its files."""
    found: list[tuple[str, str | None, tuple[File, ...]]] = []
    found += [(lora.name, None, files_of(lora)) for lora in catalogue.loras]
    for model in catalogue.models:
        found += [(model.name, variant.name, files_of(model, variant)) for variant in model.variants.values()]
    for name, of, files in found:
        if has(files):
            yield name, of, {file.reference for file in files}
