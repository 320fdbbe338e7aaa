// What a GGUF file has of any architecture: keys, lists of tokens, and where its tensors are.
// Versions 2 and 3, whole or in shards. Memory is bounded by the size of the file, whatever the
// header claims.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "format/model_file.hpp"

namespace starchat {

inline constexpr std::string_view kGgufMagic = "GGUF";

struct GgufTensor {
  std::string name;
  std::vector<int64_t> ne;  // fastest first, without trailing 1s
  TensorType type;
  int32_t file;                 // index into the files
  uint64_t offset, size_bytes;  // in that file
};

struct GgufContainer {
  using Scalar = std::variant<int64_t, double, std::string>;

  std::map<std::string, Scalar> scalars;  // of the first file; long texts are left out
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> token_types;  // empty: not in the file
  std::vector<GgufTensor> tensors;   // of all files

  template <class T>
  const T* find(const std::string& key) const {  // null: absent, or of another type
    const auto found = scalars.find(key);
    return found == scalars.end() ? nullptr : std::get_if<T>(&found->second);
  }
};

// Reads the first of `files`, and adds the other shards. check_keys() is called before any tensor
// is looked at, and may throw. Throws FileAccessError, UnsupportedFormatError, CorruptFileError.
GgufContainer read_gguf_container(std::vector<InputFile>& files,
                                  const std::function<void(const GgufContainer&)>& check_keys = {});

}  // namespace starchat
