// Takes the place of upstream's log_sample_cache_summary, which the sampler calls after each pass, and remembers what
// that pass reused.
#include "engine/sampling_passes.hpp"
#include "guard/guard.h"
#if __has_include("runtime/sample-cache.h")
#include "runtime/sample-cache.h"
#else
#include "sample-cache.h"
#endif

namespace sd_sample {

void upstream_log_sample_cache_summary(const SampleCacheRuntime& runtime, size_t total_steps);

void log_sample_cache_summary(const SampleCacheRuntime& runtime, size_t total_steps) {
    upstream_log_sample_cache_summary(runtime, total_steps);
    sdcffi::SamplingPass pass{static_cast<int>(total_steps), runtime.spectrum.reused};
    for (const std::vector<int>* reused : {&runtime.easycache.reused, &runtime.ucache.reused, &runtime.cachedit.reused}) {
        pass.reused.insert(pass.reused.end(), reused->begin(), reused->end());
    }
    sdcffi::sampling_passes.push_back(std::move(pass));
}

}  // namespace sd_sample

size_t sdg_sampling_passes(void) {
    return sdcffi::sampling_passes.size();
}

const int* sdg_reused_steps(size_t pass, size_t* count) {
    const std::vector<int>& reused = sdcffi::sampling_passes.at(pass).reused;
    *count                         = reused.size();
    return reused.data();
}
