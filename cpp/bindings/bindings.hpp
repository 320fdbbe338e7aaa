// What the `_core` module is made of: one function for each file of this folder adds its classes.
// The only folder that includes pybind11.
#pragma once
#include <pybind11/pybind11.h>

namespace starchat {

void bind_errors(pybind11::module_& m);
void bind_tokenizer(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_compute(pybind11::module_& testing);  // a part of testing
void bind_timing(pybind11::module_& testing);   // another
void bind_testing(pybind11::module_& m);
void bind_format(pybind11::module_& m);

}  // namespace starchat
