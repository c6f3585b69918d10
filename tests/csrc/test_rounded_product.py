"""Products of rounded values as csrc/cpu/rounded_product.hpp packs them, in the plain form of what VNNI computes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiled import compiled

# What the header takes of ggml, for one thread.
GGML = """
#pragma once
struct ggml_threadpool { int next; };
struct ggml_compute_params { int ith, nth; void* wdata; ggml_threadpool* threadpool; };
inline void ggml_threadpool_chunk_set(ggml_threadpool* pool, int value) { pool->next = value; }
inline int ggml_threadpool_chunk_add(ggml_threadpool* pool, int value) { return (pool->next += value) - value; }
inline void ggml_barrier(ggml_threadpool*) {}
"""
PROGRAM = r"""
#undef __SSE2__
#include <cstdio>
#include <cstdlib>
#include <vector>
#include "cpu/rounded_product.hpp"
using namespace sdcffi;

struct Problem {
    int64_t rows, columns, depth, batch;
    size_t stride;
    const float *a, *b;
    float* c;

    static void fill(const float* from, int64_t wide, float* to, int strip, int count, int64_t k, int depth) {
        const float* lines[kWidestStrip];
        for (int i = 0; i < count; i++) lines[i] = from + i * wide + k;
        interleave(lines, count, strip, depth, to);
    }
    void fill_rows(float* to, int strip, int64_t, int64_t row, int count, int64_t k, int some, float*) const {
        fill(a + row * depth, depth, to, strip, count, k, some);
    }
    void fill_columns(float* to, int strip, int64_t, int64_t column, int count, int64_t k, int some, float*) const {
        fill(b + column * depth, depth, to, strip, count, k, some);
    }
    float* result(int64_t, int64_t row, int64_t column) const { return c + row * stride + column; }
};

int main(int, char** words) {
    const int64_t rows = std::atoi(words[2]), columns = std::atoi(words[3]), depth = std::atoi(words[4]);
    std::vector<float> a(rows * depth), b(columns * depth), c(rows * columns), scratch(kThreadFloats);
    if (std::fread(a.data(), 4, a.size(), stdin) != a.size()) return 1;
    if (std::fread(b.data(), 4, b.size(), stdin) != b.size()) return 1;
    const Problem problem{rows, columns, depth, 1, size_t(columns), a.data(), b.data(), c.data()};
    ggml_threadpool pool{};
    const ggml_compute_params params{0, 1, scratch.data(), &pool};
    words[1][0] == 'p' ? multiply<Rounded<Pairs>>(&params, problem) : multiply<Rounded<Octets>>(&params, problem);
    std::fwrite(c.data(), 4, c.size(), stdout);
}
"""
SHAPES = [(8, 8, 32), (9, 33, 97), (77, 40, 768), (5, 3, 1), (12, 20, 300)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rounded")
    (place / "ggml-cpu-impl.h").write_text(GGML, "utf-8")
    return compiled(PROGRAM, place, f"-I{place}", "-O2")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("form", "block", "most"), [("pairs", 128, 4095), ("octets", 32, 127)])
def test_the_product_is_that_of_the_rounded_values(
    program: Path, form: str, block: int, most: int, shape: tuple[int, int, int]
) -> None:
    rows, columns, depth = shape
    random = np.random.default_rng(3)
    a, b = random.standard_normal((rows, depth), np.float32), random.standard_normal((columns, depth), np.float32) + 1
    words = [program, form, *map(str, shape)]
    run = subprocess.run(words, input=a.tobytes() + b.tobytes(), capture_output=True, check=True)
    found = np.frombuffer(run.stdout, np.float32).reshape(rows, columns)
    expected = rounded(a, block, most) @ rounded(b, block, most).T
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


def rounded(values: np.ndarray, block: int, most: int) -> np.ndarray:
    """Each block of a row to integers up to `most`, times their scale, in double precision."""
    result = np.empty(values.shape)
    for first in range(0, values.shape[1], block):
        part = values[:, first : first + block]
        largest = np.abs(part).max(1, keepdims=True)
        steps = np.float32(most) / largest
        result[:, first : first + block] = np.rint(part * steps) * (largest.astype(np.float64) / most)
    return result
