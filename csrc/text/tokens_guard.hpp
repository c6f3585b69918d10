// sdg_tokens. engine/lora_guard.hpp includes this file, where sd_ctx_t is complete.
#ifndef SDCFFI_TOKENS_GUARD_HPP
#define SDCFFI_TOKENS_GUARD_HPP

#include <algorithm>
#include <deque>
#include <string>
#include <vector>

#include "guard/guarded_call.hpp"
#include "notes.hpp"
#include "record.hpp"
#include "wan_text.hpp"

namespace sdcffi {

// The rows of the last call, which point into one another.
struct TokenRows {
    std::vector<RecordedText> texts;
    std::deque<std::vector<sdg_token>> tokens;
    std::deque<std::vector<sdg_chunk>> chunks;
    std::vector<sdg_encoder_tokens> rows;

    // Takes the last text of each encoder: a conditioner may measure its template before.
    void fill(std::vector<RecordedText> recorded) {
        texts.clear();
        for (RecordedText& text : recorded) {
            const auto same = std::find_if(texts.begin(), texts.end(), [&](const RecordedText& other) { return other.encoder == text.encoder; });
            if (same != texts.end()) {
                *same = std::move(text);
            } else {
                texts.push_back(std::move(text));
            }
        }
        tokens.clear();
        chunks.clear();
        rows.clear();
        for (const RecordedText& text : texts) {
            chunks.emplace_back();
            for (const RecordedChunk& chunk : text.chunks) {
                tokens.emplace_back();
                for (size_t i = 0; i < chunk.ids.size(); i++) {
                    tokens.back().push_back({chunk.ids[i], chunk.weights[i], chunk.texts[i].c_str()});
                }
                chunks.back().push_back({tokens.back().data(), tokens.back().size(), chunk.length, chunk.padding});
            }
            rows.push_back({text.encoder.c_str(), chunks.back().data(), chunks.back().size(), text.limit, text.cut.c_str(), text.unknown.c_str()});
        }
    }
};

}  // namespace sdcffi

sdg_status sdg_tokens(sd_ctx_t* context, const char* prompt, const sdg_encoder_tokens** rows, size_t* count, sdg_error* error) {
    return sdcffi::guard(error, [&] {
        sdcffi::notes().clear();
        std::vector<sdcffi::RecordedText> recorded;
        if (context->sd->cond_stage_model) {
            sdcffi::Restored<std::vector<sdcffi::RecordedText>*> recording(sdcffi::record, &recorded);
            sdcffi::Restored<bool> nothing_computed(sdcffi::only_tokens, true);
            ConditionerParams params;
            params.text = sdcffi::text_for(context->sd->version, prompt);
            try {
                context->sd->cond_stage_model->get_learned_condition(1, params);
            } catch (const sdcffi::OnlyTokens&) {
            }
        }
        static thread_local sdcffi::TokenRows found;
        found.fill(std::move(recorded));
        *rows  = found.rows.data();
        *count = found.rows.size();
        return true;
    });
}

#endif
