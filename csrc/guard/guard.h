/* The native surface that Python calls.
 *
 * One stable C signature per operation, whatever upstream's signature of the day is. No C++ exception leaves these
 * functions: each that can fail returns an sdg_status and fills an sdg_error. Python reads this header through cffi,
 * so it holds declarations only.
 */
#ifndef SDCFFI_GUARD_H
#define SDCFFI_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stable-diffusion.h"

#ifndef SDG_API
#define SDG_API SD_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum sdg_status {
    SDG_OK,
    SDG_FAILED,        /* refused, with a text; or NULL or false from the engine, without one: reasons in the log */
    SDG_EXCEPTION,     /* a C++ exception */
    SDG_OUT_OF_MEMORY, /* std::bad_alloc */
    SDG_ASSERT,        /* GGML_ASSERT or GGML_ABORT on the calling thread or one that loads tensors */
    SDG_CANCELLED,     /* sdg_cancel was called */
};

typedef struct {
    enum sdg_status status;
    char text[2048];
} sdg_error;

/* One row per struct ("field" empty) and per field, as the compiler of this library laid them out. */
typedef struct {
    const char* structure;
    const char* field;
    size_t offset;
    size_t size;
} sdg_layout_row;

typedef struct {
    const char* name;         /* as ggml names it: "CPU", "CUDA0", "Vulkan0" */
    const char* description;  /* "NVIDIA H200", "AMD EPYC ..." */
    const char* backend;      /* registry name: "CPU", "CUDA", "Vulkan" */
    const char* type;         /* "cpu", "gpu", "igpu" or "accel" */
    size_t memory_free;       /* bytes */
    size_t memory_total;      /* bytes */
} sdg_device;

/* Tables and versions. Strings and tables are static: nobody frees them. */
SDG_API const sdg_layout_row* sdg_layout(size_t* count);
SDG_API const char* sdg_upstream_commit(void);
SDG_API const char* sdg_ggml_version(void);

/* Backends. Paths are UTF-8. A plug-in's score is 0 where this processor cannot run it. */
SDG_API int sdg_backend_score(const char* path);
SDG_API enum sdg_status sdg_load_backend(const char* path, sdg_error* error);
SDG_API size_t sdg_device_count(void);
SDG_API enum sdg_status sdg_get_device(size_t index, sdg_device* device, sdg_error* error);
/* The engine computes on the first GPU that it finds when a context is made; there is no parameter for that. Let it find
 * this device only, and the CPU, until all are offered again. */
SDG_API enum sdg_status sdg_offer_device(const char* name, sdg_error* error);
SDG_API enum sdg_status sdg_offer_all_devices(sdg_error* error);

/* Callbacks are process-global in the engine; NULL resets them. Log arrives from loader threads too. */
SDG_API void sdg_set_callbacks(sd_log_cb_t log, sd_progress_cb_t progress, void* data);
SDG_API void sdg_set_preview(sd_preview_cb_t preview, enum preview_t mode, bool denoised, bool noisy, void* data);
SDG_API void sdg_cancel(void);       /* stop the running call at its next graph or report; any thread */
SDG_API void sdg_reset_cancel(void); /* forget an earlier sdg_cancel; before a call begins */

/* For a process that only computes: a deadly signal is first reported to stderr, then takes its course. Lines of
 * the report, as of a failed assertion's on a foreign thread (there without the second line):
 *     sdcffi-assert: MESSAGE      if an assertion led to it
 *     sdcffi-signal: SIGSEGV
 *     sdcffi-backtrace:           frames, one a line
 *     sdcffi-log:                 the last lines of the native log, oldest first, as "level: text"
 *     sdcffi-end
 * The abort() after an assertion's report adds just its sdcffi-signal line. The calling thread gets a stack of its
 * own for the report, so that it can run out of stack and still be heard. */
SDG_API void sdg_catch_crashes(void);

/* Contexts. The caller owns what *context receives and gives it to sdg_free_context once. */
SDG_API enum sdg_status sdg_new_context(const sd_ctx_params_t* params, sd_ctx_t** context, sdg_error* error);
/* The same without the weights: only sdg_check_loras and sdg_free_context may follow. */
SDG_API enum sdg_status sdg_new_empty_context(const sd_ctx_params_t* params, sd_ctx_t** context, sdg_error* error);
SDG_API enum sdg_status sdg_free_context(sd_ctx_t* context, sdg_error* error);
SDG_API bool sdg_supports_image(const sd_ctx_t* context);
SDG_API bool sdg_supports_video(const sd_ctx_t* context);
SDG_API enum sample_method_t sdg_default_sampler(const sd_ctx_t* context);
SDG_API enum scheduler_t sdg_default_scheduler(const sd_ctx_t* context, enum sample_method_t method);

/* Generation. *images receives an array of *count images, owned by the caller: the array and every image's data
 * are freed with sdg_free, each once. */
SDG_API enum sdg_status sdg_generate_image(sd_ctx_t* context, const sd_img_gen_params_t* params,
                                           sd_image_t** images, int* count, sdg_error* error);
/* The same for the frames of one video. Refused, with a text: a model of pictures, counts and sizes below 1, counts
 * whose array or an element of it is NULL, and pictures that do not have three channels. */
SDG_API enum sdg_status sdg_generate_video(sd_ctx_t* context, const sd_vid_gen_params_t* params,
                                           sd_image_t** frames, int* count, sdg_error* error);
SDG_API enum sdg_status sdg_convert(const char* input, const char* vae, const char* output, enum sd_type_t type,
                                    const char* tensor_type_rules, bool convert_name, sdg_error* error);
SDG_API void sdg_free(void* memory);

/* Upscaling networks. The caller owns what *upscaler receives and gives it to sdg_free_upscaler once. A tile_size of 0
 * takes pictures whole. */
SDG_API enum sdg_status sdg_new_upscaler(const char* path, bool offload_params_to_cpu, bool direct, int threads,
                                         int tile_size, upscaler_ctx_t** upscaler, sdg_error* error);
SDG_API enum sdg_status sdg_free_upscaler(upscaler_ctx_t* upscaler, sdg_error* error);
SDG_API int sdg_upscale_factor(upscaler_ctx_t* upscaler); /* the network's own, the only one it can */
/* `picture` has three channels; upscaled->data is the caller's, who frees it with sdg_free. */
SDG_API enum sdg_status sdg_upscale(upscaler_ctx_t* upscaler, const sd_image_t* picture, sd_image_t* upscaled,
                                    sdg_error* error);
/* Draws the edges of `picture`, of three or four channels, over it. */
SDG_API enum sdg_status sdg_preprocess_canny(const sd_image_t* picture, float high_threshold, float low_threshold,
                                             float weak, float strong, bool inverse, sdg_error* error);

/* LoRA. A row says what became, or would become, of one file's tensors; names are the engine's own. */
typedef struct {
    const char* path;
    float multiplier;
    bool is_high_noise;
    bool immediately;           /* merged into the weights, not computed beside them */
    double seconds;             /* to read it, when that was done, and to attach or merge it */
    size_t total;               /* tensors in the file */
    size_t applied;
    const char* const* skipped; /* names of the file's other tensors */
    size_t skipped_count;
    const char* const* misfits; /* "model tensor: reason" */
    size_t misfit_count;
    const char* const* types;   /* of the weights it is for, as ggml names them */
    size_t type_count;
} sdg_lora_report;

/* What each file would do to this context's weights; nothing is changed, but the files are read and kept. */
SDG_API enum sdg_status sdg_check_loras(sd_ctx_t* context, const sd_lora_t* loras, uint32_t count,
                                        const sdg_lora_report** rows, sdg_error* error);
/* What the last generation did. Rows of both belong to the context, until the next of these calls. */
SDG_API enum sdg_status sdg_lora_reports(sd_ctx_t* context, const sdg_lora_report** rows, size_t* count,
                                         sdg_error* error);
/* Bytes of adapters to keep in memory between calls. */
SDG_API void sdg_set_lora_cache(sd_ctx_t* context, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
