#include "format/ggml_bin.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "format/header_reader.hpp"
#include "format/other_formats.hpp"

namespace starchat {
namespace {

constexpr int32_t kVersion = 2;  // of the quantized blocks
constexpr int32_t kMaxTokenBytes = 1 << 16;
constexpr int32_t kMaxNameBytes = 256;
constexpr const char* kOrOtherArchitecture =
    "; the file is damaged, or is a ggml file of another architecture (LLaMA, GPT-J, MPT …)";

// "f32, f16 … or q8_0 (0, 1 … 2007)"
std::string known_ftypes() {
  std::vector<const TypeTraits*> known;
  for (const TypeTraits& type : kTensorTypes) {
    if (type.ftype >= 0) known.push_back(&type);
  }
  std::string names, numbers;
  for (const TypeTraits* type : known) {
    const int32_t version = type->kind.is_float() ? 0 : kVersion;
    names += (names.empty() ? "" : type == known.back() ? " or " : ", ") + std::string(type->name);
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(1000 * version + type->ftype);
  }
  return names + " (" + numbers + ")";
}

// The type of the matrices.
TensorType weight_type_of(const ModelFile& file) {
  const int32_t ftype = file.ftype, version = ftype / 1000;
  const auto type = ftype < 0 ? std::nullopt : find_type(&TypeTraits::ftype, ftype % 1000);
  if (!type) {
    fail<UnsupportedFormatError>(file.path(), "header says ftype ", ftype, ", expected ",
                                 known_ftypes(), kOrOtherArchitecture);
  }
  if (is_quantized(*type) && version != kVersion) {
    fail<UnsupportedFormatError>(
        file.path(), "its ", traits(*type).name, " blocks have quantization version ", version,
        ", expected ", kVersion,
        "; get the 'ggmlv3' file of the model, or quantize its f16 file again");
  }
  return *type;
}

TensorType read_config(ModelFile& file, HeaderReader& reader) {
  DecoderConfig& c = file.config;
  struct Count {
    const char* name;
    int32_t* value;
    int32_t max;  // far beyond any model, and small enough that no product of sizes overflows
  };
  const auto counts = std::to_array<Count>({{"n_vocab", &c.n_vocab, 1 << 24},
                                            {"n_ctx", &c.n_ctx, 1 << 24},
                                            {"n_embd", &c.n_embd, 1 << 20},
                                            {"n_head", &c.n_head, 1 << 20},
                                            {"n_layer", &c.n_layer, 1 << 10}});
  for (const Count& count : counts) *count.value = reader.number("the header");
  file.ftype = reader.number("the header");
  for (const auto& [name, value, max] : counts) {
    if (*value < 1 || *value > max) {
      fail<CorruptFileError>(file.path(), "header says ", name, " = ", format_number(*value),
                             ", expected 1 to ", format_number(max), kOrOtherArchitecture);
    }
  }
  const TensorType weight_type = weight_type_of(file);
  file.quantization = traits(weight_type).name;
  c.n_kv_head = c.n_head;
  c.head_dim = c.n_embd / c.n_head;
  c.n_inner = 4 * c.n_embd;
  c.norm_eps = 1e-5f;
  const std::string n_embd = "header says n_embd = " + std::to_string(c.n_embd);
  const std::string both = n_embd + " and n_head = " + std::to_string(c.n_head);
  if (c.n_embd % kBlock != 0) {
    fail<UnsupportedFormatError>(file.path(), n_embd, ", expected a multiple of ", kBlock,
                                 kOrOtherArchitecture);
  }
  if (c.n_embd % c.n_head != 0) {
    fail<CorruptFileError>(file.path(), both, ", expected n_embd to be a multiple of n_head",
                           kOrOtherArchitecture);
  }
  if (c.head_dim % 2 != 0) {
    fail<UnsupportedFormatError>(file.path(), both, ", heads of ", c.head_dim,
                                 " values, expected an even number", kOrOtherArchitecture);
  }
  return weight_type;
}

void read_vocabulary(ModelFile& file, TensorType weight_type, HeaderReader& reader) {
  const int32_t n_vocab = reader.number("the header");
  if (n_vocab != file.config.n_vocab) {
    fail<CorruptFileError>(file.path(), "vocabulary has ", format_number(n_vocab),
                           " tokens, expected n_vocab = ", format_number(file.config.n_vocab),
                           kOrOtherArchitecture);
  }
  // Each token has a length and a row of model/wte: the file's size must justify the vector.
  const auto row_weights = static_cast<uint64_t>(file.config.n_embd);
  const uint64_t token_bytes = sizeof(int32_t) + size_of_weights(weight_type, row_weights);
  reader.need(static_cast<uint64_t>(n_vocab) * token_bytes, "the vocabulary and model/wte");
  file.vocabulary.tokens.reserve(static_cast<size_t>(n_vocab));
  for (int32_t id = 0; id < n_vocab; ++id) {
    const int32_t n = reader.number("the vocabulary");
    if (n < 0 || n > kMaxTokenBytes) {
      fail<CorruptFileError>(file.path(), "token ", id, " has ", format_number(n),
                             " bytes, expected 0 to ", format_number(kMaxTokenBytes),
                             kOrOtherArchitecture);
    }
    file.vocabulary.tokens.push_back(reader.bytes(static_cast<size_t>(n), "the vocabulary"));
  }
}

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const DecoderConfig& c, TensorType weight_type) {
  std::vector<ExpectedTensor> all;
  int32_t layer = -1;
  const auto add = [&](const std::string& name, Role role, std::vector<int32_t> ne) {
    const bool is_f32 = ne.size() == 1 || role == Role::PositionEmbedding;
    all.push_back({name, std::move(ne), is_f32 ? TensorType::F32 : weight_type, role, layer});
  };
  add("model/wte", Role::TokenEmbedding, {c.n_embd, c.n_vocab});
  add("model/wpe", Role::PositionEmbedding, {c.n_embd, c.n_ctx});
  for (layer = 0; layer < c.n_layer; ++layer) {
    const std::string block = "model/h" + std::to_string(layer);
    const int32_t n_qkv = c.q_width() + 2 * c.kv_width();
    add(block + "/ln_1/g", Role::AttnNormGain, {c.n_embd});
    add(block + "/ln_1/b", Role::AttnNormBias, {c.n_embd});
    add(block + "/attn/c_attn/w", Role::Qkv, {c.n_embd, n_qkv});
    add(block + "/attn/c_attn/b", Role::QkvBias, {n_qkv});
    add(block + "/attn/c_proj/w", Role::AttnOut, {c.q_width(), c.n_embd});
    add(block + "/attn/c_proj/b", Role::AttnOutBias, {c.n_embd});
    add(block + "/ln_2/g", Role::FfnNormGain, {c.n_embd});
    add(block + "/ln_2/b", Role::FfnNormBias, {c.n_embd});
    add(block + "/mlp/c_fc/w", Role::FfnUp, {c.n_embd, c.n_inner});
    add(block + "/mlp/c_fc/b", Role::FfnUpBias, {c.n_inner});
    add(block + "/mlp/c_proj/w", Role::FfnDown, {c.n_inner, c.n_embd});
    add(block + "/mlp/c_proj/b", Role::FfnDownBias, {c.n_embd});
  }
  layer = -1;
  add("model/ln_f/g", Role::FinalNormGain, {c.n_embd});
  add("model/ln_f/b", Role::FinalNormBias, {c.n_embd});
  add("model/lm_head", Role::Output, {c.n_embd, c.n_vocab});
  return all;
}

namespace {

// Reads tensors until the end of the file and compares them with those that the header implies.
class TensorReader {
 public:
  TensorReader(ModelFile& file, TensorType weight_type, HeaderReader& reader)
      : file_(file), reader_(reader), expected_(expected_tensors(file.config, weight_type)) {
    for (ExpectedTensor& tensor : expected_) {
      by_name_.emplace(tensor.name, &tensor);
      n_missing_ += !tensor.is_optional();
    }
  }

  void read_all() {
    while (reader_.remaining() > 0) read_one();
    if (n_missing_ > 0) fail_missing();
  }

 private:
  void read_one() {
    const uint64_t start = reader_.offset();
    constexpr uint64_t kFixedBytes = 3 * sizeof(int32_t);
    if (n_missing_ == 0 && reader_.remaining() < kFixedBytes) fail_trailing(start);
    reader_.need(kFixedBytes, "a tensor's header");
    const int32_t n_dims = reader_.number("a tensor's header");
    const int32_t name_bytes = reader_.number("a tensor's header");
    const int32_t id = reader_.number("a tensor's header");
    std::array<int32_t, 4> dims{};
    if (n_dims < 1 || n_dims > std::ssize(dims) || name_bytes < 1 || name_bytes > kMaxNameBytes) {
      if (n_missing_ == 0) fail_trailing(start);
      fail<CorruptFileError>(file_.path(), "tensor header at byte ", format_number(start), " says ",
                             n_dims, " dimensions and a name of ", name_bytes,
                             " bytes, expected 1 to ", std::ssize(dims), " and 1 to ",
                             kMaxNameBytes, kDamaged);
    }
    const std::span ne(dims.data(), static_cast<size_t>(n_dims));
    for (int32_t& n : ne) n = reader_.number("a tensor's header");
    const std::string name = reader_.bytes(static_cast<size_t>(name_bytes), "a tensor's name");

    ExpectedTensor& expected = check(name, ne, id, start);
    const bool is_matrix = n_dims == 2;
    Tensor tensor{expected.role, expected.layer, expected.type, is_matrix ? ne[0] : 1, {}, name};
    tensor.sources.push_back({0, reader_.offset(), is_matrix ? ne[1] : ne[0]});
    const uint64_t size_bytes = static_cast<uint64_t>(tensor.n_rows()) * tensor.row_bytes();
    file_.stored.push_back(
        {name, expected.type, {ne.rbegin(), ne.rend()}, reader_.offset(), size_bytes, 0});
    file_.tensors.push_back(std::move(tensor));
    reader_.skip(size_bytes, name);
    expected.is_found = true;
    n_missing_ -= !expected.is_optional();
  }

  ExpectedTensor& check(const std::string& name, std::span<const int32_t> ne, int32_t id,
                        uint64_t start) const {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      if (const auto architecture = other_architecture(name)) {
        fail<UnsupportedFormatError>(file_.path(), "tensor ", printable(name), " belongs to a ",
                                     *architecture,
                                     " model, expected starcoder; use a tool for that family");
      }
      fail<CorruptFileError>(file_.path(), "unknown tensor ", printable(name), " at byte ",
                             format_number(start), " in a model of ", file_.config.n_layer,
                             " layers", kOrOtherArchitecture);
    }
    ExpectedTensor& expected = *found->second;
    if (expected.is_found) {
      fail<CorruptFileError>(file_.path(), name, ": appears twice, the second time at byte ",
                             format_number(start), kDamaged);
    }
    if (!std::ranges::equal(ne, expected.ne)) {
      fail<CorruptFileError>(file_.path(), name, ": shape ", shape_text(ne), ", expected ",
                             shape_text(expected.ne), kOrOtherArchitecture);
    }
    if (id != traits(expected.type).ggml_id) {
      const auto type = find_type(&TypeTraits::ggml_id, id);
      fail<UnsupportedFormatError>(
          file_.path(), name, ": type ", type ? traits(*type).name : std::to_string(id),
          ", expected ", traits(expected.type).name,
          "; norms, biases and model/wpe are f32 and all other matrices of the one type that the "
          "header names (ftype ",
          file_.ftype, "): quantize the model again");
    }
    return expected;
  }

  [[noreturn]] void fail_trailing(uint64_t start) const {
    fail<CorruptFileError>(file_.path(), "has ",
                           format_number(file_.files.front().size_bytes() - start),
                           " trailing bytes after its last tensor, expected it to end at byte ",
                           format_number(start), kDamaged);
  }

  [[noreturn]] void fail_missing() const {
    constexpr int kNamed = 4;
    std::string names;
    int n_named = 0;
    for (const ExpectedTensor& tensor : expected_) {
      if (tensor.is_optional() || tensor.is_found || ++n_named > kNamed) continue;
      names += (names.empty() ? "" : ", ") + tensor.name;
    }
    if (n_missing_ > kNamed) names += " and " + std::to_string(n_missing_ - kNamed) + " more";
    fail<CorruptFileError>(file_.path(), "lacks ", n_missing_,
                           n_missing_ == 1 ? " tensor: " : " tensors: ", names,
                           "; the file may be cut short; download it again");
  }

  ModelFile& file_;
  HeaderReader& reader_;
  std::vector<ExpectedTensor> expected_;
  std::unordered_map<std::string_view, ExpectedTensor*> by_name_;
  int n_missing_ = 0;  // of those that are not optional
};

}  // namespace

ModelFile read_ggml_bin(InputFile input) {
  ModelFile file;
  file.format = "ggml";
  file.files.push_back(std::move(input));
  HeaderReader reader(file.files.front());
  reader.skip(kGgmlMagic.size(), "the header");
  const TensorType weight_type = read_config(file, reader);
  read_vocabulary(file, weight_type, reader);
  TensorReader(file, weight_type, reader).read_all();
  return file;
}

}  // namespace starchat
