// Parts of `_core.testing`, for tests and benchmarks of this repository alone. A build with
// STARCHAT_TESTING=OFF has none of this folder.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "quant/types.hpp"

namespace starchat {

TensorType type_named(const std::string& name);  // InvalidRequestError: no such type

void bind_kernels(pybind11::module_& testing);
void bind_timing(pybind11::module_& testing);

}  // namespace starchat
