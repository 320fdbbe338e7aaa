// Readers of files below what a model needs.
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/testing/testing.hpp"
#include "format/gguf_container.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

using namespace py::literals;

py::list gguf_tensors(const std::string& path) {
  std::vector<InputFile> files;
  files.emplace_back(path);
  py::list tensors;
  for (const GgufTensor& tensor : read_gguf_container(files).tensors) {
    tensors.append(py::dict("name"_a = tensor.name, "type"_a = traits(tensor.type).name,
                            "ne"_a = tensor.ne, "file"_a = tensor.file, "offset"_a = tensor.offset,
                            "size_bytes"_a = tensor.size_bytes));
  }
  return tensors;
}

}  // namespace

void bind_readers(py::module_& testing) {
  testing.def("gguf_tensors", &gguf_tensors, py::arg("path"),
              "Return where the tensors of a GGUF file of any architecture are.");
}

}  // namespace starchat
