#include "word_model.hpp"

#include <stdexcept>

#include "json.hpp"
#include "unicode.hpp"
#include "unigram.hpp"

namespace sdcffi::text {

namespace {

std::vector<Prefixes::Row> positions(const Tokens& tokens) {
    std::vector<Prefixes::Row> rows;
    for (size_t i = 0; i < tokens.size(); i++) {
        rows.emplace_back(tokens[i].first, static_cast<int>(i));
    }
    return rows;
}

// Appends tokens with the next free ids, and returns those with their ids.
Tokens append(Tokens& tokens, const std::vector<std::string>& more) {
    const size_t start = tokens.size();
    for (const std::string& token : more) {
        tokens.emplace_back(token, static_cast<int>(tokens.size()));
    }
    return {tokens.begin() + start, tokens.end()};
}

// The tokens of a vocabulary that is not written down: bytes, what merges give, special tokens.
struct Implied {
    Tokens tokens, special;

    Implied(const std::vector<Bpe::Merge>& merges, const std::vector<std::string>& endings, const std::vector<std::string>& special_tokens) {
        std::vector<std::string> names;
        names.reserve(merges.size() + 1024);
        for (const std::string& ending : endings) {
            for (const auto& [byte, letter] : byte_letters()) {
                names.push_back(letter + ending);
            }
        }
        for (const auto& [first, second] : merges) {
            names.emplace_back(first).append(second);
        }
        append(tokens, names);
        special = append(tokens, special_tokens);
    }
};

}  // namespace

WordModel::WordModel(Tokens tokens, const std::vector<Bpe::Merge>& merges, Bpe::Letters letters, const std::string& end_of_word,
                     int unknown, const Tokens& special_tokens)
    : bpe(std::move(tokens), merges, letters, end_of_word, unknown), special_tokens(special_tokens), special_index(positions(this->special_tokens)) {}

Words WordModel::words(std::u32string_view text) const {
    return split != nullptr ? split(text) : text.empty() ? Words{} : Words{text};
}

std::u32string clip_normalized(std::u32string_view text) {
    std::u32string spaced;
    spaced.reserve(text.size());
    for (char32_t point : nfc(std::u32string(text))) {
        if (!is(point, white_space)) {
            spaced += point;
        } else if (spaced.empty() || spaced.back() != U' ') {
            spaced += U' ';
        }
    }
    return lower(spaced);
}

SharedWordModel clip_model(const std::string& merges, const std::vector<std::string>& special_tokens) {
    const auto pairs = read_merges(merges);
    Implied implied(pairs, {"", "</w>"}, special_tokens);
    auto model = std::make_shared<WordModel>(std::move(implied.tokens), pairs, Bpe::Letters::bytes, "</w>", implied.special.back().second, implied.special);
    model->split = split_clip;
    return model;
}

SharedWordModel qwen2_model(const std::string& merges, const std::vector<std::string>& special_tokens) {
    const auto pairs = read_merges(merges);
    Implied implied(pairs, {""}, special_tokens);
    auto model      = std::make_shared<WordModel>(std::move(implied.tokens), pairs, Bpe::Letters::bytes, "", implied.special.front().second, implied.special);
    model->split    = split_qwen2;
    model->composed = true;
    return model;
}

SharedWordModel mistral_model(const std::string& merges, const std::string& vocabulary, int special_tokens) {
    Tokens tokens, special;
    const auto json = nlohmann::json::parse(vocabulary);
    tokens.reserve(json.size());
    for (const auto& [token, id] : json.items()) {
        tokens.emplace_back(token, id.get<int>());
        if (tokens.back().second < special_tokens) {
            special.push_back(tokens.back());
        }
    }
    auto model   = std::make_shared<WordModel>(std::move(tokens), read_merges(merges), Bpe::Letters::bytes, "", 0, special);
    model->split = split_tekken;
    return model;
}

SharedUnigram unigram_model(const std::string& json, bool trims) {
    const auto data   = nlohmann::json::parse(json);
    const auto& model = data.at("model");
    Unigram::Settings settings;
    settings.trims   = trims;
    settings.unknown = model.at("unk_id");
    for (const auto& row : model.at("vocab")) {
        settings.pieces.emplace_back(row.at(0).get<std::string>(), row.at(1).get<double>());
    }
    for (const auto& token : data.at("added_tokens")) {
        settings.added_tokens.emplace_back(token.at("content").get<std::string>(), token.at("id").get<int>());
    }
    for (const auto& step : data.at("normalizer").at("normalizers")) {
        if (step.at("type") == "Precompiled") {
            settings.charsmap = Charsmap(step.at("precompiled_charsmap").get_ref<const std::string&>());
        }
    }
    return std::make_shared<Unigram>(std::move(settings));
}

}  // namespace sdcffi::text
