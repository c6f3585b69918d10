#include "notes.hpp"

#include <algorithm>

#include "stable-diffusion.h"

void log_printf(sd_log_level_t level, const char* file, int line, const char* format, ...);

namespace sdcffi {

std::vector<std::string>& notes() {
    static thread_local std::vector<std::string> of_call;
    return of_call;
}

void note(const std::string& text) {
    if (std::find(notes().begin(), notes().end(), text) == notes().end()) {
        notes().push_back(text);
        log_printf(SD_LOG_WARN, __FILE__, __LINE__, "%s", text.c_str());
    }
}

std::string shortened(const std::string& text) {
    constexpr size_t most = 200;
    std::string kept      = text.substr(0, most);
    if (text.size() > most) {
        while (!kept.empty() && (text[kept.size()] & 0xc0) == 0x80) {
            kept.pop_back();  // of a character that would be cut in two
        }
        kept += "...";
    }
    std::replace_if(kept.begin(), kept.end(), [](char c) { return c == '\n' || c == '\r' || c == '\t'; }, ' ');
    return kept;
}

}  // namespace sdcffi
