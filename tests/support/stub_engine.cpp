// An engine that does what the first argument says, under the real guard: tests/csrc/test_guard.py compiles the two together
// with sanitizers. Prints "status text" for a call that came back.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/interrupts.hpp"
#include "ggml.h"
#include "guard/guard.h"

void log_printf(sd_log_level_t, const char*, int, const char*, ...) {}

namespace {

std::function<void()> wish;
ggml_abort_callback_t abort_callback = nullptr;
sd_log_cb_t log_callback             = nullptr;
sd_progress_cb_t progress_callback   = nullptr;
sd_image_t picture                   = {};

[[noreturn]] void fail_assertion() {
    if (abort_callback != nullptr) {
        abort_callback("ggml.c:1: GGML_ASSERT(stub) failed");
    }
    abort();
}

void log(sd_log_level_t level, const std::string& text) {
    log_callback(level, text.c_str(), nullptr);
}

void elsewhere(const std::function<void()>& work) {
    std::thread(work).join();
}

void log_from_threads() {
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 8; thread++) {
        threads.emplace_back([thread] {
            for (int line = 0; line < 2000; line++) {
                log(SD_LOG_INFO, "thread " + std::to_string(thread) + " line " + std::to_string(line) + std::string(200, '.') + "\n");
            }
        });
    }
    for (auto& thread : threads) {
        thread.join();
    }
}

void report_progress_until_cancelled() {
    std::thread canceller([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        sdg_cancel();
    });
    std::unique_ptr<std::thread, void (*)(std::thread*)> join(&canceller, [](std::thread* thread) { thread->join(); });
    for (int step = 0; step < 1000000; step++) {
        progress_callback(step, 1000000, 0.f, nullptr);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

#if defined(__clang__) || defined(__GNUC__)
#define UNCHECKED __attribute__((no_sanitize("undefined", "address"), noinline))
#endif

UNCHECKED void write_to_null() {
    volatile int* volatile nowhere = nullptr;
    *nowhere                       = 1;
}

UNCHECKED int overflow_stack(volatile int depth) {
    volatile char frame[4096];
    frame[0] = static_cast<char>(depth);
    return overflow_stack(depth + 1) + frame[0];
}

const std::map<std::string, std::function<void()>> wishes = {
    {"succeed", [] {}},
    {"exception", [] { throw std::runtime_error("the shape is wrong"); }},
    {"bad_alloc", [] { throw std::bad_alloc(); }},
    {"out_of_memory", [] { throw sdcffi::OutOfMemory("no memory for weights of 7 MiB"); }},
    {"unknown", [] { throw 42; }},
    {"refused", [] { throw sdcffi::Refused("no noise levels"); }},
    {"assert", fail_assertion},
    {"assert_elsewhere",
     [] {
         log(SD_LOG_DEBUG, "first\n");
         log(SD_LOG_WARN, "second\nof two");
         elsewhere(fail_assertion);
     }},
    {"assert_in_kernels",
     [] {
         sdcffi::Restored<bool> kernels(sdcffi::in_kernels, true);
         fail_assertion();
     }},
    {"assert_uncaught", [] { [&]() noexcept { fail_assertion(); }(); }},
    {"cancelled_before", [] { progress_callback(0, 1, 0.f, nullptr); }},
    {"cancelled_during", report_progress_until_cancelled},
    {"log",
     [] {
         log_from_threads();
         elsewhere(fail_assertion);
     }},
    {"SIGSEGV", write_to_null},
    {"SIGBUS", [] { raise(SIGBUS); }},
    {"SIGFPE", [] { raise(SIGFPE); }},
    {"SIGILL", [] { raise(SIGILL); }},
    {"SIGABRT", [] { abort(); }},
    {"overflow", [] { overflow_stack(0); }},
};

uint8_t pixels[4 * 4 * 3]           = {};
sd_image_t rgb                      = {4, 4, 3, pixels};
sd_image_t grey                     = {4, 4, 1, pixels};
sd_image_t missing                  = {4, 4, 3, nullptr};
sd_lora_t nameless                  = {false, 1.f, nullptr};
sd_ctx_t* const context             = reinterpret_cast<sd_ctx_t*>(&rgb);  // the stub does not look into it
bool makes_images                   = true;
bool makes_videos                   = true;
const std::string whole             = "whole";

// What a caller may get wrong, each on top of a call that is right.
const std::map<std::string, std::function<void(sd_img_gen_params_t&)>> image_mistakes = {
    {whole, [](sd_img_gen_params_t&) {}},
    {"width", [](sd_img_gen_params_t& params) { params.width = 0; }},
    {"height", [](sd_img_gen_params_t& params) { params.height = -64; }},
    {"loras", [](sd_img_gen_params_t& params) { params.lora_count = 1; }},
    {"lora path",
     [](sd_img_gen_params_t& params) {
         params.loras      = &nameless;
         params.lora_count = 1;
     }},
    {"init_image", [](sd_img_gen_params_t& params) { params.init_image = grey; }},
    {"mask_image", [](sd_img_gen_params_t& params) { params.mask_image = rgb; }},
    {"control_image", [](sd_img_gen_params_t& params) { params.control_image = grey; }},
    {"ref_images", [](sd_img_gen_params_t& params) { params.ref_images = nullptr; }},
    {"reference", [](sd_img_gen_params_t& params) { params.ref_images = &missing; }},
    {"id_images", [](sd_img_gen_params_t& params) { params.pm_params.id_images_count = 1; }},
    {"custom_sigmas", [](sd_img_gen_params_t& params) { params.sample_params.custom_sigmas_count = 2; }},
    {"layers", [](sd_img_gen_params_t& params) { params.sample_params.guidance.slg.layer_count = 2; }},
    {"model", [](sd_img_gen_params_t&) { makes_images = false; }},
};

void draw_with(const std::string& mistake, sdg_error* error) {
    sd_image_t* images         = nullptr;
    int count                  = -1;
    sd_img_gen_params_t params = {};
    params.width = params.height = 64;
    params.batch_count      = 1;
    params.init_image       = rgb;
    params.mask_image       = grey;
    params.control_image    = rgb;
    params.ref_images       = &rgb;
    params.ref_images_count = 1;
    image_mistakes.at(mistake)(params);
    const sdg_status status = sdg_generate_image(context, &params, &images, &count, error);
    std::printf("%d %s\n", static_cast<int>(status), error->text);
    std::fflush(stdout);
    makes_images = true;
}

void draw(sdg_error* error) {
    draw_with(whole, error);
}

void draw_nothing(sdg_error* error) {
    sd_image_t* images         = nullptr;
    int count                  = -1;
    sd_img_gen_params_t params = {};
    for (auto status : {sdg_generate_image(nullptr, &params, &images, &count, error),
                        sdg_generate_image(context, nullptr, &images, &count, error)}) {
        std::printf("%d %d images\n", static_cast<int>(status), count);
    }
}

const std::map<std::string, std::function<void(sd_vid_gen_params_t&)>> mistakes = {
    {whole, [](sd_vid_gen_params_t&) {}},
    {"width", [](sd_vid_gen_params_t& params) { params.width = -64; }},
    {"height", [](sd_vid_gen_params_t& params) { params.height = 0; }},
    {"video_frames", [](sd_vid_gen_params_t& params) { params.video_frames = -3; }},
    {"loras", [](sd_vid_gen_params_t& params) { params.lora_count = 1; }},
    {"lora path",
     [](sd_vid_gen_params_t& params) {
         params.loras      = &nameless;
         params.lora_count = 1;
     }},
    {"control_frames", [](sd_vid_gen_params_t& params) { params.control_frames = nullptr; }},
    {"control frame", [](sd_vid_gen_params_t& params) { params.control_frames = &missing; }},
    {"init_image", [](sd_vid_gen_params_t& params) { params.init_image = grey; }},
    {"end_image", [](sd_vid_gen_params_t& params) { params.end_image = grey; }},
    {"custom_sigmas", [](sd_vid_gen_params_t& params) { params.sample_params.custom_sigmas_count = 2; }},
    {"layers", [](sd_vid_gen_params_t& params) { params.high_noise_sample_params.guidance.slg.layer_count = 2; }},
    {"model", [](sd_vid_gen_params_t&) { makes_videos = false; }},
};

void film(const std::string& mistake, sdg_error* error) {
    sd_image_t* frames         = nullptr;
    int count                  = -1;
    sd_vid_gen_params_t params = {};
    params.width = params.height = 64;
    params.video_frames        = 5;
    params.init_image = params.end_image = rgb;
    params.control_frames      = &rgb;
    params.control_frames_size = 1;
    mistakes.at(mistake)(params);
    const sdg_status status = sdg_generate_video(context, &params, &frames, &count, error);
    std::printf("%d %s, %d frames\n", static_cast<int>(status), error->text, count);
    for (int i = 0; i < count; i++) {
        sdg_free(frames[i].data);
    }
    sdg_free(frames);
    makes_videos = true;
}

void film_nothing(sdg_error* error) {
    sd_image_t* frames         = nullptr;
    int count                  = -1;
    sd_vid_gen_params_t params = {};
    for (auto status : {sdg_generate_video(nullptr, &params, &frames, &count, error),
                        sdg_generate_video(context, nullptr, &frames, &count, error)}) {
        std::printf("%d %d frames\n", static_cast<int>(status), count);
    }
}

void enlarge(sdg_error* error) {
    uint8_t pixels[3]        = {};
    sd_image_t small         = {1, 1, 3, pixels};
    sd_image_t large         = {};
    upscaler_ctx_t* upscaler = nullptr;
    sdg_new_upscaler("", false, false, 1, 0, &upscaler, error);
    const sdg_status status = sdg_upscale(upscaler, &small, &large, error);
    std::printf("%d %s\n", static_cast<int>(status), error->text);
    std::fflush(stdout);
    sdg_free(large.data);
    sdg_free_upscaler(upscaler, error);
}

}  // namespace

int main(int count, char** arguments) {
    sdg_error error;
    sdg_set_callbacks(nullptr, nullptr, nullptr);
    if (std::strcmp(arguments[1], "film") == 0) {
        wish = wishes.at(count > 3 ? arguments[3] : "succeed");
        film(arguments[2], &error);
        wish = wishes.at("succeed");
        film(whole, &error);
        return 0;
    }
    if (std::strcmp(arguments[1], "film_nothing") == 0) {
        film_nothing(&error);
        return 0;
    }
    if (std::strcmp(arguments[1], "draw") == 0) {
        wish = wishes.at("succeed");
        draw_with(arguments[2], &error);
        draw(&error);
        return 0;
    }
    if (std::strcmp(arguments[1], "draw_nothing") == 0) {
        draw_nothing(&error);
        return 0;
    }
    if (count > 2 && std::strcmp(arguments[2], "catch") == 0) {
        sdg_catch_crashes();
    }
    wish = wishes.at(arguments[1]);
    if (std::strcmp(arguments[1], "cancelled_before") == 0) {
        sdg_cancel();
        progress_callback(0, 1, 0.f, nullptr);  // nobody would catch here
    }
    const auto call = count > 2 && std::strcmp(arguments[2], "upscale") == 0 ? enlarge : draw;
    call(&error);
    sdg_reset_cancel();
    wish = wishes.at("succeed");
    call(&error);
    return 0;
}

namespace {

// The frames are the caller's, as upstream's are.
sd_image_t* make_frames(const sd_vid_gen_params_t* params, int* count) {
    *count = 0;
    wish();
    auto* frames = static_cast<sd_image_t*>(std::calloc(params->video_frames, sizeof(sd_image_t)));
    for (; *count < params->video_frames; ++*count) {
        frames[*count] = {4, 4, 3, static_cast<uint8_t*>(std::calloc(1, sizeof pixels))};
    }
    return frames;
}

sd_image_t make_large() {
    wish();
    return {2, 2, 3, static_cast<uint8_t*>(std::calloc(12, 1))};
}

}  // namespace

#ifdef RESULTS_ARE_ARGUMENTS  // what newer headers declare

bool generate_image(sd_ctx_t*, const sd_img_gen_params_t*, sd_image_t** images, int* count) {
    wish();
    *images = &picture;
    *count  = 1;
    return true;
}

bool generate_video(sd_ctx_t*, const sd_vid_gen_params_t* params, sd_image_t** frames, int* count, sd_audio_t**) {
    *frames = make_frames(params, count);
    return true;
}

bool upscale(upscaler_ctx_t*, sd_image_t, uint32_t, sd_image_t** images, int* count) {
    const sd_image_t large = make_large();
    *images                = static_cast<sd_image_t*>(std::calloc(1, sizeof(sd_image_t)));
    (*images)[0]           = large;
    *count                 = 1;
    return true;
}

upscaler_ctx_t* new_upscaler_ctx(const char*, bool, int, int, const char*, const char*) {
    return static_cast<upscaler_ctx_t*>(std::malloc(1));
}

#else

sd_image_t* generate_image(sd_ctx_t*, const sd_img_gen_params_t*) {
    wish();
    return &picture;
}

sd_image_t* generate_video(sd_ctx_t*, const sd_vid_gen_params_t* params, int* count) {
    return make_frames(params, count);
}

sd_image_t upscale(upscaler_ctx_t*, sd_image_t, uint32_t) {
    return make_large();
}

upscaler_ctx_t* new_upscaler_ctx(const char*, bool, bool, int, int) {
    return static_cast<upscaler_ctx_t*>(std::malloc(1));
}

#endif

void free_upscaler_ctx(upscaler_ctx_t* upscaler) {
    std::free(upscaler);
}

void sd_set_log_callback(sd_log_cb_t callback, void*) {
    log_callback = callback;
}

void sd_set_progress_callback(sd_progress_cb_t callback, void*) {
    progress_callback = callback;
}

ggml_abort_callback_t ggml_set_abort_callback(ggml_abort_callback_t callback) {
    return std::exchange(abort_callback, callback);
}

// The rest of what the guard links to; no wish needs it.
void ggml_log_set(ggml_log_callback, void*) {}
void sd_set_preview_callback(sd_preview_cb_t, preview_t, int, bool, bool, void*) {}
sd_ctx_t* new_sd_ctx(const sd_ctx_params_t*) { return nullptr; }
void free_sd_ctx(sd_ctx_t*) {}
bool sd_ctx_supports_image_generation(const sd_ctx_t*) { return makes_images; }
bool sd_ctx_supports_video_generation(const sd_ctx_t*) { return makes_videos; }
sample_method_t sd_get_default_sample_method(const sd_ctx_t*) { return EULER_SAMPLE_METHOD; }
scheduler_t sd_get_default_scheduler(const sd_ctx_t*, sample_method_t) { return DISCRETE_SCHEDULER; }
int get_upscale_factor(upscaler_ctx_t*) { return 2; }
bool preprocess_canny(sd_image_t, float, float, float, float, bool) { return true; }
bool convert(const char*, const char*, const char*, sd_type_t, const char*, bool) { return false; }
const char* ggml_version(void) { return ""; }
