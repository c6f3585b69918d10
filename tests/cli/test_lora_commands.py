"""`sdcffi lora inspect` and `sdcffi lora grid`, and the contact sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops
from safetensors.numpy import save_file
from sdcli import THREADS, flags
from tiny_model import TinyModel

from sdcffi import Engine, Lora, SDError, cli
from sdcffi.cli._lora_report import make_grid, parse_numbers
from sdcffi.images.contact_sheet import contact_sheet

Capture = pytest.CaptureFixture[str]
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (200, 0, 200)]


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, colour)


def found(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Where in a sheet a colour is, checked to fill it: left, top, right, bottom."""
    mask = Image.fromarray(np.all(np.asarray(sheet) == colour, axis=2))
    box = mask.getbbox()
    assert box is not None, f"{colour} is not in the sheet"
    assert np.asarray(mask.crop(box)).all()
    return box


# The sheet.


def test_a_sheet_lays_pictures_out_as_a_table() -> None:
    rows = [[picture(colour) for colour in COLOURS[:3]], [picture(colour) for colour in COLOURS[3:]]]
    sheet = contact_sheet(rows, ["first", "second"], ["a", "b", "c"])
    boxes = [found(sheet, colour) for colour in COLOURS]
    assert all((right - left, bottom - top) == (40, 30) for left, top, right, bottom in boxes)
    assert len({left for left, *_ in boxes}) == 3
    assert [box[0] for box in boxes[:3]] == [box[0] for box in boxes[3:]] == sorted(box[0] for box in boxes[:3])
    assert {box[1] for box in boxes[:3]} != {box[1] for box in boxes[3:]}


def test_labels_stand_beside_rows_above_columns_and_are_drawn_whole() -> None:
    grid = [[picture(COLOURS[0]), picture(COLOURS[1])]]
    blank = contact_sheet(grid, [" "], [" ", " "])
    assert np.array_equal(np.unique(np.asarray(blank.convert("L"))), np.unique([255, *map(grey, COLOURS[:2])]))
    long = "a label much wider than the picture below it is"
    sheet = contact_sheet(grid, ["row"], ["x", long], title="title")
    left, top, *_ = found(sheet, COLOURS[0])
    ink = np.asarray(sheet.convert("L")) < 60
    assert ink[top:, :left].any(), "row label"
    assert ink[:top, left:].any(), "column labels"
    assert ink[: top // 2, :left].any(), "title"
    assert not ink[:, [0, -1]].any()
    assert not ink[[0, -1]].any(), "no label touches the border"
    columns = [contact_sheet(grid, [" "], [label, " "]).crop((0, 0, 80, 20)) for label in ("0.5", "1")]
    assert ImageChops.difference(*columns).getbbox(), "other labels, other ink"


def test_a_long_title_is_cut_off() -> None:
    grid = [[picture(COLOURS[0])]]
    short, long = (contact_sheet(grid, ["row"], ["column"], title) for title in ("a", "a " * 500))
    assert short.size == long.size
    assert (np.asarray(long)[:, -8:] == 255).all()
    assert ImageChops.difference(short, long).getbbox()


def grey(colour: tuple[int, int, int]) -> int:
    return int(picture(colour).convert("L").getpixel((0, 0)))  # type: ignore[arg-type]


def test_a_line_stands_below_each_row() -> None:
    grid = [[picture(COLOURS[0])], [picture(COLOURS[1])]]
    sheet = contact_sheet(grid, [" ", " "], [" "], below=["one", "another " * 50])
    ink = np.asarray(sheet.convert("L")) < 60
    (left, _, _, end), (_, start, _, last) = found(sheet, COLOURS[0]), found(sheet, COLOURS[1])
    assert ink[end:start, left:].any(), "below the first row"
    assert ink[last:, left:].any(), "below the second"
    assert not ink[:, -1].any(), "a long one is cut off"
    with pytest.raises(ValueError, match="below must have one line for each of the 2 rows, not 1"):
        contact_sheet(grid, [" ", " "], [" "], below=["one"])


def test_a_sheet_takes_pictures_of_several_sizes_and_modes() -> None:
    small = picture(COLOURS[1], (10, 10)).convert("RGBA")
    sheet = contact_sheet([[picture(COLOURS[0])], [small]], ["a", "\u6f22\n"], ["b"])
    big_box, small_box = found(sheet, COLOURS[0]), found(sheet, COLOURS[1])
    assert small_box[0] - big_box[0] == 15
    assert sheet.mode == "RGB"


@pytest.mark.parametrize(
    ("pictures", "rows", "columns"), [([], [], []), ([[]], ["a"], []), ([[1]], ["a"], ["b", "c"]), ([[1]], [], ["b"])]
)
def test_a_sheet_wants_as_many_labels_as_pictures(pictures: Any, rows: list[str], columns: list[str]) -> None:
    with pytest.raises(ValueError, match="as many as the labels"):
        contact_sheet(pictures, rows, columns)


# The grid.


class Recorder:
    """Stands for `Engine.generate`: notes the calls and gives a picture of a colour of its own for each."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Lora, ...], int]] = []

    def __call__(self, *, loras: list[Lora], seed: int) -> Any:
        self.calls.append((tuple(loras), seed))
        self.images = [picture((0, len(self.calls), 200))]
        return self


def test_a_grid_draws_each_adapter_strength_and_seed_once(tmp_path: Path) -> None:
    a, b = Lora("/x/a.safetensors"), Lora("/x/b.safetensors", 2.0, name="bee")
    generate = Recorder()
    output = make_grid(generate, [a, b], [0.5, 0, 1.0], [7, 8], tmp_path / "grid.png")
    drawn = [((Lora(lora.path, (lora.multiplier or 1) * scale, name=lora.name),), seed)
             for lora in (a, b) for scale in (0.5, 1.0) for seed in (7, 8)]  # fmt: skip
    assert generate.calls == [((), 7), ((), 8), *drawn]
    sheet = Image.open(output)
    boxes = [found(sheet, (0, index, 200)) for index in range(3, 11)]
    at = {(lora[0].path, lora[0].multiplier, seed): box for (lora, seed), box in zip(drawn, boxes, strict=True)}
    assert at[a.path, 0.5, 7][0] == at[b.path, 1.0, 8][0] < at[a.path, 1.0, 7][0]
    assert at[a.path, 0.5, 7][1] < at[a.path, 0.5, 8][1] < at[b.path, 1.0, 7][1] < at[b.path, 1.0, 8][1]
    base = np.asarray(sheet)[:, : at[a.path, 0.5, 7][0]]
    assert (np.all(base == (0, 1, 200), axis=2).sum(), np.all(base == (0, 2, 200), axis=2).sum()) == (2400, 2400)


def test_rows_are_labelled_by_name_and_by_path_where_names_are_equal(tmp_path: Path) -> None:
    def grid(*loras: Lora) -> Image.Image:
        return Image.open(make_grid(Recorder(), loras, [1], [1], tmp_path / "grid.png")).copy()

    def expected(*labels: str) -> Image.Image:
        rows = [[picture((0, 1, 200)), picture((0, 2 + index, 200))] for index in range(len(labels))]
        return contact_sheet(rows, [f"{label}, seed 1" for label in labels], ["no LoRA", "1"])

    def same(left: Image.Image, right: Image.Image) -> bool:
        return left.size == right.size and left.tobytes() == right.tobytes()

    assert same(grid(Lora("/x/a.safetensors", name="bee"), Lora("/y/a.safetensors")), expected("bee", "a"))
    assert same(
        grid(Lora("/x/a.safetensors"), Lora("/y/a.safetensors")), expected("/x/a.safetensors", "/y/a.safetensors")
    )


def test_a_grid_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    generate = Recorder()
    with pytest.raises(ValueError, match="does not have the ending of an image file"):
        make_grid(generate, [Lora("a")], [1], [1], tmp_path / "grid.txt")
    with pytest.raises(ValueError, match="at least one LoRA"):
        make_grid(generate, [], [1], [1], tmp_path / "grid.png")
    assert generate.calls == []


@pytest.mark.parametrize("error", [SDError("matches nothing"), KeyboardInterrupt()])
def test_a_lora_that_fails_does_not_lose_the_others(error: BaseException, tmp_path: Path, capfd: Capture) -> None:
    recorder = Recorder()

    def generate(*, loras: list[Lora], seed: int) -> Any:
        if loras and loras[0].name == "bee":
            raise error
        return recorder(loras=loras, seed=seed)

    with pytest.raises(type(error)):
        make_grid(generate, [Lora("/x/a"), Lora("/x/b", name="bee")], [1], [7], tmp_path / "grid.png")
    said = "bee 1, seed 7: matches nothing" if isinstance(error, SDError) else "interrupted after 2 of 3 images"
    assert said in capfd.readouterr().err
    sheet = Image.open(tmp_path / "grid.png")
    assert found(sheet, (0, 2, 200))[1] < found(sheet, (224, 224, 224))[1]


@pytest.mark.parametrize("text", ["", "1,", "a", "1;2", "nan", "0,inf", "1,1.0"])
def test_lists_of_numbers_are_checked(text: str) -> None:
    assert parse_numbers("0, 0.5,-1", float, "scales") == [0.0, 0.5, -1.0]
    with pytest.raises(ValueError, match="scales must be different floats"):
        parse_numbers(text, float, "scales")


def test_the_command_writes_the_engines_pictures(tiny_model: TinyModel, tmp_path: Path, capfd: Capture) -> None:
    draw: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0}
    arguments = {**tiny_model.engine_arguments(), "threads": THREADS, "backend": "cpu"}
    grid = ["lora", "grid", "--lora", str(tiny_model.lora), "--scales", "0,0.5", "--seeds", "5", "--prompt", "a cat"]
    output = tmp_path / "grid.png"
    assert cli.main([*grid, "--output", str(output), *flags(**arguments, **draw)]) == 0
    assert capfd.readouterr().out == f"{output}\n"
    with Engine(**arguments) as engine:
        images = [
            engine.generate("a cat", seed=5, loras=loras, **draw).images[0] for loras in ([], [(tiny_model.lora, 0.5)])
        ]
    expected = contact_sheet([images], [f"{tiny_model.lora.stem}, seed 5"], ["no LoRA", "0.5"], "a cat")
    assert not ImageChops.difference(Image.open(output), expected).getbbox()
    grid[3:4] = [tiny_model.lora.stem, "--lora-dir", str(tiny_model.lora.parent)]  # by name, as generate takes it
    output.unlink()
    assert cli.main([*grid, "--output", str(output), *flags(**arguments, **draw)]) == 0
    assert not ImageChops.difference(Image.open(output), expected).getbbox()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--scales", "x"], 2, "scales must be"),
        (["--seeds", "1,1"], 2, "seeds must be"),
        (["--output", "grid.txt"], 2, "does not have the ending of an image file"),
        (["--lora", "missing.safetensors"], 1, "missing.safetensors does not exist"),
        (["--seed", "1"], 2, "--seed"),
    ],
)
def test_the_command_refuses_before_the_model_is_loaded(
    arguments: list[str], status: int, said: str, tiny_model: TinyModel, capfd: Capture
) -> None:
    assert cli.main(["lora", "grid", "--model", "missing", "--lora", str(tiny_model.lora), *arguments]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err


# Inspection.


def test_inspect_tells_what_a_file_holds(tmp_path: Path, capfd: Capture) -> None:
    tensors = {"lora_unet_stray.unheard_of": np.ones(3, np.float32)}
    for block, rank in ((1, 4), (2, 4), (2, 8)):
        module = f"lora_unet_down_blocks_{block}_attentions_0_transformer_blocks_0_attn{rank // 4}_to_k"
        tensors[f"{module}.lora_down.weight"] = np.ones((rank, 768), np.float16)
        tensors[f"{module}.lora_up.weight"] = np.ones((320, rank), np.float16)
        tensors[f"{module}.alpha"] = np.array(2.5, np.float32)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    assert cli.main(["lora", "inspect", str(path)]) == 0
    out = capfd.readouterr().out
    for text in (
        f"{path}: safetensors, ",
        " KiB, 10 tensors",
        "kind: lora; names: kohya",
        "architecture: sd1 (lora_unet_down_blocks_2_",
        "_to_k reads text of width 768)",
        "dtypes: F16 (6x), F32 (4x)",
        "rank: 4 (2x), 8 (1x)",
        "alpha: 2.5 (from alpha tensor; scale 0.625 (2x), 0.3125 (1x))\n",
        "targets: 3 modules in 2 blocks\n  lora_unet_down_blocks_1: 1\n  lora_unet_down_blocks_2: 2\n",
        "left out: 1 tensors, such as lora_unet_stray.unheard_of: it is of an unknown kind",
    ):
        assert text in out


def test_inspect_tells_where_strength_words_and_base_are_from(tmp_path: Path, capfd: Capture) -> None:
    module = "transformer.single_transformer_blocks.0.attn.to_q"
    pair = {
        f"{module}.lora_A.weight": np.ones((4, 8), np.float32),
        f"{module}.lora_B.weight": np.ones((6, 4), np.float32),
    }
    settings = {"transformer.r": 4, "transformer.lora_alpha": 1}
    metadata = {
        "lora_adapter_metadata": json.dumps(settings),
        "modelspec.trigger_phrase": "sks cat",
        "modelspec.architecture": "flux-1-dev/lora",
        "ss_tag_frequency": json.dumps({"10_cat": {"cat": 5, "hat": 2}}),
    }
    save_file({**pair, "stray.vera_lambda_b": np.ones(3, np.float32)}, tmp_path / "a.safetensors", metadata)
    assert cli.main(["lora", "inspect", str(tmp_path / "a.safetensors")]) == 0
    out = capfd.readouterr().out
    for text in (
        "alpha: 1 (from lora_adapter_metadata; scale 0.25)\n",
        "trigger words: sks cat\n",
        "most frequent tags: cat (5x), hat (2x)\n",
        "base model: flux-1-dev/lora (modelspec.architecture)\n",
        "written by: diffusers\n",
        "left out: 1 tensors, such as stray.vera_lambda_b: it is of an adapter of kind VeRA",
    ):
        assert text in out
    assert cli.main(["lora", "inspect", str(tmp_path / "a.safetensors"), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["modules"][module]["alpha_from"] == "lora_adapter_metadata"
    assert facts["about"]["made_for"] == "flux"
    assert facts["about"]["trigger_words"] == ["sks cat"]
    assert "VeRA" in facts["left_out"]["stray.vera_lambda_b"]


def test_inspect_says_that_notes_of_a_trainer_do_not_count(tmp_path: Path, capfd: Capture) -> None:
    pair = {"m.lora_A.weight": np.ones((4, 8), np.float32), "m.lora_B.weight": np.ones((6, 4), np.float32)}
    save_file(pair, tmp_path / "a.safetensors", {"ss_network_alpha": "1", "ss_network_dim": "4"})
    assert cli.main(["lora", "inspect", str(tmp_path / "a.safetensors")]) == 0
    said = "alpha: none, so the scale is 1; ss_network_alpha 1 / ss_network_dim 4 in the metadata is not applied"
    assert said in capfd.readouterr().out


def test_inspect_gives_json(tiny_model: TinyModel, capfd: Capture) -> None:
    assert cli.main(["lora", "inspect", str(tiny_model.lora), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    module = "diffusion_model.double_blocks.0.img_attn.proj"
    expected = {"kinds": ["lora"], "rank": 4, "alpha": 4.0, "scale": 1.0, "alpha_from": "alpha tensor"}
    assert facts["modules"][module] == expected
    assert facts["tensors"][f"{module}.lora_A.weight"]["shape"][0] == 4
    assert (facts["kinds"], facts["architecture"], facts["format"]) == (["lora"], "flux2", "safetensors")
    assert facts["size"] == tiny_model.lora.stat().st_size
    assert sum(facts["blocks"].values()) == len(facts["modules"])


def test_inspect_refuses_a_bad_file_in_one_line(tmp_path: Path, capfd: Capture) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"no such thing at all")
    assert cli.main(["lora", "inspect", str(path)]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert str(path) in err


def test_inspect_with_a_model_tells_what_would_apply(tiny_model: TinyModel, tmp_path: Path, capfd: Capture) -> None:
    files = flags(**tiny_model.engine_arguments())
    assert cli.main(["lora", "inspect", str(tiny_model.lora), *files, "--type", "q8_0"]) == 0
    assert "for this model: 12 of 12 tensors, on q8_0 weights\n" in capfd.readouterr().out
    assert cli.main(["lora", "inspect", str(tiny_model.lora), *files, "--json"]) == 0
    fit = json.loads(capfd.readouterr().out)["fit"]
    assert (fit["applied"], fit["total"], fit["types"]) == (12, 12, ["f16"])


def test_generate_looks_names_up_in_the_lora_directory(tiny_model: TinyModel, tmp_path: Path, capfd: Capture) -> None:
    files = flags(**tiny_model.engine_arguments())
    size = ["--width", "64", "--height", "64", "--steps", "1", "--cfg-scale", "1", "--seed", "1", "--threads", "1"]
    lora_dir = ["--lora-dir", str(tiny_model.lora.parent), "--output", str(tmp_path / "out.png")]
    assert cli.main(["generate", *files, *size, *lora_dir, "--prompt", "a cat", "--lora", "lora:0.5"]) == 0
    assert "applied 12 of 12 tensors" in capfd.readouterr().err
    assert cli.main(["generate", *files, *size, *lora_dir, "--prompt", "a cat <lora:lora:0.5>"]) == 0
    assert "applied 12 of 12 tensors" in capfd.readouterr().err
