#include "format/duplicates.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

namespace starchat {
namespace {

constexpr uint64_t kBufferBytes = 1 << 20;

// Compares parts of files that may be copies of each other.
class Comparison {
 public:
  explicit Comparison(const ModelFile& file) : file_(file) {}

  // The largest divisor d of n_copies such that, in each run of d consecutive parts, all are copies
  // of each other. Each part begins at its source and has `size` bytes.
  int64_t count_copies(std::span<const Source> sources, uint64_t size, int64_t n_copies) {
    for (uint64_t start = 0; start < size; start += kBufferBytes) {
      const auto n = static_cast<size_t>(std::min(kBufferBytes, size - start));
      for (size_t i = 0; i < sources.size(); ++i) {
        file_.files[sources[i].file].read(sources[i].offset + start, {current_.data(), n});
        if (i > 0 && std::memcmp(previous_.data(), current_.data(), n) != 0) {
          n_copies = std::gcd(n_copies, static_cast<int64_t>(i));  // a run begins here
          if (n_copies == 1) return 1;
        }
        std::swap(previous_, current_);
      }
    }
    return n_copies;
  }

 private:
  const ModelFile& file_;
  std::vector<std::byte> previous_ = std::vector<std::byte>(kBufferBytes), current_ = previous_;
};

// The rows of one head after the other, from a row of the source on.
std::vector<Source> heads_of(const Source& rows, uint64_t row_bytes, int64_t first, int n_heads,
                             int head_dim) {
  std::vector<Source> heads;
  for (int64_t row = first; std::ssize(heads) < n_heads; row += head_dim) {
    heads.push_back({rows.file, rows.offset + static_cast<uint64_t>(row) * row_bytes, head_dim});
  }
  return heads;
}

}  // namespace

void fold_kv_heads(ModelFile& file) {
  DecoderConfig& c = file.config;
  struct Stack {
    Tensor* tensor;
    std::vector<Source> keys, values;  // by head
  };
  std::vector<Stack> stacks;
  for (Tensor& tensor : file.tensors) {
    if (tensor.role != Role::Qkv && tensor.role != Role::QkvBias) continue;
    const auto heads = [&](int64_t first) {
      return heads_of(tensor.sources.front(), tensor.row_bytes(), first, c.n_kv_head, c.head_dim);
    };
    stacks.push_back({&tensor, heads(c.q_width()), heads(c.q_width() + c.kv_width())});
  }
  Comparison comparison(file);
  int64_t n_copies = c.n_kv_head;
  for (const Stack& stack : stacks) {
    const uint64_t size = static_cast<uint64_t>(c.head_dim) * stack.tensor->row_bytes();
    for (const auto* heads : {&stack.keys, &stack.values}) {
      if (n_copies > 1) n_copies = comparison.count_copies(*heads, size, n_copies);
    }
  }
  if (n_copies == 1) return;
  c.n_kv_head /= static_cast<int32_t>(n_copies);
  for (Stack& stack : stacks) {
    std::vector<Source>& sources = stack.tensor->sources;
    sources.front().n_rows = c.q_width();
    for (const auto* heads : {&stack.keys, &stack.values}) {
      for (size_t i = 0; i < heads->size(); i += n_copies) sources.push_back((*heads)[i]);
    }
  }
}

void fold_output(ModelFile& file) {
  const Tensor& embedding = file.tensor(Role::TokenEmbedding);
  const Tensor* output = file.find(Role::Output);
  if (output == nullptr || output->type != embedding.type ||
      output->n_rows() != embedding.n_rows() || output->sources.size() != 1 ||
      embedding.sources.size() != 1) {
    return;
  }
  const uint64_t size = static_cast<uint64_t>(output->n_rows()) * output->row_bytes();
  const Source both[] = {embedding.sources.front(), output->sources.front()};
  if (Comparison(file).count_copies(both, size, 2) == 1) return;
  file.repeats_token_embedding = true;
  std::erase_if(file.tensors, [](const Tensor& t) { return t.role == Role::Output; });
}

}  // namespace starchat
