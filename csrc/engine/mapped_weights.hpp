// The text encoder's weights, where they lie in a mapped file: once a text is encoded, the diffusion model needs the memory
// more. The next text has the system map them again, from its cache of files mostly.
#ifndef SDCFFI_MAPPED_WEIGHTS_HPP
#define SDCFFI_MAPPED_WEIGHTS_HPP

#include <cstdint>
#include <fstream>
#include <vector>

#include "engine_access.hpp"
#include "ggml-backend.h"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace sdcffi {

#ifdef __linux__

// Gives back those pages that are a file's. What an adapter was merged into is this process's own, and stays.
inline void give_back_pages_of_files(std::ifstream& pagemap, std::uintptr_t start, std::uintptr_t end) {
    constexpr std::uint64_t of_a_file = std::uint64_t{1} << 61;
    const std::uintptr_t page         = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::uintptr_t first = start / page, last = (end + page - 1) / page;
    std::vector<std::uint64_t> entries(last - first);
    pagemap.seekg(static_cast<std::streamoff>(first * sizeof(std::uint64_t)));
    if (!pagemap.read(reinterpret_cast<char*>(entries.data()), static_cast<std::streamsize>(entries.size() * sizeof(std::uint64_t)))) {
        pagemap.clear();
        return;
    }
    for (size_t at = 0; at < entries.size();) {
        size_t stop = at;
        while (stop < entries.size() && (entries[stop] & of_a_file) != 0) {
            stop++;
        }
        if (stop > at) {
            madvise(reinterpret_cast<void*>((first + at) * page), (stop - at) * page, MADV_DONTNEED);
        }
        at = stop + 1;
    }
}

template <typename Engine>
void text_is_encoded(Engine& engine) {
    if (engine.sdcffi_loras.files == nullptr || !engine.sdcffi_loras.files->maps()) {
        return;
    }
    std::ifstream pagemap("/proc/self/pagemap", std::ios::binary);
    for (const auto& [name, tensor] : engine.sdcffi_loras.weights) {
        if (is_text_weight(name) && tensor->data != nullptr && tensor->buffer != nullptr && ggml_backend_buffer_is_host(tensor->buffer)) {
            const auto start = reinterpret_cast<std::uintptr_t>(tensor->data);
            give_back_pages_of_files(pagemap, start, start + ggml_nbytes(tensor));
        }
    }
}

#else

template <typename Engine>
void text_is_encoded(Engine&) {}

#endif

}  // namespace sdcffi

#endif
