"""The request of a build, from the command line, the config settings of a wheel, or an earlier manifest."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._machine.builds import PACKAGE_BUILD
from .backends import NAMES


@dataclass(frozen=True)
class BuildRequest:
    """The options of the build command; its ``--help`` describes them.

    Parameters
    ----------
    backends : tuple of str or None
        Backends to build. None: those whose toolkit and device this machine has.
    """

    backends: tuple[str, ...] | None = None
    cpu: str = "native"
    engine: str | None = None
    source: str | None = None
    git_url: str | None = None
    allow_unpatched: tuple[str, ...] = ()
    cuda_arch: str | None = None
    with_cli: bool = False
    jobs: int | None = None
    output: Path = PACKAGE_BUILD
    add_on_wheels: Path | None = None
    allow_missing_device: bool = False
    dry_run: bool = False
    clean: bool = False
    verbose: bool = False

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> BuildRequest:
        """Parse a command line; a wrong one ends the process with status 2 and a message with the legal values."""
        return cls(**vars(_parser().parse_args(arguments)))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> BuildRequest:
        """Read the config settings of a wheel: option names without dashes, for example ``backend=cpu,cuda``."""
        arguments = []
        for name, value in settings.items():
            last = value[-1] if isinstance(value, list) else value
            if name in ("with-cli", "allow-missing-device"):
                arguments += [f"--{name}"] if str(last).lower() in ("", "1", "true", "on", "yes") else []
            else:
                arguments.append(f"--{name}={last}")
        return cls.from_arguments(arguments)

    def settings(self) -> dict[str, str]:
        """Return the settings that `from_settings` reads, for the manifest."""
        chosen = {
            "backend": ",".join(self.backends) if self.backends else None,
            "cpu": self.cpu,
            "engine": self.engine,
            "source": self.source,
            "git-url": self.git_url,
            "allow-unpatched": ",".join(self.allow_unpatched) or None,
            "cuda-arch": self.cuda_arch,
            "with-cli": "true" if self.with_cli else None,
            "allow-missing-device": "true" if self.allow_missing_device else None,
        }
        return {name: value for name, value in chosen.items() if value is not None}


def _backends(text: str) -> tuple[str, ...] | None:
    names = tuple(name.strip() for name in text.split(","))
    if names == ("auto",):
        return None
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"unknown backend {name!r} (legal: {', '.join(NAMES)}, or auto alone)")
    return names


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdcffi build", usage="sdcffi build [options]", description="Build the native library on this machine."
    )
    add = parser.add_argument
    names = ",".join(NAMES)
    add("--backend", dest="backends", type=_backends, metavar="LIST", help=f"auto (default), or one or more of {names}")
    add(
        "--cpu",
        choices=("native", "portable"),
        default="native",
        metavar="NAME",
        help="native (default): for this machine; portable: every CPU variant",
    )
    add(
        "--engine",
        metavar="NAME|newest",
        help="verified revision of stable-diffusion.cpp (default: the newest in the package index)",
    )
    add(
        "--source",
        metavar="pypi|git[@REF]|PATH",
        help="any other source of it; with --engine, where that revision is taken from",
    )
    add("--git-url", metavar="URL", help="repository for git (default: upstream's)")
    add(
        "--allow-unpatched",
        type=_names,
        default=(),
        metavar="NAME,...",
        help="build a source that is no verified revision without these patches",
    )
    add("--cuda-arch", metavar="ARCHS", help="CUDA architectures, for example 86,90 (default: this machine's GPUs)")
    add("--with-cli", action="store_true", help="build upstream's sd-cli too")
    add("--jobs", type=_jobs, metavar="N", help="compile N files at once (default: one per core)")
    add(
        "--output",
        type=_directory,
        default=PACKAGE_BUILD,
        metavar="DIR",
        help="directory for the library (default: in the package)",
    )
    add(
        "--add-on-wheels",
        type=_directory,
        metavar="DIR",
        help="also pack each GPU backend as a wheel of its own, in DIR",
    )
    add("--allow-missing-device", action="store_true", help="accept a GPU backend that finds no device here")
    add("--dry-run", action="store_true", help="print what would be done, and do nothing")
    add("--clean", action="store_true", help="delete the cached result of this build first")
    add("-v", "--verbose", action="store_true", help="show the output of cmake and the compilers")
    return parser


def _directory(text: str) -> Path:
    return Path(text).expanduser().absolute()
