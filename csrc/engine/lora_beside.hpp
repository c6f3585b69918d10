// LoRAs beside the weights, mode at_runtime. What is a product of small matrices is computed at every step, for all LoRAs
// of a layer at once; for the rest a layer gets a changed copy of its weight.
#ifndef SDCFFI_LORA_BESIDE_HPP
#define SDCFFI_LORA_BESIDE_HPP

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lora_merge.hpp"

namespace sdcffi {

// LoKr: rows from `row` on get kron(w1, w2) @ x.
struct KroneckerBeside {
    ggml_tensor *w1, *w2, *factors;  // factors: of the rows, or nullptr
    float scale;
    int64_t row;
};

// What a layer computes with besides its weight. Absent parts are nullptr.
struct WeightBeside {
    ggml_tensor* copy = nullptr;                       // in place of the weight
    ggml_tensor *down = nullptr, *up = nullptr;        // up @ (scales * (down @ x)) is added
    ggml_tensor *scales = nullptr, *factors = nullptr;  // factors: of the rows of weight @ x
    std::vector<KroneckerBeside> kroneckers;
};

// The same in the memory of the process, while it is put together.
struct WeightPlan {
    int64_t rows = 0, columns = 0;
    std::vector<float> down, scales, factors;
    std::vector<std::vector<float>> ups;  // for each rank: its column
    struct Kronecker {
        std::vector<float> w1, w2, factors;
        int64_t w1_columns, w2_columns, row;
        float scale;
    };
    std::vector<Kronecker> kroneckers;
};

class LoraBeside : public WeightAdapter {
public:
    LoraBeside(ggml_backend_t backend, size_t weights) : backend_(backend), tensors_(weights * 8 + 64) {}

    // The names of the weights with which graphs computed.
    const std::set<std::string>& used() const { return used_; }

    void add_copy(const std::string& name, const ggml_tensor* weight, ggml_type type) {
        ggml_tensor* copy = ggml_new_tensor(context(), type, GGML_MAX_DIMS, weight->ne);
        weights_[name].copy = copy;
    }

    void add(const std::string& name, const WeightPlan& plan) {
        WeightBeside& weight = weights_[name];
        const int64_t rank   = int64_t(plan.ups.size());
        if (rank > 0) {
            weight.down   = later(plan.down, plan.columns, rank, type());
            weight.scales = later(plan.scales, rank, 1, GGML_TYPE_F32);
            std::vector<float> up(plan.rows * rank);
            for (int64_t r = 0; r < rank; r++) {
                for (int64_t row = 0; row < plan.rows; row++) {
                    up[row * rank + r] = plan.ups[r][row];
                }
            }
            weight.up = later(up, rank, plan.rows, type());
        }
        if (!plan.factors.empty()) {
            weight.factors = later(plan.factors, plan.rows, 1, GGML_TYPE_F32);
        }
        for (auto& kronecker : plan.kroneckers) {
            auto matrix = [&](const std::vector<float>& values, int64_t columns) {
                return later(values, columns, int64_t(values.size()) / columns, GGML_TYPE_F32);
            };
            weight.kroneckers.push_back({matrix(kronecker.w1, kronecker.w1_columns), matrix(kronecker.w2, kronecker.w2_columns),
                                         kronecker.factors.empty() ? nullptr : matrix(kronecker.factors, int64_t(kronecker.factors.size())),
                                         kronecker.scale, kronecker.row});
        }
    }

    // Gets the memory for what was added. Copies are filled by the caller.
    void allocate() {
        tensors_.allocate(ggml_backend_get_default_buffer_type(backend_));
        for (auto& [tensor, values] : waiting_) {
            if (tensor->type == GGML_TYPE_F32) {
                ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
                continue;
            }
            std::vector<ggml_fp16_t> halves(values.size());
            ggml_fp32_to_fp16_row(values.data(), halves.data(), int64_t(values.size()));
            ggml_backend_tensor_set(tensor, halves.data(), 0, ggml_nbytes(tensor));
        }
        waiting_.clear();
    }

    ggml_tensor* copy_of(const std::string& name) { return weights_.at(name).copy; }

    ggml_tensor* patch_weight(ggml_context* ctx, ggml_backend_t, ggml_tensor* weight, const std::string& name) override {
        const WeightBeside* beside = find(name, weight);
        if (beside == nullptr) {
            return weight;
        }
        if (beside->copy != nullptr) {
            return use(name, beside->copy);
        }
        if (beside->down == nullptr || beside->factors != nullptr || !beside->kroneckers.empty()) {
            return weight;  // count_applied finds it unused
        }
        ggml_tensor* up         = ggml_mul(ctx, as_f32(ctx, beside->up), beside->scales);
        ggml_tensor* difference = product(ctx, up, as_f32(ctx, beside->down));
        difference              = ggml_reshape_4d(ctx, difference, weight->ne[0], weight->ne[1], weight->ne[2], weight->ne[3]);
        return use(name, ggml_add(ctx, as_f32(ctx, weight), difference));
    }

    ggml_tensor* forward_with_lora(ggml_context* ctx, ggml_backend_t backend, ggml_tensor* x, ggml_tensor* w, ggml_tensor* b,
                                   const std::string& prefix, ForwardParams params) override {
        if (b != nullptr) {
            b = patch_weight(ctx, backend, b, prefix + "bias");
        }
        const std::string name     = prefix + "weight";
        const WeightBeside* beside = find(name, w);
        if (beside == nullptr) {
            return forward(ctx, x, w, b, params);
        }
        if (beside->copy != nullptr) {
            return forward(ctx, x, use(name, beside->copy), b, params);
        }
        if (beside->factors == nullptr) {
            return add(ctx, x, w, forward(ctx, x, w, b, params), name, *beside, params);
        }
        ggml_tensor* out = over_rows(ctx, forward(ctx, x, w, nullptr, params), beside->factors, params);
        out              = add(ctx, x, w, out, name, *beside, params);
        if (b != nullptr) {
            out = ggml_add_inplace(ctx, out, is_conv(params) ? ggml_reshape_4d(ctx, b, 1, 1, b->ne[0], 1) : b);
        }
        return out;
    }

#ifdef SDCFFI_INT8_LAYERS
    // Layers of 8-bit integers compute their own output, so what would change the weight itself is left out.
    ggml_tensor* add_lora_to_output(ggml_context* ctx, ggml_backend_t, ggml_tensor* x, ggml_tensor* w, ggml_tensor* out,
                                    const std::string& prefix, ForwardParams params) override {
        const WeightBeside* beside = find(prefix + "weight", w);
        if (beside == nullptr || beside->copy != nullptr || beside->factors != nullptr) {
            return out;
        }
        return add(ctx, x, w, out, prefix + "weight", *beside, params);
    }
#endif

    size_t get_extra_graph_size() override { return 1024 + weights_.size() * 48; }

private:
    ggml_context* context() const { return tensors_.context(); }

    // Half precision is fast on GPUs only. A CPU would round what it multiplies with to half precision too.
    ggml_type type() const { return is_cpu(backend_) ? GGML_TYPE_F32 : GGML_TYPE_F16; }

    ggml_tensor* later(std::vector<float> values, int64_t columns, int64_t rows, ggml_type type) {
        ggml_tensor* tensor = ggml_new_tensor_2d(context(), type, columns, rows);
        waiting_.emplace_back(tensor, std::move(values));
        return tensor;
    }

    // A layer may compute with a part of a weight only (grouped convolutions): then it is not the one that is meant.
    const WeightBeside* find(const std::string& name, const ggml_tensor* weight) const {
        auto found = weights_.find(name);
        return found != weights_.end() && weight->view_src == nullptr ? &found->second : nullptr;
    }

    ggml_tensor* use(const std::string& name, ggml_tensor* tensor) {
        used_.insert(name);
        return tensor;
    }

    static bool is_conv(const ForwardParams& params) { return params.op_type == ForwardParams::op_type_t::OP_CONV2D; }

    static ggml_tensor* forward(ggml_context* ctx, ggml_tensor* x, ggml_tensor* w, ggml_tensor* b, const ForwardParams& params) {
        if (!is_conv(params)) {
            return ggml_ext_linear(ctx, x, w, b, params.linear.force_prec_f32, params.linear.scale);
        }
        const auto& conv = params.conv2d;
        return ggml_ext_conv_2d(ctx, x, w, b, conv.s0, conv.s1, conv.p0, conv.p1, conv.d0, conv.d1, conv.direct, conv.circular_x,
                                conv.circular_y, conv.scale);
    }

    // The outputs of a layer, which have [outputs, ...] or [width, height, outputs, ...], times a vector over outputs.
    static ggml_tensor* over_rows(ggml_context* ctx, ggml_tensor* out, ggml_tensor* vector, const ForwardParams& params) {
        const int64_t count = ggml_nelements(vector);
        return ggml_mul(ctx, out, is_conv(params) ? ggml_reshape_4d(ctx, vector, 1, 1, count, 1) : ggml_reshape_1d(ctx, vector, count));
    }

    // A matrix [columns, rows] as the kernel of a convolution, with the size that the weight's kernel has.
    static ggml_tensor* as_kernel(ggml_context* ctx, ggml_tensor* matrix, const ggml_tensor* weight) {
        const bool flat   = ggml_n_dims(weight) <= 2;
        const int64_t wide = flat ? 1 : weight->ne[0], high = flat ? 1 : weight->ne[1];
        return ggml_reshape_4d(ctx, matrix, wide, high, matrix->ne[0] / (wide * high), matrix->ne[1]);
    }

    static ForwardParams pointwise(ForwardParams params) {
        auto& conv = params.conv2d;
        conv.s0 = conv.s1 = conv.d0 = conv.d1 = 1;
        conv.p0 = conv.p1 = 0;
        return params;
    }

    ggml_tensor* add(ggml_context* ctx, ggml_tensor* x, ggml_tensor* w, ggml_tensor* out, const std::string& name,
                     const WeightBeside& beside, const ForwardParams& params) {
        if (beside.down != nullptr) {
            const bool conv     = is_conv(params);
            ggml_tensor* down   = conv ? as_kernel(ctx, beside.down, w) : beside.down;
            ggml_tensor* up     = conv ? ggml_reshape_4d(ctx, beside.up, 1, 1, beside.up->ne[0], beside.up->ne[1]) : beside.up;
            ggml_tensor* inner  = over_rows(ctx, forward(ctx, x, down, nullptr, params), beside.scales, params);
            ggml_tensor* beside_it = forward(ctx, inner, up, nullptr, pointwise(params));
            out                 = ggml_add_inplace(ctx, out, beside_it);
        }
        for (auto& kronecker : beside.kroneckers) {
            out = add_kronecker(ctx, x, w, out, kronecker, params);
        }
        return use(name, out);
    }

    // kron(w1, w2) @ x is w2 @ X @ w1^T where X has x's inputs as a matrix.
    ggml_tensor* add_kronecker(ggml_context* ctx, ggml_tensor* x, ggml_tensor* w, ggml_tensor* out, const KroneckerBeside& kronecker,
                               const ForwardParams& params) {
        const int64_t outer = kronecker.w1->ne[0], outer_out = kronecker.w1->ne[1], inner_out = kronecker.w2->ne[1];
        if (!ggml_is_contiguous(x)) {
            x = ggml_cont(ctx, x);
        }
        ggml_tensor* sum;
        int64_t inside;  // elements that lie together beside those over which w1 sums
        if (is_conv(params)) {
            ggml_tensor* apart = ggml_reshape_4d(ctx, x, x->ne[0], x->ne[1], x->ne[2] / outer, outer * x->ne[3]);
            sum                = forward(ctx, apart, as_kernel(ctx, kronecker.w2, w), nullptr, params);
            inside             = sum->ne[0] * sum->ne[1] * inner_out;
        } else {
            ggml_tensor* apart = ggml_reshape_2d(ctx, x, x->ne[0] / outer, ggml_nelements(x) / (x->ne[0] / outer));
            sum                = forward(ctx, apart, kronecker.w2, nullptr, params);
            inside             = inner_out;
        }
        const int64_t items = ggml_nelements(sum) / (inside * outer);
        sum = ggml_cont(ctx, ggml_permute(ctx, ggml_reshape_3d(ctx, sum, inside, outer, items), 1, 0, 2, 3));  // [outer, inside, items]
        sum = ggml_mul_mat(ctx, kronecker.w1, ggml_reshape_2d(ctx, sum, outer, inside * items));
        sum = ggml_cont(ctx, ggml_permute(ctx, ggml_reshape_3d(ctx, sum, outer_out, inside, items), 1, 0, 2, 3));  // [inside, outer_out, items]
        sum = ggml_scale(ctx, sum, kronecker.scale);
        const int64_t outputs = inner_out * outer_out;
        const int axis        = is_conv(params) ? 2 : 0;
        int64_t shape[4]      = {out->ne[0], out->ne[1], out->ne[2], out->ne[3]};
        shape[axis]           = outputs;
        sum                   = ggml_reshape_4d(ctx, sum, shape[0], shape[1], shape[2], shape[3]);
        if (kronecker.factors != nullptr) {
            sum = over_rows(ctx, sum, kronecker.factors, params);
        }
        if (outputs == out->ne[axis]) {
            return ggml_add_inplace(ctx, out, sum);
        }
        return ggml_acc_inplace(ctx, out, sum, out->nb[1], out->nb[2], out->nb[3], kronecker.row * out->nb[axis]);
    }

    ggml_backend_t backend_;
    Tensors tensors_;
    std::vector<std::pair<ggml_tensor*, std::vector<float>>> waiting_;
    std::map<std::string, WeightBeside> weights_;
    std::set<std::string> used_;
};

}  // namespace sdcffi

#endif
