"""What is written into pictures: viewers read it, it comes back whole, and it tells no paths."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sd_parsers import ParserManager

from sdcffi import (
    Cache,
    ContextParams,
    Guidance,
    Hires,
    ImageParams,
    Lora,
    LoraReport,
    PhotoMaker,
    Record,
    Result,
    SampleParams,
    SkipLayerGuidance,
    Tiling,
)
from sdcffi._machine.devices import Device
from sdcffi._records import finding
from sdcffi._records.finding import find_files
from sdcffi._records.origin import Origin
from sdcffi.params.context import Embedding

FORMATS = ("png", "jpg", "webp")
NASTY = (
    "a cat, sitting (on a mat:1.2)",
    'say "hello", he said: \\"yes\\"',
    "first line\nSteps: 3, Sampler: LMS, CFG scale: 1, Seed: 99\nthird: line",
    "Steps: 3",
    "猫が座る, кот, кошка ☃ 🐈, naïve",
    "trailing, commas,,: and \\ backslashes \\n",
    "<b>{json: [1]}</b> & 'quotes'",
)
PIXELS = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(64, 48, 3).astype(np.uint8)
MakeResult = Callable[..., Result]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "secret place"
    folder.mkdir()
    for name in ("cat, v1.5.safetensors", "vae.safetensors", "ink.safetensors", "word.pt", "upscaler.gguf", "id.bin"):
        (folder / name).write_bytes(b"\2\0\0\0\0\0\0\0{}" + name.encode())
    return folder


@pytest.fixture
def make_result(models: Path) -> MakeResult:
    """Makes results as an engine does, of `PIXELS`."""
    context = ContextParams(model_path=models / "cat, v1.5.safetensors", vae_path=models / "vae.safetensors")
    resolved = ImageParams(
        sample_params=SampleParams(
            guidance=Guidance(txt_cfg=7.0), sample_steps=20, sample_method="euler_a", scheduler="discrete"
        ),
        width=512,
        height=512,
        strength=0.75,
        clip_skip=-1,
        batch_count=1,
    )

    def make_result(count: int = 1, context: ContextParams = context, modes: int = 0, **params: Any) -> Result:
        given = ImageParams(**{"seed": 42, "width": 48, "height": 64, **params})
        origin = Origin(
            context=context,
            resolved_context=ContextParams(n_threads=3, rng_type="cuda"),
            resolved_params=resolved,
            device=Device("CUDA0", "NVIDIA H200", "cuda", "gpu", 0, 0),
            commit="90e87bc8",
            build="abc",
            states=Origin.look(context) | Origin.look(given),
        )
        reports = tuple(LoraReport("", 1, False, 1, 1, (), "at_runtime", (), 0) for _ in range(modes))
        return Result([PIXELS] * count, [42 + index for index in range(count)], given, reports, 0.1, origin)

    return make_result


def everything(models: Path) -> dict[str, Any]:
    """One value at least of each struct that a call may hold."""
    mask = np.full((64, 48, 1), 255, np.uint8)
    return {
        "prompt": "a cat",
        "negative_prompt": "a dog",
        "clip_skip": 2,
        "loras": [Lora(models / "ink.safetensors", 0.8, name="style/ink"), Lora(models / "ink.safetensors", 1, True)],
        "init_image": PIXELS,
        "mask_image": mask,
        "ref_images": [PIXELS[:64], PIXELS[::-1].copy()],
        "strength": 0.5,
        "batch_count": 2,
        "pm_params": PhotoMaker(id_images=[PIXELS], id_embed_path=models / "id.bin", style_strength=20.0),
        "vae_tiling_params": Tiling(tile_size_x=32),
        "cache": Cache(mode="easycache", reuse_threshold=0.1),
        "hires": Hires(upscaler="Model", model_path=models / "upscaler.gguf", scale=2.0, denoising_strength=0.4),
        "sample_params": SampleParams(
            guidance=Guidance(txt_cfg=1.5, slg=SkipLayerGuidance(layers=[7, 8], scale=2.5)),
            sample_steps=4,
            sample_method="dpm++2m",
            custom_sigmas=np.array([14.0, 3.0, 0.0]),
        ),
    }


@pytest.fixture(scope="module")
def opened() -> Iterator[list[Image.Image]]:
    """Pictures that stay until the last test: sd_parsers tells them apart by `id`, which one that follows may get."""
    pictures: list[Image.Image] = []
    yield pictures
    for picture in pictures:
        picture.close()


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("prompt", NASTY)
def test_viewers_read_what_made_a_picture(
    prompt: str, ending: str, make_result: MakeResult, tmp_path: Path, opened: list[Image.Image]
) -> None:
    negative = prompt[::-1].strip()
    result = make_result(prompt=prompt, negative_prompt=negative, sample_params=SampleParams(sample_steps=5))
    (path,) = result.save(tmp_path / f"out.{ending}")
    opened.append(Image.open(path))
    found = ParserManager().parse(opened[-1])
    assert found is not None
    (sampler,) = found.samplers
    assert [str(text) for text in sampler.prompts] == [prompt]
    assert [str(text) for text in sampler.negative_prompts] == [negative]
    assert sampler.name == "Euler a"
    assert sampler.parameters == {"steps": "5", "seed": "42", "cfg_scale": "7", "scheduler": "Uniform"}
    assert sampler.model is not None
    assert sampler.model.name == "cat v1.5"
    digest = result.record().files[0].sha256
    assert digest is not None
    assert sampler.model.hash == digest[:10]
    assert found.metadata["Size"] == "48x64"


def test_the_last_line_tells_what_the_web_interface_tells(make_result: MakeResult, models: Path) -> None:
    text = make_result(2, modes=2, **everything(models)).record(1).infotext()
    prompt, negative, line = text.split("\n")
    assert prompt == "a cat <lora:style/ink:0.8> <lora:|high_noise|ink:1>"
    assert negative == "Negative prompt: a dog"
    assert line.startswith(
        "Steps: 4, Sampler: DPM++ 2M, CFG scale: 1.5, Seed: 43, Size: 48x64, Denoising strength: 0.4, Clip skip: 2,"
        " Hires resize: 48x64, Hires upscaler: Model, Batch size: 2, Batch pos: 1, Model hash: "
    )
    hashed = hashlib.sha256(b"ink.safetensors").hexdigest()[:12]  # what follows that file's header
    assert f'Lora hashes: "style/ink: {hashed}, ink: {hashed}", Version: sdcffi ' in line
    assert "Denoising" not in make_result(prompt="a").record().infotext()
    assert "Denoising strength: 0.75" in make_result(prompt="a", init_image=PIXELS).record().infotext()


@pytest.mark.parametrize("ending", FORMATS)
def test_the_record_comes_back_whole(ending: str, make_result: MakeResult, models: Path, tmp_path: Path) -> None:
    context = ContextParams(
        diffusion_model_path=models / "cat, v1.5.safetensors",
        embeddings=[Embedding(name="word", path=models / "word.pt")],
        wtype="q8_0",
    )
    result = make_result(2, context, 2, **everything(models))
    for index, path in enumerate(result.save(tmp_path / f"out.{ending}")):
        record = Record.from_file(path)
        assert record == result.record(index)
        assert (record.seed, record.index, record.width, record.height) == (42 + index, index, 48, 64)
    assert record.context.embeddings == [Embedding(name="word", path="word.pt")]
    assert record.params.hires == replace(everything(models)["hires"], model_path="upscaler.gguf")
    assert record.params.loras == [Lora("ink.safetensors", 0.8, name="style/ink"), Lora("ink.safetensors", 1, True)]
    assert record.params.sample_params == replace(everything(models)["sample_params"], custom_sigmas=[14.0, 3.0, 0.0])
    assert {file.role: (file.name, file.size) for file in record.files} == {
        "diffusion_model_path": ("cat, v1.5.safetensors", 31),
        "embeddings[0].path": ("word.pt", 17),
        "loras[0].path": ("ink.safetensors", 25),
        "loras[1].path": ("ink.safetensors", 25),
        "pm_params.id_embed_path": ("id.bin", 16),
        "hires.model_path": ("upscaler.gguf", 23),
    }
    assert {picture.role: picture.shape for picture in record.images} == {
        "init_image": (64, 48, 3),
        "mask_image": (64, 48, 1),
        "ref_images[0]": (64, 48, 3),
        "ref_images[1]": (64, 48, 3),
        "pm_params.id_images[0]": (64, 48, 3),
    }
    assert record.whole.sample_params is not None
    assert (record.whole.sample_params.scheduler, record.resolved_context.n_threads) == ("discrete", 3)
    assert (record.commit, record.build, record.backend, record.device) == ("90e87bc8", "abc", "cuda", "CUDA0")
    assert record.lora_modes == ("at_runtime", "at_runtime")


@pytest.mark.parametrize("ending", FORMATS)
def test_no_path_is_told_unless_asked(ending: str, make_result: MakeResult, models: Path, tmp_path: Path) -> None:
    def tells(path: Path) -> bool:
        content = path.read_bytes()
        return any(models.name.encode(code) in content for code in ("utf-8", "utf-16-be", "utf-16-le"))

    result = make_result(modes=2, **everything(models))
    assert not tells(result.save(tmp_path / f"out.{ending}")[0])
    (told,) = result.save(tmp_path / f"told.{ending}", paths=True)
    assert tells(told)
    record = Record.from_file(told)
    assert {file.path for file in record.files} >= {str(models / "ink.safetensors"), str(models / "vae.safetensors")}


def test_a_file_that_changed_or_went_since_loading_gets_no_digest(make_result: MakeResult, models: Path) -> None:
    result = make_result(prompt="a")
    before = result.record()
    assert all(file.sha256 for file in before.files)
    (models / "cat, v1.5.safetensors").write_bytes(b"another model")
    with pytest.warns(UserWarning, match=r"v1\.5\.safetensors has changed since it was loaded"):
        changed = result.record()
    assert [file.sha256 for file in changed.files] == [None, before.files[1].sha256]
    assert "Model hash" not in changed.infotext()
    (models / "cat, v1.5.safetensors").unlink()
    with pytest.warns(UserWarning, match="has changed since"):
        assert result.record().files[0].size == before.files[0].size
    assert [file.sha256 for file in result.record(digests=False).files] == [None, None]


def test_metadata_may_be_left_out_and_other_formats_hold_none(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result(prompt="a")
    with Image.open(result.save(tmp_path / "bare.png", metadata=False)[0]) as bare:
        assert not {"parameters", "sdcffi"} & bare.info.keys()
    (path,) = result.save(tmp_path / "out.bmp")
    with pytest.raises(ValueError, match="has no sdcffi metadata"):
        Record.from_file(path)
    by_hand = Result([PIXELS], [1], ImageParams(), (), 0)
    assert by_hand.save(tmp_path / "hand.png")
    with pytest.raises(ValueError, match="has no record, because its origin is None"):
        by_hand.record()
    with pytest.raises(ValueError, match="index must be from 0 to 0, not 1"):
        result.record(1)


def test_a_jpeg_without_room_says_what_is_left_out(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result(prompt="long " * 8000)
    with pytest.warns(UserWarning, match="it lacks AUTOMATIC1111's parameters"):
        (path,) = result.save(tmp_path / "out.jpg")
    assert Record.from_file(path).params.prompt == "long " * 8000


def test_names_of_files_that_are_no_text_can_be_written(make_result: MakeResult, models: Path, tmp_path: Path) -> None:
    odd = models / "m\udcff.gguf"
    (models / "vae.safetensors").rename(odd)
    result = make_result(prompt="a", context=ContextParams(model_path=odd))
    for ending in FORMATS:
        (path,) = result.save(tmp_path / f"out.{ending}")
        assert Record.from_file(path).files[0].name == "m\udcff.gguf"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("seed"), "is damaged: it has no seed"),
        (lambda data: data.update(seed="7"), "seed must be an integer from 0 to 9223372036854775807, not '7'"),
        (lambda data: data.update(index=10**9), "index must be an integer from 0 to 10000, not 1000000000"),
        (lambda data: data.update(width=10**9), "width must be an integer from 0 to "),
        (lambda data: data.update(files=[]), "its files have no model_path, vae_path"),
        (lambda data: data.update(upscale_factor=2.0), "its files have no upscaler"),
        (lambda data: data.update(upscale_factor="2"), "upscale_factor must be a number, not '2'"),
        (lambda data: data["params"].update(loras=[{"path": "/dev/zero"}]), r"its files have no loras\[0\].path"),
        (lambda data: data["resolved_context"].update(vae_path="x", llm_path="/x"), "its files have no llm_path"),
        (lambda data: data["params"].update(sample_params={"sample_steps": "x"}), "steps must be an integer, not 'x'"),
        (lambda data: data["files"][0].update(name="../a"), "'../a' is not the name of a file"),
        (
            lambda data: data["params"].update(init_image="//server/a.png"),
            "it has init_image, but a record has no input",
        ),
        (lambda data: data["resolved_params"].update(ref_images=["/x.png"]), "it has ref_images, but a record has no"),
        (lambda data: data["files"][0].update(name="."), "'.' is not the name of a file"),
        (lambda data: data["files"][0].update(name="a\0"), r"'a\\x00' is not the name of a file"),
        (lambda data: data["files"][0].update(sha256=7), "must have texts for role, name and digests"),
        (lambda data: data["files"][0].update(size="7"), "must be an integer, not '7'"),
        (lambda data: data.update(images=[{"role": "x", "shape": [1, 2], "sha256": ""}]), "does not describe an image"),
        (lambda data: data.update(images=[{"role": "x", "shape": [1, 2, 10**9], "sha256": ""}]), "not describe an"),
        (lambda data: data.update(lora_modes=[1]), r"lora_modes must be texts, not \[1\]"),
        (lambda data: data.update(backend=[]), "backend, device, hardware, device_id must be texts"),
        (lambda data: data.update(seeds=[7]), "unknown parameter 'seeds'; did you mean seed"),
        (lambda data: data["params"].update(promt="x"), r"params: unknown parameter 'promt'; did you mean prompt"),
        (lambda data: data.update(params=7), "params must be a table of parameters, not 7"),
        (lambda data: data.update(params={"cache": {}}), r"params\.cache: missing 1 required .* 'mode'"),
        (lambda data: data.update(files=[{"size": 1}]), "is damaged: .*role"),
        (lambda data: data.update(files=7), "is damaged: "),
        (lambda data: data.update(images=[{"role": "x"}]), "is damaged: 'shape'"),
        (lambda data: data.update(kind="song"), "kind must be one of image, video, not 'song'"),
        (lambda data: data.update(sdcffi=2), "has format 2, and this sdcffi reads format 1"),
        (lambda data: data.pop("sdcffi"), "it has no key 'sdcffi'"),
    ],
)
def test_a_damaged_record_says_what_is_wrong(
    change: Callable[[Any], Any], message: str, make_result: MakeResult, tmp_path: Path
) -> None:
    data = make_result(prompt="a").record().to_dict()
    change(data)
    info = PngInfo()
    info.add_text("sdcffi", json.dumps(data))
    Image.new("RGB", (8, 8)).save(tmp_path / "bad.png", pnginfo=info)
    with pytest.raises(ValueError, match=f"bad.png.*{message}"):
        Record.from_file(tmp_path / "bad.png")


def test_foreign_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1")
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png", pnginfo=info)
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.jpg")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "foreign.png").read_bytes()[:60])
    (tmp_path / "dotted.toml").write_text("a = {" + "b." * 100_000 + "c = 1}")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    for name in ("sparse.json", "sparse.png"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(100 << 30)
    for name in ("pipe.png", "pipe.toml"):
        os.mkfifo(tmp_path / name)
    for name, message in {
        "foreign.png": "has AUTOMATIC1111's parameters, but no sdcffi metadata",
        "bare.jpg": "has no sdcffi metadata",
        "text.png": "cannot be read as an image",
        "cut.png": "cannot be read as an image",
        "pipe.png": "cannot be read as an image: it is not a regular file",
        "deep.json": "is not valid JSON: ",
        "deep.toml": "cannot be read: ",
        "dotted.toml": "is a key of more than 100 parts",
        "sparse.json": "cannot be read: it has more than 4 MiB",
        "sparse.png": "cannot be read as an image: it has more than 512 MiB",
        "pipe.toml": "cannot be read: it is not a regular file",
        "nowhere.png": "cannot be read as an image: .*No such file",
    }.items():
        with pytest.raises(ValueError, match=message):
            Record.from_file(tmp_path / name)
    with pytest.raises(ValueError, match="record is not valid JSON"):
        Record.from_json("{")
    with pytest.raises(ValueError, match="record has 'sdcffi' twice"):
        Record.from_json('{"sdcffi": 1, "sdcffi": 1}')


@pytest.mark.parametrize("place", ["/dev/zero", "pipe", "folder", "missing"])
def test_of_the_paths_of_a_record_only_files_are_looked_at(
    place: str, make_result: MakeResult, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdcffi._records.digests._MOST_PARTS", 20)
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for index in range(30):
        (tmp_path / f"folder/{index}").mkdir(parents=True)
    data = make_result(prompt="a").record().to_dict()
    data["files"][0].update(path=str(tmp_path / place), size=0)
    record = Record.from_dict(data)
    assert find_files(record, models)["model_path"] == models / "cat, v1.5.safetensors"
    (models / "cat, v1.5.safetensors").unlink()
    os.mkfifo(models / "cat, v1.5.safetensors")
    with pytest.raises(ValueError, match=r"not found: cat, v1\.5\.safetensors"):
        find_files(record, models)


@pytest.mark.parametrize(
    "path", ["//server/share/a", r"\\server\share\a", r"\\?\UNC\server\share\a", r"/\server/a", r"\??\UNC\s\a"]
)
def test_on_windows_a_record_names_no_server(
    path: str, make_result: MakeResult, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    state = finding.file_state
    monkeypatch.setattr(finding, "_ON_WINDOWS", True)
    monkeypatch.setattr(finding, "file_state", lambda path: looked.append(path) or state(path))
    data = make_result(prompt="a").record().to_dict()
    data["files"][0].update(path=path)
    record = Record.from_dict(data)
    assert find_files(record, models)["model_path"] == models / "cat, v1.5.safetensors"
    assert Path(path) not in looked
    (models / "cat, v1.5.safetensors").unlink()
    with pytest.raises(ValueError, match=r"not found: cat, v1\.5\.safetensors \(recorded at .*where only you can look"):
        find_files(record, models)


@pytest.mark.parametrize("name", ["//server/share/a", "/etc/passwd", "../a", "", ".."])
def test_the_text_of_a_web_interface_names_no_place(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the name of a file"):
        finding.find_named(name, None, (), tmp_path)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def test_a_record_goes_through_files(make_result: MakeResult, models: Path, tmp_path: Path) -> None:
    record = make_result(2, modes=2, **everything(models)).record(1)
    path = record.to_file(tmp_path / "record.json")
    text = "\n".join(f"{key} = {toml(value)}" for key, value in record.to_dict().items())
    (tmp_path / "record.toml").write_text(text)
    for source in (path, tmp_path / "record.toml"):
        assert Record.from_file(source) == record
    assert Record.from_json(record.to_json()) == record
    with pytest.raises(ValueError, match=r"must end in \.json: records"):
        record.to_file(tmp_path / "record.toml")
