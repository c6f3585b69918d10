"""The step cache for itself: a polynomial is extrapolated exactly, and the first result of a step is the one kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

# Upstream's types, as far as the header names them.
_STUBS = """
#include <cstdint>
#include <cstdio>
#include <vector>
namespace sd {
template <typename T>
struct Tensor {
    std::vector<T> values;
    T* data() { return values.data(); }
    const T* data() const { return values.data(); }
    int64_t numel() const { return int64_t(values.size()); }
};
}
struct DBCacheConfig {
    bool enabled = false;
    float residual_diff_threshold = 0.08f;
    int max_warmup_steps = 8, max_cached_steps = -1, max_continuous_cached_steps = -1;
    std::vector<int> steps_computation_mask;
    bool scm_policy_dynamic = true;
};
struct TaylorSeerConfig { bool enabled = false; int n_derivatives = 1, skip_interval_steps = 1; };
struct SpectrumState {
    struct { float w = 0; } config;
    int cnt = 0, stop_step = 0;
    std::vector<std::vector<float>> H_buf;
    std::vector<float> T_buf;
    float taus(int step) const { return step / 25.0f - 1.0f; }
    bool should_predict() { return true; }
    void predict(sd::Tensor<float>* out) {  // as upstream's with w = 0: half of the last difference on
        const auto& last = H_buf.back();
        const auto& before = H_buf[H_buf.size() - 2];
        for (size_t i = 0; i < last.size(); i++) out->values[i] = last[i] + 0.5f * (last[i] - before[i]);
    }
};
#include "engine/step_cache.hpp"
"""
_PROGRAM = """
float network(int degree, int step) {
    float value = 1;
    for (int i = 0; i < degree; i++) value *= 0.5f * step;
    return value;
}
int main() {
    for (int derivatives = 0; derivatives < 4; derivatives++) {
        sdcffi::OutputCache cache;
        DBCacheConfig rules;
        TaylorSeerConfig forecast;
        rules.enabled = false;
        rules.max_warmup_steps = 100;
        rules.scm_policy_dynamic = false;
        rules.steps_computation_mask = {1, 1, 0, 1, 1, 0, 0, 1};
        forecast.enabled = true;
        forecast.n_derivatives = derivatives;
        cache.init(rules, forecast);
        cache.set_sigmas(std::vector<float>(9, 1.0f));
        float worst = 0;
        const int prompt = 0, negative = 0;
        for (int step = 0; step < 8; step++) {
            for (const int* condition : {&prompt, &negative}) {
                const float input = 10.0f * step;
                const float added = (condition == &prompt ? 1 : -2) * network(derivatives, step);
                sd::Tensor<float> in{{input}}, out{{0}};
                if (cache.before_condition(condition, in, &out, 1.0f, step)) {
                    if (step > 4) worst = std::max(worst, std::fabs(out.values[0] - input - added));
                } else {
                    out.values[0] = input + added;
                    cache.after_condition(condition, in, out);
                    out.values[0] = 777;  // with layers skipped, in the same step
                    cache.after_condition(condition, in, out);
                }
            }
        }
        const char* error = worst < 1e-3f ? "none" : "some";
        std::printf("degree %d: %d reused, error %s\\n", derivatives, cache.total_steps_skipped, error);
    }
    sdcffi::Spectrum spectrum;
    spectrum.H_buf = {{1.0f}, {4.0f}};  // 3 in the 3 steps from 2 to 5
    spectrum.T_buf = {spectrum.taus(2), spectrum.taus(5)};
    spectrum.cnt = 7;
    sd::Tensor<float> out{{0}};
    spectrum.predict(&out);
    std::printf("forecast %.3f of step %d\\n", out.values[0], spectrum.reused[0]);
}
"""


def test_a_polynomial_is_extrapolated_exactly(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs g++ or clang++")
    source = tmp_path / "step_cache.cpp"
    source.write_text(_STUBS + _PROGRAM, encoding="utf-8")
    program = tmp_path / "step_cache"
    subprocess.run([compiler, "-std=c++17", "-I", ROOT / "csrc", source, "-o", program], check=True)
    found = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = [f"degree {degree}: 3 reused, error none" for degree in range(4)]
    assert found == [*expected, "forecast 6.000 of step 8"]
