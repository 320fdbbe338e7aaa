// Which token ids of two vocabularies are the same token: those of a model and of its draft model.
#pragma once
#include <cstdint>
#include <vector>

namespace starchat {

struct IdMap {
  std::vector<int32_t> to_draft;  // by id of the model; some control token where the draft has none
  std::vector<int32_t> to_model;  // by id of the draft; -1: the model has no such token
  int n_same = 0;                 // ids below are the same in both
};

}  // namespace starchat
