#include "word_model.hpp"

#include <algorithm>
#include <cstdint>

#include "json.hpp"
#include "numbered.hpp"
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

// A vocabulary that is not written down: bytes, what merges give, special tokens. `unknown` is the number of one of them.
std::shared_ptr<WordModel> implied_model(std::string_view merges, const std::vector<std::string>& endings,
                                         const std::vector<std::string>& special_tokens, size_t unknown) {
    const size_t count = std::count(merges.begin(), merges.end(), '\n') + 1;
    Strings tokens;
    tokens.reserve(count + 1024, merges.size() + 8192);
    int next = 0;
    for (const std::string& ending : endings) {
        for (const auto& [byte, letter] : byte_letters()) {
            tokens.add(next++, letter, ending);
        }
    }
    const int first_merged = next;
    std::vector<std::uint16_t> splits;
    splits.reserve(count);
    each_merge(merges, [&](size_t, std::string_view first, std::string_view second) {
        tokens.add(next++, first, second);
        splits.push_back(static_cast<std::uint16_t>(first.size()));
    });
    Tokens special;
    for (const std::string& token : special_tokens) {
        special.emplace_back(token, next);
        tokens.add(next++, token);
    }
    return std::make_shared<WordModel>(
        Bpe(std::move(tokens), {first_merged, std::move(splits)}, Bpe::Letters::bytes, endings.back(), special[unknown].second), special);
}

}  // namespace

WordModel::WordModel(Bpe bpe, const Tokens& special_tokens)
    : bpe(std::move(bpe)), special_tokens(special_tokens), special_index(positions(this->special_tokens)) {}

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

SharedWordModel clip_model(std::string_view merges, const std::vector<std::string>& special_tokens) {
    auto model   = implied_model(merges, {"", "</w>"}, special_tokens, special_tokens.size() - 1);
    model->split = split_clip;
    return model;
}

SharedWordModel qwen2_model(std::string_view merges, const std::vector<std::string>& special_tokens) {
    auto model      = implied_model(merges, {""}, special_tokens, 0);
    model->split    = split_qwen2;
    model->composed = true;
    return model;
}

SharedWordModel mistral_model(std::string merges, const std::string& vocabulary, int special_tokens) {
    Strings tokens;
    Tokens special;
    tokens.reserve(0, vocabulary.size());
    each_numbered(vocabulary, [&](std::string_view token, double number) {
        const int id = static_cast<int>(number);
        tokens.add(id, token);
        if (id < special_tokens) {
            special.emplace_back(token, id);
        }
    });
    std::sort(special.begin(), special.end());
    auto model   = std::make_shared<WordModel>(Bpe(std::move(tokens), Bpe::Merges(std::move(merges)), Bpe::Letters::bytes, "", 0), special);
    model->split = split_tekken;
    return model;
}

SharedUnigram unigram_model(const std::string& json, bool trims) {
    Unigram::Settings settings;
    settings.trims      = trims;
    const size_t start  = json.find("\"vocab\":");
    const size_t length = each_numbered(std::string_view(json).substr(start), [&](std::string_view piece, double score) {
        settings.pieces.add(static_cast<int>(settings.scores.size()), piece);
        settings.scores.push_back(static_cast<float>(score));
    });
    const auto data     = nlohmann::json::parse(json.substr(0, start) + "\"vocab\":null" + json.substr(start + length));
    settings.unknown    = data.at("model").at("unk_id");
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
