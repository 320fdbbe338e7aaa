// Raises starchat::Error as the Python class that its kind() names in starchat.errors. The module
// is looked up when something is thrown, so that importing `_core` imports no Python code.
#include "base/errors.hpp"

#include <exception>
#include <string_view>

#include "bindings/bindings.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

void raise_in_python(const Error& error) {
  py::object type;
  try {
    type = py::module_::import("starchat.errors").attr(error.kind());
  } catch (py::error_already_set&) {  // RuntimeError still carries the message
    type = py::reinterpret_borrow<py::object>(PyExc_RuntimeError);
  }
  const std::string_view text = error.what();  // may quote a path or token that is not UTF-8
  const auto message = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "backslashreplace"));
  PyErr_SetObject(type.ptr(), message.ptr());
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
