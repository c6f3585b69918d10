"""The catalogue: every entry of the package is right, and what is wrong with a user's is said with entry and key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from models_page import PAGE, with_tables
from places import ROOT

from sdcffi import Engine, demo
from sdcffi._catalogue.entries import Entry, File, LoraEntry, ModelEntry, read_entries
from sdcffi._catalogue.files import files_of, local, total
from sdcffi._catalogue.reader import Catalogue, package_catalogue, parse_name, read_catalogue, user_file
from sdcffi._catalogue.variants import Room, needed
from sdcffi._models.architectures import FAMILIES
from sdcffi._references import parse
from sdcffi.params.enum_names import EVERY_NAME
from sdcffi.params.plain import parse_toml

CATALOGUE = package_catalogue()
FILES = {file for entry in CATALOGUE.entries.values() for file in files_of(entry)}
REVISIONS = [item["name"] for item in parse_toml((ROOT / "csrc" / "upstream.toml").read_text("utf-8"))["revision"]]
MODEL = """
[[model]]
name = "mine"
title = "Mine"
family = "flux2"
licence = "MIT"
good_at = "tests"
page = "nowhere"
engines = ["2026-05"]
[model.variants.f16]
diffusion_model = { reference = "dit.safetensors" }
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own catalogue, which does not exist yet."""
    path = tmp_path / "own.toml"
    monkeypatch.setenv("SDCFFI_CATALOGUE", str(path))
    return path


def test_there_are_models_from_small_to_large_and_loras_for_them() -> None:
    assert len(CATALOGUE.models) >= 25
    assert len(CATALOGUE.loras) >= 8
    assert {entry.family for entry in CATALOGUE.models} >= {"sd1", "sdxl", "sd3", "flux", "flux2", "z_image", "wan"}
    assert next(iter(CATALOGUE.entries)) == "demo"


@pytest.mark.parametrize("file", sorted(FILES, key=lambda file: file.reference), ids=lambda file: file.reference)
def test_a_file_has_a_reference_to_one_file(file: File) -> None:
    if file.reference.startswith("package:"):
        path = local(file)
        assert path is not None
        assert path.stat().st_size == file.size
    else:
        assert parse(file.reference) is not None
        assert re.fullmatch(r"hf://[^/]+/[^/]+/.+\.(gguf|safetensors)", file.reference)


def test_a_file_is_described_once() -> None:
    assert len({file.reference for file in FILES}) == len(FILES)
    digests = [file.sha256 for file in FILES if file.sha256]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("model", CATALOGUE.models, ids=lambda model: model.name)
def test_a_model_can_be_loaded_by_its_engines(model: ModelEntry) -> None:
    assert set(model.engines) <= set(REVISIONS)
    family = FAMILIES.get(model.family)
    assert (family is None) == (REVISIONS[0] not in model.engines)
    for variant in model.variants.values():
        roles = variant.files.keys()
        if family is not None and "model" not in roles:
            assert roles >= set(family.encoders)
            assert not family.has_autoencoder or roles & {"vae", "taesd"}


@pytest.mark.parametrize("model", CATALOGUE.models, ids=lambda model: model.name)
def test_variants_go_from_the_best_to_the_smallest(model: ModelEntry) -> None:
    sizes = [needed(model, variant, Room(None, "")) for variant in model.variants.values()]
    if len(sizes) > 1:
        assert None not in sizes
        assert sizes == sorted(sizes, key=lambda size: -(size or 0))


def test_recommended_names_are_the_engines(shared: Engine) -> None:
    names = {"sampler": "sample_method_t", "scheduler": "scheduler_t"}
    legal = {
        name: shared._opened.names[names[name.removeprefix("high_noise_")]] for name in (*names, "high_noise_sampler")
    }
    for entry in CATALOGUE.entries.values():
        for name, item in entry.parameters.items():
            assert item.source
            assert item.value in legal.get(name, (item.value,)), entry.name


def test_names_of_the_engine_and_of_other_tools_may_be_recommended(shared: Engine) -> None:
    for enum, known in EVERY_NAME.items():
        assert set(shared._opened.names[enum]) <= set(known), enum
    table: dict[str, Any] = parse_toml(MODEL)
    for sampler in (*shared._opened.names["sample_method_t"], "euler_cfg_pp", "DPM++ 2M"):
        table["model"][0]["recommended"] = [{"source": "a", "sampler": sampler}]
        assert read_entries(table, {}, "here")[0][0].parameters["sampler"].value == sampler


def test_the_demonstration_is_the_first_entry() -> None:
    entry = CATALOGUE.models[0]
    assert {name: item.value for name, item in entry.parameters.items()} == demo.SETTINGS
    files = {role: local(file) for role, file in entry.variants["q8_0"].files.items()}
    assert {**files, "lora_dir": demo.demo_model()["lora_dir"]} == demo.demo_model()
    assert tuple(lora.name for lora in CATALOGUE.loras if lora.base == ("demo",)) == demo.LORAS


def test_the_page_has_the_tables_of_the_catalogue() -> None:
    text = PAGE.read_text("utf-8")
    assert with_tables(text) == text, "run: python tests/support/models_page.py"


def test_entries_of_the_user_are_added_and_replace_others(own: Path) -> None:
    own.write_text(MODEL + MODEL.replace('"mine"', '"demo"').replace("Mine", "Another"), "utf-8")
    catalogue = read_catalogue()
    mine, other = catalogue.entry("mine"), catalogue.entry("demo")
    assert (mine.source, other.title, other.source) == (str(own), "Another", str(own))
    assert catalogue.entry("sd-turbo").source == ""
    assert files_of(mine)[0].reference == str(own.parent / "dit.safetensors")  # relative to the catalogue


def test_the_users_entries_may_use_files_of_the_package(own: Path) -> None:
    own.write_text(MODEL.replace("[model.variants", 'files = { vae = "flux2-vae" }\n[model.variants'), "utf-8")
    (entry,) = [entry for entry in read_catalogue().models if entry.name == "mine"]
    assert entry.variants["f16"].files["vae"].size == 336_213_556


def test_the_users_file_is_in_the_configuration_directory(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    with pytest.raises(ValueError, match=r"own\.toml cannot be read"):  # it was asked for, and is not there
        read_catalogue()
    monkeypatch.delenv("SDCFFI_CATALOGUE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own.parent))
    monkeypatch.setenv("HOME", str(own.parent))
    assert user_file().name == "models.toml"
    assert read_catalogue().entries.keys() == CATALOGUE.entries.keys()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[[model]]", "[[models]]", "unknown parameter 'models'; did you mean model"),
        ('name = "mine"', "", "model 1: name is missing"),
        ('name = "mine"', 'name = "Mine/1"', "name must be of small letters"),
        ('title = "Mine"', "title = 3", "model 'mine': title must be of type str, not 3"),
        ('title = "Mine"', 'titel = "Mine"', "unknown parameter 'titel'; did you mean title"),
        ('"flux2"', '"flux9"', "model 'mine': family must be one of sd1, .*not 'flux9'"),
        ('["2026-05"]', "[]", "engines must be a list of names"),
        ("[model.variants.f16]", "[model.variants]", "variants.diffusion_model: unknown parameter 'reference'"),
        ("diffusion_model =", "vae =", "variants.f16 must have a file as model or as diffusion_model"),
        ("diffusion_model =", "difusion_model =", "variants.f16: unknown parameter 'difusion_model'"),
        ('{ reference = "dit.safetensors" }', '"dit"', "variants.f16.diffusion_model: the catalogue has no file 'dit'"),
        ('"dit.safetensors"', '"hf://nobody"', "hf://"),
        ('"dit.safetensors"', '"a", sha256 = "12"', "sha256 must be 64 hexadecimal digits"),
        ('"dit.safetensors"', '"a", size = true', "diffusion_model: size must be of type int, not True"),
        ("[model.variants", "recommended = [{ steps = 4 }]\n[model.variants", "recommended: source is missing"),
        ("[model.variants", 'recommended = [{ source = "I", stepz = 4 }]\n[model.variants', "did you mean steps"),
        (
            "[model.variants",
            'recommended = [{ source = "I", steps = 4.5 }]\n[model.variants',
            "recommended.steps must be",
        ),
        ("[model.variants", 'recommended = [{ source = "I", steps = -1 }]\n[model.variants', "steps must be from 1"),
        ("[model.variants", 'recommended = [{ source = "I", eta = nan }]\n[model.variants', "eta must be finite"),
        (
            "[model.variants",
            'recommended = [{ source = "I", sampler = "eulr" }]\n[model.variants',
            "model 'mine': recommended.sampler must be one of euler, .*, deis, .*, not 'eulr'",
        ),
        (
            "[model.variants",
            'recommended = [{ source = "I", high_noise_sampler = "x" }]\n[model.variants',
            "recommended.high_noise_sampler must be one of euler",
        ),
        (
            "[model.variants",
            'recommended = [{ source = "I", scheduler = "euler" }]\n[model.variants',
            "recommended.scheduler must be one of discrete, .*, not 'euler'",
        ),
        (
            "[model.variants",
            'recommended = [{ source = "I", cache_mode = "x" }]\n[model.variants',
            "recommended.cache_mode must be one of disabled",
        ),
        ("[model.variants", 'recommended = [{ source = "I", rng = "x" }]\n[model.variants', "rng must be one of std_"),
        ("[model.variants", 'recommended = [{ source = "I", type = "x" }]\n[model.variants', "type must be one of"),
        (
            "[model.variants",
            'recommended = [{ source = "I", precision = "x" }]\n[model.variants',
            "precision must be one of exact, fast, not 'x'",
        ),
        ('"dit.safetensors"', '""', "reference must be .* or a path, not ''"),
        ('"dit.safetensors"', '"a\\u0000b"', "reference must be .* or a path"),
        ('"dit.safetensors"', '"catalogue:mine"', "reference must be .* or a path, not 'catalogue:mine'"),
        ("[model.variants", 'recommended = [{ source = "I", vae = "a" }]\n[model.variants', "unknown parameter 'vae'"),
    ],
)
def test_what_is_wrong_is_said_with_entry_and_key(old: str, new: str, said: str, own: Path) -> None:
    assert old in MODEL
    own.write_text(MODEL.replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=said) as error:
        read_catalogue()
    assert "own.toml" in str(error.value)


def test_an_entry_that_is_there_twice_and_a_base_that_is_not_are_refused(own: Path) -> None:
    own.write_text(MODEL + MODEL, "utf-8")
    with pytest.raises(ValueError, match="model 'mine' is there twice"):
        read_catalogue()
    lora = {"title": "T", "licence": "L", "good_at": "G", "page": "P", "base": ["nothing"], "file": "clip-l"}
    own.write_text("[[lora]]\nname = 'l'\n" + "".join(f"{key} = {value!r}\n" for key, value in lora.items()), "utf-8")
    with pytest.raises(ValueError, match="lora 'l': base: the catalogue has no model 'nothing'"):
        read_catalogue()
    for strength in ("nan", "1" + "0" * 400):
        own.write_text(own.read_text("utf-8").partition("strength")[0] + f"strength = {strength}\n", "utf-8")
        with pytest.raises(ValueError, match="lora 'l': strength must be finite"):
            read_catalogue()


def test_a_link_to_nothing_is_not_passed_over(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = own.parent / "models.toml"
    link.symlink_to(own.parent / "nothing.toml")
    monkeypatch.delenv("SDCFFI_CATALOGUE", raising=False)
    monkeypatch.setattr("sdcffi._catalogue.reader.platformdirs.user_config_dir", lambda _: str(own.parent))
    with pytest.raises(ValueError, match=r"models\.toml cannot be read"):
        read_catalogue()


def test_similar_names_are_said() -> None:
    with pytest.raises(ValueError, match="has no 'sd-turb'; did you mean sd-turbo"):
        CATALOGUE.entry("sd-turb")
    with pytest.raises(FileNotFoundError, match="sdcffi models list shows all names"):
        CATALOGUE.entry("????")
    with pytest.raises(ValueError, match="sd-turbo has no variant 'q9'; legal: f32, q8_0"):
        parse_name(CATALOGUE, "sd-turbo/q9")
    with pytest.raises(ValueError, match="lcm-sd15 is a LoRA, which has no variants"):
        parse_name(CATALOGUE, "catalogue:lcm-sd15/q8_0")
    assert parse_name(CATALOGUE, "catalogue:sd-turbo/f32")[1] is not None


def test_later_recommendations_win() -> None:
    table: dict[str, Any] = parse_toml(MODEL)
    table["model"][0]["recommended"] = [
        {"source": "a", "steps": 4, "chroma_use_dit_mask": False},
        {"source": "b", "steps": 5},
    ]
    (entry,), _ = read_entries(table, {}, "here")
    assert isinstance(entry, ModelEntry)
    assert (entry.parameters["steps"].value, entry.parameters["steps"].source) == (5, "b")
    assert list(entry.options) == ["chroma_use_dit_mask"]


def test_an_unknown_size_is_not_guessed() -> None:
    assert total([File("a", 1), File("b")]) is None
    assert isinstance(CATALOGUE, Catalogue)
    assert all(isinstance(entry, (ModelEntry, LoraEntry)) for entry in CATALOGUE.entries.values())
    assert all(isinstance(entry, Entry) for entry in CATALOGUE.loras)
