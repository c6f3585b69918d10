// LoRA as sdcffi applies it, in place of upstream's apply_loras: each file is read once, merged weights are restored
// exactly, and every tensor of a file is counted. The patched stable-diffusion.cpp includes this file; its class is the
// template argument Engine, and engine_access.hpp knows what differs between revisions of it.
//
// A file has three LoraModels: for the text encoder, the diffusion model and the autoencoder.
// at_runtime:  they are attached as weight adapters
// immediately: they are merged into the weights. Before another set is merged, the touched weights are read again from
//              the model's files, so that rounding errors do not add up.
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

#include "engine_access.hpp"
#include "guard/guard.h"
#include "interrupts.hpp"
#include "lora_fit.hpp"

namespace sdcffi {

// What a LoRA file has for one part of the engine, and the weights that it is for.
struct AdapterPart {
    std::shared_ptr<LoraModel> lora;
    Weights weights;
};

// A LoRA file that was read, and what it does to the weights. Its parts are in the order of parts_of.
struct Adapter {
    std::vector<AdapterPart> parts;
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
        for (auto& part : adapter->parts) {
            for (auto& [name, tensor] : part.lora->lora_tensors) {
                bytes += ggml_nbytes(tensor);
            }
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
    std::string prefix;  // of the tensors that are wanted; only an adapter of the engine's own has one
    std::string key;

    template <typename Lora>
    explicit LoraRequest(const Lora& lora)
        : path(lora.path), multiplier(lora.multiplier), is_high_noise(lora.is_high_noise), prefix(prefix_wanted(lora)) {
        const auto file = std::filesystem::u8path(path);
        std::error_code error;
        const auto size = std::filesystem::file_size(file, error);
        const auto time = std::filesystem::last_write_time(file, error).time_since_epoch().count();
        key = path + "|" + std::to_string(size) + "|" + std::to_string(time) + (is_high_noise ? "|high|" : "|") + prefix;
    }

    bool operator==(const LoraRequest& other) const { return key == other.key && multiplier == other.multiplier; }
};

// The adapters of a context.
struct LoraState {
    LoraCache cache;
    Weights weights;
    std::unique_ptr<WeightReader> files;  // of the model
    std::vector<LoraRequest> merged;
    Weights touched;          // those that differ from the model's files
    bool changing   = false;  // weights are being changed, or were when a call was interrupted
    bool by_manager = false;  // the engine changes them when it reads them
    std::vector<std::shared_ptr<LoraModel>> attached;
    std::vector<LoraReport> reports;
    std::list<LoraReport> checked;
    // What sdg_check_loras and sdg_lora_reports return; the next call of either replaces it.
    std::vector<sdg_lora_report> rows;
    std::list<std::vector<const char*>> texts;
};

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
std::shared_ptr<LoraModel> read_part(Engine& engine, const LoraRequest& request, const Part& part) {
    auto lora = open_lora(request.path, part.backend, engine.version);
    if (request.is_high_noise) {
        name_for_high_noise(loader_of(*lora).get_tensor_storage_map());
    }
    auto wanted = [&](const std::string& name) { return part.has(name) && starts_with(name, request.prefix); };
    if (lora->load_failed || !lora->load_from_file(engine.n_threads, wanted)) {
        throw std::runtime_error("LoRA " + request.path + " cannot be read");
    }
    fit_names(*lora, engine.sdcffi_loras.weights);
    return lora;
}

// Finds out what the tensors that were read would do. No weight changes.
template <typename Engine>
void examine(Engine& engine, Adapter& adapter) {
    LoraReport& report   = adapter.report;
    const auto& storages = loader_of(*adapter.parts.front().lora).get_tensor_storage_map();
    report.total         = storages.size();
    report.immediately   = engine.apply_lora_immediately;
    for (auto& part : adapter.parts) {
        if (part.lora->lora_tensors.empty()) {
            continue;
        }
        for (auto& [name, tensor] : engine.sdcffi_loras.weights) {
            if (Fit(*part.lora, name, tensor).examine(report)) {
                part.weights[name] = tensor;
            }
        }
        for (auto& [name, tensor] : part.lora->lora_tensors) {
            if (report.applied.count(name) == 0) {
                report.skipped.insert(name);
            }
        }
    }
    for (auto& [name, storage] : storages) {  // those that no part of a model has a name for
        if (!is_cond_stage_model_name(name) && !is_diffusion_lora_name(name) && !is_first_stage_model_name(name)) {
            report.skipped.insert(name);
        }
    }
}

// Returns the file's adapter, from the cache if it has it.
template <typename Engine>
std::shared_ptr<Adapter> read(Engine& engine, const LoraRequest& request) {
    LoraCache& cache = engine.sdcffi_loras.cache;
    auto adapter     = cache.find(request.key);
    if (adapter == nullptr) {
        const int64_t start = ggml_time_us();
        adapter             = std::make_shared<Adapter>();
        for (auto& part : parts_of(engine)) {
            adapter->parts.push_back({read_part(engine, request, part), {}});
        }
        examine(engine, *adapter);
        adapter->report.seconds = (ggml_time_us() - start) / 1e6;
        cache.keep(request.key, adapter);
    }
    adapter->report.path          = request.path;
    adapter->report.multiplier    = request.multiplier;
    adapter->report.is_high_noise = request.is_high_noise;
    for (auto& part : adapter->parts) {
        part.lora->multiplier = request.multiplier;
        part.lora->applied_lora_tensors.clear();
    }
    return adapter;
}

// Reads a call's adapters and does `use` with each. Those that the user gave are reported.
template <typename Engine, typename Use>
void use_all(Engine& engine, const std::vector<LoraRequest>& wanted, Use use) {
    engine.sdcffi_loras.reports.clear();
    for (auto& request : wanted) {
        auto adapter        = read(engine, request);
        const int64_t start = ggml_time_us();
        use(*adapter);
        if (request.prefix.empty()) {
            engine.sdcffi_loras.reports.push_back(adapter->report);
            engine.sdcffi_loras.reports.back().seconds += (ggml_time_us() - start) / 1e6;
        }
    }
}

// Weights that the engine loads; it leaves out some that no graph uses.
inline Weights loaded(const Weights& weights) {
    Weights loaded;
    for (auto& [name, tensor] : weights) {
        if (tensor->data != nullptr) {
            loaded[name] = tensor;
        }
    }
    return loaded;
}

// Reads the touched weights again from the model's files.
inline void restore(LoraState& state, int n_threads) {
    if (!state.touched.empty() && !state.files->read(state.touched, n_threads)) {
        throw std::runtime_error("the model's files can no longer be read to take a LoRA out of its weights");
    }
    state.touched.clear();
}

template <typename Engine>
void merge(Engine& engine, const std::vector<LoraRequest>& wanted) {
    LoraState& state = engine.sdcffi_loras;
    if (!(wanted == state.merged) || state.changing) {
        state.changing   = true;
        state.by_manager = merged_by_manager(engine, wanted);
        restore(state, engine.n_threads);
        state.merged.clear();
        use_all(engine, wanted, [&](Adapter& adapter) {
            for (auto& part : adapter.parts) {
                const Weights weights = loaded(part.weights);
                if (!state.by_manager && !weights.empty()) {
                    state.touched.insert(weights.begin(), weights.end());
                    add_to_weights(engine, *part.lora, weights);
                }
            }
        });
        state.merged = wanted;
    }
    state.changing = state.by_manager;  // until the call has ended well
}

template <typename Module>
void attach(const std::shared_ptr<Module>& module, const std::vector<std::shared_ptr<LoraModel>>& loras) {
    if (module) {
        // Even an empty adapter would take every layer off its fast path.
        module->set_weight_adapter(loras.empty() ? nullptr : std::make_shared<MultiLoraAdapter>(loras));
    }
}

template <typename Engine>
void attach_all(Engine& engine, const std::vector<LoraRequest>& wanted) {
    std::vector<std::shared_ptr<LoraModel>> parts[3], &all = engine.sdcffi_loras.attached;
    all.clear();
    use_all(engine, wanted, [&](Adapter& adapter) {
        for (size_t i = 0; i < adapter.parts.size(); i++) {
            if (!adapter.parts[i].weights.empty()) {
                parts[i].push_back(adapter.parts[i].lora);
                all.push_back(adapter.parts[i].lora);
            }
        }
    });
    attach(engine.cond_stage_model, parts[0]);
    attach(engine.diffusion_model, parts[1]);
    attach(engine.high_noise_diffusion_model, parts[1]);
    attach(engine.first_stage_model, parts[2]);
}

// The engine calls this once, when the weights are loaded or, if they are read later, when they are known.
template <typename Engine>
void weights_known(Engine& engine, const ModelLoader& loader, lora_apply_mode_t mode) {
    LoraState& state = engine.sdcffi_loras;
    state.weights    = weights_of(engine);
    state.files      = std::make_unique<WeightReader>(loader);
    if (mode == LORA_APPLY_AUTO) {
        engine.apply_lora_immediately = can_merge(engine);
        for (auto& [name, tensor] : state.weights) {
            if (ggml_is_quantized(tensor->type) || tensor->type == GGML_TYPE_I8) {
                engine.apply_lora_immediately = false;
            }
        }
    }
}

template <typename Engine, typename Lora>
void apply_loras(Engine& engine, const Lora* loras, size_t count) {
    const std::vector<LoraRequest> wanted(loras, loras + count);
    if (engine.apply_lora_immediately) {
        merge(engine, wanted);
    } else {
        attach_all(engine, wanted);
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
    engine.sdcffi_loras.changing = false;
    if (engine.apply_lora_immediately) {
        return;
    }
    for (auto& report : engine.sdcffi_loras.reports) {
        std::set<std::string> applied;
        for (auto& lora : engine.sdcffi_loras.attached) {
            if (lora->file_path == report.path) {
                applied.insert(lora->applied_lora_tensors.begin(), lora->applied_lora_tensors.end());
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
