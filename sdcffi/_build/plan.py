"""Everything that a build will do, decided before it starts."""

from __future__ import annotations

import os
import shlex
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .._files import cache_directory
from .._machine.limits import usable_processors
from ..errors import BuildError
from . import backends
from .compilers import Compiler, find_compiler
from .cpu import cpu_definitions
from .digests import tree_digest, value_digest
from .patches import Patch, examine, find_patches, read_patches
from .places import csrc_directory
from .request import BuildRequest
from .revisions import Revisions, read_revisions
from .sources import Source, locate_source
from .tools import CMAKE, NINJA

_FORMAT = "4"
"""Part of every key: increase it when the same inputs lead to another result."""


@dataclass(frozen=True)
class BuildPlan:
    """A build, with every path and command line that it will use.

    Parameters
    ----------
    request : BuildRequest
        The request.
    source : Source
        Where the upstream tree comes from.
    revisions : Revisions
        The verified revisions.
    patches : tuple of Patch
        All patches.
    allowed : tuple of str
        The names of patches that may be left out.
    compiler : Compiler
        The C and C++ compiler.
    backends : tuple of str
        Backends that will be built, ``cpu`` first.
    remarks : tuple of str
        What the user should know before the build.
    options : dict
        CMake definitions that decide what is built.
    csrc, cache : Path
        Directories of our C sources, and of the cache.
    """

    request: BuildRequest
    source: Source
    revisions: Revisions
    patches: tuple[Patch, ...]
    allowed: tuple[str, ...]
    compiler: Compiler
    backends: tuple[str, ...]
    remarks: tuple[str, ...]
    options: dict[str, str]
    csrc: Path
    cache: Path

    @cached_property
    def key(self) -> str:
        """Digest of everything that the result depends on: source, patches, our C sources, options, compiler."""
        return value_digest(
            {
                "format": _FORMAT,
                "source": self.source.sha256,
                "revision": self.source.revision and self.source.revision.name,
                "left out": self.allowed,
                "csrc": tree_digest(self.csrc),
                "unicode": unicodedata.unidata_version,
                "options": self.options,
                "compiler": [self.compiler.id, self.compiler.version, self.compiler.target, str(self.compiler.cxx)],
                **_flags(),  # nothing where there are none
            }
        )[:16]

    @property
    def workspace(self) -> Path:
        """The directory for this key."""
        return self.cache / "builds" / self.key

    @property
    def tree(self) -> Path:
        """Upstream, unpacked and patched."""
        return self.workspace / "upstream"

    @property
    def generated(self) -> Path:
        """The directory for the declarations."""
        return self.workspace / "generated"

    @property
    def build_directory(self) -> Path:
        """CMake's directory; it is kept, so that an interrupted build continues."""
        return self.workspace / "cmake"

    @property
    def native(self) -> Path:
        """The finished build; it exists only when it is complete."""
        return self.workspace / "native"

    @property
    def log(self) -> Path:
        """The output of cmake and the compilers."""
        return self.workspace / "build.log"

    def configure_command(self) -> list[str]:
        """Return CMake's configure command line."""
        definitions = {
            "CMAKE_MAKE_PROGRAM": str(NINJA.find()),
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_C_COMPILER": str(self.compiler.c),
            "CMAKE_CXX_COMPILER": str(self.compiler.cxx),
            "SDCFFI_UPSTREAM": str(self.tree),
            "SDCFFI_GENERATED": str(self.generated),
            **_launchers(self.compiler, self.backends),
            **_revision(self.source),
            **self.options,
        }
        flags = [f"-D{name}={value}" for name, value in definitions.items()]
        return [str(CMAKE.find()), "-G", "Ninja", "-S", str(self.csrc), "-B", str(self.build_directory), *flags]

    def compile_command(self) -> list[str]:
        """Return the command line that compiles and links."""
        jobs = self.request.jobs or usable_processors()
        # Not through `cmake --build`: ninja must receive Ctrl-C, to stop what it has started.
        return [str(NINJA.find()), "-C", str(self.build_directory), "-j", str(jobs), "native"]

    def environment(self) -> dict[str, str]:
        """Return the environment of the build's commands."""
        # With this, ccache sees paths relative to the workspace, which are the same for every key.
        return {**os.environ, "CCACHE_BASEDIR": str(self.workspace)}

    def describe(self) -> str:
        """Return the plan in words and command lines."""
        state = "already in the cache" if self.native.is_dir() else "to be compiled"
        lines = [
            *(f"{name}: {value}" for name, value in _flags().items()),
            f"source:   {self.source}",
            f"engine:   {self._engine()}",
            f"backends: {', '.join(self.backends)}; cpu {self.request.cpu}",
            *(f"          {remark}" for remark in self.remarks),
            f"compiler: {self.compiler.id} {self.compiler.version} for {self.compiler.target}, {self.compiler.cxx}",
            f"key:      {self.key} ({state})",
            f"output:   {self.request.output}",
            "patches:",
            *(f"  {line}" for line in self._verdicts()),
            "commands:",
            *(f"  {shlex.join(command)}" for command in self._commands()),
        ]
        return "\n".join(lines)

    def _engine(self) -> str:
        revision = self.source.revision or self.revisions.of_tree(self.source.sha256 or "")
        return f"verified revision {revision}" if revision else "no verified revision"

    def _verdicts(self) -> Iterator[str]:
        """Yield what each patch does: examined where the tree is at hand, else by its header."""
        tree, digest, revision = self.source.location, self.source.sha256, self.source.revision
        if tree.is_dir() and digest and self.source.origin == "path":
            found = self.source.identify(self.revisions, digest)
            yield from map(str, examine(self.patches, tree, self.revisions, found))
        else:
            for patch in self.patches:
                yield f"{patch.name}: {patch.verdicts[revision.name] if revision else 'known once fetched'}"

    def _commands(self) -> list[list[str]]:
        fetch = [] if self.source.location.exists() else self.source.fetch_commands()
        return [*fetch, self.configure_command(), self.compile_command()]


_FLAGS = ("CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDAFLAGS", "HIPFLAGS", "OBJCFLAGS", "OBJCXXFLAGS", "ASMFLAGS")


def _flags() -> dict[str, str]:
    """Return the variables of the environment from which CMake takes flags for every file."""
    return {name: value for name in _FLAGS if (value := os.environ.get(name, "").strip())}


def _refuse_cmake_args(request: BuildRequest) -> None:
    """Refuse a backend that is asked for as other packages have it, and would silently not be built.

    Raises
    ------
    BuildError
        If ``CMAKE_ARGS`` or ``SKBUILD_CMAKE_ARGS`` turns one on, and the request names none.
    """
    for variable in ("CMAKE_ARGS", "SKBUILD_CMAKE_ARGS"):
        words = _words(os.environ.get(variable, ""))
        wanted = [name for name, gpu in backends.GPUS.items() if _turns_on(words, name, gpu.option)]
        if wanted and request.backends is None:
            names = ",".join(["cpu", *wanted])
            raise BuildError(
                f"{variable} is not read, and it turns {' and '.join(wanted)} on: use --backend {names}, with pip"
                f" --config-settings=backend={names}, and unset it"
            )


def _words(text: str) -> list[str]:
    """Return the words of options that are written for a shell, or for scikit-build with semicolons."""
    text = text.replace(";", " ")
    try:
        return shlex.split(text)
    except ValueError:  # a quote that does not end
        return text.replace("'", " ").replace('"', " ").split()


_OLD_OPTIONS = {"cuda": ("SD_CUBLAS", "GGML_CUBLAS"), "hip": ("SD_HIPBLAS", "GGML_HIPBLAS")}


def _turns_on(words: list[str], name: str, option: str) -> bool:
    options = {option, f"GGML_{name.upper()}", f"SD_{name.upper()}", *_OLD_OPTIONS.get(name, ())}
    definitions = (word.removeprefix("-D").strip().partition("=") for word in words)
    return any(
        word.partition(":")[0] in options and value.upper() in ("ON", "1", "TRUE", "YES", "Y")
        for word, _, value in definitions
    )


def make_plan(request: BuildRequest, csrc: Path | None = None) -> BuildPlan:
    """Return the plan for `request` with the C sources in `csrc` (default: sdcffi's own).

    Raises
    ------
    BuildError
        If a compiler, a toolkit or the source is missing.
    """
    csrc, cache = csrc or csrc_directory(), cache_directory()
    compiler = find_compiler()
    _refuse_cmake_args(request)
    selection = _selection(request, compiler)
    revisions = read_revisions(csrc)
    patches = read_patches(csrc / "patches", revisions.names)
    allowed = find_patches(patches, request.allow_unpatched)
    source = locate_source(request.source, csrc, cache, request.git_url, request.engine)
    if source.sha256 is None and not request.dry_run:
        source = source.fetch()
    options = {
        "SDCFFI_WITH_CLI": "ON" if request.with_cli else "OFF",
        **cpu_definitions(request.cpu, compiler),
        **selection.definitions,
    }
    return BuildPlan(
        request,
        source,
        revisions,
        patches,
        allowed,
        compiler,
        selection.names,
        selection.remarks,
        options,
        csrc,
        cache,
    )


def _selection(request: BuildRequest, compiler: Compiler) -> backends.Selection:
    if not request.dry_run:
        return backends.select(request.backends, compiler, request.cuda_arch, request.allow_missing_device)
    return backends.select(request.backends, compiler, request.cuda_arch, lenient=True)


def _launchers(compiler: Compiler, names: tuple[str, ...]) -> dict[str, str]:
    launcher = compiler.launcher or shutil.which("ccache")
    if launcher is None:
        return {}
    languages = ["C", "CXX", *(["CUDA"] if "cuda" in names else []), *(["HIP"] if "hip" in names else [])]
    return {f"CMAKE_{language}_COMPILER_LAUNCHER": str(launcher) for language in languages}


def _revision(source: Source) -> dict[str, str]:
    # With an empty GIT_EXE, upstream's CMake does not ask git about a repository around the tree.
    version = f"{source.origin}-{source.version}".replace("/", "-")
    return {"GIT_EXE": "", "SDCPP_BUILD_COMMIT": source.commit, "SDCPP_BUILD_VERSION": version}
