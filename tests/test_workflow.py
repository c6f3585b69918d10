"""The public CI's file was never run: what can be checked of it without running it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import engines
import pytest
import yaml
from matrix import ARM, X86
from places import ROOT

from sdcffi._build.backends import NAMES
from sdcffi._build.request import BuildRequest

FILE = ROOT / ".github" / "workflows" / "ci.yml"


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    found: dict[str, Any] = content["jobs"]
    return found


def values(node: Any, key: str) -> Iterator[str]:
    """Every text under a key, wherever it stands."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield value
            yield from values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from values(value, key)


def test_it_says_that_it_was_never_run() -> None:
    assert FILE.read_text("utf-8").startswith("# Never run")


def test_one_gate_waits_for_every_other_job(jobs: dict[str, Any]) -> None:
    assert set(jobs["gate"]["needs"]) == set(jobs) - {"gate"}
    assert jobs["gate"]["if"] == "always()"


@pytest.mark.parametrize(
    ("results", "passes"),
    [
        ("success success", True),
        ("success failure", False),
        ("failure success", False),
        ("cancelled success", False),
        ("success skipped", False),
    ],
)
def test_the_gate_wants_success_of_all(jobs: dict[str, Any], results: str, passes: bool) -> None:
    (step,) = jobs["gate"]["steps"]
    script = step["run"].replace("${{ join(needs.*.result, ' ') }}", results)
    assert "${{" not in script
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script])  # as GitHub's runners do
    assert (done.returncode == 0) == passes


def test_the_build_command_knows_its_options(jobs: dict[str, Any]) -> None:
    (command,) = [run for run in values(jobs["add-ons"], "run") if "build_native.py" in run]
    request = BuildRequest.from_arguments(command.partition("build_native.py ")[2].split())
    assert request.backends == ("cpu", "vulkan")
    assert request.add_on_wheels
    repair = "auditwheel repair --exclude libvulkan.so.1 --exclude 'libsdcffi-*' dist/"
    assert [run for run in values(jobs["add-ons"], "run") if repair in run]
    assert repair in (ROOT / "sdcffi" / "docs" / "wheels.md").read_text("utf-8")


def test_every_action_has_a_version(jobs: dict[str, Any]) -> None:
    uses = list(values(jobs, "uses"))
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*", name) for name in uses)


def test_the_lint_job_runs_what_ci_runs(jobs: dict[str, Any]) -> None:
    ours = (ROOT / ".ci" / "run").read_text("utf-8")
    for command in ("ruff check .", "ruff format --check .", "mypy"):
        assert command in ours
        assert command in list(values(jobs["lint"], "run"))


def test_a_job_runs_on_the_newest_engine_and_builds_it_once(jobs: dict[str, Any]) -> None:
    install, run = list(values(jobs["newest"], "run"))
    built = BuildRequest.from_settings(dict(re.findall(r"--config-settings=([\w-]+)=(\S+)", install)))
    tested = engines.request_for(re.findall(r"--engine=(\S+)", run)[0])
    assert built.engine == tested.engine == "newest"
    assert built.with_cli == tested.with_cli
    assert built.source == tested.source


def test_settings_markers_and_backends_exist(jobs: dict[str, Any]) -> None:
    commands = " ".join(values(jobs, "run"))
    settings = set(re.findall(r"--config-settings=([\w-]+)=", commands))
    settings |= set(re.findall(r"([\w-]+)=", jobs["wheels"]["steps"][1]["env"]["CIBW_CONFIG_SETTINGS"]))
    assert settings == {"with-cli", "backend", "allow-missing-device", "cpu", "engine"}
    for name in settings:
        value = {"backend": "cpu", "cpu": "portable", "engine": "newest"}.get(name, "on")
        assert BuildRequest.from_settings({name: value}) != BuildRequest() or name == "backend"
    markers = set(re.findall(r'pytest -m "?(?:not )?(\w+)"?', commands))
    assert markers == {"slow", "backend"}
    assert markers <= set(re.findall(r'^ +"(\w+): ', (ROOT / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE))
    rows = jobs["backends"]["strategy"]["matrix"]["include"]
    assert {row["backend"] for row in rows} <= {*NAMES, *(f"cpu:{name}" for name in (*X86, *ARM))}
    assert all(set(row["build"].split(",")) <= set(NAMES) for row in rows)
    assert {"metal", "vulkan"} <= {row["backend"] for row in rows}
