"""Products and attention of rounded values as csrc/cpu packs them: what VNNI, AMX and Arm multiply, in plain form."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from compiled import compiled

# What the headers take of ggml, for one thread and floats.
GGML = """
#ifndef GGML
#define GGML
#include <cstddef>
#include <cstdint>
#define GGML_MAX_SRC 10
enum ggml_type { GGML_TYPE_F32, GGML_TYPE_F16 };
using ggml_fp16_t = uint16_t;
struct ggml_tensor {
    ggml_type type;
    int64_t ne[4];
    size_t nb[4];
    int32_t op_params[16];
    ggml_tensor* src[GGML_MAX_SRC];
    void* data;
};
struct ggml_type_traits { void (*to_float)(const void*, float*, int64_t); };
inline size_t ggml_row_size(ggml_type, int64_t count) { return count * sizeof(float); }
inline const ggml_type_traits* ggml_get_type_traits(ggml_type) { return nullptr; }
inline void ggml_cpu_fp16_to_fp32(const ggml_fp16_t*, float*, int64_t) {}
struct ggml_threadpool { int next; };
struct ggml_compute_params { int ith, nth; void* wdata; ggml_threadpool* threadpool; };
inline void ggml_threadpool_chunk_set(ggml_threadpool* pool, int value) { pool->next = value; }
inline int ggml_threadpool_chunk_add(ggml_threadpool* pool, int value) { return (pool->next += value) - value; }
inline void ggml_barrier(ggml_threadpool*) {}
#endif
"""
# AMX's instructions for tiles of any shape, by their names in C.
TILES = r"""
#pragma once
#include <cstdint>
#include <cstring>
#define SDCFFI_MULTIPLIES_TILES
struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t line[16];
    uint8_t rows[16];
} shapes;
float tiles[8][16][16];
inline void _tile_loadconfig(const void* from) { std::memcpy(&shapes, from, sizeof(shapes)); }
inline void _tile_release() { shapes = {}; }
inline void _tile_zero(int tile) { std::memset(tiles[tile], 0, sizeof(tiles[tile])); }
inline void _tile_loadd(int tile, const void* from, long step) {
    const char* line = static_cast<const char*>(from);
    for (int i = 0; i < shapes.rows[tile]; i++) std::memcpy(tiles[tile][i], line + i * step, shapes.line[tile]);
}
inline void _tile_stored(int tile, void* to, long step) {
    char* line = static_cast<char*>(to);
    for (int i = 0; i < shapes.rows[tile]; i++) std::memcpy(line + i * step, tiles[tile][i], shapes.line[tile]);
}
inline float half_of(float pair, int which) {
    uint32_t bits;
    std::memcpy(&bits, &pair, 4);
    bits = which ? bits & 0xffff0000 : bits << 16;
    std::memcpy(&pair, &bits, 4);
    return pair;
}
inline void _tile_dpbf16ps(int sum, int a, int b) {
    for (int i = 0; i < shapes.rows[sum]; i++) {
        for (int j = 0; j < shapes.line[sum] / 4; j++) {
            for (int k = 0; k < shapes.line[a] / 4; k++) {
                for (int which = 0; which < 2; which++) {
                    tiles[sum][i][j] += half_of(tiles[a][i][k], which) * half_of(tiles[b][k][j], which);
                }
            }
        }
    }
}
"""
PROGRAM = r"""
#undef __SSE2__
#undef __ARM_NEON
#include "tiles.hpp"
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
#include "cpu/attention.hpp"
#include "cpu/bfloat16_product.hpp"
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

template <class Arithmetic>
int attend(int64_t queries, int64_t keys, int64_t depth) {
    constexpr int64_t kHeads = 2;
    std::vector<float> values[4];
    ggml_tensor tensors[4] = {};  // q, k, v, result
    for (int i = 0; i < 4; i++) {
        const int64_t rows = i == 0 || i == 3 ? queries : keys;
        values[i].resize(kHeads * rows * depth);
        if (i < 3 && std::fread(values[i].data(), 4, values[i].size(), stdin) != values[i].size()) std::exit(1);
        const int64_t ne[4] = {depth, i == 3 ? kHeads : rows, i == 3 ? rows : kHeads, 1};
        for (int j = 0; j < 4; j++) {
            tensors[i].ne[j] = ne[j];
            tensors[i].nb[j] = j == 0 ? sizeof(float) : tensors[i].nb[j - 1] * ne[j - 1];
        }
        tensors[i].data = values[i].data();
    }
    const float scale = 1 / std::sqrt(float(depth));
    std::memcpy(tensors[3].op_params, &scale, sizeof(scale));
    for (int i = 0; i < 3; i++) tensors[3].src[i] = &tensors[i];
    const Attention<Arithmetic> attention(&tensors[3]);
    std::vector<char> scratch(scratch_bytes(attention.floats_per_thread(), 1));
    ggml_threadpool pool{};
    const ggml_compute_params params{0, 1, scratch.data(), &pool};
    attention.compute(&params);
    return std::fwrite(values[3].data(), 4, values[3].size(), stdout) == values[3].size() ? 0 : 1;
}

int main(int, char** words) {
    const std::string form = words[1];
    const int64_t rows = std::atoi(words[2]), columns = std::atoi(words[3]), depth = std::atoi(words[4]);
    if (form == "attention in floats") return attend<InFloats>(rows, columns, depth);
    if (form == "attention in tiles") return attend<InTiles>(rows, columns, depth);
    if (form == "attention in squares") return attend<InSquares>(rows, columns, depth);
    std::vector<float> a(rows * depth), b(columns * depth), c(rows * columns);
    std::vector<char> scratch(scratch_bytes(kThreadFloats, 1));
    if (std::fread(a.data(), 4, a.size(), stdin) != a.size()) return 1;
    if (std::fread(b.data(), 4, b.size(), stdin) != b.size()) return 1;
    const Problem problem{rows, columns, depth, 1, size_t(columns), a.data(), b.data(), c.data()};
    ggml_threadpool pool{};
    const ggml_compute_params params{0, 1, scratch.data(), &pool};
    if (form == "pairs") multiply<Rounded<Pairs>>(&params, problem);
    if (form == "octets") multiply<Rounded<Octets>>(&params, problem);
    if (form == "squares of octets") multiply<Rounded<SquaresOfOctets>>(&params, problem);
    if (form == "tiles") multiply<InTiles>(&params, problem);
    if (form == "squares") multiply<InSquares>(&params, problem);
    std::fwrite(c.data(), 4, c.size(), stdout);
}
"""
SHAPES = [(8, 8, 32), (9, 33, 97), (77, 40, 768), (5, 3, 1), (12, 20, 300)]


def to_integers(values: np.ndarray, block: int, most: int) -> np.ndarray:
    """Each block of a row to integers up to `most`, times their scale, in double precision."""
    result = np.empty(values.shape)
    for first in range(0, values.shape[1], block):
        part = values[:, first : first + block]
        largest = np.abs(part).max(1, keepdims=True)
        steps = np.float32(most) / largest
        result[:, first : first + block] = np.rint(part * steps) * (largest.astype(np.float64) / most)
    return result


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Each value to 8 significant bits, halves to the even one."""
    fractions, exponents = np.frexp(values.astype(np.float64))
    return np.ldexp(np.rint(fractions * 256), exponents - 8)


FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pairs": partial(to_integers, block=128, most=4095),
    "octets": partial(to_integers, block=32, most=127),
    "squares of octets": partial(to_integers, block=32, most=127),
    "tiles": to_bfloat16,
    "squares": to_bfloat16,
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rounded")
    for name in ("ggml.h", "ggml-cpu.h", "ggml-cpu-impl.h"):
        (place / name).write_text(GGML, "utf-8")
    (place / "tiles.hpp").write_text(TILES, "utf-8")
    return compiled(PROGRAM, place, f"-I{place}", "-O2")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_the_product_is_that_of_the_rounded_values(program: Path, form: str, shape: tuple[int, int, int]) -> None:
    rows, columns, depth = shape
    random = np.random.default_rng(3)
    a, b = random.standard_normal((rows, depth), np.float32), random.standard_normal((columns, depth), np.float32) + 1
    found = product(program, form, a, b)
    expected = FORMS[form](a) @ FORMS[form](b).T
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_number_stays_so(program: Path, form: str, bad: float) -> None:
    a, b = np.ones((5, 70), np.float32), np.ones((9, 70), np.float32)
    a[3, 69] = bad
    found = product(program, form, a, b)
    assert not np.isfinite(found[3]).any()
    assert np.abs(found[[0, 1, 2, 4]] - 70).max() < 1e-4


@pytest.mark.parametrize("shape", [(1, 1, 8), (40, 200, 40), (9, 97, 128), (70, 33, 300)], ids=str)
@pytest.mark.parametrize("form", ["floats", "tiles", "squares"])
def test_attention_is_that_of_the_rounded_values(program: Path, form: str, shape: tuple[int, int, int]) -> None:
    queries, keys, depth = shape
    random = np.random.default_rng(3)
    q, k, v = (random.standard_normal((2, count, depth), np.float32) for count in (queries, keys, keys))
    words, data = [program, f"attention in {form}", *map(str, shape)], b"".join(each.tobytes() for each in (q, k, v))
    run = subprocess.run(words, input=data, capture_output=True, check=True)
    found = np.frombuffer(run.stdout, np.float32).reshape(queries, 2, depth).transpose(1, 0, 2)
    most = 1e-6
    powers = q * np.float32(depth**-0.5 / np.log(2))
    if form != "floats":  # the weights are rounded too, by -56 dB
        powers, k, v = map(to_bfloat16, (powers, k, v))
        most = 10 ** (-54 / 20)
    weights = np.exp2(powers.astype(np.float64) @ k.transpose(0, 2, 1))
    expected = weights / weights.sum(2, keepdims=True) @ v
    assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)


def product(program: Path, form: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    words = [program, form, *map(str, (len(a), *b.shape))]
    run = subprocess.run(words, input=a.tobytes() + b.tobytes(), capture_output=True, check=True)
    return np.frombuffer(run.stdout, np.float32).reshape(len(a), len(b))
