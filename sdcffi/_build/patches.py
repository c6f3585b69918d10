"""The patches of csrc/patches: what each does to an upstream tree, and doing it.

A patch is a unified diff with a header. A hunk's lines are searched for in the whole file, so that one patch serves
all revisions in which its lines are the same; the line numbers mean nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BuildError
from .diffs import Hunk, read_hunks, replaced_lines
from .digests import source_files
from .revisions import Revision, Revisions

APPLIED, MENDED, NOT_NEEDED, UNKNOWN, LEFT_OUT = "applied", "mended", "not needed", "unknown", "left out"

_FIELD = re.compile(r"^([\w-]+): (.+)$", re.MULTILINE)
_VERDICT = re.compile(r"applies|(mended) in \w+|(not needed): .+")
_SUCCESSOR = re.compile(r"not needed: (\S+?)(?:\.patch)? does it there")
_SOURCE = re.compile(r".*\.(?:cc?|cl|comp|cpp|cuh?|cxx|hh?|hpp|inl|ipp|mm?|metal)")
_VOCABULARIES = "src/tokenizers/vocab/"  # 50 MB of data in the form of headers


@dataclass(frozen=True)
class Patch:
    r"""A unified diff with a header that says why it exists, and what it does to each verified revision.

    Parameters
    ----------
    path : Path
        The patch file.
    subject : str
        What it does, in one line.
    upstream_issue : str
        Upstream's issue or commit, or ``not reported``.
    why : str
        Why no hook, check or registration can do it.
    faults : tuple of str
        Texts of the fault in an unpatched tree, any of which shows that it is there. ``\n`` is a line end, and each
        run of white space stands for any other.
    test : str
        The test that fails without the patch.
    verdicts : mapping of str to str
        By the name of a verified revision: ``applies``, ``mended in COMMIT``, or ``not needed: REASON``.
    hunks : tuple of Hunk
        Its changes.
    """

    path: Path
    subject: str
    upstream_issue: str
    why: str
    faults: tuple[str, ...]
    test: str
    verdicts: Mapping[str, str]
    hunks: tuple[Hunk, ...]

    @property
    def name(self) -> str:
        """The file name, as the manifest records it."""
        return self.path.name

    def successor(self, revision: str) -> str:
        """Return the name of the patch that does the same for a verified revision, without suffix; or nothing."""
        match = _SUCCESSOR.fullmatch(self.verdicts[revision])
        return match[1] if match else ""

    @classmethod
    def read(cls, path: Path, revisions: Collection[str]) -> Patch:
        """Read a patch file; BuildError names a header line that is missing or wrong."""
        header = re.split(r"^$|^--- ", path.read_text("utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
        lines = _FIELD.findall(header)
        fields = dict(lines)
        try:
            known = [fields.pop(name) for name in ("Subject", "Upstream-issue", "Why-a-patch", "Test")]
            fields.pop("Fault")
        except KeyError as error:
            raise BuildError(f"{path}: the header has no line {error.args[0]}") from error
        for name in sorted({*revisions, *fields}):
            if name not in revisions:
                raise BuildError(f"{path}: {name} is no line of a header, and no revision in upstream.toml")
            if not _VERDICT.fullmatch(fields.get(name, "")):
                raise BuildError(
                    f"{path}: the header needs a line `{name}: VERDICT` (legal: applies, mended in COMMIT,"
                    f" not needed: REASON), and has {fields.get(name)!r}"
                )
        faults = tuple(text.replace("\\n", "\n") for name, text in lines if name == "Fault")
        subject, issue, why, test = known
        return cls(path, subject, issue, why, faults, test, fields, tuple(read_hunks(path)))


@dataclass(frozen=True)
class Finding:
    """What a patch does to a tree.

    Parameters
    ----------
    patch : Patch
        The patch.
    verdict : str
        `APPLIED`, `MENDED`, `NOT_NEEDED`, `UNKNOWN` or `LEFT_OUT`.
    reason : str
        Why, if it isn't applied.
    """

    patch: Patch
    verdict: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.patch.name}: {self.verdict}{self.reason and f' ({self.reason})'}"


def read_patches(directory: Path, revisions: Collection[str]) -> tuple[Patch, ...]:
    """Return the patches of `directory` in the order of their names; each must account for all `revisions`."""
    return tuple(Patch.read(path, revisions) for path in sorted(directory.glob("*.patch")))


def find_patches(patches: Sequence[Patch], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the patch files that `names` mean, which may lack the number and ``.patch``."""
    by_name = {spelling: patch.name for patch in patches for spelling in _spellings(patch.path)}
    for name in names:
        if name not in by_name:
            raise BuildError(f"--allow-unpatched {name}: no such patch (legal: {', '.join(p.name for p in patches)})")
    return tuple(sorted({by_name[name] for name in names}))


def examine(
    patches: Sequence[Patch], tree: Path, revisions: Revisions, revision: Revision | None
) -> tuple[Finding, ...]:
    """Return what each patch does to a tree, after those before it. The tree isn't changed.

    Parameters
    ----------
    patches : sequence of Patch
        The patches in their order.
    tree : Path
        An upstream tree without patches.
    revisions : Revisions
        The verified revisions.
    revision : Revision or None
        The one that the tree is. None: it is none of them.

    Returns
    -------
    tuple of Finding
        In the order of the patches. For a verified revision, `UNKNOWN` means that the header is wrong.
    """
    return _examine(patches, _Tree(tree), revisions, revision)


def patch_tree(
    patches: Sequence[Patch],
    tree: Path,
    revisions: Revisions,
    revision: Revision | None,
    allowed: Collection[str] = (),
    report: Callable[[Finding], None] | None = None,
) -> tuple[Finding, ...]:
    """Apply the patches to a tree, and return what was found. See `examine`.

    Parameters
    ----------
    allowed : collection of str
        The names of patches that may be left out of a tree that is no verified revision.
    report : callable, optional
        Function that is given each finding, before a patch that is unknown raises.

    Raises
    ------
    BuildError
        If a patch is unknown and not allowed, or allowed and not unknown. The tree isn't changed then.
    """
    files = _Tree(tree)
    findings = _examine(patches, files, revisions, revision)
    if report is not None:
        for finding in findings:
            report(finding)
    findings = _settle(findings, revision, allowed)
    files.write()
    return findings


class _Tree:
    """The files of a tree, as lines. Changes are kept in memory until `write`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._original: dict[str, bytes] = {}
        self._changed: dict[str, list[bytes]] = {}
        self._sources: list[str] = []

    def original(self, path: str) -> bytes:
        """Return the content of a file as it was; nothing if there is no such file."""
        if path not in self._original:
            file = self._root / path
            self._original[path] = file.read_bytes() if file.is_file() else b""
        return self._original[path]

    def now(self, path: str) -> bytes:
        """Return the content of a file with the changes."""
        return b"".join(self._changed[path]) if path in self._changed else self.original(path)

    def lines(self, path: str) -> list[bytes]:
        """Return the lines of a file with the changes."""
        return self._changed[path] if path in self._changed else self.original(path).splitlines(keepends=True)

    def change(self, changed: Mapping[str, list[bytes]]) -> None:
        """Replace the lines of files."""
        self._changed.update(changed)

    def sources(self) -> list[str]:
        """Return the paths of all files of program text."""
        if not self._sources:
            paths = (file.relative_to(self._root).as_posix() for file in source_files(self._root))
            self._sources = [path for path in paths if _SOURCE.fullmatch(path) and not path.startswith(_VOCABULARIES)]
        return self._sources

    def write(self) -> None:
        """Write what was changed."""
        for path, lines in self._changed.items():
            file = self._root / path
            file.unlink()  # it may be a link to a file of somebody else
            file.write_bytes(b"".join(lines))


def _examine(
    patches: Sequence[Patch], files: _Tree, revisions: Revisions, revision: Revision | None
) -> tuple[Finding, ...]:
    if revision is not None:
        return tuple(_verified(patch, files, revision) for patch in patches)
    routes = [verified.moved for verified in reversed(revisions.all)]
    newest, problems = revisions.newest.name, dict[str, list[str]]()
    series = {patch.path.stem: patch for patch in patches}
    for patch in patches:
        other = series.get(patch.successor(newest))
        if other and (problems.get(other.name) == [] or any(not _fit(other, files, moved)[1] for moved in routes)):
            problems[patch.name] = [f"{other.name} is to do it, but does not fit after the patches before it"]
        else:
            problems[patch.name] = _apply(patch, files, routes)
    applied = {patch.path.stem for patch in patches if not problems[patch.name]}
    # Only now, because two patches may be for the same fault in different revisions.
    return tuple(
        Finding(patch, NOT_NEEDED, f"{patch.successor(newest)} does it there")
        if problems[patch.name] and patch.successor(newest) in applied
        else _unverified(patch, files, routes, problems[patch.name], newest)
        for patch in patches
    )


def _verified(patch: Patch, files: _Tree, revision: Revision) -> Finding:
    """Return what a patch does to a verified revision, and do it; UNKNOWN if it isn't what the header says."""
    said = patch.verdicts[revision.name]
    if said == "applies":
        problems = _apply(patch, files, [revision.moved])
        if not problems and not _fault(patch, files.sources(), files.original):
            problems = ["no text of its Fault lines is in the tree, so they would not show the fault in others either"]
        return Finding(patch, UNKNOWN, "; ".join(problems)) if problems else Finding(patch, APPLIED)
    verdict, reason = re.split(r" in |: ", said, maxsplit=1)
    if verdict == MENDED and (fault := _fault(patch, files.sources(), files.original)):
        return Finding(patch, UNKNOWN, f"the header says {said}, but the fault is in {fault}")
    return Finding(patch, verdict, f"in {reason}" if verdict == MENDED else reason)


def _unverified(
    patch: Patch, files: _Tree, routes: Sequence[Mapping[str, str]], problems: list[str], newest: str
) -> Finding:
    """Return what a patch does to a tree that is no verified revision; `problems` say why it could not be applied."""
    if not problems:
        return Finding(patch, APPLIED)
    fault = _fault(patch, files.sources(), files.now)
    if not fault:
        return Finding(patch, MENDED, "the fault is nowhere in the tree")
    said = f"for {newest} the header says {patch.verdicts[newest]}"
    reasons = [f"the fault is in {fault}", *problems, *_elsewhere(patch, files, routes), said]
    return Finding(patch, UNKNOWN, "; ".join(reasons))


def _settle(findings: tuple[Finding, ...], revision: Revision | None, allowed: Collection[str]) -> tuple[Finding, ...]:
    unknown = {finding.patch.name: finding for finding in findings if finding.verdict == UNKNOWN}
    if unknown and revision:
        wrong = "\n".join(f"  patch {finding}" for finding in unknown.values())
        raise BuildError(f"patches do not do to the verified revision {revision} what their headers say:\n{wrong}")
    if superfluous := sorted(set(allowed) - set(unknown)):
        raise BuildError(f"--allow-unpatched {','.join(superfluous)}: not unknown for this source, so remove it there")
    if stopping := [finding for name, finding in unknown.items() if name not in allowed]:
        names = ",".join(finding.patch.name for finding in stopping)
        raise BuildError(
            "the source is no verified revision, and it is unknown how to mend these faults in it:\n"
            + "\n".join(f"  patch {finding}\n    it would: {finding.patch.subject}" for finding in stopping)
            + f"\nBuild a verified revision (see --engine), or without these patches: --allow-unpatched {names}"
        )
    return tuple(replace(finding, verdict=LEFT_OUT) if finding.verdict == UNKNOWN else finding for finding in findings)


def _apply(patch: Patch, files: _Tree, routes: Sequence[Mapping[str, str]]) -> list[str]:
    """Apply a patch by the first of `routes` (tables of moved files) that fits; else return why the best ones don't."""
    reasons = []
    for moved in routes:
        changed, problems = _fit(patch, files, moved)
        if not problems:
            files.change(changed)
            return []
        reasons.append(problems)
    fewest = min(map(len, reasons))
    return list(dict.fromkeys(problem for problems in reasons if len(problems) == fewest for problem in problems))


def _fit(patch: Patch, files: _Tree, moved: Mapping[str, str]) -> tuple[dict[str, list[bytes]], list[str]]:
    """Return the changed files, and why hunks don't fit."""
    changed: dict[str, list[bytes]] = {}
    problems: list[str] = []
    for path in dict.fromkeys(hunk.path for hunk in patch.hunks):
        target = moved.get(path, path)
        lines = files.lines(target)
        if not lines:
            problems.append(f"there is no {target}")
            continue
        starts = _starts([hunk for hunk in patch.hunks if hunk.path == path], target, lines, problems)
        changed[target] = replaced_lines(lines, starts)
    return changed, problems


def _starts(hunks: Sequence[Hunk], target: str, lines: list[bytes], problems: list[str]) -> list[tuple[int, Hunk]]:
    """Return the place of each hunk among the lines of a file, and add to `problems` why others have none.

    A hunk must be found in exactly one place; equal hunks, in as many places as there are of them.
    """
    starts: list[tuple[int, Hunk]] = []
    for text in dict.fromkeys(hunk.text for hunk in hunks):
        same = [hunk for hunk in hunks if hunk.text == text]
        places = same[0].places(lines)
        if len(places) == len(same):
            starts += zip(places, same, strict=True)
        else:
            found = f"{len(places)} place{'s' * (len(places) > 1)}" if places else "no place"
            found += f", and {len(same)} hunks are equal" if len(same) > 1 else ""
            problems += [f"hunk {hunk.number} of {target} is found in {found}" for hunk in same]
    starts.sort(key=lambda found: found[0])
    for (start, hunk), (next_start, other) in itertools.pairwise(starts):
        if next_start < start + len(hunk.old):
            problems.append(f"hunks {hunk.number} and {other.number} of {target} are found in the same place")
    return starts


def _fault(patch: Patch, paths: Sequence[str], read: Callable[[str], bytes]) -> str:
    """Return the path of a file with a text of the fault; nothing if there is none."""
    for fault in patch.faults:
        words = fault.encode().split()
        pattern, longest = re.compile(rb"\s+".join(map(re.escape, words))), max(words, key=len)
        for path in paths:
            content = read(path)
            if longest in content and pattern.search(content):  # the first test is much faster
                return path
    return ""


def _elsewhere(patch: Patch, files: _Tree, routes: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield which files have lines of the patch's, though no verified revision has those there."""
    told = set()
    for hunk in patch.hunks:
        longest, searched = max(hunk.old, key=len), {moved.get(hunk.path, hunk.path) for moved in routes}
        for path in files.sources():
            if path in searched or (hunk.path, path) in told or longest not in files.now(path):
                continue
            if hunk.places(files.lines(path)):
                told.add((hunk.path, path))
                yield f"lines of {hunk.path} are in {path}"


def _spellings(path: Path) -> tuple[str, ...]:
    return path.name, path.stem, path.name.partition("-")[2], path.stem.partition("-")[2]
