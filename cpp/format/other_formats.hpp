// Recognises files of other formats, for an error message that names the format and the remedy.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace starchat {

// From the first bytes of a file, up to kFormatHeadBytes: "a GGUF file; …remedy". Never empty.
std::string describe_other_format(std::string_view head);
inline constexpr size_t kFormatHeadBytes = 1024;

// The architecture whose tensors are named like this; nullopt when no other one's are.
std::optional<std::string_view> other_architecture(std::string_view tensor_name);

}  // namespace starchat
