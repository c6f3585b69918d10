// What a module of a LoRA file makes of a weight, as graphs. The formulas are those of LyCORIS and PEFT; tests hold them
// against both. Weights and factors are matrices of f32, [columns, rows] in ggml's order; a row is an output.
#ifndef SDCFFI_LORA_FORMULAS_HPP
#define SDCFFI_LORA_FORMULAS_HPP

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "lora_plan.hpp"
#include "lora_rotations.hpp"

namespace sdcffi {

inline ggml_tensor* turned(ggml_context* ctx, ggml_tensor* matrix) {
    return ggml_cont(ctx, ggml_transpose(ctx, matrix));
}

// left: [rank, rows], right: [columns, rank].
inline ggml_tensor* product(ggml_context* ctx, ggml_tensor* left, ggml_tensor* right) {
    return ggml_mul_mat(ctx, turned(ctx, right), left);
}

inline ggml_tensor* rows_of(ggml_context* ctx, ggml_tensor* matrix, int64_t first, int64_t count) {
    return ggml_view_2d(ctx, matrix, matrix->ne[0], count, matrix->nb[1], first * matrix->nb[1]);
}

// A product of two matrices that makes a difference.
struct Pair {
    ggml_tensor *up, *down;  // [rank, rows], [columns, rank]
};

// The factors of a module. `problem` says why they cannot be computed with; then nothing else of it may be used.
class Formula {
public:
    Formula(const LoraFile& file, const LoraModule& module) : file_(file), module_(module) { check(); }

    const std::string& problem() const { return problem_; }
    // Of the difference; 0 where the kind takes any size.
    int64_t rows() const { return rows_; }
    int64_t columns() const { return columns_; }
    bool makes_difference() const { return module_.kind <= SDG_KIND_DIFF; }

    // The pairs whose product (LoRA) or products' product (LoHa) is the difference.
    std::vector<Pair> pairs(ggml_context* ctx) const {
        if (module_.kind == SDG_KIND_LORA) {
            return {tucker(ctx, get(ctx, SDG_ROLE_MID), get(ctx, SDG_ROLE_UP), get(ctx, SDG_ROLE_DOWN))};
        }
        return {factors(ctx, SDG_ROLE_W1_A, SDG_ROLE_W1_B, SDG_ROLE_T1), factors(ctx, SDG_ROLE_W2_A, SDG_ROLE_W2_B, SDG_ROLE_T2)};
    }

    // LoKr's two factors.
    Pair kronecker(ggml_context* ctx) const {
        auto factor = [&](sdg_lora_role whole, sdg_lora_role a, sdg_lora_role b, sdg_lora_role core) {
            if (ggml_tensor* matrix = get(ctx, whole)) {
                return matrix;
            }
            const Pair pair = factors(ctx, a, b, core);
            return product(ctx, pair.up, pair.down);
        };
        return {factor(SDG_ROLE_W1, SDG_ROLE_W1_A, SDG_ROLE_W1_B, SDG_ROLE_COUNT), factor(SDG_ROLE_W2, SDG_ROLE_W2_A, SDG_ROLE_W2_B, SDG_ROLE_T2)};
    }

    // The whole difference, without the module's scale.
    ggml_tensor* difference(ggml_context* ctx) const {
        switch (module_.kind) {
            case SDG_KIND_LORA: {
                const Pair pair = pairs(ctx)[0];
                return product(ctx, pair.up, pair.down);
            }
            case SDG_KIND_LOHA: {
                const auto both = pairs(ctx);
                return ggml_mul(ctx, product(ctx, both[0].up, both[0].down), product(ctx, both[1].up, both[1].down));
            }
            case SDG_KIND_LOKR: {
                const Pair factor = kronecker(ctx);
                ggml_tensor *w1 = factor.up, *w2 = factor.down;
                ggml_tensor* outer = ggml_mul_mat(ctx, ggml_reshape_2d(ctx, w1, 1, ggml_nelements(w1)), ggml_reshape_2d(ctx, w2, 1, ggml_nelements(w2)));
                outer              = ggml_reshape_4d(ctx, outer, w1->ne[0], w1->ne[1], w2->ne[0], w2->ne[1]);
                outer              = ggml_cont(ctx, ggml_permute(ctx, outer, 1, 3, 0, 2));  // [w2's, w1's columns, w2's, w1's rows]
                return ggml_reshape_2d(ctx, outer, columns_, rows_);
            }
            default:
                return get(ctx, SDG_ROLE_DIFF);
        }
    }

    // Returns what becomes of rows of a weight that are the module's rows from `first` on. At a strength other than 1 the
    // change is that much as great.
    ggml_tensor* changed(ggml_context* ctx, ggml_tensor* weight, int64_t first, float strength) const {
        if (makes_difference() && !module_.has(SDG_ROLE_MAGNITUDE)) {
            return add_scaled(ctx, weight, part(ctx, difference(ctx), first, weight->ne[1]), module_.scale * strength);
        }
        ggml_tensor* whole = with_lengths(ctx, at_full_strength(ctx, weight, first), weight, first);
        return strength == 1.f ? whole : add_scaled(ctx, weight, ggml_sub(ctx, whole, weight), strength);
    }

    // DoRA's factors of the rows, which the change has beside its difference: [1, rows].
    ggml_tensor* row_factors(ggml_context* ctx, ggml_tensor* weight, int64_t first) const {
        return ggml_div(ctx, along(ctx, get(ctx, SDG_ROLE_MAGNITUDE), first, weight),
                        row_lengths(ctx, at_full_strength(ctx, weight, first)));
    }

    ggml_tensor* get(ggml_context* ctx, sdg_lora_role role) const {
        return role == SDG_ROLE_COUNT ? nullptr : file_.matrix(ctx, module_, role);
    }

    // (IA)^3's factors.
    ggml_tensor* factors_of_rows(ggml_context* ctx) const {
        ggml_tensor* vector = get(ctx, SDG_ROLE_VECTOR);
        return module_.offset == 0.f ? vector : ggml_scale_bias(ctx, vector, 1.f, module_.offset);
    }

private:
    static ggml_tensor* add_scaled(ggml_context* ctx, ggml_tensor* weight, ggml_tensor* difference, float scale) {
        return ggml_add(ctx, weight, scale == 1.f ? difference : ggml_scale(ctx, difference, scale));
    }

    ggml_tensor* at_full_strength(ggml_context* ctx, ggml_tensor* weight, int64_t first) const {
        if (makes_difference()) {
            return add_scaled(ctx, weight, part(ctx, difference(ctx), first, weight->ne[1]), module_.scale);
        }
        if (module_.kind == SDG_KIND_GLORA) {
            ggml_tensor* before = product(ctx, get(ctx, SDG_ROLE_A1), get(ctx, SDG_ROLE_A2));
            ggml_tensor* beside = product(ctx, get(ctx, SDG_ROLE_B1), get(ctx, SDG_ROLE_B2));
            ggml_tensor* sum    = ggml_add(ctx, on_inputs(ctx, weight, before), part(ctx, beside, first, weight->ne[1]));
            return add_scaled(ctx, weight, sum, module_.scale);
        }
        if (module_.kind == SDG_KIND_OFT) {
            return rotated(ctx, weight);
        }
        return ggml_mul(ctx, weight, along(ctx, factors_of_rows(ctx), first, weight));
    }

    static ggml_tensor* lengths(ggml_context* ctx, ggml_tensor* squares) {
        return ggml_scale_bias(ctx, ggml_sqrt(ctx, squares), 1.f, std::numeric_limits<float>::epsilon());
    }

    static ggml_tensor* row_lengths(ggml_context* ctx, ggml_tensor* weight) {
        return lengths(ctx, ggml_sum_rows(ctx, ggml_sqr(ctx, weight)));
    }

    // DoRA: the rows or columns get the lengths that the module has for them.
    ggml_tensor* with_lengths(ggml_context* ctx, ggml_tensor* changed, ggml_tensor* weight, int64_t first) const {
        ggml_tensor* magnitude = get(ctx, SDG_ROLE_MAGNITUDE);
        if (magnitude == nullptr) {
            return changed;
        }
        ggml_tensor* before = module_.on_input ? column_lengths(ctx, changed) : row_lengths(ctx, changed);
        return ggml_mul(ctx, changed, ggml_div(ctx, along(ctx, magnitude, first, weight), before));
    }

    // Tucker's form: the core [kernel, right's rank, left's rank] is drawn into the right factor.
    static Pair tucker(ggml_context* ctx, ggml_tensor* core, ggml_tensor* up, ggml_tensor* down) {
        if (core == nullptr) {
            return {up, down};
        }
        const int64_t left = up->ne[0], right = down->ne[1], inputs = down->ne[0];
        const int64_t kernel = ggml_nelements(core) / (left * right);
        core                 = ggml_reshape_3d(ctx, core, kernel, right, left);
        core                 = ggml_cont(ctx, ggml_permute(ctx, core, 1, 0, 2, 3));
        ggml_tensor* drawn   = ggml_mul_mat(ctx, ggml_reshape_2d(ctx, core, right, kernel * left), turned(ctx, down));
        drawn                = ggml_cont(ctx, ggml_permute(ctx, ggml_reshape_3d(ctx, drawn, kernel, left, inputs), 0, 2, 1, 3));
        return {up, ggml_reshape_2d(ctx, drawn, kernel * inputs, left)};
    }

    // With a core LyCORIS keeps the left factor transposed.
    Pair factors(ggml_context* ctx, sdg_lora_role a, sdg_lora_role b, sdg_lora_role core) const {
        ggml_tensor* middle = get(ctx, core);
        return tucker(ctx, middle, middle != nullptr ? turned(ctx, get(ctx, a)) : get(ctx, a), get(ctx, b));
    }

    static ggml_tensor* part(ggml_context* ctx, ggml_tensor* matrix, int64_t first, int64_t rows) {
        return first == 0 && rows == matrix->ne[1] ? matrix : ggml_cont(ctx, rows_of(ctx, matrix, first, rows));
    }

    // A vector over the rows from `first` on, or over the inputs: repeated for each element of a kernel.
    ggml_tensor* along(ggml_context* ctx, ggml_tensor* vector, int64_t first, ggml_tensor* weight) const {
        const int64_t count = ggml_nelements(vector);
        if (!module_.on_input) {
            return part(ctx, ggml_reshape_2d(ctx, vector, 1, count), first, weight->ne[1]);
        }
        const int64_t kernel  = weight->ne[0] / count;
        ggml_tensor* repeated = ggml_repeat_4d(ctx, ggml_reshape_2d(ctx, vector, 1, count), kernel, count, 1, 1);
        return ggml_reshape_2d(ctx, repeated, weight->ne[0], 1);
    }

    // Lengths of what each input gives to all rows and kernel elements, repeated over the kernel: [columns, 1].
    ggml_tensor* column_lengths(ggml_context* ctx, ggml_tensor* weight) const {
        ggml_tensor* magnitude = get(ctx, SDG_ROLE_MAGNITUDE);
        const int64_t inputs = ggml_nelements(magnitude), kernel = weight->ne[0] / inputs;
        ggml_tensor* sums = ggml_sum_rows(ctx, turned(ctx, ggml_sqr(ctx, weight)));  // [1, columns]
        sums              = ggml_sum_rows(ctx, ggml_reshape_2d(ctx, sums, kernel, inputs));
        sums              = ggml_repeat_4d(ctx, lengths(ctx, sums), kernel, inputs, 1, 1);
        return ggml_reshape_2d(ctx, sums, weight->ne[0], 1);
    }

    // Mixes the inputs of a weight by a matrix [to, from]: the kernel's elements each for itself.
    static ggml_tensor* on_inputs(ggml_context* ctx, ggml_tensor* weight, ggml_tensor* matrix) {
        const int64_t from = matrix->ne[1], to = matrix->ne[0], kernel = weight->ne[0] / from, rows = weight->ne[1];
        ggml_tensor* apart = ggml_reshape_3d(ctx, weight, kernel, from, rows);
        apart              = ggml_cont(ctx, ggml_permute(ctx, apart, 1, 0, 2, 3));  // [from, kernel, rows]
        ggml_tensor* mixed = ggml_mul_mat(ctx, turned(ctx, matrix), ggml_reshape_2d(ctx, apart, from, kernel * rows));
        mixed              = ggml_reshape_3d(ctx, mixed, to, kernel, rows);
        return ggml_reshape_2d(ctx, ggml_cont(ctx, ggml_permute(ctx, mixed, 1, 0, 2, 3)), to * kernel, rows);
    }

    ggml_tensor* rotated(ggml_context* ctx, ggml_tensor* weight) const {
        const std::string& name   = module_.tensors[SDG_ROLE_BLOCKS].name;
        const ggml_tensor* tensor = file_.find(name);
        const Blocks blocks       = blocks_of(tensor, module_, module_.on_input ? weight->ne[0] : weight->ne[1]);
        ggml_tensor* turns        = file_.derived(name, {blocks.size, blocks.size, blocks.count, blocks.stages},
                                                  [&] { return turns_of(tensor, module_, blocks); });
        ggml_tensor* result       = turn(ctx, weight, turns, blocks, module_.on_input);
        ggml_tensor* rescale      = get(ctx, SDG_ROLE_RESCALE);
        return rescale != nullptr ? ggml_mul(ctx, result, ggml_reshape_2d(ctx, rescale, 1, ggml_nelements(rescale))) : result;
    }

    std::string shape(sdg_lora_role role) const {
        const ggml_tensor* tensor = file_.find(module_.tensors[role].name);
        return tensor != nullptr ? shape_of(tensor) : "()";
    }

    // Rows and columns of a role's matrix; (0, 0) if it is not there.
    std::pair<int64_t, int64_t> size(sdg_lora_role role) const {
        const ggml_tensor* tensor = module_.has(role) ? file_.find(module_.tensors[role].name) : nullptr;
        if (tensor == nullptr) {
            return {0, 0};
        }
        const int64_t elements = ggml_nelements(tensor), rows = std::max<int64_t>(module_.tensors[role].rows, 0);
        return rows > 0 && elements % rows == 0 ? std::make_pair(rows, elements / rows) : std::make_pair(elements, int64_t(1));
    }

    void refuse(const std::string& reason) {
        if (problem_.empty()) {
            problem_ = reason;
        }
    }

    // Checks that `a @ b`, or its Tucker form, is defined; returns rows and columns of it.
    std::pair<int64_t, int64_t> check_pair(sdg_lora_role a, sdg_lora_role b, sdg_lora_role core, bool turned_left) {
        auto left = size(a), right = size(b);
        if (left.first == 0 || right.first == 0) {
            refuse("a factor is missing from the file");
            return {0, 0};
        }
        if (!has(core)) {
            if (left.second != right.first) {
                refuse("up " + shape(a) + " and down " + shape(b) + " differ in rank");
            }
            return {left.first, right.second};
        }
        if (turned_left) {
            std::swap(left.first, left.second);
        }
        const int64_t elements = ggml_nelements(file_.find(module_.tensors[core].name)), square = left.second * right.first;
        if (elements % square != 0) {
            refuse("core " + shape(core) + " does not fit " + shape(a) + " and " + shape(b));
            return {0, 0};
        }
        return {left.first, right.second * (elements / square)};
    }

    bool has(sdg_lora_role role) const { return role != SDG_ROLE_COUNT && size(role).first != 0; }

    void check() {
        for (const LoraTensor& tensor : module_.tensors) {
            if (!tensor.name.empty() && file_.find(tensor.name) == nullptr) {
                refuse("tensor " + tensor.name + " cannot be read");
                return;
            }
        }
        std::pair<int64_t, int64_t> first{0, 0}, second{1, 1};
        switch (module_.kind) {
            case SDG_KIND_LORA:
                first = check_pair(SDG_ROLE_UP, SDG_ROLE_DOWN, SDG_ROLE_MID, false);
                break;
            case SDG_KIND_LOHA:
                first  = check_pair(SDG_ROLE_W1_A, SDG_ROLE_W1_B, SDG_ROLE_T1, true);
                second = check_pair(SDG_ROLE_W2_A, SDG_ROLE_W2_B, SDG_ROLE_T2, true);
                if (first != second) {
                    refuse("the two products of a LoHa differ in size");
                }
                second = {1, 1};
                break;
            case SDG_KIND_LOKR:
                first  = has(SDG_ROLE_W1) ? size(SDG_ROLE_W1) : check_pair(SDG_ROLE_W1_A, SDG_ROLE_W1_B, SDG_ROLE_COUNT, false);
                second = has(SDG_ROLE_W2) ? size(SDG_ROLE_W2) : check_pair(SDG_ROLE_W2_A, SDG_ROLE_W2_B, SDG_ROLE_T2, true);
                break;
            case SDG_KIND_DIFF:
                first = size(SDG_ROLE_DIFF);
                if (first.first == 0) {
                    refuse("the difference is missing from the file");
                }
                break;
            case SDG_KIND_GLORA:
                check_pair(SDG_ROLE_A1, SDG_ROLE_A2, SDG_ROLE_COUNT, false);
                first = check_pair(SDG_ROLE_B1, SDG_ROLE_B2, SDG_ROLE_COUNT, false);
                break;
            case SDG_KIND_OFT:
                first = {has(SDG_ROLE_BLOCKS) ? 0 : -1, 0};
                break;
            case SDG_KIND_IA3:
                first = {has(SDG_ROLE_VECTOR) ? 0 : -1, 0};
                break;
        }
        if (first.first < 0) {
            refuse("a factor is missing from the file");
        }
        rows_    = std::max<int64_t>(first.first, 0) * second.first;
        columns_ = first.second * second.second;
    }

    const LoraFile& file_;
    const LoraModule& module_;
    std::string problem_;
    int64_t rows_ = 0, columns_ = 0;
};

}  // namespace sdcffi

#endif
