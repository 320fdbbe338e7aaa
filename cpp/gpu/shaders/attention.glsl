// What the parts of attention share. Pages have the layout of KvStore: keys in strips of 16
// positions, (head_dim, 16); values in rows of v_row_words; two halves in a word.
#include "common.glsl"

layout(push_constant) uniform Push {
  Floats qkv;       // (n_columns, qkv_stride)
  Columns columns;  // (n_columns)
  Pages pages;      // by Column.first_page + position / 32
  Floats scores;    // (n_columns, n_heads, score_stride)
  Floats sums;      // (n_columns, n_spans, n_heads, head_dim)
  Floats inverse;   // (n_columns, n_heads)
  uint qkv_stride, n_columns, n_heads, n_kv_heads, head_dim, v_row_words;
  uint layer_words;  // of a page: where the layer begins
  uint score_stride, n_spans;
  float scale;       // 1 / sqrt(head_dim)
};

uint keys_at(uint kv_head) { return layer_words + kv_head * (16 * head_dim + 32 * v_row_words); }
uint values_at(uint kv_head) { return keys_at(kv_head) + 16 * head_dim; }
