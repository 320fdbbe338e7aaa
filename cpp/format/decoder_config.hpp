// The shape of a decoder, whatever the format of its file.
#pragma once
#include <cstdint>

namespace starchat {

struct DecoderConfig {
  int32_t n_vocab, n_ctx;  // rows of the token embedding and of the learned positions
  int32_t n_embd, n_layer;
  int32_t n_head, n_kv_head, head_dim;  // n_head / n_kv_head query heads share a key head
  int32_t n_inner;                      // width of the feed-forward network
  float norm_eps;                       // added to the variance by every layer norm

  int32_t q_width() const { return n_head * head_dim; }
  int32_t kv_width() const { return n_kv_head * head_dim; }  // of the keys; so many values again
};

}  // namespace starchat
