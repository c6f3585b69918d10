// OFT and BOFT: a weight's rows or columns are turned by orthogonal blocks. BOFT has several stages of them, each over
// other groups of rows ("butterfly"). The orders are LyCORIS' (on outputs) and PEFT's (on inputs).
#ifndef SDCFFI_LORA_ROTATIONS_HPP
#define SDCFFI_LORA_ROTATIONS_HPP

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "lora_plan.hpp"

namespace sdcffi {

// What the shape of a tensor of blocks means: `stages` of `count` blocks, each of size x size. PEFT's OFT keeps only the
// upper triangles.
struct Blocks {
    int64_t stages = 1, count = 0, size = 0;
    bool packed = false;
};

inline Blocks blocks_of(const ggml_tensor* tensor, const LoraModule& module, int64_t turned) {
    const int64_t elements = ggml_nelements(tensor), rows = std::max<int64_t>(module.tensors[SDG_ROLE_BLOCKS].rows, 1);
    Blocks blocks;
    if (module.on_input && tensor->ne[2] * tensor->ne[3] == 1 && rows == tensor->ne[1]) {
        blocks.packed = true;
        blocks.count  = rows;
        blocks.size   = int64_t(std::lround((1 + std::sqrt(1.0 + 8.0 * double(elements / rows))) / 2));
        return blocks;
    }
    blocks.size  = tensor->ne[0];
    blocks.count = rows;
    if (blocks.count * blocks.size != turned && blocks.size > 0) {
        blocks.stages = rows;
        blocks.count  = elements / (rows * blocks.size * blocks.size);
    }
    return blocks;
}

// Returns why the blocks cannot turn `turned` rows or columns; "" if they can.
inline std::string blocks_misfit(const ggml_tensor* tensor, const LoraModule& module, int64_t turned) {
    const Blocks blocks = blocks_of(tensor, module, turned);
    const int64_t each  = blocks.packed ? blocks.size * (blocks.size - 1) / 2 : blocks.size * blocks.size;
    const bool shared   = blocks.packed && blocks.count == 1 && blocks.size > 0 && turned % blocks.size == 0;
    const int64_t reach = blocks.stages > 1 ? (int64_t(1) << (blocks.stages - 1)) * blocks.size : blocks.size;
    if (blocks.size < 1 || blocks.stages > 40 || blocks.stages * blocks.count * each != ggml_nelements(tensor) ||
        (blocks.count * blocks.size != turned && !shared) || turned % reach != 0) {
        return "has blocks of shape " + shape_of(tensor) + ", which do not turn " + std::to_string(turned) +
               (module.on_input ? " inputs" : " outputs");
    }
    return "";
}

// Returns inverse(I - Q) @ (I + Q), which is (I + Q) @ inverse(I - Q), of a skew matrix Q.
inline std::vector<double> cayley(const std::vector<double>& q, int64_t n) {
    std::vector<double> left(n * n), right(n * n);
    for (int64_t i = 0; i < n * n; i++) {
        const double one = i % (n + 1) == 0;
        left[i]  = one - q[i];
        right[i] = one + q[i];
    }
    for (int64_t column = 0; column < n; column++) {  // Gauss and Jordan; I - Q is never singular
        int64_t pivot = column;
        for (int64_t row = column + 1; row < n; row++) {
            pivot = std::fabs(left[row * n + column]) > std::fabs(left[pivot * n + column]) ? row : pivot;
        }
        std::swap_ranges(left.begin() + pivot * n, left.begin() + (pivot + 1) * n, left.begin() + column * n);
        std::swap_ranges(right.begin() + pivot * n, right.begin() + (pivot + 1) * n, right.begin() + column * n);
        const double divisor = left[column * n + column];
        for (int64_t i = 0; i < n; i++) {
            left[column * n + i] /= divisor;
            right[column * n + i] /= divisor;
        }
        for (int64_t row = 0; row < n; row++) {
            const double factor = left[row * n + column];
            if (row == column || factor == 0) {
                continue;
            }
            for (int64_t i = 0; i < n; i++) {
                left[row * n + i] -= factor * left[column * n + i];
                right[row * n + i] -= factor * right[column * n + i];
            }
        }
    }
    return right;
}

// PEFT's series for it: I + 2 Q + ... + 2 Q^(terms - 2) + Q^(terms - 1).
inline std::vector<double> neumann(const std::vector<double>& q, int64_t n, int terms) {
    std::vector<double> sum(n * n), power = q;
    for (int64_t i = 0; i < n * n; i++) {
        sum[i] = (i % (n + 1) == 0) + 2 * q[i];
    }
    const int last = std::max(terms, 4) - 1;
    for (int exponent = 2; exponent <= last; exponent++) {
        std::vector<double> next(n * n);
        for (int64_t i = 0; i < n; i++) {
            for (int64_t k = 0; k < n; k++) {
                for (int64_t j = 0; j < n; j++) {
                    next[i * n + j] += power[i * n + k] * q[k * n + j];
                }
            }
        }
        power = std::move(next);
        for (int64_t i = 0; i < n * n; i++) {
            sum[i] += (exponent == last ? 1 : 2) * power[i];
        }
    }
    return sum;
}

// Returns the orthogonal blocks, [stage][block][row][column].
inline std::vector<float> turns_of(const ggml_tensor* tensor, const LoraModule& module, const Blocks& blocks) {
    const std::vector<float> given = values_of(tensor);
    const int64_t n = blocks.size, all = blocks.stages * blocks.count;
    std::vector<double> skew(all * n * n);
    const bool halved = module.on_input && !blocks.packed;  // PEFT's BOFT
    double square     = 0;
    for (int64_t block = 0, next = 0; block < all; block++) {
        double* q = skew.data() + block * n * n;
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = i + 1; j < n; j++) {
                double value = blocks.packed ? given[next++] : double(given[block * n * n + i * n + j]) - given[block * n * n + j * n + i];
                value *= (halved ? 0.5 : 1.0) * (module.inverted ? -1 : 1);
                q[i * n + j] = value;
                q[j * n + i] = -value;
                square += 2 * value * value;
            }
        }
    }
    const double norm   = std::sqrt(square) + 1e-8;
    const double factor = module.constraint > 0 && norm > module.constraint ? module.constraint / norm : 1.0;
    std::vector<float> turns;
    for (int64_t block = 0; block < all; block++) {
        std::vector<double> q(skew.begin() + block * n * n, skew.begin() + (block + 1) * n * n);
        for (double& value : q) {
            value *= factor;
        }
        const std::vector<double> turn = module.terms > 0 ? neumann(q, n, module.terms) : cayley(q, n);
        turns.insert(turns.end(), turn.begin(), turn.end());
    }
    return turns;
}

// Swaps the second and the third dimension.
inline ggml_tensor* swapped(ggml_context* ctx, ggml_tensor* tensor, int64_t ne0, int64_t ne1, int64_t ne2) {
    ggml_tensor* apart = ggml_reshape_4d(ctx, tensor, ne0, ne1, ne2, ggml_nelements(tensor) / (ne0 * ne1 * ne2));
    return ggml_cont(ctx, ggml_permute(ctx, apart, 0, 2, 1, 3));
}

// weight: [columns, rows]; turns: [size, size, count, stages], as turns_of returns them.
inline ggml_tensor* turn(ggml_context* ctx, ggml_tensor* weight, ggml_tensor* turns, const Blocks& blocks, bool on_input) {
    const int64_t columns = weight->ne[0], rows = weight->ne[1], size = blocks.size;
    for (int64_t stage = 0; stage < blocks.stages; stage++) {
        ggml_tensor* mine = ggml_view_3d(ctx, turns, size, size, blocks.count, turns->nb[1], turns->nb[2], stage * turns->nb[3]);
        if (on_input) {
            const int64_t half = size / 2, wide = int64_t(1) << stage;
            if (blocks.stages > 1) {
                weight = swapped(ctx, weight, half, wide, 2);
            }
            const int64_t count  = columns / size;
            ggml_tensor* apart   = swapped(ctx, weight, size, count, rows);  // [size, rows, count]
            ggml_tensor* product = ggml_mul_mat(ctx, mine, ggml_reshape_3d(ctx, apart, size, rows, count));
            weight               = swapped(ctx, product, size, rows, count);
            if (blocks.stages > 1) {
                weight = swapped(ctx, weight, half, 2, wide);
            }
        } else {
            const int64_t half = (int64_t(1) << stage) * size / 2;
            if (blocks.stages > 1) {
                weight = swapped(ctx, weight, columns, half, 2);
            } else {
                mine = ggml_cont(ctx, ggml_transpose(ctx, mine));
            }
            ggml_tensor* apart = ggml_reshape_3d(ctx, weight, columns, size, blocks.count);
            apart              = ggml_cont(ctx, ggml_permute(ctx, apart, 1, 0, 2, 3));  // [size, columns, count]
            weight             = ggml_mul_mat(ctx, apart, mine);                        // [columns, size, count]
            if (blocks.stages > 1) {
                weight = swapped(ctx, weight, columns, 2, half);
            }
        }
        weight = ggml_reshape_2d(ctx, weight, columns, rows);
    }
    return weight;
}

}  // namespace sdcffi

#endif
