// The native module `_core`: the part of the core that Python can use. Only in the main
// interpreter: what the process shares, like the engines to close at its end, is reached with that
// one's GIL.
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

}  // namespace

// Python lets the import into every subinterpreter, so that the error is ours.
PYBIND11_MODULE(_core_of_main, m, pybind11::multiple_interpreters::per_interpreter_gil()) {
  if (refuse_subinterpreter()) throw pybind11::error_already_set();
  m.doc() = "The native core of starchat. Only starchat itself imports it.";
  starchat::bind_errors(m);
  starchat::bind_tokenizer(m);
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
