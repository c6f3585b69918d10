"""What a server is told, from a file and in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_model import TinyModel

pytest.importorskip("fastapi")

from starlette.requests import HTTPConnection

from sdcffi.serve import ModelConfig, ServeConfig
from sdcffi.serve.access import Access
from sdcffi.serve.models import Models

KEY = "a-key-of-24-characters-x"
MODEL = ModelConfig.of("m", {"model": "m.safetensors"})


def test_a_file_has_models_with_defaults_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(f"""
port = 8000
store_bytes = 1000
cors = ["https://example.org"]
lora_dir = "{tmp_path}"

[keys]
alice = "{KEY}"

[models.turbo]
model = "turbo.safetensors"
steps = 4
cfg_scale = 1.0
pinned = true

[models.other]
diffusion_model = "d.gguf"
vae = "v.safetensors"
llm = "l.gguf"

[upscalers]
esrgan = "e.pth"
""")
    config = ServeConfig.from_file(path, port=9000, host=None)
    assert (config.port, config.host, config.store_bytes, config.cors) == (
        9000,
        "127.0.0.1",
        1000,
        ("https://example.org",),
    )
    assert config.lora_dir == tmp_path
    assert [(model.name, model.kind, model.pinned) for model in config.models] == [
        ("turbo", "generate", True),
        ("other", "generate", False),
        ("esrgan", "upscale", False),
    ]
    generate = config.models[0].arguments.generate
    assert generate["params"].sample_params.sample_steps == 4
    assert config.models[0].arguments.engine["context"].model_path == "turbo.safetensors"
    assert KEY not in repr(config)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prot": 1}, "unknown parameter 'prot'; did you mean port"),
        ({"models": {"a": {"modle": "x"}}}, "models.a: unknown parameter 'modle'"),
        ({"models": {"a": {}}}, "has no files"),
        ({"models": {"a": "x"}}, "must be a table"),
        ({"models": {"": {"model": "x"}}}, "a name must have"),
        ({"upscalers": {"m": "e.pth"}}, "two models are named 'm'"),
        ({"upscalers": {"e": {"tile": 1}}}, "unknown parameter 'tile'"),
        ({"port": 70000}, "port must be from 0 to 65535"),
        ({"queue": 0}, "queue must be"),
        ({"timeout": "soon"}, "timeout must be a number"),
        ({"host": "0.0.0.0"}, "can be reached from other machines, and there are no keys"),
        ({"host": "example.org"}, "there are no keys"),
        ({"keys": {"a": "short"}}, "must have at least 16 characters"),
        ({"keys": {"a": "sixteen chars € "}}, "ASCII"),
        ({"keys": ["x"]}, "keys must be a table"),
        ({"keys": {"a": KEY, "b": KEY[:-1], "c": KEY}}, "'a' and 'c' have the same key"),
        ({"cors": "https://*.example.org"}, "cors must be a list of texts, .*, not 'https"),
        ({"hosts": "box.lan"}, "hosts must be a list of texts"),
        ({"hosts": ["box.lan", 1]}, "hosts must be a list of texts"),
    ],
)
def test_what_is_wrong_is_refused_at_once(table: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ServeConfig.of(table, models=(MODEL,))


@pytest.mark.parametrize("name", ["cors", "hosts"])
def test_a_text_is_no_list_in_python_either(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a list"):
        ServeConfig(models=(MODEL,), **{name: "*.example.org"})  # type: ignore[arg-type]


def test_names_of_the_server_are_found_however_they_are_written() -> None:
    config = ServeConfig(models=(MODEL,), hosts=["Box.Lan"], cors=["https://Friend.Example"])  # type: ignore[arg-type]
    assert (config.hosts, config.cors) == (("box.lan",), ("https://friend.example",))
    access = Access(config, None)  # type: ignore[arg-type]
    headers = [(b"host", b"BOX.lan:80"), (b"origin", b"https://friend.example")]
    scope = {"type": "http", "method": "POST", "path": "/api/jobs", "headers": headers, "client": ("a", 1)}
    assert access.client(HTTPConnection(scope)) == "a"


def test_a_server_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no model to serve"):
        ServeConfig.of({"upscalers": {"e": "e.pth"}})


@pytest.mark.parametrize(
    "changes",
    [
        *({"host": "::1"}, {"host": "127.0.0.5"}, {"host": "localhost"}),
        *({"host": "0.0.0.0", "insecure": True}, {"host": "0.0.0.0", "keys": {"a": KEY}}),
    ],
)
def test_other_addresses_need_keys_or_insecure(changes: dict[str, Any]) -> None:
    assert ServeConfig.of({}, models=(MODEL,), **changes).host == changes["host"]


def test_files_of_a_model_are_checked_before_it_is_loaded(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"m\.safetensors' does not exist"):
        Models((MODEL,))
    with pytest.raises(ValueError, match="not an upscaling network"):
        Models((MODEL, ModelConfig.upscaler("e", str(tiny_model.lora)))[1:])
