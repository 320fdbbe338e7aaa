// Quantizes one block of a K- or IQ-type, or four small ones, by scale_search.hpp. src: the block's
// weights; columns: how much the squared error of each counts, or null. Returns whether the halves
// of the block are finite.
#pragma once
#include "quant/blocks.hpp"

namespace starchat {

bool quantize_block(const float* src, const float* columns, BlockQ2_K& block);
bool quantize_block(const float* src, const float* columns, BlockQ3_K& block);
bool quantize_block(const float* src, const float* columns, BlockQ4_K& block);
bool quantize_block(const float* src, const float* columns, BlockQ5_K& block);
bool quantize_block(const float* src, const float* columns, BlockQ6_K& block);
bool quantize_block(const float* src, const float* columns, BlockIQ4_XS& block);
bool quantize_block(const float* src, const float* columns, BlockIQ4_NL (&blocks)[4]);

}  // namespace starchat
