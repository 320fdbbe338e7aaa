// Whether two vocabularies are of one family: then they differ in added tokens at the end alone,
// as those of StarCoder and StarChat, and a model can guess for the other.
#pragma once
#include <string>

#include "base/id_map.hpp"
#include "text/tokenizer.hpp"

namespace starchat {

// The names are those of the files, for messages. Throws InvalidRequestError where another token
// than an added one differs.
IdMap match_vocabularies(const Tokenizer& model, const std::string& model_name,
                         const Tokenizer& draft, const std::string& draft_name);

}  // namespace starchat
