// sdg_tokenize: the engine's tokenizers without a model.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "guard.h"
#include "guarded_call.hpp"
#include "tokenizers/clip_tokenizer.h"
#include "tokenizers/mistral_tokenizer.h"
#include "tokenizers/qwen2_tokenizer.h"
#include "tokenizers/t5_unigram_tokenizer.h"

namespace {

std::unique_ptr<Tokenizer> make(const std::string& name) {
    if (name == "clip") {
        return std::make_unique<CLIPTokenizer>();
    }
    if (name == "qwen2") {
        return std::make_unique<Qwen2Tokenizer>();
    }
    if (name == "mistral") {
        return std::make_unique<MistralTokenizer>();
    }
    if (name == "t5" || name == "umt5") {
        return std::make_unique<T5UniGramTokenizer>(name == "umt5");
    }
    throw sdcffi::Refused("no tokenizer is called '" + name + "': clip, qwen2, mistral, t5 and umt5 are there");
}

std::vector<int> encode(const std::string& name, const std::string& text) {
    static std::mutex mutex;
    static std::map<std::string, std::unique_ptr<Tokenizer>> made;
    std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<Tokenizer>& tokenizer = made[name];
    if (tokenizer == nullptr) {
        tokenizer = make(name);
    }
    return tokenizer->encode(text);
}

}  // namespace

sdg_status sdg_tokenize(const char* tokenizer, const char* text, int32_t** ids, size_t* count, sdg_error* error) {
    *ids   = nullptr;
    *count = 0;
    return sdcffi::guard(error, [&] {
        if (tokenizer == nullptr || text == nullptr) {
            throw sdcffi::Refused("tokenizer and text must not be NULL");
        }
        const std::vector<int> found = encode(tokenizer, text);
        if (found.empty()) {
            return true;
        }
        *ids = static_cast<int32_t*>(std::malloc(found.size() * sizeof(int32_t)));
        if (*ids == nullptr) {
            throw std::bad_alloc();
        }
        std::copy(found.begin(), found.end(), *ids);
        *count = found.size();
        return true;
    });
}
