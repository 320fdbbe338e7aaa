// The weights of a file, read once and packed for the kernels. Nothing is stored twice: readers
// list repeated rows once, and tied output matrices are the memory of the token embedding. They
// are constant and know no device and no context, so any number of decoders share them.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/shared_memory.hpp"
#include "base/thread_pool.hpp"
#include "format/model_file.hpp"
#include "ops/ops.hpp"
#include "ops/packed_matrix.hpp"

namespace starchat {

struct Linear {
  PackedMatrix weight;
  std::vector<float> bias;  // (n_padded_rows), or empty
};

struct Layer {
  LayerNorm attn_norm, ffn_norm;
  Linear qkv;  // rows: queries (q_width), keys and values (kv_width each)
  Linear attn_out, ffn_up, ffn_down;
};

// The position embedding (n_ctx, n_embd), as f16 if that loses nothing.
class PositionTable {
 public:
  PositionTable() = default;
  explicit PositionTable(const ModelFile& file);  // without its rows
  size_t size_bytes() const { return size_bytes_; }
  void write(const ModelFile& file, std::byte* rows) const;
  void set_rows(const std::byte* rows) { rows_ = rows; }
  std::span<const std::byte> row(int position) const;
  void add_row(int position, float* x) const;  // x += row

 private:
  const std::byte* rows_ = nullptr;
  size_t size_bytes_ = 0;
  int n_embd_ = 0;
  bool half_ = true;
};

struct Weights {
  PackedMatrix token_embedding;  // (n_vocab, n_embd)
  PositionTable positions;
  std::vector<Layer> layers;
  LayerNorm final_norm;
  PackedMatrix output;  // (n_vocab, n_embd); the memory of the token embedding if tied
  SharedMemory memory;  // every packed matrix, then the positions

  uint64_t size_bytes() const { return memory.arena.size_bytes(); }
};

// What decoders need of a file.
struct LoadedFile {
  std::string path, quantization;
  std::vector<FileIdentity> identities;  // of the file, or of all its shards
  DecoderConfig config;                  // n_ctx: as many positions as the file has
  uint64_t n_params = 0;
  Weights weights;
};

// Peak memory is the result plus a strip per thread. With `share`, processes of one user have it
// together; one of them packs. Errors: those of InputFile::read, and OutOfMemoryError. `progress`
// runs on the calling thread and may throw to abort; so may `begin`, which is called before memory
// is taken, unless that of another process is mapped.
std::shared_ptr<const LoadedFile> load_weights(
    const ModelFile& file, ThreadPool& threads, bool share, const Progress& progress,
    const std::function<void()>& begin = [] {});

// What load_weights() will take of memory. Reads three rows of the positions, to guess whether f16
// loses nothing of them.
uint64_t packed_bytes(const ModelFile& file);
uint64_t packed_bytes(const Tensor& matrix, TensorType type);  // as if it were of this type

}  // namespace starchat
