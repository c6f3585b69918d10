"""The command line: what it draws, what it prints and where, and how it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdcli import THREADS, flags
from tiny_model import TinyModel

import sdcffi
from sdcffi import Engine, Lora, cli
from sdcffi.images.compare import compare

OpenEngine = Callable[..., Engine]
Capture = pytest.CaptureFixture[str]

DRAW: dict[str, Any] = {"width": 64, "height": 64, "steps": 3, "seed": 42, "cfg_scale": 1.0, "sampler": "euler_a"}


@pytest.fixture
def generate(models: dict[str, TinyModel], tmp_path: Path) -> Callable[..., int]:
    """Runs ``sdcffi generate`` on the Q8_0 model with what every call needs, writing ``out.png``."""

    def generate(*arguments: str, **changed: Any) -> int:
        keywords = {**DRAW, "threads": THREADS, "backend": "cpu", "prompt": "a cat", "output": tmp_path / "out.png"}
        keywords |= models["q8_0"].engine_arguments() | changed
        return cli.main(["generate", *flags(**keywords), *arguments])

    return generate


def test_generate_writes_the_engines_picture(
    generate: Callable[..., int], open_engine: OpenEngine, models: dict[str, TinyModel], tmp_path: Path, capfd: Capture
) -> None:
    lora = models["q8_0"].lora
    assert (
        generate("--lora", f"{lora}:0.8", "--lora-apply-mode", "immediately", "--rng", "cpu", "--negative-prompt", "x")
        == 0
    )
    engine = open_engine(models["q8_0"], lora_apply_mode="immediately", rng="cpu")
    expected = engine.generate("a cat", negative_prompt="x", **DRAW, loras=[Lora(lora, 0.8)]).arrays[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)
    out, err = capfd.readouterr()
    assert out == f"{tmp_path / 'out.png'} (seed 42)\n"
    assert err == f"{lora}: applied 12 of 12 tensors, mode immediately\n"


def test_generate_numbers_the_pictures_of_a_batch(generate: Callable[..., int], tmp_path: Path, capfd: Capture) -> None:
    assert generate("--batch-count", "2") == 0
    out = capfd.readouterr().out
    assert out == f"{tmp_path / 'out_0.png'} (seed 42)\n{tmp_path / 'out_1.png'} (seed 43)\n"
    first, second = (np.asarray(Image.open(tmp_path / f"out_{i}.png")) for i in range(2))
    assert not np.array_equal(first, second)


def test_verbose_shows_the_native_log_on_standard_error(generate: Callable[..., int], capfd: Capture) -> None:
    assert generate("--verbose") == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert "info: " in err
    assert "sampling" in err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": "many"}, "many"),
        ({"steps": 0}, "steps must be from 1 to 10000, not 0"),
        ({"sampler": "eulr"}, "euler_a"),
        ({"scheduler": "karas"}, "karras"),
        ({"cfg_scale": "nan"}, "nan"),
        ({"type": "q8"}, "q8_0"),
        ({"diffusion_model": "missing.gguf"}, "'missing.gguf' does not exist"),
        ({"output": "out.xyz"}, "out.xyz"),
        ({"no_such_flag": "1"}, "--no-such-flag"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_usage_is_one_line_and_status_2(
    changed: dict[str, Any], said: str, generate: Callable[..., int], capfd: Capture
) -> None:
    assert generate(**changed) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "error: " in err
    assert said in err


def test_a_colon_in_a_loras_path_is_no_scale(generate: Callable[..., int], tmp_path: Path, capfd: Capture) -> None:
    assert generate("--lora", str(tmp_path / "night: dark.safetensors")) == 1
    assert "night: dark.safetensors does not exist" in capfd.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_drawing(
    generate: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    assert generate("--verbose", output=tmp_path / "nowhere" / "out.png") == 2
    assert capfd.readouterr().err == f"sdcffi: error: directory {tmp_path / 'nowhere'} does not exist\n"


def test_failure_is_status_1(generate: Callable[..., int], tmp_path: Path, capfd: Capture) -> None:
    assert generate(timeout=0) == 1
    assert generate("--lora", str(tmp_path / "missing.safetensors")) == 1
    out, err = capfd.readouterr()
    assert out == ""
    first, second = (line for line in err.splitlines() if line.startswith("sdcffi: error:"))
    assert first == "sdcffi: error: the call took longer than its timeout of 0 seconds; pass a larger --timeout"
    assert "missing.safetensors does not exist" in second


def test_an_error_is_told_for_machines_too(generate: Callable[..., int], capfd: Capture) -> None:
    assert generate("--json", steps=0) == 2
    assert json.loads(capfd.readouterr().out) == {
        "error": "steps must be from 1 to 10000, not 0",
        "type": "ValueError",
    }


def test_generate_tells_the_result_for_machines(generate: Callable[..., int], tmp_path: Path, capfd: Capture) -> None:
    assert generate("--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["images"] == [{"path": str(tmp_path / "out.png"), "seed": 42}]
    assert told["loras"] == []
    assert told["seconds"] > 0


def test_saved_parameters_draw_the_same_again_and_flags_win(
    models: dict[str, TinyModel], tmp_path: Path, capfd: Capture
) -> None:
    model = models["q8_0"]
    written = {**DRAW, "threads": THREADS, "backend": "cpu", "prompt": 'a "cat"\nin 日本', "seed": -1}
    written |= {name: str(path) for name, path in model.engine_arguments().items()}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in written.items()]
    lines += [f'loras = [["{model.lora}", 0.5]]', "vae_tiling = true", "vae_tile_overlap = 0.25"]
    (tmp_path / "first.toml").write_text("\n".join(lines), encoding="utf-8")
    first, again, other = (tmp_path / f"{name}.png" for name in ("first", "again", "other"))
    saved = tmp_path / "saved.json"
    common = ["generate", "--params"]
    assert cli.main([*common, str(tmp_path / "first.toml"), "-o", str(first), "--save-params", str(saved)]) == 0
    settings = json.loads(saved.read_text(encoding="utf-8"))
    assert settings["seed"] >= 0
    assert settings["vae_tile_overlap"] == 0.25
    assert cli.main([*common, str(saved), "-o", str(again)]) == 0
    assert cli.main([*common, str(saved), "-o", str(other), "--seed", str(settings["seed"] + 1)]) == 0
    pixels = [np.asarray(Image.open(path)) for path in (first, again, other)]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"stepps": 4}', "unknown parameter 'stepps'; did you mean steps"),
        ('{"prompt": "a", "cache_reuse_threshold": 0.2}', "Cache needs mode"),
        ('{"prompt": "a", "steps": "4"}', "steps must be an integer, not '4'"),
    ],
)
def test_a_bad_parameter_file_is_named(
    content: str, said: str, models: dict[str, TinyModel], tmp_path: Path, capfd: Capture
) -> None:
    (tmp_path / "a.json").write_text(content)
    files = flags(**models["q8_0"].engine_arguments(), backend="cpu", output=tmp_path / "out.png")
    assert cli.main(["generate", "--params", str(tmp_path / "a.json"), *files]) == 2
    assert said in capfd.readouterr().err


def batch(models: dict[str, TinyModel], prompts: Path, output: Path, *more: str) -> int:
    keywords = {**DRAW, "steps": 1, "threads": THREADS, "backend": "cpu", **models["q8_0"].engine_arguments()}
    return cli.main(["generate", "--prompts", str(prompts), *flags(**keywords, output=output), *more])


def test_a_file_of_prompts_is_drawn_and_what_is_finished_is_passed_over(
    models: dict[str, TinyModel], tmp_path: Path, capfd: Capture
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\na dog\n")
    files = [tmp_path / "p_0001.png", tmp_path / "p_0003.png"]
    assert batch(models, prompts, tmp_path / "p.png") == 0
    assert capfd.readouterr().out == "".join(f"{file} (seed 42)\n" for file in files)
    assert not np.array_equal(*(np.asarray(Image.open(file)) for file in files))
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    assert batch(models, prompts, tmp_path / "p.png") == 0
    out, err = capfd.readouterr()
    assert out == f"{files[1]} (seed 42)\n"
    assert "1 of 2 lines are finished already" in err
    assert files[0].stat().st_mtime_ns == kept
    assert batch(models, prompts, tmp_path / "p.png") == 0
    assert capfd.readouterr().out == ""


def test_lines_of_json_have_parameters_of_their_own_and_a_failing_one_does_not_stop_the_rest(
    models: dict[str, TinyModel], tmp_path: Path, capfd: Capture
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "a cat", "seed": 1, "batch_count": 2},
        {"prompt": "b", "steps": 0},
        {"prompt": "c", "width": 32},
    ]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    name = tmp_path / "{line}-{index}.png"
    assert batch(models, prompts, name, "--json") == 1
    out, err = capfd.readouterr()
    told = [json.loads(line) for line in out.splitlines()]
    assert [(item["line"], item["seed"]) for item in told[:3]] == [(1, 1), (1, 2), (3, 42)]
    assert told[3]["type"] == "SDError"
    assert np.asarray(Image.open(tmp_path / "0003-0.png")).shape == (64, 32, 3)
    assert "line 2: steps must be from 1 to 10000, not 0" in err
    assert "1 of 3 lines" in err
    assert batch(models, prompts, name) == 1
    assert "2 of 3 lines are finished already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "output", "said"),
    [
        ("p.txt", "\n", "p.png", "contains no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"promt": "b"}', "p.png", "line 2: unknown parameter 'promt'"),
        ("p.jsonl", "a cat", "p.png", "line 1 is not valid JSON"),
        ("p.jsonl", '{"prompt": "a", "threads": 2}', "p.png", "line 1: all lines have the same model and engine"),
        ("p.jsonl", '{"seed": 1}', "p.png", "line 1: there is no prompt"),
        ("p.txt", "a", "{seed}.png", "use {line}"),
        ("p.txt", "a", "p.xyz", "does not have the ending of an image file"),
    ],
)
def test_a_bad_file_of_prompts_is_refused_before_drawing(
    name: str, content: str, output: str, said: str, models: dict[str, TinyModel], tmp_path: Path, capfd: Capture
) -> None:
    (tmp_path / name).write_text(content)
    assert batch(models, tmp_path / name, tmp_path / output) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err


def test_models_inspect_tells_family_types_and_what_else_is_needed(
    models: dict[str, TinyModel], capfd: Capture
) -> None:
    path = models["q8_0"].diffusion_model
    assert cli.main(["models", "inspect", str(path)]) == 0
    out = capfd.readouterr().out
    for words in (f"{path}: a diffusion model of FLUX.2, gguf", "q8_0: 23 tensors", "also needs: llm=, vae= or taesd="):
        assert words in out
    assert cli.main(["models", "inspect", "--json", str(path)]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["parameters"] == 1_648_128
    assert report["bytes"] == path.stat().st_size


def test_info_as_json_tells_what_was_built(capfd: Capture) -> None:
    assert cli.main(["info", "--json", "--backend", "cpu"]) == 0
    out, err = capfd.readouterr()
    info = json.loads(out)
    assert err == ""
    assert info["layout"] == "ok"
    assert info["sdcffi"] == sdcffi._version.__version__
    assert info["upstream_commit"]
    assert [device["type"] for device in info["devices"] if device["backend"] == "cpu"] == ["cpu"]
    assert info["device"] in info["devices"]
    assert Path(info["directory"]).is_dir()


def test_info_names_the_device_for_people(capfd: Capture) -> None:
    assert cli.main(["info", "--backend", "cpu"]) == 0
    out = capfd.readouterr().out
    assert all(words in out for words in ("layout: ok", "<- used", "stable-diffusion.cpp"))


def test_convert_writes_a_smaller_model_that_draws_alike(
    tiny_model: TinyModel, open_engine: OpenEngine, tmp_path: Path, capfd: Capture
) -> None:
    target = tmp_path / "small.gguf"
    assert cli.main(["convert", str(tiny_model.diffusion_model), str(target), "--type", "q8_0"]) == 0
    assert capfd.readouterr() == (f"{target}\n", "")
    assert target.read_bytes()[:4] == b"GGUF"
    assert target.stat().st_size < 0.6 * tiny_model.diffusion_model.stat().st_size
    small = TinyModel(diffusion_model=target, llm=tiny_model.llm, taesd=tiny_model.taesd, lora=tiny_model.lora)
    one, other = (open_engine(model).generate("a cat", **DRAW).arrays[0] for model in (tiny_model, small))
    assert compare(one, other).psnr > 40


SHORT_HELPS = ["", "generate", "video", "upscale", "tune", "lora grid", "lora inspect"]


@pytest.mark.parametrize("command", SHORT_HELPS)
def test_help_fits_a_screen_and_names_the_help_with_every_flag(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([*command.split(), "--help"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(rf"Every flag.*: sdcffi {command or 'COMMAND'} --help-all", lines[-1])


@pytest.mark.parametrize("command", SHORT_HELPS[1:])
def test_the_short_help_has_flags_of_the_whole_help(command: str, capfd: Capture) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    short = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", capfd.readouterr().out, re.MULTILINE))
    assert cli.main([*command.split(), "--help-all"]) == 0
    assert short
    assert short <= set(re.findall(r"(?<![\w-])--[\w-]+", capfd.readouterr().out))


def test_the_help_lists_every_command(capfd: Capture) -> None:
    assert cli.main(["--help"]) == 0
    listed = re.findall(r"^  (\w+) ", capfd.readouterr().out, re.MULTILINE)
    assert cli.main(["paint"]) == 2
    assert [f"'{name}'" for name in listed] == re.findall(r"'\w+'", capfd.readouterr().err)[1:]


def test_the_completion_script_completes_commands_and_flags(tmp_path: Path, capfd: Capture) -> None:
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capfd.readouterr().out)
    ask = 'source "$0"; COMP_WORDS=(sdcffi generate --cache-m); COMP_CWORD=2; _shtab_sdcffi; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask, str(script)], capture_output=True, text=True, check=True)
    assert "--cache-mode" in done.stdout.split()


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate"]], ids=["none", "unknown", "no prompt"])
def test_missing_command_or_argument_is_status_2(arguments: list[str], capfd: Capture) -> None:
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "error: " in err


def test_module_runs_as_a_program() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sdcffi.__file__).parent.parent)}
    command = [sys.executable, "-W", "error", "-m", "sdcffi", "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sdcffi {sdcffi._version.__version__}\n", "")
