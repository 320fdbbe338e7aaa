// What a model's files contain and where: the struct that the reader of every format fills. Readers
// validate everything but the values of weights. Weights are read on demand and never mapped, so a
// file that is changed meanwhile leads to an error, not a crash.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/file_descriptor.hpp"
#include "base/vocabulary.hpp"
#include "format/decoder_config.hpp"
#include "quant/types.hpp"

namespace starchat {

// Which file it is and in which state: another one, or one that was written to, differs.
struct FileIdentity {
  uint64_t device, inode, size_bytes;
  int64_t mtime_ns;
  bool operator==(const FileIdentity&) const = default;
};

FileIdentity identity_of(const std::string& path);  // does not open it; FileAccessError

// Times of files have ticks of a few ms: two writes in one look like one. Returns when a write to
// this file from now on gives it a time that differs from its present one.
void wait_until_writes_show(const std::string& path);

class InputFile {
 public:
  explicit InputFile(const std::string& path);     // of a regular file. Throws FileAccessError
  InputFile(std::string path, FileDescriptor fd);  // of one that is open

  const std::string& path() const { return path_; }
  uint64_t size_bytes() const { return identity_.size_bytes; }
  const FileIdentity& identity() const { return identity_; }  // when it was opened

  // Fills out from the file. Safe from any thread. Throws CorruptFileError where the file has
  // become shorter since it was opened, FileAccessError where the disk fails.
  void read(uint64_t offset, std::span<std::byte> out) const;
  int descriptor() const { return fd_.get(); }
  // Throws CorruptFileError if the file was written to since it was opened, also if its time of
  // modification was set back. A new name or mode counts, too: systems do not tell them apart.
  void check_unchanged() const;

 private:
  std::string path_;
  FileDescriptor fd_;
  FileIdentity identity_;
  int64_t changed_ns_;  // ctime, which nobody can set
};

// The role of a tensor in the model. Matrices are (n_out, n_in); gains and biases are vectors.
enum class Role : uint8_t {
  TokenEmbedding,
  PositionEmbedding,
  AttnNormGain,
  AttnNormBias,
  Qkv,  // rows: queries (q_width), keys and values (kv_width each)
  QkvBias,
  AttnOut,
  AttnOutBias,
  FfnNormGain,
  FfnNormBias,
  FfnUp,
  FfnUpBias,
  FfnDown,
  FfnDownBias,
  FinalNormGain,
  FinalNormBias,
  Output,  // absent: the token embedding is the output matrix, too
};

// Consecutive rows of a tensor in one of the files, or rows that no file has as they are.
struct Source {
  static constexpr int32_t kMade = -1;  // by ModelFile::make_rows

  int32_t file;  // index into ModelFile::files, or kMade
  uint64_t offset;
  int64_t n_rows;
};

// A tensor of the model: its rows are those of the sources, one after the other.
struct Tensor {
  Role role;
  int32_t layer;  // -1: of no layer
  TensorType type;
  int64_t n_cols;  // 1 for vectors: each value is a row
  std::vector<Source> sources;
  std::string name;                        // in the file: for messages
  std::vector<int32_t> column_order = {};  // column i is that of input column_order[i]; empty: of i

  int64_t n_rows() const;
  bool is_matrix() const { return n_cols > 1 && role != Role::PositionEmbedding; }
  bool is_made() const { return sources.front().file == Source::kMade; }
  uint64_t row_bytes() const { return size_of_weights(type, static_cast<uint64_t>(n_cols)); }
};

// A tensor as a file stores it, for `starchat inspect`.
struct StoredTensor {
  std::string name;
  TensorType type;
  std::vector<int64_t> shape;  // slowest first
  uint64_t offset, size_bytes;
  int32_t file;  // index into ModelFile::files
};

struct ModelFile {
  std::string format;        // "ggml" or "gguf"
  int32_t ftype = -1;        // what the header calls the types of its tensors; -1: it does not
  std::string quantization;  // the same by name: "q4_0"
  DecoderConfig config{};
  Vocabulary vocabulary;
  std::map<std::string, std::string> metadata;  // of GGUF: name, license, template of dialogues
  std::vector<Tensor> tensors;                  // without copies after remove_duplicates()
  bool repeats_token_embedding = false;  // as the output matrix, which was removed from the tensors
  std::vector<StoredTensor> stored;      // in file order
  std::vector<InputFile> files;          // the one that was named first
  std::string folder;                    // that was named instead of a file; or empty
  // Fills out with the rows of a made tensor, from row `first` on: for one thread, in order.
  std::function<void(const Tensor& tensor, int64_t first, std::span<std::byte> out)> make_rows;

  const std::string& path() const { return folder.empty() ? files.front().path() : folder; }
  std::vector<FileIdentity> identities() const;               // of all files
  const Tensor* find(Role role, int32_t layer = -1) const;    // null: absent
  const Tensor& tensor(Role role, int32_t layer = -1) const;  // one that every model has
  uint64_t n_params() const;
  uint64_t weight_bytes() const;  // as the files store them

  // Reads as many rows of a tensor as fill out, from row `first` on. Errors: InputFile::read,
  // and those of make_rows.
  void read_rows(const Tensor& tensor, int64_t first, std::span<std::byte> out) const;
};

// Called repeatedly with the bytes done and the bytes in total.
using Progress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

}  // namespace starchat
