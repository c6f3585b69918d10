// The CPU backend's operations that sdcffi computes: matrix products, two-dimensional convolutions, attention, norms, GELU,
// biases and copies.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "activation.hpp"
#include "attention.hpp"
#include "bfloat16_product.hpp"
#include "chain.hpp"
#include "copies.hpp"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "norm.hpp"
#include "rounded_product.hpp"
#include "rows.hpp"
#include "sharing.hpp"
#include "tiled_product.hpp"
#include "traits.h"
#include "winograd.hpp"

namespace sdcffi {
namespace {

// Whether products are rounded (bfloat16_product.hpp, rounded_product.hpp): never, where that is faster, or wherever it is
// possible (a test).
enum Rounding { kNever, kWhereFaster, kWherePossible };
std::atomic<int> rounding{kNever};

// ggml computes products with fewer rows: its dot products read the weights once, in their own type.
constexpr int64_t kLeastRows = 8, kLeastRowsQuantised = 16, kLeastColumns = 8;

// winograd.hpp computes no convolution with fewer pixels, or fewer channels: to transform its kernels would not pay.
constexpr int64_t kLeastPixels = 64, kLeastChannels = 16;

// Writes a few rows of a tensor, of any type and `step` bytes apart, as [k][strip]; see interleave().
void fill(const ggml_tensor* tensor, const char* base, size_t step, int count, int strip, int64_t k, int depth, float* spare, float* to) {
    const auto interleave_rows = [&](auto* rows, auto read) {
        for (int i = 0; i < count; i++) {
            const char* row = base + i * step;
            prefetch_floats(tensor, row + count * step, k, depth);  // of the next strip
            rows[i] = read(row, i);
        }
        interleave(rows, count, strip, depth, to);
    };
#if defined(SDCFFI_READS_HALVES)
    if (tensor->type == GGML_TYPE_F16) {
        const ggml_fp16_t* halves[kWidestStrip];
        return interleave_rows(halves, [&](const char* row, int) { return reinterpret_cast<const ggml_fp16_t*>(row) + k; });
    }
#endif
    const float* rows[kWidestStrip];
    interleave_rows(rows, [&](const char* row, int i) { return floats(tensor, row, k, depth, spare + size_t(i) * kDepth); });
}

// dst[i1][i0] = src1[i1] . src0[i0]: the rows are those of src1, the columns those of src0.
struct MatrixProduct {
    const ggml_tensor *left, *right, *out;
    int64_t rows, columns, depth, batch;
    size_t stride;

    explicit MatrixProduct(const ggml_tensor* node)
        : left(node->src[1]), right(node->src[0]), out(node),
          rows(node->ne[1]), columns(node->ne[0]), depth(left->ne[0]), batch(node->ne[2] * node->ne[3]),
          stride(node->nb[1] / sizeof(float)) {}

    void fill_rows(float* to, int strip, int64_t item, int64_t row, int count, int64_t k, int some, float* spare) const {
        const char* base = static_cast<const char*>(left->data) + item % out->ne[2] * left->nb[2] + item / out->ne[2] * left->nb[3];
        fill(left, base + row * left->nb[1], left->nb[1], count, strip, k, some, spare, to);
    }

    void fill_columns(float* to, int strip, int64_t item, int64_t column, int count, int64_t k, int some, float* spare) const {
        const int64_t i2 = item % out->ne[2] / (out->ne[2] / right->ne[2]), i3 = item / out->ne[2] / (out->ne[3] / right->ne[3]);
        const char* base = static_cast<const char*>(right->data) + i2 * right->nb[2] + i3 * right->nb[3];
        fill(right, base + column * right->nb[1], right->nb[1], count, strip, k, some, spare, to);
    }

    float* result(int64_t item, int64_t row, int64_t column) const {
        char* plane = static_cast<char*>(out->data) + item % out->ne[2] * out->nb[2] + item / out->ne[2] * out->nb[3];
        return reinterpret_cast<float*>(plane + row * out->nb[1]) + column;
    }
};

bool is_readable(const ggml_tensor* tensor) {
    return tensor->nb[0] == ggml_type_size(tensor->type) &&
           (tensor->type == GGML_TYPE_F32 || ggml_get_type_traits(tensor->type)->to_float != nullptr);
}

bool is_our_product(const ggml_tensor* node) {
    const ggml_tensor *right = node->src[0], *left = node->src[1];
    const int64_t least = ggml_is_quantized(right->type) ? kLeastRowsQuantised : kLeastRows;
    return node->type == GGML_TYPE_F32 && node->ne[1] >= least && node->ne[0] >= kLeastColumns && is_readable(right) &&
           is_readable(left) && !ggml_is_quantized(left->type);
}

// The weights are the rows, [channel out][channel in, y, x]; the pixels of one image are the columns.
struct Convolution {
    const ggml_tensor *kernel, *image, *out;
    int64_t rows, columns, depth, batch;
    size_t stride;
    int64_t step_x, step_y, pad_x, pad_y, apart_x, apart_y;
    const float* biases = nullptr;  // one for each map, if only Winograd has to add them
    float slope = 1.0f;             // what Winograd multiplies negative results by

    explicit Convolution(const ggml_tensor* node)
        : kernel(node->src[0]), image(node->src[1]), out(node),
          rows(node->ne[2]), columns(node->ne[0] * node->ne[1]), depth(kernel->ne[0] * kernel->ne[1] * kernel->ne[2]),
          batch(node->ne[3]), stride(node->nb[2] / sizeof(float)),
          step_x(node->op_params[0]), step_y(node->op_params[1]), pad_x(node->op_params[2]), pad_y(node->op_params[3]),
          apart_x(node->op_params[4]), apart_y(node->op_params[5]) {}

    void fill_rows(float* to, int strip, int64_t, int64_t row, int count, int64_t k, int some, float* spare) const {
        const char* base = static_cast<const char*>(kernel->data) + row * kernel->nb[3];
        fill(kernel, base, kernel->nb[3], count, strip, k, some, spare, to);
    }

    // Returns `depth` weights of a map of the result from `k` on, which `spare` holds if they have another type.
    const float* weights(int64_t map, int64_t k, int depth, float* spare) const {
        const char* row = static_cast<const char*>(kernel->data) + map * kernel->nb[3];
        prefetch_floats(kernel, row, k + depth, depth);  // of the next channels
        return floats(kernel, row, k, depth, spare);
    }

    // Writes what is under each element of the kernel, for the pixels from `column` on, line by line of the image.
    void fill_columns(float* to, int strip, int64_t item, int64_t column, int count, int64_t k, int some, float*) const {
        if (is_pointwise()) {
            const char* from = static_cast<const char*>(image->data) + item * image->nb[3] + k * image->nb[2] + column * sizeof(float);
            for (int i = 0; i < some; i++, to += strip, from += image->nb[2]) {
                copy(reinterpret_cast<const float*>(from), to, count);
                for (int j = count; j < strip; j++) to[j] = 0.0f;
            }
            return;
        }
        // The same pixels of each channel are under an element, so they are looked up once for each element.
        const char* planes = static_cast<const char*>(image->data) + item * image->nb[3];
        const int64_t elements = kernel->ne[0] * kernel->ne[1];
        for (int first = 0; first < std::min<int64_t>(elements, some); first++) {
            Piece pieces[kWidestStrip];
            const int64_t element = (k + first) % elements;
            const int found = find_pieces(element % kernel->ne[0], element / kernel->ne[0], column, count, pieces);
            const char* plane = planes + (k + first) / elements * image->nb[2];
            for (int64_t i = first; i < some; i += elements, plane += image->nb[2]) {
                float* line = to + i * strip;
                if (found != 1 || pieces[0].count != strip) clear(line, strip);
                for (const Piece* piece = pieces; piece < pieces + found; piece++) {
                    copy(reinterpret_cast<const float*>(plane + piece->from), line + piece->to, piece->count);
                }
            }
        }
    }

    // Pixels of a line that follow each other, here and there.
    struct Piece {
        int64_t from;  // bytes from the beginning of the channel
        int to, count;
    };

    // Finds what is under an element of the kernel for the pixels from `column` on. The rest is outside of the image, and 0.
    int find_pieces(int64_t kernel_x, int64_t kernel_y, int64_t column, int count, Piece* pieces) const {
        const int64_t wide = out->ne[0];
        int found = 0;
        for (int done = 0; done < count;) {
            const int64_t out_x = (column + done) % wide, out_y = (column + done) / wide;
            const int here = int(std::min<int64_t>(wide - out_x, count - done));
            const int64_t y = out_y * step_y + kernel_y * apart_y - pad_y, x = out_x * step_x + kernel_x * apart_x - pad_x;
            const int many = step_x == 1 ? here : 1;  // of one piece
            for (int i = 0; y >= 0 && y < image->ne[1] && i < here; i += many) {
                const int64_t left = x + i * step_x, begin = std::max<int64_t>(left, 0), end = std::min(left + many, image->ne[0]);
                if (begin < end) {
                    pieces[found++] = {int64_t(y * image->nb[1] + begin * sizeof(float)), done + i + int(begin - left), int(end - begin)};
                }
            }
            done += here;
        }
        return found;
    }

    float* result(int64_t item, int64_t row, int64_t column) const {
        return reinterpret_cast<float*>(static_cast<char*>(out->data) + item * out->nb[3] + row * out->nb[2]) + column;
    }

    // Whether each pixel of the result comes of the same pixel of the image alone, and lines follow each other.
    bool is_pointwise() const {
        return kernel->ne[0] == 1 && kernel->ne[1] == 1 && step_x == 1 && step_y == 1 && pad_x == 0 && pad_y == 0 &&
               image->nb[1] == image->ne[0] * sizeof(float);
    }

    // Whether winograd.hpp computes it: transforming the kernels has to pay.
    bool is_filtered() const {
        return kernel->ne[0] == 3 && kernel->ne[1] == 3 && step_x == 1 && step_y == 1 && apart_x == 1 && apart_y == 1 &&
               columns >= kLeastPixels && kernel->ne[2] >= kLeastChannels;
    }
};

bool is_our_convolution(const ggml_tensor* node) {
    const ggml_tensor *kernel = node->src[0], *image = node->src[1];
    return node->type == GGML_TYPE_F32 && image->type == GGML_TYPE_F32 && image->nb[0] == sizeof(float) &&
           ggml_is_contiguous(node) && ggml_is_contiguous(kernel) && is_readable(kernel) &&
           !ggml_is_quantized(kernel->type);
}

// A sum or a product with one number for each row, such as a convolution's bias for each channel.
bool is_by_rows(const ggml_tensor* node) {
    const ggml_tensor *left = node->src[0], *right = node->src[1];
    return node->type == GGML_TYPE_F32 && left->type == GGML_TYPE_F32 && right->type == GGML_TYPE_F32 &&
           right->ne[0] == 1 && node->nb[0] == sizeof(float) && left->nb[0] == sizeof(float);
}

void combine_by_rows(const ggml_compute_params* params, const ggml_tensor* node) {
    const ggml_tensor *left = node->src[0], *right = node->src[1];
    const auto has_whole_planes = [](const ggml_tensor* tensor) { return tensor->nb[1] == tensor->ne[0] * sizeof(float); };
    // Rows that follow each other and get the same number are one.
    const bool planes = right->ne[1] == 1 && has_whole_planes(node) && has_whole_planes(left);
    const int64_t high = planes ? 1 : node->ne[1], width = ggml_nelements(node) / (high * node->ne[2] * node->ne[3]);
    const auto combine = [&](int64_t row) {
        const int64_t i1 = row % high, i2 = row / high % node->ne[2], i3 = row / (high * node->ne[2]);
        const float* from = reinterpret_cast<const float*>(row_of(left, i1, i2, i3));
        const float value = *reinterpret_cast<const float*>(row_of(right, i1 % right->ne[1], i2 % right->ne[2], i3 % right->ne[3]));
        float* to = reinterpret_cast<float*>(row_of(node, i1, i2, i3));
        if (node->op == GGML_OP_ADD) {
            for (int64_t i = 0; i < width; i++) to[i] = from[i] + value;
        } else {
            for (int64_t i = 0; i < width; i++) to[i] = from[i] * value;
        }
    };
    share_rows(params, high * node->ne[2] * node->ne[3], width, [&](int64_t first, int64_t end) {
        for (int64_t row = first; row < end; row++) combine(row);
    });
}

// ggml computes attention with ALiBi's bias, bounded scores or sinks.
bool is_our_attention(const ggml_tensor* node) {
    const ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2], *mask = node->src[3];
    float options[3];  // scale, slope of the bias, bound of the scores
    std::memcpy(options, node->op_params, sizeof(options));
    return options[1] == 0.0f && options[2] == 0.0f && node->src[4] == nullptr && ggml_is_contiguous(node) &&
           q->type == GGML_TYPE_F32 && is_readable(q) && is_readable(k) && is_readable(v) && k->ne[2] == v->ne[2] &&
           q->ne[2] % k->ne[2] == 0 && k->ne[3] == q->ne[3] && v->ne[3] == q->ne[3] &&
           (mask == nullptr || ((mask->type == GGML_TYPE_F32 || mask->type == GGML_TYPE_F16) && is_readable(mask)));
}

// Whether rounded products are computed in tiles: so fast that neither integers nor filtered convolutions are faster.
bool may_use_tiles() {
#if defined(SDCFFI_MULTIPLIES_TILES)
    return rounding != kNever && has_tiles();
#else
    return false;
#endif
}

bool is_computed_filtered(const Convolution& convolution) { return convolution.is_filtered() && !may_use_tiles(); }

bool can_begin_chain(const ggml_tensor* node) {
    switch (node->op) {
        case GGML_OP_NORM:
        case GGML_OP_RMS_NORM:
        case GGML_OP_GROUP_NORM:
            return is_our_norm(node);
        case GGML_OP_CONV_2D:
            return is_our_convolution(node) && is_computed_filtered(Convolution(node));
        default:
            return false;
    }
}

// The chain that this thread computes, set before each node of a graph.
thread_local Chain current;

Chain chain_of(const ggml_tensor* node) { return current.first == node ? current : Chain{node, node}; }

bool is_computed_here(const ggml_tensor* node) {
    switch (node->op) {
        case GGML_OP_FLASH_ATTN_EXT:
            return is_our_attention(node);
        case GGML_OP_UNARY:
            return is_our_activation(node);
        case GGML_OP_MUL_MAT:
            return is_our_product(node);
        case GGML_OP_CONV_2D:
            return is_our_convolution(node);
        case GGML_OP_ADD:
        case GGML_OP_MUL:
            return is_by_rows(node);
        case GGML_OP_NORM:
        case GGML_OP_RMS_NORM:
        case GGML_OP_GROUP_NORM:
            return is_our_norm(node);
        case GGML_OP_CONT:
            return is_our_transposition(node);
        case GGML_OP_CONCAT:
            return is_our_concatenation(node);
        case GGML_OP_UPSCALE:
            return is_our_enlargement(node);
        default:
            return false;
    }
}

// Rounds to bfloat16, or to integers: quantised weights to 8 bits, as most are already, and others to more.
template <class Problem>
void compute(const ggml_compute_params* params, const Problem& problem, [[maybe_unused]] const ggml_tensor* weights) {
    [[maybe_unused]] const int where = rounding;
    [[maybe_unused]] const bool quantised = ggml_is_quantized(weights->type);
#if defined(SDCFFI_MULTIPLIES_TILES)
    if (may_use_tiles()) {
        return multiply<InTiles>(params, problem);
    }
#endif
#if defined(SDCFFI_SQUARES_OF_BFLOAT16)
    if (where != kNever && !quantised) {
        return multiply<InSquares>(params, problem);
    }
#endif
#if defined(SDCFFI_SQUARES_OF_OCTETS)
    if (where != kNever && quantised) {
        return multiply<Rounded<SquaresOfOctets>>(params, problem);
    }
#endif
#if defined(SDCFFI_MULTIPLIES_INTEGERS)
    if (where == kWherePossible || (where == kWhereFaster && (quantised ? kOctetsAreFaster : kPairsAreFaster))) {
        return quantised ? multiply<Rounded<Octets>>(params, problem) : multiply<Rounded<Pairs>>(params, problem);
    }
#endif
    multiply<InFloats>(params, problem);
}

void convolve(const ggml_compute_params* params, const Chain& chain) {
    Convolution convolution(chain.first);
    if (is_computed_filtered(convolution)) {
        convolution.out    = chain.last;
        convolution.biases = data_of(chain.shift);
        convolution.slope  = chain.slope;
        Winograd<Convolution>(convolution).compute(params);
    } else {
        compute(params, convolution, chain.first->src[0]);
    }
}

// Calls function(attention) in the arithmetic of this moment.
template <class Function>
auto with_attention(const ggml_tensor* node, Function function) {
#if defined(SDCFFI_MULTIPLIES_TILES)
    if (may_use_tiles()) {
        return function(Attention<InTiles>(node));
    }
#elif defined(SDCFFI_SQUARES_OF_BFLOAT16)
    if (rounding != kNever) {
        return function(Attention<InSquares>(node));
    }
#endif
    return function(Attention<InFloats>(node));
}

// Floats that each thread needs.
size_t floats_per_thread(const ggml_tensor* node) {
    switch (node->op) {
        case GGML_OP_MUL_MAT:
            return kThreadFloats;
        case GGML_OP_CONV_2D:
            return Convolution(node).is_filtered() ? std::max(Winograd<Convolution>::kFloats, kThreadFloats) : kThreadFloats;
        case GGML_OP_FLASH_ATTN_EXT:
            return with_attention(node, [](const auto& attention) { return attention.floats_per_thread(); });
        default:
            return 0;
    }
}

// What ggml asks before it computes a node itself. Its work_size is true exactly where compute_forward is.
class OurOperations : public ggml::cpu::tensor_traits {
public:
    bool work_size(int threads, const ggml_tensor* node, size_t& size) override {
        size = scratch_bytes(floats_per_thread(node), threads);
        return true;
    }

    bool compute_forward(ggml_compute_params* params, ggml_tensor* node) override {
        const Chain chain = chain_of(node);
        switch (node->op) {
            case GGML_OP_MUL_MAT:
                compute(params, MatrixProduct(node), node->src[0]);
                break;
            case GGML_OP_CONV_2D:
                convolve(params, chain);
                break;
            case GGML_OP_FLASH_ATTN_EXT:
                with_attention(node, [&](const auto& attention) { attention.compute(params); });
                break;
            case GGML_OP_UNARY:
                activate(params, node);
                break;
            case GGML_OP_NORM:
            case GGML_OP_RMS_NORM:
            case GGML_OP_GROUP_NORM:
                Norm(node, chain.last, {data_of(chain.scale), data_of(chain.shift), chain.silu}).compute(params);
                break;
            case GGML_OP_CONT:
                transpose(params, node);
                break;
            case GGML_OP_CONCAT:
                concatenate(params, node);
                break;
            case GGML_OP_UPSCALE:
                enlarge(params, node);
                break;
            default:
                combine_by_rows(params, node);
        }
        return true;
    }
};

// ggml finds such operations through buffer types. No buffer of this type is ever made.
class OurBufferType : public ggml::cpu::extra_buffer_type {
public:
    bool supports_op(ggml_backend_dev_t, const ggml_tensor*) override { return false; }
    ggml::cpu::tensor_traits* get_tensor_traits(const ggml_tensor* node) override {
        return is_computed_here(node) ? &operations_ : nullptr;
    }

private:
    OurOperations operations_;
};

ggml_backend_buffer_type_t our_buffer_type() {
    static OurBufferType context;
    static ggml_backend_buffer_type type = {{}, nullptr, &context};
    return &type;
}

}  // namespace
}  // namespace sdcffi

extern "C" {
// The main library calls this one by its name.
GGML_BACKEND_API void sdcffi_round_products(int where);
void sdcffi_round_products(int where) { sdcffi::rounding = where; }

// ggml-cpu.c asks, before it computes a node, how many of the following nodes are computed along with it.
int sdcffi_nodes_along(const ggml_cgraph* graph, int i);
int sdcffi_nodes_along(const ggml_cgraph* graph, int i) {
    sdcffi::current = sdcffi::can_begin_chain(graph->nodes[i]) ? sdcffi::chain_from(graph, i) : sdcffi::Chain{};
    return sdcffi::current.more;
}
}

// traits.cpp asks this function, and finds our operations at the end of upstream's list. CMakeLists.txt renames upstream's.
std::vector<ggml_backend_buffer_type_t>& upstream_ggml_backend_cpu_get_extra_buffer_types();

std::vector<ggml_backend_buffer_type_t>& ggml_backend_cpu_get_extra_buffer_types() {
    static std::vector<ggml_backend_buffer_type_t> types = [] {
        std::vector<ggml_backend_buffer_type_t> list = upstream_ggml_backend_cpu_get_extra_buffer_types();
        list.push_back(sdcffi::our_buffer_type());
        return list;
    }();
    return types;
}
