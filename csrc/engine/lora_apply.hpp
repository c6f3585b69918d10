// LoRA as sdcffi applies it, in place of upstream's apply_loras: by Python's plan of each file, which is read once; merged
// weights are restored exactly. The patched stable-diffusion.cpp includes this file; its class is the template argument
// Engine, and engine_access.hpp knows what differs between revisions of it.
//
// at_runtime:  the changes are computed beside the weights (lora_beside.hpp). Weights that no layer computes with in that
//              way, as of norms and embeddings, are merged here too.
// immediately: they are merged into the weights (lora_merge.hpp). Before another set is merged, the touched weights are
//              read again from the model's files, so that rounding errors do not add up.
#ifndef SDCFFI_LORA_APPLY_HPP
#define SDCFFI_LORA_APPLY_HPP

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine_access.hpp"
#include "interrupts.hpp"
#include "lora_state.hpp"
#if !__has_include("model_manager.h")
#include "mapped_weights.hpp"
#endif

namespace sdcffi {

// The plan of a file without one from Python: PhotoMaker's own adapter, and what sd-cli is given. The engine names the
// tensors by their weights.
template <typename Engine>
LoraPlan plan_by_engine(Engine& engine, const std::string& path, const std::string& prefix) {
    ModelLoader loader;
    LoraPlan plan;
    auto open = [&](ModelLoader& opened) { return opened.init_from_file_and_convert_name(path, "lora.", engine.version); };
    if (!open(loader)) {
        throw std::runtime_error("LoRA " + path + " cannot be read");
    }
    const std::string up = ".lora_up", lora = "lora.";
    std::set<std::string> alphas;
    for (auto& [name, storage] : loader.get_tensor_storage_map()) {
        if (ends_with(name, ".alpha") && storage.nelements() == 1) {
            alphas.insert(name);
        }
    }
    const LoraFile numbers(path, alphas, engine.n_threads, open);
    for (auto& [name, storage] : loader.get_tensor_storage_map()) {
        if (starts_with(name, prefix) && ends_with(name, up)) {
            const std::string module = name.substr(0, name.size() - up.size());
            const int64_t rows = storage.ne[std::max(storage.n_dims, 2) - 1], rank = storage.nelements() / rows;
            plan.push_back(plain_module(module.substr(lora.size()), {name, rows}, {module + ".lora_down", rank}));
            if (const ggml_tensor* alpha = numbers.find(module + ".alpha")) {
                plan.back().scale = values_of(alpha)[0] / float(rank);
            }
        }
    }
    return plan;
}

template <typename Engine>
Adapter read(Engine& engine, const LoraRequest& request) {
    LoraState& state = engine.sdcffi_loras;
    Adapter adapter{request, nullptr, nullptr, 0};
    auto planned         = state.plans.find({request.path, request.is_high_noise});
    const bool by_engine = !request.prefix.empty() || planned == state.plans.end();
    adapter.plan         = by_engine ? std::make_shared<LoraPlan>(plan_by_engine(engine, request.path, request.prefix)) : planned->second;
    std::set<std::string> wanted;
    for (auto& module : *adapter.plan) {
        for (auto& tensor : module.tensors) {
            if (!tensor.name.empty()) {
                wanted.insert(tensor.name);
            }
        }
    }
    adapter.file = state.cache.find(request.key, wanted);
    if (adapter.file == nullptr) {
        const int64_t start = ggml_time_us();
        adapter.file        = std::make_shared<LoraFile>(request.path, wanted, engine.n_threads, [&](ModelLoader& loader) {
            return by_engine ? loader.init_from_file_and_convert_name(request.path, "lora.", engine.version)
                             : loader.init_from_file(request.path);
        });
        adapter.seconds = (ggml_time_us() - start) / 1e6;
        state.cache.keep(request.key, wanted, adapter.file);
    }
    return adapter;
}

// Finds out what a LoRA would do to each weight; no weight changes. Adds the changes that fit.
template <typename Engine>
LoraReport examine(Engine& engine, const Adapter& adapter, LoraChanges& changes) {
    LoraReport report;
    report.path          = adapter.request.path;
    report.multiplier    = adapter.request.multiplier;
    report.is_high_noise = adapter.request.is_high_noise;
    report.plan          = adapter.plan;
    report.applied       = std::make_unique<bool[]>(adapter.plan->size());
    report.immediately   = engine.apply_lora_immediately;
    report.seconds       = adapter.seconds;
    for (size_t i = 0; i < adapter.plan->size(); i++) {
        const LoraModule& module = (*adapter.plan)[i];
        const Formula formula(*adapter.file, module);
        std::map<std::string, std::vector<LoraPlace>> fitting;
        for (auto& place : module.places) {
            auto weight = engine.sdcffi_loras.weights.find(place.weight);
            const std::string reason = weight == engine.sdcffi_loras.weights.end()
                                           ? "the model has no such weight"
                                           : misfit(weight->second, *adapter.file, formula, module, place);
            if (!reason.empty()) {
                report.misfits.push_back(place.weight + ": " + reason);
                continue;
            }
            fitting[place.weight].push_back(place);
            report.types.insert(ggml_type_name(weight->second->type));
            report.applied[i] = true;
        }
        for (auto& [name, places] : fitting) {
            changes[name].push_back({adapter.file, adapter.plan, &module, places, adapter.request.multiplier * module.strength});
        }
    }
    return report;
}

// Reads the touched weights again from the model's files.
inline void restore(LoraState& state, int n_threads) {
    if (!state.touched.empty() && !state.files->read(state.touched, n_threads)) {
        throw std::runtime_error("the model's files can no longer be read to take a LoRA out of its weights");
    }
    state.touched.clear();
}

template <typename Engine>
void merge(Engine& engine, const LoraChanges& changes) {
    LoraState& state = engine.sdcffi_loras;
    Merger& merger   = state.merging(engine.n_threads);
    for (auto& [name, list] : changes) {
        ggml_tensor* weight = state.weights.at(name);
        if (weight->data != nullptr) {  // the engine leaves out some that no graph uses
            stop_if_cancelled();
            state.touched[name] = weight;
            merger.merge(weight, list);
        }
    }
    if (!changes.empty()) {
        LOG_INFO("LoRA merged into %zu weights", changes.size());
    }
}

// A weight with its values, wherever the engine keeps them.
template <typename Engine>
class WeightValues {
public:
    WeightValues(Engine& engine, const std::vector<std::string>& names) : engine_(engine), tensors_(names.size()) {
        Weights absent;
        for (auto& name : names) {
            ggml_tensor* weight = engine.sdcffi_loras.weights.at(name);
            if (weight->data == nullptr) {
                absent[name] = ggml_new_tensor(tensors_.context(), weight->type, GGML_MAX_DIMS, weight->ne);
            }
        }
        tensors_.allocate(ggml_backend_dev_buffer_type(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)));
        if (!absent.empty() && !engine.sdcffi_loras.files->read(absent, engine.n_threads)) {
            throw std::runtime_error("the model's files can no longer be read to compute a LoRA beside its weights");
        }
        absent_ = absent;
    }

    ggml_tensor* find(const std::string& name) const {
        auto found = absent_.find(name);
        return found != absent_.end() ? found->second : engine_.sdcffi_loras.weights.at(name);
    }

private:
    Engine& engine_;
    Tensors tensors_;
    Weights absent_;
};

template <typename Engine>
std::shared_ptr<LoraBeside> plan_beside(Engine& engine, const Part& part, const LoraChanges& changes) {
    LoraState& state = engine.sdcffi_loras;
    Merger& merger   = state.merging(engine.n_threads);
    auto beside      = std::make_shared<LoraBeside>(part.backend, changes.size());
    std::vector<std::string> copies;
    for (auto& [name, list] : changes) {
        stop_if_cancelled();
        ggml_tensor* weight = state.weights.at(name);
        auto source = [&, name = name] { return merger.read(WeightValues<Engine>(engine, {name}).find(name)); };
        if (auto plan = BesidePlanner(merger).plan(weight, list, source)) {
            beside->add(name, *plan);
        } else {
            const bool vector = ggml_n_dims(weight) < 2 || weight->type == GGML_TYPE_F32;
            beside->add_copy(name, weight, vector ? GGML_TYPE_F32 : weight->type == GGML_TYPE_BF16 ? GGML_TYPE_BF16 : GGML_TYPE_F16);
            copies.push_back(name);
        }
    }
    LOG_INFO("LoRA beside %zu weights, of which %zu are copied", changes.size(), copies.size());
    beside->allocate();
    const WeightValues<Engine> values(engine, copies);
    for (auto& name : copies) {
        stop_if_cancelled();
        merger.write(merger.change(values.find(name), changes.at(name)), beside->copy_of(name));
    }
    return beside;
}

// Whether the layer of a weight asks for what is beside it: linear layers and convolutions do. These are no such layers,
// though their weights look alike.
inline bool asks_for_lora(const std::string& name, const ggml_tensor* weight) {
    for (const char* ending : {"embedding.weight", "embed_tokens.weight", ".embed.weight", ".pos_embed.weight", "shared.weight",
                               "relative_attention_bias.weight", "embed_image_indicator.weight", "router.weight"}) {
        if (ends_with(name, ending)) {
            return false;
        }
    }
    return ggml_n_dims(weight) >= 2 && ends_with(name, ".weight") && name.find(".experts.") == std::string::npos;
}

template <typename Module>
void attach(const std::shared_ptr<Module>& module, const std::shared_ptr<LoraBeside>& beside) {
    if (module) {
        module->set_weight_adapter(beside);
    }
}

template <typename Engine>
void attach_all(Engine& engine, const LoraChanges& changes) {
    LoraState& state = engine.sdcffi_loras;
    std::shared_ptr<LoraBeside> besides[3];
    const std::vector<Part> parts = parts_of(engine);
    state.attached.clear();
    LoraChanges inside;
    for (auto& [name, list] : changes) {
        const ggml_tensor* weight = state.weights.at(name);
        if (state.can_merge && !asks_for_lora(name, weight) && can_write(weight->type)) {
            inside[name] = list;
        }
    }
    restore(state, engine.n_threads);
    merge(engine, inside);
    for (size_t i = 0; i < parts.size(); i++) {
        LoraChanges own;
        for (auto& [name, list] : changes) {
            if (parts[i].has(name) && inside.count(name) == 0) {
                own[name] = list;
            }
        }
        if (!own.empty()) {  // even an empty one would take every layer off its fast path
            besides[i] = plan_beside(engine, parts[i], own);
            state.attached.push_back(besides[i]);
        }
    }
    attach(engine.cond_stage_model, besides[0]);
    attach(engine.diffusion_model, besides[1]);
    attach(engine.high_noise_diffusion_model, besides[1]);
    attach(engine.first_stage_model, besides[2]);
}

// The engine calls this once, when the weights are loaded or, if they are read later, when they are known.
template <typename Engine>
void weights_known(Engine& engine, const ModelLoader& loader, lora_apply_mode_t mode) {
    LoraState& state = engine.sdcffi_loras;
    state.weights    = weights_of(engine);
    state.files      = std::make_unique<WeightReader>(loader);
    state.can_merge  = can_merge(engine);
    if (!state.can_merge) {
        engine.apply_lora_immediately = false;
    } else if (mode == LORA_APPLY_AUTO) {
        engine.apply_lora_immediately = true;
        for (auto& [name, tensor] : state.weights) {
            if (ggml_is_quantized(tensor->type) || tensor->type == GGML_TYPE_I8) {
                engine.apply_lora_immediately = false;
            }
        }
    }
}

template <typename Engine, typename Lora>
void apply_loras(Engine& engine, const Lora* loras, size_t count) {
    LoraState& state    = engine.sdcffi_loras;
    const int64_t start = ggml_time_us();
    std::vector<Adapter> wanted;
    LoraChanges changes;
    state.reports.clear();
    std::vector<LoraRequest> requests(loras, loras + count);
    for (auto& path : photo_maker_loras(engine)) {
        requests.emplace_back(path, 1.f, false, "lora.model");
    }
    for (auto& request : requests) {
        wanted.push_back(read(engine, request));
        LoraReport report = examine(engine, wanted.back(), changes);
        if (request.prefix.empty()) {
            state.reports.push_back(std::move(report));
        }
    }
    if (!(wanted == state.applied) || state.changing) {
        state.changing = true;
        state.applied.clear();
        if (engine.apply_lora_immediately) {
            restore(state, engine.n_threads);
            merge(engine, changes);
        } else {
            attach_all(engine, changes);
        }
        state.applied = wanted;
        for (auto& adapter : state.applied) {
            adapter.file.reset();  // its values are in the weights, or beside them
        }
        state.merger.reset();
    }
    state.changing = false;
    for (auto& report : state.reports) {
        report.seconds += (ggml_time_us() - start) / 1e6 / state.reports.size();
    }
}

// Returns "...encoder.layers.11." for a text encoder's tensor, "" for others.
inline std::string text_layer(const std::string& name) {
    const size_t layers = is_cond_stage_model_name(name) ? name.find("layers.") : std::string::npos;
    const size_t end    = layers != std::string::npos ? name.find('.', layers + strlen("layers.")) : std::string::npos;
    return end != std::string::npos ? name.substr(0, end + 1) : "";
}

// The engine calls this after a generation: in at_runtime mode only the finished graphs show which weights were used.
// Models do not run the last layers of their text encoders; modules for such a layer still count as applied.
template <typename Engine>
void count_applied(Engine& engine) {
    LoraState& state = engine.sdcffi_loras;
    if (engine.apply_lora_immediately) {
        return;
    }
    std::set<std::string> used, running;
    for (auto& beside : state.attached) {
        used.insert(beside->used().begin(), beside->used().end());
    }
    for (auto& name : used) {
        running.insert(text_layer(name));
    }
    for (auto& [name, weight] : state.touched) {  // merged in this mode too
        used.insert(name);
    }
    for (auto& report : state.reports) {
        for (size_t i = 0; i < report.plan->size(); i++) {
            bool any = false;
            for (auto& place : (*report.plan)[i].places) {
                const std::string layer = text_layer(place.weight);
                any = any || used.count(place.weight) != 0 || (!layer.empty() && running.count(layer) == 0);
            }
            report.applied[i] = report.applied[i] && any;
        }
    }
}

}  // namespace sdcffi

#endif
