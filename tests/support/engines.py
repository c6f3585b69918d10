"""The engine that the tests run on, and what it can do.

``pytest --engine=NAME|PATH``, or the variable SDCFFI_TEST_ENGINE, runs the tests on another build than the package's
own. Write the equals sign: after a space, pytest takes a path for one of tests. The build is made once, with sd-cli,
and kept in the build cache. SDCFFI_LIBRARY then leads every process to it. What tests build besides comes from the same
source, because they ask the manifest of the build that they run on.

A test asks for what the engine can do (`has_field`, `has_function`, `has_value`), and so holds on revisions that
nobody has named yet. One that is about a certain revision says so::

    @pytest.mark.requires_engine("2026-05", reason="counts what only this revision logs")
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import cffi
import pytest

from sdcffi import BuildError
from sdcffi._build.pipeline import _completed, _lock, build_verified
from sdcffi._build.places import csrc_directory
from sdcffi._build.request import BuildRequest
from sdcffi._build.sources import Source, locate_source
from sdcffi._files import cache_directory
from sdcffi._machine.builds import NativeBuild, locate

VARIABLE = "SDCFFI_TEST_ENGINE"
_ORIGIN = ("engine", "source", "git-url", "allow-unpatched")
"""The settings of a build that say which source it is made of."""


# --- pytest's hooks ---


def add_option(parser: pytest.Parser) -> None:
    parser.getgroup("engine").addoption(
        "--engine",
        default=os.environ.get(VARIABLE),
        metavar="NAME|PATH",
        help="run on a build of this verified revision, or of this source tree (default: SDCFFI_TEST_ENGINE, or the "
        "build that the package finds)",
    )


def use_chosen(config: pytest.Config) -> None:
    """Make the build of ``--engine`` the one that this process and its children find."""
    word = config.getoption("--engine")
    if not word or hasattr(config, "workerinput"):  # xdist's workers have the variable from the process that began
        return
    try:
        native = build_verified(request_for(word)).native
    except BuildError as error:
        raise pytest.UsageError(f"--engine {word}: {error.message}") from error
    os.environ.update({VARIABLE: word, "SDCFFI_LIBRARY": str(native)})


def header() -> str:
    """A line for the head of pytest's output."""
    try:
        build = locate()
    except Exception as error:  # tests that need no build run without one
        return f"engine: none ({type(error).__name__})"
    upstream = build.manifest["upstream"]
    return f"engine: {name_of(build)}, commit {upstream['commit']}, in {build.directory}"


def skip_on_others(item: pytest.Item) -> None:
    """Skip a test that is marked for another revision."""
    for mark in item.iter_markers("requires_engine"):
        if name_of(locate()) not in mark.args:
            pytest.skip(f"needs the engine {' or '.join(mark.args)}: {mark.kwargs['reason']}")


# --- builds of the same source ---


def request_for(word: str) -> BuildRequest:
    """The build that ``--engine WORD`` means."""
    path = Path(word).expanduser().absolute()
    if os.sep in word or path.exists():
        return BuildRequest(source=str(path), with_cli=True)
    return BuildRequest(engine=word, with_cli=True)


def settings() -> dict[str, str]:
    """The settings by which another build is made of the source of the one under test."""
    made: dict[str, str] = locate().manifest["request"]
    return {name: made[name] for name in _ORIGIN if name in made}


def request(**options: str) -> BuildRequest:
    """A build of the source of the one under test; the options are named as in the settings of a wheel."""
    return BuildRequest.from_settings({**settings(), **options})


def source() -> Source:
    """The source of the build under test, fetched."""
    return _located(request())


def source_tree() -> Path:
    """The tree of that source, to read only."""
    return _unpacked(source())


def tree_of(word: str) -> Path:
    """The tree of another engine, named as for ``--engine``; to read only."""
    return _unpacked(_located(request_for(word)))


def _located(wanted: BuildRequest) -> Source:
    return locate_source(wanted.source, csrc_directory(), cache_directory(), wanted.git_url, wanted.engine).fetch()


def _unpacked(found: Source) -> Path:
    """A source tree as it is; an archive, or what git fetched, from the build cache, unpacked once."""
    if found.origin == "path" and found.location.is_dir():
        return found.location
    tree = cache_directory() / "tests" / f"upstream-{str(found.sha256)[:16]}"
    with _lock(tree):
        if not tree.is_dir():
            with _completed(tree) as partial:
                found.unpack(partial)
    return tree


# --- what the engine can do ---


def name_of(build: NativeBuild) -> str:
    """The verified revision that a build is of; ``unknown`` if it is of none."""
    return str(build.manifest["upstream"].get("revision") or "unknown")


@cache
def _declarations() -> str:
    return (locate().directory / "cdef.h").read_text("utf-8")


@cache
def _types() -> cffi.FFI:
    """The declarations of the build under test; nothing is loaded."""
    ffi = cffi.FFI()
    ffi.cdef(_declarations())
    return ffi


def has_field(struct: str, field: str) -> bool:
    """Whether a struct is declared, and has this field."""
    return struct in _types().list_types()[0] and field in dict(_types().typeof(struct).fields or ())


def has_value(name: str) -> bool:
    """Whether an enumeration has a value of this name."""
    return re.search(rf"\b{name}\s*[,=}}]", _declarations()) is not None


def has_function(name: str) -> bool:
    """Whether a function is declared."""
    return re.search(rf"\b{name} ?\(", _declarations()) is not None
