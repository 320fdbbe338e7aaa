// The parts of the `_core` module: each file of this folder has one function that adds its classes.
// Only this folder includes pybind11.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "quant/types.hpp"

namespace starchat {

void bind_errors(pybind11::module_& m);
void bind_tokenizer(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_format(pybind11::module_& m);
void bind_quant(pybind11::module_& m);
void bind_checkpoint(pybind11::module_& m);
void bind_machine(pybind11::module_& m);
void bind_testing(pybind11::module_& m);  // testing/: absent where STARCHAT_TESTING is off

TensorType type_named(const std::string& name);  // InvalidRequestError: no such type

}  // namespace starchat
