"""Guidance rescale, and guidance of samplers that ask the model twice in a step."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdcffi import Engine, Log, SkipLayerGuidance
from sdcffi._build.places import csrc_directory

DRAW: dict[str, Any] = {"width": 64, "height": 64, "seed": 3, "steps": 2}
PROGRAM = """
#include <cstdio>
#include <vector>
#include "sampling/guidance.hpp"
struct Numbers {
    std::vector<float> values;
    int64_t numel() const { return values.size(); }
    const float* data() const { return values.data(); }
    void operator*=(float factor) { for (float& value : values) value *= factor; }
};
Numbers read() {
    int count = 0;
    std::scanf("%d", &count);
    Numbers numbers{std::vector<float>(count)};
    for (float& value : numbers.values) std::scanf("%f", &value);
    return numbers;
}
int main() {
    std::scanf("%f", &sdcffi::guidance_rescale);
    Numbers guided = read(), conditional = read();
    sdcffi::rescale_guided(guided, conditional);
    for (float value : guided.values) std::printf("%.9g ", value);
}
"""


def rescale_noise_cfg(guided: Any, conditional: Any, rescale: float) -> Any:
    """The function of diffusers; torch divides by n - 1, which cancels out."""
    rescaled = guided * (conditional.std(ddof=1) / guided.std(ddof=1))
    return rescale * rescaled + (1 - rescale) * guided


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_guided_outputs_are_rescaled_as_by_diffusers(rescale: float, tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "program.cpp").write_text(PROGRAM)
    program = tmp_path / "program"
    csrc = csrc_directory()
    subprocess.run([compiler, "-std=c++17", f"-I{csrc}", "-o", program, tmp_path / "program.cpp"], check=True)
    generator = np.random.default_rng(5)
    conditional = generator.standard_normal(60) + 0.3
    guided = conditional + 6 * (conditional - generator.standard_normal(60))
    given = " ".join(map(str, [rescale, 60, *guided, 60, *conditional]))
    found = np.array(
        subprocess.run([program], input=given, capture_output=True, text=True, check=True).stdout.split(), float
    )
    assert np.allclose(found, rescale_noise_cfg(guided, conditional, rescale), rtol=1e-5)


def test_a_call_is_rescaled_and_the_next_is_not(shared: Engine) -> None:
    plain, rescaled, again = (
        shared.generate("a cat", cfg_scale=9.0, guidance_rescale=rescale, **DRAW) for rescale in (None, 0.7, None)
    )
    assert np.array_equal(plain.arrays[0], again.arrays[0])
    assert not np.array_equal(plain.arrays[0], rescaled.arrays[0])
    sample = rescaled.record().whole.sample_params
    assert sample is not None
    assert sample.guidance_rescale == 0.7
    unguided = [shared.generate("a cat", cfg_scale=1.0, guidance_rescale=rescale, **DRAW) for rescale in (None, 1.0)]
    assert np.array_equal(unguided[0].arrays[0], unguided[1].arrays[0])


@pytest.mark.parametrize(
    ("sampler", "calls"), [("euler", 3), ("heun", 5), ("dpm2", 5), ("dpm++2s_a", 5), ("dpm++_sde", 5)]
)
def test_skip_layer_guidance_acts_in_every_call_of_its_steps(sampler: str, calls: int, shared: Engine) -> None:
    lines: list[Log] = []
    slg = SkipLayerGuidance(layers=[0], scale=2.0, layer_start=0.0, layer_end=1.0)
    shared.generate("a cat", cfg_scale=1.0, sampler=sampler, slg=slg, on_log=lines.append, **DRAW | {"steps": 3})
    found = [line.text for line in lines if "Skipping layers at step" in line.text]
    assert len(found) == calls - (sampler == "dpm++2s_a")  # its first call at noise alone needs no second
