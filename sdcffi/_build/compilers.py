"""The C and C++ compiler of this machine: its name, its target, and its preprocessor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from .._machine.install_hints import CXX_COMPILER
from ..errors import BuildError
from .commands import run_captured

_PAIRS = (("cc", "c++"), ("gcc", "g++"), ("clang", "clang++"), ("cl", "cl"))
_NAMED = (*_PAIRS, ("clang-cl", "clang-cl"), ("icx", "icpx"), ("nvc", "nvc++"))  # only if one is named


@dataclass(frozen=True)
class Compiler:
    """A pair of compilers for C and C++.

    Parameters
    ----------
    id : str
        ``gnu``, ``clang``, ``apple-clang`` or ``msvc``.
    version : str
        Version that the compiler reports.
    target : str
        Machine that it compiles for, such as ``x86_64-linux-gnu``.
    c, cxx : Path
        The programs.
    launcher : Path or None
        What starts them: ccache or sccache. None: nothing is asked for.
    """

    id: str
    version: str
    target: str
    c: Path
    cxx: Path
    launcher: Path | None = None

    @property
    def architecture(self) -> str:
        """The processor family: ``x86``, ``arm``, or the first word of `target`."""
        word = re.split(r"[-_ ]", self.target.lower())[0]
        families = {"x86": "x86", "x64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}
        return "x86" if re.fullmatch(r"i[3-6]86", word) else families.get(word, word)

    @property
    def platform(self) -> str:
        """The system and processor of a build, without their versions: ``linux-x86_64``."""
        return f"{sys.platform}-{self.target.partition('-')[0]}"

    def macros(self, *flags: str) -> dict[str, str]:
        """Return the macros that are predefined with `flags`; empty if the compiler can't list them (MSVC)."""
        if self.id == "msvc":
            return {}
        return _macros(self.c, *flags)

    def preprocess(self, source: Path, *definitions: str) -> str:
        """Return `source` after preprocessing, without line markers."""
        flags = ["/nologo", "/EP", "/TC"] if self.id == "msvc" else ["-E", "-P", "-x", "c"]
        prefix = "/D" if self.id == "msvc" else "-D"
        command = [str(self.c), *flags, *(f"{prefix}{definition}" for definition in definitions), str(source)]
        return run_captured(command, "the headers cannot be preprocessed")

    def can_include(self, header: str, *directories: Path) -> bool:
        """Return whether C++ code can include `header`, with `directories` among those that are searched."""
        if self.id == "msvc":
            roots = [*directories, *map(Path, filter(None, os.environ.get("INCLUDE", "").split(os.pathsep)))]
            return any((root / header).is_file() for root in roots)
        command = [str(self.cxx), "-E", "-x", "c++", "-", *(f"-I{directory}" for directory in directories)]
        return subprocess.run(command, input=f"#include <{header}>\n", capture_output=True, text=True).returncode == 0

    def can_link(self, library: str, *directories: Path) -> bool:
        """Return whether the linker or CMake finds `library`, a name without ``lib`` and suffix."""
        if self.id == "msvc":
            roots = [*directories, *map(Path, filter(None, os.environ.get("LIB", "").split(os.pathsep)))]
            return any((root / f"{library}.lib").is_file() for root in roots)
        names = [*(f"lib{library}{suffix}" for suffix in (".so", ".dylib", ".tbd", ".dll.a")), f"{library}.lib"]
        if any((root / name).is_file() for root in directories for name in names):
            return True
        # Compilers print only the name of a file that they do not find.
        answers = (
            run_captured([str(self.cxx), f"-print-file-name={name}"], "the compiler does not work") for name in names
        )
        return any(Path(path.strip()).is_absolute() for path in answers)


def find_compiler() -> Compiler:
    """Return the compiler of ``CC`` and ``CXX``, of which one is enough, or the first usual one on PATH.

    Each names a program, which a launcher may precede: ``"ccache gcc"``.

    Raises
    ------
    BuildError
        If there is none, one that is named or its partner is missing, or it doesn't run.
    """
    (first, asked_c), (second, asked_cxx) = (_asked(variable) for variable in ("CC", "CXX"))
    if asked_c or asked_cxx:
        c, cxx = asked_c or _partner(asked_cxx or "", 1), asked_cxx or _partner(asked_c or "", 0)
        found = _describe(_program("CC", c, asked_c), _program("CXX", cxx, asked_cxx))
        return replace(found, launcher=first or second)
    for default_c, default_cxx in _PAIRS:
        found_c, found_cxx = shutil.which(default_c), shutil.which(default_cxx)
        if found_c and found_cxx:
            return _describe(Path(found_c), Path(found_cxx))
    raise BuildError(str(CXX_COMPILER))


_LAUNCHERS = ("ccache", "sccache")


def _asked(variable: str) -> tuple[Path | None, str | None]:
    """Return launcher and compiler that a variable names. A path may have blanks."""
    text = os.environ.get(variable, "").strip()
    first, _, rest = text.partition(" ")
    launcher = shutil.which(first) if Path(first).stem in _LAUNCHERS and rest and not shutil.which(text) else None
    return (Path(launcher), rest.strip()) if launcher else (None, text or None)


def _partner(program: str, side: int) -> str:
    """Return the other one of a pair, ``clang++-18`` for ``clang-18``; `side` is 0 if `program` is the C compiler."""
    path, name = os.path.split(program)
    for pair in _NAMED:
        own, other = pair[side], pair[1 - side]
        if match := re.fullmatch(rf"(.*-)?{re.escape(own)}(-[\d.]+)?(\.exe)?", name):
            partner = os.path.join(path, (match[1] or "") + other + (match[2] or "") + (match[3] or ""))
            if own in _PAIRS[0] and not shutil.which(partner):
                break  # "cc" is no family of compilers
            return partner
    return _PAIRS[0][1 - side]


def _program(variable: str, name: str, asked: str | None) -> Path:
    found = shutil.which(name)
    if found:
        return Path(found)
    if asked:
        raise BuildError(
            f"{variable}={asked}: there is no such program; name one program, and put flags into"
            f" {'CFLAGS' if variable == 'CC' else 'CXXFLAGS'}"
        )
    raise BuildError(
        f"{name}, which belongs to the compiler that is set, is missing: install it, or set {variable} too"
    )


def _describe(c: Path, cxx: Path) -> Compiler:
    if c.stem.lower() in ("cl", "clang-cl"):
        return _describe_msvc(c, cxx)
    macros = _macros(c)
    version = macros.get("__VERSION__", "unknown").strip('"')
    kinds = {"__apple_build_version__": "apple-clang", "__clang__": "clang"}
    kind = next((kind for macro, kind in kinds.items() if macro in macros), "gnu")
    target = run_captured([str(c), "-dumpmachine"], "the C compiler does not work").strip()
    return Compiler(kind, version, target, c, cxx)


def _describe_msvc(c: Path, cxx: Path) -> Compiler:
    banner = subprocess.run([str(c)], capture_output=True, text=True).stderr
    match = re.search(r"Version ([\d.]+) for (\w+)", banner)
    version, target = match.groups() if match else ("unknown", "x64")
    return Compiler("msvc", version, f"{target}-windows", c, cxx)


def _macros(c: Path, *flags: str) -> dict[str, str]:
    listing = run_captured([str(c), *flags, "-dM", "-E", "-x", "c", "-"], "the C compiler does not work")
    return dict(re.findall(r"^#define (\w+) ?(.*)$", listing, flags=re.MULTILINE))
