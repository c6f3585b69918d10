// The names that diffusers gives to the tensors of a ControlNet, and those of the original, which the engine has.
#ifndef SDCFFI_CONTROL_NAMES_HPP
#define SDCFFI_CONTROL_NAMES_HPP

#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace sdcffi {

// Whether a file has a ControlNet in diffusers' names.
template <typename Tensors>
bool is_control_of_diffusers(const Tensors& file) {
    return file.find("controlnet_cond_embedding.conv_in.weight") != file.end();
}

// The original's name for a tensor of such a ControlNet; names that are not in it stay as they are.
inline std::string control_name(const std::string& name) {
    static const std::vector<std::pair<std::string, std::string>> beginnings = {
        {"time_embedding.linear_1.", "time_embed.0."},
        {"time_embedding.linear_2.", "time_embed.2."},
        {"add_embedding.linear_1.", "label_emb.0.0."},
        {"add_embedding.linear_2.", "label_emb.0.2."},
        {"conv_in.", "input_blocks.0.0."},
        {"controlnet_cond_embedding.conv_in.", "input_hint_block.0."},
        {"controlnet_cond_embedding.conv_out.", "input_hint_block.14."},
        {"controlnet_mid_block.", "middle_block_out.0."},
        {"mid_block.resnets.0.", "middle_block.0."},
        {"mid_block.attentions.0.", "middle_block.1."},
        {"mid_block.resnets.1.", "middle_block.2."},
    };
    static const std::vector<std::pair<std::string, std::string>> layers = {
        {"norm1.", "in_layers.0."},
        {"conv1.", "in_layers.2."},
        {"time_emb_proj.", "emb_layers.1."},
        {"norm2.", "out_layers.0."},
        {"conv2.", "out_layers.3."},
        {"conv_shortcut.", "skip_connection."},
    };
    const auto replaced = [](const std::string& text, const auto& table) {
        for (const auto& [old, own] : table) {
            if (text.compare(0, old.size(), old) == 0) {
                return own + text.substr(old.size());
            }
        }
        return text;
    };
    // Takes "WORD.NUMBER." from the beginning of a text.
    const auto number_after = [](std::string& text, const char* word, int& number) {
        const size_t length = std::strlen(word);
        const size_t dot    = text.find('.', length);
        if (text.compare(0, length, word) != 0 || dot == std::string::npos || dot == length ||
            text.find_first_not_of("0123456789", length) != dot) {
            return false;
        }
        number = std::stoi(text.substr(length, dot - length));
        text.erase(0, dot + 1);
        return true;
    };

    std::string rest = name;
    int level = 0, at = 0;
    if (number_after(rest, "controlnet_down_blocks.", at)) {
        return "zero_convs." + std::to_string(at) + ".0." + rest;
    }
    if (number_after(rest, "controlnet_cond_embedding.blocks.", at)) {
        return "input_hint_block." + std::to_string(2 * at + 2) + "." + rest;
    }
    if (number_after(rest, "down_blocks.", level)) {
        const std::string block = "input_blocks.";
        if (number_after(rest, "resnets.", at)) {
            return block + std::to_string(3 * level + at + 1) + ".0." + replaced(rest, layers);
        }
        if (number_after(rest, "attentions.", at)) {
            return block + std::to_string(3 * level + at + 1) + ".1." + rest;
        }
        if (number_after(rest, "downsamplers.", at) && rest.compare(0, 5, "conv.") == 0) {
            return block + std::to_string(3 * level + 3) + ".0.op." + rest.substr(5);
        }
        return name;
    }
    const std::string own = replaced(name, beginnings);
    const size_t part     = name.compare(0, 18, "mid_block.resnets.") == 0 ? std::strlen("middle_block.0.") : std::string::npos;
    return part == std::string::npos ? own : own.substr(0, part) + replaced(own.substr(part), layers);
}

}  // namespace sdcffi

#endif
