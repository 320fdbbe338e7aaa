// The limits of this machine, measured: read bandwidth, multiply-add peak, clock. Benchmarks divide
// the speed of kernels and models by them. Nothing here computes for a model.
#pragma once
#include <cstddef>
#include <string_view>

namespace starchat {

// Bytes per second that n_threads read from memory, together.
double read_bandwidth(int n_threads, size_t size_bytes);

// Multiply-adds per second of n_threads together, with all operands in registers, by the
// instruction that the kernels of `isa` ("avx512", "avxvnni", "avx2", "neon") use for `operands`
// ("int8", "f32"). The caller must know that the machine has this instruction set.
// InvalidRequestError for an unknown name.
double multiply_peak(std::string_view isa, std::string_view operands, int n_threads);

// Clock cycles per second of one busy core: each addition of a chain takes one cycle.
double clock_hz();

}  // namespace starchat
