// What a model file holds and where: the struct that every reader fills, whatever the format.
// Readers validate everything but the weights' values; weights are read on demand, never mapped,
// so a file that changes underneath gives an error and not a crash.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/decoder_config.hpp"
#include "quant/types.hpp"

namespace starchat {

struct TensorInfo {
  std::string name;
  TensorType type;
  int64_t n_cols, n_rows;  // n_rows is 1 for vectors
  uint64_t offset, size_bytes;
  size_t row_bytes() const { return size_of_weights(type, static_cast<uint64_t>(n_cols)); }
};

// Owns an open file. Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

struct ModelFile {
  std::string path;
  uint64_t size_bytes = 0;
  DecoderConfig config{};
  int32_t ftype = 0;                    // what the header calls the types of its tensors
  std::vector<std::string> vocabulary;  // raw bytes of each token id
  std::vector<TensorInfo> tensors;      // in file order
  TensorType weight_type{};             // of every matrix but model/wpe
  bool has_lm_head = false;
  FileDescriptor file;

  const TensorInfo& tensor(std::string_view name) const;  // throws CorruptFileError

  // Fills out from the file. Safe from any thread. Throws CorruptFileError where the file has
  // become shorter since it was opened, FileAccessError where the disk fails.
  void read(uint64_t offset, std::span<std::byte> out) const;
};

// Opens a regular file and fills path, size_bytes and file. Throws FileAccessError.
ModelFile open_model_file(const std::string& path);

// Called now and then with what is done and what there is to do, in bytes.
using Progress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

}  // namespace starchat
