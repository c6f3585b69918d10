// What the sampler did in the last call: one row for each image, and for each pass of it.
#ifndef SDCFFI_SAMPLING_PASSES_HPP
#define SDCFFI_SAMPLING_PASSES_HPP

#include <vector>

namespace sdcffi {

struct SamplingPass {
    int steps;
    std::vector<int> reused;  // steps whose results come from a step cache, counted from 1
};

inline std::vector<SamplingPass> sampling_passes;

}  // namespace sdcffi

#endif
