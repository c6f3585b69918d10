// The order of rows of Mistral's queries and keys, which llama.cpp changes. Engine-free.
#ifndef SDCFFI_MISTRAL_ROWS_HPP
#define SDCFFI_MISTRAL_ROWS_HPP

#include <string>

namespace sdcffi {

// llama.cpp interleaves the two halves of each head of Mistral's queries and keys. Its files are told by their names: those
// of Hugging Face, and files made of them under their names, have the halves one after the other.
inline bool is_interleaved(const std::string& name) {
    return name.find("blk.") != std::string::npos && name.find(".attn_q.weight") != std::string::npos;
}

}  // namespace sdcffi

#endif
