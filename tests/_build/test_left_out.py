"""What a build is of, and that one without patches it needs says so: in info, in doctor, and when it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gpus import copied
from tiny_model import TinyModel

from sdcffi import Engine, cli
from sdcffi._machine.builds import MANIFEST

LEFT_OUT = {"0001-answer.patch": "Answer otherwise"}


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A copy of the build under test, as if it lacked a patch."""
    return changed(copied(tmp_path / "native"), left_out=LEFT_OUT)


def changed(native: Path, **entries: Any) -> Path:
    manifest = json.loads((native / MANIFEST).read_text("utf-8"))
    (native / MANIFEST).write_text(json.dumps({**manifest, **entries}), "utf-8")
    return native


def test_loading_warns_with_what_the_patch_would_do(native: Path, tiny_model: TinyModel) -> None:
    arguments: dict[str, Any] = {**tiny_model.engine_arguments(), "backend": "cpu", "load_weights": False}
    with pytest.warns(UserWarning, match=r"0001-answer\.patch: Answer otherwise.*Build a verified revision") as caught:
        Engine(**arguments, library=native).close()
    assert [warning.filename for warning in caught] == [__file__]


def test_info_names_what_was_left_out(native: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--backend", "cpu", "--library", str(native)]) == 0
    assert "patch left out: 0001-answer.patch (it would: Answer otherwise)\n" in capfd.readouterr().out


def test_doctor_names_what_was_left_out(native: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor", "--json", "--library", str(native)])
    checks = {check["name"]: check for check in json.loads(capfd.readouterr().out)["checks"]}
    assert "0001-answer.patch" in checks["patches"]["detail"]


@pytest.mark.parametrize(
    ("revision", "date", "line"),
    [
        ("2026-05", "2026-05-06", "engine: 2026-05 ({commit}, 6 May 2026), 2 patches"),
        (None, None, "engine: {commit}, which is no verified revision, 2 patches"),
    ],
)
def test_info_says_which_revision_it_is(
    native: Path, revision: str | None, date: str | None, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    upstream = json.loads((native / MANIFEST).read_text("utf-8"))["upstream"]
    changed(native, upstream={**upstream, "revision": revision, "date": date}, patches=["one", "two"], left_out={})
    assert cli.main(["info", "--backend", "cpu", "--library", str(native)]) == 0
    out = capfd.readouterr().out
    assert line.format(commit=upstream["commit"]) in out
    assert ("\nnewer engine: 2026-08 (19 August 2026), by `sdcffi build --engine newest`;" in out) == bool(revision)
    assert "left out" not in out
