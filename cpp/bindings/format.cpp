// Binds inspect(), the list of tensor types and the slow dequantizer for tests.
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
#include "format/open_model.hpp"
#include "model/kv_store.hpp"
#include "text/tokenizer.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

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

py::dict tensor_summary(const StoredTensor& tensor) {
  py::dict summary;
  summary["name"] = tensor.name;
  summary["type"] = traits(tensor.type).name;
  summary["shape"] = py::tuple(py::cast(tensor.shape));
  summary["offset"] = tensor.offset;
  summary["size_bytes"] = tensor.size_bytes;
  return summary;
}

int32_t context_size(const std::string& path) {
  const GilReleased released;
  return open_model(path).config.n_ctx;
}

py::dict inspect(const py::object& path_like) {
  const auto path = py::module_::import("os").attr("fsencode")(path_like).cast<std::string>();
  const ModelFile file = [&] {
    const GilReleased released;
    ModelFile opened = open_model(path);
    remove_duplicates(opened);
    return opened;
  }();
  const DecoderConfig& c = file.config;
  uint64_t size_bytes = 0;
  for (const InputFile& part : file.files) size_bytes += part.size_bytes();
  py::list tensors;
  for (const StoredTensor& tensor : file.stored) tensors.append(tensor_summary(tensor));
  py::dict result;
  result["path"] = py::module_::import("os").attr("fsdecode")(py::bytes(file.path()));
  result["format"] = file.format;
  result["size_bytes"] = size_bytes;
  result["n_vocab"] = c.n_vocab;
  result["n_ctx"] = c.n_ctx;
  result["n_embd"] = c.n_embd;
  result["n_head"] = c.n_head;
  result["n_layer"] = c.n_layer;
  result["ftype"] = file.ftype;
  result["weight_type"] = file.quantization;
  result["has_lm_head"] = file.repeats_token_embedding || file.find(Role::Output) != nullptr;
  result["lm_head_is_wte"] = file.repeats_token_embedding;
  result["multi_query"] = c.n_kv_head == 1;
  result["n_kv_head"] = c.n_kv_head;
  result["kv_page_tokens"] = kPagePositions;
  result["kv_page_bytes"] = KvStore({c.n_layer, c.n_kv_head, c.head_dim}).page_bytes();
  result["n_params"] = file.n_params();
  result["weight_bytes"] = file.weight_bytes();
  result["vocabulary"] = vocabulary_summary(file.vocabulary);
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
  module.def(
      "context_size", &context_size, py::arg("path"),
      "Return the tokens of context by a file's header, checked without loading its weights.");
  module.def("_dequantize", &dequantize, py::arg("data"), py::arg("ggml_type"),
             "Return float32 weights of whole blocks: the oracle that kernels are tested against.");
  module.def("_to_half", &to_half, py::arg("values"),
             "Return the bits of float32 values in half precision.");
}

}  // namespace starchat
