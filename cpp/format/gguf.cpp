// Compares what the container has with what a starcoder model of its config must have.
#include "format/gguf.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "format/gguf_container.hpp"
#include "format/header_reader.hpp"

namespace starchat {
namespace {

enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

void check_kind(const std::string& path, const GgufContainer& container) {
  const auto* kind = container.find<std::string>("general.type");
  if (kind && *kind != "model") {
    fail<UnsupportedFormatError>(path, "a GGUF file of the kind ", printable(kind->substr(0, 80)),
                                 ", expected a model; take the model's own file");
  }
  const auto* name = container.find<std::string>("general.architecture");
  if (name == nullptr) {
    fail<CorruptFileError>(path, "lacks the key general.architecture", kDamaged);
  }
  if (*name != "starcoder") {
    fail<UnsupportedFormatError>(path, "a GGUF file of the architecture ",
                                 printable(name->substr(0, 80)),
                                 ", expected 'starcoder'; run it with llama.cpp");
  }
}

// GPT-2's vocabulary files write each byte as a printable character of one or two bytes of UTF-8.
// Nothing for other characters.
std::optional<std::string> decoded(std::string_view token) {
  static const auto bytes = [] {
    std::array<int16_t, 256 + 68> table;  // by the character; -1: none
    table.fill(-1);
    size_t next = 256;
    for (int16_t b = 0; b < 256; ++b) {
      const bool is_printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      table[is_printable ? static_cast<size_t>(b) : next++] = b;
    }
    return table;
  }();
  std::string out;
  for (size_t i = 0; i < token.size(); ++i) {
    uint32_t code = static_cast<uint8_t>(token[i]);
    if (code >= 0xc0 && code < 0xe0 && i + 1 < token.size() && (token[i + 1] & 0xc0) == 0x80) {
      code = (code & 0x1f) << 6 | (static_cast<uint8_t>(token[++i]) & 0x3f);
    } else if (code >= 0x80) {
      return std::nullopt;
    }
    if (code >= bytes.size() || bytes[code] < 0) return std::nullopt;
    out += static_cast<char>(bytes[code]);
  }
  return out;
}

// What the container says of a model.
class ModelReader {
 public:
  ModelReader(ModelFile& file, GgufContainer& container)
      : file_(file), in_(container), path_(file.files.front().path()) {}

  void read() {
    if (in_.tensors.empty()) {
      fail<UnsupportedFormatError>(path_,
                                   "has a vocabulary and no weights; take the file of the model");
    }
    for (const GgufTensor& t : in_.tensors) {
      if (!by_name_.emplace(t.name, &t).second) {
        fail<CorruptFileError>(path_, printable(t.name), ": appears twice", kDamaged);
      }
      file_.stored.push_back(
          {t.name, t.type, {t.ne.rbegin(), t.ne.rend()}, t.offset, t.size_bytes, t.file});
    }
    read_config();
    read_tensors();
    read_vocabulary();
    read_merges();
    name_quantization();
    for (const char* key : {"general.name", "general.license", "tokenizer.chat_template"}) {
      if (const auto* text = in_.find<std::string>(key)) file_.metadata.emplace(key, *text);
    }
  }

 private:
  int32_t integer(const std::string& key, int32_t most) const {
    if (!in_.scalars.contains(key)) {
      fail<CorruptFileError>(path_, "lacks the key ", key, kDamaged);
    }
    const auto* n = in_.find<int64_t>(key);
    if (n == nullptr || *n < 1 || *n > most) {
      fail<CorruptFileError>(path_, key, " is ", n ? format_number(*n) : "not an integer",
                             ", expected 1 to ", format_number(most), kDamaged);
    }
    return static_cast<int32_t>(*n);
  }

  void read_config() {
    DecoderConfig& c = file_.config;
    c.n_ctx = integer("starcoder.context_length", 1 << 24);
    c.n_embd = integer("starcoder.embedding_length", 1 << 20);
    c.n_inner = integer("starcoder.feed_forward_length", 1 << 22);
    c.n_layer = integer("starcoder.block_count", 1 << 10);
    c.n_head = integer("starcoder.attention.head_count", 1 << 20);
    const auto* value = in_.find<double>("starcoder.attention.layer_norm_epsilon");
    if (value == nullptr || !(*value > 0 && *value < 1)) {
      fail<CorruptFileError>(path_, "starcoder.attention.layer_norm_epsilon is ",
                             value ? std::to_string(*value) : "absent or not a float",
                             ", expected a number between 0 and 1", kDamaged);
    }
    c.norm_eps = static_cast<float>(*value);
    if (c.n_embd % kBlock != 0 || c.n_inner % kBlock != 0 || c.n_embd % c.n_head != 0 ||
        c.n_embd / c.n_head % 2 != 0) {
      fail<UnsupportedFormatError>(
          path_, "embedding_length ", c.n_embd, ", feed_forward_length ", c.n_inner,
          " and head_count ", c.n_head, ", expected both lengths to be multiples of ", kBlock,
          " and heads of an even number of values; take another file of the model");
    }
    c.head_dim = c.n_embd / c.n_head;
    const auto qkv = by_name_.find("blk.0.attn_qkv.weight");
    if (qkv == by_name_.end()) fail_missing("blk.0.attn_qkv.weight");
    const char* const key = "starcoder.attention.head_count_kv";
    c.n_kv_head = in_.scalars.contains(key) ? integer(key, c.n_head) : 1;
    const int64_t n_rows = qkv->second->ne.back();
    if (c.n_head % c.n_kv_head != 0 || n_rows != c.q_width() + 2 * int64_t{c.kv_width()}) {
      const bool is_multi_head = n_rows == 3 * int64_t{c.n_embd};
      fail<UnsupportedFormatError>(
          path_, "'blk.0.attn_qkv.weight' has ", format_number(n_rows), " rows, expected ",
          format_number(c.q_width() + 2 * int64_t{c.kv_width()}), " for ", key, " = ", c.n_kv_head,
          is_multi_head
              ? ": a model with a key head for each query head (multi_query=false), whose "
                "rows other converters leave in an order of their own"
              : "",
          "; run `starchat convert` on the model's checkpoint");
    }
    const auto embedding = by_name_.find("token_embd.weight");
    if (embedding == by_name_.end()) fail_missing("token_embd.weight");
    const std::vector<int64_t>& ne = embedding->second->ne;
    if (ne.size() != 2 || ne[1] > 1 << 24) {
      fail<CorruptFileError>(path_, "token_embd.weight: shape ", shape_text(ne), ", expected [",
                             c.n_embd, ", at most 16,777,216]", kDamaged);
    }
    c.n_vocab = static_cast<int32_t>(ne[1]);
  }

  [[noreturn]] void fail_missing(const std::string& name) const {
    fail<CorruptFileError>(path_, "lacks the tensor '", name,
                           "', which every starcoder model has; the file is incomplete: download "
                           "it again, or convert the model again");
  }

  void add(Role role, int32_t layer, const std::string& name, int64_t n_cols, int64_t n_rows) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      if (role == Role::Output) return;
      fail_missing(name);
    }
    const GgufTensor& t = *found->second;
    std::vector<int64_t> expected{n_cols, n_rows};
    const bool is_vector = n_cols == 1;
    if (is_vector) expected = {n_rows};
    if (!is_vector && n_rows == 1) expected.pop_back();
    if (t.ne != expected) {
      fail<CorruptFileError>(path_, name, ": shape ", shape_text(t.ne), ", expected ",
                             shape_text(expected), kDamaged);
    }
    if (is_vector && is_quantized(t.type)) {
      fail<UnsupportedFormatError>(path_, name, ": type ", traits(t.type).name,
                                   ", expected f32 or f16 for norms and biases; convert again");
    }
    by_name_.erase(found);
    file_.tensors.push_back({role, layer, t.type, n_cols, {{t.file, t.offset, n_rows}}, name});
  }

  void read_tensors() {
    const DecoderConfig& c = file_.config;
    const int64_t n_qkv = c.q_width() + 2 * c.kv_width();
    add(Role::TokenEmbedding, -1, "token_embd.weight", c.n_embd, c.n_vocab);
    add(Role::PositionEmbedding, -1, "position_embd.weight", c.n_embd, c.n_ctx);
    for (int32_t i = 0; i < c.n_layer; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      add(Role::AttnNormGain, i, block + "attn_norm.weight", 1, c.n_embd);
      add(Role::AttnNormBias, i, block + "attn_norm.bias", 1, c.n_embd);
      add(Role::Qkv, i, block + "attn_qkv.weight", c.n_embd, n_qkv);
      add(Role::QkvBias, i, block + "attn_qkv.bias", 1, n_qkv);
      add(Role::AttnOut, i, block + "attn_output.weight", c.n_embd, c.n_embd);
      add(Role::AttnOutBias, i, block + "attn_output.bias", 1, c.n_embd);
      add(Role::FfnNormGain, i, block + "ffn_norm.weight", 1, c.n_embd);
      add(Role::FfnNormBias, i, block + "ffn_norm.bias", 1, c.n_embd);
      add(Role::FfnUp, i, block + "ffn_up.weight", c.n_embd, c.n_inner);
      add(Role::FfnUpBias, i, block + "ffn_up.bias", 1, c.n_inner);
      add(Role::FfnDown, i, block + "ffn_down.weight", c.n_inner, c.n_embd);
      add(Role::FfnDownBias, i, block + "ffn_down.bias", 1, c.n_embd);
    }
    add(Role::FinalNormGain, -1, "output_norm.weight", 1, c.n_embd);
    add(Role::FinalNormBias, -1, "output_norm.bias", 1, c.n_embd);
    add(Role::Output, -1, "output.weight", c.n_embd, c.n_vocab);
    for (const GgufTensor& t : in_.tensors) {
      if (by_name_.contains(t.name)) {
        fail<CorruptFileError>(path_, "unknown tensor ", printable(t.name), " in a model of ",
                               c.n_layer, " layers", kDamaged);
      }
    }
  }

  // Converters fill up rows without a token by [PAD12], of the id.
  static bool is_padding(std::string_view token, int32_t type) {
    return (type == kUserDefined || type == kUnused) && token.size() > 5 &&
           token.starts_with("[PAD") && token.ends_with("]") &&
           token.find_first_not_of("0123456789", 4) == token.size() - 1;
  }

  // Newer converters encode tokens as GPT-2's files do, older ones write their bytes. Control and
  // added tokens are always written as they are.
  void read_vocabulary() {
    std::vector<std::string>& tokens = in_.tokens;
    const auto n_rows = static_cast<size_t>(file_.config.n_vocab);
    if (tokens.empty() || tokens.size() > n_rows) {
      fail<CorruptFileError>(path_, "tokenizer.ggml.tokens has ", format_number(tokens.size()),
                             " tokens, expected 1 to the ", format_number(n_rows),
                             " rows of token_embd.weight", kDamaged);
    }
    const auto type_of = [&](size_t id) {
      return id < in_.token_types.size() ? in_.token_types[id] : int32_t{kNormal};
    };
    bool has_letter = false, has_space = false;  // what stands for a space, and the byte itself
    for (size_t id = 0; id < tokens.size(); ++id) {
      has_letter |= tokens[id] == "\u0120";
      has_space |= tokens[id] == " " && type_of(id) == kNormal;
    }
    const bool is_encoded = has_letter && !has_space;
    tokens.resize(n_rows);
    for (size_t id = 0; id < n_rows; ++id) {
      const int32_t type = type_of(id);
      if (is_padding(tokens[id], type)) {
        tokens[id].clear();
      } else if (type == kNormal && is_encoded) {
        if (auto bytes = decoded(tokens[id])) tokens[id] = std::move(*bytes);
      }
      if (type == kControl || tokens[id].empty()) {
        file_.vocabulary.control_ids.push_back(static_cast<int32_t>(id));
      } else if (type == kUserDefined) {
        file_.vocabulary.added_ids.push_back(static_cast<int32_t>(id));
      }
    }
    file_.vocabulary.tokens = std::move(tokens);
  }

  // Pairs "Ġ t" in the order of their ranks, spelt as in GPT-2's files whatever the tokens are.
  void read_merges() {
    Vocabulary& vocabulary = file_.vocabulary;
    std::vector<bool> is_control(vocabulary.tokens.size());
    for (const int32_t id : vocabulary.control_ids) is_control[id] = true;
    std::unordered_map<std::string_view, int32_t> ids;  // of repeated bytes the first ordinary one
    for (const bool wanted : {false, true}) {
      for (int32_t id = 0; id < file_.config.n_vocab; ++id) {
        if (is_control[id] == wanted) ids.emplace(vocabulary.tokens[id], id);
      }
    }
    const auto id_of = [&](std::string_view bytes) {
      const auto found = bytes.empty() ? ids.end() : ids.find(bytes);
      return found == ids.end() ? -1 : found->second;
    };
    for (size_t rank = 0; rank < in_.merges.size(); ++rank) {
      const std::string_view text = in_.merges[rank];
      const size_t space = std::min(text.find(' '), text.size());
      const std::string left = decoded(text.substr(0, space)).value_or("");
      const std::string right = decoded(text.substr(std::min(space + 1, text.size()))).value_or("");
      const Vocabulary::Merge merge{id_of(left), id_of(right), id_of(left + right)};
      if (merge.left < 0 || merge.right < 0 || merge.merged < 0) {
        fail<CorruptFileError>(
            path_, "tokenizer.ggml.merges[", rank, "] is ", printable(text.substr(0, 80)),
            ", expected two tokens that make a third one; convert the model again");
      }
      // A text makes no control token.
      if (is_control[merge.left] || is_control[merge.right] || is_control[merge.merged]) continue;
      vocabulary.merges.push_back(merge);
    }
  }

  // The type of most bytes of matrices.
  void name_quantization() {
    std::map<TensorType, uint64_t> bytes;
    for (const Tensor& t : file_.tensors) {
      if (t.is_matrix()) bytes[t.type] += t.n_rows() * t.row_bytes();
    }
    const auto most = std::ranges::max_element(bytes, {}, [](const auto& b) { return b.second; });
    file_.quantization = traits(most->first).name;
    const auto* n = in_.find<int64_t>("general.file_type");
    file_.ftype = n && *n >= 0 && *n < 1 << 16 ? static_cast<int32_t>(*n) : -1;
  }

  ModelFile& file_;
  GgufContainer& in_;
  const std::string& path_;
  std::unordered_map<std::string_view, const GgufTensor*> by_name_;
};

}  // namespace

ModelFile read_gguf(InputFile input) {
  ModelFile file;
  file.format = "gguf";
  const std::string path = input.path();
  file.files.push_back(std::move(input));
  GgufContainer container =
      read_gguf_container(file.files, [&](const GgufContainer& keys) { check_kind(path, keys); });
  ModelReader(file, container).read();
  return file;
}

}  // namespace starchat
