// What Python found out about a LoRA file, and the file's tensors.
#ifndef SDCFFI_LORA_PLAN_HPP
#define SDCFFI_LORA_PLAN_HPP

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine_access.hpp"
#include "guard/guard.h"
#include "host_math.hpp"

namespace sdcffi {

struct LoraPlace {
    std::string weight;
    int64_t weight_row, module_row, rows;
    bool transposed;

    bool operator==(const LoraPlace& other) const {
        return weight == other.weight && weight_row == other.weight_row && module_row == other.module_row &&
               rows == other.rows && transposed == other.transposed;
    }
};

struct LoraTensor {
    std::string name;
    int64_t rows = 0;

    bool operator==(const LoraTensor& other) const { return name == other.name && rows == other.rows; }
};

struct LoraModule {
    sdg_lora_kind kind;
    std::array<LoraTensor, SDG_ROLE_COUNT> tensors;
    float scale, strength, constraint, offset;
    bool on_input, inverted;
    int terms;
    std::vector<LoraPlace> places;

    explicit LoraModule(const sdg_lora_module& module)
        : kind(module.kind), scale(module.scale), strength(module.strength), constraint(module.constraint),
          offset(module.offset), on_input(module.on_input), inverted(module.inverted), terms(module.terms) {
        for (int role = 0; role < SDG_ROLE_COUNT; role++) {
            if (module.tensors[role].name != nullptr) {
                tensors[role] = {module.tensors[role].name, module.tensors[role].rows};
            }
        }
        for (size_t i = 0; i < module.place_count; i++) {
            const sdg_lora_place& place = module.places[i];
            places.push_back({place.weight, place.weight_row, place.module_row, place.rows, place.transposed});
        }
    }

    bool has(sdg_lora_role role) const { return !tensors[role].name.empty(); }

    bool operator==(const LoraModule& other) const {
        return kind == other.kind && tensors == other.tensors && scale == other.scale && strength == other.strength &&
               constraint == other.constraint && offset == other.offset && on_input == other.on_input &&
               inverted == other.inverted && terms == other.terms && places == other.places;
    }
};

using LoraPlan = std::vector<LoraModule>;

// A pair of matrices whose product is added to a weight.
inline LoraModule plain_module(const std::string& weight, const LoraTensor& up, const LoraTensor& down) {
    sdg_lora_module module{};
    module.scale    = 1.f;
    module.strength = 1.f;
    LoraModule plain(module);
    plain.tensors[SDG_ROLE_UP]   = up;
    plain.tensors[SDG_ROLE_DOWN] = down;
    plain.places                 = {{weight, 0, 0, 0, false}};
    return plain;
}

inline LoraPlan as_plan(const sdg_lora_plan& plan) {
    return LoraPlan(plan.modules, plan.modules + plan.module_count);
}

// Outermost first, as in numpy.
inline std::string shape_of(const ggml_tensor* tensor) {
    std::string text = "(";
    for (int i = ggml_n_dims(tensor) - 1; i >= 0; i--) {
        text += std::to_string(tensor->ne[i]) + (i > 0 ? ", " : ")");
    }
    return text;
}

// The tensors of a file, by the file's own names, in the memory of the process. Types that are not for computing with
// become F32.
class LoraFile {
public:
    // `wanted` are the names to read, as `open` opens the file.
    template <typename Open>
    LoraFile(const std::string& path, const std::set<std::string>& wanted, int threads, Open open) : tensors_(wanted.size()) {
        LOG_INFO("loading LoRA from '%s'", path.c_str());
        ModelLoader loader;
        if (!open(loader)) {
            throw std::runtime_error("LoRA " + path + " cannot be read");
        }
        for (auto& [name, storage] : loader.get_tensor_storage_map()) {
            if (wanted.count(name) != 0) {
                const bool usual     = storage.type == GGML_TYPE_F16 || storage.type == GGML_TYPE_BF16;
                const int dimensions = std::max(storage.n_dims, 1);  // PyTorch has numbers without a shape
                by_name_[name]       = ggml_new_tensor(tensors_.context(), usual ? storage.type : GGML_TYPE_F32, dimensions, storage.ne);
            }
        }
        tensors_.allocate(ggml_backend_dev_buffer_type(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)));
        if (!by_name_.empty() && !read_tensors(loader, by_name_, threads)) {
            throw std::runtime_error("LoRA " + path + " cannot be read");
        }
        LOG_DEBUG("finished loaded lora");
    }

    // Returns the tensor as a matrix of f32, a node of a graph; nullptr if the module or the file has none.
    ggml_tensor* matrix(ggml_context* ctx, const LoraModule& module, sdg_lora_role role) const {
        const LoraTensor& wanted = module.tensors[role];
        auto found               = by_name_.find(wanted.name);
        if (found == by_name_.end()) {
            return nullptr;
        }
        const int64_t elements = ggml_nelements(found->second), rows = wanted.rows > 0 ? wanted.rows : elements;
        return ggml_reshape_2d(ctx, as_f32(ctx, found->second), elements / rows, rows);
    }

    const ggml_tensor* find(const std::string& name) const {
        auto found = by_name_.find(name);
        return found != by_name_.end() ? found->second : nullptr;
    }

    size_t bytes() const { return tensors_.bytes(); }

    // Returns what `make` returns, [size, size, count, stages], as a tensor that stays with the file.
    template <typename Make>
    ggml_tensor* derived(const std::string& name, const std::array<int64_t, 4>& shape, Make make) const {
        Derived& entry = derived_[name];
        if (entry.tensor == nullptr) {
            entry.memory = std::make_unique<Tensors>(1);
            entry.tensor = ggml_new_tensor(entry.memory->context(), GGML_TYPE_F32, 4, shape.data());
            entry.memory->allocate(ggml_backend_dev_buffer_type(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)));
            const std::vector<float> values = make();
            std::copy(values.begin(), values.end(), static_cast<float*>(entry.tensor->data));
        }
        return entry.tensor;
    }

private:
    struct Derived {
        std::unique_ptr<Tensors> memory;
        ggml_tensor* tensor = nullptr;
    };

    Tensors tensors_;
    Weights by_name_;
    mutable std::map<std::string, Derived> derived_;
};

}  // namespace sdcffi

#endif
