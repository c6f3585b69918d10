// What a caller should know about what was made of the prompts of a call: the text that was cut, for example.
#ifndef SDCFFI_NOTES_HPP
#define SDCFFI_NOTES_HPP

#include <string>
#include <vector>

namespace sdcffi {

// The notes of this thread's call, each once.
std::vector<std::string>& notes();

// Adds a note and logs it as a warning, unless the call has it already.
void note(const std::string& text);

// Returns a text for a message: its first 200 bytes, with white space as blanks.
std::string shortened(const std::string& text);

}  // namespace sdcffi

#endif
