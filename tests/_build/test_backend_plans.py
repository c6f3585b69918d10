"""Backends that cannot be built here: what their plans name exists in the pinned source, and would be found again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from sdcffi._build import toolkits
from sdcffi._build.backends import GPUS
from sdcffi._build.compilers import find_compiler
from sdcffi._build.manifest import _PLUGIN
from sdcffi._machine.backends import BACKENDS
from sdcffi._machine.install_hints import SPIRV_HEADERS


def options(file: Path) -> set[str]:
    return set(re.findall(r"^\s*option\((\w+)", file.read_text("utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("name", GPUS)
def test_the_option_exists_and_turns_on_ggmls(name: str, pinned: Path) -> None:
    option = GPUS[name].option
    assert option in options(pinned / "CMakeLists.txt")
    block = re.search(rf"^if ?\({option}\)(.*?)^endif", (pinned / "CMakeLists.txt").read_text("utf-8"), re.M | re.S)
    assert block is not None
    turned_on = re.findall(r"set\((GGML_\w+) ON\)", block[1])
    assert turned_on == [f"GGML_{name.upper()}"]
    assert turned_on[0] in options(pinned / "ggml/CMakeLists.txt")


@pytest.mark.parametrize("name", GPUS)
def test_the_plugin_is_known_by_its_name_and_its_devices_by_theirs(name: str, pinned: Path) -> None:
    directory = pinned / "ggml/src" / f"ggml-{name}"
    made = re.compile(rf"(ggml_add_backend_library\(|TARGET_NAME )ggml-{name}\b")
    assert made.search((directory / "CMakeLists.txt").read_text("utf-8"))
    for file in (f"libggml-{name}.so", f"libggml-{name}.dylib", f"ggml-{name}.dll"):
        match = _PLUGIN.match(file)
        assert match is not None
        assert match[1] == name
    sources = [*(pinned / "ggml/include").glob("*.h"), *directory.glob("*.cpp"), *directory.glob("*.m*")]
    assert any(f'"{BACKENDS[name]}"' in file.read_text("utf-8", errors="replace") for file in sources)


def test_metal_embeds_its_kernels_by_an_option_that_exists(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = find_compiler()
    monkeypatch.setattr(sys, "platform", "darwin")
    toolkit = toolkits.metal(compiler)
    assert toolkit.missing == ()
    assert toolkit.definitions == {"GGML_METAL_EMBED_LIBRARY": "ON"}
    assert set(toolkit.definitions) <= options(pinned / "ggml/CMakeLists.txt")
    monkeypatch.setattr(sys, "platform", "linux")
    assert "macOS only" in str(toolkits.metal(compiler).missing[0])


@pytest.mark.parametrize("option", ["GGML_CUDA_NO_VMM", "GGML_OPENCL_EMBED_KERNELS"])
def test_what_the_toolkits_set_exists(option: str, pinned: Path) -> None:
    assert option in options(pinned / "ggml/CMakeLists.txt")


@pytest.mark.parametrize("found", [True, False])
def test_headers_that_only_a_newer_engine_needs_are_missing_for_its_tree_alone(
    found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = find_compiler()
    monkeypatch.setattr(type(compiler), "can_include", lambda *_: found)
    cmake = tmp_path / "ggml" / "src" / "ggml-vulkan" / "CMakeLists.txt"
    cmake.parent.mkdir(parents=True)
    for text, names, missing in (
        ("find_package(Vulkan)", ("cpu", "vulkan"), False),
        ("find_package(SPIRV-Headers CONFIG REQUIRED)", ("cpu", "cuda"), False),
        ("find_package(SPIRV-Headers CONFIG REQUIRED)", ("cpu", "vulkan"), not found),
    ):
        cmake.write_text(text)
        assert toolkits.missing_for(tmp_path, names, compiler) == ((SPIRV_HEADERS,) if missing else ())
