// Finds rows that a file stores more than once, and lists them once. ggml `starcoder` files repeat
// the key and value head of multi-query models for every query head; files of models with tied
// weights repeat the token embedding as the output matrix.
#pragma once
#include "format/model_file.hpp"

namespace starchat {

// Both remove copies only if they are the same bytes in every layer.

// Sets n_kv_head. Before, it is n_head, and the Qkv tensors and biases have one source each.
void fold_kv_heads(ModelFile& file);

// Sets repeats_token_embedding.
void fold_output(ModelFile& file);

}  // namespace starchat
