// Weights with the changes of LoRAs in them, computed in f32 on the CPU, whatever type and device they have.
#ifndef SDCFFI_LORA_MERGE_HPP
#define SDCFFI_LORA_MERGE_HPP

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "host_math.hpp"
#include "lora_formulas.hpp"
#include "row_sums.hpp"
#include "threads.hpp"

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

// The rows of a module that has no shape of its own: those that it has places for.
inline int64_t rows_of_places(const LoraModule& module, int64_t all) {
    int64_t rows = 0;
    for (auto& place : module.places) {
        rows = std::max(rows, place.rows > 0 ? place.module_row + place.rows : all);
    }
    return rows;
}

// The same for what is a vector over inputs or outputs, or turns them.
inline std::string misfit_along(const LoraFile& file, const LoraModule& module, int64_t columns, int64_t rows, int64_t used) {
    auto wrong = [&](sdg_lora_role role, bool on_input) -> std::string {
        const ggml_tensor* tensor = module.has(role) ? file.find(module.tensors[role].name) : nullptr;
        const int64_t count       = tensor != nullptr ? ggml_nelements(tensor) : 0;
        const bool fits = tensor == nullptr || (on_input ? columns % count == 0 : count == rows);
        return fits ? "" : "has " + std::to_string(count) + " factors for " + std::to_string(on_input ? columns : rows) + (on_input ? " columns" : " rows");
    };
    std::string reason = wrong(SDG_ROLE_MAGNITUDE, module.on_input);
    reason             = reason.empty() ? wrong(SDG_ROLE_VECTOR, module.on_input) : reason;
    reason             = reason.empty() ? wrong(SDG_ROLE_RESCALE, false) : reason;
    if (module.kind == SDG_KIND_OFT && reason.empty()) {
        reason = used != rows && !module.on_input ? "turns all of its outputs together, but they are not together in the weight"
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
    const int64_t has  = formula.rows() > 0 ? formula.rows() : rows_of_places(module, rows);
    const int64_t used = place.rows > 0 ? place.rows : has;
    if (place.module_row + used > has || place.weight_row + used > rows || (place.rows == 0 && has != rows)) {
        return "has " + std::to_string(has) + " rows, the weight of shape " + shape_of(weight) + " needs " +
               std::to_string(place.rows > 0 ? place.module_row + used : rows);
    }
    return misfit_along(file, module, inputs, has, used);
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

// Does `work(i)` for all i below `count`, on several threads.
template <typename Work>
void in_parallel(int threads, int64_t count, Work work) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
    auto some = [&] {
        for (int64_t i = next++; i < count && !stop; i = next++) {
            work(i);
        }
    };
    Threads others([&] { stop = true; });
    for (int i = 1; i < threads && i < count; i++) {
        others.emplace_back(some);
    }
    some();
    others.join();
}

// Values of a weight from element `first` on, which begins a row of its type.
inline void read_values(const ggml_tensor* weight, int64_t first, int64_t count, float* values) {
    const char* from = static_cast<const char*>(weight->data) + ggml_row_size(weight->type, first);
    if (weight->type == GGML_TYPE_F32) {
        std::memcpy(values, from, count * sizeof(float));
    } else if (weight->type == GGML_TYPE_F16) {
        from_half(reinterpret_cast<const uint16_t*>(from), values, count);
    } else {
        ggml_get_type_traits(weight->type)->to_float(from, values, count);
    }
}

inline void write_values(const float* values, ggml_tensor* weight, int64_t first, int64_t count) {
    char* to = static_cast<char*>(weight->data) + ggml_row_size(weight->type, first);
    if (weight->type == GGML_TYPE_F32) {
        std::memcpy(to, values, count * sizeof(float));
    } else if (weight->type == GGML_TYPE_F16) {
        to_half(values, reinterpret_cast<uint16_t*>(to), count);
    } else if (weight->type == GGML_TYPE_BF16) {
        ggml_fp32_to_bf16_row(values, reinterpret_cast<ggml_bf16_t*>(to), count);
    } else {
        ggml_quantize_chunk(weight->type, values, to, 0, count / weight->ne[0], weight->ne[0], nullptr);
    }
}

// Whether values can be rounded to a type.
inline bool can_write(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 ||
           (ggml_is_quantized(type) && ggml_get_type_traits(type)->from_float_ref != nullptr);
}

inline bool is_host(const ggml_tensor* tensor) {
    ggml_backend_buffer_t buffer = tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
    return buffer == nullptr || ggml_backend_buffer_is_host(buffer);
}

class Merger {
public:
    explicit Merger(int threads)
        : threads_(threads), math_(threads), sum_(math_.buffer_type()), base_(math_.buffer_type()), copy_(math_.buffer_type()) {}

    HostMath& math() { return math_; }

    // Returns the weight in f32, to stay until the next call.
    ggml_tensor* read(ggml_tensor* weight) {
        ggml_tensor* sum  = sum_.tensor(GGML_TYPE_F32, ggml_nelements(weight));
        ggml_tensor* host = on_host(weight);
        by_pieces(weight, [&](int64_t first, int64_t count) { read_values(host, first, count, data(sum) + first); });
        return sum;
    }

    // Adds the changes to a weight.
    void merge(ggml_tensor* weight, const std::vector<LoraChange>& changes) {
        if (is_host(weight) && std::all_of(changes.begin(), changes.end(), is_plain)) {
            add_products(weight, changes);
        } else {
            write(change(weight, changes), weight);
        }
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
        ggml_tensor* host = weight;
        if (!is_host(weight)) {
            host        = copy_.tensor(weight->type, ggml_nelements(weight));
            host->ne[0] = weight->ne[0];  // the length of a row, which its type may need
            host->ne[1] = ggml_nelements(weight) / weight->ne[0];
        }
        by_pieces(weight, [&](int64_t first, int64_t count) { write_values(data(values) + first, host, first, count); });
        if (host != weight) {
            ggml_backend_tensor_set(weight, host->data, 0, ggml_nbytes(weight));
        }
    }

private:
    static float* data(ggml_tensor* tensor) { return static_cast<float*>(tensor->data); }

    // Calls `work(first, count)` for pieces of a weight that are whole rows.
    template <typename Work>
    void by_pieces(const ggml_tensor* weight, Work work) {
        const int64_t elements = ggml_nelements(weight), rows = std::max<int64_t>(1, (1 << 16) / weight->ne[0]);
        const int64_t piece    = rows * weight->ne[0];
        in_parallel(threads_, (elements + piece - 1) / piece, [&](int64_t i) { work(i * piece, std::min(piece, elements - i * piece)); });
    }

    static bool is_plain(const LoraChange& change) {
        const LoraModule& module = *change.module;
        return module.kind == SDG_KIND_LORA && !module.has(SDG_ROLE_MID) && !module.has(SDG_ROLE_MAGNITUDE) &&
               std::none_of(change.places.begin(), change.places.end(), [](const LoraPlace& place) { return place.transposed; });
    }

    // The most usual changes, products of two matrices, without a copy of the weight: row by row.
    static constexpr int64_t kRows = 16;

    struct Product {
        std::vector<float> up, down;  // with the scale in up
        int64_t rank, first, begin, end;  // rows from `begin` on are those of up from `first` on
    };

    void add_products(ggml_tensor* weight, const std::vector<LoraChange>& changes) {
        std::vector<Product> products;
        int64_t columns = 0;
        for (auto& change : changes) {
            const Formula formula(*change.file, *change.module);
            auto values = [&](sdg_lora_role role) { return values_of(change.file->find(change.module->tensors[role].name)); };
            columns     = formula.columns();
            Product product{values(SDG_ROLE_UP), values(SDG_ROLE_DOWN), 0, 0, 0, 0};
            product.rank = int64_t(product.up.size()) / formula.rows();
            for (float& value : product.up) {
                value *= change.module->scale * change.strength;
            }
            for (auto& place : change.places) {
                product.first = place.module_row;
                product.begin = place.weight_row;
                product.end   = place.weight_row + (place.rows > 0 ? place.rows : formula.rows());
                products.push_back(product);
            }
        }
        const int64_t rows = ggml_nelements(weight) / columns;
        in_parallel(threads_, (rows + kRows - 1) / kRows, [&](int64_t piece) {
            std::vector<float> row(columns);
            for (int64_t i = piece * kRows; i < std::min(rows, (piece + 1) * kRows); i++) {
                bool read = false;
                for (auto& product : products) {
                    if (i < product.begin || i >= product.end) {
                        continue;
                    }
                    if (!read) {
                        read_values(weight, i * columns, columns, row.data());
                        read = true;
                    }
                    const float* factors = product.up.data() + (product.first + i - product.begin) * product.rank;
                    add_rows(row.data(), factors, product.down.data(), product.rank, columns);
                }
                if (read) {
                    write_values(row.data(), weight, i * columns, columns);
                }
            }
        });
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

    int threads_;
    HostMath math_;
    Scratch sum_, base_, copy_;
};

}  // namespace sdcffi

#endif
