#include "format/checkpoint.hpp"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

#include "format/ggml_bin.hpp"
#include "format/header_reader.hpp"

namespace starchat {
namespace {

void check_config(const ModelFile& file) {
  const DecoderConfig& c = file.config;
  constexpr int32_t kMost = 1 << 20;  // so that no product of sizes overflows
  const bool is_in_range =
      std::ranges::all_of(std::array{c.n_embd, c.n_head, c.n_inner / 4, c.n_ctx / 16},
                          [](int32_t n) { return n <= kMost; }) &&
      c.n_layer <= 1 << 10 && c.n_vocab <= 1 << 24;
  if (is_in_range && c.n_embd % kBlock == 0 && c.n_inner % kBlock == 0 &&
      c.n_embd % c.n_head == 0 && c.n_embd / c.n_head % 2 == 0 && c.norm_eps > 0 &&
      c.norm_eps < 1) {
    return;
  }
  fail<UnsupportedFormatError>(
      file.path(), "n_embd ", c.n_embd, ", n_inner ", c.n_inner, ", n_head ", c.n_head,
      ", layer_norm_epsilon ", c.norm_eps, ", expected both widths to be multiples of ", kBlock,
      ", heads of an even number of values, and an epsilon between 0 and 1");
}

Tensor tensor_of(const ModelFile& file, const ExpectedTensor& expected,
                 const CheckpointTensor& given) {
  const std::vector<int64_t> shape(expected.ne.rbegin(), expected.ne.rend());
  if (given.shape != shape) {
    fail<CorruptFileError>(file.path(), given.name, ": shape ", shape_text(given.shape),
                           ", expected ", shape_text(shape));
  }
  const bool is_matrix = shape.size() == 2;
  Tensor tensor{expected.role, expected.layer, given.type, is_matrix ? shape[1] : 1, {},
                given.name};
  const TypeTraits& type = traits(given.type);
  if (tensor.n_cols % type.block_weights != 0) {
    fail<UnsupportedFormatError>(file.path(), given.name, ": ", type.name, " has blocks of ",
                                 type.block_weights, " weights, and rows have ", tensor.n_cols);
  }
  const uint64_t row_bytes = tensor.row_bytes();
  for (const Extent& part : given.extents) {
    const auto n_rows = static_cast<int64_t>(part.size_bytes / row_bytes);
    if (part.size_bytes % row_bytes != 0 || part.file < 0 || part.file >= std::ssize(file.files)) {
      fail<CorruptFileError>(file.path(), given.name, ": an extent of ", part.size_bytes,
                             " bytes, expected whole rows of ", row_bytes);
    }
    tensor.sources.push_back({part.file, part.offset, n_rows});
  }
  if (!given.column_order.empty()) {
    std::vector<int32_t> sorted = given.column_order;
    std::ranges::sort(sorted);
    bool is_order = std::ssize(sorted) == tensor.n_cols;
    for (int32_t i = 0; is_order && i < std::ssize(sorted); ++i) is_order = sorted[i] == i;
    if (!is_order) {
      fail<CorruptFileError>(file.path(), given.name, ": not each of ", tensor.n_cols,
                             " columns has its place in the order");
    }
    tensor.column_order = given.column_order;
  }
  if (given.extents.empty()) tensor.sources.push_back({Source::kMade, 0, shape[0]});
  if (tensor.n_rows() != shape[0]) {
    fail<CorruptFileError>(file.path(), given.name, ": extents of ", tensor.n_rows(),
                           " rows, expected ", shape[0]);
  }
  return tensor;
}

}  // namespace

ModelFile checkpoint(ModelFile file, std::vector<CheckpointTensor> tensors) {
  check_config(file);
  file.config.head_dim = file.config.n_embd / file.config.n_head;
  std::unordered_map<std::string, ExpectedTensor> expected;
  for (ExpectedTensor& each : expected_tensors(file.config, TensorType::F16)) {
    expected.emplace(each.name, each);
  }
  std::map<TensorType, uint64_t> bytes;
  for (const CheckpointTensor& given : tensors) {
    const auto found = expected.find(given.name);
    if (found == expected.end()) {
      fail<CorruptFileError>(file.path(), "unknown tensor ", printable(given.name));
    }
    file.tensors.push_back(tensor_of(file, found->second, given));
    const Tensor& tensor = file.tensors.back();
    const uint64_t size_bytes = static_cast<uint64_t>(tensor.n_rows()) * tensor.row_bytes();
    file.stored.push_back({given.name, given.type, given.shape,
                           given.extents.empty() ? 0 : given.extents.front().offset, size_bytes,
                           given.extents.empty() ? 0 : given.extents.front().file});
    if (tensor.is_matrix()) bytes[given.type] += size_bytes;
    expected.erase(found);
  }
  for (const auto& [name, each] : expected) {
    if (!each.is_optional()) fail<CorruptFileError>(file.path(), "lacks the tensor ", name);
  }
  const auto most = std::ranges::max_element(bytes, {}, [](const auto& b) { return b.second; });
  file.quantization = traits(most->first).name;  // the matrices' type of most bytes
  return file;
}

}  // namespace starchat
