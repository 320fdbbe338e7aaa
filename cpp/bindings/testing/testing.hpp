// Parts of `_core.testing`, for tests and benchmarks of this repository alone. A build with
// STARCHAT_TESTING=OFF has none of this folder.
#pragma once
#include <pybind11/pybind11.h>

namespace starchat {

void bind_kernels(pybind11::module_& testing);
void bind_timing(pybind11::module_& testing);
void bind_readers(pybind11::module_& testing);
void bind_gpu(pybind11::module_& testing);
void bind_shaders(pybind11::module_& testing);

}  // namespace starchat
