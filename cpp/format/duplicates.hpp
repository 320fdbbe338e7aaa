// What a file stores more than once: the original converter tiled the one key head and the one
// value head of multi-query models n_head times, and wrote tied output matrices twice.
// Equality is checked byte for byte, in buffers of a few MB.
#pragma once
#include "format/model_file.hpp"

namespace starchat {

// Whether in every layer all n_head copies of K and of V are identical (weights and biases), so
// that one of each serves. Stops at the first difference.
bool is_multi_query(const ModelFile& file, const Progress& progress = {});

// Whether there is a model/lm_head and it repeats model/wte.
bool lm_head_equals_wte(const ModelFile& file, const Progress& progress = {});

}  // namespace starchat
