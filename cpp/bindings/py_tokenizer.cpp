// The Python class Tokenizer: bytes in, bytes out, the GIL released while it works.
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/memory_checks.hpp"
#include "bindings/waiting.hpp"
#include "text/tokenizer.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

using AllowSpecial = std::variant<bool, std::vector<std::string>>;

// A str as UTF-8; lone surrogates, which Python allows in a str, become their three bytes.
py::bytes as_bytes(const std::variant<py::bytes, py::str>& text) {
  if (const auto* bytes = std::get_if<py::bytes>(&text)) return *bytes;
  PyObject* encoded =
      PyUnicode_AsEncodedString(std::get<py::str>(text).ptr(), "utf-8", "surrogatepass");
  if (!encoded) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(encoded);
}

std::vector<int32_t> encode(const Tokenizer& tokenizer,
                            const std::variant<py::bytes, py::str>& text,
                            const AllowSpecial& allow_special) {
  const py::bytes owner = as_bytes(text);
  const auto bytes = static_cast<std::string_view>(owner);
  const GilReleased released;
  return std::visit([&](const auto& allowed) { return tokenizer.encode(bytes, allowed); },
                    allow_special);
}

// Wider than an id, so that one beyond 32 bits is reported like every other wrong id.
py::bytes decode(const Tokenizer& tokenizer, const std::vector<int64_t>& wide, bool skip_special) {
  std::string bytes;
  {
    const GilReleased released;
    std::vector<int32_t> ids;
    ids.reserve(wide.size());
    for (const int64_t id : wide) {
      tokenizer.token_bytes(id);  // throws for a wrong id
      ids.push_back(static_cast<int32_t>(id));
    }
    bytes = tokenizer.decode(ids, skip_special);
  }
  return bytes;
}

py::dict special_tokens(const Tokenizer& tokenizer) {
  py::dict names;
  for (const int32_t id : tokenizer.special_ids()) {
    names[py::str(std::string(tokenizer.token_bytes(id)))] = id;
  }
  return names;
}

}  // namespace

void bind_tokenizer(py::module_& m) {
  CheckedClass<Tokenizer, std::shared_ptr<Tokenizer>>(
      m, "Tokenizer", "Byte-level BPE rebuilt from a vocabulary: the raw bytes of every token.")
      .def(py::init([](std::vector<py::bytes> vocabulary) {
             std::vector<std::string> tokens;
             tokens.reserve(vocabulary.size());
             for (const py::bytes& token : vocabulary) tokens.emplace_back(token);
             const GilReleased released;
             return std::make_shared<Tokenizer>(std::move(tokens));
           }),
           py::arg("vocabulary"))
      .def("encode", checked(&encode), py::arg("text"), py::arg("allow_special") = false,
           "Return the ids of a text. Control tokens in it count as plain text, unless allowed:\n"
           "all of them (True) or those in a list of names. Accepts any bytes.")
      .def("decode", &decode, py::arg("ids"), py::arg("skip_special") = false,
           "Return the bytes of these ids, optionally without the control tokens.")
      .def(
          "token_bytes",
          [](const Tokenizer& self, int32_t id) { return py::bytes(self.token_bytes(id)); },
          py::arg("id"), "Return the bytes of one id.")
      .def(
          "find",
          [](const Tokenizer& self, const std::variant<py::bytes, py::str>& token) {
            return self.find(static_cast<std::string_view>(as_bytes(token)));
          },
          py::arg("token"), "Return the lowest id with exactly these bytes, or None.")
      .def("is_special", &Tokenizer::is_special, py::arg("id"),
           "Return whether an id is a control token.")
      .def("special_tokens", &special_tokens, "Return the control tokens: name to id.")
      .def("__len__", checked(&Tokenizer::size));
}

}  // namespace starchat
