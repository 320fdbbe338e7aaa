#include "format/gguf_container.hpp"

#include <algorithm>
#include <bit>
#include <iterator>
#include <set>
#include <type_traits>
#include <utility>

#include "format/header_reader.hpp"
#include "format/shards.hpp"

namespace starchat {
namespace {

constexpr uint64_t kMaxCount = 1 << 16;       // of keys and of tensors
constexpr uint64_t kMaxTokens = 1 << 20;      // and merges: far beyond any vocabulary
constexpr uint64_t kMaxNameBytes = 65535;     // of keys and of tensors, by the format
constexpr uint64_t kMaxTokenBytes = 1 << 16;  // as in ggml files
constexpr std::string_view kMerges = "tokenizer.ggml.merges";
constexpr uint64_t kMaxKeptBytes = 256 << 10;  // of texts: templates of dialogues have a few KB

enum ValueType : uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };
constexpr uint64_t kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// Reads one file.
class FileReader {
 public:
  FileReader(GgufContainer& out, const InputFile& input, int32_t file)
      : out_(out), input_(input), path_(input.path()), reader_(input), file_(file) {}

  void read_keys() {
    reader_.skip(kGgufMagic.size(), "the header");
    const auto version = reader_.number<uint32_t>("the header");
    if (version != 0 && (version & 0xffff) == 0) {
      fail<UnsupportedFormatError>(path_,
                                   "a big-endian GGUF file, expected a little-endian one; convert "
                                   "it with `gguf-convert-endian FILE little` (pip install gguf)");
    }
    if (version != 2 && version != 3) {
      fail<UnsupportedFormatError>(path_, "GGUF version ", version,
                                   ", expected 2 or 3; download a newer file of the model, or run "
                                   "`starchat convert` on its checkpoint");
    }
    n_tensors_ = count("tensors");
    const uint64_t n_keys = count("keys");
    for (uint64_t i = 0; i < n_keys; ++i) read_key();
  }

  void read_tensors() {
    for (uint64_t i = 0; i < n_tensors_; ++i) read_tensor();
    place_tensors();
  }

 private:
  uint64_t count(const char* what) {
    const auto n = reader_.number<uint64_t>("the header");
    if (n > kMaxCount) {
      fail<CorruptFileError>(path_, "header says ", format_number(n), " ", what,
                             ", expected at most ", format_number(kMaxCount), kDamaged);
    }
    return n;
  }

  std::string string(std::string_view what, uint64_t most) {
    const auto n = reader_.number<uint64_t>(what);
    if (n > most) {
      fail<CorruptFileError>(path_, what, " at byte ", format_number(reader_.offset()), " has ",
                             format_number(n), " bytes, expected at most ", format_number(most),
                             kDamaged);
    }
    return reader_.bytes(static_cast<size_t>(n), what);
  }

  template <typename N>
  GgufContainer::Scalar number(std::string_view what) {
    const N value = reader_.number<N>(what);
    if constexpr (std::is_floating_point_v<N>)
      return static_cast<double>(value);
    else
      return static_cast<int64_t>(value);
  }

  GgufContainer::Scalar number_of(uint32_t type, const std::string& key) {
    switch (type) {
      case I8:
        return number<int8_t>(key);
      case U16:
        return number<uint16_t>(key);
      case I16:
        return number<int16_t>(key);
      case U32:
        return number<uint32_t>(key);
      case I32:
        return number<int32_t>(key);
      case F32:
        return number<float>(key);
      case U64:
        return number<uint64_t>(key);
      case I64:
        return number<int64_t>(key);
      case F64:
        return number<double>(key);
      default:  // U8, Bool
        return number<uint8_t>(key);
    }
  }

  uint32_t value_type(const std::string& key) {
    const auto type = reader_.number<uint32_t>(key);
    if (type > F64) {
      fail<CorruptFileError>(path_, "key ", printable(key), " has a value of type ", type,
                             ", expected 0 to 12", kDamaged);
    }
    return type;
  }

  void read_key() {
    const std::string key = string("a key", kMaxNameBytes);
    if (key.empty() || !keys_.insert(key).second) {
      fail<CorruptFileError>(path_, "key ", printable(key),
                             key.empty() ? " is empty" : " appears twice", ", before byte ",
                             format_number(reader_.offset()), kDamaged);
    }
    const uint32_t type = value_type(key);
    if (type == Array) {
      read_array(key);
    } else if (type != String) {
      out_.scalars.emplace(key, number_of(type, key));
    } else if (const auto n = reader_.number<uint64_t>(key); n > kMaxKeptBytes) {
      reader_.skip(n, key);
    } else {
      out_.scalars.emplace(key, reader_.bytes(static_cast<size_t>(n), key));
    }
  }

  void read_array(const std::string& key) {
    const uint32_t type = value_type(key);
    if (type == Array) {
      fail<CorruptFileError>(path_, "key ", printable(key), " is an array of arrays, expected one ",
                             "of numbers or strings", kDamaged);
    }
    const auto n = reader_.number<uint64_t>(key);
    const uint64_t least = type == String ? sizeof(uint64_t) : kValueBytes[type];
    reader_.need(n > UINT64_MAX / least ? UINT64_MAX : n * least, key);
    const bool are_tokens = key == "tokenizer.ggml.tokens", are_merges = key == kMerges;
    const bool are_types = key == "tokenizer.ggml.token_type";
    if ((are_tokens || are_merges || are_types) && n > kMaxTokens) {
      fail<CorruptFileError>(path_, key, " has ", format_number(n), " values, expected at most ",
                             format_number(kMaxTokens), kDamaged);
    }
    if ((are_tokens || are_merges) && type == String) {
      std::vector<std::string>& list = are_tokens ? out_.tokens : out_.merges;
      const uint64_t most = are_tokens ? kMaxTokenBytes : 2 * kMaxTokenBytes + 1;
      list.reserve(static_cast<size_t>(n));
      for (uint64_t i = 0; i < n; ++i) list.push_back(string(key, most));
    } else if (are_types && type != String) {
      for (uint64_t i = 0; i < n; ++i) {
        const GgufContainer::Scalar value = number_of(type, key);
        const auto* kind = std::get_if<int64_t>(&value);
        out_.token_types.push_back(kind ? static_cast<int32_t>(*kind) : 0);
      }
    } else if (type != String) {
      reader_.skip(n * least, key);
    } else {
      for (uint64_t i = 0; i < n; ++i) reader_.skip(reader_.number<uint64_t>(key), key);
    }
  }

  void read_tensor() {
    const uint64_t start = reader_.offset();
    GgufTensor tensor{};
    tensor.name = string("a tensor's name", kMaxNameBytes);
    const auto n_dims = reader_.number<uint32_t>("a tensor's header");
    if (n_dims < 1 || n_dims > 4) {
      fail<CorruptFileError>(path_, "tensor ", printable(tensor.name), " at byte ",
                             format_number(start), " has ", n_dims, " dimensions, expected 1 to 4",
                             kDamaged);
    }
    constexpr int64_t kMaxWeights = int64_t{1} << 48;  // far beyond any tensor
    int64_t n_weights = 1;
    for (uint32_t i = 0; i < n_dims; ++i) {
      const auto n = reader_.number<int64_t>("a tensor's header");
      if (n < 1 || n > kMaxWeights / n_weights) {
        fail<CorruptFileError>(path_, "tensor ", printable(tensor.name), " at byte ",
                               format_number(start), " has a dimension of ", format_number(n),
                               ", expected at least 1, and a product of at most ",
                               format_number(kMaxWeights), kDamaged);
      }
      n_weights *= n;
      tensor.ne.push_back(n);
    }
    while (tensor.ne.size() > 1 && tensor.ne.back() == 1) tensor.ne.pop_back();
    const auto id = reader_.number<int32_t>("a tensor's header");
    const auto type = find_type(&TypeTraits::ggml_id, id);
    if (!type) fail_type(tensor.name, id);
    tensor.type = *type;
    if (tensor.ne.front() % traits(*type).block_weights != 0) {
      fail<CorruptFileError>(path_, printable(tensor.name), ": rows of ",
                             format_number(tensor.ne.front()), " weights, expected a multiple of ",
                             traits(*type).block_weights, " for ", traits(*type).name, kDamaged);
    }
    tensor.size_bytes = size_of_weights(*type, static_cast<uint64_t>(n_weights));
    tensor.offset = reader_.number<uint64_t>("a tensor's header");
    tensor.file = file_;
    out_.tensors.push_back(std::move(tensor));
  }

  [[noreturn]] void fail_type(const std::string& name, int32_t id) const {
    const bool is_interleaved = id >= 31 && id <= 33;
    const bool is_iq = (id >= 16 && id <= 19) || id == 21 || id == 22 || id == 29;
    fail<UnsupportedFormatError>(
        path_, printable(name), ": type ", id,
        is_interleaved ? " (Q4_0_4_4, Q4_0_4_8 or Q4_0_8_8), which llama.cpp has removed; take the "
                         "Q4_0 file of the model"
        : is_iq ? " (IQ1, IQ2 or IQ3), expected one of 4 bits or more, or a K-type; take the "
                  "Q2_K, Q3_K or IQ4_XS file of the model"
                : ", which is not known here; take the Q4_K, Q8_0 or F16 file of the model, or run "
                  "`starchat convert` on its checkpoint");
  }

  // Offsets become those of the file.
  void place_tensors() {
    uint64_t alignment = 32;
    if (out_.scalars.contains("general.alignment")) {
      const auto* value = out_.find<int64_t>("general.alignment");
      alignment = value && *value > 0 ? static_cast<uint64_t>(*value) : 0;
      if (!std::has_single_bit(alignment) || alignment > 1 << 16) {
        fail<CorruptFileError>(path_, "general.alignment is ", alignment,
                               ", expected a power of two up to 65,536", kDamaged);
      }
    }
    const uint64_t start = (reader_.offset() + alignment - 1) & ~(alignment - 1);
    std::vector<const GgufTensor*> in_order;
    uint64_t end = start;
    for (GgufTensor& t : out_.tensors) {
      if (t.offset % alignment != 0 || t.offset > uint64_t{1} << 60) {
        fail<CorruptFileError>(path_, printable(t.name), ": begins at ", format_number(t.offset),
                               " of the data, expected a multiple of ", alignment, kDamaged);
      }
      t.offset += start;
      end = std::max(end, t.offset + t.size_bytes);
      in_order.push_back(&t);
    }
    if (end > input_.size_bytes()) {
      fail<CorruptFileError>(
          path_, "has ", format_number(input_.size_bytes()), " of ", format_number(end), " bytes: ",
          is_piece(path_) ? kJoinPieces : "the download was cut; download the file again");
    }
    std::ranges::sort(in_order, {}, &GgufTensor::offset);
    for (size_t i = 1; i < in_order.size(); ++i) {
      const GgufTensor &before = *in_order[i - 1], &after = *in_order[i];
      if (before.offset + before.size_bytes > after.offset) {
        fail<CorruptFileError>(path_, printable(before.name), " and ", printable(after.name),
                               " overlap at byte ", format_number(after.offset), kDamaged);
      }
    }
  }

  GgufContainer& out_;
  const InputFile& input_;
  const std::string& path_;
  HeaderReader reader_;
  int32_t file_;
  uint64_t n_tensors_ = 0;
  std::set<std::string> keys_;
};

int64_t shard_key(const GgufContainer& container, const char* key, int64_t otherwise) {
  if (!container.scalars.contains(key)) return otherwise;
  const auto* value = container.find<int64_t>(key);
  return value && *value >= 0 && *value < 1 << 30 ? *value : -1;
}

// The first shard has the keys, the others only tensors.
void check_is_first(const std::string& path, const GgufContainer& container) {
  if (const int64_t number = shard_key(container, "split.no", 0); number != 0) {
    const int64_t n_shards = shard_key(container, "split.count", -1);
    fail<UnsupportedFormatError>(path, "is shard ", number + 1, " of ", n_shards,
                                 ", expected the first; name the file that ends with ",
                                 shard_suffix(1, n_shards));
  }
}

void read_other_shards(std::vector<InputFile>& files, GgufContainer& container) {
  const std::string path = files.front().path();
  const int64_t n_shards = shard_key(container, "split.count", 1);
  if (n_shards == 1) return;
  const std::vector<std::string> paths = shard_paths(path);
  if (std::ssize(paths) != n_shards) {
    fail<UnsupportedFormatError>(path, "is shard 1 of ", n_shards,
                                 ", expected a name that ends with ", shard_suffix(1, n_shards),
                                 "; give all shards the names they were published with");
  }
  for (int32_t i = 1; i < n_shards; ++i) {
    GgufContainer shard;
    const InputFile& input = files.emplace_back(paths[i]);
    FileReader reader(shard, input, i);
    reader.read_keys();
    reader.read_tensors();
    const int64_t number = shard_key(shard, "split.no", -1);
    const int64_t count = shard_key(shard, "split.count", -1);
    if (number != i || count != n_shards) {
      fail<CorruptFileError>(input.path(), "is shard ", number + 1, " of ", count, ", expected ",
                             i + 1, " of ", n_shards, "; download the shards of one model again");
    }
    std::ranges::move(shard.tensors, std::back_inserter(container.tensors));
  }
  const auto n_tensors = static_cast<int64_t>(container.tensors.size());
  const int64_t expected = shard_key(container, "split.tensors.count", n_tensors);
  if (n_tensors != expected) {
    fail<CorruptFileError>(path, "the shards have ", n_tensors, " tensors, expected ", expected,
                           "; download the shards of one model again");
  }
}

}  // namespace

GgufContainer read_gguf_container(std::vector<InputFile>& files,
                                  const std::function<void(const GgufContainer&)>& check_keys) {
  GgufContainer container;
  {
    FileReader reader(container, files.front(), 0);
    reader.read_keys();
    check_is_first(files.front().path(), container);
    if (check_keys) check_keys(container);
    reader.read_tensors();
  }
  read_other_shards(files, container);
  return container;
}

}  // namespace starchat
