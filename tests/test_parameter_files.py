"""Files of parameters that people write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdcffi import Cache, ContextParams, ImageParams, Lora, SampleParams, Tiling, VideoParams, read_arguments
from sdcffi.parameter_files import as_arguments


def test_keywords_of_engine_and_call_are_told_apart_and_made_structs(tmp_path: Path) -> None:
    source = tmp_path / "cat.toml"
    source.write_text(
        'model = "cat.gguf"\n'
        'prompt = "a cat"\n'
        "steps = 4\n"
        'loras = [{path = "ink.safetensors", multiplier = 0.5}, "night.safetensors"]\n'
        "[tiling]\ntile_size_x = 32\n"
        '[cache]\nmode = "easycache"\n'
        "[params.sample_params]\ncustom_sigmas = [14, 1.5, 0]\n"
    )
    given = read_arguments(source)
    assert given.engine == {"context": ContextParams(model_path="cat.gguf")}
    assert given.generate == {
        "prompt": "a cat",
        "params": ImageParams(
            prompt="a cat",
            loras=[Lora("ink.safetensors", 0.5), Lora("night.safetensors")],
            vae_tiling_params=Tiling(tile_size_x=32),
            cache=Cache(mode="easycache"),
            sample_params=SampleParams(sample_steps=4, custom_sigmas=[14, 1.5, 0]),
        ),
    }
    (tmp_path / "cat.json").write_text('{"threads": 2, "prompt": "a cat", "backend": "cpu", "resize": "fit"}')
    given = read_arguments(tmp_path / "cat.json")
    assert given.engine == {"context": ContextParams(n_threads=2), "backend": "cpu"}
    assert given.generate == {"prompt": "a cat", "resize": "fit", "params": ImageParams(prompt="a cat")}


def test_flat_names_and_tables_name_the_same() -> None:
    tables = {
        "tiling": {"enabled": True, "tile_size_x": 8},
        "slg": {"layers": [1]},
        "hires": {"scale": 2},
        "params": {"sample_params": {"flow_shift": 3}},
        "context": {"n_threads": 1},
    }
    flat = {
        "vae_tiling": True,
        "vae_tile_size_x": 8,
        "skip_layers": [1],
        "hires_scale": 2,
        "flow_shift": 3,
        "threads": 1,
    }
    assert as_arguments(tables) == as_arguments(flat)


def test_what_is_given_later_wins_value_by_value() -> None:
    first = as_arguments({"cache": {"mode": "easycache", "reuse_threshold": 0.1}, "steps": 4, "threads": 1})
    later = as_arguments({"cache_reuse_threshold": 0.2, "seed": 3, "threads": 2})
    both = first.updated(later)
    assert both.engine["context"] == ContextParams(n_threads=2)
    assert both.generate["params"] == ImageParams(
        cache=Cache(mode="easycache", reuse_threshold=0.2), sample_params=SampleParams(sample_steps=4), seed=3
    )


def test_arguments_as_a_table_are_the_same_arguments_again() -> None:
    table = {
        "model": "a.gguf",
        "embeddings": {"word": "w.safetensors"},
        "prompt": "a",
        "loras": ["a.safetensors:0.5", {"path": "b.safetensors", "multiplier": 2, "is_high_noise": True}],
        "mask_image": "1,2,3,4",
        "sigmas": [3, 0],
        "backend": "cpu",
        "alpha": "white",
    }
    given = as_arguments(table)
    assert given.call_values["mask_image",] == (1, 2, 3, 4)
    again = as_arguments(json.loads(json.dumps(given.table())))
    assert again.engine == given.engine
    assert again.call_values["loras",] == [Lora("a.safetensors", 0.5), Lora("b.safetensors", 2, True)]


def test_a_table_for_a_video_has_the_videos_names() -> None:
    given = as_arguments({"video_frames": 5, "high_noise_steps": 2, "high_noise": {"eta": 0.5}}, video=True)
    params = given.generate["params"]
    assert params == VideoParams(video_frames=5, high_noise_sample_params=SampleParams(sample_steps=2, eta=0.5))
    with pytest.raises(ValueError, match="unknown parameter 'video_frames'"):
        as_arguments({"video_frames": 5})


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"promt": "a cat"}, ValueError, "parameters: unknown parameter 'promt'; did you mean prompt"),
        ({"zzz": 1}, ValueError, "unknown parameter 'zzz'; legal: alpha, auto_resize_ref_image, backend, "),
        ({"timeout": 1}, ValueError, "unknown parameter 'timeout'"),
        ({"tiling": {"tile_size": 3}}, ValueError, "parameters: tiling: unknown parameter 'tile_size'; did you mean"),
        ({"tiling": 3}, ValueError, "parameters: unknown parameter 'tiling'"),
        ({"params": {"hires": 2}}, TypeError, r"params\.hires must be a table of parameters, not 2"),
        ({"high_noise": {"eta": 1}}, ValueError, "unknown parameter 'high_noise'"),
        ({"loras": "ink"}, TypeError, "parameters: loras must be a list, not 'ink'"),
        ({"loras": [{"multiplier": 1}]}, ValueError, r"parameters: loras\[0\]: missing 1 required .* 'path'"),
        ({"params": {"hires": {"scales": 2}}}, ValueError, r"params\.hires: unknown parameter 'scales'; did you mean"),
    ],
)
def test_what_is_no_parameter_is_refused_by_name(table: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_arguments(table)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "a.json is not valid JSON: Expecting"),
        ("a.json", '{"steps": 3, "hires": {"scale": 2, "scale": 3}}', "a.json has 'scale' twice"),
        ("a.json", "[]", "a.json must contain a table of parameters, not list"),
        ("a.toml", "a = ", "a.toml cannot be read: "),
        ("a.yaml", "a: 1", r"its name must end in \.json or \.toml"),
        ("a.json", b"\xff", "a.json cannot be read: .*utf-8"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_arguments(tmp_path / name)
    with pytest.raises(ValueError, match=r"cannot be read: .*No such file"):
        read_arguments(tmp_path / "nowhere.json")
