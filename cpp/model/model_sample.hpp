// What makes one model another for the keys and values of its cache: shape, types, and the values
// at fixed places. Copies of a file and other formats of the same numbers have the same sample.
#pragma once
#include <cstddef>
#include <vector>

#include "model/weights.hpp"

namespace starchat {

// All norms and biases, and of each matrix and of the positions the beginning of every strip or
// row: 20 MB of a model of 9 GB.
std::vector<std::byte> sample_of(const LoadedFile& file);

}  // namespace starchat
