#include "bindings/py_checkpoint.hpp"

#include <fcntl.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <tuple>

#include "base/errors.hpp"
#include "bindings/bindings.hpp"
#include "bindings/memory_checks.hpp"
#include "format/checkpoint.hpp"
#include "text/tokenizer.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

using namespace py::literals;

InputFile duplicate(const std::string& path, int fd) {
  FileDescriptor copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.is_open()) {
    throw FileAccessError(path +
                          ": cannot be opened again: " + std::generic_category().message(errno) +
                          "; close files of this process, or raise its limit (`ulimit -n`)");
  }
  return InputFile(path, std::move(copy));
}

DecoderConfig config_of(const py::dict& config) {
  const auto number = [&](const char* name) { return config[name].cast<int32_t>(); };
  return {.n_vocab = number("n_vocab"),
          .n_ctx = number("n_ctx"),
          .n_embd = number("n_embd"),
          .n_layer = number("n_layer"),
          .n_head = number("n_head"),
          .n_kv_head = number("n_kv_head"),
          .head_dim = number("n_embd") / number("n_head"),
          .n_inner = number("n_inner"),
          .norm_eps = config["norm_eps"].cast<float>()};
}

// Copies rows [first, first + n) of a tensor, which a function of Python makes.
void copy_rows(const py::object& maker, const Tensor& tensor, int64_t first,
               std::span<std::byte> out) {
  const auto n = static_cast<int64_t>(out.size() / tensor.row_bytes());
  const auto rows = maker(first, first + n);
  Py_buffer view;
  if (PyObject_GetBuffer(rows.ptr(), &view, PyBUF_C_CONTIGUOUS) != 0) throw py::error_already_set();
  const bool fits = static_cast<size_t>(view.len) == out.size();
  if (fits) std::memcpy(out.data(), view.buf, out.size());
  PyBuffer_Release(&view);
  if (!fits) throw std::logic_error(tensor.name + ": rows were made of another size");
}

}  // namespace

PyCheckpoint::PyCheckpoint(const std::string& folder,
                           const std::vector<std::pair<std::string, int>>& files,
                           const py::dict& config, std::vector<std::string> vocabulary,
                           const py::bytes& control_ids, const py::bytes& added_ids,
                           const py::bytes& merges, const py::list& tensors) {
  ModelFile file;
  file.format = "Hugging Face";
  file.folder = folder;
  file.config = config_of(config);
  file.vocabulary = vocabulary_of(std::move(vocabulary), control_ids, added_ids, merges);
  for (const auto& [path, fd] : files) file.files.push_back(duplicate(path, fd));
  std::vector<CheckpointTensor> all;
  for (const py::handle each : tensors) {
    const auto [name, type, shape, rows, order] = each.cast<
        std::tuple<std::string, std::string, std::vector<int64_t>, py::object, py::bytes>>();
    CheckpointTensor& tensor = all.emplace_back(
        CheckpointTensor{name, find_type(&TypeTraits::name, type).value(), shape, {}, {}});
    tensor.column_order = int32s(order);
    if (PyCallable_Check(rows.ptr())) {
      makers_.emplace(name, rows);
      continue;
    }
    for (const auto& [index, offset, size_bytes] :
         rows.cast<std::vector<std::tuple<int32_t, uint64_t, uint64_t>>>()) {
      tensor.extents.push_back({index, offset, size_bytes});
    }
  }
  file_ = checkpoint(std::move(file), std::move(all));
}

ModelFile PyCheckpoint::take(GilReleased& released) {
  if (file_.files.empty()) throw std::logic_error("a Checkpoint is loaded once");
  ModelFile file = std::exchange(file_, {});
  file.make_rows = [this, &released](const Tensor& tensor, int64_t first,
                                     std::span<std::byte> out) {
    released.with_gil([&] { copy_rows(makers_.at(tensor.name), tensor, first, out); });
  };
  return file;
}

void bind_checkpoint(py::module_& m) {
  CheckedClass<PyCheckpoint, std::shared_ptr<PyCheckpoint>>(
      m, "Checkpoint", "A model whose files Python has read; loaded once.")
      .def(py::init([](const std::string& folder,
                       const std::vector<std::pair<std::string, int>>& files,
                       const py::dict& config, std::vector<std::string> vocabulary,
                       const py::bytes& control_ids, const py::bytes& added_ids,
                       const py::bytes& merges, const py::list& tensors) {
             return std::make_shared<PyCheckpoint>(folder, files, config, std::move(vocabulary),
                                                   control_ids, added_ids, merges, tensors);
           }),
           py::arg("folder"), py::arg("files"), py::arg("config"), py::arg("vocabulary"),
           py::arg("control_ids"), py::arg("added_ids"), py::arg("merges"), py::arg("tensors"),
           "files: (path, file descriptor) each; these are duplicated. tensors: name as in ggml\n"
           "files, type, shape, extents (file, offset, size) or a function that returns the rows\n"
           "[start, stop) as a buffer, and the order of its columns as int32, or nothing. Raises "
           "UnsupportedFormatError and CorruptFileError.")
      .def("tokenizer", checked(+[](const PyCheckpoint& checkpoint) {
             const ModelFile& file = checkpoint.file();
             return std::make_shared<Tokenizer>(file.vocabulary);
           }),
           "Return the tokenizer.");
}

}  // namespace starchat
