#include "model/weights.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>

#include "base/errors.hpp"
#include "format/duplicates.hpp"

namespace starchat {

namespace {

// Consecutive rows of the file that become consecutive rows in memory.
struct RowRange {
  int64_t first, count;
};

[[noreturn]] void fail_not_finite(const ModelFile& file, const std::string& tensor) {
  throw CorruptFileError(file.path + ": " + tensor +
                         ": holds values that are not finite; the file is damaged: download it "
                         "again, or convert it again if it is your own");
}

void check_finite(const ModelFile& file, const std::string& tensor, std::span<const float> values) {
  const auto is_finite = [](float value) { return std::isfinite(value); };
  if (!std::ranges::all_of(values, is_finite)) fail_not_finite(file, tensor);
}

std::vector<float> read_vector(const ModelFile& file, const std::string& name,
                               const std::vector<RowRange>& ranges, size_t padded_size) {
  const TensorInfo& info = file.tensor(name);
  std::vector<float> values(padded_size);
  size_t at = 0;
  for (const RowRange& range : ranges) {
    const size_t n = static_cast<size_t>(range.count);
    std::vector<std::byte> bytes(size_of_weights(info.type, n));
    file.read(info.offset + size_of_weights(info.type, static_cast<uint64_t>(range.first)), bytes);
    dequantize_row(info.type, bytes.data(), values.data() + at, n);
    at += n;
  }
  check_finite(file, name, values);
  return values;
}

// Packs tensors one after the other into an arena whose size is known beforehand.
class Packer {
 public:
  Packer(const ModelFile& file, ThreadPool& threads, const Progress& progress)
      : file_(file), threads_(threads), progress_(progress) {}

  // First every matrix is planned, then the arena is made, then every matrix is packed.
  void plan(PackedMatrix& matrix, const std::string& name, std::vector<RowRange> ranges) {
    const TensorInfo& info = file_.tensor(name);
    int64_t n_rows = 0;
    for (const RowRange& range : ranges) n_rows += range.count;
    matrix = {.type = info.type,
              .n_rows = static_cast<int>(n_rows),
              .n_cols = static_cast<int>(info.n_cols)};
    jobs_.push_back({&matrix, &info, std::move(ranges)});
    size_bytes_ += matrix.size_bytes();
    total_bytes_ += n_rows * info.row_bytes();
  }

  Arena pack() {
    Arena arena(size_bytes_);
    std::byte* at = arena.data();
    for (const Job& job : jobs_) {
      job.matrix->data = at;
      pack(job, at);
      at += job.matrix->size_bytes();
    }
    if (progress_) progress_(total_bytes_, total_bytes_);
    return arena;
  }

 private:
  struct Job {
    PackedMatrix* matrix;
    const TensorInfo* info;
    std::vector<RowRange> ranges;
  };

  void pack(const Job& job, std::byte* data) {
    const size_t row_bytes = job.info->row_bytes();
    threads_.parallel_for(job.matrix->n_strips(), 8, [&](int64_t begin, int64_t end, int thread) {
      std::vector<std::byte> rows;
      for (int64_t strip = begin; strip < end; ++strip) {
        const int64_t first = strip * kLanes;
        const int64_t count = std::min<int64_t>(kLanes, job.matrix->n_rows - first);
        rows.resize(count * row_bytes);
        read_rows(job, first, rows);
        std::byte* packed = data + strip * job.matrix->strip_bytes();
        if (!pack_strip(job.info->type, job.matrix->n_cols, rows, packed)) {
          fail_not_finite(file_, job.info->name);
        }
        const uint64_t done = done_bytes_ += rows.size();
        if (thread == 0 && progress_) progress_(done, total_bytes_);
      }
    });
  }

  // Rows [first, first + out.size() / row_bytes) of the matrix in memory.
  void read_rows(const Job& job, int64_t first, std::span<std::byte> out) const {
    const size_t row_bytes = job.info->row_bytes();
    for (const RowRange& range : job.ranges) {
      if (out.empty()) return;
      if (first >= range.count) {
        first -= range.count;
        continue;
      }
      const size_t n_rows = std::min<size_t>(range.count - first, out.size() / row_bytes);
      file_.read(job.info->offset + (range.first + first) * row_bytes,
                 out.first(n_rows * row_bytes));
      out = out.subspan(n_rows * row_bytes);
      first = 0;
    }
  }

  const ModelFile& file_;
  ThreadPool& threads_;
  const Progress& progress_;
  std::vector<Job> jobs_;
  size_t size_bytes_ = 0;
  uint64_t total_bytes_ = 0;
  std::atomic<uint64_t> done_bytes_{0};
};

}  // namespace

PositionTable::PositionTable(const ModelFile& file, int n_ctx) : n_embd_(file.config.n_embd) {
  if (!fill(file, n_ctx, true)) fill(file, n_ctx, false);
}

// Whether every value could be stored.
bool PositionTable::fill(const ModelFile& file, int n_ctx, bool half) {
  const TensorInfo& info = file.tensor("model/wpe");
  half_ = half;
  rows_ = Arena(static_cast<size_t>(n_ctx) * n_embd_ * (half ? 2 : 4));
  std::vector<std::byte> bytes(info.row_bytes());
  std::vector<float> row(n_embd_);
  for (int position = 0; position < n_ctx; ++position) {
    file.read(info.offset + position * info.row_bytes(), bytes);
    dequantize_row(info.type, bytes.data(), row.data(), row.size());
    check_finite(file, info.name, row);
    const size_t first = static_cast<size_t>(position) * n_embd_;
    if (!half) {
      std::memcpy(rows_.data() + first * 4, row.data(), row.size() * 4);
      continue;
    }
    auto* halves = reinterpret_cast<uint16_t*>(rows_.data()) + first;
    for (int i = 0; i < n_embd_; ++i) {
      halves[i] = f32_to_f16(row[i]);
      if (std::bit_cast<uint32_t>(f16_to_f32(halves[i])) != std::bit_cast<uint32_t>(row[i])) {
        return false;
      }
    }
  }
  return true;
}

void PositionTable::add_row(int position, float* x) const {
  const size_t first = static_cast<size_t>(position) * n_embd_;
  if (half_) {
    const auto* row = reinterpret_cast<const uint16_t*>(rows_.data()) + first;
    for (int i = 0; i < n_embd_; ++i) x[i] += f16_to_f32(row[i]);
  } else {
    const auto* row = reinterpret_cast<const float*>(rows_.data()) + first;
    for (int i = 0; i < n_embd_; ++i) x[i] += row[i];
  }
}

Weights load_weights(const ModelFile& file, int n_ctx, ThreadPool& threads,
                     const Progress& progress) {
  const DecoderConfig& c = file.config;
  const int64_t n_embd = c.n_embd, n_q = c.q_width();
  const std::string prefix = "model/";

  Weights weights;
  weights.n_kv_head = is_multi_query(file) ? 1 : c.n_head;
  const bool tied = !file.has_lm_head || lm_head_equals_wte(file);
  const int64_t n_kv = weights.n_kv_head * c.head_dim;
  const std::vector<RowRange> qkv_rows{{0, n_q}, {n_q, n_kv}, {n_q + c.kv_width(), n_kv}};

  Packer packer(file, threads, progress);
  const auto norm = [&](const std::string& name) {
    weights.n_params += 2 * n_embd;
    return LayerNorm{read_vector(file, name + "/g", {{0, n_embd}}, n_embd),
                     read_vector(file, name + "/b", {{0, n_embd}}, n_embd), c.norm_eps};
  };
  const auto matrix = [&](PackedMatrix& out, const std::string& name,
                          const std::vector<RowRange>& rows) {
    packer.plan(out, name, rows);
    weights.n_params += static_cast<uint64_t>(out.n_rows) * out.n_cols;
  };
  const auto linear = [&](Linear& out, const std::string& name, const std::vector<RowRange>& rows) {
    matrix(out.weight, name + "/w", rows);
    out.bias = read_vector(file, name + "/b", rows, out.weight.n_padded_rows());
    weights.n_params += out.weight.n_rows;
  };

  matrix(weights.wte, prefix + "wte", {{0, c.n_vocab}});
  if (!tied) matrix(weights.lm_head, prefix + "lm_head", {{0, c.n_vocab}});
  weights.layers.resize(c.n_layer);
  for (int i = 0; i < c.n_layer; ++i) {
    const std::string block = prefix + "h" + std::to_string(i) + "/";
    Layer& layer = weights.layers[i];
    layer.ln_1 = norm(block + "ln_1");
    layer.ln_2 = norm(block + "ln_2");
    linear(layer.c_attn, block + "attn/c_attn", qkv_rows);
    linear(layer.attn_proj, block + "attn/c_proj", {{0, n_embd}});
    linear(layer.c_fc, block + "mlp/c_fc", {{0, c.n_inner}});
    linear(layer.mlp_proj, block + "mlp/c_proj", {{0, n_embd}});
  }
  weights.ln_f = norm(prefix + "ln_f");
  weights.wpe = PositionTable(file, n_ctx);
  weights.n_params += static_cast<uint64_t>(c.n_ctx) * n_embd;

  weights.arena = packer.pack();
  if (tied) weights.lm_head = weights.wte;
  weights.size_bytes = weights.arena.size_bytes() + weights.wpe.size_bytes();
  return weights;
}

}  // namespace starchat
