"""The guard under sanitizers with a stub engine, and what comes back where the engine used to end the process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sd1_model
from engines import has_field, has_function
from full_size import sd1, write_zeros
from header_files import safetensors_bytes
from places import ROOT, TESTS
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

from sdcffi._build.places import csrc_directory

Run = subprocess.CompletedProcess[str]
RunStub = Callable[..., Run]

# --- the guard and a stub engine, with sanitizers ---


def compile_stub(directory: Path, pinned: Path, sanitizers: str) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ or clang++ on Linux")
    csrc, program = csrc_directory(), directory / "stub"
    sources = [
        TESTS / "support" / "stub_engine.cpp",
        csrc / "guard" / "guard.cpp",
        csrc / "guard" / "crash_report.cpp",
        csrc / "text" / "notes.cpp",
    ]
    includes = [f"-I{path}" for path in (csrc, pinned / "include", pinned / "ggml" / "include")]
    flags = ["-std=c++17", "-g", "-O1", "-rdynamic", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    flags += ["-DRESULTS_ARE_ARGUMENTS"] if has_function("free_sd_images") else []
    command = [compiler, *flags, "-DGGML_MAX_NAME=128", *includes, *sources, "-o", program, "-ldl", "-pthread"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


def runner(program: Path) -> RunStub:
    # The crash handler's stack is not the sanitizer's to free.
    environment = {**os.environ, "ASAN_OPTIONS": "use_sigaltstack=0:detect_leaks=1"}

    def run(*arguments: str) -> Run:
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, timeout=60, env=environment
        )

    return run


@pytest.fixture(scope="module")
def stub(pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> RunStub:
    """The stub under AddressSanitizer and UndefinedBehaviorSanitizer."""
    return runner(compile_stub(tmp_path_factory.mktemp("asan"), pinned, "address,undefined"))


@pytest.fixture(scope="module")
def threaded_stub(pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> RunStub:
    """The stub under ThreadSanitizer."""
    return runner(compile_stub(tmp_path_factory.mktemp("tsan"), pinned, "thread"))


RETURNED = {
    "exception": "2 the shape is wrong",
    "bad_alloc": "3 std::bad_alloc",
    "out_of_memory": "3 no memory for weights of 7 MiB",
    "unknown": "2 an exception of unknown type",
    "refused": "1 no noise levels",
    "assert": "4 ggml.c:1: GGML_ASSERT(stub) failed",
    "cancelled_before": "5 cancelled",
    "cancelled_during": "5 cancelled",
}


@pytest.mark.parametrize("call", ["draw", "upscale"])
@pytest.mark.parametrize("wish", RETURNED)
def test_what_is_thrown_becomes_a_status_and_the_next_call_succeeds(stub: RunStub, wish: str, call: str) -> None:
    run = stub(wish, call)
    assert (run.returncode, run.stdout.splitlines(), run.stderr) == (0, [RETURNED[wish], "0 "], "")


@pytest.mark.parametrize("wish", [wish for wish in RETURNED if not wish.startswith("cancelled")])
def test_what_is_thrown_while_a_video_is_made_becomes_a_status(stub: RunStub, wish: str) -> None:
    run = stub("film", "whole", wish)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{RETURNED[wish]}, 0 frames\n0 , 5 frames\n", "")


MISTAKES = {
    "width": "width and height must be at least 1",
    "height": "width and height must be at least 1",
    "loras": "loras is NULL",
    "lora path": "a LoRA's path is NULL",
    "init_image": "init_image needs pixels in 3 channels",
    "custom_sigmas": "custom_sigmas is NULL",
    "layers": "slg.layers is NULL",
}
IMAGE_MISTAKES = {
    **MISTAKES,
    "mask_image": "mask_image needs pixels in 1 channel",
    "control_image": "control_image needs pixels in 3 channels",
    "ref_images": "ref_images is NULL",
    "reference": "ref_images[0] needs pixels in 3 channels",
    "id_images": "id_images is NULL",
    "model": "the model makes no images",
}
VIDEO_MISTAKES = {
    **MISTAKES,
    "video_frames": "video_frames must be at least 1",
    "control_frames": "control_frames is NULL",
    "control frame": "control_frames[0] needs pixels in 3 channels",
    "end_image": "end_image needs pixels in 3 channels",
    "model": "the model makes no videos",
}


@pytest.mark.parametrize("mistake", IMAGE_MISTAKES)
def test_wrong_parameters_of_an_image_are_refused_and_the_next_call_succeeds(stub: RunStub, mistake: str) -> None:
    run = stub("draw", mistake)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"1 {IMAGE_MISTAKES[mistake]}\n0 \n", "")


@pytest.mark.parametrize("mistake", VIDEO_MISTAKES)
def test_wrong_parameters_of_a_video_are_refused_and_the_next_call_succeeds(stub: RunStub, mistake: str) -> None:
    run = stub("film", mistake)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"1 {VIDEO_MISTAKES[mistake]}, 0 frames\n0 , 5 frames\n", "")


@pytest.mark.parametrize(("call", "kind"), [("draw_nothing", "images"), ("film_nothing", "frames")])
def test_a_call_without_context_or_parameters_is_refused(stub: RunStub, call: str, kind: str) -> None:
    run = stub(call)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"1 0 {kind}\n1 0 {kind}\n", "")


def sections(text: str) -> dict[str, list[str]]:
    """Take a report apart: heading to what stands on its line and below it."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"sdcffi-(\w+):? ?(.*)$", line):
            lines = found.setdefault(match[1], [])
            lines += [match[2]] if match[2] else []
        else:
            lines.append(line)
    return found


@pytest.mark.parametrize("wish", ["assert_elsewhere", "assert_in_kernels"])
def test_an_assertion_that_nobody_can_catch_is_reported_before_the_process_ends(stub: RunStub, wish: str) -> None:
    run = stub(wish)
    report = sections(run.stderr)
    assert run.returncode == -signal.SIGABRT
    assert list(report) == ["assert", "backtrace", "log", "end"]
    assert report["assert"] == ["ggml.c:1: GGML_ASSERT(stub) failed"]
    assert any("report_assert" in frame for frame in report["backtrace"])
    assert report["log"] == (["debug: first", "warn: second of two"] if wish == "assert_elsewhere" else [])


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT"])
def test_a_deadly_signal_is_reported_and_stays_the_exit_status(stub: RunStub, name: str) -> None:
    run = stub(name, "catch")
    report = sections(run.stderr)
    assert run.returncode == -signal.Signals[name]
    assert list(report) == ["signal", "backtrace", "log", "end"]
    assert report["signal"] == [name]
    assert any("generate_image" in frame for frame in report["backtrace"])


def test_a_stack_overflow_is_reported(stub: RunStub) -> None:
    run = stub("overflow", "catch")
    assert run.returncode == -signal.SIGSEGV
    assert sections(run.stderr)["signal"] == ["SIGSEGV"]
    assert "sdcffi-end" in run.stderr


def test_the_abort_after_a_reported_assertion_adds_only_its_name(stub: RunStub) -> None:
    run = stub("assert_elsewhere", "catch")
    assert run.returncode == -signal.SIGABRT
    assert run.stderr.count("sdcffi-backtrace:") == 1
    assert run.stderr.endswith("sdcffi-end\nsdcffi-signal: SIGABRT\n")


def test_an_assertion_whose_exception_is_not_caught_is_named(stub: RunStub) -> None:
    report = sections(stub("assert_uncaught", "catch").stderr)
    assert report["assert"] == ["ggml.c:1: GGML_ASSERT(stub) failed"]
    assert report["signal"] == ["SIGABRT"]


@pytest.mark.parametrize("build", ["stub", pytest.param("threaded_stub", marks=pytest.mark.slow)])
def test_eight_threads_log_whole_lines(build: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(build)("log")
    log = sections(run.stderr)["log"]
    assert run.returncode == -signal.SIGABRT
    assert "Sanitizer" not in run.stderr
    assert 40 <= len(log) <= 50
    assert all(re.fullmatch(r"info: thread \d line \d+\.{200}", line) for line in log)


@pytest.mark.slow
def test_cancelling_from_another_thread_is_no_race(threaded_stub: RunStub) -> None:
    run = threaded_stub("cancelled_during")
    assert (run.returncode, run.stdout, run.stderr) == (0, "5 cancelled\n0 \n", "")


# --- the real library, past the package's own checks; a crash would end the child only ---


def in_child(code: str, *arguments: str | Path) -> Any:
    """Run `code` after ``from guarded_calls import *``; it leaves its answer in `result`."""
    program = "import json, sys\nfrom guarded_calls import *\n" + textwrap.dedent(code) + "\nprint(json.dumps(result))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Path:
    return tiny_model.diffusion_model.parent


def test_a_context_draws_the_same_after_a_cancel_anywhere(model: Path) -> None:
    code = """
        import threading, time
        def cancelled(after, **fields):
            at = []
            def cancel():
                while not any(after in line for line in lines):
                    time.sleep(0.001)
                at.append(time.perf_counter())
                lib.sdg_cancel()
            lines.clear()
            thread = threading.Thread(target=cancel)
            thread.start()
            status = draw(context, image_params(**fields)).status
            seconds = time.perf_counter() - at[0]
            thread.join()
            lib.sdg_reset_cancel()
            return status, seconds, same(draw(context, image_params()).value, before)
        context = open_context(context_params(sys.argv[1])).value
        before = draw(context, image_params()).value
        result = [cancelled("qwen3 compute buffer", size=256),
                  cancelled("flux compute buffer", size=256, steps=50),
                  cancelled("taesd compute buffer", size=512)]
    """
    outcomes = in_child(code, model)
    assert [(status, unharmed) for status, _, unharmed in outcomes] == [("CANCELLED", True)] * 3
    assert max(seconds for _, seconds, _ in outcomes) < 1.5


def test_a_device_that_is_not_there_is_refused_and_the_others_stay() -> None:
    code = """
        outcomes = [call(lib.sdg_offer_device, name)[:2] for name in (b"CUDA9", b"CPU")]
        result = outcomes, lib.sdg_device_count(), call(lib.sdg_offer_all_devices).status, lib.sdg_device_count()
    """
    assert in_child(code) == [[["FAILED", "no device CUDA9"], ["OK", ""]], 1, "OK", 1]


def test_an_assertion_on_a_loader_thread_is_an_error_and_leaves_no_weights(model: Path) -> None:
    """Nothing can be converted to Q8_1 while loading."""
    code = """
        import re
        def size():
            return int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
        params = context_params(sys.argv[1])
        params.wtype = lib.SD_TYPE_Q8_1
        first = open_context(params)
        before = size()
        again = {open_context(params).status for _ in range(5)}
        result = [first.status, first.text, again == {"ASSERT"}, size() - before]
    """
    status, text, again, grown = in_child(code, model)
    assert (status, again) == ("ASSERT", True)
    assert "GGML_ASSERT" in text
    assert grown < 200  # MiB: five dead threads keep 10 of address space each; five contexts would keep 370


def test_weights_in_a_prompt_that_are_no_numbers_count_as_one(tmp_path: Path) -> None:
    """Python refuses them before, but other callers of the library, such as sd-cli, don't."""
    code = """
        params = new("sd_ctx_params_t *")
        lib.sd_ctx_params_init(params)
        params.model_path = path(sys.argv[1])
        out, rows, count = new("sd_ctx_t **"), new("sdg_encoder_tokens **"), new("size_t *")
        result = [call(lib.sdg_new_empty_context, params, out).status]
        for cat in ["(cat:.)", "(cat:+.)", "(cat:" + "9" * 50 + ")", "(" * 2000 + "cat", "(cat:1.5)"]:
            read = call(lib.sdg_tokens, out[0], path(cat), rows, count)
            token = rows[0][0].chunks[0].tokens[1]
            notes = [library.text(note) for note in ffi.unpack(lib.sdg_prompt_notes(count), count[0])]
            result.append([read.status, token.weight, [note.endswith("taken as 1") for note in notes]])
    """
    model = write_zeros(sd1_model.small().tensors, tmp_path / "zeros.safetensors")
    assert in_child(code, model) == ["OK", *([["OK", 1, [True]]] * 4), ["OK", 1.5, []]]


SCHEDULES = [
    ("gits", 4, "the scheduler gits has no noise levels for a model of flow prediction"),
    ("ays", 4, "the scheduler ays has no noise levels for a model of flow prediction"),
    ("discrete", 0, "discrete with 0 steps gives no noise levels"),
    ("discrete", -3, "the number of steps is negative: -3"),
    ("custom", 1, "custom_sigmas gives noise levels (sigmas) that are not finite"),
]


def test_schedules_without_numbers_are_refused_and_the_context_stays(model: Path) -> None:
    code = """
        context = open_context(context_params(sys.argv[1])).value
        result = []
        for scheduler, steps, _ in json.loads(sys.argv[2]):
            params = image_params(steps=steps)
            sample = params.sample_params
            if scheduler == "custom":
                sample.custom_sigmas, sample.custom_sigmas_count = new("float[]", [1, float("nan"), 0]), 3
            else:
                sample.scheduler = lib.str_to_scheduler(scheduler.encode())
            refused = draw(context, params)
            result.append([refused.status, refused.text, draw(context, image_params()).status])
    """
    outcomes = in_child(code, model, json.dumps(SCHEDULES))
    assert [(status, after) for status, _, after in outcomes] == [("FAILED", "OK")] * len(SCHEDULES)
    assert [reason for (_, text, _), (*_, reason) in zip(outcomes, SCHEDULES, strict=True) if reason not in text] == []


def test_a_latent_of_nan_is_refused_and_the_context_stays(model: Path) -> None:
    code = """
        context = open_context(context_params(sys.argv[1])).value
        params = image_params()
        params.sample_params.guidance.txt_cfg = float("nan")
        refused = draw(context, params)
        result = [refused.status, refused.text, draw(context, image_params()).status]
    """
    status, text, after = in_child(code, model)
    assert (status, after) == ("FAILED", "OK")
    assert text.startswith("2048 of 2048 values of the latent are not finite numbers")


def test_null_pointers_are_failures(model: Path) -> None:
    code = """
        embeddings = context_params(sys.argv[1])
        embeddings.embedding_count = 1
        context = open_context(context_params(sys.argv[1])).value
        loras, references, data, sigmas, layers = (image_params() for _ in range(5))
        loras.lora_count = references.ref_images_count = data.ref_images_count = 1
        data.ref_images = new("sd_image_t[]", [(64, 64, 3, ffi.NULL)])
        sigmas.sample_params.custom_sigmas_count = 2
        layers.sample_params.guidance.slg.layers = ffi.NULL
        layers.sample_params.guidance.slg.layer_count = 2
        null = ffi.NULL
        result = [call(lib.sdg_convert, null, null, null, 0, null, False).status,
                  open_context(null).status, open_context(embeddings).status]
        result += [draw(context, params).status for params in (loras, references, data, sigmas, layers)]
        result.append(draw(context, image_params()).status)
        result.append(call(lib.sdg_free_context, null).status)
    """
    assert in_child(code, model) == ["FAILED"] * 8 + ["OK"] * 2


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upscaling network that makes pictures four times as wide and high."""
    return write_network(tmp_path_factory.mktemp("network") / "x4.safetensors", random_weights(4))


def test_what_an_upscaler_is_not_given_rightly_is_a_failure_and_it_goes_on(network: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(safetensors({"conv_first.weight": [1]}))
    code = """
        null = ffi.NULL
        upscaler = open_upscaler(path(sys.argv[1])).value
        pixels = new("uint8_t[]", 12)
        pictures = [None, (2, 2, 3, null), (0, 2, 3, pixels), (2, 0, 3, pixels), (2, 2, 1, pixels), (2, 2, 4, pixels)]
        pictures += [(6690, 6690, 3, pixels), (1 << 31, 1 << 31, 3, pixels)]
        files = [null, path("/does/not/exist"), path(sys.argv[2])]
        result = [[open_upscaler(file)[0] for file in files],
                  [enlarge(upscaler, picture)[:2] for picture in pictures], enlarge(null, (2, 2, 3, pixels)).text,
                  enlarge(upscaler, (2, 2, 3, pixels)).status, lib.sdg_upscale_factor(upscaler),
                  [call(lib.sdg_free_upscaler, context).status for context in (upscaler, null)]]
    """
    files, pictures, nothing, after, factor, freed = in_child(code, network, bad)
    assert files == ["FAILED"] * 3
    assert pictures[:6] == [["FAILED", "the image needs pixels in 3 channels"]] * 6
    assert pictures[6:] == [["FAILED", "the upscaled image would have more than 2^31 bytes"]] * 2
    assert (nothing, after, factor, freed) == ("the upscaler is NULL", "OK", 4, ["OK", "OK"])


def test_a_network_of_nan_is_refused_and_stays(tmp_path: Path) -> None:
    weights = random_weights(2)
    weights["conv_last.bias"][0] = float("nan")
    network = write_network(tmp_path / "nan.safetensors", weights)
    code = """
        upscaler = open_upscaler(path(sys.argv[1])).value
        result = [enlarge(upscaler, (2, 2, 3, new("uint8_t[]", 12)))[:2] for _ in range(2)]
    """
    found = in_child(code, network)
    assert found[0] == found[1]
    assert found[0][0] == "FAILED"
    assert found[0][1].startswith("16 of 48 values of the image are not finite numbers")


def test_an_upscaler_gives_its_backend_back(network: Path) -> None:
    """With direct convolution a backend holds 16 MiB to work in: 64 of four, where the allocator may keep one's."""
    code = """
        def size_after_one_more():
            upscaler = open_upscaler(path(sys.argv[1]), direct=True).value
            enlarge(upscaler, (4, 4, 3, new("uint8_t[]", 48)))
            call(lib.sdg_free_upscaler, upscaler)
            return int(open("/proc/self/statm").read().split()[0]) * 4096 / 2**20
        sizes = [size_after_one_more() for _ in range(6)]
        result = sizes[-1] - sizes[1]
    """
    assert in_child(code, network) < 32


def test_edges_of_no_image_are_a_failure() -> None:
    code = """
        data = new("uint8_t[]", 256)
        images = [(8, 8, 3, ffi.NULL), *((*shape, data) for shape in ((8, 0, 3), (0, 8, 3), (8, 8, 1), (8, 8, 2)))]
        images = [ffi.NULL, *(new("sd_image_t *", image) for image in images)]
        result = [call(lib.sdg_preprocess_canny, image, 0.1, 0.1, 0.8, 1, False)[:2] for image in images]
    """
    assert in_child(code) == [["FAILED", "the image needs pixels in 3 or 4 channels"]] * 6


def test_a_context_without_an_encoder_refuses_pictures(model: Path) -> None:
    if not has_field("sd_ctx_params_t", "vae_decode_only"):
        pytest.skip("this engine has an encoder in every context")
    code = """
        params = context_params(sys.argv[1])
        params.vae_decode_only = True
        context = open_context(params).value
        picture = image_params()
        picture.init_image = (64, 64, 3, new("uint8_t[]", 64 * 64 * 3))
        refused = draw(context, picture)
        result = [refused.status, refused.text, draw(context, image_params()).status]
    """
    status, text, after = in_child(code, model)
    assert (status, after) == ("FAILED", "OK")
    assert "vae_decode_only" in text


@pytest.mark.skipif(not has_field("sd_ctx_params_t", "params_backend"), reason="this engine keeps all weights")
def test_an_adapter_is_computed_beside_weights_that_are_read_for_each_use(model: Path) -> None:
    code = """
        import threading
        def opened(mode, **fields):
            params = context_params(sys.argv[1])
            params.lora_apply_mode = mode
            for field, value in fields.items():
                setattr(params, field, value)
            return open_context(params).value
        def drawn(context, multiplier):
            params, lora = image_params(), new("sd_lora_t *")
            lora.path, lora.multiplier = path(sys.argv[1] + "/lora.safetensors"), multiplier
            params.loras, params.lora_count = lora, int(multiplier != 0)
            return draw(context, params)
        kept = opened(lib.LORA_APPLY_AT_RUNTIME)
        read = opened(lib.LORA_APPLY_IMMEDIATELY, params_backend=path("*=disk"))
        for context in (kept, read):
            assert check_lora(context, sys.argv[1] + "/lora.safetensors").status == "OK"
        multipliers = (0, 1, 1, 0.5, 0)
        images = {multiplier: drawn(kept, multiplier).value for multiplier in multipliers}
        result = [same(drawn(read, multiplier).value, images[multiplier]) for multiplier in multipliers]
        for index in range(10):
            multiplier = multipliers[index % 5]
            timer = threading.Timer(0.01 * index, lib.sdg_cancel)
            timer.start()
            drawn(read, multiplier)
            timer.join()
            lib.sdg_reset_cancel()
            result.append(same(drawn(read, multiplier).value, images[multiplier]))
        result.append(not same(images[0], images[1]))
    """
    assert all(in_child(code, model))


def test_a_lora_file_is_no_diffusion_model(model: Path) -> None:
    code = """
        params = context_params(sys.argv[1])
        params.diffusion_model_path = path(sys.argv[1] + "/lora.safetensors")
        refused = open_context(params)
        result = [refused.status, refused.text + "".join(lines)]
    """
    status, told = in_child(code, model)
    assert status == "FAILED"
    assert re.search("the file is not a diffusion model|model metadata validation failed", told), told


def safetensors(header: Any, data: bytes = bytes(128)) -> bytes:
    return safetensors_bytes(header, data)


def test_weights_and_computing_without_memory_are_errors_and_the_context_stays(model: Path, tmp_path: Path) -> None:
    elements = 1 << 36
    name = "diffusion_model.double_blocks.0.img_attn.proj.lora_B.weight"
    header = {name: {"dtype": "F16", "shape": [elements // 4, 4], "data_offsets": [0, 2 * elements]}}
    big = tmp_path / "big.safetensors"
    big.write_bytes(safetensors(header, b""))
    os.truncate(big, big.stat().st_size + 2 * elements)
    code = """
        import resource
        context = open_context(context_params(sys.argv[1])).value
        before = draw(context, image_params()).value
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20),) * 2)
        result = [check_lora(context, sys.argv[2])[:2], draw(context, image_params(size=2048))[:2],
                  same(draw(context, image_params()).value, before)]
    """
    assert in_child(code, model, big) == [
        ["OUT_OF_MEMORY", "no memory for weights of 131072 MiB"],
        ["OUT_OF_MEMORY", "flux: no memory to compute in"],
        True,
    ]


def gguf(tensors: bytes = b"", count: int = 0, metadata: bytes = b"", entries: int = 0) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, count, entries) + metadata + tensors
    return head + bytes(-len(head) % 32) + bytes(128)


def tensor(
    dimensions: tuple[int, ...] = (32,), type: int = 0, offset: int = 0, n_dims: int | None = None, name: bytes = b"a"
) -> bytes:
    count = len(dimensions) if n_dims is None else n_dims
    shape = b"".join(struct.pack("<q", dimension) for dimension in dimensions)
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", count) + shape + struct.pack("<IQ", type, offset)


ENTRY: Mapping[str, Any] = {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}
MARK: Mapping[str, Any] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
ALIGNMENT = struct.pack("<Q", 17) + b"general.alignment"
ARRAY = struct.pack("<IIQ", 9, 9, 1)
TWICE = struct.pack("<QcIB", 1, b"k", 0, 1) * 2  # a key that ggml's reader refuses, and the lenient one does not
BAD_FILES = {
    "no-object.safetensors": safetensors({"a": 5}),
    "no-header.safetensors": safetensors([1, 2]),
    "no-dtype.safetensors": safetensors({"a": {"shape": [32], "data_offsets": [0, 128]}}),
    "no-offsets.safetensors": safetensors({"a": {"dtype": "F32", "shape": [32]}}),
    "outside.safetensors": safetensors({"a": {**ENTRY, "data_offsets": [1 << 20, (1 << 20) + 128]}}),
    "quantisation.safetensors": safetensors({"a": ENTRY, "a.comfy_quant": 5}),
    "overflow.safetensors": safetensors({"a": {**ENTRY, "shape": [1 << 40, 1 << 40], "data_offsets": [0, 0]}}),
    "long-name.gguf": gguf(struct.pack("<Q", 1 << 62) + bytes(100), 1),
    "dimensions.gguf": gguf(tensor(n_dims=1 << 31), 1),
    "removed-type.gguf": gguf(tensor(type=4), 1),
    "unknown-type.gguf": gguf(tensor(type=200), 1),
    "zero.gguf": gguf(tensor((32, 0)), 1),
    "zero-first.gguf": gguf(tensor((0, 32)), 1),
    "alignment.gguf": gguf(tensor(), 1, ALIGNMENT + struct.pack("<IQ", 10, 32), 1),
    "nested.gguf": gguf(metadata=bytes(8) + ARRAY + (bytes(8) + ARRAY) * 1_000_000, entries=1),
    "outside.gguf": gguf(tensor(offset=1 << 40), 1),
    "short.gguf": gguf(tensor((1 << 20,)), 1),
}


GOOD_FILES = {
    "a.safetensors": safetensors({"a": ENTRY}),
    "a.gguf": gguf(tensor(), 1),
    "unused.gguf": gguf(tensor() + tensor(name=b"betas", offset=128), 2) + bytes(128),
    "mark.safetensors": safetensors({"a": ENTRY, "v_pred": MARK, "b": {**MARK, "shape": [3, 0]}}),
    "mark.gguf": gguf(tensor((0,)), 1),
    "lenient.gguf": gguf(tensor((0,)), 1, TWICE, 2),
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What came of converting each file: status, text, and the log."""
    directory = tmp_path_factory.mktemp("files")
    for name, content in {**BAD_FILES, **GOOD_FILES}.items():
        (directory / name).write_bytes(content)
    code = """
        result = {}
        for name in sys.argv[2:]:
            lines.clear()
            file = f"{sys.argv[1]}/{name}"
            outcome = call(lib.sdg_convert, path(file), ffi.NULL, path(f"{file}.out.gguf"), 1, path(""), False)
            result[name] = [*outcome[:2], "".join(lines)]
    """
    outcomes: dict[str, list[str]] = in_child(code, directory, *BAD_FILES, *GOOD_FILES)
    return outcomes


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_wrong_is_refused_with_a_line_in_the_log(name: str, converted: dict[str, list[str]]) -> None:
    status, text, log = converted[name]
    assert (status, text) == ("FAILED", "")
    assert re.search(rf"(tensor '.*'|header|failed to open).*{re.escape(name)}|tensor 'a'", log)
    assert "read tensor data failed" not in log


@pytest.mark.parametrize("name", GOOD_FILES)
def test_a_file_that_is_right_is_taken(name: str, converted: dict[str, list[str]]) -> None:
    assert converted[name][0] == "OK"


@pytest.mark.parametrize(("marks", "mode"), [({"v_pred": MARK}, "v-prediction"), ({}, "eps-prediction")])
def test_a_tensor_without_elements_tells_what_a_model_predicts(
    marks: dict[str, Any], mode: str, tmp_path: Path
) -> None:
    """Two names are enough to be taken for Stable Diffusion XL, where the weights are not asked for."""
    names = ("model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.1.weight")
    file = tmp_path / "xl.safetensors"
    file.write_bytes(safetensors({**marks, **dict.fromkeys(names, ENTRY)}))
    code = """
        lib.sdg_convert(path(sys.argv[1]), ffi.NULL, path(sys.argv[2]), 8, path(""), False, new("sdg_error *"))
        def prediction(file):
            lines.clear()
            params = new("sd_ctx_params_t *")
            lib.sd_ctx_params_init(params)
            params.model_path, params.n_threads = path(file), 1
            status = call(lib.sdg_new_empty_context, params, new("sd_ctx_t **"))[0]
            return [status, *(line.split("running in ")[1].strip() for line in lines if "running in" in line)]
        result = [prediction(file) for file in sys.argv[1:3]]
    """
    assert in_child(code, file, tmp_path / "xl.gguf") == [["OK", f"{mode} mode"]] * 2


@pytest.mark.parametrize(
    "names",
    [
        ("layers.0.adaLN_sa_ln.weight", "layers.0.self_attention.norm_q.weight"),
        ("double_blocks.0.img_attn.norm.key_norm.scale", "double_blocks.0.txt_attn.norm.key_norm.scale"),
    ],
    ids=["ERNIE-Image", "FLUX"],
)
def test_a_tensor_without_elements_where_a_size_is_read_from_it_is_no_crash(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    first, empty = (f"model.diffusion_model.{name}" for name in names)
    file.write_bytes(safetensors({first: ENTRY, empty: MARK}))
    code = """
        params = context_params(sys.argv[1])
        params.diffusion_model_path = path(sys.argv[2])
        result = open_context(params).status
    """
    assert in_child(code, tmp_path, file) == "FAILED"


@pytest.mark.slow
def test_embeddings_of_different_types_share_the_vocabulary(tmp_path: Path) -> None:
    sd1().write(tmp_path / "sd1.safetensors")
    for name, dtype, size in [("half", "F16", 2), ("single", "F32", 4)]:
        entry = {"dtype": dtype, "shape": [200, 768], "data_offsets": [0, 200 * 768 * size]}
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors({"emb_params": entry}, bytes(200 * 768 * size)))
    code = """
        params = context_params(sys.argv[2])
        params.diffusion_model_path = params.llm_path = params.taesd_path = ffi.NULL
        params.model_path = path(sys.argv[1] + "/sd1.safetensors")
        files = [(path(name), path(f"{sys.argv[1]}/{name}.safetensors")) for name in ("half", "single")]
        params.embeddings = new("sd_embedding_t[]", files)
        params.embedding_count = 2
        context = open_context(params).value
        picture = image_params("half single")
        picture.batch_count = -1  # the text is encoded, nothing is drawn
        status = draw(context, picture).status
        result = [status, [line for line in lines if "applied, custom embeddings" in line]]
    """
    status, applied = in_child(code, tmp_path, tmp_path)
    assert status == "FAILED"
    assert [line.rpartition(" ")[2].strip() for line in applied] == ["200", "400"]
