#include "base/hardware_limits.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/arena.hpp"
#include "base/errors.hpp"
#include "base/thread_pool.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#include "base/x86_features.hpp"
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace starchat {

namespace {

template <class Body>
double seconds(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A loop of one instruction over independent sums, as many as the registers hold. It is written in
// assembly, because a compiler would compute the repeated product only once.
struct Peak {
  const char *isa, *operands;
  void (*run)(int64_t n_rounds);
  int macs_per_round;
};

#if defined(__x86_64__)

constexpr int kWideSums = 16, kNarrowSums = 12;  // of the 32 ZMM and the 16 YMM registers

__attribute__((target("avx512f"))) void vpdpbusd(int64_t n_rounds) {
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(3);
  __m512i sum[kWideSums] = {};
  while (n_rounds-- > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kWideSums; ++i) {
      asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum[i]) : "v"(a), "v"(b));
    }
  }
}

#ifdef STARCHAT_AVXVNNI
// As AVX-VNNI encodes it, or as AVX-512 does.
template <bool kVex>
__attribute__((target("avx2"))) void vpdpbusd_ymm(int64_t n_rounds) {
  const __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(3);
  __m256i sum[kNarrowSums] = {};
  while (n_rounds-- > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kNarrowSums; ++i) {
      if constexpr (kVex) {
        asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[i]) : "x"(a), "x"(b));
      } else {
        asm volatile("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sum[i]) : "x"(a), "x"(b));
      }
    }
  }
}

void vpdpbusd_ymm_here(int64_t n_rounds) {
  return has_avxvnni() ? vpdpbusd_ymm<true>(n_rounds) : vpdpbusd_ymm<false>(n_rounds);
}
#endif

__attribute__((target("avx512f"))) void vfmadd_zmm(int64_t n_rounds) {
  const __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(3);
  __m512 sum[kWideSums] = {};
  while (n_rounds-- > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kWideSums; ++i) {
      asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum[i]) : "v"(a), "v"(b));
    }
  }
}

// 16-bit products and their addition: the fewest instructions for 8-bit operands without VNNI.
__attribute__((target("avx2"))) void vpmaddubsw(int64_t n_rounds) {
  const __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(3);
  __m256i sum[kNarrowSums] = {}, product;
  while (n_rounds-- > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kNarrowSums; ++i) {
      asm volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
                   : "+x"(sum[i]), "=&x"(product)
                   : "x"(a), "x"(b));
    }
  }
}

__attribute__((target("avx2,fma"))) void vfmadd_ymm(int64_t n_rounds) {
  const __m256 a = _mm256_set1_ps(1), b = _mm256_set1_ps(3);
  __m256 sum[kNarrowSums] = {};
  while (n_rounds-- > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kNarrowSums; ++i) {
      asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum[i]) : "x"(a), "x"(b));
    }
  }
}

constexpr Peak kPeaks[] = {
    {"avx512", "int8", vpdpbusd, kWideSums * 64},
    {"avx512", "f32", vfmadd_zmm, kWideSums * 16},
#ifdef STARCHAT_AVXVNNI
    {"avxvnni", "int8", vpdpbusd_ymm_here, kNarrowSums * 32},
    {"avxvnni", "f32", vfmadd_ymm, kNarrowSums * 8},
#endif
    {"avx2", "int8", vpmaddubsw, kNarrowSums * 32},
    {"avx2", "f32", vfmadd_ymm, kNarrowSums * 8},
};

#elif defined(__aarch64__)

constexpr int kSums = 16;  // of the 32 registers

__attribute__((target("arch=armv8.2-a+dotprod"))) void sdot(int64_t n_rounds) {
  const int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(3);
  int32x4_t sum[kSums] = {};
  while (n_rounds-- > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      asm volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum[i]) : "w"(a), "w"(b));
    }
  }
}

void fmla(int64_t n_rounds) {
  const float32x4_t a = vdupq_n_f32(1), b = vdupq_n_f32(3);
  float32x4_t sum[kSums] = {};
  while (n_rounds-- > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      asm volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(sum[i]) : "w"(a), "w"(b));
    }
  }
}

constexpr Peak kPeaks[] = {
    {"neon", "int8", sdot, kSums * 16},
    {"neon", "f32", fmla, kSums * 4},
};

#else

constexpr std::array<Peak, 0> kPeaks{};

#endif

}  // namespace

double read_bandwidth(int n_threads, size_t size_bytes) {
  ThreadPool threads(n_threads);
  const Arena arena(size_bytes);
  auto* words = reinterpret_cast<uint64_t*>(arena.data());
  constexpr int64_t kPiece = 1 << 18;  // words
  const auto n_words = static_cast<int64_t>(size_bytes / sizeof(uint64_t));
  std::atomic<uint64_t> total = 0;
  const auto read = [&](int64_t begin, int64_t end, int) {
    uint64_t sums[16] = {};
    for (int64_t i = begin; i + 16 <= end; i += 16) {
      __builtin_prefetch(words + i + 256);
      __builtin_prefetch(words + i + 264);
      for (int k = 0; k < 16; ++k) sums[k] += words[i + k];
    }
    for (const uint64_t sum : sums) total += sum;
  };
  std::memset(words, 1, size_bytes);
  return static_cast<double>(size_bytes) /
         seconds([&] { threads.parallel_for(n_words, kPiece, read); });
}

double multiply_peak(std::string_view isa, std::string_view operands, int n_threads) {
  const Peak* peak = nullptr;
  std::string known;
  for (const Peak& candidate : kPeaks) {
    if (isa == candidate.isa && operands == candidate.operands) peak = &candidate;
    known += (known.empty() ? "" : ", ") + std::string(candidate.isa) + "/" + candidate.operands;
  }
  if (peak == nullptr) {
    throw InvalidRequestError("multiply peak of " + std::string(isa) + "/" + std::string(operands) +
                              ": unknown; there are " + known);
  }
  // About a millisecond each: a thread that wakes late computes fewer of them.
  constexpr int64_t kRoundsPerPiece = 500'000, kPieces = 16;
  ThreadPool threads(n_threads);
  const int64_t n_pieces = kPieces * n_threads;
  const double elapsed = seconds([&] {
    threads.parallel_for(n_pieces, 1, [&](int64_t begin, int64_t end, int) {
      peak->run((end - begin) * kRoundsPerPiece);
    });
  });
  return static_cast<double>(n_pieces * kRoundsPerPiece) * peak->macs_per_round / elapsed;
}

double clock_hz() {
  constexpr int64_t kRounds = 2'000'000, kChain = 16;
  uint64_t sum = 0, one = 1;
  const double elapsed = seconds([&] {
    for (int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < kChain; ++i) {
#if defined(__x86_64__)
        asm volatile("add %1, %0" : "+r"(sum) : "r"(one));
#else
        asm volatile("add %0, %0, %1" : "+r"(sum) : "r"(one));
#endif
      }
    }
  });
  return static_cast<double>(kRounds * kChain) / elapsed;
}

}  // namespace starchat
