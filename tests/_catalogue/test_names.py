"""Names of the catalogue as models and LoRAs, in Python and on the command line."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_model import TinyModel

from sdcffi import ContextParams, Default, Engine, Log, Lora, LoraError, ModelLoadError, cli
from sdcffi._catalogue import files, variants
from sdcffi._catalogue.expansion import with_files
from sdcffi._catalogue.loras import entry_of, with_lora_files
from sdcffi._catalogue.variants import Room
from sdcffi._references import HubReference, parse
from sdcffi.parameter_files import as_arguments, parse_lora
from sdcffi.params.enum_names import EVERY_NAME

Capture = pytest.CaptureFixture[str]
GB = 10**9

TEXT = """
[[model]]
name = "tiny"
title = "A tiny model"
family = "flux2"
licence = "MIT"
good_at = "tests"
page = "nowhere"
engines = ["2026-05", "2026-08"]
files = {{ llm = {{ reference = "{llm}", size = 1_000_000_000 }}, taesd = {{ reference = "{taesd}" }} }}
[model.variants.f16]
diffusion_model = {{ reference = "{f16}", size = 5_000_000_000 }}
[model.variants.q8_0]
diffusion_model = {{ reference = "{q8_0}", size = 2_000_000_000 }}
[[model.recommended]]
source = "a test"
steps = 2
diffusion_fa = true

[[model]]
name = "away"
title = "A model elsewhere"
family = "sd1"
licence = "MIT"
good_at = "downloads"
page = "nowhere"
engines = ["2026-05"]
[model.variants.f16]
model = {{ reference = "hf://me/away/f16.gguf", size = 3, sha256 = "{abc}" }}
vae = {{ reference = "hf://me/away/vae.gguf", size = 3 }}
[model.variants.q8_0]
model = {{ reference = "hf://me/away/q8_0.gguf", size = 2, sha256 = "{abc}" }}
vae = {{ reference = "hf://me/away/vae.gguf", size = 3 }}

[[lora]]
name = "ink"
title = "A LoRA"
licence = "MIT"
good_at = "tests"
page = "nowhere"
base = ["tiny"]
strength = 0.5
file = {{ reference = "{lora}" }}
[[lora.recommended]]
source = "a test"
steps = 3
"""


@pytest.fixture(autouse=True)
def own(models: dict[str, TinyModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of the test's own, in which the tiny model has a name."""
    tiny = models["f16"]
    path = tmp_path / "own.toml"
    paths = {"llm": tiny.llm, "taesd": tiny.taesd, "f16": tiny.diffusion_model, "lora": tiny.lora}
    text = TEXT.format(**paths, q8_0=models["q8_0"].diffusion_model, abc=hashlib.sha256(b"abc").hexdigest())
    path.write_text(text, "utf-8")
    monkeypatch.setenv("SDCFFI_CATALOGUE", str(path))
    monkeypatch.setattr(variants, "free_memory", lambda: 100 * GB)
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of downloads like the Hub's, with links to the files; each file of the Hub is "abc"."""
    folder = tmp_path / "cache"
    (folder / "blobs").mkdir(parents=True)

    def place(reference: HubReference) -> Path:
        return folder / reference.name

    def fetch(reference: HubReference) -> Path:
        if place(reference).exists():
            return place(reference)
        blob = folder / "blobs" / place(reference).name
        blob.write_bytes(b"abc")
        place(reference).symlink_to(blob)
        return place(reference)

    monkeypatch.setattr(files, "is_there", lambda reference: path if (path := place(reference)).exists() else None)
    monkeypatch.setattr(files, "fetch", fetch)
    return folder


@pytest.fixture
def log() -> list[str]:
    """The lines of the log that come from the catalogue."""
    return []


def opened(name: str, log: list[str], **keywords: object) -> Engine:
    def keep(record: Log) -> None:
        if record.text.startswith("catalogue:"):
            log.append(record.text)

    arguments: dict[str, object] = {"threads": 1, "backend": "cpu", "on_log": keep, **keywords}
    return Engine(name, **arguments)  # type: ignore[arg-type]


def test_a_name_stands_for_all_files_and_options(models: dict[str, TinyModel], log: list[str]) -> None:
    with opened("catalogue:tiny", log, memory_check="off") as engine:
        result = engine.generate("a cat", width=64, height=64, steps=1, seed=1)
        chosen = engine._chosen
    assert chosen is not None
    assert (chosen.entry.name, chosen.variant.name) == ("tiny", "f16")
    assert chosen.entry.parameters["steps"].value == 2
    given = result.origin.context
    assert (given.model_path, given.diffusion_flash_attn) == (None, True)
    assert (given.diffusion_model_path, given.llm_path) == (models["f16"].diffusion_model, models["f16"].llm)
    assert len(log) == 1
    assert log[0].startswith("catalogue:tiny: variant f16, the best that fits: about 6.")


def test_less_memory_takes_a_smaller_variant(
    models: dict[str, TinyModel], log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "free_memory", lambda: 4 * GB)
    with opened("catalogue:tiny", log, load_weights=False) as engine:
        assert engine._chosen is not None
        assert engine._chosen.variant.name == "q8_0"
    assert log[0].startswith("catalogue:tiny: variant q8_0, the best that fits: about 3.")


def test_a_server_chooses_the_variant_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from sdcffi.serve.config import ModelConfig
    from sdcffi.serve.models import Models

    models = Models((ModelConfig.of("a", {"model": "catalogue:tiny", "threads": 1, "backend": "cpu"}),))
    monkeypatch.setattr(variants, "free_memory", lambda: 4 * GB)

    async def load() -> str:
        async with models.use("a") as engine:
            name: str = engine._chosen.variant.name
        await models.close()
        return name

    assert asyncio.run(load()) == "f16"


def test_what_is_given_besides_wins(models: dict[str, TinyModel], log: list[str], tmp_path: Path) -> None:
    other = Path(shutil.copy(models["f16"].llm, tmp_path))
    with opened("catalogue:tiny/q8_0", log, load_weights=False, llm=other, diffusion_fa=False) as engine:
        given = engine._calls.opening.params
    assert (given.llm_path, given.diffusion_flash_attn) == (other, False)  # type: ignore[union-attr]
    assert given.diffusion_model_path == models["q8_0"].diffusion_model  # type: ignore[union-attr]
    assert log == []  # nothing was chosen


def test_as_another_file_a_name_stands_for_that_of_its_kind(models: dict[str, TinyModel], log: list[str]) -> None:
    parts = {"diffusion_model": models["f16"].diffusion_model, "taesd": models["f16"].taesd}
    with Engine(**parts, llm="catalogue:tiny/f16", load_weights=False, backend="cpu") as engine:
        assert engine._calls.opening.params.llm_path == models["f16"].llm  # type: ignore[union-attr]
        assert engine._chosen is None
    with pytest.raises(
        ValueError, match="vae: tiny has no such file in the catalogue; it has llm, taesd, diffusion_mod"
    ):
        Engine(**parts, vae="catalogue:tiny/f16")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("catalogue:tinny", "has no 'tinny'; did you mean tiny"),
        ("catalogue:tiny/q3_k", "tiny has no variant 'q3_k'; legal: f16, q8_0"),
        ("catalogue:ink", r"model: ink is a LoRA: pass 'catalogue:ink' to generate\(\), in loras="),
        ("catalogue:", "must be of the form catalogue:NAME"),
        ("tiny", "model: 'tiny' does not exist; for the catalogue's, pass 'catalogue:tiny'"),
        ("SD-Turbo", "pass 'catalogue:sd-turbo'"),
        ("tinny", "model: 'tinny' does not exist; for the catalogue's, pass 'catalogue:tiny'$"),
        ("sdxl-turb", "pass 'catalogue:sdxl-turbo'"),
        ("tinny.gguf", "model: 'tinny.gguf' does not exist$"),  # a file, whose name is no slip
        ("no/tinny", "model: 'no/tinny' does not exist$"),
        ("models", "model: 'models' does not exist$"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Engine(name)


def test_a_file_with_the_name_of_a_model_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_bytes(b"no model")
    with pytest.raises(ValueError, match="tiny cannot be read"):
        Engine("tiny")


def test_a_lora_by_name_has_its_strength(models: dict[str, TinyModel], shared: Engine) -> None:
    path = str(models["f16"].lora)
    given = {
        "catalogue:ink": 0.5,
        ("catalogue:ink",): 0.5,
        ("catalogue:ink", None): 0.5,
        Lora("catalogue:ink"): 0.5,
        ("catalogue:ink", 0.7): 0.7,
        Lora("catalogue:ink", 0.8): 0.8,
        Lora("catalogue:ink", 1.0): 1.0,
        Lora("catalogue:ink", 0.0): 0.0,
    }
    found, values = with_lora_files([*given, path], by_name=False)  # type: ignore[list-item]
    assert found == [*(Lora(path, strength, name="ink") for strength in given.values()), path]
    assert values["steps"][0] == 3
    found, _ = with_lora_files({"catalogue:ink": 0.9}, by_name=False)
    assert found == [Lora(path, 0.9, name="ink")]
    (report,) = shared.check_loras(["catalogue:ink"])
    assert report.path == path
    shared.set_loras(["catalogue:ink"])
    assert [lora.multiplier for lora in shared._generation._default_loras] == [0.5]
    shared.set_loras([])


def test_what_a_lora_changes_of_the_parameters_is_known(models: dict[str, TinyModel]) -> None:
    entry = entry_of("catalogue:ink")
    assert entry is not None
    assert entry.parameters["steps"].value == 3
    assert entry_of(str(models["f16"].lora)) is None


def test_a_call_uses_what_the_catalogue_recommends() -> None:
    def steps(engine: Engine, **given: Any) -> tuple[int, str | None]:
        record = engine.generate("a cat", width=64, height=64, cfg_scale=1, **given).record()
        assert record.resolved_params.sample_params is not None
        return record.resolved_params.sample_params.sample_steps or 0, (record.defaults or {}).get("steps")

    with Engine("catalogue:tiny/f16", isolated=False) as engine:
        assert engine.defaults()["steps"] == Default(2, "catalogue: tiny (a test)")
        assert steps(engine) == (2, "catalogue: tiny (a test)")
        assert steps(engine, loras=["catalogue:ink"]) == (3, "catalogue: ink (a test)")
        assert steps(engine, loras=["catalogue:ink"], steps=1) == (1, None)
        engine.set_loras(["catalogue:ink"])
        assert steps(engine) == (3, "catalogue: ink (a test)")
        assert steps(engine, loras=[]) == (2, "catalogue: tiny (a test)")
    with Engine("catalogue:tiny/f16", isolated=False, defaults="engine") as engine:
        assert engine.defaults()["steps"].value == 20
        assert steps(engine, loras=["catalogue:ink"]) == (20, None)


def test_a_sampler_that_only_other_engines_have_is_left_out_with_a_note(
    own: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EVERY_NAME, "sample_method_t", ("euler", "newest"))
    own.write_text(own.read_text("utf-8").replace("steps =", 'sampler = "newest"\nsteps ='), "utf-8")
    missing = "this engine does not have the sampler newest, which others have: not used"
    with opened("catalogue:tiny/f16", log) as engine:
        assert log == [f"catalogue: tiny (a test): {missing}"]
        assert engine.defaults()["sampler"].source == "the engine"
        engine.generate("a cat", width=64, height=64, cfg_scale=1, loras=["catalogue:ink"])
    assert log[1:] == [f"catalogue: ink (a test): {missing}"]


@pytest.mark.parametrize(
    ("item", "error", "said"),
    [
        ("catalogue:inc", ValueError, "has no 'inc'; did you mean ink"),
        ("catalogue:tiny", ValueError, "tiny is a model, not a LoRA: pass it to Engine as 'catalogue:tiny'"),
        ("catalogue:ink/q8_0", ValueError, "ink has no variants"),
        ("inkk", LoraError, "LoRA inkk does not exist; for the catalogue's, pass 'catalogue:ink'"),
        ("inkk.gguf", LoraError, "inkk.gguf does not exist$"),
        ("ink", LoraError, "LoRA .*ink.* does not exist; for the catalogue's, pass 'catalogue:ink'"),
    ],
)
def test_a_lora_that_is_none_is_refused(item: str, error: type[Exception], said: str, shared: Engine) -> None:
    with pytest.raises(error, match=said):
        shared.check_loras([item])


def test_with_a_directory_of_loras_a_name_may_be_one_in_it() -> None:
    assert with_lora_files(["ink"], by_name=True) == (["ink"], {})


def test_on_the_command_line_a_lora_has_its_strength_if_none_is_given() -> None:
    texts = {
        "ink": 0.5,
        "ink:1": 1.0,
        "ink:0.7": 0.7,
        "ink:lbw=OUTALL": 0.5,
        "ink:0.7:lbw=OUTALL": 0.7,
        "ink:te=0": 1.0,
    }
    found, _ = with_lora_files([parse_lora(f"catalogue:{text}") for text in texts], by_name=False)
    assert [lora.multiplier for lora in found if isinstance(lora, Lora)] == list(texts.values())
    table = as_arguments({"loras": [{"path": "catalogue:ink"}, "catalogue:ink", ["catalogue:ink", 1]]})
    found, _ = with_lora_files(table.call_values["loras",], by_name=False)
    assert [lora.multiplier for lora in found if isinstance(lora, Lora)] == [0.5, 0.5, 1.0]


def test_generate_takes_names(tmp_path: Path, capfd: Capture) -> None:
    output = tmp_path / "out.png"
    flags = ["--width", "64", "--height", "64", "--steps", "1", "--seed", "1", "--threads", "1", "--backend", "cpu"]
    command = ["generate", "-m", "catalogue:tiny", "--lora", "catalogue:ink", "-p", "a cat", "-o", str(output)]
    assert cli.main([*command, *flags, "--memory-check", "off", "--json"]) == 0
    out, err = capfd.readouterr()
    assert "catalogue:tiny: variant f16, the best that fits: about 6." in err
    assert json.loads(out)["loras"][0]["multiplier"] == 0.5


def test_a_grid_uses_what_the_catalogue_recommends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate, seen = Engine.generate, list[tuple[list[float], int | None]]()

    @functools.wraps(generate)
    def spy(self: Engine, prompt: str, **keywords: Any) -> Any:
        result = generate(self, prompt, **keywords)
        assert result.parameters.sample_params is not None
        strengths = [report.multiplier for report in result.loras]
        seen.append((strengths, result.parameters.sample_params.sample_steps))
        return result

    monkeypatch.setattr(Engine, "generate", spy)
    words = ["lora", "grid", "-m", "catalogue:tiny/f16", "--lora", "catalogue:ink", "--scales", "0.5,1", "-p", "a cat"]
    words += ["-W", "64", "-H", "64", "--cfg-scale", "1", "-t", "1", "--backend", "cpu", "-o", str(tmp_path / "a.png")]
    assert cli.main(words) == 0
    assert seen == [([], 2), ([0.25], 3), ([0.5], 3)]


def test_models_list_tells_what_fits_and_what_is_there(hub: Path, capfd: Capture) -> None:
    assert cli.main(["models", "list", "--json", "--backend", "cpu"]) == 0
    report = json.loads(capfd.readouterr().out)
    found = {model["name"]: model for model in report["models"]}
    assert report["memory"]["free"] == 100 * GB
    assert [variant["downloaded"] for variant in found["tiny"]["variants"]] == [True, True]
    assert [variant["downloaded"] for variant in found["away"]["variants"]] == [False, False]
    assert found["away"]["auto"] == "f16"
    assert found["qwen-image"]["variants"][0]["fits"]
    assert {lora["name"] for lora in report["loras"]} >= {"ink", "lcm-sd15"}
    assert cli.main(["models", "list", "--backend", "cpu"]) == 0
    out = capfd.readouterr().out
    assert "tiny" in out
    assert "f16*, q8_0*" in out


def test_models_show_has_files_and_sources(capfd: Capture, models: dict[str, TinyModel]) -> None:
    assert cli.main(["models", "show", "catalogue:away"]) == 0
    out = capfd.readouterr().out
    assert "variant f16: 0 kB" in out
    assert "model: hf://me/away/f16.gguf (0 kB)" in out
    assert cli.main(["models", "show", "ink"]) == 0
    out = capfd.readouterr().out
    for words in ("for: tiny; strength 0.5", str(models["f16"].lora), "steps = 3  (a test)"):
        assert words in out
    assert cli.main(["models", "show", "--json", "tiny"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["parameters"]["steps"] == {"value": 2, "source": "a test"}
    assert report["parameters"]["diffusion_fa"]["value"] is True
    assert cli.main(["models", "show", "--json", "catalogue:away/q8_0"]) == 0
    assert [item["name"] for item in json.loads(capfd.readouterr().out)["variants"]] == ["q8_0"]
    assert cli.main(["models", "inspect", "catalogue:tiny"]) == 2
    assert "'sdcffi models show tiny' lists its files" in capfd.readouterr().err
    assert cli.main(["models", "show", "tinny"]) == 2
    assert "did you mean tiny" in capfd.readouterr().err


def test_models_pull_downloads_once(hub: Path, capfd: Capture) -> None:
    assert cli.main(["models", "pull", "away/f16"]) == 0
    assert capfd.readouterr().out.split() == [str(hub / "f16.gguf"), str(hub / "vae.gguf")]
    shutil.rmtree(hub / "blobs")  # what is there is not downloaded again
    (hub / "blobs").mkdir()
    for name in ("f16.gguf", "vae.gguf"):
        (hub / "blobs" / name).write_bytes(b"changed")
    assert cli.main(["models", "pull", "away"]) == 0
    assert "variant f16" in capfd.readouterr().err


def test_models_remove_keeps_what_another_download_needs(
    hub: Path, capfd: Capture, models: dict[str, TinyModel]
) -> None:
    for name in ("f16.gguf", "vae.gguf", "q8_0.gguf"):
        reference = parse(f"hf://me/away/{name}")
        assert isinstance(reference, HubReference)
        files.fetch(reference)
    assert cli.main(["models", "remove", "away/q8_0"]) == 0
    out, err = capfd.readouterr()
    assert out.split() == [str(hub / "q8_0.gguf")]
    assert f"kept, because away/f16 needs it too: {hub / 'vae.gguf'}" in err
    assert not (hub / "blobs" / "q8_0.gguf").exists()
    assert cli.main(["models", "remove", "away"]) == 0
    assert sorted(capfd.readouterr().out.split()) == [str(hub / "f16.gguf"), str(hub / "vae.gguf")]
    assert [path for path in hub.rglob("*") if not path.is_dir()] == []
    assert cli.main(["models", "remove", "tiny"]) == 0  # files of the user's own, which were not downloaded
    assert "nothing of tiny is downloaded" in capfd.readouterr().err
    assert models["f16"].llm.exists()


def test_models_remove_leaves_a_file_that_a_link_in_the_cache_leads_to(
    hub: Path, tmp_path: Path, capfd: Capture
) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"abc")
    (hub / "f16.gguf").symlink_to(mine)
    assert cli.main(["models", "remove", "away/f16"]) == 0
    assert capfd.readouterr().out.split() == [str(hub / "f16.gguf")]
    assert mine.exists()
    assert not (hub / "f16.gguf").is_symlink()


def test_a_file_that_is_nowhere_is_an_error(own: Path, models: dict[str, TinyModel], capfd: Capture) -> None:
    own.write_text(own.read_text("utf-8").replace(str(models["f16"].llm), "/no/llm"), "utf-8")
    with pytest.raises(FileNotFoundError, match="llm: '/no/llm' does not exist"):
        Engine("catalogue:tiny/f16")
    assert cli.main(["models", "pull", "tiny/f16"]) == 2
    assert "/no/llm, a file of the catalogue, does not exist" in capfd.readouterr().err


def test_a_model_of_another_engine_is_refused_before_its_download(own: Path) -> None:
    text = own.read_text("utf-8").replace('engines = ["2026-05"]', 'engines = ["2035-01"]')
    own.write_text(text, "utf-8")
    with pytest.raises(ModelLoadError, match=r"away runs on engine 2035-01, .* has engine 20.*--engine 2035-01"):
        Engine("catalogue:away/f16")


def test_what_is_elsewhere_is_given_by_reference() -> None:
    params, chosen = with_files(ContextParams(model_path="catalogue:away/q8_0"), lambda: Room(None, ""), print)
    digest = hashlib.sha256(b"abc").hexdigest()
    assert (params.model_path, params.vae_path) == (f"hf://me/away/q8_0.gguf#sha256={digest}", "hf://me/away/vae.gguf")
    assert chosen is not None
    assert chosen.variant.name == "q8_0"
