// sdg_text_condition: what the denoiser gets of a prompt. The patched stable-diffusion.cpp includes this file last.
#ifndef SDCFFI_CONDITION_GUARD_HPP
#define SDCFFI_CONDITION_GUARD_HPP

#include <algorithm>
#include <cstdlib>

#include "guard/guarded_call.hpp"
#include "text/wan_text.hpp"

sdg_status sdg_text_condition(sd_ctx_t* context, const char* prompt, const sd_image_t* references, int reference_count,
                              float** values, int64_t* rows, int64_t* columns, sdg_error* error) {
    return sdcffi::guard(error, [&] {
        std::vector<sd::Tensor<float>> images;
        for (int i = 0; i < reference_count; i++) {
            images.push_back(sd_image_to_tensor(references[i]));
        }
        ConditionerParams params;
        params.text                 = sdcffi::text_for(context->sd->version, prompt);
        params.ref_images           = &images;
        const SDCondition condition = context->sd->cond_stage_model->get_learned_condition(context->sd->n_threads, params);
        const auto& states          = condition.c_crossattn;
        if (states.empty()) {
            throw sdcffi::Refused("the model has no condition of a prompt");
        }
        *columns = states.shape()[0];
        *rows    = states.numel() / *columns;
        *values  = static_cast<float*>(std::malloc(states.numel() * sizeof(float)));
        std::copy(states.data(), states.data() + states.numel(), *values);
        return true;
    });
}

#endif
