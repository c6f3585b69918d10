// The debug line about the tokens of a text.
#ifndef SDCFFI_TEXT_ENGINE_LOG_HPP
#define SDCFFI_TEXT_ENGINE_LOG_HPP

#include <string>
#include <vector>

#include "stable-diffusion.h"

void log_printf(sd_log_level_t level, const char* file, int line, const char* format, ...);

namespace sdcffi::text {

template <typename TokenOf>
void log_tokens(const std::string& text, const std::vector<int>& ids, TokenOf&& token_of) {
    constexpr size_t enough = 4096;  // the engine cuts its lines there
    std::string tokens;
    for (size_t i = 0; i < ids.size() && tokens.size() < enough; i++) {
        tokens.append("\"").append(token_of(ids[i])).append("\", ");
    }
    log_printf(SD_LOG_DEBUG, __FILE__, __LINE__, "split prompt \"%s\" to %zu tokens [%s]", text.c_str(), ids.size(), tokens.c_str());
}

}  // namespace sdcffi::text

#endif
