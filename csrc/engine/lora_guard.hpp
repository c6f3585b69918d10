// The sdg_ functions for LoRA. The patched stable-diffusion.cpp includes this file last, where sd_ctx_t is complete.
#ifndef SDCFFI_LORA_GUARD_HPP
#define SDCFFI_LORA_GUARD_HPP

#include <cmath>

#include "guard/guarded_call.hpp"
#include "lora_apply.hpp"

namespace sdcffi {

template <typename Texts>
const char* const* as_c(LoraState& state, const Texts& texts) {
    state.texts.emplace_back();
    for (auto& text : texts) {
        state.texts.back().push_back(text.c_str());
    }
    return state.texts.back().data();
}

// Fills the context's rows, which point into the reports.
inline const sdg_lora_report* as_rows(LoraState& state, const std::vector<LoraReport>& reports) {
    state.rows.clear();
    state.texts.clear();
    for (const LoraReport& report : reports) {
        state.rows.push_back({report.path.c_str(), report.multiplier, report.is_high_noise, report.immediately,
                              report.seconds, report.applied.get(), report.plan->size(),
                              as_c(state, report.misfits), report.misfits.size(),
                              as_c(state, report.types), report.types.size()});
    }
    return state.rows.data();
}

inline void add_tensor(LoraState& state, const std::string& name, ggml_type type, int dimensions, const int64_t* ne) {
    state.names.push_back(name);
    sdg_tensor row{state.names.back().c_str(), ggml_type_name(type), dimensions, {}};
    for (int i = 0; i < dimensions; i++) {
        row.shape[i] = ne[dimensions - 1 - i];
    }
    state.tensors.push_back(row);
}

}  // namespace sdcffi

sdg_status sdg_weights(sd_ctx_t* context, const sdg_tensor** rows, size_t* count, sdg_error* error) {
    return sdcffi::guard(error, [&] {
        sdcffi::LoraState& state = context->sd->sdcffi_loras;
        state.tensors.clear();
        state.names.clear();
        for (auto& [name, tensor] : state.weights) {
            sdcffi::add_tensor(state, name, tensor->type, ggml_n_dims(tensor), tensor->ne);
        }
        *rows  = state.tensors.data();
        *count = state.tensors.size();
        return true;
    });
}

sdg_status sdg_check_loras(sd_ctx_t* context, const sdg_lora_plan* plans, size_t count, const sdg_lora_report** rows,
                           sdg_error* error) {
    return sdcffi::guard(error, [&] {
        auto& engine             = *context->sd;
        sdcffi::LoraState& state = engine.sdcffi_loras;
        state.checked.clear();
        for (size_t i = 0; i < count; i++) {
            const std::string path = plans[i].path;
            state.plans[{path, plans[i].is_high_noise}] = std::make_shared<sdcffi::LoraPlan>(sdcffi::as_plan(plans[i]));
            const sdcffi::LoraRequest request(path, 1.f, plans[i].is_high_noise, "");
            sdcffi::LoraChanges changes;
            state.checked.push_back(sdcffi::examine(engine, sdcffi::read(engine, request), changes));
        }
        *rows = sdcffi::as_rows(state, state.checked);
        return true;
    });
}

sdg_status sdg_lora_reports(sd_ctx_t* context, const sdg_lora_report** rows, size_t* count, sdg_error* error) {
    return sdcffi::guard(error, [&] {
        sdcffi::LoraState& state = context->sd->sdcffi_loras;
        *rows  = sdcffi::as_rows(state, state.reports);
        *count = state.rows.size();
        return true;
    });
}

void sdg_set_lora_cache(sd_ctx_t* context, size_t bytes) {
    context->sd->sdcffi_loras.cache.limit = bytes;
}

#include "text/tokens_guard.hpp"

#endif
