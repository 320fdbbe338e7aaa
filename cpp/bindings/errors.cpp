// Raises starchat::Error as the Python class that its kind() names in starchat.errors, with the
// same fields. The module is looked up when something is thrown, so that importing `_core` imports
// no Python code.
#include "base/errors.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <exception>
#include <string_view>
#include <variant>

#include "bindings/bindings.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

py::str decoded(std::string_view text) {  // may quote a path or token that is not UTF-8
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "backslashreplace"));
}

py::object number(const ErrorFields::Number& value) {
  const double* real = std::get_if<double>(&value);
  return real && !std::isfinite(*real) ? py::repr(py::cast(*real)) : py::cast(value);
}

void raise_in_python(const Error& error) {
  const py::str message = decoded(error.what());
  try {
    const py::object type = py::module_::import("starchat.errors").attr(error.kind());
    const auto& [param, limit, got] = error.fields();
    const py::object name = param.empty() ? py::object(py::none()) : decoded(param);
    const py::object raised = type(message, py::arg("param") = name,
                                   py::arg("limit") = number(limit), py::arg("got") = number(got));
    PyErr_SetObject(type.ptr(), raised.ptr());
  } catch (py::error_already_set&) {  // RuntimeError still carries the message
    PyErr_SetObject(PyExc_RuntimeError, message.ptr());
  }
}

}  // namespace

void bind_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      raise_in_python(error);
    }
  });
}

}  // namespace starchat
