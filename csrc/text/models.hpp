// The vocabularies of the engine's tokenizers. The patched headers of the tokenizers include this file.
#ifndef SDCFFI_TEXT_MODELS_HPP
#define SDCFFI_TEXT_MODELS_HPP

#include <memory>

namespace sdcffi::text {

struct WordModel;
class Unigram;

using SharedWordModel = std::shared_ptr<const WordModel>;
using SharedUnigram   = std::shared_ptr<const Unigram>;

}  // namespace sdcffi::text

#endif
