// Compares every kernel of each instruction set that this machine runs with the scalar one, bit
// for bit. Stands alone, so that it runs under an emulator. Prints the sets' names; exit code 1: a
// difference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernels.hpp"

using namespace starchat;

namespace {

std::mt19937 random_bits(1);

std::vector<float> gaussian(size_t n) {
  std::normal_distribution<float> draw;
  std::vector<float> values(n);
  for (float& value : values) value = draw(random_bits);
  return values;
}

void check(const char* what, const std::vector<float>& a, const std::vector<float>& b) {
  if (std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0) return;
  std::printf("%s differs\n", what);
  std::exit(1);
}

std::vector<float> product(const Kernels& kernels, TensorType type, size_t strip_bytes,
                           int n_strips, const std::vector<uint8_t>& strips,
                           const std::vector<float>& x, int n_blocks, int n_columns) {
  const bool quantized = is_quantized(type);
  const size_t column_bytes = activation_format(traits(type).kind).column_bytes(n_blocks);
  std::vector<std::byte> tiles(n_columns * column_bytes);
  for (int c = 0; quantized && c < n_columns; ++c) {
    const int tile = c / kTileColumns * kTileColumns;
    kernels.quantize(x.data() + c * n_blocks * kBlock, n_blocks, traits(type).kind,
                     tiles.data() + tile * column_bytes, c - tile,
                     std::min(kTileColumns, n_columns - tile));
  }
  const size_t n_rows = static_cast<size_t>(n_strips) * kLanes;
  const std::vector<float> bias(n_rows, 0.25f);
  std::vector<float> out(n_columns * n_rows, 1.0f);
  kernels.panel_product[static_cast<int>(type)](
      {.strips = reinterpret_cast<const std::byte*>(strips.data()),
       .strip_bytes = strip_bytes,
       .n_strips = n_strips,
       .columns = quantized ? tiles.data() : reinterpret_cast<const std::byte*>(x.data()),
       .n_blocks = n_blocks,
       .n_columns = n_columns,
       .bias = bias.data(),
       .accumulate = true,
       .out = out.data(),
       .out_stride = n_rows});
  return out;
}

// Gaussian, each block of another size; some are zero.
std::vector<float> activations(size_t n_blocks) {
  auto values = gaussian(n_blocks * kBlock);
  for (size_t i = 0; i < values.size(); ++i) {
    const int size = static_cast<int>(i / kBlock * 7 % 23);
    values[i] = size == 22 ? 0.0f : std::ldexp(values[i], -size);
  }
  return values;
}

// More blocks than a group has, more columns than a tile. Random scales and codes under finite
// halves; or the largest, all of one sign, at which sums of 16 bits are near their bounds.
void compare_products(const Kernels& fast, const Kernels& scalar, bool largest) {
  for (const TypeTraits& traits : kTensorTypes) {
    const TensorType type = traits.type;
    const StripLayout layout{traits.kind};
    const int n_blocks = traits.block_weights == 256 ? 24 : 19;
    const size_t n = layout.strip_bytes(n_blocks);
    std::vector<uint8_t> strips(kPanelStrips * n + 1024);
    for (auto& byte : strips) byte = static_cast<uint8_t>(largest ? 0xff : random_bits());
    const auto set_halves = [&](size_t at, size_t count) {
      for (size_t i = 0; i < count; ++i) {
        const uint16_t half = f32_to_f16(gaussian(1)[0]);
        std::memcpy(strips.data() + at + 2 * i, &half, 2);
      }
    };
    if (type == TensorType::F32) {
      const auto weights = gaussian(kPanelStrips * n / 4);
      std::memcpy(strips.data(), weights.data(), kPanelStrips * n);
    } else if (layout.kind.is_float()) {  // as bf16, they are finite too
      set_halves(0, kPanelStrips * n / 2);
    } else {
      for (int strip = 0; strip < kPanelStrips; ++strip) {
        size_t group = strip * n;
        for (int first = 0; first < n_blocks; first += kGroupBlocks) {
          const int blocks = std::min(kGroupBlocks, n_blocks - first);
          for (int block = 0; block < layout.file_blocks(blocks); ++block) {
            for (int half = 0; half < layout.n_halves(); ++half)
              set_halves(group + layout.half_offset(blocks, block, half), kLanes);
          }
          group += layout.group_bytes(blocks);
        }
      }
    }
    for (const int n_columns : {1, 2, 3, 4, 5, 6, 7, 11, 16, 23, 70}) {
      auto x = activations(n_blocks * n_columns);
      if (largest) std::ranges::fill(x, 1.0f);
      for (const int n_strips : {1, kPanelStrips}) {
        check(traits.name, product(fast, type, n, n_strips, strips, x, n_blocks, n_columns),
              product(scalar, type, n, n_strips, strips, x, n_blocks, n_columns));
      }
    }
  }
}

void compare_vectors(const Kernels& fast, const Kernels& scalar) {
  const auto x = gaussian(352), gain = gaussian(352), bias = gaussian(352);
  std::vector<float> a(352), b(352);
  fast.layer_norm(x.data(), gain.data(), bias.data(), 352, 1e-5f, a.data());
  scalar.layer_norm(x.data(), gain.data(), bias.data(), 352, 1e-5f, b.data());
  check("layer_norm", a, b);
  a = b = x;
  fast.gelu(a.data(), 352);
  scalar.gelu(b.data(), 352);
  check("gelu", a, b);
  std::vector<uint16_t> half_a(352), half_b(352);
  fast.to_half(x.data(), 351, half_a.data());
  scalar.to_half(x.data(), 351, half_b.data());
  if (half_a != half_b) check("to_half", {0}, {1});
}

void compare_attention(const Kernels& fast, const Kernels& scalar) {
  constexpr int kHeads = 7, kDim = 24, kPositions = 621, kRow = 32, kPage = 32;  // two spans
  std::vector<std::vector<uint16_t>> pages(3);
  std::vector<const uint16_t*> pointers;
  std::vector<PageId> ids;
  for (int i = 0; i * kPage < kPositions; ++i) ids.push_back(PageId{(i + 2) % 3});
  for (auto& page : pages) {
    for (const float value : gaussian(kPage * (kDim + kRow))) page.push_back(f32_to_f16(value));
    pointers.push_back(page.data());
  }
  const auto q = gaussian(kHeads * kDim);
  const auto result_of = [&](const Kernels& kernels) {
    std::vector<float> out(kHeads * kDim);
    Attention a{.q = q.data(),
                .n_heads = kHeads,
                .head_dim = kDim,
                .pages = ids.data(),
                .page_table = pointers.data(),
                .k_offset = 0,
                .v_offset = kPage * kDim,
                .v_row_elements = kRow,
                .n_positions = kPositions,
                .scratch = nullptr,
                .out = out.data()};
    std::vector<float> scratch(a.scratch_elements());
    a.scratch = scratch.data();
    attend(kernels, a);
    return out;
  };
  check("attention", result_of(fast), result_of(scalar));
}

}  // namespace

int main() {
  const Kernels& scalar = *find_kernels("scalar");
  for (const auto& name : available_instruction_sets()) {
    const Kernels& fast = *find_kernels(name);
    if (&fast == &scalar) continue;
    compare_products(fast, scalar, false);
    compare_products(fast, scalar, true);
    compare_vectors(fast, scalar);
    compare_attention(fast, scalar);
    std::printf("%s equals scalar\n", fast.name);
  }
}
