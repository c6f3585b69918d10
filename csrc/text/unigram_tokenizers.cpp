// The engine's tokenizers by a unigram model, T5 and UMT5. CMake compiles this file in place of upstream's
// t5_unigram_tokenizer.cpp.
#include "engine_log.hpp"
#include "tokenizers/t5_unigram_tokenizer.h"
#include "tokenizers/vocab/vocab.h"
#include "unigram.hpp"
#include "word_model.hpp"

MetaspacePreTokenizer::MetaspacePreTokenizer(const std::string replacement, bool add_prefix_space)
    : replacement(replacement), add_prefix_space(add_prefix_space) {}

T5UniGramTokenizer::T5UniGramTokenizer(bool is_umt5) {
    if (is_umt5) {
        static const auto kept = sdcffi::text::unigram_model(load_umt5_tokenizer_json(), false);
        model                  = kept;
        BOS_TOKEN              = "<s>";
        BOS_TOKEN_ID           = model->id_of(BOS_TOKEN);
    } else {
        static const auto kept = sdcffi::text::unigram_model(load_t5_tokenizer_json(), true);
        model                  = kept;
    }
    PAD_TOKEN     = "<pad>";
    EOS_TOKEN     = "</s>";
    UNK_TOKEN     = "<unk>";
    PAD_TOKEN_ID  = model->id_of(PAD_TOKEN);
    EOS_TOKEN_ID  = model->id_of(EOS_TOKEN);
    UNK_TOKEN_ID  = model->id_of(UNK_TOKEN);
    add_bos_token = false;
    add_eos_token = true;
    for (const auto& row : model->added_tokens()) {
        special_tokens.push_back(row.first);
    }
}

T5UniGramTokenizer::~T5UniGramTokenizer() = default;

std::string T5UniGramTokenizer::decode_token(int token_id) const {
    return std::string(model->piece_of(token_id));
}

std::string T5UniGramTokenizer::normalize(const std::string& input) const {
    return model->normalized(input);
}

std::vector<int> T5UniGramTokenizer::encode(const std::string& input, on_new_token_cb_t) {
    std::vector<int> ids;
    model->encode(input, ids);
    sdcffi::text::log_tokens(input, ids, [&](int id) { return model->piece_of(id); });
    return ids;
}
