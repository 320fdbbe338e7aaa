// The ModelFile of a checkpoint, whose files others have read: Python knows the formats of folders.
// Refuses what contradicts the architecture, or what no file of another format could have.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "format/model_file.hpp"

namespace starchat {

// Bytes of one of the files.
struct Extent {
  int32_t file;
  uint64_t offset, size_bytes;
};

struct CheckpointTensor {
  std::string name;  // as in ggml files
  TensorType type;
  std::vector<int64_t> shape;   // slowest first
  std::vector<Extent> extents;  // its rows, one after the other; none: they are made
  std::vector<int32_t> column_order;
};

// `file` has the files, the vocabulary and the config without head_dim, which this completes.
// Throws UnsupportedFormatError and CorruptFileError.
ModelFile checkpoint(ModelFile file, std::vector<CheckpointTensor> tensors);

}  // namespace starchat
