// The sdg_ functions for LoRA. The patched stable-diffusion.cpp includes this file last, where sd_ctx_t is complete.
#ifndef SDCFFI_LORA_GUARD_HPP
#define SDCFFI_LORA_GUARD_HPP

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
template <typename Reports>
const sdg_lora_report* as_rows(LoraState& state, const Reports& reports) {
    state.rows.clear();
    state.texts.clear();
    for (const LoraReport& report : reports) {
        state.rows.push_back({report.path.c_str(), report.multiplier, report.is_high_noise, report.immediately,
                              report.seconds, report.total, report.applied.size(),
                              as_c(state, report.skipped), report.skipped.size(),
                              as_c(state, report.misfits), report.misfits.size(),
                              as_c(state, report.types), report.types.size()});
    }
    return state.rows.data();
}

}  // namespace sdcffi

sdg_status sdg_check_loras(sd_ctx_t* context, const sd_lora_t* loras, uint32_t count, const sdg_lora_report** rows,
                           sdg_error* error) {
    return sdcffi::guard(error, [&] {
        sdcffi::LoraState& state = context->sd->sdcffi_loras;
        state.checked.clear();
        for (uint32_t i = 0; i < count; i++) {
            state.checked.push_back(sdcffi::read(*context->sd, sdcffi::LoraRequest(loras[i]))->report);
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

#endif
