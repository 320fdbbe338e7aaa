// Binds what can be known about a model file without loading it, and the block oracle for tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/errors.hpp"
#include "bindings/bindings.hpp"
#include "bindings/waiting.hpp"
#include "format/duplicates.hpp"
#include "format/ggml_bin.hpp"
#include "text/tokenizer.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

// What remains when repeated heads and a repeated output matrix are kept once.
struct Unique {
  bool is_multi_query, lm_head_is_wte;
  uint64_t size_bytes, n_params;
};

Unique count_unique(const ModelFile& file) {
  Unique unique{is_multi_query(file), lm_head_equals_wte(file), 0, 0};
  const auto n_head = static_cast<uint64_t>(file.config.n_head);
  for (const TensorInfo& tensor : file.tensors) {
    if (unique.lm_head_is_wte && tensor.name == "model/lm_head") continue;
    uint64_t n_params = static_cast<uint64_t>(tensor.n_cols) * static_cast<uint64_t>(tensor.n_rows);
    if (unique.is_multi_query && tensor.name.find("/c_attn/") != std::string::npos) {
      n_params = n_params / (3 * n_head) * (n_head + 2);  // heads of q, k, v
    }
    unique.n_params += n_params;
    unique.size_bytes += size_of_weights(tensor.type, n_params);
  }
  return unique;
}

py::dict vocabulary_summary(const std::vector<std::string>& vocabulary) {
  uint64_t size_bytes = 0;
  size_t longest_bytes = 0;
  for (const std::string& token : vocabulary) {
    size_bytes += token.size();
    longest_bytes = std::max(longest_bytes, token.size());
  }
  const std::unordered_set<std::string_view> distinct(vocabulary.begin(), vocabulary.end());
  py::dict summary;
  summary["n_tokens"] = vocabulary.size();
  summary["n_distinct"] = distinct.size();
  summary["size_bytes"] = size_bytes;
  summary["longest_bytes"] = longest_bytes;
  const Tokenizer tokenizer(vocabulary);
  py::list control_tokens;
  for (const int32_t id : tokenizer.special_ids()) {
    control_tokens.append(py::str(std::string(tokenizer.token_bytes(id))));
  }
  summary["control_tokens"] = control_tokens;
  return summary;
}

py::dict tensor_summary(const TensorInfo& tensor, bool is_vector) {
  py::dict summary;
  summary["name"] = tensor.name;
  summary["type"] = traits(tensor.type).name;
  summary["shape"] = is_vector ? py::tuple(py::make_tuple(tensor.n_cols))
                               : py::tuple(py::make_tuple(tensor.n_rows, tensor.n_cols));
  summary["offset"] = tensor.offset;
  summary["size_bytes"] = tensor.size_bytes;
  return summary;
}

py::dict inspect(const py::object& path_like) {
  const auto path = py::module_::import("os").attr("fsencode")(path_like).cast<std::string>();
  std::shared_ptr<ModelFile> file;
  Unique unique{};
  {
    const GilReleased released;
    file = open_ggml(path);
    unique = count_unique(*file);
  }
  const DecoderConfig& c = file->config;
  py::list tensors;
  for (const TensorInfo& tensor : file->tensors) {
    const bool is_vector = tensor.name.ends_with("/b") || tensor.name.ends_with("/g");
    tensors.append(tensor_summary(tensor, is_vector));
  }
  py::dict result;
  result["path"] = py::module_::import("os").attr("fsdecode")(py::bytes(file->path));
  result["format"] = "ggml";
  result["size_bytes"] = file->size_bytes;
  result["n_vocab"] = c.n_vocab;
  result["n_ctx"] = c.n_ctx;
  result["n_embd"] = c.n_embd;
  result["n_head"] = c.n_head;
  result["n_layer"] = c.n_layer;
  result["ftype"] = file->ftype;
  result["weight_type"] = traits(file->weight_type).name;
  result["has_lm_head"] = file->has_lm_head;
  result["lm_head_is_wte"] = unique.lm_head_is_wte;
  result["multi_query"] = unique.is_multi_query;
  result["n_kv_head"] = unique.is_multi_query ? 1 : c.n_head;
  result["n_params"] = unique.n_params;
  result["weight_bytes"] = unique.size_bytes;
  result["vocabulary"] = vocabulary_summary(file->vocabulary);
  result["tensors"] = tensors;
  return result;
}

py::array_t<float> dequantize(const py::bytes& data, int32_t ggml_type) {
  const auto type = find_type(&TypeTraits::ggml_id, ggml_type);
  const std::string_view bytes = data;
  if (!type || bytes.size() % traits(*type).block_bytes != 0) {
    throw InvalidRequestError(std::to_string(bytes.size()) + " bytes are no whole blocks of type " +
                              std::to_string(ggml_type));
  }
  py::array_t<float> weights(static_cast<py::ssize_t>(bytes.size() / traits(*type).block_bytes *
                                                      traits(*type).block_weights));
  dequantize_row(*type, reinterpret_cast<const std::byte*>(bytes.data()), weights.mutable_data(),
                 static_cast<size_t>(weights.size()));
  return weights;
}

std::vector<TypeTraits> tensor_types() {
  return {std::begin(kTensorTypes), std::end(kTensorTypes)};
}

py::array_t<uint16_t> to_half(const py::array_t<float, py::array::c_style>& values) {
  py::array_t<uint16_t> halves(values.size());
  std::transform(values.data(), values.data() + values.size(), halves.mutable_data(), f32_to_f16);
  return halves;
}

}  // namespace

void bind_format(py::module_& module) {
  py::class_<TypeTraits>(module, "TensorType", "A type of tensors and the layout of its blocks.")
      .def_readonly("name", &TypeTraits::name)
      .def_readonly("ggml_id", &TypeTraits::ggml_id)
      .def_readonly("ftype", &TypeTraits::ftype)
      .def_readonly("block_weights", &TypeTraits::block_weights)
      .def_readonly("block_bytes", &TypeTraits::block_bytes)
      .def_property_readonly("bits", [](const TypeTraits& type) { return type.kind.bits; });
  module.def("tensor_types", &tensor_types, "Return every tensor type that files may have.");
  module.def("inspect", &inspect, py::arg("path"),
             "Return what is in a model file, read and checked without loading its weights.");
  module.def("_dequantize", &dequantize, py::arg("data"), py::arg("ggml_type"),
             "Return float32 weights of whole blocks: the oracle that kernels are tested against.");
  module.def("_to_half", &to_half, py::arg("values"),
             "Return the bits of float32 values in half precision.");
}

}  // namespace starchat
