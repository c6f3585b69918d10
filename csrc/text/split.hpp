// Splits a text into the words that byte pair encoding is applied to, as the models' regular expressions do, in time that
// grows with the length of the text only.
#ifndef SDCFFI_TEXT_SPLIT_HPP
#define SDCFFI_TEXT_SPLIT_HPP

#include <string_view>
#include <vector>

namespace sdcffi::text {

using Words = std::vector<std::u32string_view>;  // views of the text

// 's|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+   White space is left out.
Words split_clip(std::u32string_view text);

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
Words split_qwen2(std::u32string_view text);

// With U = \p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M} and W = \p{Ll}\p{Lm}\p{Lo}\p{M}:
// [^\r\n\p{L}\p{N}]?[U]*[W]+|[^\r\n\p{L}\p{N}]?[U]+[W]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
Words split_tekken(std::u32string_view text);

// The same with (?i:'s|'t|'re|'ve|'m|'ll|'d)? after each of the first two, and \p{N}{1,3}.
Words split_o200k(std::u32string_view text);

}  // namespace sdcffi::text

#endif
