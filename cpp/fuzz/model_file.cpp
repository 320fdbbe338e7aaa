// Any bytes as a model file of any format: open it, load it, compute two tokens. Only errors of
// starchat may come out.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "model/decoder.hpp"
#include "text/tokenizer.hpp"

using namespace starchat;

namespace {

void compute(const std::string& path) {
  LoadedModel loaded = load_model(path, /*n_threads=*/1, /*n_ctx=*/0);
  const Tokenizer tokenizer(std::move(loaded.vocabulary));
  ForwardPass& model = *loaded.model;
  KvSequence cache(model.kv_pool());
  const int n_tokens = std::min(2, model.n_ctx());
  cache.reserve(n_tokens);
  Batch batch;
  for (int position = 0; position < n_tokens; ++position) {
    batch.token_ids.push_back(position % model.n_vocab());
    batch.positions.push_back(position);
    batch.caches.push_back(&cache);
    batch.logit_columns.push_back(position);
    batch.state_columns.push_back(position);
  }
  std::vector<float> logits(size_t{1} * n_tokens * model.n_vocab());
  std::vector<float> states(size_t{1} * n_tokens * model.n_embd());
  model.forward(batch, logits, states);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int memory_file = memfd_create("model", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(memory_file);
  if (ftruncate(memory_file, 0) != 0 ||
      pwrite(memory_file, data, size, 0) != static_cast<ssize_t>(size)) {
    std::abort();
  }
  try {
    compute(path);
  } catch (const Error&) {
  }
  return 0;
}
