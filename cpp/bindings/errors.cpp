// Raises starchat::Error as the Python class that its kind() names in starchat.errors, with the
// same fields. The module is looked up when something is thrown, so that importing `_core` imports
// no Python code.
#include "base/errors.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <exception>
#include <stdexcept>
#include <string_view>
#include <variant>

#include "bindings/bindings.hpp"
#include "bindings/memory_checks.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

py::str decoded(std::string_view text) {  // may quote a path or token that is not UTF-8
  return checked(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "backslashreplace"));
}

py::object number(const ErrorFields::Number& value) {
  const double* real = std::get_if<double>(&value);
  return real && !std::isfinite(*real) ? py::repr(to_python(*real)) : to_python(value);
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
  } catch (py::error_already_set& failure) {  // RuntimeError still carries the message
    if (failure.matches(PyExc_MemoryError)) throw;
    PyErr_SetObject(PyExc_RuntimeError, message.ptr());
  }
}

// Whether pybind11 threw this because Python could not make an object.
bool is_about_memory(std::string_view message) {
  return PyErr_Occurred() ? PyErr_ExceptionMatches(PyExc_MemoryError)
                          : message.starts_with("Could not allocate") ||
                                message.find("MemoryError") != message.npos;
}

}  // namespace

void bind_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      try {  // pybind11 forgets what is thrown here, and makes a RuntimeError of `error`
        raise_in_python(error);
      } catch (...) {
        PyErr_Clear();
        PyErr_NoMemory();
      }
    } catch (const std::runtime_error& error) {
      if (!is_about_memory(error.what())) throw;
      PyErr_Clear();
      PyErr_NoMemory();
    }
  });
}

}  // namespace starchat
