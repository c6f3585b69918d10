"""The bench's arithmetic. Nothing is timed here."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import growth, report
from bench.engine_log import read_parts
from bench.rounds import Runs, median, ratios
from bench.works import AIMS, WORKS, Aim

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
