// What pybind11 (3.1) leaves out where memory runs out. It uses an instance without looking whether
// Python had memory for one, frees a value twice whose instance cannot be registered, and raises
// TypeError for a result that cannot be converted.
#pragma once
#include <pybind11/pybind11.h>

#include <functional>
#include <new>
#include <type_traits>
#include <utility>

namespace starchat {

// The new reference that a function of Python's C API returned; throws its error.
inline pybind11::object checked(PyObject* result) {
  if (!result) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

template <class Value>
pybind11::object to_python(Value&& value) {
  if constexpr (std::is_base_of_v<pybind11::object, std::remove_cvref_t<Value>>)
    return checked(pybind11::object(std::forward<Value>(value)).release().ptr());
  else
    return checked(pybind11::cast(std::forward<Value>(value)).release().ptr());
}

template <class Result, class Self, class... Args>
auto checked(Result (Self::*method)(Args...) const) {
  return [=](const Self& self, Args... args) {
    return to_python((self.*method)(std::forward<Args>(args)...));
  };
}

template <class Result, class Self, class... Args>
auto checked(Result (Self::*method)(Args...)) {
  return [=](Self& self, Args... args) {
    return to_python((self.*method)(std::forward<Args>(args)...));
  };
}

template <class Result, class... Args>
auto checked(Result (*function)(Args...)) {
  return [=](Args... args) { return to_python(function(std::forward<Args>(args)...)); };
}

// A py::class_ that raises MemoryError. Constructors must be factories that return a holder, as
// pybind11 registers other instances where nothing catches.
template <class T, class... Options>
class CheckedClass : public pybind11::class_<T, Options...> {
  using Base = pybind11::class_<T, Options...>;

 public:
  CheckedClass(pybind11::handle scope, const char* name, const char* doc) : Base(scope, name, doc) {
    auto* type = reinterpret_cast<PyTypeObject*>(this->ptr());
    type->tp_alloc = &allocate;
    type->tp_new = &make;
    init_unchecked_ = std::exchange(pybind11::detail::get_type_info(type)->init_instance, &init);
  }

 private:
  static PyObject* allocate(PyTypeObject* type, Py_ssize_t n) {
    if (PyObject* object = PyType_GenericAlloc(type, n)) return object;
    PyErr_Clear();
    throw std::bad_alloc();
  }

  // Python calls this: no exception may leave it.
  static PyObject* make(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
    try {
      return pybind11::detail::pybind11_object_new(type, args, kwargs);
    } catch (const std::bad_alloc&) {
      return PyErr_NoMemory();
    }
  }

  static void init(pybind11::detail::instance* self, const void* holder) {
    try {
      init_unchecked_(self, holder);
    } catch (...) {  // pybind11 would free the value, even one of the holder
      auto place = self->get_value_and_holder();
      if (!holder && self->owned) delete place.template value_ptr<T>();
      place.value_ptr() = nullptr;
      throw;
    }
  }

  inline static void (*init_unchecked_)(pybind11::detail::instance*, const void*) = nullptr;
};

}  // namespace starchat
