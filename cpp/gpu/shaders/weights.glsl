// A group of a strip of packed weights (StripLayout in cpp/kernels/kernels.hpp), one row of it.
layout(constant_id = 1) const uint BITS = 4;    // WeightKind, by the numbers of its enumerators
layout(constant_id = 2) const uint CODES = 2;
layout(constant_id = 3) const uint SCALES = 1;

const uint FLOAT = 0, UPPER_HALF = 1, CENTRED = 2, FROM_MINIMUM = 3, SIGNED = 4, TABLE = 5;
const uint HALF = 1, FOUR_BITS = 2, SIX_BITS = 3, SIX_BITS_16 = 4, SIX_BITS_SPLIT = 5, EIGHT_BITS = 6;

const bool IS_FLOAT = SCALES == 0, HAS_MIN = CODES == FROM_MINIMUM;
const uint PARTS = SCALES == FOUR_BITS || SCALES == SIX_BITS_16 || SCALES == EIGHT_BITS ? 2 : 1;
const uint N_WORDS = SCALES == FOUR_BITS || SCALES == EIGHT_BITS ? 4
                   : SCALES == SIX_BITS || SCALES == SIX_BITS_16 ? 3
                   : SCALES == SIX_BITS_SPLIT ? 1 : 0;
const uint N_HALVES = HAS_MIN || N_WORDS == 1 ? 2 : 1;
const int OFFSET = CODES == CENTRED ? 1 << (BITS - 1) : 0;  // of codes: start corrects the product

// Places in words, from the begin of a group of n blocks.
const uint PAIR = 32 * BITS + (N_WORDS == 0 ? 16 * N_HALVES : 0);
uint half_at(uint n, uint block, uint which) {  // of the file's block
  if (N_WORDS == 0) return block / 2 * PAIR + which * 16 + block % 2 * 8;
  return n / 8 * N_WORDS * 16 + which * ((n / 8 + 1) / 2 * 16) + block * 8;
}
uint codes_at(uint n, uint block) {
  return (N_WORDS == 0 ? 16 * N_HALVES : half_at(n, 0, N_HALVES)) + block / 2 * PAIR +
         block % 2 * 16 * BITS;
}
uint group_words() {  // of a full group
  return N_WORDS == 0 ? GROUP_BLOCKS / 2 * PAIR : codes_at(GROUP_BLOCKS, GROUP_BLOCKS);
}

spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019],
                  id = 4450)
int signed_dot(uint a, uint b, spirv_literal int format);

uint table_values(uint codes) {  // kCodeValues
  const uint values[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
  uint result = 0;
  [[unroll]] for (uint i = 0; i < 4; ++i) {
    uint code = codes >> 8 * i & 15u;
    result |= (values[code >> 2] >> 8 * (code & 3u) & 255u) << 8 * i;
  }
  return result;
}

uint each_byte(uint x, uint shift, uint mask) { return x >> shift & mask * 0x01010101u; }

// The eight quads of a block: what is multiplied, four int8 each.
void load_quads(Words weights, uint at, out uint quads[8]) {
  uint w[8];
  [[unroll]] for (uint i = 0; i < BITS && i < 8; ++i) w[i] = weights.at[at + 16 * i];
  [[unroll]] for (uint j = 0; j < 8; ++j) {
    uint part = j / 4, t = j % 4, q = 0;
    if (BITS == 8) q = w[j];
    if (BITS == 4) q = each_byte(w[t], 4 * part, 15);
    if (BITS == 5) {
      q = part == 0 ? each_byte(w[1 + t], 0, 31)
                    : each_byte(w[1 + t], 5, 7) | each_byte(w[0], 2 * t, 3) << 3;
    }
    if (BITS == 6) {
      uint low = w[3 * part + 1 + t / 2];
      q = t % 2 == 0 ? each_byte(low, 0, 63)
                     : each_byte(low, 6, 3) | each_byte(w[3 * part], t / 2 * 4, 15) << 2;
    }
    if (BITS == 3) {
      q = t < 2 ? each_byte(w[part], 3 * t, 7)
        : t == 2 ? each_byte(w[2], 3 * part, 7)
                 : each_byte(w[part], 6, 3) | each_byte(w[2], 6 + part, 1) << 2;
    }
    if (BITS == 2) q = each_byte(w[part], 2 * t, 3);
    quads[j] = CODES == TABLE ? table_values(q) : q;
  }
}

// The scales d and the minima m of the parts of a block. group: in words; lane: the row, 0 to 15.
void load_scales(Words weights, uint group, uint n, uint block, uint lane, out float d[2],
                 out float m[2]) {
  uint blocks = N_WORDS == 0 ? 1 : 8, file_block = block / blocks, in_file = block % blocks;
  uint halves[2];
  [[unroll]] for (uint i = 0; i < N_HALVES; ++i) {
    halves[i] = weights.at[group + half_at(n, file_block, i) + lane / 2] >> 16 * (lane & 1u) & 0xffffu;
  }
  float scale = of_half(halves[0]), minimum = HAS_MIN ? of_half(halves[1]) : 0.0;
  uint words = group + file_block * N_WORDS * 16 + lane;
  [[unroll]] for (uint part = 0; part < PARTS; ++part) {
    uint i = in_file * PARTS + part, shift = 8 * (i & 3u), code = 0, low_code = 0;
    int offset = 0;
    if (SCALES == SIX_BITS) {
      uint scales = weights.at[words] >> shift, minima = weights.at[words + 16] >> shift;
      uint rest = weights.at[words + 32] >> shift;
      code = i < 4 ? scales & 63u : rest & 15u | scales >> 2 & 48u;
      low_code = i < 4 ? minima & 63u : rest >> 4 & 15u | minima >> 2 & 48u;
    } else if (SCALES == FOUR_BITS) {
      uint both = weights.at[words + i / 4 * 16] >> shift;
      code = both & 15u;
      low_code = both >> 4 & 15u;
    } else if (SCALES == SIX_BITS_16) {
      code = weights.at[words + i / 4 % 2 * 16] >> (shift + i / 8 * 4) & 15u;
      code |= (weights.at[words + 32] >> (shift + i / 4 * 2) & 3u) << 4;
      offset = 32;
    } else if (SCALES == EIGHT_BITS) {
      code = (weights.at[words + i / 4 * 16] >> shift) + 128u & 255u;
      offset = 128;
    } else if (SCALES == SIX_BITS_SPLIT) {
      code = weights.at[words] >> 4 * i & 15u | (halves[1] >> 2 * i & 3u) << 4;
      offset = 32;
    }
    d[part] = SCALES == HALF ? scale : scale * float(int(code) - offset);
    m[part] = SCALES == HALF ? minimum : -minimum * float(low_code);
  }
}

// Adds a block's part to the sum of its group, in the order of add_block (product_impl.hpp).
int sum_of(uint meta, uint part) { return bitfieldExtract(int(meta), int(8 + 12 * part), 12); }
int sum_of_block(uint meta, uint part) {
  return PARTS == 2 ? sum_of(meta, part) : sum_of(meta, 0) + sum_of(meta, 1);
}

float add_block(float sum, uint quads[8], float d[2], float m[2], uvec4 q[2], uint meta) {
  uint power = meta & 255u;
  [[unroll]] for (uint part = 0; part < PARTS; ++part) {
    int dot = -OFFSET * sum_of_block(meta, part);
    [[unroll]] for (uint j = part * 4; j < 8 && j < part * 4 + 8 / PARTS; ++j) {
      dot += signed_dot(quads[j], q[j / 4][j % 4], 0);
    }
    sum = fused(float(dot), of_bits(bits_of(d[part]) + (power << 23)), sum);
  }
  if (HAS_MIN) {
    [[unroll]] for (uint part = 0; part < PARTS; ++part) {
      sum = fused(m[part], float(sum_of_block(meta, part) << power), sum);
    }
  }
  return sum;
}
