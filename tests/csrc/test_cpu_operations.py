"""The CPU backend's own kernels against numpy in double precision: shapes, strides, types, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ggml_cpu import TYPES, Backend, Floats, Graph

from sdcffi._machine.builds import locate

# Of the largest value: single precision's 6e-8 times what some thousand sums of random signs gather.
ROUNDING = 2e-6
# Whether products are rounded to bfloat16 (csrc/cpu/bfloat16_product.hpp), and not to integers.
TILES = Path("/proc/cpuinfo").exists() and "amx_bf16" in Path("/proc/cpuinfo").read_text("utf-8")
# What rounding to 13 bits changes, see csrc/cpu/rounded_product.hpp: -75 dB for each factor if values are normally
# distributed, which sums keep, and the worst. To bfloat16: -56 dB.
ROUNDED, WORST_ROUNDED = (10 ** (-51 / 20), 10 ** (-45 / 20)) if TILES else (10 ** (-66 / 20), 10 ** (-54 / 20))
# What rounding to 8 bits changes, of normally distributed activations and of the weights' values.
ROUNDED_QUANTISED = 10 ** (-41 / 20)
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


def convolved(
    backend: Backend,
    random: np.random.Generator,
    kind: str,
    case: dict[str, Any],
    measure: Callable[[Floats, np.ndarray[Any, Any]], float] = error,
) -> float:
    (into, out), (high, wide) = case["channels"], case["size"]
    kernel = normal(random, out, into, *case.get("kernel", (3, 3)))
    how = {"stride": case.get("stride", (1, 1)), "padding": case.get("padding", (1, 1))}
    how["dilation"] = case.get("dilation", (1, 1))
    pictures = normal(random, case.get("pictures", 1), into, high, wide)
    found, held = backend.convolve(kernel, pictures, kind=kind, **how)
    return measure(found, convolution(held, pictures, **how))


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


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 2, 5, 7), (1, 1, 64, 1280)])
@pytest.mark.parametrize("function", ["gelu", "gelu_quick"])
def test_gelu_is_that_of_its_definition(
    backend: Backend, random: np.random.Generator, function: str, shape: tuple[int, ...]
) -> None:
    x = normal(random, *shape) * 4
    x.flat[:3] = 100, -100, 0
    wide = x.astype(np.float64)
    if function == "gelu":
        expected = wide * (1 + np.tanh((2 / np.pi) ** 0.5 * (wide + 0.044715 * wide**3))) / 2
    else:
        expected = wide / (1 + np.exp(-1.702 * wide))
    assert (np.abs(backend.activate(function, x) - expected) < 1e-6 * (1 + np.abs(expected))).all()


@pytest.mark.parametrize("function", ["gelu", "gelu_quick"])
def test_gelu_of_no_number_is_none(backend: Backend, function: str) -> None:
    values = np.full((1, 1, 3, 11), np.nan, np.float32)
    values[0, 0, 1] = np.inf
    found = backend.activate(function, values)[0, 0]
    assert np.isnan(found[0]).all()
    assert (found[1] == np.inf).all()


def normal_form(x: Floats, axes: tuple[int, ...], epsilon: float = 1e-5, centred: bool = True) -> np.ndarray[Any, Any]:
    """Return values with a mean of 0, if `centred`, and a mean square of 1 over some axes, in double precision."""
    wide = x.astype(np.float64)
    if centred:
        wide -= wide.mean(axes, keepdims=True)
    result: np.ndarray[Any, Any] = wide / np.sqrt(np.square(wide).mean(axes, keepdims=True) + epsilon)
    return result


def group_form(x: Floats, groups: int) -> np.ndarray[Any, Any]:
    each = -(-x.shape[1] // groups)  # the last group may have fewer
    parts = [normal_form(x[:, i : i + each], (1, 2, 3)) for i in range(0, x.shape[1], each)]
    return np.concatenate(parts, 1)


# The largest rounding errors of values of about 1, which a large mean does not add to: that of the values is in `x`.
NORM_ROUNDING = 1e-6
ROWS = [(1, 1, 1, 1), (1, 1, 5, 7), (2, 3, 4, 16), (1, 2, 33, 100), (1, 1, 3, 2048), (1, 1, 3, 5000)]
IMAGES = [(1, 32, 1, 1), (2, 64, 5, 7), (1, 40, 16, 16), (1, 10, 9, 9), (1, 32, 64, 65), (1, 2, 300, 200)]


@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize("shape", ROWS, ids=str)
@pytest.mark.parametrize("kind", ["norm", "rms_norm"])
def test_a_norm_of_rows_is_exact_but_for_rounding(
    backend: Backend, random: np.random.Generator, kind: str, shape: tuple[int, ...], mean: float
) -> None:
    x = normal(random, *shape) + np.float32(mean)
    found = backend.compute(lambda graph: graph.node(kind, graph.floats(x), 1e-5), shape)
    assert np.abs(found - normal_form(x, (3,), centred=kind == "norm")).max() < NORM_ROUNDING


@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize("groups", [32, 4, 1])
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_a_group_norm_is_exact_but_for_rounding(
    backend: Backend, random: np.random.Generator, shape: tuple[int, ...], groups: int, mean: float
) -> None:
    x = normal(random, *shape) + np.float32(mean)
    x[:, ::3] *= 2
    found = backend.compute(lambda graph: graph.node("group_norm", graph.floats(x), groups, 1e-5), shape)
    assert np.abs(found - group_form(x, groups)).max() < NORM_ROUNDING * (1 if shape != (1, 32, 1, 1) else 30)


def test_a_norm_reads_rows_where_they_are(backend: Backend, random: np.random.Generator) -> None:
    x = normal(random, 2, 5, 3, 40)

    def build(graph: Graph) -> Any:
        return graph.node("norm", graph.node("permute", graph.floats(x), 0, 2, 1, 3), 1e-5)

    expected = normal_form(x, (3,)).swapaxes(1, 2)
    assert np.abs(backend.compute(build, (2, 3, 5, 40)) - expected).max() < NORM_ROUNDING


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["norm", "group_norm"])
def test_a_norm_of_what_is_no_number_is_none(
    backend: Backend, random: np.random.Generator, kind: str, bad: float
) -> None:
    x = normal(random, 1, 4, 1, 77)
    x[0, 2, 0, 5] = bad
    arguments = (4, 1e-5) if kind == "group_norm" else (1e-5,)
    found = backend.compute(lambda graph: graph.node(kind, graph.floats(x), *arguments), x.shape)
    assert np.isnan(found[0, 2]).all()
    assert np.isfinite(np.delete(found, 2, 1)).all()


def test_a_norm_of_equal_values_is_zero(backend: Backend) -> None:
    x = np.full((1, 4, 3, 5000), 1234.567, np.float32)
    for kind, arguments in (("norm", (1e-5,)), ("group_norm", (4, 1e-5))):
        found = backend.compute(lambda graph, k=kind, a=arguments: graph.node(k, graph.floats(x), *a), x.shape)
        assert np.abs(found).max() < 1e-6


def silu(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = x / (1 + np.exp(-x))
    return result


# What follows a norm or a convolution, as long as it can be computed along, in place and not.
AFTER_NORM = [("mul",), ("mul", "add"), ("add", "silu"), ("mul", "add", "silu"), ("silu",), ("mul", "silu", "mul")]
AFTER_NORM += [("mul", "mul"), ("add", "mul"), ("silu", "silu")]


def normed(
    backend: Backend, random: np.random.Generator, kind: str, after: tuple[str, ...], inplace: bool, planned: bool
) -> float:
    """Return the largest error of a norm and what follows it, of the largest value."""
    shape, groups = (2, 12, 9, 21), 4
    x = normal(random, *shape)
    by = (1, shape[1], 1, 1) if kind == "group_norm" else (1, 1, 1, shape[3])
    numbers = [normal(random, *by) for _ in after]

    def build(graph: Graph) -> Any:
        # The norm reads a node, whose memory others may take.
        node = graph.node("add", graph.floats(x), graph.floats(x))
        node = graph.node(kind, node, *((groups,) if kind == "group_norm" else ()), 1e-5)
        for operation, number in zip(after, numbers, strict=True):
            other = [] if operation == "silu" else [graph.floats(number)]
            node = graph.node(operation + ("_inplace" if inplace else ""), node, *other)
        return node

    expected = group_form(2 * x, groups) if kind == "group_norm" else normal_form(2 * x, (3,), centred=kind == "norm")
    for operation, number in zip(after, numbers, strict=True):
        changed = {"mul": expected * number, "add": expected + number, "silu": silu(expected)}
        expected = changed[operation]
    return error(backend.compute(build, shape, planned), expected)


@pytest.mark.parametrize("planned", [False, True], ids=["own memory", "shared memory"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("after", AFTER_NORM, ids="-".join)
@pytest.mark.parametrize("kind", ["norm", "rms_norm", "group_norm"])
def test_what_follows_a_norm_is_computed_whether_along_or_not(
    backend: Backend, random: np.random.Generator, kind: str, after: tuple[str, ...], inplace: bool, planned: bool
) -> None:
    assert normed(backend, random, kind, after, inplace, planned) < ROUNDING


def test_a_group_norm_is_rounded_once_with_its_scale(backend: Backend, random: np.random.Generator) -> None:
    x, scale = normal(random, 1, 8, 30, 40), normal(random, 1, 8, 1, 1)

    def build(graph: Graph) -> Any:
        return graph.node("mul", graph.node("group_norm", graph.floats(x), 4, 1e-5), graph.floats(scale))

    alone = backend.compute(lambda graph: graph.node("group_norm", graph.floats(x), 4, 1e-5), x.shape)
    assert not np.array_equal(backend.compute(build, x.shape), alone * scale)


@pytest.mark.parametrize("kind", ["norm", "rms_norm", "group_norm"])
def test_a_norm_that_others_read_too_is_written(backend: Backend, random: np.random.Generator, kind: str) -> None:
    x, numbers = normal(random, 1, 8, 6, 20), normal(random, 1, 8, 1, 1)
    weights = numbers if kind == "group_norm" else normal(random, 1, 1, 1, 20)

    def build(graph: Graph) -> Any:
        node = graph.node(kind, graph.floats(x), *((4,) if kind == "group_norm" else ()), 1e-5)
        return graph.node("add", graph.node("mul", node, graph.floats(weights)), node)

    expected = group_form(x, 4) if kind == "group_norm" else normal_form(x, (3,), centred=kind == "norm")
    for planned in (False, True):
        assert error(backend.compute(build, x.shape, planned), expected * weights + expected) < ROUNDING


AFTER_CONVOLUTION = [
    ("add",),
    ("add", "relu"),
    ("add", "leaky_relu"),
    ("relu",),
    ("add", "add"),
    ("add", "relu", "add"),
]


def convolved_along(
    backend: Backend,
    random: np.random.Generator,
    channels: tuple[int, int],
    after: tuple[str, ...],
    inplace: bool,
    planned: bool,
) -> float:
    """Return the largest error of a convolution and what follows it, of the largest value."""
    (into, out), size = channels, (13, 18)
    kernel, x = normal(random, out, into, 3, 3), normal(random, 2, into, *size)
    numbers = [normal(random, 1, out, 1, 1) for _ in after]

    def build(graph: Graph) -> Any:
        node = graph.node("add", graph.floats(x), graph.floats(x))
        node = graph.node("conv_2d_direct", graph.floats(kernel), node, 1, 1, 1, 1, 1, 1)
        for operation, number in zip(after, numbers, strict=True):
            if operation == "leaky_relu":
                node = graph.node(operation, node, 0.2, inplace)
            else:
                other = [] if operation == "relu" else [graph.floats(number)]
                node = graph.node(operation + ("_inplace" if inplace else ""), node, *other)
        return node

    expected = convolution(kernel, 2 * x, padding=(1, 1))
    for operation, number in zip(after, numbers, strict=True):
        slope = {"relu": 0.0, "leaky_relu": 0.2}.get(operation)
        expected = expected + number if slope is None else np.maximum(expected, 0) + slope * np.minimum(expected, 0)
    return error(backend.compute(build, (2, out, *size), planned), expected)


@pytest.mark.parametrize("planned", [False, True], ids=["own memory", "shared memory"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("after", AFTER_CONVOLUTION, ids="-".join)
@pytest.mark.parametrize("channels", [(20, 37), (3, 8)], ids=str)  # filtered, and not
def test_what_follows_a_convolution_is_computed_whether_along_or_not(
    backend: Backend,
    random: np.random.Generator,
    channels: tuple[int, int],
    after: tuple[str, ...],
    inplace: bool,
    planned: bool,
) -> None:
    assert convolved_along(backend, random, channels, after, inplace, planned) < ROUNDING


def test_a_filtered_convolution_is_written_once_with_its_bias(backend: Backend, random: np.random.Generator) -> None:
    """Only the memory of the convolution tells: in a pass of its own, the bias would give the same result."""
    kernel, x, bias = normal(random, 20, 20, 3, 3), normal(random, 1, 20, 13, 18), normal(random, 1, 20, 1, 1)
    before = normal(random, *x.shape)
    after = np.empty_like(before)

    def build(graph: Graph) -> Any:
        node = graph.node("conv_2d_direct", graph.floats(kernel), graph.floats(x), 1, 1, 1, 1, 1, 1)
        graph.pending.append((node, before.tobytes()))
        graph.watched.append((node, after))
        return graph.node("add", node, graph.floats(bias))

    result = backend.compute(build, x.shape)
    assert error(result, convolution(kernel, x, padding=(1, 1)) + bias) < ROUNDING
    assert np.array_equal(after, before)


@pytest.mark.parametrize("axes", [(1, 0, 2, 3), (2, 0, 1, 3), (1, 2, 0, 3), (3, 1, 2, 0), (0, 2, 1, 3), (2, 1, 0, 3)])
@pytest.mark.parametrize("shape", [(2, 3, 17, 40), (1, 8, 8, 8), (9, 16, 33, 8), (3, 1, 20, 1), (8, 1, 1, 50)], ids=str)
def test_a_permuted_tensor_is_copied(
    backend: Backend, random: np.random.Generator, shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    x = normal(random, *shape)
    places = [3 - axes.index(3 - i) for i in range(4)]  # of numpy's axes; ggml says where each dimension goes
    expected = x.transpose(places)
    found = backend.compute(
        lambda graph: graph.node("cont", graph.node("permute", graph.floats(x), *axes)), expected.shape
    )
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("axis", range(4))
def test_tensors_are_joined(backend: Backend, random: np.random.Generator, axis: int, permuted: bool) -> None:
    shape = (3, 5, 7, 11)
    left = normal(random, *shape)
    right = normal(random, *(size + 2 * (i == axis) for i, size in enumerate(shape)))

    def build(graph: Graph) -> Any:
        if not permuted:
            return graph.node("concat", graph.floats(left), graph.floats(right), 3 - axis)
        stored = (graph.floats(np.ascontiguousarray(array.swapaxes(1, 2))) for array in (left, right))
        return graph.node("concat", *(graph.node("permute", tensor, 0, 2, 1, 3) for tensor in stored), 3 - axis)

    expected = np.concatenate([left, right], axis)
    assert np.array_equal(backend.compute(build, expected.shape), expected)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_an_image_is_enlarged_by_repeating_pixels(backend: Backend, random: np.random.Generator, factor: int) -> None:
    x = normal(random, 2, 3, 7, 9)
    found = backend.compute(
        lambda graph: graph.node("upscale", graph.floats(x), factor, 0), (2, 3, 7 * factor, 9 * factor)
    )
    assert np.array_equal(found, x.repeat(factor, 2).repeat(factor, 3))


def attention(
    queries: Floats, keys: Floats, values: Floats, mask: Floats | None = None, scale: float = 1.0
) -> np.ndarray[Any, Any]:
    shared = queries.shape[1] // keys.shape[1]
    k, v = (array.astype(np.float64).repeat(shared, 1) for array in (keys, values))
    scores = queries.astype(np.float64) @ k.swapaxes(-1, -2) * scale
    if mask is not None:
        tiles = (scores.shape[0] // mask.shape[0], scores.shape[1] // mask.shape[1], scores.shape[2] // mask.shape[2])
        scores += np.tile(mask.astype(np.float64), (*tiles, 1))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result: np.ndarray[Any, Any] = (weights @ v / weights.sum(-1, keepdims=True)).swapaxes(1, 2)
    return result


def attended(backend: Backend, random: np.random.Generator, case: dict[str, Any]) -> float:
    """Return the largest error of one attention, of the largest value, for scores of about 1."""
    (heads, shared), (count, keys), (depth, wide) = case["heads"], case["tokens"], case["depth"]
    batch, sharp = case.get("batch", 1), case.get("sharp", 1.0)
    q, k = normal(random, batch, heads, count, depth), normal(random, batch, shared, keys, depth)
    v = normal(random, batch, shared, keys, wide)
    mask = None
    if "mask" in case:
        mask = normal(random, *case["mask"], keys)
        mask[random.random(mask.shape) < 0.3] = -np.inf
        mask[..., keys // 2] = 0  # each query attends to something
    options = {name: case[name] for name in ("kind", "mask_kind", "permuted") if name in case}
    scale = sharp / depth**0.5
    found, *held = backend.attend(q, k, v, mask, scale, **options)
    return error(found, attention(q, *held, scale=scale)) / sharp


ATTENTIONS: list[dict[str, Any]] = [
    {"heads": (8, 8), "tokens": (256, 256), "depth": (40, 40), "permuted": True},
    {"heads": (2, 2), "tokens": (64, 77), "depth": (80, 80), "batch": 3, "permuted": True},
    {"heads": (1, 1), "tokens": (300, 1000), "depth": (512, 512)},
    {"heads": (3, 3), "tokens": (130, 97), "depth": (128, 128), "sharp": 20},
    {"heads": (6, 2), "tokens": (50, 200), "depth": (64, 64), "batch": 2, "mask": (1, 1, 50)},
    {"heads": (4, 4), "tokens": (77, 77), "depth": (64, 64), "mask": (1, 4, 77), "permuted": True},
    {"heads": (4, 2), "tokens": (33, 500), "depth": (257, 31), "batch": 2, "mask": (2, 1, 33), "mask_kind": "f16"},
    {"heads": (2, 2), "tokens": (20, 100), "depth": (24, 24), "mask": (1, 2, 1)},
    {"heads": (5, 1), "tokens": (1, 129), "depth": (96, 96)},
    {"heads": (1, 1), "tokens": (1, 1), "depth": (1, 1)},
    {"heads": (2, 2), "tokens": (700, 3), "depth": (7, 13)},
]


@pytest.mark.parametrize("case", ATTENTIONS, ids=str)
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_attention_is_exact_but_for_rounding(
    backend: Backend, random: np.random.Generator, kind: str, case: dict[str, Any]
) -> None:
    assert attended(backend, random, {**case, "kind": kind}) < ROUNDING


def test_random_attentions(backend: Backend, random: np.random.Generator) -> None:
    for _ in range(60):
        shared, group, batch, count, keys = (int(n) for n in random.integers(1, (4, 4, 3, 150, 300)))
        heads = shared * group
        case: dict[str, Any] = {"heads": (heads, shared), "tokens": (count, keys), "batch": batch}
        case |= {"depth": tuple(map(int, random.integers(1, 140, 2))), "permuted": bool(random.integers(2))}
        masks = [{}, {"mask": (1, 1, 1)}, {"mask": (1, heads, count)}, {"mask": (batch, 1, count), "mask_kind": "f16"}]
        case |= masks[random.integers(4)]
        assert attended(backend, random, case) < ROUNDING, case


def test_attention_to_quantised_keys_and_values(backend: Backend, random: np.random.Generator) -> None:
    case = {"heads": (2, 2), "tokens": (40, 120), "depth": (64, 64), "kind": "q8_0"}
    assert attended(backend, random, case) < ROUNDING


def test_a_query_that_may_attend_to_nothing_gets_nothing(backend: Backend, random: np.random.Generator) -> None:
    q, k, v = (normal(random, 1, 1, count, 16) for count in (40, 200, 200))
    mask = np.zeros((1, 1, 40, 200), np.float32)
    mask[:, :, 5] = -np.inf
    mask[:, :, 16:, :] = -np.inf
    found, *_ = backend.attend(q, k, v, mask)
    assert not found[0, 5].any()
    assert not found[0, 16:].any()
    assert error(found[:, :5], attention(q[:, :, :5], k, v)) < ROUNDING


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_is_no_number_is_seen_in_the_result(
    backend: Backend, random: np.random.Generator, where: int, bad: float
) -> None:
    arrays = [normal(random, 1, 1, count, 16) for count in (40, 200, 200)]
    arrays[where][0, 0, 7, 3] = bad
    found, *_ = backend.attend(*arrays)
    assert not np.isfinite(found).all()


@pytest.fixture
def rounding(backend: Backend) -> Iterator[Backend]:
    """The backend while products are rounded, where the processor has a faster way for that."""
    backend.round_products(True)
    yield backend
    backend.round_products(False)


def distance(found: Floats, expected: np.ndarray[Any, Any]) -> float:
    """Norm of the difference, in proportion to the result's."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("shape", [*PRODUCTS, (65, 40, 1), (33, 50, 127), (16, 16, 129), (20, 20, 5000)], ids=str)
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_K"])
def test_a_rounded_product_is_near(rounding: Backend, random: np.random.Generator, kind: str, shape: Shape) -> None:
    rows, columns, depth = shape
    if kind not in ("f32", "f16", "bf16"):
        rows, depth = max(rows, FEW_QUANTISED), -(-depth // 256) * 256
    weights, values = normal(random, 1, 1, columns, depth), normal(random, 1, 1, rows, depth)
    found, held = rounding.multiply(weights, values, kind)
    most = ROUNDED if kind in ("f32", "f16", "bf16") else ROUNDED_QUANTISED
    assert distance(found, product(held, values)) < most


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_a_rounded_convolution_is_near(rounding: Backend, random: np.random.Generator, case: dict[str, Any]) -> None:
    assert convolved(rounding, random, "f16", case, distance) < ROUNDED


def test_rounding_bears_values_of_any_size(rounding: Backend, random: np.random.Generator) -> None:
    weights, values = normal(random, 1, 1, 40, 512), normal(random, 1, 1, 24, 512)
    values[..., 3] *= 1e4  # one far larger than the others, as in language models
    values[0, 0, 5] *= 1e-20
    values[0, 0, 6] *= 1e20
    values[0, 0, 7] = 0
    values[0, 0, 8] *= 1e-38
    found, held = rounding.multiply(weights, values, "f32")
    expected = product(held, values)
    for row in (*range(7), *range(9, 24)):
        assert distance(found[0, 0, row], expected[0, 0, row]) < WORST_ROUNDED, row
    assert not found[0, 0, 7].any()
    assert np.abs(found[0, 0, 8]).max() < 1e-30


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rounding_passes_on_what_is_no_number(rounding: Backend, random: np.random.Generator, bad: float) -> None:
    weights, values = normal(random, 1, 1, 40, 300), normal(random, 1, 1, 24, 300)
    values[0, 0, 5, 200] = bad
    found, _ = rounding.multiply(weights, values)
    assert not np.isfinite(found[0, 0, 5]).any()
    assert np.isfinite(np.delete(found[0, 0], 5, 0)).all()


@pytest.fixture
def two_threads_again(backend: Backend) -> Iterator[None]:
    yield
    backend.set_threads(2)


def passed_on(backend: Backend, image: Floats) -> Floats:
    """Norms, and operations that move an image."""

    def build(graph: Graph) -> Any:
        node = graph.node("silu", graph.node("group_norm", graph.floats(image), 5, 1e-5))
        node = graph.node("norm", graph.node("cont", graph.node("permute", node, 1, 2, 0, 3)), 1e-5)
        return graph.node("upscale", graph.node("rms_norm", graph.node("concat", node, node, 1), 1e-5), 2, 0)

    channels, high, wide = image.shape[1:]
    return backend.compute(build, (1, high, 4 * wide, 2 * channels))


def passing_on(image: Floats) -> np.ndarray[Any, Any]:
    """Return what `passed_on` should be, in double precision."""
    x = normal_form(silu(group_form(image, 5)).transpose(0, 2, 3, 1), (3,))
    return normal_form(np.concatenate([x, x], 2), (3,), centred=False).repeat(2, 2).repeat(2, 3)


def test_operations_that_move_an_image_keep_it(backend: Backend, random: np.random.Generator) -> None:
    image = normal(random, 1, 36, 9, 11)
    assert error(passed_on(backend, image), passing_on(image)) < ROUNDING


@pytest.mark.usefixtures("two_threads_again")
@pytest.mark.parametrize("rounded", [False, True])
def test_the_number_of_threads_changes_no_bit(backend: Backend, random: np.random.Generator, rounded: bool) -> None:
    weights, values = normal(random, 1, 1, 320, 640), normal(random, 1, 1, 600, 640)
    kernel, pictures = normal(random, 40, 30, 3, 3), normal(random, 1, 30, 50, 41)
    q, k, v = normal(random, 1, 2, 333, 40), normal(random, 1, 2, 500, 40), normal(random, 1, 2, 500, 40)
    images = normal(random, 1, 36, 9, 11), normal(random, 1, 36, 250, 311)  # threads share large ones as they are free
    found = []
    backend.round_products(rounded)
    for threads in (1, 2, 3, 7):
        backend.set_threads(threads)
        found.append(
            (
                backend.multiply(weights, values, "q8_0")[0],
                backend.convolve(kernel, pictures)[0],
                backend.attend(q, k, v)[0],
                *(passed_on(backend, image) for image in images),
            )
        )
    backend.round_products(False)
    for results in found[1:]:
        assert all(map(np.array_equal, results, found[0]))
