// Kernels and weight types by their names, as tests and benchmarks choose them.
#pragma once
#include <string>

#include "kernels/kernels.hpp"

namespace starchat {

const Kernels& kernels_named(const std::string& isa);  // UnsupportedFeatureError: not this machine
TensorType type_named(const std::string& name);        // InvalidRequestError: no such type

}  // namespace starchat
