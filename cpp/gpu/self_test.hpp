// Known answers: shaders against the scalar kernels, bit for bit. Drivers differ in what they do to
// arithmetic; one whose bits differ is refused, so that no wrong text comes of it.
#pragma once
#include <memory>
#include <span>
#include <string>

#include "gpu/shaders.hpp"

namespace starchat {

// Each throws UnsupportedFeatureError that says which operation of which driver differs, and where.
class ShaderTest {
 public:
  explicit ShaderTest(Shaders& shaders);

  void arithmetic();  // fma, division, square root and halves, of random bits
  // Random weights (n_strips · 16, n_blocks · 32), of which some scales are zero or subnormal. The
  // result has a bias and is added to another where accumulates.
  void product(const TypeTraits& type, int n_strips, int n_blocks, int n_columns, bool accumulates);
  void activations(Prologue source, bool quantizes, int n, int n_columns, bool reorders);
  // Of two sequences: n_columns of one up to position n_positions - 1, and one of another.
  void attention(int n_heads, int n_kv_heads, int head_dim, int n_positions, int n_columns);

 private:
  struct Memory;
  template <class Record>
  void run(const Record& record);
  void compare(const std::string& operation, std::span<const uint32_t> expected,
               std::span<const uint32_t> actual) const;

  Shaders& shaders_;
  const Kernels& scalar_;
};

// The shaders of a device, tested for these types; the same ones while somebody has them. About
// 0.3 s and what the driver takes to compile.
std::shared_ptr<Shaders> tested_shaders(std::shared_ptr<Device> device,
                                        std::span<const TensorType> types);

}  // namespace starchat
