#include "format/duplicates.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

namespace starchat {
namespace {

constexpr uint64_t kBufferBytes = 1 << 20;
constexpr uint64_t kSampleBytes = 1 << 12;  // of a part, where not all of it is compared

// What has been compared, and how much is to be.
struct Comparison {
  const ModelFile& file;
  const ReportCopies& report;
  const bool is_sample;
  uint64_t copied_bytes = 0;
};

// The largest divisor d of n_copies such that, in each run of d consecutive parts, all are copies
// of each other. Each part begins at its source and has `size` bytes.
int64_t count_copies(Comparison& comparison, std::span<const Source> parts, uint64_t size,
                     int64_t n_copies) {
  const ModelFile& file = comparison.file;
  if (comparison.is_sample) size = std::min(size, kSampleBytes);
  std::vector<std::byte> previous(std::min(kBufferBytes, size)), current(previous.size());
  for (uint64_t start = 0; start < size && n_copies > 1; start += kBufferBytes) {
    const auto n = static_cast<size_t>(std::min(kBufferBytes, size - start));
    for (size_t i = 0; i < parts.size() && n_copies > 1; ++i) {
      file.files[parts[i].file].read(parts[i].offset + start, {current.data(), n});
      if (i > 0 && std::memcmp(previous.data(), current.data(), n) != 0) {
        n_copies = std::gcd(n_copies, static_cast<int64_t>(i));  // a run begins here
      } else if (i > 0) {
        comparison.copied_bytes += n;
      }
      std::swap(previous, current);
    }
    if (comparison.report) comparison.report(comparison.copied_bytes);
  }
  return n_copies;
}

// Sets n_kv_head.
void remove_head_copies(ModelFile& file, Comparison& comparison) {
  DecoderConfig& c = file.config;
  struct Stack {
    Tensor* tensor;
    std::vector<Source> heads;  // of keys, then as many of values
  };
  std::vector<Stack> stacks;
  int64_t n_copies = c.n_kv_head;
  for (Tensor& tensor : file.tensors) {
    if (tensor.role != Role::Qkv && tensor.role != Role::QkvBias) continue;
    if (tensor.sources.size() != 1 || tensor.is_made()) return;
    Stack& stack = stacks.emplace_back(Stack{&tensor, {}});
    const uint64_t head_bytes = static_cast<uint64_t>(c.head_dim) * tensor.row_bytes();
    Source head = tensor.sources.front();
    head.offset += static_cast<uint64_t>(c.n_head) * head_bytes;
    head.n_rows = c.head_dim;
    for (int i = 0; i < 2 * c.n_kv_head; ++i, head.offset += head_bytes) {
      stack.heads.push_back(head);
    }
    const int32_t layer = tensor.layer, last = c.n_layer - 1;
    if (comparison.is_sample && layer != 0 && layer != last / 2 && layer != last) continue;
    n_copies = count_copies(comparison, stack.heads, head_bytes, n_copies);
    if (n_copies == 1) return;
  }
  c.n_kv_head /= static_cast<int32_t>(n_copies);
  for (auto& [tensor, heads] : stacks) {
    tensor->sources.front().n_rows = c.q_width();
    for (size_t i = 0; i < heads.size(); i += n_copies) tensor->sources.push_back(heads[i]);
  }
}

// Sets repeats_token_embedding.
void remove_output_copy(ModelFile& file, Comparison& comparison) {
  const Tensor& embedding = file.tensor(Role::TokenEmbedding);
  const Tensor* output = file.find(Role::Output);
  if (output == nullptr || output->type != embedding.type ||
      output->n_rows() != embedding.n_rows() || output->sources.size() != 1 ||
      embedding.sources.size() != 1 || output->is_made() || embedding.is_made()) {
    return;
  }
  const uint64_t size = static_cast<uint64_t>(output->n_rows()) * output->row_bytes();
  const Source both[] = {embedding.sources.front(), output->sources.front()};
  if (count_copies(comparison, both, size, 2) == 1) return;
  file.repeats_token_embedding = true;
  std::erase_if(file.tensors, [](const Tensor& t) { return t.role == Role::Output; });
}

void remove_copies(ModelFile& file, const ReportCopies& report, bool is_sample) {
  Comparison comparison{file, report, is_sample};
  remove_head_copies(file, comparison);
  remove_output_copy(file, comparison);
}

}  // namespace

void remove_duplicates(ModelFile& file, const ReportCopies& report) {
  remove_copies(file, report, /*is_sample=*/false);
}

void remove_likely_duplicates(ModelFile& file) { remove_copies(file, {}, /*is_sample=*/true); }

}  // namespace starchat
