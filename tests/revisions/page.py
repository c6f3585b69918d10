"""The tables of sdcffi/docs/engine-revisions.md. All else on that page is written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from places import ROOT
from tables import put_between, table

from sdcffi._build.patches import Patch, read_patches
from sdcffi._build.places import csrc_directory
from sdcffi._build.revisions import Revision, Revisions, read_revisions
from sdcffi._files import replacing

from .facts import FEATURES, Facts, load_facts

PAGE = ROOT / "sdcffi" / "docs" / "engine-revisions.md"


def write_page() -> None:
    """Put the tables into the page, between their marks."""
    text = with_tables(PAGE.read_text("utf-8"))
    with replacing(PAGE) as temporary:
        temporary.write_text(text, "utf-8")


def with_tables(text: str) -> str:
    """Return the page's text with the tables of what the repository has now."""
    revisions = read_revisions(csrc_directory())
    patches = read_patches(csrc_directory() / "patches", revisions.names)
    facts = {name: load_facts()[name] for name in revisions.names}
    for name, content in (
        ("revisions", _revisions(revisions)),
        ("words", _words(facts)),
        ("features", _features(facts)),
        ("counts", _counts(patches, revisions.names)),
        ("patches", _patches(patches, revisions.names)),
    ):
        text = put_between(text, name, content)
    return text


def _revisions(revisions: Revisions) -> str:
    def origin(revision: Revision) -> str:
        package = revision.package
        return f"PyPI: `{package.name}` {package.version}" if package else "git, with its submodule ggml"

    def remark(revision: Revision) -> str:
        remarks = {"default": revisions.default, "newest": revisions.newest}
        return ", ".join(word for word, meant in remarks.items() if meant is revision)

    rows = [[f"`{r.name}`", str(r.date), f"`{r.commit[:8]}`", origin(r), remark(r)] for r in revisions.all]
    return table(["name", "date", "upstream commit", "source", ""], rows)


def _words(facts: Mapping[str, Facts]) -> str:
    """All words of the first revision, and how each later one differs from the one before it."""
    names = list(facts)
    kinds = [kind for kind in facts[names[0]] if kind != "features"]
    rows = []
    for kind in kinds:
        words = [facts[name][kind] for name in names]
        later = [_change(before, after) for before, after in pairwise(words)]
        rows.append([kind, ", ".join(words[0]), *later])
    return table(["", f"`{names[0]}`", *(f"`{name}`, besides" for name in names[1:])], rows)


def _change(before: Sequence[str], after: Sequence[str]) -> str:
    came, went = ([word for word in one if word not in other] for one, other in ((after, before), (before, after)))
    return "; ".join([", ".join(came) or "nothing", *([f"without {', '.join(went)}"] if went else [])])


def _features(facts: Mapping[str, Facts]) -> str:
    rows = [[name, *("yes" if name in of["features"] else "" for of in facts.values())] for name in FEATURES]
    return table(["feature", *(f"`{name}`" for name in facts)], rows)


def _counts(patches: Sequence[Patch], names: Sequence[str]) -> str:
    def count(name: str) -> str:
        return f"{sum(patch.verdicts[name] == 'applies' for patch in patches)} to `{name}`"

    return f"Of {len(patches)} patches, {' and '.join(map(count, names))} are applied."


def _patches(patches: Sequence[Patch], names: Sequence[str]) -> str:
    rows = [[_title(patch), *(_verdict(patch.verdicts[name]) for name in names)] for patch in patches]
    return table(["patch", *(f"`{name}`" for name in names)], rows)


def _title(patch: Patch) -> str:
    return f"{patch.name.partition('-')[0]} {patch.subject.replace('|', chr(92) + '|')}"


def _verdict(text: str) -> str:
    return "applied" if text == "applies" else text
