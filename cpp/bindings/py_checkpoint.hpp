// The Python class Checkpoint: a model whose files Python has read, to be loaded or inspected once.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bindings/waiting.hpp"
#include "format/model_file.hpp"

namespace starchat {

class PyCheckpoint {
 public:
  // files: (path, file descriptor). tensors: (name, type, shape, extents in files or a function
  // that returns rows [start, stop) as a buffer, order of columns). The descriptors need not stay
  // open. Numbers in bytes are int32; merges are (left, right, merged) by rank, or none.
  PyCheckpoint(const std::string& folder, const std::vector<std::pair<std::string, int>>& files,
               const pybind11::dict& config, std::vector<std::string> vocabulary,
               const pybind11::bytes& control_ids, const pybind11::bytes& added_ids,
               const pybind11::bytes& merges, const pybind11::list& tensors);

  const ModelFile& file() const { return file_; }
  // What to load, once; rows are made with the GIL, while this object lives.
  ModelFile take(GilReleased& released);

 private:
  ModelFile file_;
  std::unordered_map<std::string, pybind11::object> makers_;  // by tensor
};

}  // namespace starchat
