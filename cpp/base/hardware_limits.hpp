// What this machine can do at best, measured: the limits that kernels and models are held against.
// Nothing here computes for a model.
#pragma once
#include <cstddef>
#include <string_view>

namespace starchat {

// Bytes per second that a team reads from memory, with nothing else to do.
double read_bandwidth(int n_threads, size_t size_bytes);

// Multiply-adds per second of a team, all operands in registers, by the instruction that the
// kernels of `isa` ("avx512", "avx2", "neon") use for `operands` ("int8", "f32"). The caller
// knows that the machine has the set; InvalidRequestError for another name.
double multiply_peak(std::string_view isa, std::string_view operands, int n_threads);

// Cycles per second of one core that is busy, by a chain of additions that each wait for the last.
double clock_hz();

}  // namespace starchat
