"""Compare two revisions of stable-diffusion.cpp: what they declare, where files moved, what our patches do.

    python -m tests.revisions OLD NEW [--write]
    python -m tests.revisions --write

OLD and NEW are names of csrc/upstream.toml (a source that the cache lacks is downloaded), or source trees. `NAME=PATH`
is a tree at PATH that counts as the verified revision NAME.

With `--write`, what the named revisions can do is stored. The tables of sdcffi/docs/engine-revisions.md are made from
what is stored and from the headers of the patches, and those of sdcffi/docs/differences.md from the rows in
tests/revisions/differences. The first page says how to move to a newer revision.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import engines

from sdcffi import BuildError
from sdcffi._build.digests import source_digest
from sdcffi._build.patches import examine, read_patches
from sdcffi._build.places import csrc_directory
from sdcffi._build.revisions import Revision, read_revisions

from . import image_differences
from .facts import load_facts, read_facts, store_facts
from .interface import differences, read_interface
from .moves import moved_files
from .page import write_page

REVISIONS = read_revisions(csrc_directory())


@dataclass(frozen=True)
class Engine:
    """A source tree, its digest, and the verified revision that it is; None if it is none."""

    tree: Path
    digest: str
    revision: Revision | None

    def __str__(self) -> str:
        return f"{self.revision or 'no verified revision'}, {self.tree}, digest {self.digest}"


def find(word: str) -> Engine:
    """Return what a word of the command line means."""
    name, _, path = word.rpartition("=")
    named = REVISIONS.named(name) if name else None
    tree = engines.tree_of(path)
    digest = source_digest(tree)
    return Engine(tree, digest, named or REVISIONS.of_tree(digest))


def report(old: Engine, new: Engine) -> list[str]:
    """Return the comparison, line by line."""
    patches = read_patches(csrc_directory() / "patches", REVISIONS.names)
    findings = examine(patches, new.tree, REVISIONS, new.revision)
    header = Path("include", "stable-diffusion.h")
    return [
        f"old: {old}",
        f"new: {new}",
        *differences(read_interface(old.tree / header), read_interface(new.tree / header)),
        "moved files, for the table of upstream.toml, with the part of the lines that they share",
        *(_moved(name, found) for name, found in moved_files(old.tree, new.tree).items()),
        "patches, on the new one",
        *(f"  {finding}" for finding in findings),
    ]


def _moved(name: str, found: list[tuple[str, float]]) -> str:
    (best, part), *others = found
    return f'  "{name}" = "{best}"  # {part:.0%}' + "".join(f", {other} {share:.0%}" for other, share in others)


def write(found: tuple[Engine, ...]) -> None:
    """Store what the verified ones among these can do, and write the page."""
    facts = dict(load_facts())
    facts.update({engine.revision.name: read_facts(engine.tree) for engine in found if engine.revision})
    store_facts(facts)
    write_page()
    image_differences.write_page()


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.revisions", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "words", metavar="OLD NEW", nargs="*", help="two of: name of a verified revision, source tree, NAME=PATH"
    )
    parser.add_argument("--write", action="store_true", help="write the tables of the documentation's page")
    options = parser.parse_args(arguments)
    if len(options.words) not in ((0, 2) if options.write else (2,)):
        parser.error("OLD and NEW are missing, or there are more than two")
    try:
        found = tuple(map(find, options.words))
    except BuildError as error:
        parser.error(error.message)
    if found:
        print("\n".join(report(*found)))
    if options.write:
        write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
