// The tokens of a model as its file has them: readers of files fill it, the tokenizer takes it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace starchat {

struct Vocabulary {
  struct Merge {  // of ids: the bytes of `merged` are those of `left` and `right`
    int32_t left, right, merged;
  };

  std::vector<std::string> tokens;   // raw bytes of each id; empty: a row without a token
  std::vector<int32_t> control_ids;  // those that the file names; most files name none
  std::vector<int32_t> added_ids;    // user-defined ones: cut out of texts before merges
  std::vector<Merge> merges;         // in the order of their ranks; empty: that of ids
};

}  // namespace starchat
