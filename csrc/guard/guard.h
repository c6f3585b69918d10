/* The native surface that Python calls.
 *
 * Each operation has one stable C signature, whatever upstream's is today. No C++ exception leaves these functions:
 * each that can fail returns an sdg_status and fills an sdg_error. Python reads this header through cffi, so it holds
 * declarations only.
 */
#ifndef SDCFFI_GUARD_H
#define SDCFFI_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stable-diffusion.h"

#ifdef __cplusplus
extern "C" {
#endif

enum sdg_status {
    SDG_OK,
    SDG_FAILED,        /* refused, with a text; or the engine returned NULL or false, and the log says why */
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

/* Static table and string: the caller frees neither. */
SD_API const sdg_layout_row* sdg_layout(size_t* count);
SD_API const char* sdg_ggml_version(void);

/* Backends. Paths are UTF-8. A plug-in's score is 0 if this processor cannot run it. */
SD_API int sdg_backend_score(const char* path);
SD_API enum sdg_status sdg_load_backend(const char* path, sdg_error* error);
SD_API size_t sdg_device_count(void);
SD_API enum sdg_status sdg_get_device(size_t index, sdg_device* device, sdg_error* error);
/* A new context computes on the first GPU that the engine finds; no parameter chooses another. After sdg_offer_device
 * the engine finds this device and the CPU only, until sdg_offer_all_devices. */
SD_API enum sdg_status sdg_offer_device(const char* name, sdg_error* error);
SD_API enum sdg_status sdg_offer_all_devices(sdg_error* error);
/* Whether the CPU backend may round what it multiplies, where that is faster. From the next graph on, in all contexts. */
SD_API void sdg_round_products(bool may);

/* The engine has one set of callbacks for the process; NULL removes one. Loader threads call `log` too. */
SD_API void sdg_set_callbacks(sd_log_cb_t log, sd_progress_cb_t progress, void* data);
SD_API void sdg_set_preview(sd_preview_cb_t preview, enum preview_t mode, bool denoised, bool noisy, void* data);
SD_API void sdg_cancel(void);       /* stop the running call at its next graph or progress report; any thread */
SD_API void sdg_reset_cancel(void); /* forget an earlier sdg_cancel; before a call begins */

/* For a process that only computes: write a report to stderr before a fatal signal ends the process. An assertion that
 * fails on another thread writes the same report without the second line. Lines of the report:
 *     sdcffi-assert: MESSAGE      if an assertion failed before it
 *     sdcffi-signal: SIGSEGV
 *     sdcffi-backtrace:           frames, one a line
 *     sdcffi-log:                 the last lines of the native log, oldest first, as "level: text"
 *     sdcffi-end
 * The abort() after an assertion's report adds only its sdcffi-signal line. The calling thread gets a separate stack
 * for the report, so that a stack overflow is reported too. */
SD_API void sdg_catch_crashes(void);

/* Contexts. The caller owns *context and frees it once, with sdg_free_context. */
SD_API enum sdg_status sdg_new_context(const sd_ctx_params_t* params, sd_ctx_t** context, sdg_error* error);
/* The same without the weights, of which it has names, types and shapes: it may be passed to sdg_weights,
 * sdg_check_loras and sdg_free_context only. */
SD_API enum sdg_status sdg_new_empty_context(const sd_ctx_params_t* params, sd_ctx_t** context, sdg_error* error);
SD_API enum sdg_status sdg_free_context(sd_ctx_t* context, sdg_error* error);
SD_API bool sdg_supports_image(const sd_ctx_t* context);
SD_API bool sdg_supports_video(const sd_ctx_t* context);
SD_API enum sample_method_t sdg_default_sampler(const sd_ctx_t* context);
SD_API enum scheduler_t sdg_default_scheduler(const sd_ctx_t* context, enum sample_method_t method);

/* "eps", "v", "edm_v" or "flow": how the model's output is meant. A static string. */
SD_API const char* sdg_prediction(const sd_ctx_t* context);
/* Write the noise levels of an image with these parameters, from high to low. *count is the room in `sigmas`, and then
 * their number. */
SD_API enum sdg_status sdg_schedule(sd_ctx_t* context, const sd_sample_params_t* params, int width, int height,
                                    float* sigmas, int* count, sdg_error* error);
/* Run a sampler on the caller's denoiser, from a latent of `size` numbers that already has noise of the first of
 * `sigmas`; the result replaces it. `denoise` writes what is left of x without its noise; `step` counts from 1, and is
 * negative in a call after which the same step has another. */
typedef void (*sdg_denoise_cb_t)(const float* x, float sigma, int step, float* denoised, void* data);
SD_API enum sdg_status sdg_run_sampler(enum sample_method_t method, const float* sigmas, int count, bool is_flow,
                                       float eta, uint64_t seed, sdg_denoise_cb_t denoise, void* data, float* latent,
                                       int64_t size, sdg_error* error);
/* Guidance rescale of this thread's next generation, 0 to 1. */
SD_API void sdg_set_guidance_rescale(float rescale);

/* Generation. The caller owns *images, an array of *count images: sdg_free frees each image's data and the array, each
 * once. Both calls refuse, with a text: a model that makes the other kind, sizes below 1, arrays and elements that are
 * NULL although they are counted, and images without pixels or with another number of channels than 3 (a mask: 1). */
SD_API enum sdg_status sdg_generate_image(sd_ctx_t* context, const sd_img_gen_params_t* params,
                                          sd_image_t** images, int* count, sdg_error* error);
/* The same for the frames of one video. */
SD_API enum sdg_status sdg_generate_video(sd_ctx_t* context, const sd_vid_gen_params_t* params,
                                          sd_image_t** frames, int* count, sdg_error* error);
/* What the sampler did in the last of these calls: the number of passes, in order (each image, then each image again
 * for a second pass; both models of a video), and the steps of one, counted from 1, whose results were reused by a step
 * cache. The rows are valid until the next call. */
SD_API size_t sdg_sampling_passes(void);
SD_API const int* sdg_reused_steps(size_t pass, size_t* count);
SD_API enum sdg_status sdg_convert(const char* input, const char* vae, const char* output, enum sd_type_t type,
                                   const char* tensor_type_rules, bool convert_name, sdg_error* error);
SD_API void sdg_free(void* memory);

/* Prompts. */

/* For the calls of this thread from now on: how many tokens back from the end of a chunk of CLIP a comma is looked for,
 * after which the next chunk begins; 0: nowhere. It is 20 at first. */
SD_API void sdg_set_comma_backtrack(int tokens);
/* What the last generation of this thread has to say about its prompts, such as the text that was cut. The thread owns
 * the rows; its next generation or call of this function replaces them. */
SD_API const char* const* sdg_prompt_notes(size_t* count);

typedef struct {
    int32_t id;
    float weight;
    const char* text;
} sdg_token;

/* Tokens that an encoder computes together; `length` counts their padding, which is left out. */
typedef struct {
    const sdg_token* tokens;
    size_t count;
    size_t length;
    int32_t padding; /* the token that fills it up */
} sdg_chunk;

typedef struct {
    const char* encoder;   /* "clip_l", "clip_g", "t5xxl" or "llm" */
    const sdg_chunk* chunks;
    size_t chunk_count;
    size_t limit;          /* of tokens; 0: none */
    const char* cut;       /* the text beyond the limit */
    const char* unknown;   /* characters that the vocabulary lacks */
} sdg_encoder_tokens;

/* What each text encoder of a context gets of a prompt. The thread owns the rows; its next call replaces them. */
SD_API enum sdg_status sdg_tokens(sd_ctx_t* context, const char* prompt, const sdg_encoder_tokens** rows, size_t* count,
                                  sdg_error* error);

/* Splits `text`, which is UTF-8 of any kind, into the token ids of "clip", "qwen2", "mistral", "t5" or "umt5",
 * without the tokens that a model has at the beginning and the end. Needs no context; vocabularies are kept once read.
 * The caller owns *ids, an array of *count ids, NULL if there are none, and frees it with sdg_free. */
SD_API enum sdg_status sdg_tokenize(const char* tokenizer, const char* text, int32_t** ids, size_t* count,
                                    sdg_error* error);

/* Upscaling networks. The caller owns *upscaler and frees it once, with sdg_free_upscaler. With a tile_size of 0 an
 * image is upscaled in one piece. */
SD_API enum sdg_status sdg_new_upscaler(const char* path, bool offload_params_to_cpu, bool direct, int threads,
                                        int tile_size, upscaler_ctx_t** upscaler, sdg_error* error);
SD_API enum sdg_status sdg_free_upscaler(upscaler_ctx_t* upscaler, sdg_error* error);
SD_API int sdg_upscale_factor(upscaler_ctx_t* upscaler); /* fixed by the network */
/* `image` has 3 channels. The caller owns upscaled->data and frees it with sdg_free. */
SD_API enum sdg_status sdg_upscale(upscaler_ctx_t* upscaler, const sd_image_t* image, sd_image_t* upscaled,
                                   sdg_error* error);
/* Replace `image`, of 3 or 4 channels, by its edges. */
SD_API enum sdg_status sdg_preprocess_canny(const sd_image_t* image, float high_threshold, float low_threshold,
                                            float weak, float strong, bool inverse, sdg_error* error);

/* LoRA. Python finds out which tensors of a file change which weights, and how: the plan of the file. */

/* The kinds of difference, by what LyCORIS and PEFT call them. */
enum sdg_lora_kind {
    SDG_KIND_LORA,  /* up @ down; with mid Tucker's form */
    SDG_KIND_LOHA,  /* (w1_a @ w1_b) * (w2_a @ w2_b); with t1 and t2 Tucker's form */
    SDG_KIND_LOKR,  /* kron(w1, w2), each whole or of factors; with t2 Tucker's form */
    SDG_KIND_DIFF,  /* the difference itself */
    SDG_KIND_GLORA, /* W @ (a1 @ a2) + b1 @ b2 */
    SDG_KIND_OFT,   /* rotations of blocks of rows or columns; several levels of them: BOFT */
    SDG_KIND_IA3,   /* factors of rows or columns */
};

enum sdg_lora_role {
    SDG_ROLE_UP, SDG_ROLE_DOWN, SDG_ROLE_MID,
    SDG_ROLE_W1, SDG_ROLE_W1_A, SDG_ROLE_W1_B, SDG_ROLE_T1,
    SDG_ROLE_W2, SDG_ROLE_W2_A, SDG_ROLE_W2_B, SDG_ROLE_T2,
    SDG_ROLE_DIFF,
    SDG_ROLE_A1, SDG_ROLE_A2, SDG_ROLE_B1, SDG_ROLE_B2,
    SDG_ROLE_BLOCKS, SDG_ROLE_RESCALE,
    SDG_ROLE_VECTOR,
    SDG_ROLE_MAGNITUDE, /* DoRA: the length of each row or column of the result; any kind may have it */
    SDG_ROLE_COUNT,
};

/* A tensor of the file, as a matrix of `rows` rows. Without a name the module has no such tensor. */
typedef struct {
    const char* name;
    int64_t rows;
} sdg_lora_tensor;

/* Rows of a module that are rows of a weight. A weight's rows are its outputs. */
typedef struct {
    const char* weight; /* the engine's name */
    int64_t weight_row;
    int64_t module_row;
    int64_t rows;       /* 0: all of the module's */
    bool transposed;    /* the engine has the weight's transpose */
} sdg_lora_place;

typedef struct {
    enum sdg_lora_kind kind;
    sdg_lora_tensor tensors[SDG_ROLE_COUNT];
    float scale;      /* of the difference */
    float strength;   /* of the whole change, times the multiplier of the LoRA */
    float constraint; /* OFT: the greatest norm of its generators; 0: none */
    float offset;     /* (IA)^3: added to the factors: 0, or 1 where they are differences from 1 */
    bool on_input;    /* OFT, (IA)^3, magnitude: of columns, not of rows */
    bool inverted;    /* OFT: the blocks turn the other way round */
    int terms;        /* OFT: of PEFT's series for the blocks; 0: exact */
    const sdg_lora_place* places;
    size_t place_count;
} sdg_lora_module;

typedef struct {
    const char* path;
    bool is_high_noise;
    const sdg_lora_module* modules;
    size_t module_count;
} sdg_lora_plan;

typedef struct {
    const char* name;
    const char* type; /* as ggml names it */
    int dimensions;
    int64_t shape[5]; /* outermost first */
} sdg_tensor;

/* The weights of a context, which owns the rows; the next call replaces them. */
SD_API enum sdg_status sdg_weights(sd_ctx_t* context, const sdg_tensor** rows, size_t* count, sdg_error* error);

/* What one file did or would do. */
typedef struct {
    const char* path;
    float multiplier;
    bool is_high_noise;
    bool immediately;           /* merged into the weights; else computed beside them, or with copies of them */
    double seconds;             /* to read the file, if it was read, and to attach or merge it */
    const bool* applied;        /* for each module of the plan */
    size_t module_count;
    const char* const* misfits; /* "weight: reason" */
    size_t misfit_count;
    const char* const* types;   /* types of the weights that it changes, as ggml names them */
    size_t type_count;
} sdg_lora_report;

/* Take the plans of LoRA files, each in place of an earlier one, and report what each file would do. No weight changes;
 * the files are read and stay cached. Without a plan the engine names the pairs of a LoRA, and leaves out other kinds. */
SD_API enum sdg_status sdg_check_loras(sd_ctx_t* context, const sdg_lora_plan* plans, size_t count,
                                       const sdg_lora_report** rows, sdg_error* error);
/* Report what the last generation did, one row for each LoRA of its list, in order. The context owns the rows of both
 * calls; the next of them replaces them. */
SD_API enum sdg_status sdg_lora_reports(sd_ctx_t* context, const sdg_lora_report** rows, size_t* count,
                                        sdg_error* error);
/* Size of the cache of the files' tensors in the memory of the process, in bytes. */
SD_API void sdg_set_lora_cache(sd_ctx_t* context, size_t bytes);

/* What the denoiser gets of a prompt: states of its tokens, `rows` x `columns` values. The caller owns *values and frees
 * it once, with sdg_free. */
SD_API enum sdg_status sdg_text_condition(sd_ctx_t* context, const char* prompt, const sd_image_t* references,
                                          int reference_count, float** values, int64_t* rows, int64_t* columns,
                                          sdg_error* error);

#ifdef __cplusplus
}
#endif

#endif
