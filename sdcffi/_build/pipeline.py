r"""The steps of a build.

::

    source -> unpacked and patched tree -> declarations -> configure -> compile -> collect -> verify -> output
              \------------------------ builds/<key> in the cache ---------------------/

Directories are created under another name and renamed when they are complete, so one with its final name is whole. The
exception is CMake's directory: after an interruption, ninja knows what is left to do.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import filelock

from .._files import cache_directory, read_kept_json
from .._machine.builds import MANIFEST, is_intact
from ..errors import BuildError
from .add_ons import pack_add_ons
from .commands import NO_SPACE, DiskFullError, run_logged, say
from .declarations import write_declarations
from .digests import source_digest, value_digest
from .manifest import Prepared, collect
from .patches import patch_tree
from .plan import BuildPlan, make_plan
from .request import BuildRequest
from .toolkits import missing_for
from .unicode_table import write_unicode_table
from .verify import verify

_PREPARED = "sdcffi-patches.json"


def build(request: BuildRequest) -> Path:
    """Build what `request` asks for, and return the directory with the result.

    Raises
    ------
    BuildError
        If it failed; the message says what failed, what was tried, and what to run.
    """
    _check_writable(request.output)  # before minutes of work
    plan = build_verified(request)
    with _disk_space_explained(request.output):
        publish(plan.native, request.output)
    say(f"ready: {request.output}")
    return request.output


def _check_writable(output: Path) -> None:
    """Refuse a directory that could not be written to in the end.

    Raises
    ------
    BuildError
        If the nearest directory above that exists cannot be written.
    """
    place = next(path for path in output.parents if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".sdcffi-", dir=place):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(place, str(error)) from error
        raise BuildError(
            f"{output} cannot be written: {error.strerror or error}; give another --output DIR, and set"
            " SDCFFI_LIBRARY=DIR when you use it"
        ) from error


def build_verified(request: BuildRequest) -> BuildPlan:
    """Build in the cache, except wheels of add-ons, and return the plan; its ``native`` is the result."""
    plan = make_plan(request)
    for remark in plan.remarks:
        say(remark)
    compile_native(plan)
    for device in verify(plan.native, plan.backends, allow_missing_device=request.allow_missing_device):
        say(f"device {device['name']}: {device['description']}")
    if request.add_on_wheels:
        for wheel in pack_add_ons(plan.native, request.add_on_wheels):
            say(f"packed: {wheel}")
    return plan


def compile_native(plan: BuildPlan) -> Path:
    """Return the directory of the finished build, from the cache if it is there."""
    with _disk_space_explained(plan.cache), _lock(plan.workspace):
        if plan.request.clean:
            shutil.rmtree(plan.workspace, ignore_errors=True)
        if is_intact(plan.native):
            say(f"already in the cache: {plan.native}")
            return plan.native
        started = time.monotonic()
        prepared = prepare_tree(plan)
        _compile(plan)
        with _completed(plan.native) as partial:
            collect(plan, prepared, partial)
        for finished in (plan.tree, plan.build_directory):  # several hundred MB that are no longer needed
            shutil.rmtree(finished)
        say(f"compiled in {time.monotonic() - started:.0f} s")
    return plan.native


def prepare_tree(plan: BuildPlan) -> Prepared:
    """Unpack and patch upstream, unless that is done already; return what was found there."""
    if _prepared(plan.tree) is None:
        say(f"fetching {plan.source}")
        source = plan.source.fetch()
        with _completed(plan.tree) as partial:
            source.unpack(partial)
            if missing := missing_for(partial, plan.backends, plan.compiler):
                raise BuildError("this source cannot be built here:\n" + "\n".join(map(str, missing)))
            prepared = _patch(plan, partial)
            (partial / _PREPARED).write_text(json.dumps(asdict(prepared)), "utf-8")
    found = _prepared(plan.tree)
    assert found is not None  # it was just written
    return found


def _prepared(tree: Path) -> Prepared | None:
    """Return what was found in a tree when it was patched; None if that is missing or damaged."""
    try:
        return Prepared(**read_kept_json(tree / _PREPARED))
    except (OSError, ValueError, TypeError):
        return None


def _patch(plan: BuildPlan, tree: Path) -> Prepared:
    """Find out which revision `tree` is, and patch it."""
    revision = plan.source.identify(plan.revisions, source_digest(tree))
    if revision is None:
        say(f"{plan.source.location} is no verified revision; the patches for it:")
    report = None if revision else lambda finding: say(f"  {finding}")
    findings = patch_tree(plan.patches, tree, plan.revisions, revision, plan.allowed, report)
    return Prepared.of(revision, findings)


def publish(native: Path, output: Path) -> None:
    """Replace `output` by a copy of a finished build.

    Raises
    ------
    BuildError
        If `output` has files that are not a build of ours.
    """
    if output.exists() and any(output.iterdir()) and not (output / MANIFEST).is_file():
        raise BuildError(f"{output} is not empty, and has no earlier build: give another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with _lock(output):
        replaced = output.with_name(f".{output.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        partial = output.with_name(f".{output.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(native, partial)
        if output.exists():
            output.rename(replaced)
        partial.rename(output)
        shutil.rmtree(replaced, ignore_errors=True)


def _compile(plan: BuildPlan) -> None:
    say(f"compiling {', '.join(plan.backends)} in {plan.workspace}")
    begun = plan.build_directory / "CMakeCache.txt"
    if begun.is_file() and f"CMAKE_HOME_DIRECTORY:INTERNAL={plan.csrc.as_posix()}\n" not in begun.read_text("utf-8"):
        shutil.rmtree(plan.build_directory)  # from another checkout, in which alone CMake would continue
    plan.build_directory.mkdir(parents=True, exist_ok=True)
    headers = (plan.tree / "include" / "stable-diffusion.h", plan.csrc / "guard" / "guard.h")
    write_declarations(headers, plan.compiler, plan.generated)
    write_unicode_table(plan.generated)
    for command in (plan.configure_command(), plan.compile_command()):
        run_logged(command, plan.log, plan.environment(), verbose=plan.request.verbose)


@contextmanager
def _completed(directory: Path) -> Iterator[Path]:
    """Yield a directory to write to, and rename it to `directory` on success. The caller holds the lock."""
    partial = directory.with_name(f"{directory.name}.partial")
    for leftover in (partial, directory):
        if leftover.exists():
            shutil.rmtree(leftover)
    yield partial
    partial.rename(directory)


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    locks = cache_directory() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(locks / value_digest(str(directory))[:16])
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"waiting for another process that uses {directory}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_space_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC and NO_SPACE not in str(error):  # shutil.Error has no errno
            raise
        raise _disk_full(Path(error.filename or directory), str(error)) from error
    except DiskFullError as error:
        raise _disk_full(directory, str(error)) from error


def _disk_full(path: Path, reason: str) -> BuildError:
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free / 2**20
    advice = (
        "free some space, or set SDCFFI_CACHE to a directory on another disk; a build needs 1 GB, or 3 GB with CUDA"
    )
    return BuildError(f"{NO_SPACE}: {path} has {free:.0f} MiB free; {advice}\n{reason}")
