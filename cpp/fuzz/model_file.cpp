// Any bytes as a model file of any format: open it, load it, compute two tokens. Only errors of
// starchat may come out. Bytes with a second "GGUF" at a multiple of 32 are also read as two
// shards.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "format/shards.hpp"
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

std::string folder() {
  std::string name = (std::filesystem::temp_directory_path() / "starchat-fuzz-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) std::abort();
  return name;
}

void write_file(const std::string& path, std::string_view bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const timespec long_ago[2] = {};  // else load_model() waits for the clock's next tick
  if (fd < 0 || write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      futimens(fd, long_ago) != 0) {
    std::abort();
  }
  close(fd);
}

void try_to_compute(const std::string& path) {
  try {
    compute(path);
  } catch (const Error&) {
  }
}

size_t second_header(std::string_view bytes) {
  for (size_t at = 32; at + 4 <= bytes.size(); at += 32) {
    if (bytes.substr(at, 4) == "GGUF") return at;
  }
  return bytes.size();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string prefix = folder() + "/model";
  static const std::vector<std::string> shards = shard_paths(prefix + shard_suffix(1, 2));
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  write_file(prefix, bytes);
  try_to_compute(prefix);
  if (const size_t at = second_header(bytes); at < size) {
    write_file(shards[0], bytes.substr(0, at));
    write_file(shards[1], bytes.substr(at));
    try_to_compute(shards[0]);
  }
  return 0;
}
