// The native module `_core`: the part of the core that Python can use.
#include "bindings/bindings.hpp"

PYBIND11_MODULE(_core, m) {
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
