// The properties of a loaded model, as plain values.
#pragma once
#include <cstdint>
#include <string>

#include "format/decoder_config.hpp"

namespace starchat {

struct ModelInfo {
  std::string file, quantization, isa;
  DecoderConfig config;
  int n_threads;
  uint64_t n_params;      // unique ones: copies that the file stores are not counted
  uint64_t weight_bytes;  // resident
};

}  // namespace starchat
