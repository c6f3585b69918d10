// LoRA as sdcffi applies it, in place of upstream's apply_loras: each file is read once, merged weights are restored
// exactly, and every tensor of a file is counted. The patched stable-diffusion.cpp includes this file; its class is the
// template argument Engine.
//
// at_runtime:  each file has three LoraModels (text encoder, diffusion model, autoencoder), attached as weight adapters
// immediately: each file has one LoraModel, merged into the weights. Before another set is merged, the touched weights
//              are read again from the model's files, so that rounding errors do not add up.
#ifndef SDCFFI_LORA_APPLY_HPP
#define SDCFFI_LORA_APPLY_HPP

#include <cstring>
#include <filesystem>
#include <list>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "guard/guard.h"
#include "interrupts.hpp"
#include "lora.hpp"
#include "lora_fit.hpp"
#include "model.h"
#include "name_conversion.h"

namespace sdcffi {

// A LoRA file that was read: one LoraModel, or one for each part of the engine, and what it does to the weights.
struct Adapter {
    std::vector<std::shared_ptr<LoraModel>> models;
    LoraReport report;
};

// The adapters that were read, the most recently used first. Together they have at most `limit` bytes.
class LoraCache {
public:
    std::shared_ptr<Adapter> find(const std::string& key) {
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
            if (entry->key == key) {
                entries_.splice(entries_.begin(), entries_, entry);
                return entries_.front().adapter;
            }
        }
        return nullptr;
    }

    void keep(const std::string& key, std::shared_ptr<Adapter> adapter) {
        size_t bytes = 0;
        for (auto& model : adapter->models) {
            bytes += model->get_params_buffer_size();
        }
        entries_.push_front({key, std::move(adapter), bytes});
        size_t sum = 0;
        for (auto entry = entries_.begin(); entry != entries_.end();) {
            sum += entry->bytes;
            // The newest always stays: it is about to be used.
            entry = sum > limit && entry != entries_.begin() ? entries_.erase(entry) : std::next(entry);
        }
    }

    size_t limit = size_t(1) << 30;

private:
    struct Entry {
        std::string key;
        std::shared_ptr<Adapter> adapter;
        size_t bytes;
    };
    std::list<Entry> entries_;
};

// One LoRA of a call. The key changes when the file does.
struct LoraRequest {
    std::string path;
    float multiplier;
    bool is_high_noise;
    std::string key;

    explicit LoraRequest(const sd_lora_t& lora) : path(lora.path), multiplier(lora.multiplier), is_high_noise(lora.is_high_noise) {
        const auto file = std::filesystem::u8path(path);
        std::error_code error;
        const auto size = std::filesystem::file_size(file, error);
        const auto time = std::filesystem::last_write_time(file, error).time_since_epoch().count();
        key = path + "|" + std::to_string(size) + "|" + std::to_string(time) + (is_high_noise ? "|high" : "");
    }

    bool operator==(const LoraRequest& other) const { return key == other.key && multiplier == other.multiplier; }
};

// The adapters of a context.
struct LoraState {
    LoraCache cache;
    std::unique_ptr<ModelLoader> weights;  // reads the model's own files again
    std::vector<LoraRequest> merged;
    std::set<std::string> touched;  // weights that differ from the model's files
    bool changing = false;          // weights are being changed, or were when a call was interrupted
    std::vector<LoraReport> reports;
    std::list<LoraReport> checked;
    // What sdg_check_loras and sdg_lora_reports return; the next call of either replaces it.
    std::vector<sdg_lora_report> rows;
    std::list<std::vector<const char*>> texts;
};

inline std::vector<LoraRequest> lora_requests(const sd_lora_t* loras, uint32_t count) {
    return std::vector<LoraRequest>(loras, loras + count);
}

const std::string kLowNoiseName  = "lora.model.diffusion_model.";
const std::string kHighNoiseName = "lora.model.high_noise_diffusion_model.";

inline bool is_diffusion_lora_name(const std::string& name) {
    return is_diffusion_model_name(name) || starts_with(name, kHighNoiseName);
}

// Upstream instead puts the high-noise model's prefix before the names in the file, and then knows only one kind.
inline void name_for_high_noise(String2TensorStorage& storages) {
    String2TensorStorage renamed;
    for (auto& [name, storage] : storages) {
        if (starts_with(name, kLowNoiseName)) {
            storage.name = kHighNoiseName + name.substr(kLowNoiseName.size());
        }
        renamed[storage.name] = storage;
    }
    storages.swap(renamed);
}

template <typename Engine>
std::shared_ptr<LoraModel> read_part(Engine& engine, const LoraRequest& request, ggml_backend_t backend, LoraModel::filter_t filter) {
    auto lora = std::make_shared<LoraModel>(request.path, backend, request.path, "", engine.version);
    if (request.is_high_noise) {
        name_for_high_noise(lora->model_loader.get_tensor_storage_map());
    }
    if (lora->load_failed || !lora->load_from_file(engine.n_threads, filter)) {
        throw std::runtime_error("LoRA " + request.path + " cannot be read");
    }
    lora->preprocess_lora_tensors(engine.tensors);
    return lora;
}

// Reports what the tensors that were read would do. No weight changes.
template <typename Engine>
LoraReport examine(Engine& engine, const Adapter& adapter) {
    LoraReport report;
    const auto& storages = adapter.models.front()->model_loader.get_tensor_storage_map();
    report.total         = storages.size();
    report.immediately   = engine.apply_lora_immediately;
    size_t loaded        = 0;
    for (auto& model : adapter.models) {
        for (auto& [name, tensor] : engine.tensors) {
            if (name != "alphas_cumprod") {  // the loader leaves this local tensor of its own in the list
                Fit(*model, name, tensor).examine(report);
            }
        }
        for (auto& [name, tensor] : model->lora_tensors) {
            loaded++;
            if (report.applied.count(name) == 0) {
                report.skipped.insert(name);
            }
        }
    }
    if (loaded < report.total) {
        for (auto& [name, storage] : storages) {  // those that no part of a model has a name for
            if (!is_cond_stage_model_name(name) && !is_diffusion_lora_name(name) && !is_first_stage_model_name(name)) {
                report.skipped.insert(name);
            }
        }
    }
    return report;
}

// Returns the file's adapter for this engine's mode, from the cache if it has it.
template <typename Engine>
std::shared_ptr<Adapter> read(Engine& engine, const LoraRequest& request) {
    LoraCache& cache = engine.sdcffi_loras.cache;
    auto adapter     = cache.find(request.key);
    if (adapter == nullptr) {
        const int64_t start = ggml_time_us();
        adapter             = std::make_shared<Adapter>();
        if (engine.apply_lora_immediately) {
            adapter->models.push_back(read_part(engine, request, engine.backend, nullptr));
        } else {
            adapter->models.push_back(read_part(engine, request, engine.clip_backend, is_cond_stage_model_name));
            adapter->models.push_back(read_part(engine, request, engine.backend, is_diffusion_lora_name));
            adapter->models.push_back(read_part(engine, request, engine.vae_backend, is_first_stage_model_name));
        }
        adapter->report         = examine(engine, *adapter);
        adapter->report.seconds = (ggml_time_us() - start) / 1e6;
        cache.keep(request.key, adapter);
    }
    adapter->report.path          = request.path;
    adapter->report.multiplier    = request.multiplier;
    adapter->report.is_high_noise = request.is_high_noise;
    for (auto& model : adapter->models) {
        model->multiplier = request.multiplier;
        model->applied_lora_tensors.clear();
    }
    return adapter;
}

// Reads the touched weights again from the model's files.
template <typename Engine>
void restore(Engine& engine) {
    LoraState& state = engine.sdcffi_loras;
    if (state.touched.empty()) {
        return;
    }
    auto choose = [&](const TensorStorage& storage, ggml_tensor** target) {
        if (state.touched.count(storage.name) != 0) {
            *target = engine.tensors.at(storage.name);
        }
        return true;
    };
    if (!state.weights->load_tensors(choose, engine.n_threads)) {
        throw std::runtime_error("the model's files can no longer be read to take a LoRA out of its weights");
    }
    state.touched.clear();
}

template <typename Engine>
void merge(Engine& engine, const std::vector<LoraRequest>& wanted) {
    LoraState& state = engine.sdcffi_loras;
    if (wanted == state.merged && !state.changing) {
        return;
    }
    state.changing = true;
    restore(engine);
    state.merged.clear();
    state.reports.clear();
    for (auto& request : wanted) {
        auto adapter        = read(engine, request);
        const int64_t start = ggml_time_us();
        LoraReport report   = adapter->report;
        if (!report.touched.empty()) {
            state.touched.insert(report.touched.begin(), report.touched.end());
            adapter->models.front()->apply(engine.tensors, engine.version, engine.n_threads);
        }
        report.seconds += (ggml_time_us() - start) / 1e6;
        state.reports.push_back(report);
    }
    state.merged   = wanted;
    state.changing = false;
}

template <typename Part>
void attach(const std::shared_ptr<Part>& part, const std::vector<std::shared_ptr<LoraModel>>& models) {
    if (part) {
        // Even an empty adapter would take every layer off its fast path.
        part->set_weight_adapter(models.empty() ? nullptr : std::make_shared<MultiLoraAdapter>(models));
    }
}

template <typename Engine>
void attach_all(Engine& engine, const std::vector<LoraRequest>& wanted) {
    engine.cond_stage_lora_models.clear();
    engine.diffusion_lora_models.clear();
    engine.first_stage_lora_models.clear();
    engine.sdcffi_loras.reports.clear();
    for (auto& request : wanted) {
        auto adapter        = read(engine, request);
        const int64_t start = ggml_time_us();
        LoraReport report   = adapter->report;
        std::vector<std::shared_ptr<LoraModel>>* parts[] = {
            &engine.cond_stage_lora_models, &engine.diffusion_lora_models, &engine.first_stage_lora_models};
        for (size_t i = 0; i < adapter->models.size(); i++) {
            if (!adapter->models[i]->lora_tensors.empty()) {
                parts[i]->push_back(adapter->models[i]);
            }
        }
        report.seconds += (ggml_time_us() - start) / 1e6;
        engine.sdcffi_loras.reports.push_back(report);
    }
    attach(engine.cond_stage_model, engine.cond_stage_lora_models);
    attach(engine.diffusion_model, engine.diffusion_lora_models);
    attach(engine.high_noise_diffusion_model, engine.diffusion_lora_models);
    attach(engine.first_stage_model, engine.first_stage_lora_models);
}

// The engine calls this once, when the weights are loaded.
template <typename Engine>
void weights_loaded(Engine& engine, const ModelLoader& loader, lora_apply_mode_t mode) {
    engine.sdcffi_loras.weights = std::make_unique<ModelLoader>(loader);
    if (mode == LORA_APPLY_AUTO) {
        engine.apply_lora_immediately = true;
        for (auto& [name, tensor] : engine.tensors) {
            if (ggml_is_quantized(tensor->type)) {
                engine.apply_lora_immediately = false;
            }
        }
    }
}

template <typename Engine>
void apply_loras(Engine& engine, const sd_lora_t* loras, uint32_t count) {
    if (engine.apply_lora_immediately) {
        merge(engine, lora_requests(loras, count));
    } else {
        attach_all(engine, lora_requests(loras, count));
    }
}

// Returns "...encoder.layers.11." for a text encoder's tensor, "" for others.
inline std::string text_layer(const std::string& name) {
    const size_t layers = is_cond_stage_model_name(name) ? name.find("layers.") : std::string::npos;
    const size_t end    = layers != std::string::npos ? name.find('.', layers + strlen("layers.")) : std::string::npos;
    return end != std::string::npos ? name.substr(0, end + 1) : "";
}

// The engine calls this after a generation: in at_runtime mode only the finished graphs show which tensors were used.
// Models do not run the last layers of their text encoders; tensors for such a layer still count as applied.
template <typename Engine>
void count_applied(Engine& engine) {
    if (engine.apply_lora_immediately) {
        return;
    }
    for (auto& report : engine.sdcffi_loras.reports) {
        std::set<std::string> applied;
        for (auto* part : {&engine.cond_stage_lora_models, &engine.diffusion_lora_models, &engine.first_stage_lora_models}) {
            for (auto& model : *part) {
                if (model->file_path == report.path) {
                    applied.insert(model->applied_lora_tensors.begin(), model->applied_lora_tensors.end());
                }
            }
        }
        std::set<std::string> running;
        for (auto& name : applied) {
            running.insert(text_layer(name));
        }
        for (auto name = report.applied.begin(); name != report.applied.end();) {
            const std::string layer = text_layer(*name);
            if (applied.count(*name) == 0 && (layer.empty() || running.count(layer) != 0)) {
                report.skipped.insert(*name);
                name = report.applied.erase(name);
            } else {
                ++name;
            }
        }
    }
}

}  // namespace sdcffi

#endif
