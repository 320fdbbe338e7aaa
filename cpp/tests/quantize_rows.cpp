// Quantizes ordinary and extreme rows to every type with one thread and with three: the same bytes,
// and finite weights. For sanitizers.
#include <cmath>
#include <cstdio>
#include <vector>

#include "base/errors.hpp"
#include "quant/quantize.hpp"

using namespace starchat;

namespace {

constexpr size_t kRows = 96, kCols = 1792;  // 7 blocks of 256, pieces for three threads

// Rows of numbers between -1 and 1, each times a power of ten; every 16th row has one value, every
// fifth weight of others is 0.
std::vector<float> rows() {
  std::vector<float> values(kRows * kCols);
  uint32_t state = 1;
  for (size_t i = 0; i < values.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    const float number = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    const size_t row = i / kCols;
    values[i] = number * std::pow(10.0f, static_cast<float>(row % 48) - 43.0f);
    if (row % 16 == 0 && i % kCols) values[i] = values[i - 1];
    if (row % 16 && i % 5 == 0) values[i] = 0.0f;
  }
  return values;
}

std::vector<std::byte> quantized(TensorType type, const std::vector<float>& values, int n_threads) {
  std::vector<std::byte> blocks(size_of_weights(type, values.size()));
  ThreadPool threads(n_threads);
  quantize_rows(type, values.data(), kRows, kCols, blocks.data(), {}, threads, [](size_t) {});
  return blocks;
}

bool refuses(TensorType type, std::vector<float> values, float value) {
  values[kCols + 3] = value;
  try {
    quantized(type, values, 3);
    return false;
  } catch (const InvalidRequestError&) {
    return true;
  }
}

}  // namespace

int main() {
  const std::vector<float> values = rows();
  int n_failures = 0;
  for (const TypeTraits& type : kTensorTypes) {
    const auto blocks = quantized(type.type, values, 1);
    bool ok = blocks == quantized(type.type, values, 3);
    std::vector<float> weights(values.size());
    dequantize_row(type.type, blocks.data(), weights.data(), weights.size());
    for (const float weight : weights) ok &= std::isfinite(weight);
    for (const float value : {NAN, INFINITY, -INFINITY}) ok &= refuses(type.type, values, value);
    if (!ok) std::printf("%s: wrong\n", type.name);
    n_failures += !ok;
  }
  return n_failures;
}
