// Scales, minima and codes of one block of a K- or IQ-type, such that the weighted squared error is
// small. First each part (weights that share a scale) on its own: candidates for its scale, codes
// for each, least squares for the codes. Then the whole block: scales are rounded to a few bits of
// d, codes follow, least squares give a better d. Four parts are searched at a time, one in each
// lane: no operation crosses lanes, and every machine gives the same bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "quant/blocks.hpp"
#include "quant/half.hpp"

namespace starchat {

using Floats4 = float __attribute__((vector_size(16)));  // a value of each of four parts
using Ints4 = int32_t __attribute__((vector_size(16)));

inline Floats4 all4(float value) { return Floats4{value, value, value, value}; }
inline Floats4 min4(Floats4 a, Floats4 b) { return a < b ? a : b; }
inline Floats4 max4(Floats4 a, Floats4 b) { return a > b ? a : b; }
inline Floats4 round4(Floats4 x) { return x + 0x1.8p23f - 0x1.8p23f; }  // |x| < 2^22; ties to even
inline Floats4 inverse4(Floats4 x) { return x == 0.0f ? all4(0.0f) : 1.0f / x; }
inline Floats4 clamp4(Floats4 x, float low, float high) {
  return min4(max4(x, all4(low)), all4(high));
}

// What codes stand for, before the scale: whole numbers from `low` to `high`.
template <int kLow, int kHigh>
struct WholeNumbers {
  static constexpr int kLowest = kLow, kHighest = kHigh;
  static Floats4 nearest(Floats4 x) { return round4(clamp4(x, kLow, kHigh)); }
  static uint8_t code(float value) { return static_cast<uint8_t>(static_cast<int>(value) - kLow); }
};

// kCodeValues.
struct TableValues {
  static constexpr int kLowest = kCodeValues[0], kHighest = kCodeValues[15];

  static Floats4 nearest(Floats4 x) {
    const Floats4 at = round4(2.0f * clamp4(x, kLowest, kHighest) - (2.0f * kLowest + 0.5f));
    const Ints4 i = __builtin_convertvector(max4(at, all4(0.0f)), Ints4);
    return Floats4{kNearest.value[i[0]], kNearest.value[i[1]], kNearest.value[i[2]],
                   kNearest.value[i[3]]};
  }
  static uint8_t code(float value) {
    return kNearest.code[2 * (static_cast<int>(value) - kLowest)];
  }

 private:
  // For [i/2, (i + 1)/2) above the lowest: limits between values are multiples of 1/2.
  struct Nearest {
    float value[2 * (kHighest - kLowest) + 1];
    uint8_t code[2 * (kHighest - kLowest) + 1];
    constexpr Nearest() : value(), code() {
      for (int i = 0, at = 0; i < static_cast<int>(std::size(value)); ++i) {
        while (at < 15 && i + 2 * kLowest >= kCodeValues[at] + kCodeValues[at + 1]) ++at;
        value[i] = kCodeValues[at];
        code[i] = static_cast<uint8_t>(at);
      }
    }
  };
  static const Nearest kNearest;
};
inline constexpr TableValues::Nearest TableValues::kNearest{};

// Four parts of kN weights: weight k of each, and how much its squared error counts.
template <int kN>
struct Parts4 {
  Floats4 x[kN], importance[kN];

  void load(const float* src, const float* columns, int stride) {
    for (int k = 0; k < kN; ++k) {
      for (int lane = 0; lane < 4; ++lane) {
        x[k][lane] = src[lane * stride + k];
        importance[k][lane] = columns ? columns[lane * stride + k] : 1.0f;
      }
    }
  }
};

// ---- weight = value · scale ---------------------------------------------------------------------

// Sums over a part for codes of values v: Σ w·x·v and Σ w·v².
struct ScaleSums {
  Floats4 xv{}, vv{};
  Floats4 scale() const { return xv * inverse4(vv); }
  Floats4 gain() const { return xv * scale(); }  // how far the best scale reduces Σ w·x²
  Floats4 error(Floats4 scale) const { return scale * (scale * vv - 2.0f * xv); }  // less Σ w·x²
};

template <class Values, int kN>
ScaleSums scale_sums(const Parts4<kN>& parts, Floats4 inverse) {
  ScaleSums sums;
  for (int k = 0; k < kN; ++k) {
    const Floats4 v = Values::nearest(parts.x[k] * inverse), wv = parts.importance[k] * v;
    sums.xv += wv * parts.x[k];
    sums.vv += wv * v;
  }
  return sums;
}

// The scale of each part. targets: what the weight farthest from zero is scaled to, in turn.
template <class Values, int kN>
Floats4 search_scale(const Parts4<kN>& parts, std::span<const float> targets) {
  Floats4 farthest = all4(0.0f);
  for (const Floats4& x : parts.x) {
    farthest = max4(x, -x) > max4(farthest, -farthest) ? x : farthest;
  }
  const Floats4 unit = inverse4(farthest);
  Floats4 best = all4(0.0f), best_gain = all4(0.0f);
  const auto consider = [&](Floats4 inverse) {
    const ScaleSums sums = scale_sums<Values>(parts, inverse);
    const Floats4 gain = sums.gain();
    best = gain > best_gain ? sums.scale() : best;
    best_gain = max4(gain, best_gain);
  };
  for (const float target : targets) consider(target * unit);
  for (int i = 0; i < 2; ++i) consider(inverse4(best));
  return best;
}

// d of a block, its scales in units of d, and codes.
template <int kN, int kParts>
struct ScaledBlock {
  uint16_t d;
  int scales[kParts];
  uint8_t codes[kN * kParts];
};

// Of a part's scale, away from the nearest one, that are tried; how often least squares give
// another d.
inline constexpr float kSteps[] = {0.0f, -1.0f, 1.0f};
inline constexpr int kRounds = 2;

inline constexpr uint16_t kInfiniteHalf = 0x7c00;

// As a half, but not 0 for a number that is none.
inline uint16_t scale_half(float scale) {
  const uint16_t half = f32_to_f16(scale);
  return (half & 0x7fff) == 0 && scale != 0.0f ? half | 1 : half;
}

// Scales are whole numbers from -kScaleLimit to kScaleLimit - 1.
template <class Values, int kN, int kParts, int kScaleLimit>
class ScaleSearch {
 public:
  ScaleSearch(const float* src, const float* columns, std::span<const float> targets) {
    for (int g = 0; g < kGroups; ++g) {
      const int first = 4 * g * kN;
      parts_[g].load(src + first, columns ? columns + first : nullptr, kN);
      wanted_[g] = search_scale<Values>(parts_[g], targets);
    }
  }

  void run(ScaledBlock<kN, kParts>& block) const {
    float farthest = 0.0f;
    for (int i = 0; i < kParts; ++i) {
      const float scale = wanted_[i / 4][i % 4];
      if (std::abs(scale) > std::abs(farthest)) farthest = scale;
    }
    Trial best{};
    best.d = kInfiniteHalf;  // where no error is finite
    best.error = INFINITY;
    Trial next = trial(scale_half(farthest / static_cast<float>(-kScaleLimit)));
    for (int i = 0;; ++i) {
      if (next.error < best.error) best = next;
      const uint16_t d = scale_half(next.best_d);
      if (i == kRounds || d == next.d || !std::isfinite(next.error)) break;
      next = trial(d);
    }
    finish(best, block);
  }

 private:
  static constexpr int kGroups = kParts / 4;

  struct Trial {
    uint16_t d;
    float error, best_d;  // less Σ w·x²; of least squares for the codes
    Floats4 scales[kGroups];
  };

  Trial trial(uint16_t d_half) const {
    Trial result;
    result.d = d_half;
    const float d = f16_to_f32(d_half), inverse_d = d != 0.0f ? 1.0f / d : 0.0f;
    double error = 0, xv = 0, vv = 0;
    for (int g = 0; g < kGroups; ++g) {
      const Floats4 nearest = round4(clamp4(wanted_[g] * inverse_d, -kScaleLimit, kScaleLimit - 1));
      Floats4 least = all4(INFINITY);
      ScaleSums at_least;
      for (const float step : kSteps) {
        const Floats4 number = clamp4(nearest + step, -kScaleLimit, kScaleLimit - 1);
        const Floats4 scale = d * number;
        const ScaleSums sums = scale_sums<Values>(parts_[g], inverse4(scale));
        const Floats4 its_error = sums.error(scale);
        const auto is_less = its_error < least;
        result.scales[g] = is_less ? number : result.scales[g];
        at_least.xv = is_less ? sums.xv : at_least.xv;
        at_least.vv = is_less ? sums.vv : at_least.vv;
        least = is_less ? its_error : least;
      }
      for (int lane = 0; lane < 4; ++lane) {
        const double number = result.scales[g][lane];
        error += least[lane];
        xv += number * at_least.xv[lane];
        vv += number * number * at_least.vv[lane];
      }
    }
    result.error = static_cast<float>(error);
    result.best_d = vv > 0 ? static_cast<float>(xv / vv) : 0.0f;
    return result;
  }

  void finish(const Trial& best, ScaledBlock<kN, kParts>& block) const {
    block.d = best.d;
    for (int g = 0; g < kGroups; ++g) {
      const Floats4 inverse = inverse4(f16_to_f32(best.d) * best.scales[g]);
      for (int lane = 0; lane < 4; ++lane) {
        block.scales[4 * g + lane] = static_cast<int>(best.scales[g][lane]);
      }
      for (int k = 0; k < kN; ++k) {
        const Floats4 v = Values::nearest(parts_[g].x[k] * inverse);
        for (int lane = 0; lane < 4; ++lane) {
          block.codes[(4 * g + lane) * kN + k] = Values::code(v[lane]);
        }
      }
    }
  }

  Parts4<kN> parts_[kGroups];
  Floats4 wanted_[kGroups];  // scales
};

// ---- weight = code · scale - minimum ------------------------------------------------------------

// Sums over a part for codes q: Σ w·q, Σ w·q², Σ w·x·q; of the weights alone: Σ w, Σ w·x.
struct CodeSums {
  Floats4 q{}, qq{}, xq{};
};

template <int kN>
CodeSums code_sums(const Parts4<kN>& parts, Floats4 inverse, Floats4 low, float max_code) {
  CodeSums sums;
  for (int k = 0; k < kN; ++k) {
    const Floats4 shifted = parts.x[k] - low;
    const Floats4 q = round4(clamp4(shifted * inverse, 0.0f, max_code));
    const Floats4 wq = parts.importance[k] * q;
    sums.q += wq;
    sums.qq += wq * q;
    sums.xq += wq * shifted;
  }
  return sums;
}

// d and dmin of a block, scales and minima in their units, and codes.
template <int kN, int kParts>
struct ScaledBlockWithMinima {
  uint16_t d, dmin;
  int scales[kParts], minima[kParts];
  uint8_t codes[kN * kParts];
};

// Scales and minima are whole numbers from 0 to kLimit.
template <int kMaxCode, int kN, int kParts, int kLimit>
class MinimumSearch {
 public:
  MinimumSearch(const float* src, const float* columns, std::span<const float> targets) {
    for (int g = 0; g < kGroups; ++g) {
      const int first = 4 * g * kN;
      parts_[g].load(src + first, columns ? columns + first : nullptr, kN);
      for (int k = 0; k < kN; ++k) {
        w_[g] += parts_[g].importance[k];
        wx_[g] += parts_[g].importance[k] * parts_[g].x[k];
      }
      search(g, targets);
    }
  }

  void run(ScaledBlockWithMinima<kN, kParts>& block) const {
    float scale = 0.0f, minimum = 0.0f;
    for (int i = 0; i < kParts; ++i) {
      scale = std::max(scale, scales_[i / 4][i % 4]);
      minimum = std::max(minimum, -lows_[i / 4][i % 4]);
    }
    Trial best{};
    best.d = kInfiniteHalf;  // where no error is finite
    best.error = INFINITY;
    Trial next = trial(scale_half(scale / kLimit), scale_half(minimum / kLimit));
    for (int i = 0;; ++i) {
      if (next.error < best.error) best = next;
      const uint16_t d = scale_half(next.best_d), dmin = scale_half(next.best_dmin);
      if (i == kRounds || (d == next.d && dmin == next.dmin) || !std::isfinite(next.error)) break;
      next = trial(d, dmin);
    }
    finish(best, block);
  }

 private:
  static constexpr int kGroups = kParts / 4;

  // The scale and the lowest weight, at most 0, of each part of a group.
  void search(int g, std::span<const float> targets) {
    const Parts4<kN>& parts = parts_[g];
    Floats4 low = all4(0.0f), high = parts.x[0];
    for (const Floats4& x : parts.x) {
      low = min4(low, x);
      high = max4(high, x);
    }
    const Floats4 unit = inverse4(high - low);
    const Floats4 w = w_[g];
    Floats4 best = all4(0.0f), best_low = low, least = all4(INFINITY);
    // Least squares for the codes that inverse and from give; all is relative to `low`.
    const auto consider = [&](Floats4 inverse, Floats4 from) {
      CodeSums sums;
      Floats4 wy = all4(0.0f);
      for (int k = 0; k < kN; ++k) {
        const Floats4 y = parts.x[k] - low;
        const Floats4 q = round4(clamp4((parts.x[k] - from) * inverse, 0.0f, kMaxCode));
        const Floats4 wq = parts.importance[k] * q;
        sums.q += wq;
        sums.qq += wq * q;
        sums.xq += wq * y;
        wy += parts.importance[k] * y;
      }
      const Floats4 det = w * sums.qq - sums.q * sums.q, inverse_det = inverse4(det);
      const auto is_flat = det <= 1e-6f * (w * sums.qq);  // one code: the minimum stays
      Floats4 scale = (w * sums.xq - wy * sums.q) * inverse_det;
      Floats4 shift = (sums.qq * wy - sums.q * sums.xq) * inverse_det;
      scale = is_flat ? sums.xq * inverse4(sums.qq) : scale;
      shift = is_flat ? all4(0.0f) : shift;
      const auto is_above = shift > -low;  // minima are not negative
      scale = is_above ? (sums.xq + low * sums.q) * inverse4(sums.qq) : scale;
      shift = is_above ? -low : shift;
      const Floats4 error = scale * (scale * sums.qq + 2.0f * (shift * sums.q - sums.xq)) +
                            shift * (shift * w - 2.0f * wy);
      const auto is_less = error < least;
      best = is_less ? scale : best;
      best_low = is_less ? low + shift : best_low;
      least = min4(error, least);
    };
    for (const float target : targets) consider(target * unit, low);
    for (int i = 0; i < 2; ++i) consider(inverse4(best), best_low);
    scales_[g] = max4(best, all4(0.0f));
    lows_[g] = min4(best_low, all4(0.0f));
  }

  struct Trial {
    uint16_t d, dmin;
    float error, best_d, best_dmin;
    Floats4 scales[kGroups], minima[kGroups];
  };

  Trial trial(uint16_t d_half, uint16_t dmin_half) const {
    Trial result;
    result.d = d_half;
    result.dmin = dmin_half;
    const float d = f16_to_f32(d_half), dmin = f16_to_f32(dmin_half);
    const float inverse_d = d != 0.0f ? 1.0f / d : 0.0f;
    const float inverse_dmin = dmin != 0.0f ? 1.0f / dmin : 0.0f;
    // Σ over parts of scale²·Σwq², scale·minimum·Σwq, minimum²·Σw, scale·Σwxq, minimum·Σwx
    double error = 0, ss = 0, sm = 0, mm = 0, sx = 0, mx = 0;
    for (int g = 0; g < kGroups; ++g) {
      const Floats4 nearest = round4(clamp4(scales_[g] * inverse_d, 0.0f, kLimit));
      Floats4 least = all4(INFINITY);
      CodeSums at_least;
      for (const float step : kSteps) {
        const Floats4 number = clamp4(nearest + step, 0.0f, kLimit);
        const Floats4 scale = d * number, inverse = inverse4(scale);
        // The best minimum for the codes under the one of the part alone
        const CodeSums first = code_sums(parts_[g], inverse, lows_[g], kMaxCode);
        const Floats4 minimum = (scale * first.q - wx_[g]) * inverse4(w_[g]);
        const Floats4 steps = round4(clamp4(minimum * inverse_dmin, 0.0f, kLimit));
        const Floats4 low = -(dmin * steps);
        Floats4 its_error = all4(0.0f);
        CodeSums sums;
        for (int k = 0; k < kN; ++k) {
          const Floats4 shifted = parts_[g].x[k] - low;
          const Floats4 q = round4(clamp4(shifted * inverse, 0.0f, kMaxCode));
          const Floats4 wq = parts_[g].importance[k] * q, off = shifted - scale * q;
          sums.q += wq;
          sums.qq += wq * q;
          sums.xq += wq * parts_[g].x[k];
          its_error += parts_[g].importance[k] * off * off;
        }
        const auto is_less = its_error < least;
        result.scales[g] = is_less ? number : result.scales[g];
        result.minima[g] = is_less ? steps : result.minima[g];
        at_least.q = is_less ? sums.q : at_least.q;
        at_least.qq = is_less ? sums.qq : at_least.qq;
        at_least.xq = is_less ? sums.xq : at_least.xq;
        least = is_less ? its_error : least;
      }
      for (int lane = 0; lane < 4; ++lane) {
        const double s = result.scales[g][lane], m = result.minima[g][lane];
        error += least[lane];
        ss += s * s * at_least.qq[lane];
        sm += s * m * at_least.q[lane];
        mm += m * m * w_[g][lane];
        sx += s * at_least.xq[lane];
        mx += m * wx_[g][lane];
      }
    }
    result.error = static_cast<float>(error);
    const double det = ss * mm - sm * sm;
    result.best_d = d;
    result.best_dmin = dmin;
    if (det > 1e-9 * ss * mm) {
      result.best_d = static_cast<float>((sx * mm - sm * mx) / det);
      result.best_dmin = static_cast<float>((sm * sx - ss * mx) / det);
    } else if (ss > 0) {
      result.best_d = static_cast<float>((sx + dmin * sm) / ss);
    }
    return result;
  }

  void finish(const Trial& best, ScaledBlockWithMinima<kN, kParts>& block) const {
    block.d = best.d;
    block.dmin = best.dmin;
    for (int g = 0; g < kGroups; ++g) {
      const Floats4 inverse = inverse4(f16_to_f32(best.d) * best.scales[g]);
      const Floats4 low = -(f16_to_f32(best.dmin) * best.minima[g]);
      for (int lane = 0; lane < 4; ++lane) {
        block.scales[4 * g + lane] = static_cast<int>(best.scales[g][lane]);
        block.minima[4 * g + lane] = static_cast<int>(best.minima[g][lane]);
      }
      for (int k = 0; k < kN; ++k) {
        const Floats4 q = round4(clamp4((parts_[g].x[k] - low) * inverse, 0.0f, kMaxCode));
        for (int lane = 0; lane < 4; ++lane) {
          block.codes[(4 * g + lane) * kN + k] = static_cast<uint8_t>(q[lane]);
        }
      }
    }
  }

  Parts4<kN> parts_[kGroups];
  Floats4 w_[kGroups]{}, wx_[kGroups]{};  // Σ w, Σ w·x
  Floats4 scales_[kGroups], lows_[kGroups];
};

}  // namespace starchat
