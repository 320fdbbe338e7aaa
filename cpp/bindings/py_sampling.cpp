// The Python class SamplingParams: keywords in, every field readable and writable. Values are
// checked against the model when a sequence is submitted.
#include <pybind11/stl.h>

#include <functional>
#include <map>
#include <string>

#include "base/errors.hpp"
#include "bindings/py_token_stream.hpp"
#include "sampling/params.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

using Setter = std::function<void(SamplingParams&, py::handle)>;

template <class T>
constexpr const char* kExpected = "an integer";
template <>
constexpr const char* kExpected<bool> = "True or False";
template <>
constexpr const char* kExpected<double> = "a number";
template <>
constexpr const char* kExpected<std::map<int64_t, double>> = "a dict of token id to number";
template <>
constexpr const char* kExpected<std::vector<int64_t>> = "a list of token ids";

template <class T>
T converted(const std::string& name, py::handle value) {
  try {
    return value.cast<T>();
  } catch (const py::cast_error&) {
    const auto text = py::repr(value).cast<std::string>();
    if (std::is_integral_v<T> && PyLong_Check(value.ptr()))
      throw InvalidRequestError(name + ": expected an integer of 64 bits" +
                                    (std::is_unsigned_v<T> ? ", not negative" : "") + ", got " +
                                    text,
                                {.param = name});
    throw py::type_error(name + ": expected " + kExpected<T> + ", got " + text);
  }
}

class Binder {
 public:
  explicit Binder(py::class_<SamplingParams>& python_class) : class_(python_class) {}

  template <class T>
  Binder& field(const char* name, T SamplingParams::* member, const char* doc) {
    setters_[name] = [=](SamplingParams& params, py::handle value) {
      params.*member = converted<T>(name, value);
    };
    class_.def_property(
        name, [=](const SamplingParams& params) { return params.*member; }, setters_[name], doc);
    return *this;
  }

  std::map<std::string, Setter> setters() const { return setters_; }

 private:
  py::class_<SamplingParams>& class_;
  std::map<std::string, Setter> setters_;
};

}  // namespace

void bind_sampling_params(py::module_& m) {
  py::class_<SamplingParams> params(m, "SamplingParams", "How one sequence is continued.");
  Binder binder(params);
  binder.field("max_tokens", &SamplingParams::max_tokens, "At least 1.")
      .field("min_tokens", &SamplingParams::min_tokens, "Stop ids are masked before.")
      .field("temperature", &SamplingParams::temperature, "0: greedy.")
      .field("top_k", &SamplingParams::top_k, "0: off.")
      .field("top_p", &SamplingParams::top_p, "1: off.")
      .field("min_p", &SamplingParams::min_p, "Relative to the best token's; 0: off.")
      .field("repetition_penalty", &SamplingParams::repetition_penalty,
             "Over prompt and output: divides positive logits, multiplies negative ones; 1: off.")
      .field("frequency_penalty", &SamplingParams::frequency_penalty,
             "Subtracted for each time in the output.")
      .field("presence_penalty", &SamplingParams::presence_penalty,
             "Subtracted once for what is in the output.")
      .field("logit_bias", &SamplingParams::logit_bias, "Added to single logits; -inf bans.")
      .field("seed", &SamplingParams::seed, "64 bits.")
      .field("stop_token_ids", &SamplingParams::stop_token_ids, "End the sequence, not emitted.")
      .field("speculation", &SamplingParams::speculation, "Guess ahead; the tokens are the same.")
      .field("n_logprobs", &SamplingParams::n_logprobs, "-1: none; n: the chosen and n best.");
  params.def(py::init([setters = binder.setters()](const py::kwargs& fields) {
    SamplingParams params;
    for (const auto& [key, value] : fields) {
      const auto name = key.cast<std::string>();
      const auto setter = setters.find(name);
      if (setter == setters.end())
        throw py::type_error("SamplingParams has no field '" + name + "'");
      setter->second(params, value);
    }
    return params;
  }));
}

}  // namespace starchat
