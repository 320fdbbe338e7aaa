// The Python class SamplingParams: keywords in, every field readable and writable. Values are
// checked against the model when a sequence is submitted.
#include <pybind11/stl.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "base/errors.hpp"
#include "bindings/memory_checks.hpp"
#include "bindings/py_token_stream.hpp"
#include "sampling/params.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

using Setter = std::function<void(SamplingParams&, py::handle)>;

// How Python and its users name the type of a field.
template <class T>
struct Named;
template <>
struct Named<int64_t> {
  static constexpr const char *kType = "int", *kExpected = "an integer";
};
template <>
struct Named<uint64_t> : Named<int64_t> {};
template <>
struct Named<std::optional<int64_t>> {
  static constexpr const char *kType = "int | None", *kExpected = "an integer or None";
};
template <>
struct Named<bool> {
  static constexpr const char *kType = "bool", *kExpected = "True or False";
};
template <>
struct Named<double> {
  static constexpr const char *kType = "float", *kExpected = "a number";
};
template <>
struct Named<LogitBias> {
  static constexpr const char *kType = "Mapping[int, float]",
                              *kExpected = "a dict of token id to number";
};
template <>
struct Named<TokenIds> {
  static constexpr const char *kType = "Sequence[int]", *kExpected = "a list of token ids";
};

template <class T>
T converted(const std::string& name, py::handle value) {
  try {
    return value.cast<T>();
  } catch (const py::cast_error&) {
    const auto shown = py::module_::import("starchat.errors").attr("shown");
    const auto text = shown(value).cast<std::string>();  // the beginning of the repr
    const bool is_integer = std::is_integral_v<T> || std::is_same_v<T, std::optional<int64_t>>;
    if (is_integer && PyLong_Check(value.ptr()))
      throw InvalidRequestError(name + ": expected an integer of 64 bits" +
                                    (std::is_unsigned_v<T> ? ", not negative" : "") + ", got " +
                                    text,
                                {.param = name});
    throw py::type_error(name + ": expected " + Named<T>::kExpected + ", got " + text);
  }
}

}  // namespace

void bind_sampling_params(py::module_& m) {
  CheckedClass<SamplingParams> params(m, "SamplingParams", "How one sequence is continued.");
  std::map<std::string, Setter> setters;
  py::dict types;
  const auto field = [&]<class T>(const char* name, T SamplingParams::* member, const char* doc) {
    const auto getter = [=](const SamplingParams& params) { return params.*member; };
    setters[name] = [=](SamplingParams& params, py::handle value) {
      params.*member = converted<T>(name, value);
    };
    params.def_property(name, getter, setters[name], doc);
    types[name] = Named<T>::kType;
  };
#define NUMBER(type, name, value, lower, least, most, expected, meaning) \
  field(#name, &SamplingParams::name, meaning);
#define COLLECTION(type, name, meaning) field(#name, &SamplingParams::name, meaning);
#include "sampling/params.def"
  m.attr("SAMPLING_PARAMETERS") = types;
  params.def(py::init([=](const py::kwargs& fields) {
    auto params = std::make_unique<SamplingParams>();
    for (const auto& [key, value] : fields) {
      const auto name = key.cast<std::string>();
      const auto setter = setters.find(name);
      if (setter == setters.end())
        throw py::type_error("SamplingParams has no field '" + name + "'");
      setter->second(*params, value);
    }
    return params;
  }));
}

}  // namespace starchat
