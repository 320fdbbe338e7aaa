// SIMD operations on 2 · H::kLanes lanes, made of those on H::kLanes: each is applied to a low and
// to a high register.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"

namespace starchat {
namespace {

template <class H>
struct DoubleWidth {
  struct F {
    typename H::F low, high;
  };
  struct I {
    typename H::I low, high;
  };
  struct Quad {
    typename H::Quad low, high;
  };
  struct Products {
    typename H::Products low, high;
  };
  static constexpr int kLanes = 2 * H::kLanes;
  static constexpr bool kUnsignedBytes = H::kUnsignedBytes;

  static F load(const float* p) { return {H::load(p), H::load(p + H::kLanes)}; }
  static void store(float* p, F x) {
    H::store(p, x.low);
    H::store(p + H::kLanes, x.high);
  }
  static F set1(float x) { return {H::set1(x), H::set1(x)}; }
  static F add(F a, F b) { return {H::add(a.low, b.low), H::add(a.high, b.high)}; }
  static F sub(F a, F b) { return {H::sub(a.low, b.low), H::sub(a.high, b.high)}; }
  static F mul(F a, F b) { return {H::mul(a.low, b.low), H::mul(a.high, b.high)}; }
  static F div(F a, F b) { return {H::div(a.low, b.low), H::div(a.high, b.high)}; }
  static F fma(F a, F b, F c) {
    return {H::fma(a.low, b.low, c.low), H::fma(a.high, b.high, c.high)};
  }
  static F max(F a, F b) { return {H::max(a.low, b.low), H::max(a.high, b.high)}; }
  static F min(F a, F b) { return {H::min(a.low, b.low), H::min(a.high, b.high)}; }
  static F abs(F x) { return {H::abs(x.low), H::abs(x.high)}; }
  static F load_half(const uint16_t* p) { return {H::load_half(p), H::load_half(p + H::kLanes)}; }
  static void store_half(uint16_t* p, F x) {
    H::store_half(p, x.low);
    H::store_half(p + H::kLanes, x.high);
  }
  static I as_int(F x) { return {H::as_int(x.low), H::as_int(x.high)}; }
  static F as_float(I x) { return {H::as_float(x.low), H::as_float(x.high)}; }
  static I to_exponent(I n) { return {H::to_exponent(n.low), H::to_exponent(n.high)}; }
  static I max_int(I a, I b) { return {H::max_int(a.low, b.low), H::max_int(a.high, b.high)}; }
  static I add_int(I a, I b) { return {H::add_int(a.low, b.low), H::add_int(a.high, b.high)}; }
  static int32_t max_of(I x) { return H::max_of(H::max_int(x.low, x.high)); }
  static int32_t sum_of(I x) { return H::sum_of(H::add_int(x.low, x.high)); }
  static I round(F x) { return {H::round(x.low), H::round(x.high)}; }
  static void store_bytes(int8_t* p, I x) {
    H::store_bytes(p, x.low);
    H::store_bytes(p + H::kLanes, x.high);
  }
  static I set1_int(int32_t x) { return {H::set1_int(x), H::set1_int(x)}; }
  static F to_float(I x) { return {H::to_float(x.low), H::to_float(x.high)}; }
  static I load_words(const uint16_t* p) {
    return {H::load_words(p), H::load_words(p + H::kLanes)};
  }
  static I shift_int(I x, int n) { return {H::shift_int(x.low, n), H::shift_int(x.high, n)}; }

  static Quad load_bytes(const std::byte* p) {
    return {H::load_bytes(p), H::load_bytes(p + 4 * H::kLanes)};
  }
  static Quad and_bytes(Quad x, int mask) {
    return {H::and_bytes(x.low, mask), H::and_bytes(x.high, mask)};
  }
  static Quad shift_bytes(Quad x, int n) {
    return {H::shift_bytes(x.low, n), H::shift_bytes(x.high, n)};
  }
  static Quad select_bytes(int mask, Quad ones, Quad zeros) {
    return {H::select_bytes(mask, ones.low, zeros.low),
            H::select_bytes(mask, ones.high, zeros.high)};
  }
  static Quad signed_bytes(Quad x) { return {H::signed_bytes(x.low), H::signed_bytes(x.high)}; }
  static Quad look_up(Quad codes) { return {H::look_up(codes.low), H::look_up(codes.high)}; }
  static auto four_bytes(const int8_t* q) { return H::four_bytes(q); }
  template <int kBits, class Four>
  static void add_dot(I& sum, Products& products, Quad quad, Four four, int term, int n_terms) {
    H::template add_dot<kBits>(sum.low, products.low, quad.low, four, term, n_terms);
    H::template add_dot<kBits>(sum.high, products.high, quad.high, four, term, n_terms);
  }
};

}  // namespace
}  // namespace starchat
