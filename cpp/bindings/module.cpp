// The native module `_core`: the part of the core that Python can use. Only in the main
// interpreter and with its GIL, which protects what the process shares, like the engines to close
// at its end.
#include "bindings/bindings.hpp"

namespace {

// Sets ImportError and returns true in a subinterpreter.
bool refuse_subinterpreter() {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) return false;
  PyErr_SetString(
      PyExc_ImportError,
      "starchat does not work in a subinterpreter: use it in the main interpreter, whose "
      "threads can share a model, or in another process");
  return true;
}

// The same in a build without a GIL that was told to do without; otherwise Python turns it on.
bool refuse_without_gil() {
#ifdef Py_GIL_DISABLED
  PyObject* const function = PySys_GetObject("_is_gil_enabled");
  PyObject* const enabled = function ? PyObject_CallNoArgs(function) : nullptr;
  const bool works = enabled == Py_True;
  Py_XDECREF(enabled);
  if (works || PyErr_Occurred()) return !works;
  PyErr_SetString(PyExc_ImportError,
                  "starchat does not work without the GIL: leave out PYTHON_GIL=0 and -X gil=0, "
                  "then Python turns it on");
  return true;
#else
  return false;
#endif
}

}  // namespace

// Python lets the import into every subinterpreter, so that the error is ours.
PYBIND11_MODULE(_core_of_main, m, pybind11::multiple_interpreters::per_interpreter_gil()) {
  if (refuse_subinterpreter() || refuse_without_gil()) throw pybind11::error_already_set();
  m.doc() = "The native core of starchat. Only starchat itself imports it.";
  starchat::bind_errors(m);
  starchat::bind_tokenizer(m);
  starchat::bind_quant(m);
  starchat::bind_checkpoint(m);
  starchat::bind_format(m);
  starchat::bind_engine(m);
  starchat::bind_machine(m);
#ifdef STARCHAT_TESTING
  starchat::bind_testing(m);
#endif
}

// Python before 3.13 calls this in the subinterpreter, where pybind11's function would wait for
// ever for the main interpreter's GIL.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  return refuse_subinterpreter() ? nullptr : PyInit__core_of_main();
}
