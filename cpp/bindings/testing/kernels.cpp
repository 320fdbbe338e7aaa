// The kernels one by one, on any instruction set, and the bare forward pass without an engine:
// for tests and benchmarks.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "base/arena.hpp"
#include "base/core_share.hpp"
#include "base/errors.hpp"
#include "bindings/bindings.hpp"
#include "bindings/testing/testing.hpp"
#include "bindings/waiting.hpp"
#include "format/duplicates.hpp"
#include "format/open_model.hpp"
#include "model/decoder.hpp"
#include "model/gpu_layers.hpp"

namespace starchat {

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;

// A packed matrix and its threads, for many products in a test.
class Matrix {
 public:
  Matrix(const std::string& isa, const std::string& type, const Bytes& rows, int n_threads)
      : kernels_(kernels_named(isa)), threads_(n_threads) {
    matrix_.type = type_named(type);
    matrix_.n_rows = static_cast<int>(rows.shape(0));
    matrix_.n_cols = static_cast<int>(rows.shape(1) / traits(matrix_.type).block_bytes *
                                      traits(matrix_.type).block_weights);
    arena_ = Arena(matrix_.size_bytes());
    matrix_.data = arena_.data();
    for (int strip = 0; strip < matrix_.n_strips(); ++strip) {
      const int first = strip * kLanes;
      const size_t n = std::min(kLanes, matrix_.n_rows - first);
      pack_strip(matrix_.type, matrix_.n_cols,
                 {reinterpret_cast<const std::byte*>(rows.data(first, 0)), n * rows.shape(1)},
                 arena_.data() + strip * matrix_.strip_bytes());
    }
  }

  // x (n_columns, n_cols) -> (n_columns, n_rows). prepared_for: a matrix of other weights, by
  // mistake.
  py::array_t<float> product(const Floats& x, const Matrix* prepared_for) {
    const int n = static_cast<int>(x.shape(0));
    ActivationTiles tiles(n, matrix_.n_cols);
    tiles.prepare_for(prepared_for ? prepared_for->matrix_ : matrix_, n);
    for (int c = 0; c < n; ++c) tiles.set_column(kernels_, c, x.data(c, 0));
    ActivationBuffer out(n, matrix_.n_padded_rows());
    {
      const GilReleased released;
      matmul({kernels_, threads_}, matrix_, tiles, {}, false, out);
    }
    py::array_t<float> result({n, matrix_.n_rows});
    for (int c = 0; c < n; ++c) {
      std::memcpy(result.mutable_data(c, 0), out[c], matrix_.n_rows * sizeof(float));
    }
    return result;
  }

  py::array_t<float> row(int index) const {
    py::array_t<float> result(matrix_.n_cols);
    unpack_row(matrix_, index, result.mutable_data());
    return result;
  }

  size_t size_bytes() const { return matrix_.size_bytes(); }

 private:
  const Kernels& kernels_;
  ThreadPool threads_;
  PackedMatrix matrix_;
  Arena arena_;
};

// A model whose tensors come from several files, by name: the others from `path`.
ModelFile open_mixed(const std::string& path, const std::map<std::string, std::string>& paths) {
  ModelFile file = open_model(path);
  remove_duplicates(file);
  for (const auto& [name, other_path] : paths) {
    ModelFile other = open_model(other_path);
    remove_duplicates(other);
    const auto has_name = [&](const Tensor& tensor) { return tensor.name == name; };
    Tensor& tensor = *std::ranges::find_if(file.tensors, has_name);
    tensor = *std::ranges::find_if(other.tensors, has_name);
    for (Source& source : tensor.sources) source.file = static_cast<int32_t>(file.files.size());
    file.files.push_back(std::move(other.files.front()));
  }
  return file;
}

// One sequence, fed in pieces that the caller chooses.
class Forward {
 public:
  Forward(const std::string& path, int n_threads, int n_ctx,
          const std::map<std::string, std::string>& paths, int gpu_layers,
          const std::string& device)
      : model_(std::make_unique<Decoder>(load(path, paths), n_threads, n_ctx,
                                         Placement{gpu_layers, device})),
        cache_(model_->kv_pool()) {}

  // Logits (n_tokens, n_vocab), or of the last token alone (1, n_vocab).
  py::array_t<float> run(const std::vector<int32_t>& token_ids, bool last_only) {
    if (token_ids.empty() || token_ids.size() > static_cast<size_t>(model_->max_columns())) {
      throw InvalidRequestError("expected 1 to " + std::to_string(model_->max_columns()) +
                                " token ids, got " + std::to_string(token_ids.size()));
    }
    Batch batch;
    cache_.reserve(position_ + static_cast<int>(token_ids.size()));
    for (const int32_t id : token_ids) {
      if (!last_only) batch.logit_columns.push_back(batch.n_columns());
      batch.token_ids.push_back(id);
      batch.positions.push_back(position_++);
      batch.caches.push_back(&cache_);
    }
    if (last_only) batch.logit_columns = {batch.n_columns() - 1};
    py::array_t<float> logits({batch.n_logits(), model_->n_vocab()});
    const std::span<float> out(logits.mutable_data(), logits.size());
    const GilReleased released;
    model_->forward(batch, out, {});
    model_->pause();
    return logits;
  }

  void rewind(int position) { position_ = position; }
  int max_columns() const { return model_->max_columns(); }
  uint64_t weight_bytes() const { return model_->info().weight_bytes; }

 private:
  static std::shared_ptr<const LoadedFile> load(const std::string& path,
                                                const std::map<std::string, std::string>& paths) {
    ThreadPool threads(1);
    return load_weights(open_mixed(path, paths), threads, /*share=*/false, {});
  }

  std::unique_ptr<Decoder> model_;
  KvSequence cache_;
  int position_ = 0;
};

// Of a model in q4_0 with one key head of 128, on a device with so much memory.
int fitting_layers(uint64_t memory_bytes, int n_embd, int n_layer, int n_ctx) {
  const DecoderConfig config{.n_vocab = 49152,
                             .n_ctx = n_ctx,
                             .n_embd = n_embd,
                             .n_layer = n_layer,
                             .n_head = n_embd / 128,
                             .n_kv_head = 1,
                             .head_dim = 128,
                             .n_inner = 4 * n_embd,
                             .norm_eps = 1e-5f};
  const auto matrix = [](int n_rows, int n_cols) {
    PackedMatrix matrix;
    matrix.type = TensorType::Q4_0;
    matrix.n_rows = n_rows;
    matrix.n_cols = n_cols;
    return matrix;
  };
  Weights weights;
  weights.output = matrix(config.n_vocab, n_embd);
  weights.layers.resize(n_layer);
  for (Layer& layer : weights.layers) {
    layer.qkv.weight = matrix(n_embd + 256, n_embd);
    layer.attn_out.weight = matrix(n_embd, n_embd);
    layer.ffn_up.weight = matrix(4 * n_embd, n_embd);
    layer.ffn_down.weight = matrix(n_embd, 4 * n_embd);
  }
  return GpuLayers::fitting_layers(config, weights, 64, memory_bytes);
}

py::array_t<uint16_t> to_half(const py::array_t<float, py::array::c_style>& values) {
  py::array_t<uint16_t> halves(values.size());
  std::transform(values.data(), values.data() + values.size(), halves.mutable_data(), f32_to_f16);
  return halves;
}

py::array_t<float> layer_norm_of(const std::string& isa, const Floats& x, const Floats& gain,
                                 const Floats& bias, float eps) {
  py::array_t<float> out(x.shape(0));
  kernels_named(isa).layer_norm(x.data(), gain.data(), bias.data(), static_cast<int>(x.shape(0)),
                                eps, out.mutable_data());
  return out;
}

py::array_t<float> gelu_of(const std::string& isa, const Floats& x) {
  py::array_t<float> out(x.shape(0));
  std::memcpy(out.mutable_data(), x.data(), x.nbytes());
  kernels_named(isa).gelu(out.mutable_data(), static_cast<int>(x.shape(0)));
  return out;
}

// q (n_heads, head_dim), keys and values (n_positions, head_dim) -> (n_heads, head_dim)
py::array_t<float> attention_of(const std::string& isa, const Floats& q, const Floats& keys,
                                const Floats& values) {
  const Kernels& kernels = kernels_named(isa);
  const int n_heads = static_cast<int>(q.shape(0)), head_dim = static_cast<int>(q.shape(1));
  const int n = static_cast<int>(keys.shape(0)), v_row = (head_dim + kLanes - 1) / kLanes * kLanes;
  const size_t k_elements = static_cast<size_t>(kPagePositions) * head_dim;
  std::vector<std::vector<uint16_t>> pages((n + kPagePositions - 1) / kPagePositions);
  for (auto& page : pages)
    page.assign(k_elements + static_cast<size_t>(kPagePositions) * v_row, 0x7e00);
  std::vector<uint16_t> half(head_dim);
  for (int j = 0; j < n; ++j) {
    uint16_t* page = pages[j / kPagePositions].data();
    kernels.to_half(keys.data(j, 0), head_dim, half.data());
    for (int d = 0; d < head_dim; ++d) {
      page[(static_cast<size_t>(j % kPagePositions / kLanes) * head_dim + d) * kLanes +
           j % kLanes] = half[d];
    }
    kernels.to_half(values.data(j, 0), head_dim, page + k_elements + (j % kPagePositions) * v_row);
  }
  std::vector<const uint16_t*> pointers;
  std::vector<PageId> ids;
  for (const auto& page : pages) {
    ids.push_back(static_cast<PageId>(pointers.size()));
    pointers.push_back(page.data());
  }
  py::array_t<float> out({n_heads, head_dim});
  Attention a{.q = q.data(),
              .n_heads = n_heads,
              .head_dim = head_dim,
              .pages = ids.data(),
              .page_table = pointers.data(),
              .k_offset = 0,
              .v_offset = k_elements,
              .v_row_elements = v_row,
              .n_positions = n,
              .scratch = nullptr,
              .out = out.mutable_data()};
  std::vector<float> scratch(a.scratch_elements());
  a.scratch = scratch.data();
  attend(kernels, a);
  return out;
}

class PyThreadPool {
 public:
  explicit PyThreadPool(int n_threads) : threads_(n_threads) {}
  void use(int n) { threads_.use(n); }

  // The numbers of the threads that computed pieces of a loop of 4 pieces for each thread, 1 ms
  // each.
  std::set<int> loop() {
    const GilReleased released;
    std::mutex mutex;
    std::set<int> seen;
    threads_.parallel_for(4 * threads_.n_threads(), 1, [&](int64_t, int64_t, int thread) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const std::lock_guard lock(mutex);
      seen.insert(thread);
    });
    return seen;
  }

 private:
  ThreadPool threads_;
};

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("fitting_layers", &fitting_layers, py::kw_only(), py::arg("memory_bytes"),
        py::arg("n_embd"), py::arg("n_layer"), py::arg("n_ctx"));
  py::class_<Forward>(m, "Forward")
      .def(py::init<const std::string&, int, int, const std::map<std::string, std::string>&, int,
                    const std::string&>(),
           py::arg("path"), py::arg("n_threads") = 0, py::arg("n_ctx") = 0,
           py::arg("paths") = py::dict(), py::arg("gpu_layers") = 0, py::arg("device") = "",
           py::call_guard<GilReleased>())
      .def("run", &Forward::run, py::arg("token_ids"), py::arg("last_only") = false)
      .def("rewind", &Forward::rewind, py::arg("position"))
      .def_property_readonly("max_columns", &Forward::max_columns)
      .def_property_readonly("weight_bytes", &Forward::weight_bytes);
  py::class_<Matrix>(m, "Matrix")
      .def(py::init<const std::string&, const std::string&, const Bytes&, int>(), py::arg("isa"),
           py::arg("type"), py::arg("rows"), py::arg("n_threads") = 1)
      .def("product", &Matrix::product, py::arg("x"), py::arg("prepared_for") = nullptr)
      .def("row", &Matrix::row, py::arg("index"))
      .def_property_readonly("size_bytes", &Matrix::size_bytes);
  py::class_<PyThreadPool>(m, "ThreadPool")
      .def(py::init<int>(), py::arg("n_threads"))
      .def("use", &PyThreadPool::use, py::arg("n"))
      .def("loop", &PyThreadPool::loop);
  py::class_<CoreShare>(m, "CoreShare")
      .def(py::init<int, int>(), py::arg("n_threads"), py::arg("n_cores"))
      .def("begin", &CoreShare::begin)
      .def("end", &CoreShare::end);
  m.def("to_half", &to_half, py::arg("values"));
  m.def("layer_norm", &layer_norm_of, py::arg("isa"), py::arg("x"), py::arg("gain"),
        py::arg("bias"), py::arg("eps") = 1e-5f);
  m.def("gelu", &gelu_of, py::arg("isa"), py::arg("x"));
  m.def("attention", &attention_of, py::arg("isa"), py::arg("q"), py::arg("keys"),
        py::arg("values"));
}

}  // namespace starchat
