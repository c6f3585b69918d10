// What lora_apply.hpp needs of the engine where its revisions differ. With 2026-05 the engine reads all weights into a
// list of its own when it loads; with 2026-08 a ModelManager has them, which may read them later and more than once.
#ifndef SDCFFI_ENGINE_ACCESS_HPP
#define SDCFFI_ENGINE_ACCESS_HPP

#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "name_conversion.h"
#include "stable-diffusion.h"

#if __has_include("model_manager.h")
#include "model/adapter/lora.hpp"
#include "model_loader.h"
#include "model_manager.h"
#else
#include "lora.hpp"
#include "model.h"
#endif

namespace sdcffi {

using Weights = std::map<std::string, ggml_tensor*>;

inline bool is_diffusion_weight(const std::string& name) {
    return starts_with(name, "model.diffusion_model.") || starts_with(name, "model.high_noise_diffusion_model.");
}

inline bool is_autoencoder_weight(const std::string& name) {
    return starts_with(name, "first_stage_model.");
}

inline bool is_text_weight(const std::string& name) {
    return !is_diffusion_weight(name) && !is_autoencoder_weight(name);
}

// A part of the engine: where its weights are computed with, and which are its weights.
struct Part {
    ggml_backend_t backend;
    bool (*has)(const std::string& name);
};

inline std::string prefix_wanted(const sd_lora_t&) {
    return "";
}

#if __has_include("model_manager.h")
#define SDCFFI_INT8_LAYERS

// The text encoder, the diffusion model and the autoencoder.
template <typename Engine>
std::vector<Part> parts_of(Engine& engine) {
    return {{engine.backend_for(SDBackendModule::TE), is_text_weight},
            {engine.backend_for(SDBackendModule::DIFFUSION), is_diffusion_weight},
            {engine.backend_for(SDBackendModule::VAE), is_autoencoder_weight}};
}

template <typename Engine>
Weights weights_of(Engine& engine) {
    Weights weights;
    auto add = [&](auto& part) {
        if (part) {
            part->get_param_tensors(weights);
        }
    };
    add(engine.cond_stage_model);
    add(engine.diffusion_model);
    add(engine.high_noise_diffusion_model);
    add(engine.first_stage_model);
    return weights;
}

// The manager reads what the parts ask for. What else the files have is told as 2026-05's loader tells it.
inline void tell_unused(const ModelManager& manager, const ModelLoader& loader, const std::set<std::string>& ignored) {
    const std::set<std::string> used = manager.tensor_names();
    for (const auto& [name, storage] : loader.get_tensor_storage_map()) {
        bool expected = used.count(name) > 0;
        for (const std::string& prefix : ignored) {
            expected = expected || starts_with(name, prefix);
        }
        if (!expected) {
            LOG_INFO("unknown tensor '%s' in model file", storage.to_string().c_str());
        }
    }
}

// Reads weights as the model's files have them. A loader that maps its files would read what was merged into the map.
class WeightReader : ModelLoader {
public:
    explicit WeightReader(const ModelLoader& loader) : ModelLoader(loader) {
        file_data.clear();
        model_files_processed = false;
    }

    bool read(const Weights& weights, int /*n_threads*/) {
        std::set<std::string> names;
        for (auto& [name, tensor] : weights) {
            names.insert(name);
        }
        auto choose = [&](const TensorStorage& storage, ggml_tensor** target) {
            *target = weights.at(storage.name);
            return true;
        };
        return load_tensors(choose, false, &names);
    }
};

inline bool read_tensors(ModelLoader& loader, const Weights& tensors, int n_threads) {
    loader.set_n_threads(n_threads);
    return WeightReader(loader).read(tensors, n_threads);
}

// PhotoMaker's own adapter is in a call's list too, for those tensors of its file that begin so.
inline std::string prefix_wanted(const ModelManager::LoraSpec& lora) {
    return lora.tensor_name_prefix_filter;
}

// They are in the list already.
template <typename Engine>
std::vector<std::string> photo_maker_loras(Engine&) {
    return {};
}

// Weights that are split over devices by rows cannot be changed, nor those that the manager gives back after use.
template <typename Engine>
bool can_merge(Engine& engine) {
    bool stay = engine.eager_load && !engine.row_split_active();
    for (auto module : {SDBackendModule::TE, SDBackendModule::DIFFUSION, SDBackendModule::VAE}) {
        stay = stay && !engine.backend_manager.params_backend_is_disk(module);
    }
    return stay;
}

#else

template <typename Engine>
std::vector<Part> parts_of(Engine& engine) {
    return {{engine.clip_backend, is_text_weight},
            {engine.backend, is_diffusion_weight},
            {engine.vae_backend, is_autoencoder_weight}};
}

template <typename Engine>
Weights weights_of(Engine& engine) {
    Weights weights = engine.tensors;
    weights.erase("alphas_cumprod");  // the loader leaves this local tensor of its own in the list
    return weights;
}

// Reads weights as the model's files have them.
class WeightReader : ModelLoader {
public:
    explicit WeightReader(const ModelLoader& loader) : ModelLoader(loader) {}

    // Whether there are weights that lie in mapped files.
    bool maps() const { return !mappings.empty(); }

    bool read(const Weights& weights, int n_threads) {
        auto choose = [&](const TensorStorage& storage, ggml_tensor** target) {
            auto found = weights.find(storage.name);
            *target    = found != weights.end() ? found->second : nullptr;
            return true;
        };
        return load_tensors(choose, n_threads);
    }
};

inline bool read_tensors(ModelLoader& loader, const Weights& tensors, int n_threads) {
    return WeightReader(loader).read(tensors, n_threads);
}

// PhotoMaker's own adapter, which the engine would merge by itself.
template <typename Engine>
std::vector<std::string> photo_maker_loras(Engine& engine) {
    if (!engine.use_pmid || engine.pmid_lora == nullptr) {
        return {};
    }
    engine.pmid_lora->applied = true;
    engine.pmid_lora->free_params_buffer();
    return {engine.pmid_lora->file_path};
}

template <typename Engine>
bool can_merge(Engine&) {
    return true;
}

#endif

}  // namespace sdcffi

#endif
