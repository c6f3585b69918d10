"""The CPU backend's own kernels against numpy in double precision: shapes, strides, types, threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ggml_cpu import TYPES, Backend, Floats

from sdcffi._machine.builds import locate

# Of the largest value: single precision's 6e-8 times what some thousand sums of random signs gather.
ROUNDING = 2e-6
# Fewer rows than these are ggml's own, which takes the activations in eight bits beside quantised weights.
FEW_QUANTISED = 16

Shape = tuple[int, int, int]  # rows, columns, depth
PRODUCTS: list[Shape] = [(8, 8, 32), (9, 33, 96), (64, 64, 64), (77, 320, 768), (513, 257, 320), (1030, 24, 1056)]
CONVOLUTIONS: list[dict[str, Any]] = [
    {"channels": (4, 8), "size": (16, 16)},
    {"channels": (70, 19), "size": (33, 17), "pictures": 2},
    {"channels": (5, 3), "size": (31, 40), "stride": (2, 2)},
    {"channels": (64, 65), "size": (16, 16), "kernel": (1, 1), "padding": (0, 0)},
    {"channels": (3, 7), "size": (20, 50), "kernel": (5, 3), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    {"channels": (3, 9), "size": (28, 28), "kernel": (14, 14), "stride": (14, 14), "padding": (0, 0)},
    {"channels": (2, 3), "size": (1, 1)},
    {"channels": (2, 3), "size": (5, 300), "padding": (3, 2), "dilation": (2, 2)},
    {"channels": (40, 530), "size": (9, 7)},
    {"channels": (1, 1), "size": (64, 64), "kernel": (3, 1), "padding": (0, 1)},
]


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend(locate().backends["cpu"][0])


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def normal(random: np.random.Generator, *shape: int) -> Floats:
    return random.standard_normal(shape, dtype=np.float32)


def error(found: Floats, expected: np.ndarray[Any, Any]) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def product(weights: Floats, values: Floats) -> np.ndarray[Any, Any]:
    repeated = weights.repeat(values.shape[0] // weights.shape[0], 0).repeat(values.shape[1] // weights.shape[1], 1)
    result: np.ndarray[Any, Any] = values.astype(np.float64) @ repeated.astype(np.float64).swapaxes(-1, -2)
    return result


def convolution(
    kernel: Floats,
    pictures: Floats,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> np.ndarray[Any, Any]:
    """By the definition, one element of the kernel after the other; pairs are (x, y)."""
    padded = np.pad(pictures.astype(np.float64), ((0, 0), (0, 0), (padding[1],) * 2, (padding[0],) * 2))
    high = (padded.shape[2] - dilation[1] * (kernel.shape[2] - 1) - 1) // stride[1] + 1
    wide = (padded.shape[3] - dilation[0] * (kernel.shape[3] - 1) - 1) // stride[0] + 1
    total = np.zeros((pictures.shape[0], kernel.shape[0], high, wide))
    for y, x in np.ndindex(kernel.shape[2], kernel.shape[3]):
        top, left = y * dilation[1], x * dilation[0]
        under = padded[:, :, top : top + high * stride[1] : stride[1], left : left + wide * stride[0] : stride[0]]
        total += np.einsum("oc,nchw->nohw", kernel[:, :, y, x].astype(np.float64), under[:, :, :high, :wide])
    return total


def convolved(backend: Backend, random: np.random.Generator, kind: str, case: dict[str, Any]) -> float:
    (into, out), (high, wide) = case["channels"], case["size"]
    kernel = normal(random, out, into, *case.get("kernel", (3, 3)))
    how = {"stride": case.get("stride", (1, 1)), "padding": case.get("padding", (1, 1))}
    how["dilation"] = case.get("dilation", (1, 1))
    pictures = normal(random, case.get("pictures", 1), into, high, wide)
    found, held = backend.convolve(kernel, pictures, kind=kind, **how)
    return error(found, convolution(held, pictures, **how))


@pytest.mark.parametrize("shape", PRODUCTS, ids=str)
@pytest.mark.parametrize("kind", TYPES)
def test_a_product_is_exact_but_for_rounding(
    backend: Backend, random: np.random.Generator, kind: str, shape: Shape
) -> None:
    rows, columns, depth = shape
    if kind not in ("f32", "f16", "bf16"):
        rows, depth = max(rows, FEW_QUANTISED), -(-depth // 256) * 256
    weights, values = normal(random, 1, 1, columns, depth), normal(random, 1, 1, rows, depth)
    found, held = backend.multiply(weights, values, kind)
    assert error(found, product(held, values)) < ROUNDING


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize(("of_weights", "of_values"), [((1, 2), (3, 4)), ((2, 8), (2, 8)), ((1, 1), (2, 3))])
def test_batches_and_heads_go_with_their_own_weights(
    backend: Backend,
    random: np.random.Generator,
    of_weights: tuple[int, int],
    of_values: tuple[int, int],
    permuted: bool,
) -> None:
    weights, values = normal(random, *of_weights, 40, 50), normal(random, *of_values, 33, 50)
    found, held = backend.multiply(weights, values, "f32", permuted)
    assert error(found, product(held, values)) < ROUNDING


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("kind", ["f16", "f32", "bf16"])
def test_a_convolution_is_exact_but_for_rounding(
    backend: Backend, random: np.random.Generator, kind: str, case: dict[str, Any]
) -> None:
    assert convolved(backend, random, kind, case) < ROUNDING


def test_random_convolutions(backend: Backend, random: np.random.Generator) -> None:
    bounds = ((1, 6), (1, 4), (0, 4), (1, 3))
    for _ in range(60):
        kernel, stride, padding, dilation = (tuple(map(int, random.integers(*bound, 2))) for bound in bounds)
        least = np.array([dilation[1] * kernel[0], dilation[0] * kernel[1]])
        size = random.integers(1, 40, 2) + least
        case = {"channels": tuple(random.integers(1, 50, 2)), "size": tuple(size), "kernel": kernel}
        case |= {"stride": stride, "padding": padding, "dilation": dilation, "pictures": int(random.integers(1, 3))}
        assert convolved(backend, random, "f16", case) < ROUNDING, case


@pytest.mark.parametrize("right", [(1, 5, 1, 1), (3, 5, 7, 1), (1, 1, 7, 1), (3, 1, 1, 1), (1, 1, 1, 1), (1, 5, 7, 11)])
@pytest.mark.parametrize("operation", ["add", "mul"])
def test_a_number_for_each_row_is_added_or_multiplied(
    backend: Backend, random: np.random.Generator, operation: str, right: tuple[int, ...]
) -> None:
    left, numbers = normal(random, 3, 5, 7, 11), normal(random, *right)
    expected = left + numbers if operation == "add" else left * numbers
    assert np.array_equal(backend.combine(operation, left, numbers), expected)


@pytest.fixture
def two_threads_again(backend: Backend) -> Iterator[None]:
    yield
    backend.set_threads(2)


@pytest.mark.usefixtures("two_threads_again")
def test_the_number_of_threads_changes_no_bit(backend: Backend, random: np.random.Generator) -> None:
    weights, values = normal(random, 1, 1, 320, 640), normal(random, 1, 1, 600, 640)
    kernel, pictures = normal(random, 40, 30, 3, 3), normal(random, 1, 30, 50, 41)
    found = []
    for threads in (1, 2, 3, 7):
        backend.set_threads(threads)
        found.append((backend.multiply(weights, values, "q8_0")[0], backend.convolve(kernel, pictures)[0]))
    for products, pixels in found[1:]:
        assert np.array_equal(products, found[0][0])
        assert np.array_equal(pixels, found[0][1])
