"""Which value fills what a call leaves open, by the model's file and its family, and what is warned of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from defaults_page import PAGE, with_tables
from safetensors.numpy import save_file

from sdcffi._defaults.families import families
from sdcffi._defaults.metadata import LIMITS
from sdcffi._defaults.recommended import Default, Recommended, recommend
from sdcffi._models.architectures import _TABLE
from sdcffi._models.files import Model, examine
from sdcffi._models.headers import add_metadata, read_header, read_metadata
from sdcffi.params.image import ImageParams
from sdcffi.params.names import parameters
from sdcffi.params.other_names import check_known
from sdcffi.params.sampling import Guidance, SampleParams
from sdcffi.params.video import VideoParams

# Tensors that tell a family, with the engine's prefix left out, and their shapes.
UNETS = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
FLUX, FLUX2 = {"double_blocks.0.img_mod.lin.weight": (8, 8)}, {"double_stream_modulation_img.lin.weight": (8, 8)}
GUIDED = {"guidance_in.in_layer.weight": (8, 8)}


def unet(family: str) -> dict[str, tuple[int, ...]]:
    name = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    return {name: (8, UNETS[family]), "input_blocks.0.0.weight": (8, 4, 3, 3)}


def model_of(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> Model:
    """A file with a diffusion network of these shapes."""
    tensors = {f"model.diffusion_model.{name}": np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(tensors, path, dict(metadata or {}))
    return examine(path)[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sd_xl_turbo.safetensors"  # a name that says nothing


def plain(found: Recommended) -> dict[str, Any]:
    return {name: default.value for name, default in found.values.items()}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (unet("sd1"), {"width": 512, "height": 512, "steps": 20, "cfg_scale": 7.0}),
        (unet("sd2"), {"width": 512, "height": 512, "steps": 20, "cfg_scale": 7.0}),
        (unet("sdxl"), {"width": 1024, "height": 1024, "steps": 20, "cfg_scale": 5.0}),
        (
            unet("sdxl") | {"time_embed.cond_proj.weight": (8, 8)},
            {"width": 1024, "height": 1024, "steps": 4, "cfg_scale": 1.0, "sampler": "lcm"},
        ),
        (FLUX, {"width": 1024, "height": 1024, "steps": 4, "cfg_scale": 1.0}),
        (
            FLUX | GUIDED | {"img_in.weight": (8, 64)},
            {"width": 1024, "height": 1024, "steps": 20, "cfg_scale": 1.0, "guidance": 3.5},
        ),
        (
            FLUX | GUIDED | {"img_in.weight": (8, 384)},
            {"width": 1024, "height": 1024, "steps": 20, "cfg_scale": 1.0, "guidance": 30.0},
        ),
        (FLUX2, {"width": 1024, "height": 1024, "steps": 4, "cfg_scale": 1.0}),
        (FLUX2 | GUIDED, {"width": 1024, "height": 1024, "steps": 20, "cfg_scale": 1.0, "guidance": 4.0}),
    ],
)
def test_the_tensors_tell_the_family(shapes: Mapping[str, tuple[int, ...]], expected: Any, file: Path) -> None:
    found = recommend(model_of(file, shapes))
    assert plain(found) == expected
    assert found.family is not None
    assert {default.source for default in found.values.values()} == {f"{found.family.title} ({found.family.source})"}


@pytest.mark.parametrize(
    ("family", "metadata", "title"),
    [
        ("sdxl", {}, "Stable Diffusion XL"),
        ("sdxl", {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, "Stable Diffusion XL"),
        ("sdxl", {"modelspec.architecture": "stable-diffusion-xl-turbo-v1"}, "SDXL Turbo"),
        ("sdxl", {"modelspec.title": "my turbo"}, "Stable Diffusion XL"),
        ("sdxl", {"general.finetune": "Lightning"}, "SDXL Lightning"),
        ("sd2", {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "Stable Diffusion 2, 768-v"),
        ("sd2", {"modelspec.predict_key": "v"}, "Stable Diffusion 2, 768-v"),
        ("sd2", {"modelspec.prediction_type": "epsilon"}, "Stable Diffusion 2"),
    ],
)
def test_metadata_tells_distilled_models_and_a_name_does_not(
    family: str, metadata: Mapping[str, str], title: str, file: Path
) -> None:
    found = recommend(model_of(file, unet(family), metadata))
    assert found.family is not None
    assert found.family.title == title


def test_the_prediction_that_the_caller_names_tells_too(file: Path) -> None:
    assert plain(recommend(model_of(file, unet("sd2")), "v"))["width"] == 768


def test_a_source_wins_over_those_below_it(file: Path) -> None:
    metadata = {"modelspec.resolution": "768x640", "modelspec.encoder_layer": "2", "sdcffi.steps": "9"}
    metadata |= {"sdcffi.height": "512"}  # ours win over others
    catalogue = {"steps": Default(6, "catalogue entry x"), "sampler": Default("euler", "catalogue entry x")}
    found = recommend(model_of(file, unet("sd1"), metadata), catalogue=catalogue)
    assert plain(found) == {
        **{"width": 768, "height": 512, "steps": 6, "cfg_scale": 7.0, "clip_skip": 2, "sampler": "euler"}
    }
    assert found.values["steps"] == Default(6, "catalogue entry x")
    assert found.values["width"].source == f"metadata of {file.name}"
    assert found.values["cfg_scale"].source.startswith("Stable Diffusion 1 (")


def test_a_model_of_an_unknown_family_has_only_what_its_file_states(file: Path) -> None:
    assert plain(recommend(model_of(file, {"strange.weight": (8, 8)}))) == {}
    assert plain(recommend(model_of(file, {"strange.weight": (8, 8)}, {"sdcffi.steps": "3"}))) == {"steps": 3}


@pytest.mark.parametrize(
    "metadata",
    [
        {"modelspec.resolution": "1024"},
        {"modelspec.resolution": "100000x100000"},
        {"modelspec.encoder_layer": "the last"},
    ],
)
def test_what_others_write_wrongly_is_ignored(metadata: Mapping[str, str], file: Path) -> None:
    assert recommend(model_of(file, unet("sd1"), metadata)).values == recommend(model_of(file, unet("sd1"))).values


@pytest.mark.parametrize(
    ("name", "text"), [("steps", "many"), ("steps", "1000000"), ("width", "1.5"), ("cfg_scale", "nan")]
)
def test_a_value_of_ours_that_is_not_legal_is_named(name: str, text: str, file: Path) -> None:
    model = model_of(file, unet("sd1"), {f"sdcffi.{name}": text})
    with pytest.warns(UserWarning, match=rf"sdcffi\.{name} in its metadata is ignored: {name} must be"):
        assert plain(recommend(model)).get(name) in (20, 512, 7.0, None)


def test_a_folder_of_diffusers_states_its_size(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    save_file({name: np.zeros((8, 1024), np.float16)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert plain(recommend(examine(tmp_path)[1]))["width"] == 512
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    assert plain(recommend(examine(tmp_path)[1]))["width"] == 768
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"sample_size": 80}))
    assert plain(recommend(examine(tmp_path)[1]))["width"] == 640


def test_only_what_is_open_is_filled() -> None:
    found = Recommended({"width": Default(64, "a"), "steps": Default(3, "b"), "cfg_scale": Default(2.0, "c")})
    asked = ImageParams(prompt="a cat", height=32, sample_params=SampleParams(sample_steps=5))
    whole, sources = found.fill(asked)
    guidance = Guidance(txt_cfg=2.0)
    assert whole == ImageParams(
        prompt="a cat", width=64, height=32, sample_params=SampleParams(sample_steps=5, guidance=guidance)
    )
    assert sources == {"width": "a", "cfg_scale": "c"}
    assert Recommended({}).fill(asked) == (asked, {})


def test_an_image_decides_the_size_and_noise_levels_the_steps() -> None:
    found = Recommended({"width": Default(64, "a"), "steps": Default(3, "b"), "scheduler": Default("beta", "c")})
    image = np.zeros((8, 8, 3), np.uint8)
    for name, value in {"init_image": image, "control_image": image, "ref_images": [image]}.items():
        whole, _ = found.fill(ImageParams(**{name: value}))
        assert whole.width is None
    assert found.fill(VideoParams(end_image=image))[0].width is None
    whole, sources = found.fill(ImageParams(sample_params=SampleParams(custom_sigmas=[1.0, 0.0])))
    assert sources == {"width": "a"}


def test_names_that_only_other_engines_have_are_left_to_it_with_a_note() -> None:
    found = Recommended(
        {"sampler": Default("Euler a", "x"), "scheduler": Default("ltx2", "a file"), "steps": Default(3, "x")}
    )
    notes: list[str] = []
    known = found.known_to({"sample_method_t": ("euler", "euler_a"), "scheduler_t": ("beta",)}, notes.append)
    assert plain(known) == {"sampler": "euler_a", "steps": 3}
    assert notes == ["a file: this engine does not have the scheduler ltx2, which others have: not used"]


def test_a_model_that_may_be_distilled_has_a_note(file: Path) -> None:
    note = recommend(model_of(file, unet("sdxl"))).note
    assert note is not None
    assert "SDXL Turbo: width=512, height=512, steps=4, cfg_scale=1.0" in note
    assert recommend(model_of(file, unet("sdxl"), {"modelspec.architecture": "sdxl-turbo"})).note is None
    assert recommend(model_of(file, unet("sdxl"), {"sdcffi.steps": "4"})).note is None
    assert recommend(model_of(file, FLUX | GUIDED)).note is None


def _asked(cfg: float | None = None, **values: Any) -> ImageParams:
    sample = None if cfg is None else SampleParams(guidance=Guidance(txt_cfg=cfg))
    return ImageParams(sample_params=sample, **values)


@pytest.mark.parametrize(
    ("shapes", "asked", "size", "message"),
    [
        (FLUX | GUIDED, _asked(7.0), (1024, 1024), r"cfg_scale=7 .*use cfg_scale=1 and guidance=3\.5"),
        (FLUX, _asked(7.0), (1024, 1024), "use cfg_scale=1$"),
        (unet("sdxl"), _asked(width=512, height=512), (512, 512), "512x512 pixels are far from the 1024x1024"),
        (unet("sd1"), _asked(width=1024, height=1024), (1024, 1024), "enlarge it with hires="),
    ],
)
def test_what_a_model_is_not_made_for_is_warned_of_once(
    shapes: Mapping[str, tuple[int, ...]], asked: ImageParams, size: tuple[int, int], message: str, file: Path
) -> None:
    found = recommend(model_of(file, shapes))
    with pytest.warns(UserWarning, match=message):
        found.warn_of_unsuitable(asked, size)
    found.warn_of_unsuitable(asked, size)  # warnings are errors here


@pytest.mark.parametrize(
    ("shapes", "asked", "size"),
    [
        (FLUX | GUIDED, _asked(2.0), (1024, 1024)),
        (FLUX | GUIDED, _asked(), (1024, 1024)),
        (FLUX2, _asked(7.0), (1024, 1024)),  # it may be klein base
        (unet("sdxl"), _asked(7.0, width=768, height=1344), (768, 1344)),
        (unet("sdxl"), _asked(width=64, height=64), (64, 64)),  # a trial
        (unet("sdxl"), _asked(), (512, 512)),
        (unet("sdxl"), _asked(width=512, init_image=np.zeros((8, 8, 3), np.uint8)), (512, 512)),
    ],
)
def test_what_a_model_can_do_is_not_warned_of(
    shapes: Mapping[str, tuple[int, ...]], asked: ImageParams, size: tuple[int, int], file: Path
) -> None:
    recommend(model_of(file, shapes)).warn_of_unsuitable(asked, size)


def test_every_row_can_be_used() -> None:
    for row in families():
        assert row.architecture in _TABLE
        legal = {item.name: item for item in parameters(VideoParams if "video_frames" in row.values else ImageParams)}
        for name, value in row.values.items():
            assert isinstance(value, legal[name].kind), (row.title, name)
            assert (limits := LIMITS[name]) is None or limits[0] <= value <= limits[1]  # type: ignore[operator]
            check_known(row.title, value, legal[name].path[-1])
        assert row.source
    general = [row.architecture for row in families() if row.is_general]
    assert len(set(general)) == len(general)
    assert set(_TABLE) - set(general) == {"svd"}


def test_the_page_has_the_tables() -> None:
    text = PAGE.read_text("utf-8")
    assert with_tables(text) == text, "run: python tests/support/defaults_page.py"


@pytest.mark.parametrize("ending", ["safetensors", "gguf"])
def test_metadata_is_added_beside_the_same_tensors(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{ending}"
    tensors = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float32)}
    if ending == "gguf":
        writer = gguf.GGUFWriter(path, "flux")
        writer.add_uint32("flux.number", 7)
        writer.add_array("words", ["one", "two"])
        for name, values in tensors.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        save_file(tensors, path, {"kept": "yes"})
    before = read_metadata(path)
    add_metadata(path, {"sdcffi.steps": "4", **dict.fromkeys(before, "other")})
    assert read_metadata(path) == {**before, "sdcffi.steps": "4"}
    content = path.read_bytes()
    found = read_header(path)[1]
    for name, values in tensors.items():
        assert content[found[name].begin :][: found[name].size] == values.tobytes()
    if ending == "gguf":
        assert before == {"general.architecture": "flux", "flux.number": "7"}
        reader = gguf.GGUFReader(path)
        assert bytes(reader.fields["sdcffi.steps"].parts[-1]) == b"4"
        assert {tensor.name for tensor in reader.tensors} == tensors.keys()
