"""The bench's arithmetic. Nothing is timed here."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import growth, report, rounds
from bench.contenders import CONTENDERS, Contender, Job
from bench.engine_log import read_parts
from bench.models import MODELS
from bench.profile import Node, Spent, profile, shown, summed
from bench.roofline import best_rates, measure_roofline, rate
from bench.rounds import Runs, median, ratios
from bench.works import AIMS, WORKS, Aim, Lane, Work
from sdcli import SdCli

LOG = """\
[INFO ] stable-diffusion.cpp:3106 - encode_first_stage completed, taking 0.25s
[INFO ] stable-diffusion.cpp:3178 - get_learned_condition completed, taking 0.39s
[INFO ] stable-diffusion.cpp:3433 - generating image: 1/2 - seed 42
[INFO ] stable-diffusion.cpp:3464 - sampling completed, taking 0.20s
[INFO ] stable-diffusion.cpp:3464 - sampling completed, taking 0.60s
[INFO ] stable-diffusion.cpp:3222 - decode_first_stage completed, taking 0.50s
[INFO ] stable-diffusion.cpp:3623 - generate_image completed in 1.95s
"""


def test_the_parts_of_a_call_stand_in_the_engines_log() -> None:
    parts = read_parts(LOG, steps=2)
    assert parts == pytest.approx(
        {"encode": 0.25, "condition": 0.39, "sampling": 0.8, "decode": 0.5, "call": 1.95, "step": 0.2}
    )


def test_ratios_are_of_the_rounds_in_which_both_took_part() -> None:
    one = Runs(samples=[{"step": 2.0}, {"step": 6.0}, {"step": 9.0}, None])
    other = Runs(samples=[{"step": 1.0}, {"step": 2.0}])
    assert ratios(one, other, "step") == [2.0, 3.0]
    assert ratios(one, Runs("not installed (torch)"), "step") == []


@pytest.mark.parametrize("aim", AIMS, ids=lambda aim: f"{aim.title}, {aim.against}")
def test_aims_are_about_works_and_lanes_that_exist(aim: Aim) -> None:
    labels = {lane.label for lane in WORKS[aim.work].lanes}
    assert {aim.lane, aim.against} <= labels
    assert aim.part in WORKS[aim.work].parts


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_works_are_of_models_and_contenders_that_exist(work: Work) -> None:
    assert {work.model, *(model for _, model, _ in work.networks.values())} <= MODELS.keys()
    assert {lane.contender for lane in work.lanes} <= CONTENDERS.keys()
    assert work.networks.keys() <= work.parts.keys()


class _Session:
    """A contender that notes how many are open."""

    open = most = 0

    def __init__(self, job: Job) -> None:
        type(self).open += 1
        type(self).most = max(self.most, self.open)

    def call(self, **changes: object) -> dict[str, float]:
        return {"step": 1.0}

    def close(self) -> None:
        type(self).open -= 1


@pytest.mark.parametrize(("apart", "most"), [(False, 2), (True, 1)])
def test_lanes_that_do_not_fit_into_memory_together_run_apart(
    monkeypatch: pytest.MonkeyPatch, apart: bool, most: int
) -> None:
    monkeypatch.setattr(_Session, "most", 0)
    monkeypatch.setattr(rounds, "contender", lambda lane: Contender(_Session))
    monkeypatch.setattr(Work, "job", lambda work, threads: Job({}, {}))
    lanes = (Lane("one", ""), Lane("other", ""))
    runs = rounds.compare(Work("", "", dict, {}, lanes, apart=apart), lanes, 3, 10.0, None)
    assert (_Session.most, _Session.open) == (most, 0)
    assert {label: len(of.samples) for label, of in runs.items()} == {"one": 3, "other": 3}


def test_a_contender_is_left_out_with_the_reason() -> None:
    assert Contender(_Session, ("no_such_package",), cannot=lambda: "never").missing() == (
        "not installed (no_such_package)"
    )
    assert Contender(_Session, ("json",), cannot=lambda: "no bfloat16").missing() == "no bfloat16"
    assert Contender(_Session).missing() is None


def test_a_type_has_the_rate_of_its_fastest_instructions_or_that_of_float32() -> None:
    rates = best_rates("float32\tAVX2\t2e11\nfloat32\tAVX-512\t4e11\nint8\tVNNI\t16e11\nint8\tAVX2\t5e11\n")
    assert rates["float32"] == {"instructions": "AVX-512", "rate": 4e11}
    roofline = {"arithmetic": rates, "memory": 1.0}
    assert [rate(roofline, type) for type in ("float32", "int8", "bfloat16")] == [4e11, 16e11, 4e11]


def test_a_share_is_of_the_rate_of_the_type_that_a_contender_computes_in(tmp_path: Path) -> None:
    results = report.Results(tmp_path / "results.json", {})
    results.roofline = {"arithmetic": best_rates("float32\tA\t1e9\nint8\tB\t4e9\n"), "memory": 1.0}
    pytorch = {"step": 10.0, "step operations": 5e9}
    results.works["unet-256-f16"] = {
        "sdcffi": Runs(samples=[{"step": 10.0}]),
        "PyTorch float32": Runs(samples=[pytorch]),
        "OpenVINO int8": Runs(samples=[{"step": 2.5}]),
    }
    head, _, row = (line.strip("| ").split(" | ") for line in report.shares(results).splitlines())
    assert head[1:4] == ["GFLOP", "at float32's rate", "at int8's rate"]
    assert row[1:4] == ["5", "5.00 s", "1.25 s"]
    shares = dict(zip(head, row, strict=False))
    assert (shares["sdcffi"], shares["PyTorch float32"], row[-1]) == ("50 %", "50 %", "50 %")


def test_a_profile_sums_what_operations_took_by_kind_and_by_shape() -> None:
    nodes = [Node("ADD", "a", Spent(0.1, 0.2, 1)), Node("MUL_MAT", "b", Spent(0.2, 0.2, 1, 4e9))]
    nodes += [Node("MUL_MAT", "c", Spent(0.1, 0.4, 1, 2e9))]
    assert summed(nodes, by_shape=True).keys() == {"ADD: a", "MUL_MAT: b", "MUL_MAT: c"}
    by_kind = summed(nodes, by_shape=False)
    assert list(by_kind) == ["MUL_MAT", "ADD"]
    rows = shown(by_kind, rounds=2, most=1).splitlines()[2:]
    assert rows == ["| MUL_MAT | 75.0 % | 75.0 % | 150.0 | 300.0 | 1 | 20 | 10 |"]


@pytest.mark.slow
def test_a_profile_notes_every_operation_of_a_step() -> None:
    [(nodes, seconds)] = profile("tiny-256", "sample", rounds=1, threads=2)
    kinds = {node.kind for node in nodes}
    assert {"MUL_MAT", "FLASH_ATTN_EXT", "RMS_NORM", "UNARY SILU"} <= kinds
    assert all(node.spent.wall >= 0 and node.spent.cpu >= 0 for node in nodes)
    assert 0 < sum(node.spent.wall for node in nodes) <= seconds
    product = next(node for node in nodes if node.shapes == "f16 128x768, f32 128x256 → f32 768x256")
    assert (product.kind, product.spent.operations) == ("MUL_MAT", 2 * 128 * 768 * 256)


@pytest.mark.slow
def test_the_roof_is_measured_for_the_types_of_this_processor() -> None:
    roofline = measure_roofline(repeats=1)
    assert {"float32", "int8"} <= roofline["arithmetic"].keys()
    assert all(best["rate"] > 0 and best["instructions"] for best in roofline["arithmetic"].values())


def test_an_aim_is_met_or_missed_and_what_is_not_there_is_told() -> None:
    aim = next(aim for aim in AIMS if aim.work == "autoencoder-256")
    slow, fast = Runs(samples=[{aim.part: 26.0}, {aim.part: 30.0}]), Runs(samples=[{aim.part: 10.0}, {aim.part: 10.0}])
    row = report.aim_row(aim, {aim.lane: slow, aim.against: fast})
    assert row[3:] == ["28.0 s", "10.0 s", "2.80 (2.60 to 3.00)", "≤ 1.20", "missed"]
    row = report.aim_row(aim, {aim.lane: slow, aim.against: Runs("not installed (torch)")})
    assert row[4:] == ["not installed (torch)", "", "≤ 1.20", ""]


def test_the_fit_finds_the_polynomial() -> None:
    values = [128, 256, 512, 768]
    pixels = [value * value / 1e6 for value in values]
    measured = {"values": values, "seconds": {"call": [0.2 + 3 * x + 5 * x * x for x in pixels]}}
    assert growth.fit(growth.AXES["size"], measured) == pytest.approx([0.2, 3, 5])
    assert growth.formula(growth.AXES["size"], measured) == "0.200 + 3.000 n + 5.000 n² s, n megapixels"


def test_results_are_taken_over_if_complete_undisturbed_and_of_the_same_build(tmp_path: Path) -> None:
    def results(build: str) -> report.Results:
        return report.Results(tmp_path / "results.json", {"same": {"build": build}})

    first = results("a")
    first.works["tiny-256"] = {"sdcffi": Runs(samples=[{"call": 1.0}, None])}
    first.works["tiny-512"] = {"sdcffi": Runs("failed")}
    first.works["upscale"] = {"sdcffi": Runs(samples=[{"upscale": 1.0}])}
    first.disturbed = {"tiny-256": 0.01, "upscale": 0.5}
    first.save()
    again, other = results("a"), results("b")
    again.resume()
    other.resume()
    assert again.works == {"tiny-256": first.works["tiny-256"]}
    assert other.works == {}


def test_the_page_is_rewritten_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "speed.md"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n", "utf-8")
    monkeypatch.setattr(report, "PAGE", page)
    about = {
        "date": "2026-01-01",
        "command": "python -m tests.bench",
        "machine": "a machine",
        "versions": {"numpy": "2"},
    }
    report.write_page(report.Results(tmp_path / "results.json", about))
    text = page.read_text("utf-8")
    assert text.startswith("before\n<!-- measured: begin -->")
    assert text.endswith("<!-- measured: end -->\nafter\n")
    assert "a machine; numpy 2" in text
    assert "old" not in text


def test_the_median_of_nothing_is_none() -> None:
    assert (median([]), median([3.0, 1.0, 2.0])) == (None, 2.0)


def test_sd_cli_keeps_its_own_number_of_threads_where_none_is_given() -> None:
    words = SdCli(Path("sd-cli")).words({"threads": None, "steps": 2, "vae_tiling": True}, Path("image.png"))
    assert words == ["sd-cli", "--steps", "2", "--vae-tiling", "--output", "image.png"]
