// Binds the list of tensor types, and the quantizers and dequantizers of their blocks.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/thread_pool.hpp"
#include "bindings/bindings.hpp"
#include "bindings/waiting.hpp"
#include "quant/quantize.hpp"

namespace py = pybind11;

namespace starchat {

TensorType type_named(const std::string& name) {
  if (const auto type = find_type(&TypeTraits::name, name)) return *type;
  std::string names;
  for (const TypeTraits& type : kTensorTypes)
    names += (names.empty() ? "" : ", ") + std::string(type.name);
  throw InvalidRequestError("unknown tensor type '" + name.substr(0, 40) + "', expected one of " +
                            names);
}

namespace {

template <class Value>
using Rows = py::array_t<Value, py::array::c_style | py::array::forcecast>;

size_t row_bytes(const TypeTraits& type, size_t n_cols) {
  if (n_cols % type.block_weights == 0) return size_of_weights(type.type, n_cols);
  throw InvalidRequestError("rows of " + std::to_string(n_cols) + " weights do not divide into " +
                            "blocks of " + std::to_string(type.block_weights) + ", as " +
                            type.name + " has them");
}

template <class Value>
void check_matrix(const Rows<Value>& rows) {
  if (rows.ndim() != 2) throw InvalidRequestError("expected rows of one length: two dimensions");
}

// rows (n, n_cols) -> (n, bytes of a row). importance: (n_cols).
py::array_t<uint8_t> quantize(const Rows<float>& rows, const std::string& type_name, int n_threads,
                              const std::optional<Rows<float>>& importance) {
  const TensorType type = type_named(type_name);
  check_matrix(rows);
  const size_t n_rows = rows.shape(0), n_cols = rows.shape(1);
  const size_t n_bytes = row_bytes(traits(type), n_cols);
  if (importance && static_cast<size_t>(importance->size()) != n_cols) {
    throw InvalidRequestError("importance: expected " + std::to_string(n_cols) + " values, got " +
                              std::to_string(importance->size()));
  }
  py::array_t<uint8_t> blocks({n_rows, n_bytes});
  const float* const src = rows.data();
  auto* const dst = reinterpret_cast<std::byte*>(blocks.mutable_data());
  const std::span<const float> columns =
      importance ? std::span(importance->data(), n_cols) : std::span<const float>();
  constexpr size_t kThreadWeights = 1 << 16;  // fewer are done before another thread has started
  if (n_threads <= 0) n_threads = available_cores();
  n_threads = std::min(n_threads, static_cast<int>(n_rows * n_cols / kThreadWeights) + 1);
  {
    GilReleased released;
    const py::object nobody = py::none();
    ProgressReport signals(released, nobody);
    ThreadPool threads(n_threads);
    quantize_rows(type, src, n_rows, n_cols, dst, columns, threads,
                  [&](size_t n_done) { signals(n_done, n_rows); });
  }
  return blocks;
}

// rows (n, bytes of a row) -> (n, n_cols)
py::array_t<float> dequantize(const Rows<uint8_t>& rows, const std::string& type_name) {
  const TensorType type = type_named(type_name);
  check_matrix(rows);
  const TypeTraits& its = traits(type);
  const size_t n_rows = rows.shape(0), n_bytes = rows.shape(1);
  if (n_bytes % its.block_bytes != 0) {
    throw InvalidRequestError("rows of " + std::to_string(n_bytes) + " bytes do not divide into " +
                              its.name + " blocks of " + std::to_string(its.block_bytes));
  }
  const size_t n_cols = n_bytes / its.block_bytes * its.block_weights;
  py::array_t<float> weights({n_rows, n_cols});
  const auto* const src = reinterpret_cast<const std::byte*>(rows.data());
  float* const dst = weights.mutable_data();
  const GilReleased released;
  dequantize_row(type, src, dst, n_rows * n_cols);
  return weights;
}

std::vector<int> halves(const TypeTraits& type) {
  std::vector<int> offsets;
  for (int i = 0; i < type.n_halves(); ++i) offsets.push_back(type.halves_at + 2 * i);
  return offsets;
}

}  // namespace

void bind_quant(py::module_& module) {
  py::class_<TypeTraits>(module, "TensorType", "A type of tensors and the layout of its blocks.")
      .def_readonly("name", &TypeTraits::name)
      .def_readonly("ggml_id", &TypeTraits::ggml_id)
      .def_readonly("ftype", &TypeTraits::ftype)
      .def_readonly("block_weights", &TypeTraits::block_weights)
      .def_readonly("block_bytes", &TypeTraits::block_bytes)
      .def_property_readonly("bits", [](const TypeTraits& type) { return type.kind.bits; })
      .def_property_readonly("halves", &halves)
      .def("row_bytes", &row_bytes, py::arg("n_cols"));
  module.def(
      "tensor_types", [] { return std::vector(std::begin(kTensorTypes), std::end(kTensorTypes)); },
      "Return every tensor type that files may have.");
  module.def("quantize", &quantize, py::arg("rows"), py::arg("type"), py::arg("n_threads") = 0,
             py::arg("importance") = py::none(), "Return rows of floats as bytes of a type.");
  module.def("dequantize", &dequantize, py::arg("rows"), py::arg("type"),
             "Return rows of bytes of a type as floats.");
}

}  // namespace starchat
