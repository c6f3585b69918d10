// How many tokens of text each family's encoders get, and to how many a shorter text is padded: as the model's authors
// have it, read in their pipelines (diffusers 0.42) where no other source is named. One table for all conditioners.
#ifndef SDCFFI_TEXT_LIMITS_HPP
#define SDCFFI_TEXT_LIMITS_HPP

#include <cstddef>

#include "model.h"

namespace sdcffi {

// All lengths count the end token, and of a template what stands before the text only where `dropped` is 0.
struct TextLimit {
    size_t tokens;       // the text is cut here; 0: never
    size_t padded  = 0;  // a shorter text is padded to this; 0: not at all
    size_t dropped = 0;  // tokens at the template's start, of which the denoiser sees nothing: not counted above
    bool whole_end = false;  // the template's end is kept when the text is cut; otherwise the cut takes the end too
};

namespace limits {

// CLIP: start, 75 tokens, end. SD 1, SD 2 and SDXL take any number of such chunks, the others one.
constexpr TextLimit clip{77, 77};

// T5 and UMT5, with the end token.
constexpr TextLimit sd3_t5{256, 256};           // up to 512 on request
constexpr TextLimit flux_dev_t5{512, 512};      // and Fill, Canny, Depth, Kontext, Flex.2
constexpr TextLimit flux_schnell_t5{256, 256};  // no embedding of guidance in the file
constexpr TextLimit chroma_t5{512, 512};
constexpr TextLimit wan_umt5{512, 512};
constexpr TextLimit minit2i_t5{256, 256};

// Anima: Qwen3's tokens and T5's alike; the adapter's output is padded to 512 and cut there.
constexpr TextLimit anima{512};

// LTX-2's Gemma.
constexpr TextLimit ltx2{1024, 1024};

// Families whose only encoder is a language model.
inline TextLimit language_model(SDVersion version) {
    if (version == VERSION_QWEN_IMAGE) {
        return {1024, 0, 34};
    }
    if (version == VERSION_FLUX2 || version == VERSION_FLUX2_KLEIN) {
        return {512, 512};
    }
    if (version == VERSION_Z_IMAGE) {
        return {512};
    }
    if (version == VERSION_OVIS_IMAGE) {
        return {256, 256, 28};
    }
#if __has_include("model_manager.h")
    if (version == VERSION_QWEN_IMAGE_LAYERED) {
        return {1024, 0, 34};
    }
    if (version == VERSION_LONGCAT) {
        return {512, 512, 36, true};
    }
    if (version == VERSION_KREA2) {
        return {512, 0, 34, true};
    }
    if (version == VERSION_IDEOGRAM4) {
        return {2048};
    }
    if (version == VERSION_HUNYUAN_VIDEO) {
        return {1000, 0, 98};
    }
    if (version == VERSION_LENS) {
        return {512};
    }
    if (version == VERSION_SEFI_IMAGE) {
        return {1024, 1024};
    }
    if (version == VERSION_MAGE_FLOW) {
        return {2048, 0, 34};
    }
#endif
    return {0};  // ERNIE-Image's and others' authors have none
}

}  // namespace limits

}  // namespace sdcffi

#endif
