#include "model/weights.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "base/errors.hpp"

namespace starchat {

namespace {

constexpr size_t kMinSharedBytes = size_t{16} << 20;  // less is not worth searching /proc for
constexpr size_t kMadeBytes = size_t{8} << 20;        // of rows that are made at a time

[[noreturn]] void fail_not_finite(const ModelFile& file, const Tensor& tensor) {
  const InputFile& part = file.files[tensor.is_made() ? 0 : tensor.sources.front().file];
  throw CorruptFileError(part.path() + ": " + tensor.name +
                         ": holds values that are not finite; the file is damaged: download it "
                         "again, or convert it again if it is your own");
}

void check_finite(const ModelFile& file, const Tensor& tensor, std::span<const float> values) {
  const auto is_finite = [](float value) { return std::isfinite(value); };
  if (!std::ranges::all_of(values, is_finite)) fail_not_finite(file, tensor);
}

std::vector<float> read_vector(const ModelFile& file, const Tensor& tensor, size_t padded_size) {
  const auto n = static_cast<size_t>(tensor.n_rows());
  std::vector<std::byte> bytes(n * tensor.row_bytes());
  file.read_rows(tensor, 0, bytes);
  std::vector<float> values(padded_size);
  dequantize_row(tensor.type, bytes.data(), values.data(), n);
  check_finite(file, tensor, values);
  return values;
}

class PositionReader {
 public:
  explicit PositionReader(const ModelFile& file)
      : file_(file),
        tensor_(file.tensor(Role::PositionEmbedding)),
        bytes_(tensor_.row_bytes()),
        row_(file.config.n_embd) {}

  std::span<const float> row(int position) {
    file_.read_rows(tensor_, position, bytes_);
    dequantize_row(tensor_.type, bytes_.data(), row_.data(), row_.size());
    check_finite(file_, tensor_, row_);
    return row_;
  }

 private:
  const ModelFile& file_;
  const Tensor& tensor_;
  std::vector<std::byte> bytes_;
  std::vector<float> row_;
};

bool is_half(std::span<const float> row) {
  return std::ranges::all_of(row, [](float value) {
    return std::bit_cast<uint32_t>(f16_to_f32(f32_to_f16(value))) == std::bit_cast<uint32_t>(value);
  });
}

PackedMatrix planned(const Tensor& tensor) {
  return {.type = tensor.type,
          .n_rows = static_cast<int>(tensor.n_rows()),
          .n_cols = static_cast<int>(tensor.n_cols),
          .column_order = tensor.column_order};
}

// Packs matrices one after the other into memory whose size is known beforehand.
class Packer {
 public:
  Packer(const ModelFile& file, ThreadPool& threads, const Progress& progress)
      : file_(file), threads_(threads), progress_(progress) {}

  // First every matrix is planned, then the memory is made, then every matrix is packed.
  void plan(PackedMatrix& matrix, const Tensor& tensor) {
    matrix = planned(tensor);
    jobs_.push_back({&matrix, &tensor});
    size_bytes_ += matrix.size_bytes();
    total_bytes_ += matrix.n_rows * tensor.row_bytes();
  }

  size_t size_bytes() const { return size_bytes_; }
  void pack(std::byte* data) {
    for (const Job& job : jobs_) {
      pack(job, data);
      data += job.matrix->size_bytes();
    }
  }
  void set_data(const std::byte* data) const {
    for (const Job& job : jobs_) {
      job.matrix->data = data;
      data += job.matrix->size_bytes();
    }
  }
  void wait() const {
    if (progress_) progress_(0, total_bytes_);
  }
  void done() const {
    if (progress_) progress_(total_bytes_, total_bytes_);
  }

 private:
  struct Job {
    PackedMatrix* matrix;
    const Tensor* tensor;
  };

  void pack(const Job& job, std::byte* data) {
    if (job.tensor->is_made()) return pack_made(job, data);
    const size_t row_bytes = job.tensor->row_bytes();
    threads_.parallel_for(job.matrix->n_strips(), 8, [&](int64_t begin, int64_t end, int thread) {
      std::vector<std::byte> rows;
      for (int64_t strip = begin; strip < end; ++strip) {
        const int64_t first = strip * kLanes;
        const int64_t count = std::min<int64_t>(kLanes, job.matrix->n_rows - first);
        rows.resize(count * row_bytes);
        file_.read_rows(*job.tensor, first, rows);
        pack(job, data, strip, rows, thread);
      }
    });
  }

  // A block of rows is made by the calling thread, then all threads pack it.
  void pack_made(const Job& job, std::byte* data) {
    const size_t strip_bytes = kLanes * job.tensor->row_bytes();
    const int64_t step = std::max<int64_t>(1, kMadeBytes / strip_bytes) * kLanes;
    std::vector<std::byte> block;
    for (int64_t first = 0; first < job.matrix->n_rows; first += step) {
      const int64_t count = std::min<int64_t>(step, job.matrix->n_rows - first);
      block.resize(count * job.tensor->row_bytes());
      file_.read_rows(*job.tensor, first, block);
      const int64_t n_strips = (count + kLanes - 1) / kLanes;
      threads_.parallel_for(n_strips, 8, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; ++i) {
          const size_t start = i * strip_bytes;
          const std::span rows(block.data() + start, std::min(strip_bytes, block.size() - start));
          pack(job, data, first / kLanes + i, rows, thread);
        }
      });
    }
  }

  void pack(const Job& job, std::byte* data, int64_t strip, std::span<const std::byte> rows,
            int thread) {
    std::byte* packed = data + strip * job.matrix->strip_bytes();
    if (!pack_strip(job.tensor->type, job.matrix->n_cols, rows, packed)) {
      fail_not_finite(file_, *job.tensor);
    }
    const uint64_t done = done_bytes_ += rows.size();
    if (thread == 0 && progress_) progress_(done, total_bytes_);
  }

  const ModelFile& file_;
  ThreadPool& threads_;
  const Progress& progress_;
  std::vector<Job> jobs_;
  size_t size_bytes_ = 0;
  uint64_t total_bytes_ = 0;
  std::atomic<uint64_t> done_bytes_{0};
};

// Of the memory of a file's weights: what determines every byte of it. The first file and the
// number of shards stand there, of the other shards a hash (FNV-1a), as names have 249 bytes.
std::string memory_name(std::span<const FileIdentity> files) {
  const FileIdentity& first = files.front();
  uint64_t hash = 0xcbf29ce484222325;
  for (const FileIdentity& file : files.subspan(1)) {
    for (const uint64_t part :
         {file.device, file.inode, file.size_bytes, static_cast<uint64_t>(file.mtime_ns)}) {
      for (int shift = 0; shift < 64; shift += 8) {
        hash = (hash ^ (part >> shift & 0xff)) * 0x100000001b3;
      }
    }
  }
  std::string name = "starchat-" STARCHAT_VERSION "-weights";
  for (const uint64_t part :
       {uint64_t{StripLayout::kVersion}, first.device, first.inode, first.size_bytes,
        static_cast<uint64_t>(first.mtime_ns), uint64_t{files.size()}, hash}) {
    name += '-';
    name += std::to_string(part);
  }
  return name;
}

}  // namespace

PositionTable::PositionTable(const ModelFile& file) : n_embd_(file.config.n_embd) {
  PositionReader positions(file);
  for (int i = 0; i < file.config.n_ctx; ++i) half_ &= is_half(positions.row(i));
  size_bytes_ = static_cast<size_t>(file.config.n_ctx) * n_embd_ * (half_ ? 2 : 4);
}

void PositionTable::write(const ModelFile& file, std::byte* rows) const {
  PositionReader positions(file);
  for (int i = 0; i < file.config.n_ctx; ++i) {
    const std::span<const float> row = positions.row(i);
    const size_t first = static_cast<size_t>(i) * n_embd_;
    if (half_) {
      std::ranges::transform(row, reinterpret_cast<uint16_t*>(rows) + first, f32_to_f16);
    } else {
      std::ranges::copy(row, reinterpret_cast<float*>(rows) + first);
    }
  }
}

std::span<const std::byte> PositionTable::row(int position) const {
  const size_t row_bytes = static_cast<size_t>(n_embd_) * (half_ ? 2 : 4);
  return {rows_ + position * row_bytes, row_bytes};
}

void PositionTable::add_row(int position, float* x) const {
  const size_t first = static_cast<size_t>(position) * n_embd_;
  if (half_) {
    const auto* row = reinterpret_cast<const uint16_t*>(rows_) + first;
    for (int i = 0; i < n_embd_; ++i) x[i] += f16_to_f32(row[i]);
  } else {
    const auto* row = reinterpret_cast<const float*>(rows_) + first;
    for (int i = 0; i < n_embd_; ++i) x[i] += row[i];
  }
}

uint64_t packed_bytes(const Tensor& matrix, TensorType type) {
  PackedMatrix packed = planned(matrix);
  packed.type = type;
  return packed.size_bytes();
}

uint64_t packed_bytes(const ModelFile& file) {
  uint64_t size_bytes = 0;
  for (const Tensor& tensor : file.tensors) {
    const PackedMatrix matrix = planned(tensor);
    if (tensor.is_matrix()) {
      size_bytes += matrix.size_bytes();
    } else if (tensor.role == Role::PositionEmbedding) {
      PositionReader positions(file);
      const int last = file.config.n_ctx - 1;
      const bool half = is_half(positions.row(0)) && is_half(positions.row(last / 2)) &&
                        is_half(positions.row(last));
      size_bytes += tensor.n_rows() * tensor.n_cols * (half ? 2 : 4);
    } else {
      size_bytes += matrix.n_padded_rows() * sizeof(float);
    }
  }
  return size_bytes;
}

std::shared_ptr<const LoadedFile> load_weights(const ModelFile& file, ThreadPool& threads,
                                               bool share, const Progress& progress,
                                               const std::function<void()>& begin) {
  Packer packer(file, threads, progress);
  const auto norm = [&](Role gain, Role bias, int32_t layer = -1) {
    const auto n = static_cast<size_t>(file.config.n_embd);
    return LayerNorm{read_vector(file, file.tensor(gain, layer), n),
                     read_vector(file, file.tensor(bias, layer), n), file.config.norm_eps};
  };
  const auto linear = [&](Linear& out, Role weight, Role bias, int32_t layer) {
    packer.plan(out.weight, file.tensor(weight, layer));
    out.bias = read_vector(file, file.tensor(bias, layer), out.weight.n_padded_rows());
  };

  auto loaded = std::make_shared<LoadedFile>(LoadedFile{
      file.path(), file.quantization, file.identities(), file.config, file.n_params(), {}});
  Weights& weights = loaded->weights;
  const Tensor* output = file.find(Role::Output);
  packer.plan(weights.token_embedding, file.tensor(Role::TokenEmbedding));
  if (output) packer.plan(weights.output, *output);
  weights.layers.resize(file.config.n_layer);
  for (int32_t i = 0; i < file.config.n_layer; ++i) {
    Layer& layer = weights.layers[i];
    layer.attn_norm = norm(Role::AttnNormGain, Role::AttnNormBias, i);
    layer.ffn_norm = norm(Role::FfnNormGain, Role::FfnNormBias, i);
    linear(layer.qkv, Role::Qkv, Role::QkvBias, i);
    linear(layer.attn_out, Role::AttnOut, Role::AttnOutBias, i);
    linear(layer.ffn_up, Role::FfnUp, Role::FfnUpBias, i);
    linear(layer.ffn_down, Role::FfnDown, Role::FfnDownBias, i);
  }
  weights.final_norm = norm(Role::FinalNormGain, Role::FinalNormBias);
  weights.positions = PositionTable(file);

  const size_t size_bytes = packer.size_bytes() + weights.positions.size_bytes();
  const auto check_unchanged = [&] {
    for (const InputFile& part : file.files) part.check_unchanged();
  };
  const Fill fill{begin, [&](std::byte* data) {
                    packer.pack(data);
                    weights.positions.write(file, data + packer.size_bytes());
                    check_unchanged();  // before other processes may map it
                  }};
  weights.memory =
      share && size_bytes >= kMinSharedBytes
          ? shared_memory(memory_name(loaded->identities), size_bytes,
                          file.files.front().descriptor(), threads, fill, [&] { packer.wait(); })
          : private_memory(size_bytes, fill);
  const std::byte* data = weights.memory.arena.data();
  packer.set_data(data);
  weights.positions.set_rows(data + packer.size_bytes());
  packer.done();
  check_unchanged();  // weights of another process may be older than what was read here
  if (!output) weights.output = weights.token_embedding;
  return loaded;
}

}  // namespace starchat
