// The Python class Tokenizer: bytes in, bytes out, the GIL released while it works.
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
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

// Bytes, or a str as UTF-8; lone surrogates, which Python allows in a str, become their three
// bytes. Nothing is done with the GIL held that takes longer for a longer text.
class Utf8 {
 public:
  explicit Utf8(const std::variant<py::bytes, py::str>& text) {
    if (const auto* bytes = std::get_if<py::bytes>(&text)) {
      owner_ = *bytes;
      view_ = static_cast<std::string_view>(*bytes);
      return;
    }
    PyObject* str = (owner_ = std::get<py::str>(text)).ptr();
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(str) != 0) throw py::error_already_set();
#endif
    const void* data = PyUnicode_DATA(str);
    const auto size = static_cast<size_t>(PyUnicode_GET_LENGTH(str));
    const auto kind = PyUnicode_KIND(str);
    if (PyUnicode_IS_COMPACT_ASCII(str)) {
      view_ = {static_cast<const char*>(data), size};
      return;
    }
    const GilReleased released;  // a str does not change, and owner_ keeps it
    switch (kind) {
      case PyUnicode_1BYTE_KIND:
        append(static_cast<const Py_UCS1*>(data), size);
        break;
      case PyUnicode_2BYTE_KIND:
        append(static_cast<const Py_UCS2*>(data), size);
        break;
      default:
        append(static_cast<const Py_UCS4*>(data), size);
    }
    view_ = encoded_;
  }
  Utf8(const Utf8&) = delete;  // view_ may be of encoded_
  Utf8& operator=(const Utf8&) = delete;

  std::string_view view() const { return view_; }

 private:
  template <class Unit>
  void append(const Unit* units, size_t size) {
    encoded_.reserve(size + size / 2);
    for (size_t i = 0; i < size; ++i) {
      const uint32_t c = units[i];
      const auto put = [&](uint32_t byte) { encoded_ += static_cast<char>(byte); };
      const auto rest = [&](int shift) { put(0x80 | (c >> shift & 0x3F)); };
      if (c < 0x80) {
        put(c);
      } else if (c < 0x800) {
        put(0xC0 | c >> 6), rest(0);
      } else if (c < 0x10000) {
        put(0xE0 | c >> 12), rest(6), rest(0);
      } else {
        put(0xF0 | c >> 18), rest(12), rest(6), rest(0);
      }
    }
  }

  py::object owner_;
  std::string encoded_;
  std::string_view view_;
};

// Without the GIL; Ctrl-C ends it.
std::vector<int32_t> encode_ids(const Tokenizer& tokenizer, const Utf8& text,
                                const AllowSpecial& allow_special) {
  const py::object no_progress = py::none();
  GilReleased released;
  ProgressReport report(released, no_progress);
  const Pause pause = [&] { report(0, 0); };
  return std::visit(
      [&](const auto& allowed) { return tokenizer.encode(text.view(), allowed, pause); },
      allow_special);
}

// Lets other threads run between slices, of 1 to 3 ms: a list of 10 million takes a quarter of a
// second.
py::list encode(const Tokenizer& tokenizer, const std::variant<py::bytes, py::str>& text,
                const AllowSpecial& allow_special) {
  constexpr size_t kSlice = 1 << 15;
  std::vector<int32_t> ids = encode_ids(tokenizer, Utf8(text), allow_special);
  py::list list;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0 && i % kSlice == 0) {
      {
        const GilReleased released;
        std::this_thread::sleep_for(std::chrono::microseconds(100));  // else it is taken back
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    list.append(py::int_(ids[i]));
  }
  const GilReleased released;  // to free hundreds of MB takes long too
  std::vector<int32_t>().swap(ids);
  return list;
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

std::vector<int32_t> int32s(const py::bytes& data) {
  const std::string_view bytes = data;
  std::vector<int32_t> all(bytes.size() / sizeof(int32_t));
  std::memcpy(all.data(), bytes.data(), all.size() * sizeof(int32_t));
  return all;
}

Vocabulary vocabulary_of(std::vector<std::string> tokens, const py::bytes& control_ids,
                         const py::bytes& added_ids, const py::bytes& merges) {
  Vocabulary vocabulary{std::move(tokens), int32s(control_ids), int32s(added_ids), {}};
  const std::vector<int32_t> of_merges = int32s(merges);
  const auto check = [&](const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) {
      if (id < 0 || id >= std::ssize(vocabulary.tokens)) throw py::index_error("no such id");
    }
  };
  check(vocabulary.control_ids), check(vocabulary.added_ids), check(of_merges);
  for (size_t i = 0; i + 2 < of_merges.size(); i += 3) {
    vocabulary.merges.push_back({of_merges[i], of_merges[i + 1], of_merges[i + 2]});
  }
  return vocabulary;
}

void bind_tokenizer(py::module_& m) {
  CheckedClass<Tokenizer, std::shared_ptr<Tokenizer>>(
      m, "Tokenizer", "Byte-level BPE rebuilt from a vocabulary: the raw bytes of every token.")
      .def(py::init([](std::vector<std::string> tokens, const py::bytes& control_ids,
                       const py::bytes& added_ids, const py::bytes& merges) {
             Vocabulary all = vocabulary_of(std::move(tokens), control_ids, added_ids, merges);
             const GilReleased released;
             return std::make_shared<Tokenizer>(std::move(all));
           }),
           py::arg("vocabulary"), py::arg("control_ids") = py::bytes(),
           py::arg("added_ids") = py::bytes(), py::arg("merges") = py::bytes(),
           "Ids are int32 each; merges are (left, right, merged) by rank, or none: ids say them.")
      .def("encode", checked(&encode), py::arg("text"), py::arg("allow_special") = false,
           "Return the ids of a text. Control tokens in it count as plain text, unless allowed:\n"
           "all of them (True) or those in a list of names. Accepts any bytes.")
      .def(
          "count",
          [](const Tokenizer& self, const std::variant<py::bytes, py::str>& text) {
            return encode_ids(self, Utf8(text), false).size();
          },
          py::arg("text"), "Return the number of ids of a text, whose control tokens are text.")
      .def("least_ids", &Tokenizer::least_ids, py::arg("n_characters"),
           "Return a number of ids that no text of so many characters is below.")
      .def("decode", &decode, py::arg("ids"), py::arg("skip_special") = false,
           "Return the bytes of these ids, optionally without the control tokens.")
      .def(
          "token_bytes",
          [](const Tokenizer& self, int32_t id) { return py::bytes(self.token_bytes(id)); },
          py::arg("id"), "Return the bytes of one id.")
      .def(
          "find",
          [](const Tokenizer& self, const std::variant<py::bytes, py::str>& token) {
            return self.find(Utf8(token).view());
          },
          py::arg("token"), "Return the lowest id with exactly these bytes, or None.")
      .def("is_special", &Tokenizer::is_special, py::arg("id"),
           "Return whether an id is a control token.")
      .def("is_added", &Tokenizer::is_added, py::arg("id"),
           "Return whether an id is an added token, which is cut out of texts before merges.")
      .def("special_tokens", &special_tokens, "Return the control tokens: name to id.")
      .def("__len__", checked(&Tokenizer::size));
}

}  // namespace starchat
