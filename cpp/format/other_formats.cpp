#include "format/other_formats.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

namespace starchat {
namespace {

using namespace std::string_view_literals;

constexpr auto kGetGgml = "get the model's GGUF or ggml .bin file (starcoder) instead"sv;
constexpr auto kConvert =
    "run `starchat convert FOLDER model.gguf` on the folder that it is in, which has the config"sv;
constexpr auto kLlama = "it holds a LLaMA-family model: use llama.cpp"sv;
constexpr auto kUnpack = "unpack it and name the model file inside"sv;
constexpr auto kDownload = "the download went wrong: download the model file itself"sv;

struct Format {
  std::string_view start, name, remedy;
};

constexpr auto kFormats = std::to_array<Format>({
    {"tjgg"sv, "a llama.cpp 'ggjt' file"sv, kLlama},
    {"fmgg"sv, "a llama.cpp 'ggmf' file"sv, kLlama},
    {"algg"sv, "a llama.cpp 'ggla' adapter"sv, kLlama},
    {"nsgg"sv, "a llama.cpp 'ggsn' session"sv, kLlama},
    {"ggml"sv, "a big-endian ggml file"sv, "convert the model on a little-endian machine"sv},
    {"PK\3\4"sv, "a zip archive, perhaps a PyTorch checkpoint"sv, kConvert},
    {"\x80\x02"sv, "a Python pickle, perhaps a PyTorch checkpoint"sv, kConvert},
    {"\x80\x03"sv, "a Python pickle, perhaps a PyTorch checkpoint"sv, kConvert},
    {"\x80\x04"sv, "a Python pickle, perhaps a PyTorch checkpoint"sv, kConvert},
    {"\x80\x05"sv, "a Python pickle, perhaps a PyTorch checkpoint"sv, kConvert},
    {"\x89HDF"sv, "an HDF5 file"sv, kGetGgml},
    {"\x1f\x8b"sv, "a gzip archive"sv, kUnpack},
    {"BZh"sv, "a bzip2 archive"sv, kUnpack},
    {"\xfd"
     "7zXZ"sv,
     "an xz archive"sv, kUnpack},
    {"\x28\xb5\x2f\xfd"sv, "a zstd archive"sv, kUnpack},
    {"7z\xbc\xaf"sv, "a 7z archive"sv, kUnpack},
    {"version https://git-lfs"sv, "a git-lfs pointer, not the file itself"sv,
     "fetch it with `git lfs pull`"sv},
});

struct Architecture {
  std::string_view start, name;
};

constexpr auto kArchitectures = std::to_array<Architecture>({
    {"tok_embeddings."sv, "LLaMA"sv},
    {"layers."sv, "LLaMA"sv},
    {"gpt_neox."sv, "GPT-NeoX"sv},
    {"transformer.blocks."sv, "MPT"sv},
    {"transformer.word_embeddings."sv, "Falcon or BLOOM"sv},
    {"transformer."sv, "GPT-J"sv},
});

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool starts_with_ignoring_case(std::string_view text, std::string_view start) {
  return text.size() >= start.size() &&
         std::equal(start.begin(), start.end(), text.begin(),
                    [](char a, char b) { return lower(a) == lower(b); });
}

bool is_text(std::string_view head) {
  return std::all_of(head.begin(), head.end(), [](char c) {
    return static_cast<unsigned char>(c) >= ' ' || c == '\n' || c == '\r' || c == '\t';
  });
}

// A quotation for the error message, at most 80 bytes of whole UTF-8 sequences.
std::string quoted(std::string_view text) {
  constexpr size_t kShownBytes = 80;
  if (text.size() <= kShownBytes) return "'" + std::string(text) + "'";
  size_t end = kShownBytes;
  while (end > 0 && (text[end] & 0xc0) == 0x80) --end;
  return "'" + std::string(text.substr(0, end)) + "...'";
}

// A server that refuses a download writes the reason into the file: the title of a page, or the
// first line of a text.
std::string describe_text(std::string_view head) {
  constexpr std::string_view kTitle = "<title>";
  const std::string_view text =
      head.substr(std::min(head.find_first_not_of(" \r\n\t"), head.size()));
  if (text.empty()) return "a text file of white space";
  if (starts_with_ignoring_case(text, "<!doctype") || starts_with_ignoring_case(text, "<html")) {
    for (size_t i = 0; i < text.size(); ++i) {
      if (!starts_with_ignoring_case(text.substr(i), kTitle)) continue;
      const std::string_view title = text.substr(i + kTitle.size());
      return "a web page (HTML) with the title " + quoted(title.substr(0, title.find('<')));
    }
    return "a web page (HTML)";
  }
  return "a text file that begins with " + quoted(text.substr(0, text.find_first_of("\r\n")));
}

std::string with_remedy(std::string_view name, std::string_view remedy) {
  return std::string(name) + "; " + std::string(remedy);
}

}  // namespace

std::string describe_other_format(std::string_view head) {
  if (head.empty()) return with_remedy("an empty file", kDownload);
  for (const Format& format : kFormats) {
    if (head.starts_with(format.start)) return with_remedy(format.name, format.remedy);
  }
  // safetensors: u64 header length, then JSON
  if (head.size() > 8 && head[8] == '{' && head.substr(5, 3) == "\0\0\0"sv) {
    return with_remedy("a safetensors file", kConvert);
  }
  if (is_text(head)) return with_remedy(describe_text(head), kDownload);
  std::string bytes;
  for (const char c : head.substr(0, 4)) {
    std::array<char, 4> hex{};
    std::snprintf(hex.data(), hex.size(), " %02x",
                  static_cast<unsigned>(static_cast<unsigned char>(c)));
    bytes += hex.data();
  }
  return with_remedy("an unknown format that starts with" + bytes +
                         ", expected 6c 6d 67 67 (ggml) or 47 47 55 46 (GGUF)",
                     kGetGgml);
}

std::optional<std::string_view> other_architecture(std::string_view tensor_name) {
  for (const Architecture& architecture : kArchitectures) {
    if (tensor_name.starts_with(architecture.start)) return architecture.name;
  }
  return std::nullopt;
}

}  // namespace starchat
