// The properties of a loaded model, as plain values.
#pragma once
#include <cstdint>
#include <string>

#include "format/decoder_config.hpp"

namespace starchat {

// Where a model is computed. A device has the last layers, and the output with them.
struct Placement {
  int gpu_layers = 0;  // more than there are: all; negative: as many as fit
  std::string device;  // as open_device() knows it; "": the best one
};

struct ModelInfo {
  std::string file, quantization, isa;
  DecoderConfig config;
  int n_threads;
  Placement placement;    // as it came to be
  uint64_t n_params;      // unique ones: copies that the file stores are not counted
  uint64_t weight_bytes;  // resident
};

}  // namespace starchat
