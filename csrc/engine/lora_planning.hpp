// Decides how a weight's LoRAs are computed beside it, and puts together what that takes.
#ifndef SDCFFI_LORA_PLANNING_HPP
#define SDCFFI_LORA_PLANNING_HPP

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "lora_beside.hpp"
#include "lora_merge.hpp"

namespace sdcffi {

class BesidePlanner {
public:
    explicit BesidePlanner(Merger& merger) : merger_(merger) {}

    // Returns the small matrices that stand for all changes of a weight; none if only a changed copy of it can.
    // `source` is the weight with its values, which DoRA needs; `weight` has the shape.
    template <typename Source>
    std::optional<WeightPlan> plan(const ggml_tensor* weight, const std::vector<LoraChange>& changes, Source source) {
        WeightPlan plan;
        plan.rows    = weight->ne[std::max(ggml_n_dims(weight), 2) - 1];
        plan.columns = ggml_nelements(weight) / plan.rows;
        if (ggml_n_dims(weight) < 2 || !can_be_beside(changes, plan)) {
            return std::nullopt;
        }
        for (auto& change : changes) {
            const Formula formula(*change.file, *change.module);
            if (change.module->kind == SDG_KIND_IA3) {
                scale_rows(plan, change, formula);
                continue;
            }
            std::vector<float> lengths;  // DoRA's, over the rows of the weight
            if (change.module->has(SDG_ROLE_MAGNITUDE)) {
                lengths = row_factors(plan, change, formula, source());
            }
            if (change.module->kind == SDG_KIND_LOKR) {
                add_kronecker(plan, change, formula, lengths);
            } else {
                add_pairs(plan, change, formula, lengths);
            }
        }
        return plan;
    }

private:
    // The module of a three-dimensional convolution has other rows than its weight: that gets a copy.
    static bool can_be_beside(const std::vector<LoraChange>& changes, const WeightPlan& plan) {
        for (auto& change : changes) {
            const LoraModule& module = *change.module;
            const Formula formula(*change.file, module);
            const bool known = module.kind == SDG_KIND_LORA || module.kind == SDG_KIND_LOKR || module.kind == SDG_KIND_IA3 ||
                               (module.kind == SDG_KIND_LOHA && is_small(module, plan));
            if (!known || ((module.has(SDG_ROLE_MAGNITUDE) || module.kind == SDG_KIND_IA3) && module.on_input) ||
                (formula.columns() != 0 && formula.columns() != plan.columns)) {
                return false;
            }
            for (auto& place : change.places) {
                const bool whole = place.module_row == 0 && count(place, formula, plan) == formula.rows();
                if (place.transposed || (module.kind == SDG_KIND_LOKR && !whole)) {
                    return false;
                }
            }
        }
        return true;
    }

    // LoHa's elementwise product has the product of both ranks: beyond a quarter of the layer's work a copy is better.
    static bool is_small(const LoraModule& module, const WeightPlan& plan) {
        const int64_t rank = module.tensors[SDG_ROLE_W1_B].rows * module.tensors[SDG_ROLE_W2_B].rows;
        return rank * (plan.rows + plan.columns) <= plan.rows * plan.columns / 4;
    }

    static int64_t count(const LoraPlace& place, const Formula& formula, const WeightPlan& plan) {
        return place.rows > 0 ? place.rows : (formula.rows() > 0 ? formula.rows() : plan.rows);
    }

    // Computes a graph's nodes; returns their values.
    template <typename Build>
    std::vector<std::vector<float>> evaluate(Build build) {
        HostGraph graph(256);
        std::vector<ggml_tensor*> nodes;
        for (ggml_tensor* node : build(graph.context())) {
            nodes.push_back(graph.ask(ggml_cont(graph.context(), node)));
        }
        merger_.math().compute(graph);
        std::vector<std::vector<float>> values;
        for (ggml_tensor* node : nodes) {
            values.push_back(values_of(node));
        }
        return values;
    }

    void add_pairs(WeightPlan& plan, const LoraChange& change, const Formula& formula, const std::vector<float>& lengths) {
        const auto values = evaluate([&](ggml_context* ctx) {
            std::vector<ggml_tensor*> nodes;
            for (const Pair& pair : formula.pairs(ctx)) {
                nodes.push_back(turned(ctx, pair.up));
                nodes.push_back(pair.down);
            }
            return nodes;
        });
        if (values.size() == 2) {
            const int64_t rank = int64_t(values[0].size()) / formula.rows();
            for (int64_t r = 0; r < rank; r++) {
                add_rank(plan, change, formula, lengths, [&](int64_t row) { return values[0][r * formula.rows() + row]; },
                         [&](int64_t column) { return values[1][r * plan.columns + column]; });
            }
            return;
        }
        const int64_t first = int64_t(values[0].size()) / formula.rows(), second = int64_t(values[2].size()) / formula.rows();
        for (int64_t i = 0; i < first; i++) {
            for (int64_t j = 0; j < second; j++) {
                add_rank(plan, change, formula, lengths,
                         [&](int64_t row) { return values[0][i * formula.rows() + row] * values[2][j * formula.rows() + row]; },
                         [&](int64_t column) { return values[1][i * plan.columns + column] * values[3][j * plan.columns + column]; });
            }
        }
    }

    // Adds one rank: a column of `up` and a row of `down`, each divided by its greatest magnitude, so that half precision
    // can hold them.
    template <typename Up, typename Down>
    static void add_rank(WeightPlan& plan, const LoraChange& change, const Formula& formula, const std::vector<float>& lengths, Up up, Down down) {
        std::vector<float> column(plan.rows);
        for (auto& place : change.places) {
            for (int64_t i = 0; i < count(place, formula, plan); i++) {
                const int64_t row = place.weight_row + i;
                column[row] += up(place.module_row + i) * (lengths.empty() ? 1.f : lengths[row]);
            }
        }
        const size_t begin = plan.down.size();
        for (int64_t i = 0; i < plan.columns; i++) {
            plan.down.push_back(down(i));
        }
        const float scale = normalise(column.begin(), column.end()) * normalise(plan.down.begin() + begin, plan.down.end());
        plan.scales.push_back(scale * change.module->scale * change.strength);
        plan.ups.push_back(std::move(column));
    }

    template <typename Iterator>
    static float normalise(Iterator begin, Iterator end) {
        float most = 0;
        for (Iterator value = begin; value != end; ++value) {
            most = std::max(most, std::fabs(*value));
        }
        for (Iterator value = begin; value != end && most > 0; ++value) {
            *value /= most;
        }
        return most;
    }

    void add_kronecker(WeightPlan& plan, const LoraChange& change, const Formula& formula, const std::vector<float>& lengths) {
        int64_t columns[2] = {0, 0};
        const auto values  = evaluate([&](ggml_context* ctx) {
            const Pair pair = formula.kronecker(ctx);
            columns[0]      = pair.up->ne[0];
            columns[1]      = pair.down->ne[0];
            return std::vector<ggml_tensor*>{pair.up, pair.down};
        });
        for (auto& place : change.places) {
            std::vector<float> factors;
            if (!lengths.empty()) {
                factors.assign(lengths.begin() + place.weight_row, lengths.begin() + place.weight_row + formula.rows());
            }
            plan.kroneckers.push_back({values[0], values[1], factors, columns[0], columns[1], place.weight_row,
                                       change.module->scale * change.strength});
        }
    }

    static std::vector<float>& factors_of(WeightPlan& plan) {
        plan.factors.resize(plan.rows, 1.f);
        return plan.factors;
    }

    // DoRA's factors over all rows of the weight. Where the strength is not 1, the weight keeps a part without them.
    std::vector<float> row_factors(WeightPlan& plan, const LoraChange& change, const Formula& formula, ggml_tensor* source) {
        std::vector<float> all(plan.rows, 1.f);
        for (auto& place : change.places) {
            const int64_t rows = count(place, formula, plan);
            const auto values  = evaluate([&](ggml_context* ctx) {
                ggml_tensor* weight = ggml_reshape_2d(ctx, source, plan.columns, plan.rows);
                return std::vector<ggml_tensor*>{formula.row_factors(ctx, rows_of(ctx, weight, place.weight_row, rows), place.module_row)};
            });
            for (int64_t i = 0; i < rows; i++) {
                all[place.weight_row + i] = values[0][i];
                factors_of(plan)[place.weight_row + i] += change.strength * (values[0][i] - 1.f);
            }
        }
        return all;
    }

    void scale_rows(WeightPlan& plan, const LoraChange& change, const Formula& formula) {
        const auto values = evaluate([&](ggml_context* ctx) { return std::vector<ggml_tensor*>{formula.factors_of_rows(ctx)}; });
        for (auto& place : change.places) {
            for (int64_t i = 0; i < count(place, formula, plan); i++) {
                factors_of(plan)[place.weight_row + i] += change.strength * (values[0][place.module_row + i] - 1.f);
            }
        }
    }

    Merger& merger_;
};

}  // namespace sdcffi

#endif
