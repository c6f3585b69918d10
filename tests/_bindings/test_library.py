"""The loaded library: what it lets out into the process, what it prints, its backends and enumerations."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import sdcffi
from sdcffi import BackendUnavailableError
from sdcffi._bindings.job import Job
from sdcffi._bindings.library import Library, load
from sdcffi._bindings.plugins import plugins_of
from sdcffi._bindings.requests import Opening
from sdcffi._bindings.session import Session
from sdcffi._files import cache_directory
from sdcffi._machine.backends import backend_choice
from sdcffi._machine.builds import locate
from sdcffi._machine.devices import Device


@pytest.fixture(scope="module")
def library() -> Library:
    return load()


def run_python(code: str, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


LOAD = (
    "from sdcffi._bindings.job import Job; from sdcffi._bindings.library import load;"
    "from sdcffi._bindings.plugins import plugins_of; from sdcffi._bindings.session import Opening, Session;"
    "from sdcffi._machine.backends import BackendChoice;"
    "Session().open(Job(lambda event: None), Opening(backend=BackendChoice('cpu')));"
)


def open_backend(name: str) -> Device:
    return Session().open(Job(lambda _: None), Opening(backend=backend_choice(name))).device


@pytest.mark.skipif(sys.platform != "linux", reason="looks the handler up in libstdc++.so.6")
def test_loading_installs_no_terminate_handler() -> None:
    code = (
        "import ctypes; get = ctypes.CDLL('libstdc++.so.6')['_ZSt13get_terminatev'];"
        "get.restype = ctypes.c_void_p; before = get();" + LOAD + "assert get() == before"
    )
    assert run_python(code) == ""


def test_loading_leaves_the_environment_as_it_was() -> None:
    assert run_python("import os; before = dict(os.environ);" + LOAD + "assert dict(os.environ) == before") == ""


def test_loading_and_listing_print_nothing() -> None:
    assert run_python(LOAD + "plugins_of(load()).devices()") == ""


def decoy(directory: Path, name: str) -> Path:
    """Compile a library that passes for another project's ggml."""
    source = directory / "decoy.c"
    source.write_text('const char *ggml_version(void) { return "decoy"; }\nint ggml_backend_load_count;\n')
    path = directory / name
    subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", path, source], check=True)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="SONAME is a matter of ELF")
@pytest.mark.parametrize("name", ["libggml-base.so.0", "libggml-cpu.so.0", "libggml.so.0"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_another_ggml_in_the_process_and_ours_do_not_mix(name: str, first: str, tmp_path: Path) -> None:
    path = decoy(tmp_path, name)
    user = tmp_path / "user.c"
    user.write_text("const char *ggml_version(void);\nconst char *seen(void) { return ggml_version(); }\n")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", tmp_path / "libuser.so", user, path, f"-Wl,-rpath,{tmp_path}"], check=True
    )
    theirs = (
        "import ctypes, sys; seen = ctypes.CDLL(sys.argv[1])['seen']; seen.restype = ctypes.c_char_p;"
        "assert seen() == b'decoy', seen();"
    )
    ours = LOAD + "library = load(); assert library.text(library.lib.sdg_ggml_version()) != 'decoy';"
    code = ours + theirs if first == "ours" else theirs + ours
    assert run_python(code, str(tmp_path / "libuser.so")) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the ELF symbol table")
def test_only_c_interfaces_are_exported_and_versioned() -> None:
    build = locate()
    for path in [build.library, *build.directory.glob("libsdcffi-*"), *build.backends["cpu"]]:
        table = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
        symbols = [line.split()[-1] for line in table.splitlines() if " A " not in line]
        assert symbols
        assert not [symbol for symbol in symbols if not symbol.endswith("@@SDCFFI")]
        assert not [symbol for symbol in symbols if symbol.startswith(("_ZTI", "_ZNSt"))]


@pytest.mark.skipif(sys.platform == "win32", reason="its compiler has no prefix maps")
def test_a_library_holds_no_directories_of_the_machine_that_built_it() -> None:
    build = locate()
    for path in [build.library, *build.directory.glob("libsdcffi-*"), *build.backends["cpu"]]:
        assert str(cache_directory()).encode() not in path.read_bytes(), path
        assert str(Path(sdcffi.__file__).parent.parent / "csrc").encode() not in path.read_bytes(), path


def test_every_symbol_that_the_library_needs_is_there_at_once() -> None:
    """Immediate binding: an undefined CPU symbol in a build with loadable backends shows here."""
    path = locate().library
    code = "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_NOW)" if hasattr(os, "RTLD_NOW") else "pass"
    assert run_python(code, str(path)) == ""


def test_cpu_features_come_from_the_loaded_backend(library: Library) -> None:
    open_backend("cpu")
    text = library.text(library.lib.sd_get_system_info())
    assert re.search(r"\bAVX2 = [01]\b", text)
    options = library.build.manifest["options"]
    if options.get("GGML_AVX2") == "ON":
        assert "AVX2 = 1" in text
    if options.get("GGML_AVX512") == "OFF":
        assert "AVX512 = 0" in text


def test_the_commit_is_the_pinned_one(library: Library) -> None:
    commit = library.text(library.lib.sd_commit())
    assert commit == library.build.manifest["upstream"]["commit"][: len(commit)] != ""


def test_the_devices_of_the_cpu_backend(library: Library) -> None:
    chosen = open_backend("cpu")
    assert (chosen.backend, chosen.type) == ("cpu", "cpu")
    assert chosen in [replace(device, reason=chosen.reason) for device in plugins_of(library).devices()]
    assert chosen.memory_total > 0


def test_a_backend_that_was_not_built_is_refused_with_the_command() -> None:
    with pytest.raises(BackendUnavailableError, match=r"'musa' is not part of this build.*build --backend"):
        open_backend("musa")


@pytest.mark.parametrize(
    ("enum", "some"),
    [
        ("sample_method_t", {"euler", "euler_a", "dpm++2m"}),
        ("scheduler_t", {"discrete", "karras", "simple"}),
        ("sd_type_t", {"f16", "q8_0", "q4_0"}),
        ("lora_apply_mode_t", {"auto", "immediately", "at_runtime"}),
        ("sd_cache_mode_t", {"disabled", "easycache", "cache_dit"}),
    ],
)
def test_enumerations_have_the_librarys_own_names(library: Library, enum: str, some: set[str]) -> None:
    names = library.enum(library.ffi.typeof(f"enum {enum}"))
    assert some <= set(names)
    assert not {name for name in names if name.upper() == "NONE" or "COUNT" in name.upper()} - {"none", "None"}
    parse = getattr(library.lib, f"str_to_{enum.removesuffix('_t')}", None)
    if parse is not None:  # the library reads its own names back
        assert {name: parse(name.encode()) for name in names} == names


def gguf_with_tensors(*names: str) -> bytes:
    """A GGUF file (version 3) of float tensors of one element with these names."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(names), 0)
    for index, name in enumerate(names):
        text = name.encode()
        header += struct.pack("<Q", len(text)) + text + struct.pack("<IQIQ", 1, 1, 0, 32 * index)
    return header + b"\0" * (-len(header) % 32) + b"\0" * 32 * len(names)


def test_percent_signs_in_native_text_are_text(tmp_path: Path) -> None:
    """ggml's log text once was the printf format: a '%' in a file's tensor name read, or wrote, memory at random."""
    path = tmp_path / "percent.gguf"
    path.write_bytes(gguf_with_tensors("%s%n%s%n", "%s%n%s%n"))  # a name that stands twice is logged
    code = (
        "import sys; from sdcffi import Engine, ModelLoadError; from sdcffi.engine import engine\n"
        "from sdcffi._models.files import Model\n"
        "engine.check_context = lambda params: (params, Model())\n"
        "lines = []\n"
        "try: Engine(sys.argv[1], isolated=False, on_log=lambda record: lines.append(record.text))\n"
        "except ModelLoadError: assert any('%s%n%s%n' in line for line in lines), lines\n"
        "else: raise SystemExit('loaded')\n"
    )
    assert run_python(code, str(path)) == ""
