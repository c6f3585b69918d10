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

const std::string kLowNoiseName  = "lora.model.diffusion_model.";
const std::string kHighNoiseName = "lora.model.high_noise_diffusion_model.";

inline bool is_diffusion_lora_name(const std::string& name) {
    return is_diffusion_model_name(name) || starts_with(name, kHighNoiseName);
}

// A part of the engine: where its weights are computed with, and which tensors of a LoRA file are for it.
struct Part {
    ggml_backend_t backend;
    bool (*has)(const std::string& name);
};

inline std::string prefix_wanted(const sd_lora_t&) {
    return "";
}

#if __has_include("model_manager.h")

// The text encoder, the diffusion model and the autoencoder.
template <typename Engine>
std::vector<Part> parts_of(Engine& engine) {
    return {{engine.backend_for(SDBackendModule::TE), is_cond_stage_model_name},
            {engine.backend_for(SDBackendModule::DIFFUSION), is_diffusion_lora_name},
            {engine.backend_for(SDBackendModule::VAE), is_first_stage_model_name}};
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

inline ModelLoader& loader_of(LoraModel& lora) {
    return lora.model_manager->loader();
}

inline std::shared_ptr<LoraModel> open_lora(const std::string& path, ggml_backend_t backend, SDVersion version) {
    return std::make_shared<LoraModel>(path, backend, backend, path, "", version);
}

inline void fit_names(LoraModel& lora, const Weights& weights) {
    lora.preprocess_lora_tensors(LoraModel::tensor_names(weights));
}

template <typename Engine>
void add_to_weights(Engine& engine, LoraModel& lora, const Weights& weights) {
    lora.apply(weights, engine.version, engine.n_threads, false);
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

// PhotoMaker's own adapter is in a call's list too. It is for those tensors of its file that begin so.
inline std::string prefix_wanted(const ModelManager::LoraSpec& lora) {
    return lora.tensor_name_prefix_filter;
}

// Weights that the manager gives back after use are not there to be changed: then it merges the adapters itself, each
// time that it reads weights, and this returns true.
template <typename Engine, typename Requests>
bool merged_by_manager(Engine& engine, const Requests& wanted) {
    bool stay = engine.eager_load;
    for (auto module : {SDBackendModule::TE, SDBackendModule::DIFFUSION, SDBackendModule::VAE}) {
        stay = stay && !engine.backend_manager.params_backend_is_disk(module);
    }
    if (stay) {
        return false;
    }
    std::vector<ModelManager::LoraSpec> loras;
    for (auto& request : wanted) {
        loras.push_back({request.path, request.multiplier, request.is_high_noise, request.prefix, true});
    }
    engine.model_manager->set_loras({}, engine.version);  // releases what an interrupted call has merged
    engine.model_manager->set_loras(std::move(loras), engine.version);
    return true;
}

// Weights that are split over devices by rows cannot be changed at all.
template <typename Engine>
bool can_merge(Engine& engine) {
    return !engine.row_split_active();
}

#else

template <typename Engine>
std::vector<Part> parts_of(Engine& engine) {
    return {{engine.clip_backend, is_cond_stage_model_name},
            {engine.backend, is_diffusion_lora_name},
            {engine.vae_backend, is_first_stage_model_name}};
}

template <typename Engine>
Weights weights_of(Engine& engine) {
    Weights weights = engine.tensors;
    weights.erase("alphas_cumprod");  // the loader leaves this local tensor of its own in the list
    return weights;
}

inline ModelLoader& loader_of(LoraModel& lora) {
    return lora.model_loader;
}

inline std::shared_ptr<LoraModel> open_lora(const std::string& path, ggml_backend_t backend, SDVersion version) {
    return std::make_shared<LoraModel>(path, backend, path, "", version);
}

inline void fit_names(LoraModel& lora, const Weights& weights) {
    lora.preprocess_lora_tensors(weights);
}

template <typename Engine>
void add_to_weights(Engine& engine, LoraModel& lora, const Weights& weights) {
    lora.apply(weights, engine.version, engine.n_threads);
}

// Reads weights as the model's files have them.
class WeightReader : ModelLoader {
public:
    explicit WeightReader(const ModelLoader& loader) : ModelLoader(loader) {}

    bool read(const Weights& weights, int n_threads) {
        auto choose = [&](const TensorStorage& storage, ggml_tensor** target) {
            auto found = weights.find(storage.name);
            *target    = found != weights.end() ? found->second : nullptr;
            return true;
        };
        return load_tensors(choose, n_threads);
    }
};

template <typename Engine, typename Requests>
bool merged_by_manager(Engine&, const Requests&) {
    return false;
}

template <typename Engine>
bool can_merge(Engine&) {
    return true;
}

#endif

}  // namespace sdcffi

#endif
