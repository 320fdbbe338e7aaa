#include "format/duplicates.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace starchat {
namespace {

constexpr uint64_t kBufferBytes = 1 << 20;

// Compares repetitions of a stretch of the file with the first one.
class Comparison {
 public:
  Comparison(const ModelFile& file, const Progress& progress, uint64_t total_bytes)
      : file_(file), progress_(progress), total_bytes_(total_bytes) {}

  // Whether the `count` stretches of `size` bytes at first, first + stride, … are identical.
  bool repeats(uint64_t first, uint64_t size, uint64_t stride, int64_t count) {
    for (uint64_t start = 0; start < size; start += kBufferBytes) {
      const auto n = static_cast<size_t>(std::min(kBufferBytes, size - start));
      file_.read(first + start, {expected_.data(), n});
      for (int64_t copy = 1; copy < count; ++copy) {
        file_.read(first + static_cast<uint64_t>(copy) * stride + start, {actual_.data(), n});
        if (std::memcmp(expected_.data(), actual_.data(), n) != 0) return false;
      }
      done_bytes_ += n * static_cast<uint64_t>(count);
      if (progress_) progress_(done_bytes_, total_bytes_);
    }
    return true;
  }

 private:
  const ModelFile& file_;
  const Progress& progress_;
  uint64_t done_bytes_ = 0, total_bytes_;
  std::vector<std::byte> expected_ = std::vector<std::byte>(kBufferBytes), actual_ = expected_;
};

}  // namespace

bool is_multi_query(const ModelFile& file, const Progress& progress) {
  const DecoderConfig& c = file.config;
  if (c.n_head == 1) return true;
  std::vector<std::pair<const TensorInfo*, uint64_t>> stacks;  // c_attn, bytes of one head's rows
  uint64_t total_bytes = 0;
  const auto add = [&](const std::string& name, bool is_bias) {
    const TensorInfo& info = file.tensor(name);
    const uint64_t row = is_bias ? size_of_weights(info.type, 1) : info.row_bytes();
    stacks.emplace_back(&info, static_cast<uint64_t>(c.head_dim) * row);
    total_bytes += info.size_bytes / 3 * 2;
  };
  for (int32_t layer = 0; layer < c.n_layer; ++layer) {
    const std::string c_attn = "model/h" + std::to_string(layer) + "/attn/c_attn/";
    add(c_attn + "b", true);
    add(c_attn + "w", false);
  }
  Comparison comparison(file, progress, total_bytes);
  return std::all_of(stacks.begin(), stacks.end(), [&](const auto& stack) {
    const auto [c_attn, head_bytes] = stack;
    const uint64_t third = c_attn->size_bytes / 3;  // q | k | v
    return comparison.repeats(c_attn->offset + third, head_bytes, head_bytes, c.n_head) &&
           comparison.repeats(c_attn->offset + 2 * third, head_bytes, head_bytes, c.n_head);
  });
}

bool lm_head_equals_wte(const ModelFile& file, const Progress& progress) {
  if (!file.has_lm_head) return false;
  const TensorInfo& a = file.tensor("model/wte");
  const TensorInfo& b = file.tensor("model/lm_head");
  if (a.type != b.type || a.size_bytes != b.size_bytes) return false;
  const TensorInfo& first = a.offset < b.offset ? a : b;
  const uint64_t stride = (a.offset < b.offset ? b.offset : a.offset) - first.offset;
  return Comparison(file, progress, 2 * a.size_bytes)
      .repeats(first.offset, a.size_bytes, stride, 2);
}

}  // namespace starchat
