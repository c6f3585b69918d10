"""Single operations of a built CPU backend, through ggml's own interface: what its kernels compute can be seen here.

The plug-in is opened by itself, past the registry that the engine uses, so several variants can be had in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Opaque pointers and plain numbers only: nothing here depends on a struct's layout but ggml_init_params.
_DECLARATIONS = """
struct ggml_init_params { size_t mem_size; void * mem_buffer; bool no_alloc; };
void * ggml_init(struct ggml_init_params params);
void ggml_free(void * ctx);
void * ggml_new_tensor_4d(void * ctx, int type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3);
void * ggml_permute(void * ctx, void * a, int axis0, int axis1, int axis2, int axis3);
void * ggml_mul_mat(void * ctx, void * a, void * b);
void * ggml_add(void * ctx, void * a, void * b);
void * ggml_mul(void * ctx, void * a, void * b);
void * ggml_leaky_relu(void * ctx, void * a, float negative_slope, bool inplace);
void * ggml_relu(void * ctx, void * a);
void * ggml_relu_inplace(void * ctx, void * a);
void * ggml_mul_inplace(void * ctx, void * a, void * b);
void * ggml_add_inplace(void * ctx, void * a, void * b);
void * ggml_norm(void * ctx, void * a, float eps);
void * ggml_rms_norm(void * ctx, void * a, float eps);
void * ggml_group_norm(void * ctx, void * a, int n_groups, float eps);
void * ggml_silu(void * ctx, void * a);
void * ggml_silu_inplace(void * ctx, void * a);
void * ggml_cont(void * ctx, void * a);
void * ggml_concat(void * ctx, void * a, void * b, int dim);
void * ggml_upscale(void * ctx, void * a, int scale_factor, int mode);
void * ggml_gelu(void * ctx, void * a);
void * ggml_gelu_quick(void * ctx, void * a);
void * ggml_flash_attn_ext(void * ctx, void * q, void * k, void * v, void * mask, float scale, float max_bias,
                           float logit_softcap);
void * ggml_conv_2d_direct(void * ctx, void * a, void * b, int s0, int s1, int p0, int p1, int d0, int d1);
void * ggml_new_graph(void * ctx);
void ggml_build_forward_expand(void * graph, void * tensor);
size_t ggml_nbytes(const void * tensor);
size_t ggml_tensor_overhead(void);
size_t ggml_row_size(int type, int64_t ne);
int64_t ggml_blck_size(int type);
const char * ggml_type_name(int type);
size_t ggml_quantize_chunk(int type, const float * src, void * dst, int64_t start, int64_t nrows, int64_t n_per_row,
                           const float * imatrix);
void * ggml_gallocr_new(void * buft);
bool ggml_gallocr_alloc_graph(void * galloc, void * graph);
void ggml_gallocr_free(void * galloc);
void * ggml_backend_get_default_buffer_type(void * backend);
void * ggml_backend_alloc_ctx_tensors(void * ctx, void * backend);
void ggml_backend_buffer_free(void * buffer);
void ggml_backend_tensor_set(void * tensor, const void * data, size_t offset, size_t size);
void ggml_backend_tensor_get(const void * tensor, void * data, size_t offset, size_t size);
int ggml_backend_graph_compute(void * backend, void * graph);
void * ggml_backend_reg_dev_get(void * reg, size_t index);
void * ggml_backend_dev_init(void * device, const char * params);
void * ggml_backend_reg_get_proc_address(void * reg, const char * name);
"""
_PLUGIN = """
void * ggml_backend_init(void);
int ggml_backend_score(void);
void sdcffi_round_products(int where);
"""
TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q5_1": 7,
    "q8_0": 8,
    "q2_K": 10,
    "q4_K": 12,
    "q6_K": 14,
    "iq4_nl": 20,
    "bf16": 30,
}


class Backend:
    """The CPU backend in the plug-in at `path`, which lies beside ggml's base library."""

    def __init__(self, path: Path, threads: int = 2) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(_DECLARATIONS + _PLUGIN)
        self.base = self.ffi.dlopen(str(path.with_name("libsdcffi-ggml-base.so")))
        self._plugin = self.ffi.dlopen(str(path))
        registry = self._plugin.ggml_backend_init()
        device = self.base.ggml_backend_reg_dev_get(registry, 0)
        self.backend = self.base.ggml_backend_dev_init(device, self.ffi.NULL)
        address = self.base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
        self._set_threads = self.ffi.cast("void (*)(void *, int)", address)
        self.set_threads(threads)

    def round_products(self, may: bool) -> None:
        """Round what is multiplied, wherever this variant can, faster or not."""
        self._plugin.sdcffi_round_products(2 if may else 0)

    def can_round(self) -> bool:
        """Whether this variant has products that round."""
        values = np.random.default_rng(1).standard_normal((1, 1, 32, 64), dtype=np.float32)
        self.round_products(False)
        exact, _ = self.multiply(values, values)
        self.round_products(True)
        rounded, _ = self.multiply(values, values)
        self.round_products(False)
        return not np.array_equal(exact, rounded)

    def set_threads(self, count: int) -> None:
        self._set_threads(self.backend, count)

    def multiply(
        self, weights: Floats, values: Floats, kind: str = "f32", permuted: bool = False
    ) -> tuple[Floats, Floats]:
        """Give ``values @ weights.T`` for the last two axes, and the weights as `kind` holds them.

        Arrays have four axes; those of `weights` before the last two divide the values'. `permuted` stores the values
        with their second and third axis exchanged, as attention has them.
        """
        with Graph(self) as graph:
            a, held = graph.tensor(weights, kind)
            if permuted:
                stored, _ = graph.tensor(np.ascontiguousarray(values.swapaxes(1, 2)), "f32")
                b = self.base.ggml_permute(graph.context, stored, 0, 2, 1, 3)
            else:
                b, _ = graph.tensor(values, "f32")
            shape = (*values.shape[:3], weights.shape[2])
            return graph.run(self.base.ggml_mul_mat(graph.context, a, b), shape), held

    def combine(self, operation: str, left: Floats, right: Floats) -> Floats:
        """Give ``left + right`` (``"add"``) or ``left * right`` (``"mul"``); the right one is repeated."""
        with Graph(self) as graph:
            a, b = graph.tensor(left, "f32")[0], graph.tensor(right, "f32")[0]
            return graph.run(getattr(self.base, f"ggml_{operation}")(graph.context, a, b), left.shape)

    def compute(self, build: Callable[[Graph], Any], shape: tuple[int, ...], planned: bool = False) -> Floats:
        """Give the result of the node that `build` makes; `planned` lets nodes share memory, as the engine does."""
        with Graph(self) as graph:
            return graph.run(build(graph), shape, planned)

    def activate(self, function: str, values: Floats) -> Floats:
        """Give ``gelu`` or ``gelu_quick`` of the values."""
        with Graph(self) as graph:
            a = graph.tensor(values, "f32")[0]
            return graph.run(getattr(self.base, f"ggml_{function}")(graph.context, a), values.shape)

    def attend(
        self,
        queries: Floats,
        keys: Floats,
        values: Floats,
        mask: Floats | None = None,
        scale: float = 1.0,
        kind: str = "f32",
        mask_kind: str = "f32",
        permuted: bool = False,
    ) -> tuple[Floats, Floats, Floats, Floats | None]:
        """Give ``softmax(queries @ keys.T * scale + mask) @ values``, and keys, values and mask as they are held.

        Axes are batch, head, token, element; the result has head and token exchanged. `permuted` stores the other
        arrays so too, as models have them.
        """
        with Graph(self) as graph:

            def tensor(values: Floats, kind: str) -> tuple[Any, Floats]:
                if not permuted:
                    return graph.tensor(values, kind)
                stored, held = graph.tensor(np.ascontiguousarray(values.swapaxes(1, 2)), kind)
                return self.base.ggml_permute(graph.context, stored, 0, 2, 1, 3), held.swapaxes(1, 2)

            (q, _), (k, held_keys), (v, held_values) = tensor(queries, "f32"), tensor(keys, kind), tensor(values, kind)
            half, held_mask = (None, None) if mask is None else graph.tensor(mask, "f16")
            node = self.base.ggml_flash_attn_ext(graph.context, q, k, v, half or self.ffi.NULL, scale, 0.0, 0.0)
            if mask is not None and mask_kind != "f16":  # ggml makes no such node, but the engine does
                given, held_mask = graph.tensor(mask, mask_kind)
                self._replace(node, half, given)
            batch, heads, count, _ = queries.shape
            result = graph.run(node, (batch, count, heads, values.shape[3]))
            return result, held_keys, held_values, held_mask

    def _replace(self, node: Any, old: Any, new: Any) -> None:
        """Give a node another source, wherever it keeps those."""
        sources = np.frombuffer(self.ffi.buffer(node, self.base.ggml_tensor_overhead()), np.uint8)
        words = sources[: len(sources) // 8 * 8].view(np.uint64)
        found = words == int(self.ffi.cast("uintptr_t", old))
        assert found.sum() == 1
        words[found] = int(self.ffi.cast("uintptr_t", new))

    def convolve(
        self,
        kernel: Floats,
        pictures: Floats,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        kind: str = "f16",
    ) -> tuple[Floats, Floats]:
        """Give the convolution of images (N, C, H, W) by a kernel (OUT, C, KH, KW), and the kernel as held.

        Pairs are (x, y), as ggml's.
        """
        with Graph(self) as graph:
            a, held = graph.tensor(kernel, kind)
            b, _ = graph.tensor(pictures, "f32")
            node = self.base.ggml_conv_2d_direct(graph.context, a, b, *stride, *padding, *dilation)
            shape = [pictures.shape[0], kernel.shape[0]]
            for axis, pair in ((2, 1), (3, 0)):
                under = dilation[pair] * (kernel.shape[axis] - 1) + 1
                shape.append((pictures.shape[axis] + 2 * padding[pair] - under) // stride[pair] + 1)
            return graph.run(node, tuple(shape)), held


class Graph:
    """A graph of one operation, with its tensors; ends with the ``with`` statement."""

    def __init__(self, backend: Backend) -> None:
        self.of, self.pending = backend, list[tuple[Any, bytes]]()
        self.watched = list[tuple[Any, Floats]]()  # nodes, and where their memory is copied to when all is computed

    def __enter__(self) -> Graph:
        parameters = self.of.ffi.new("struct ggml_init_params *", {"mem_size": 1 << 20, "no_alloc": True})
        self.context = self.of.base.ggml_init(parameters[0])
        return self

    def __exit__(self, *_: object) -> None:
        self.of.base.ggml_free(self.context)

    def tensor(self, values: Floats, kind: str) -> tuple[Any, Floats]:
        """Make a tensor of four axes, and give what it holds of the values."""
        number, base, ffi = TYPES[kind], self.of.base, self.of.ffi
        assert ffi.string(base.ggml_type_name(number)).decode() == kind
        tensor = base.ggml_new_tensor_4d(self.context, number, *reversed(values.shape))
        values = np.ascontiguousarray(values, np.float32)
        if kind == "f32":
            self.pending.append((tensor, values.tobytes()))
            return tensor, values
        data, held = quantised(self.of, values, kind)
        self.pending.append((tensor, data))
        return tensor, held

    def floats(self, values: Floats) -> Any:
        """Make a tensor of them."""
        return self.tensor(values, "f32")[0]

    def node(self, operation: str, *arguments: Any) -> Any:
        """Make the node of one of ggml's functions."""
        return getattr(self.of.base, f"ggml_{operation}")(self.context, *arguments)

    def run(self, node: Any, shape: tuple[int, ...], planned: bool = False) -> Floats:
        base, backend = self.of.base, self.of.backend
        graph = base.ggml_new_graph(self.context)
        base.ggml_build_forward_expand(graph, node)
        if planned:
            buffer, free = (
                base.ggml_gallocr_new(base.ggml_backend_get_default_buffer_type(backend)),
                base.ggml_gallocr_free,
            )
            assert base.ggml_gallocr_alloc_graph(buffer, graph)
        else:
            buffer, free = base.ggml_backend_alloc_ctx_tensors(self.context, backend), base.ggml_backend_buffer_free
        assert buffer
        try:
            for tensor, data in self.pending:
                base.ggml_backend_tensor_set(tensor, data, 0, len(data))
            assert base.ggml_backend_graph_compute(backend, graph) == 0
            result = np.empty(shape, np.float32)
            assert base.ggml_nbytes(node) == result.nbytes
            for tensor, values in ((node, result), *self.watched):
                data = self.of.ffi.from_buffer(values, require_writable=True)
                base.ggml_backend_tensor_get(tensor, data, 0, values.nbytes)
            return result
        finally:
            free(buffer)


def quantised(backend: Backend, values: Floats, kind: str) -> tuple[bytes, Floats]:
    """Give values in another type, and what they are read as (by the package gguf, independent of the engine)."""
    from gguf import GGMLQuantizationType, dequantize

    number, base, ffi = TYPES[kind], backend.base, backend.ffi
    rows, width = values.size // values.shape[-1], values.shape[-1]
    if kind == "bf16":
        bits = values.view(np.uint32) + 0x8000 >> 16
        return bits.astype(np.uint16).tobytes(), (bits << 16).astype(np.uint32).view(np.float32).reshape(values.shape)
    if kind == "f16":
        half = values.astype(np.float16)
        return half.tobytes(), half.astype(np.float32)
    data = bytearray(rows * base.ggml_row_size(number, width))
    size = base.ggml_quantize_chunk(
        number, ffi.cast("const float *", ffi.from_buffer(values)), ffi.from_buffer(data), 0, rows, width, ffi.NULL
    )
    assert size == len(data)
    raw = np.frombuffer(bytes(data), np.uint8).reshape(rows, -1)
    return bytes(data), dequantize(raw, GGMLQuantizationType(number)).astype(np.float32).reshape(values.shape)


def runs_here(path: Path) -> bool:
    """Return whether this processor has what a variant was compiled for, as the variant itself reports."""
    ffi = cffi.FFI()
    ffi.cdef("int ggml_backend_score(void);")
    score = getattr(ffi.dlopen(str(path)), "ggml_backend_score", None)
    return score is None or score() > 0
