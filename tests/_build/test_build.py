"""The build command, on a small stand-in for upstream that compiles in a second."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from places import ROOT
from stand_in import ENGINE, StandIn, wait_until

from sdcffi import BuildError
from sdcffi._build import backends, bootstrap, plan, toolkits, wheel
from sdcffi._build import main as build_command
from sdcffi._build.compilers import Compiler, find_compiler
from sdcffi._build.cpu import cpu_definitions
from sdcffi._build.digests import tree_digest
from sdcffi._build.pipeline import build, compile_native, publish
from sdcffi._build.plan import make_plan
from sdcffi._build.request import BuildRequest
from sdcffi._build.sources import locate_source
from sdcffi._build.tools import CMAKE, NINJA
from sdcffi._build.verify import check_devices
from sdcffi._files import file_digest
from sdcffi._machine.builds import MANIFEST, is_intact, read_build

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


pytestmark = pytest.mark.usefixtures("cache")

OTHERWISE = ENGINE.replace("{ return", "{ if (thing) return").replace("; }", "; return 0; }")


@pytest.fixture
def only_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH with cc and c++, nothing else, and none of the variables that name toolkits."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in ("cc", "c++"):
        (directory / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(directory))
    for name in ("CC", "CXX", "CUDACXX", "CUDA_PATH", "VULKAN_SDK"):
        monkeypatch.delenv(name, raising=False)
    return directory


def test_dry_run_tells_the_whole_plan_and_writes_nothing(cache: Path) -> None:
    command = [sys.executable, str(ROOT / "build_native.py"), "--dry-run", "--backend", "cpu", "--with-cli"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for part in ("stable-diffusion-cpp-python==0.4.7", "998d1957", "pip download", "-DSDCFFI_WITH_CLI=ON", "ninja -C"):
        assert part in done.stdout
    for patch in (ROOT / "csrc/patches").glob("*.patch"):
        assert patch.name in done.stdout
    assert not cache.exists()


def test_dry_run_of_a_directory_says_what_each_patch_does_to_it(stand_in: StandIn) -> None:
    assert "0001-answer.patch: applied" in stand_in.plan("--dry-run").describe()
    (stand_in.upstream / "src/engine.c").write_text("int sd_answer;\n")
    assert "0001-answer.patch: mended" in stand_in.plan("--dry-run").describe()
    (stand_in.upstream / "src/engine.c").write_text(OTHERWISE)
    assert "0001-answer.patch: unknown (the fault is in src/engine.c" in stand_in.plan("--dry-run").describe()


def test_an_unknown_patch_stops_the_build_unless_it_is_named(
    stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    (stand_in.upstream / "src/engine.c").write_text(OTHERWISE)
    with pytest.raises(BuildError, match=r"0001-answer\.patch: unknown(.|\n)*--allow-unpatched 0001-answer\.patch"):
        compile_native(stand_in.plan())
    assert "no verified revision" in capsys.readouterr().err
    manifest = read_build(compile_native(stand_in.plan("--allow-unpatched", "answer"))).manifest
    assert manifest["patches"] == []
    assert manifest["left_out"] == {"0001-answer.patch": "Answer otherwise"}
    assert manifest["request"]["allow-unpatched"] == "answer"
    assert stand_in.plan().key != stand_in.plan("--allow-unpatched", "answer").key
    with pytest.raises(BuildError, match="unknown"):  # the other build is no answer to this request
        compile_native(stand_in.plan())


def test_an_applied_patch_cannot_be_left_out(stand_in: StandIn) -> None:
    with pytest.raises(BuildError, match=r"--allow-unpatched 0001-answer\.patch: not unknown"):
        compile_native(stand_in.plan("--allow-unpatched", "answer"))
    with pytest.raises(BuildError, match=r"--allow-unpatched question: no such patch"):
        stand_in.plan("--allow-unpatched", "question")


def test_an_unknown_backend_names_the_legal_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        BuildRequest.from_arguments(["--backend", "cpu,gpu"])
    assert "'gpu' (legal: cpu, cuda, metal, vulkan, hip, sycl, opencl, musa" in capsys.readouterr().err


def test_config_settings_are_the_options(tmp_path: Path) -> None:
    settings = {"backend": "cpu,vulkan", "cpu": "portable", "jobs": ["2", "3"], "with-cli": "true"}
    settings |= {"engine": "newest", "allow-unpatched": "one,two"}
    request = BuildRequest.from_settings(settings)
    assert (request.engine, request.source, request.allow_unpatched) == ("newest", None, ("one", "two"))
    assert BuildRequest.from_settings(request.settings()) == replace(request, jobs=None)
    assert (request.backends, request.cpu, request.jobs, request.with_cli) == (("cpu", "vulkan"), "portable", 3, True)


def test_an_editable_install_builds_again_what_the_last_one_did_of_any_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[BuildRequest] = []
    monkeypatch.setattr(wheel, "build", requests.append)
    monkeypatch.setattr(wheel, "PACKAGE_BUILD", tmp_path)
    wheel.compile_in_place({})
    manifest = tmp_path / MANIFEST
    manifest.write_text(json.dumps({"schema": 0, "request": {"backend": "cpu,vulkan", "cpu": "portable"}}))
    wheel.compile_in_place({})
    wheel.compile_in_place({"backend": "cpu"})
    assert [(request.backends, request.cpu) for request in requests] == [
        *((None, "native"), (("cpu", "vulkan"), "portable"), (("cpu",), "native"))
    ]
    manifest.write_text("{")
    with pytest.raises(SystemExit, match=r"cannot be read(.|\n)*--config-settings backend=cpu"):
        wheel.compile_in_place({})
    wheel.compile_in_place({"backend": "cpu"})
    assert len(requests) == 4


def test_no_compiler_says_how_to_get_one(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no C and C\+\+ compiler(.|\n)*apt install build-essential(.|\n)*dnf"):
        stand_in.plan()


def test_cuda_without_nvcc(stand_in: StandIn, only_compilers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkits, "_CUDA_HOME", only_compilers)
    with pytest.raises(BuildError, match=r"backend cuda(.|\n)*no nvcc(.|\n)*apt install"):
        stand_in.plan("--backend", "cpu,cuda")


@pytest.fixture
def nvcc_alone(only_compilers: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toolkit of nvcc, as pip or a slim image has it."""
    nvcc = only_compilers.parent / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.symlink_to("/bin/true")
    monkeypatch.setattr(toolkits, "_CUDA_HOME", nvcc.parents[1])
    monkeypatch.setattr(toolkits, "_site_packages", lambda: [])
    return nvcc


def test_cuda_without_cublas(stand_in: StandIn, nvcc_alone: Path) -> None:
    with pytest.raises(BuildError, match=r"without cuBLAS(.|\n)*pip install nvidia-cublas"):
        stand_in.plan("--backend", "cuda")


def test_cublas_of_the_python_package_will_do(
    stand_in: StandIn, nvcc_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages/nvidia/cu13"
    for name in ("include/cublas_v2.h", "lib/libcublas.so.13", "lib/libcublasLt.so.13"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    monkeypatch.setenv(bootstrap.ORIGINAL_PATH, str(tmp_path / "site-packages"))
    options = stand_in.plan("--backend", "cuda", "--cuda-arch", "86,90", "--allow-missing-device").options
    assert options["SD_CUDA"] == "ON"
    assert options["CUDA_cublas_LIBRARY"] == str(package / "lib/libcublas.so.13")
    assert options["CMAKE_CUDA_ARCHITECTURES"] == "86;90"
    assert str(package / "include") in options["CMAKE_CUDA_FLAGS"]
    searched = re.findall(r"-Wl,-rpath,'([^']+)'", options["CMAKE_MODULE_LINKER_FLAGS"])
    assert searched[0] == "$ORIGIN/../../nvidia/cu13/lib"
    assert searched[-1] == str(package / "lib")


@pytest.fixture
def vulkan_sdk(only_compilers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Headers, loader and shader compiler where LunarG's SDK has them."""
    sdk = tmp_path / "sdk"
    for name in ("include/vulkan/vulkan.hpp", "lib/libvulkan.so", "bin/glslc"):
        (sdk / name).parent.mkdir(parents=True, exist_ok=True)
        (sdk / name).touch(0o755)
    monkeypatch.setenv("VULKAN_SDK", str(sdk))
    return sdk


def test_vulkan_of_the_sdk_will_do(stand_in: StandIn, vulkan_sdk: Path) -> None:
    plan = stand_in.plan("--backend", "vulkan", "--allow-missing-device")
    assert plan.backends == ("cpu", "vulkan")
    assert plan.options["SD_VULKAN"] == "ON"


def test_vulkan_headers_without_a_loader_are_not_enough(
    stand_in: StandIn, vulkan_sdk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (vulkan_sdk / "lib/libvulkan.so").unlink()
    monkeypatch.setattr(Compiler, "can_link", _without_system_libraries)
    with pytest.raises(BuildError, match=r"loader to link to(.|\n)*libvulkan-dev(.|\n)*vulkan-loader-devel(.|\n)*brew"):
        stand_in.plan("--backend", "vulkan")


def _without_system_libraries(compiler: Compiler, library: str, *directories: Path) -> bool:
    return any((root / f"lib{library}.so").is_file() for root in directories)


def test_the_linkers_libraries_are_found() -> None:
    assert find_compiler().can_link("c")
    assert not find_compiler().can_link("no-such-library")


def test_vulkan_without_glslc_names_only_glslc(stand_in: StandIn, vulkan_sdk: Path) -> None:
    (vulkan_sdk / "bin/glslc").unlink()
    with pytest.raises(BuildError, match=r"no glslc(.|\n)*apt install glslc") as caught:
        stand_in.plan("--backend", "vulkan")
    assert "headers" not in str(caught.value)


def test_auto_says_why_each_other_backend_is_left_out(stand_in: StandIn, only_compilers: Path) -> None:
    plan = stand_in.plan("--backend", "auto", "--dry-run")
    left_out = {remark.split(":")[0].removeprefix("without ") for remark in plan.remarks}
    assert left_out | set(plan.backends) == {"cpu", "cuda", "metal", "vulkan", "hip", "sycl", "opencl", "musa"}
    assert all("toolkit missing" in remark or "device missing" in remark for remark in plan.remarks)


def test_a_native_build_names_the_instruction_sets_of_this_machine() -> None:
    options = cpu_definitions("native", find_compiler())
    assert options["GGML_NATIVE"] == "OFF"
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    for option, flag in {"GGML_AVX2": "avx2", "GGML_FMA": "fma", "GGML_AVX512_BF16": "avx512_bf16"}.items():
        if option in options:
            assert options[option] == ("ON" if flag in flags else "OFF")


def test_a_portable_build_has_all_variants() -> None:
    assert cpu_definitions("portable", find_compiler())["GGML_CPU_ALL_VARIANTS"] == "ON"


def test_a_wrong_digest_gives_both(cache: Path) -> None:
    source = locate_source("pypi", ROOT / "csrc", cache)
    source.location.parent.mkdir(parents=True)
    source.location.write_bytes(b"something else")
    with pytest.raises(BuildError, match="wrong sha256") as caught:
        source.fetch()
    assert str(source.sha256) in str(caught.value)
    assert file_digest(source.location) in str(caught.value)


def test_without_network_the_way_out_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/", "FIND_LINKS": "", "RETRIES": "0", "TIMEOUT": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(BuildError, match=r"could not be downloaded.*--source PATH(.|\n)*pip download"):
        locate_source("pypi", ROOT / "csrc", cache).fetch()
    assert not list(cache.rglob("*.tar.gz"))


def test_the_key_depends_on_source_patches_options_and_compiler(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [stand_in.plan().key]
    assert stand_in.plan("--jobs", "1", "--output", str(tmp_path)).key == keys[0]
    keys += [stand_in.plan("--with-cli").key, stand_in.plan("--cpu", "portable").key]
    compiler = tmp_path / "my-c++"
    compiler.symlink_to(str(shutil.which("c++")))
    with monkeypatch.context() as context:
        context.setenv("CXX", str(compiler))
        keys.append(stand_in.plan().key)
    for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS"):
        with monkeypatch.context() as context:
            context.setenv(name, "-g0")
            keys.append(stand_in.plan().key)
            assert f"{name}: -g0" in stand_in.plan().describe()
            context.setenv(name, " ")
            assert stand_in.plan().key == keys[0]
    for changed in (stand_in.upstream / "src/engine.c", stand_in.csrc / "patches/0001-answer.patch"):
        with changed.open("a") as file:
            file.write("\n")
        keys.append(stand_in.plan().key)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("given", "c", "cxx"),
    [
        ({"CC": "clang"}, "clang", "clang++"),
        ({"CXX": "clang++"}, "clang", "clang++"),
        ({"CC": "gcc-12"}, "gcc-12", "g++-12"),
        ({"CXX": "x86_64-linux-gnu-g++-12"}, "x86_64-linux-gnu-gcc-12", "x86_64-linux-gnu-g++-12"),
        ({"CC": "icx"}, "icx", "icpx"),
        ({"CC": "cc"}, "cc", "c++"),
        ({"CC": "gcc-12", "CXX": "clang++"}, "gcc-12", "clang++"),
        ({"CC": "unheard-of"}, "unheard-of", "c++"),
    ],
)
def test_one_compiler_that_is_named_brings_its_partner(
    given: dict[str, str], c: str, cxx: str, only_compilers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = ("clang", "clang++", "gcc-12", "g++-12", "icx", "icpx", "unheard-of")
    for name in (*programs, "x86_64-linux-gnu-gcc-12", "x86_64-linux-gnu-g++-12"):
        (only_compilers / name).write_text("#!/bin/sh\necho x86_64-linux-gnu\n")
        (only_compilers / name).chmod(0o755)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = find_compiler()
    assert (found.c.name, found.cxx.name) == (c, cxx)
    if "CC" in given:  # by its path too
        monkeypatch.setenv("CC", str(only_compilers / given["CC"]))
        assert find_compiler() == found


@pytest.mark.parametrize("given", [{"CC": "ccache gcc-12"}, {"CXX": "{}/ccache  g++-12"}, {"CC": "{}/a b/gcc-12"}])
def test_a_launcher_may_precede_the_compiler(
    given: dict[str, str], only_compilers: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (only_compilers / "a b").mkdir()
    for name in ("ccache", "gcc-12", "g++-12", "a b/gcc-12", "a b/g++-12"):
        (only_compilers / name).write_text("#!/bin/sh\necho x86_64-linux-gnu\n")
        (only_compilers / name).chmod(0o755)
    for name, value in given.items():
        monkeypatch.setenv(name, value.format(only_compilers))
    found = find_compiler()
    assert (found.c.name, found.cxx.name) == ("gcc-12", "g++-12")
    assert found.launcher == (None if "a b" in str(given) else only_compilers / "ccache")
    if found.launcher:
        sccache = replace(found, launcher=only_compilers / "sccache")
        assert plan._launchers(sccache, ("cpu", "cuda")) == dict.fromkeys(
            [f"CMAKE_{language}_COMPILER_LAUNCHER" for language in ("C", "CXX", "CUDA")], str(sccache.launcher)
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"CC": "no-such-cc"}, "CC=no-such-cc: there is no such program; name one program, and put flags into CFLAGS"),
        ({"CXX": "g++ -m64"}, "CXX=g.. -m64: there is no such program.*CXXFLAGS"),
        ({"CXX": "ccache g++"}, "CXX=ccache g... there is no such program.*CXXFLAGS"),  # no ccache
        ({"CXX": "sccache clang -m64"}, "CXX=clang -m64: there is no such program.*CXXFLAGS"),
        ({"CC": "clang"}, "clang.., which belongs to the compiler that is set, is missing: install it, or set CXX too"),
    ],
)
def test_a_compiler_that_is_named_and_not_there_is_an_error(
    given: dict[str, str], said: str, only_compilers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("clang", "sccache"):
        (only_compilers / name).symlink_to(only_compilers / "cc")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BuildError, match=said):
        find_compiler()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("-DSD_CUDA=ON", "cpu,cuda"),
        ("-DCMAKE_X=1 -DGGML_VULKAN:BOOL=1", "cpu,vulkan"),
        ("-DSD_CUBLAS=on", "cpu,cuda"),
        ("'-DSD_CUDA=ON'", "cpu,cuda"),
        ('-DX="a b" "-D SD_CUDA=ON"', "cpu,cuda"),
        ("-DSD_SYCL=Y", "cpu,sycl"),
        ("-DGGML_HIPBLAS=ON", "cpu,hip"),
        ("-DSD_CUDA=TRUE;-DX=1", "cpu,cuda"),
        ("'-DSD_CUDA=ON", "cpu,cuda"),
    ],
)
@pytest.mark.parametrize("variable", ["CMAKE_ARGS", "SKBUILD_CMAKE_ARGS"])
def test_backends_in_cmake_args_are_answered_with_ours(
    variable: str, text: str, names: str, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(BuildError, match=f"^{variable} is not read.*--backend {names}.*=backend={names}"):
        stand_in.plan("--backend", "auto")
    stand_in.plan("--backend", "cpu")
    for harmless in ("-DSD_CUDA=OFF", "-DCMAKE_BUILD_TYPE=Release", ""):
        monkeypatch.setenv(variable, harmless)
        stand_in.plan("--backend", "auto", "--dry-run")


def test_a_dry_run_tells_the_plan_where_a_toolkit_is_missing(
    stand_in: StandIn, only_compilers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in (CMAKE, NINJA):
        monkeypatch.setattr(type(tool), "find", lambda self: Path("tool"))
    said = stand_in.plan("--backend", "metal", "--dry-run").describe()
    assert "backend metal cannot be built here" in said
    assert "-DSD_METAL=ON" in said
    with pytest.raises(BuildError, match="backend metal cannot be built here"):
        stand_in.plan("--backend", "metal")


def test_a_backend_without_a_device_is_refused_before_it_is_compiled(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = replace(backends.GPUS["cuda"], toolkit=lambda _: toolkits.Toolkit(), has_device=lambda: False)
    monkeypatch.setitem(backends.GPUS, "cuda", gpu)
    with pytest.raises(BuildError, match=r"cuda: no device found here.*add --allow-missing-device"):
        stand_in.plan("--backend", "cuda")
    for accepted in ("--allow-missing-device", "--dry-run"):
        assert "no device found here" in stand_in.plan("--backend", "cuda", accepted).remarks[0]


def test_a_dry_run_installs_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "is_complete", lambda: False)
    monkeypatch.delenv(bootstrap.ORIGINAL_PATH, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    assert build_command(["--dry-run"]) == 0
    signal.signal(signal.SIGTERM, before)
    out = capsys.readouterr().out
    assert "would be installed first" in out
    assert "cffi>=1.16" in out
    assert str(cache) in out
    assert not cache.exists()


def test_a_cache_that_cannot_be_used_is_not_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BuildError, match=r"cache directory .* cannot be written: Not a directory; set SDCFFI_CACHE"):
        bootstrap._create(bootstrap._directory([]), [])
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=5 << 20))
    with pytest.raises(BuildError, match="has 5 MiB free: free some space, or set SDCFFI_CACHE"):
        bootstrap._create(bootstrap._directory([]), [])


def write_wheel(folder: Path) -> Path:
    """A wheel with one module that is called `landed`."""
    about = "Metadata-Version: 2.1\nName: landed\nVersion: 1\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "landed-1-py3-none-any.whl", "w") as wheel:
        files = {"landed.py": "", "landed-1.dist-info/METADATA": about, "landed-1.dist-info/WHEEL": tags}
        record = "".join(f"{name},,\n" for name in [*files, "landed-1.dist-info/RECORD"])
        for name, text in {**files, "landed-1.dist-info/RECORD": record}.items():
            wheel.writestr(name, text)
    return folder / "landed-1-py3-none-any.whl"


def test_settings_of_pip_do_not_send_the_builds_packages_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDCFFI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bootstrap, "_modules", lambda: ["landed"])
    for name, value in {"USER": "1", "TARGET": "a", "PREFIX": "b", "ROOT": "c", "DRY_RUN": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value if value == "1" else str(tmp_path / value))
    settings = tmp_path / "pip.conf"
    settings.write_text("[install]\nuser = true\n", "utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    wheel = str(write_wheel(tmp_path))
    directory = tmp_path / "cache" / "venv"
    bootstrap._create(directory, [wheel])
    assert list(directory.rglob("landed.py"))
    shutil.rmtree(directory)
    settings.write_text(f"[install]\ntarget = {tmp_path / 'elsewhere'}\n", "utf-8")
    with pytest.raises(BuildError, match=r"the private environment lacks landed: .* Remove target, prefix, root"):
        bootstrap._create(directory, [wheel])
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_home_directory_the_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("SDCFFI_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(BuildError, match="has no home directory for a cache; set SDCFFI_CACHE"):
        bootstrap._cache()


def test_an_output_that_cannot_be_written_is_refused_before_the_build(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sdcffi._build.pipeline.build_verified", lambda _: pytest.fail("it was built"))
    request = BuildRequest(output=tmp_path / "file" / "native")
    with pytest.raises(BuildError, match="native cannot be written: Not a directory; give another --output DIR"):
        build(request)


def test_a_build_holds_what_its_manifest_says(stand_in: StandIn) -> None:
    native = compile_native(stand_in.plan())
    manifest = read_build(native).manifest
    names = {path.name for path in native.iterdir()} - {"manifest.json"}
    assert manifest["files"] == {name: file_digest(native / name) for name in names}
    assert manifest["library"] in names
    assert manifest["backends"] == {"cpu": [next(name for name in names if "ggml-cpu" in name)]}
    assert manifest["patches"] == ["0001-answer.patch"]
    assert manifest["mended"] == manifest["not_needed"] == manifest["left_out"] == {}
    assert manifest["upstream"]["revision"] is manifest["upstream"]["date"] is None
    assert manifest["csrc"] == tree_digest(stand_in.csrc)
    assert manifest["cli"] is None
    assert "sdg_answer" in (native / "cdef.h").read_text()
    assert "attribute" not in (native / "cdef.h").read_text()


def test_structs_and_fields_are_listed_for_the_layout_table(stand_in: StandIn) -> None:
    plan = stand_in.plan()
    compile_native(plan)
    lines = (plan.generated / "layout_fields.inc").read_text().split("\n")
    assert lines[:3] == ["STRUCT(sd_thing_t)", "FIELD(sd_thing_t, width)", "FIELD(sd_thing_t, cfg)"]


def test_the_users_own_checkout_is_not_touched(stand_in: StandIn) -> None:
    before = {path: path.read_bytes() for path in stand_in.upstream.rglob("*") if path.is_file()}
    compile_native(stand_in.plan())
    assert {path: path.read_bytes() for path in stand_in.upstream.rglob("*") if path.is_file()} == before


def test_an_archive_is_a_source_too(stand_in: StandIn, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "upstream.tar.gz", "w:gz") as archive:
        archive.add(stand_in.upstream, "release-1.0/vendor/upstream")
    native = compile_native(stand_in.plan("--source", str(tmp_path / "upstream.tar.gz")))
    assert read_build(native).manifest["upstream"]["sha256"] == file_digest(tmp_path / "upstream.tar.gz")


def test_a_truncated_archive_is_refused_and_leaves_no_tree(stand_in: StandIn, tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "upstream.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(stand_in.upstream, "upstream")
    archive.write_bytes(archive.read_bytes()[:-40])
    plan = stand_in.plan("--source", str(archive))
    with pytest.raises(BuildError, match="cannot be unpacked"):
        compile_native(plan)
    assert not plan.tree.exists()


def _git(*arguments: str, cwd: Path) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_cmake_and_ninja_of_the_packages_will_do(only_compilers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in (CMAKE, NINJA):
        program = only_compilers.parent / "packages" / tool.name
        program.parent.mkdir(exist_ok=True)
        program.symlink_to("/bin/true")
        package = types.ModuleType(tool.name)
        setattr(package, tool.directory_attribute, str(program.parent))
        monkeypatch.setitem(sys.modules, tool.name, package)
        assert tool.find() == program


def test_git_builds_the_revision_that_was_named(stand_in: StandIn) -> None:
    _git("init", "--quiet", cwd=stand_in.upstream)
    _git("add", ".", cwd=stand_in.upstream)
    _git("commit", "--quiet", "-m", "one", cwd=stand_in.upstream)
    _git("tag", "v1", cwd=stand_in.upstream)
    (stand_in.upstream / "src/engine.c").write_text("not C\n")
    _git("commit", "--quiet", "-am", "two", cwd=stand_in.upstream)
    native = compile_native(stand_in.plan("--source", "git@v1", "--git-url", str(stand_in.upstream)))
    assert _git("rev-parse", "v1", cwd=stand_in.upstream).startswith(read_build(native).manifest["upstream"]["commit"])


def test_git_out_of_reach_says_what_was_tried(stand_in: StandIn, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"could not be fetched.*--source PATH(.|\n)*git .*fetch"):
        stand_in.plan("--source", "git", "--git-url", str(tmp_path / "nowhere"))


def test_a_second_build_is_taken_from_the_cache(stand_in: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    compile_native(stand_in.plan())
    capsys.readouterr()
    compile_native(stand_in.plan())
    assert "already in the cache" in capsys.readouterr().err
    assert stand_in.trace == ["one", "two"]


def test_clean_builds_again(stand_in: StandIn) -> None:
    compile_native(stand_in.plan())
    compile_native(stand_in.plan("--clean"))
    assert stand_in.trace == ["one", "two"] * 2


def test_a_damaged_cache_is_not_believed(stand_in: StandIn) -> None:
    native = compile_native(stand_in.plan())
    (native / "cdef.h").write_text("damaged")
    assert not is_intact(native)
    assert "sdg_answer" in (compile_native(stand_in.plan()) / "cdef.h").read_text()


def test_two_builds_at_once_compile_once(stand_in: StandIn) -> None:
    (stand_in.tools / "hold").touch()
    first = stand_in.start()
    stand_in.wait_for("two")
    second = stand_in.start()
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    (stand_in.tools / "hold").unlink()
    said = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "already in the cache" in said[1]
    assert stand_in.trace == ["one", "two"]


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_goes_on_where_it_stopped(stand_in: StandIn, blow: signal.Signals) -> None:
    (stand_in.tools / "hold").touch()
    process = stand_in.start()
    stand_in.wait_for("two")
    process.send_signal(blow)
    process.communicate(timeout=60)
    assert process.returncode
    assert not stand_in.plan().native.exists()
    (stand_in.tools / "hold").unlink()
    assert is_intact(compile_native(stand_in.plan()))
    assert stand_in.trace == ["one", "two", "two"]


def test_a_build_interrupted_in_one_checkout_is_finished_by_another(stand_in: StandIn, tmp_path: Path) -> None:
    (stand_in.tools / "hold").touch()
    process = stand_in.start()
    stand_in.wait_for("two")
    os.killpg(process.pid, signal.SIGKILL)  # ninja too
    process.communicate(timeout=60)
    (stand_in.tools / "hold").unlink()
    other = shutil.copytree(stand_in.csrc, tmp_path / "checkout" / "csrc")
    plan = make_plan(BuildRequest.from_arguments(stand_in.arguments()), other)
    # ninja's step is in a group of its own, has outlived it, and would write where the next build cleans up.
    wait_until((plan.build_directory / "two").exists, "the step of the killed build never ended")
    assert plan.key == stand_in.plan().key
    assert is_intact(compile_native(plan))


def test_a_half_unpacked_tree_is_not_taken_for_a_whole_one(stand_in: StandIn) -> None:
    plan = stand_in.plan()
    partial = plan.tree.with_name(f"{plan.tree.name}.partial")
    (partial / "include").mkdir(parents=True)
    (partial / "include/stable-diffusion.h").write_text("#error half\n")
    assert is_intact(compile_native(plan))
    assert not partial.exists()


def test_a_compiler_error_is_shown_with_the_log(stand_in: StandIn) -> None:
    (stand_in.upstream / "src/engine.c").write_text("int sd_answer = nonsense;\n")
    plan = stand_in.plan()
    with pytest.raises(BuildError, match=r"engine\.c.*error: .*nonsense") as caught:
        compile_native(plan)
    assert str(plan.log) in str(caught.value)
    assert plan.log.is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_met_by_the_compiler_is_told_with_the_space_left(stand_in: StandIn, cache: Path) -> None:
    (stand_in.tools / "disk-full").touch()
    with pytest.raises(BuildError, match=rf"^No space left on device: {cache} has \d+ MiB free"):
        compile_native(stand_in.plan())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_met_by_ourselves_is_told_too(stand_in: StandIn) -> None:
    plan = stand_in.plan()
    plan.workspace.mkdir(parents=True)
    plan.log.symlink_to("/dev/full")
    with pytest.raises(BuildError, match=r"^No space left on device: .* MiB free"):
        compile_native(plan)


def test_a_new_build_replaces_the_old_one_whole(stand_in: StandIn, tmp_path: Path) -> None:
    native, output = compile_native(stand_in.plan()), tmp_path / "output"
    publish(native, output)
    (output / "left-over.so").touch()
    publish(native, output)
    assert {path.name for path in output.iterdir()} == {path.name for path in native.iterdir()}


def test_an_output_directory_with_other_things_is_refused(stand_in: StandIn, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").touch()
    with pytest.raises(BuildError, match="not empty"):
        publish(compile_native(stand_in.plan()), tmp_path / "home")
    assert (tmp_path / "home/thesis.tex").exists()


def test_a_backend_without_device_is_an_error() -> None:
    cpu = {"name": "CPU", "description": "a processor", "backend": "CPU", "type": "cpu"}
    check_devices(("cpu",), [cpu])
    with pytest.raises(BuildError, match=r"backend cuda .*finds no CUDA device.*--allow-missing-device"):
        check_devices(("cpu", "cuda"), [cpu])


def test_the_build_package_needs_the_standard_library_only() -> None:
    program = "import sys; sys.path.append(sys.argv[1]); from sdcffi._build import bootstrap; bootstrap.is_complete()"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_bootstrap_installs_what_pyproject_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["build-system"]["requires"]) == set(bootstrap.REQUIREMENTS.values())


def test_a_wheel_carries_the_build_and_fits_every_python(stand_in: StandIn, tmp_path: Path) -> None:
    native = compile_native(stand_in.plan())
    program = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    environment = {**os.environ, "SDCFFI_WHEEL_NATIVE": str(native), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    name = done.stdout.split()[-1]
    assert name.startswith("sdcffi-0.1.0-py3-none-")
    assert not name.endswith("-any.whl")
    with zipfile.ZipFile(tmp_path / name) as wheel:
        files = set(wheel.namelist())
        manifest = json.loads(wheel.read("sdcffi/_native/manifest.json"))
    native_files = {file for file in files if file.startswith("sdcffi/_native/")}
    assert native_files == {f"sdcffi/_native/{name}" for name in [*manifest["files"], "manifest.json"]}
    listed = subprocess.run(["git", "ls-files", "sdcffi", "csrc"], cwd=ROOT, check=True, capture_output=True, text=True)
    tracked = {name if name.startswith("sdcffi/") else f"sdcffi/{name}" for name in listed.stdout.split()}
    assert {file for file in files - native_files if ".dist-info/" not in file} == tracked
    assert {"sdcffi/py.typed", "sdcffi/csrc/upstream.toml", "sdcffi/__init__.pyi", "sdcffi/weights/dit.gguf"} <= tracked


@pytest.mark.slow
def test_pip_builds_and_installs_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the user's cache
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path)]
    subprocess.run([*pip, "--config-settings=backend=cpu", str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("sdcffi-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    info = [str(python), "-m", "sdcffi", "info", "--json"]
    done = subprocess.run(info, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["layout"] == "ok"
