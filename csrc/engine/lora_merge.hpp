// Weights with the changes of LoRAs in them, computed in f32 on the CPU, whatever type and device they have.
#ifndef SDCFFI_LORA_MERGE_HPP
#define SDCFFI_LORA_MERGE_HPP

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "host_math.hpp"
#include "lora_formulas.hpp"

namespace sdcffi {

// What one module does to one weight.
struct LoraChange {
    std::shared_ptr<const LoraFile> file;
    std::shared_ptr<const LoraPlan> plan;  // has the module
    const LoraModule* module;
    std::vector<LoraPlace> places;  // all are in this weight
    float strength;                 // with the multiplier of the LoRA
};

// In the order in which they are applied.
using LoraChanges = std::map<std::string, std::vector<LoraChange>>;

// A weight as the module sees it: its columns; its rows are what remains. The engine keeps the kernels of
// three-dimensional convolutions of all inputs and outputs in one dimension, so only the module knows.
inline int64_t columns_of(const ggml_tensor* weight, const Formula& formula, const LoraPlace& place) {
    const int64_t elements = ggml_nelements(weight), rows = weight->ne[ggml_n_dims(weight) - 1];
    if (place.transposed) {
        return weight->ne[0];
    }
    return formula.columns() > 0 ? formula.columns() : elements / rows;
}

// The same for what is a vector over inputs or outputs, or turns them.
inline std::string misfit_along(const LoraFile& file, const LoraModule& module, const Formula& formula, int64_t columns, int64_t rows, int64_t used) {
    const bool has_rows = formula.rows() > 0;
    auto wrong          = [&](sdg_lora_role role, bool on_input) -> std::string {
        const ggml_tensor* tensor = module.has(role) ? file.find(module.tensors[role].name) : nullptr;
        const int64_t count       = tensor != nullptr ? ggml_nelements(tensor) : 0;
        const bool fits = tensor == nullptr || (on_input ? columns % count == 0 : count == (has_rows ? formula.rows() : rows));
        return fits ? "" : "has " + std::to_string(count) + " factors for " + std::to_string(on_input ? columns : rows) + (on_input ? " columns" : " rows");
    };
    std::string reason = wrong(SDG_ROLE_MAGNITUDE, module.on_input);
    reason             = reason.empty() ? wrong(SDG_ROLE_VECTOR, module.on_input) : reason;
    reason             = reason.empty() ? wrong(SDG_ROLE_RESCALE, false) : reason;
    if (module.kind == SDG_KIND_OFT && reason.empty()) {
        reason = used != rows ? "turns all outputs, but is for a part of them"
                              : blocks_misfit(file.find(module.tensors[SDG_ROLE_BLOCKS].name), module, module.on_input ? columns : rows);
    }
    if (module.kind == SDG_KIND_GLORA && reason.empty()) {
        const ggml_tensor* inputs = file.find(module.tensors[SDG_ROLE_A1].name);
        const int64_t from        = module.tensors[SDG_ROLE_A1].rows;
        if (from < 1 || columns % from != 0 || ggml_nelements(inputs) % from != 0 ||
            ggml_nelements(file.find(module.tensors[SDG_ROLE_A2].name)) / module.tensors[SDG_ROLE_A2].rows != from) {
            reason = "a1 " + shape_of(inputs) + " does not fit " + std::to_string(columns) + " columns";
        }
    }
    return reason;
}

// Returns why a module cannot change a weight; "" if it can.
inline std::string misfit(const ggml_tensor* weight, const LoraFile& file, const Formula& formula, const LoraModule& module, const LoraPlace& place) {
    if (!formula.problem().empty()) {
        return formula.problem();
    }
    const int64_t elements = ggml_nelements(weight), columns = columns_of(weight, formula, place);
    const int64_t inputs = place.transposed ? elements / columns : columns;
    if (formula.columns() > 0 && (elements % columns != 0 || inputs != formula.columns())) {
        return "makes a difference of " + std::to_string(formula.rows()) + " rows and " + std::to_string(formula.columns()) +
               " columns, the weight has shape " + shape_of(weight);
    }
    const int64_t rows = place.transposed ? columns : elements / columns;
    const int64_t has  = formula.rows() > 0 ? formula.rows() : rows;
    const int64_t used = place.rows > 0 ? place.rows : has;
    if (place.module_row + used > has || place.weight_row + used > rows || (place.rows == 0 && has != rows)) {
        return "has " + std::to_string(has) + " rows, the weight of shape " + shape_of(weight) + " needs " +
               std::to_string(place.rows > 0 ? place.module_row + used : rows);
    }
    return misfit_along(file, module, formula, inputs, rows, used);
}

// Memory for tensors that are used one after another.
class Scratch {
public:
    explicit Scratch(ggml_backend_buffer_type_t type) : type_(type) {}

    ggml_tensor* tensor(ggml_type type, int64_t elements) {
        context_            = new_context(1);
        ggml_tensor* tensor = ggml_new_tensor_1d(context_.get(), type, elements);
        const size_t size   = ggml_backend_buft_get_alloc_size(type_, tensor);
        if (buffer_ == nullptr || ggml_backend_buffer_get_size(buffer_.get()) < size) {
            buffer_.reset();
            buffer_.reset(ggml_backend_buft_alloc_buffer(type_, size));
            if (buffer_ == nullptr) {
                throw std::bad_alloc();
            }
        }
        ggml_backend_tensor_alloc(buffer_.get(), tensor, ggml_backend_buffer_get_base(buffer_.get()));
        return tensor;
    }

private:
    ggml_backend_buffer_type_t type_;
    Context context_;
    Buffer buffer_;
};

class Merger {
public:
    explicit Merger(int threads) : math_(threads), sum_(math_.buffer_type()), base_(math_.buffer_type()), copy_(math_.buffer_type()) {}

    HostMath& math() { return math_; }

    // Returns the weight in f32, to stay until the next call.
    ggml_tensor* read(ggml_tensor* weight) {
        ggml_tensor* sum = sum_.tensor(GGML_TYPE_F32, ggml_nelements(weight));
        HostGraph graph(16);
        graph.ask(ggml_cpy(graph.context(), by_rows(graph.context(), on_host(weight), weight), by_rows(graph.context(), sum, weight)));
        math_.compute(graph);
        return sum;
    }

    // Returns the weight in f32 with the changes, to stay until the next call. Each is a change of the weight as it was.
    ggml_tensor* change(ggml_tensor* weight, const std::vector<LoraChange>& changes) {
        ggml_tensor* sum  = read(weight);
        ggml_tensor* base = changes.size() > 1 ? copy_of(sum) : sum;
        for (auto& change : changes) {
            const Formula formula(*change.file, *change.module);
            HostGraph graph(1024);
            ggml_context* ctx = graph.context();
            for (auto& place : change.places) {
                const int64_t columns = columns_of(weight, formula, place);
                ggml_tensor* matrix   = ggml_reshape_2d(ctx, sum, columns, ggml_nelements(sum) / columns);
                ggml_tensor* old      = ggml_reshape_2d(ctx, base, columns, ggml_nelements(base) / columns);
                const int64_t rows    = place.rows > 0 ? place.rows : (formula.rows() > 0 ? formula.rows() : place.transposed ? columns : matrix->ne[1]);
                ggml_tensor* before = rows_of(ctx, place.transposed ? turned(ctx, old) : old, place.weight_row, rows);
                ggml_tensor* after  = formula.changed(ctx, before, place.module_row, change.strength);
                ggml_tensor* target = place.transposed ? ggml_view_2d(ctx, matrix, rows, matrix->ne[1], matrix->nb[1], place.weight_row * matrix->nb[0])
                                                       : rows_of(ctx, matrix, place.weight_row, rows);
                if (base != sum) {
                    after = ggml_sub(ctx, after, before);
                    after = ggml_add(ctx, place.transposed ? turned(ctx, target) : target, after);
                }
                graph.ask(ggml_cpy(ctx, place.transposed ? turned(ctx, after) : after, target));
            }
            math_.compute(graph);
        }
        return sum;
    }

    // Writes values of f32 into a weight, rounded to its type.
    void write(ggml_tensor* values, ggml_tensor* weight) {
        ggml_tensor* host = is_host(weight) ? weight : copy_.tensor(weight->type, ggml_nelements(weight));
        HostGraph graph(16);
        graph.ask(ggml_cpy(graph.context(), by_rows(graph.context(), values, weight), by_rows(graph.context(), host, weight)));
        math_.compute(graph);
        if (!is_host(weight)) {
            ggml_backend_tensor_set(weight, host->data, 0, ggml_nbytes(weight));
        }
    }

private:
    static bool is_host(const ggml_tensor* tensor) {
        ggml_backend_buffer_t buffer = tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
        return buffer == nullptr || ggml_backend_buffer_is_host(buffer);
    }

    // A tensor with as many elements as `weight`, as a matrix: several threads share its rows.
    static ggml_tensor* by_rows(ggml_context* ctx, ggml_tensor* tensor, const ggml_tensor* weight) {
        const int64_t rows = weight->ne[std::max(ggml_n_dims(weight), 2) - 1];
        return ggml_reshape_2d(ctx, tensor, ggml_nelements(weight) / rows, rows);
    }

    ggml_tensor* copy_of(const ggml_tensor* sum) {
        ggml_tensor* copy = base_.tensor(GGML_TYPE_F32, ggml_nelements(sum));
        std::memcpy(copy->data, sum->data, ggml_nbytes(sum));
        return copy;
    }

    ggml_tensor* on_host(ggml_tensor* weight) {
        if (is_host(weight)) {
            return weight;
        }
        ggml_tensor* copy = copy_.tensor(weight->type, ggml_nelements(weight));
        ggml_backend_tensor_get(weight, copy->data, 0, ggml_nbytes(weight));
        return copy;
    }

    HostMath math_;
    Scratch sum_, base_, copy_;
};

}  // namespace sdcffi

#endif
