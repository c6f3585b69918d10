#include "guard.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/finite.hpp"
#include "engine/interrupts.hpp"
#include "engine/sampling_passes.hpp"
#include "ggml.h"
#include "guarded_call.hpp"
#include "sampling/guidance.hpp"
#include "text/chunks.hpp"
#include "text/notes.hpp"
#include "upstream_calls.hpp"

namespace {

std::atomic<sd_log_cb_t> log_callback{nullptr};
std::atomic<sd_progress_cb_t> progress_callback{nullptr};

// The engine reports progress on the calling thread, in unguarded calls too.
void on_progress(int step, int steps, float seconds, void* data) {
    sdcffi::stop_if_cancelled();
    if (sd_progress_cb_t callback = progress_callback.load()) {
        callback(step, steps, seconds, data);
    }
}

void on_log(sd_log_level_t level, const char* text, void* data) {
    const char* const names[] = {"debug", "info", "warn", "error"};
    sdcffi::remember_line(names[std::clamp<int>(level, SD_LOG_DEBUG, SD_LOG_ERROR)], text);
    if (sd_log_cb_t callback = log_callback.load()) {
        callback(level, text, data);
    }
}

// Without this callback ggml's lines before the first context (a plug-in that does not load) would go to stderr.
void on_ggml_log(ggml_log_level level, const char* text, void*) {
    switch (level) {
        case GGML_LOG_LEVEL_ERROR:
            return on_log(SD_LOG_ERROR, text, nullptr);
        case GGML_LOG_LEVEL_WARN:
            return on_log(SD_LOG_WARN, text, nullptr);
        case GGML_LOG_LEVEL_INFO:
            return on_log(SD_LOG_INFO, text, nullptr);
        default:
            return on_log(SD_LOG_DEBUG, text, nullptr);
    }
}

// Ends what was set for one generation.
struct OneGeneration {
    ~OneGeneration() { sdcffi::guidance_rescale = 0.0f; }
};

void refuse_if(bool wrong, const std::string& text) {
    if (wrong) {
        throw sdcffi::Refused(text);
    }
}

void refuse_null(int64_t count, const void* array, const std::string& name) {
    refuse_if(count > 0 && array == nullptr, name + " is NULL");
}

// Refuses an image without pixels, and one with fewer channels than `least` or more than `most`.
void require_channels(const sd_image_t* image, uint32_t least, uint32_t most, const std::string& name) {
    const std::string channels = std::to_string(least) + (most > least ? " or " + std::to_string(most) : "");
    refuse_if(image == nullptr || image->data == nullptr || image->width == 0 || image->height == 0 ||
                  image->channel < least || image->channel > most,
              name + " needs pixels in " + channels + (most > 1 ? " channels" : " channel"));
}

// The same for an image that may be missing: its data are then NULL.
void require_channels_if_given(const sd_image_t& image, uint32_t channels, const std::string& name) {
    if (image.data != nullptr) {
        require_channels(&image, channels, channels, name);
    }
}

void require_images(const sd_image_t* images, int count, const std::string& name) {
    refuse_null(count, images, name);
    for (int i = 0; i < count; i++) {
        require_channels(&images[i], 3, 3, name + "[" + std::to_string(i) + "]");
    }
}

// The engine counts the bytes of an image in an int.
void require_countable(const sd_image_t& image, int factor) {
    const double bytes = double(image.width) * factor * image.height * factor * image.channel;
    refuse_if(bytes > INT32_MAX, "the upscaled image would have more than 2^31 bytes");
}

// Refuses noise levels that are missing or not finite, and no noise levels at the first step.
void check_sigmas(const float* sigmas, int count, const std::string& name) {
    refuse_null(count, sigmas, name);
    if (count > 0) {
        sdcffi::finite_sigmas({sigmas, sigmas + count}, name);
    }
}

void check(const sd_sample_params_t& sample) {
    check_sigmas(sample.custom_sigmas, sample.custom_sigmas_count, "custom_sigmas");
    refuse_null(static_cast<int64_t>(sample.guidance.slg.layer_count), sample.guidance.slg.layers, "slg.layers");
}

// What images and videos have in common.
template <typename Params>
void check_shared(const Params& params) {
    refuse_if(params.width < 1 || params.height < 1, "width and height must be at least 1");
    refuse_if(!(params.strength >= 0 && params.strength <= 1), "strength must be between 0 and 1");
    refuse_null(params.lora_count, params.loras, "loras");
    for (uint32_t i = 0; i < params.lora_count; i++) {
        refuse_null(1, params.loras[i].path, "a LoRA's path");
    }
    require_channels_if_given(params.init_image, 3, "init_image");
    check(params.sample_params);
}

// These functions check what the engine uses unchecked and would crash with.
void check(const sd_img_gen_params_t& params) {
    check_shared(params);
    require_channels_if_given(params.mask_image, 1, "mask_image");
    require_channels_if_given(params.control_image, 3, "control_image");
    require_images(params.ref_images, params.ref_images_count, "ref_images");
    require_images(params.pm_params.id_images, params.pm_params.id_images_count, "id_images");
}

void check(const sd_vid_gen_params_t& params) {
    check_shared(params);
    refuse_if(params.video_frames < 1, "video_frames must be at least 1");
    require_channels_if_given(params.end_image, 3, "end_image");
    require_images(params.control_frames, params.control_frames_size, "control_frames");
    check(params.high_noise_sample_params);
}

sdg_status make_context(const sd_ctx_params_t* params, sd_ctx_t** context, bool with_weights, sdg_error* error) {
    *context = nullptr;
    return sdcffi::guard(error, [&] {
        refuse_null(1, params, "params");
        refuse_null(params->embedding_count, params->embeddings, "embeddings");
        sd_ctx_params_t wanted = *params;
        sdcffi::load_weights_now(wanted, with_weights);
        return (*context = new_sd_ctx(&wanted)) != nullptr;
    });
}

}  // namespace

using sdcffi::guard;

const char* sdg_ggml_version(void) {
    return ggml_version();
}

void sdg_set_callbacks(sd_log_cb_t log, sd_progress_cb_t progress, void* data) {
    log_callback      = log;
    progress_callback = progress;
    ggml_log_set(on_ggml_log, nullptr);
    // Without a callback the engine prints progress bars to stdout, so ours are always set.
    sd_set_progress_callback(on_progress, data);
    sd_set_log_callback(on_log, data);
}

void sdg_set_preview(sd_preview_cb_t preview, preview_t mode, bool denoised, bool noisy, void* data) {
    sd_set_preview_callback(preview, mode, 1, denoised, noisy, data);
}

void sdg_cancel(void) {
    sdcffi::cancel_requested = true;
}

void sdg_reset_cancel(void) {
    sdcffi::cancel_requested = false;
}

void sdg_catch_crashes(void) {
    sdcffi::catch_crashes();
}

sdg_status sdg_new_context(const sd_ctx_params_t* params, sd_ctx_t** context, sdg_error* error) {
    return make_context(params, context, true, error);
}

sdg_status sdg_new_empty_context(const sd_ctx_params_t* params, sd_ctx_t** context, sdg_error* error) {
    sdcffi::Restored<bool> only_names(sdcffi::names_only, true);
    return make_context(params, context, false, error);
}

sdg_status sdg_free_context(sd_ctx_t* context, sdg_error* error) {
    return guard(error, [&] {
        if (context != nullptr) {
            free_sd_ctx(context);
        }
        return true;
    });
}

bool sdg_supports_image(const sd_ctx_t* context) {
    return sd_ctx_supports_image_generation(context);
}

bool sdg_supports_video(const sd_ctx_t* context) {
    return sd_ctx_supports_video_generation(context);
}

sample_method_t sdg_default_sampler(const sd_ctx_t* context) {
    return sd_get_default_sample_method(context);
}

scheduler_t sdg_default_scheduler(const sd_ctx_t* context, sample_method_t method) {
    return sd_get_default_scheduler(context, method);
}

void sdg_set_guidance_rescale(float rescale) {
    sdcffi::guidance_rescale = rescale;
}

sdg_status sdg_generate_image(sd_ctx_t* context, const sd_img_gen_params_t* params, sd_image_t** images, int* count,
                              sdg_error* error) {
    *images = nullptr;
    *count  = 0;
    const OneGeneration one;
    return guard(error, [&] {
        refuse_null(1, context, "the context");
        refuse_null(1, params, "params");
        refuse_if(!sd_ctx_supports_image_generation(context), "the model makes no images");
        check(*params);
        sdcffi::sampling_passes.clear();
        sdcffi::notes().clear();
        return sdcffi::call_generate_image(&generate_image, context, params, images, count);
    });
}

sdg_status sdg_generate_video(sd_ctx_t* context, const sd_vid_gen_params_t* params, sd_image_t** frames, int* count,
                              sdg_error* error) {
    *frames = nullptr;
    *count  = 0;
    const OneGeneration one;
    return guard(error, [&] {
        refuse_null(1, context, "the context");
        refuse_null(1, params, "params");
        refuse_if(!sd_ctx_supports_video_generation(context), "the model makes no videos");
        check(*params);
        sdcffi::sampling_passes.clear();
        sdcffi::notes().clear();
        return sdcffi::call_generate_video(&generate_video, context, params, frames, count);
    });
}

sdg_status sdg_convert(const char* input, const char* vae, const char* output, sd_type_t type,
                       const char* tensor_type_rules, bool convert_name, sdg_error* error) {
    return guard(error, [&] {
        refuse_null(1, input, "the input's path");
        refuse_null(1, output, "the output's path");
        const char* rules = tensor_type_rules != nullptr ? tensor_type_rules : "";
        return convert(input, vae, output, type, rules, convert_name);
    });
}

sdg_status sdg_new_upscaler(const char* path, bool offload_params_to_cpu, bool direct, int threads, int tile_size,
                            upscaler_ctx_t** upscaler, sdg_error* error) {
    *upscaler = nullptr;
    return guard(error, [&] {
        refuse_null(1, path, "the network's path");
        *upscaler = sdcffi::call_new_upscaler(&new_upscaler_ctx, path, offload_params_to_cpu, direct, threads, tile_size);
        return *upscaler != nullptr;
    });
}

sdg_status sdg_free_upscaler(upscaler_ctx_t* upscaler, sdg_error* error) {
    return guard(error, [&] {
        if (upscaler != nullptr) {
            free_upscaler_ctx(upscaler);
        }
        return true;
    });
}

int sdg_upscale_factor(upscaler_ctx_t* upscaler) {
    return get_upscale_factor(upscaler);
}

sdg_status sdg_upscale(upscaler_ctx_t* upscaler, const sd_image_t* image, sd_image_t* upscaled, sdg_error* error) {
    *upscaled = {};
    return guard(error, [&] {
        refuse_null(1, upscaler, "the upscaler");
        require_channels(image, 3, 3, "the image");
        const int factor = get_upscale_factor(upscaler);
        require_countable(*image, factor);
        *upscaled = sdcffi::call_upscale(&upscale, upscaler, *image, static_cast<uint32_t>(factor));
        return upscaled->data != nullptr;
    });
}

sdg_status sdg_preprocess_canny(const sd_image_t* image, float high_threshold, float low_threshold, float weak,
                                float strong, bool inverse, sdg_error* error) {
    return guard(error, [&] {
        require_channels(image, 3, 4, "the image");
        return preprocess_canny(*image, high_threshold, low_threshold, weak, strong, inverse);
    });
}

void sdg_free(void* memory) {
    std::free(memory);
}

void sdg_set_comma_backtrack(int tokens) {
    sdcffi::comma_backtrack = static_cast<size_t>(std::max(tokens, 0));
}

const char* const* sdg_prompt_notes(size_t* count) {
    static thread_local std::vector<const char*> rows;
    rows.clear();
    for (const std::string& note : sdcffi::notes()) {
        rows.push_back(note.c_str());
    }
    *count = rows.size();
    return rows.data();
}
