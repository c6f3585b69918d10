// Models in parts: "name-00001-of-00003.safetensors" stands for all three. That the other parts are there is checked in
// sdcffi/_models/places.py.
#ifndef SDCFFI_MODEL_PARTS_HPP
#define SDCFFI_MODEL_PARTS_HPP

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace sdcffi {

// While one lives, the first part stands for itself.
class ReadingParts {
public:
    ReadingParts() { is_on() = true; }
    ~ReadingParts() { is_on() = false; }
    static bool& is_on() {
        static thread_local bool on = false;
        return on;
    }
};

// Returns the paths of all parts if `path` is that of the first of several, else nothing.
inline std::vector<std::string> parts_of(const std::string& path) {
    const std::string first = "-00001-of-";
    const size_t at         = path.rfind(first);
    const size_t count_at   = at + first.size();
    if (ReadingParts::is_on() || at == std::string::npos || path.find('/', at) != std::string::npos || path.size() < count_at + 6 ||
        path[count_at + 5] != '.') {
        return {};
    }
    for (size_t i = 0; i < 5; i++) {
        if (!std::isdigit(static_cast<unsigned char>(path[count_at + i]))) {
            return {};
        }
    }
    const int count = std::atoi(path.substr(count_at, 5).c_str());
    std::vector<std::string> parts;
    for (int part = 1; count > 1 && part <= count; part++) {
        char number[16];
        std::snprintf(number, sizeof(number), "-%05d", part);
        parts.push_back(path.substr(0, at) + number + path.substr(at + 6));
    }
    return parts;
}

}  // namespace sdcffi

#endif
