"""`pytest --engine`: what runs on the build that was asked for, and what a test learns of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import engines
import pytest
from gpus import copied
from places import ROOT

from sdcffi._machine.builds import locate

QUICK = ("-n0", "-q", "-p", "no:cacheprovider", "tests/test_errors.py")


def run_pytest(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", *QUICK, *options]
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("by", ["option", "variable"])
@pytest.mark.parametrize("wrong", ["/does/not/exist", "1999-01"])
def test_an_engine_that_does_not_exist_is_a_wrong_use_of_pytest(wrong: str, by: str) -> None:
    done = run_pytest(f"--engine={wrong}") if by == "option" else run_pytest(SDCFFI_TEST_ENGINE=wrong)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--engine {wrong}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("newest", ("newest", None)),
        ("a/tree", (None, str(Path("a/tree").absolute()))),
        ("tests", (None, str(Path("tests").absolute()))),
    ],
)
def test_all_processes_find_the_chosen_build(
    word: str, meant: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    native = copied(tmp_path / "native")
    asked = []

    def build_verified(request: Any) -> SimpleNamespace:
        asked.append(request)
        return SimpleNamespace(native=native)

    monkeypatch.setattr(engines, "build_verified", build_verified)
    monkeypatch.setenv("SDCFFI_LIBRARY", "/does/not/exist")
    monkeypatch.setenv(engines.VARIABLE, "")  # so that it is as before afterwards
    engines.use_chosen(SimpleNamespace(getoption=lambda _: word))  # type: ignore[arg-type]
    assert asked[0].with_cli
    assert (asked[0].engine, asked[0].source) == meant
    code = "from sdcffi._machine.builds import locate; print(locate().directory)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(native.resolve())
    assert str(native.resolve()) in engines.header()


def test_without_a_choice_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "build_verified", pytest.fail)
    before = dict(os.environ)
    engines.use_chosen(SimpleNamespace(getoption=lambda _: None))  # type: ignore[arg-type]
    engines.use_chosen(SimpleNamespace(getoption=lambda _: "a", workerinput={}))  # type: ignore[arg-type]
    assert dict(os.environ) == before


def test_other_builds_are_of_the_same_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = {"engine": "newest", "source": "git@v1", "git-url": "somewhere", "cpu": "portable", "backend": "cpu,vulkan"}
    build = SimpleNamespace(manifest={"request": made})
    monkeypatch.setattr(engines, "locate", lambda: build)
    request = engines.request(backend="cpu")
    assert (request.source, request.git_url, request.cpu, request.backends) == (
        "git@v1",
        "somewhere",
        "native",
        ("cpu",),
    )


def test_the_source_is_that_of_the_build(pinned: Path) -> None:
    assert engines.source().commit[:8] == locate().manifest["upstream"]["commit"][:8]
    header = (pinned / "include" / "stable-diffusion.h").read_text("utf-8")
    assert engines.has_function("generate_image")
    assert "generate_image(" in header


def test_what_an_engine_can_do() -> None:
    assert engines.has_field("sd_ctx_params_t", "model_path")
    assert not engines.has_field("sd_ctx_params_t", "model")
    assert not engines.has_field("sd_nothing_t", "model_path")
    assert engines.has_value("EULER_SAMPLE_METHOD")
    assert not engines.has_value("OTHER_SAMPLE_METHOD")
    assert engines.has_function("new_sd_ctx")
    assert not engines.has_function("new_sd")


def marked(*names: str) -> Any:
    mark = pytest.mark.requires_engine(*names, reason="it is about their logs").mark
    return SimpleNamespace(iter_markers=lambda _: [mark])


def test_a_test_for_another_revision_is_skipped_with_its_reason() -> None:
    own = engines.name_of(locate())
    engines.skip_on_others(marked("1999-01", own))
    with pytest.raises(pytest.skip.Exception, match="needs the engine 1999-01 or 1999-02: it is about their logs"):
        engines.skip_on_others(marked("1999-01", "1999-02"))
