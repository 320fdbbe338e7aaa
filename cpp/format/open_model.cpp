#include "format/open_model.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/errors.hpp"
#include "format/ggml_bin.hpp"
#include "format/gguf.hpp"
#include "format/gguf_container.hpp"
#include "format/other_formats.hpp"
#include "format/shards.hpp"

namespace starchat {
namespace {

struct Format {
  std::string_view magic;
  ModelFile (*read)(InputFile);
};

constexpr Format kFormats[] = {
    {kGgmlMagic, read_ggml_bin},
    {kGgufMagic, read_gguf},
};

}  // namespace

ModelFile open_model(const std::string& path) {
  InputFile file(path);
  std::string head(static_cast<size_t>(std::min<uint64_t>(kFormatHeadBytes, file.size_bytes())),
                   '\0');
  file.read(0, std::as_writable_bytes(std::span(head)));
  for (const Format& format : kFormats) {
    const bool is_cut = !head.empty() && format.magic.starts_with(head);
    if (is_cut || head.starts_with(format.magic)) return format.read(std::move(file));
  }
  if (is_piece(path)) throw UnsupportedFormatError(path + ": " + std::string(kJoinPieces));
  throw UnsupportedFormatError(path + ": not a ggml or GGUF starcoder file but " +
                               describe_other_format(head));
}

}  // namespace starchat
