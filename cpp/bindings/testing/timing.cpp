// Seconds that a kernel takes, measured without Python's overhead: for benchmarks. Operands are
// random bytes that are finite numbers in every format; the time does not depend on their values.
#include <chrono>
#include <cstring>
#include <vector>

#include "base/arena.hpp"
#include "base/errors.hpp"
#include "bindings/bindings.hpp"
#include "bindings/testing/testing.hpp"
#include "bindings/waiting.hpp"
#include "ops/ops.hpp"

namespace starchat {

namespace py = pybind11;

namespace {

// Repeats the body until the resolution of the clock and a first call with cold caches are
// negligible.
template <class Body>
double seconds_per_call(const Body& body) {
  constexpr double kEnough = 5e-3;
  for (int64_t n = 1;; n *= 4) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < n; ++i) body();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (elapsed.count() >= kEnough) return elapsed.count() / static_cast<double>(n);
  }
}

// Fills memory with bytes that, read as f16 or as f32 at any offset, are 1e-14 to 0.1 in magnitude.
void fill(std::byte* data, size_t size_bytes) {
  uint64_t state = 1;
  for (size_t i = 0; i < size_bytes; i += sizeof state) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    const uint64_t word = (state & 0x8787878787878787) | 0x2828282828282828;
    std::memcpy(data + i, &word, std::min(sizeof word, size_bytes - i));
  }
}

std::vector<float> random_floats(size_t n) {
  std::vector<float> values(n);
  fill(reinterpret_cast<std::byte*>(values.data()), n * sizeof(float));
  return values;
}

// Several matrices of one shape, multiplied in turn as a model does. Where all of them together are
// larger than the caches, weights are read from memory.
class MatmulTimer {
 public:
  MatmulTimer(const std::string& isa, const std::string& type, int n_rows, int n_cols,
              int n_matrices, int n_threads)
      : kernels_(kernels_named(isa)),
        threads_(n_threads),
        matrix_{.type = type_named(type), .n_rows = n_rows, .n_cols = n_cols},
        n_matrices_(n_matrices),
        arena_(matrix_.size_bytes() * n_matrices) {
    fill(arena_.data(), arena_.size_bytes());
  }

  // Returns the mean over all matrices of the time of one product with n_columns columns.
  double seconds(int n_columns) {
    const GilReleased released;
    ActivationTiles tiles(n_columns, matrix_.n_cols);
    tiles.prepare_for(matrix_, n_columns);
    const std::vector<float> x = random_floats(matrix_.n_cols);
    for (int c = 0; c < n_columns; ++c) tiles.set_column(kernels_, c, x.data());
    ActivationBuffer out(n_columns, matrix_.n_padded_rows());
    const double all = seconds_per_call([&] {
      for (int i = 0; i < n_matrices_; ++i) {
        matrix_.data = arena_.data() + i * matrix_.size_bytes();
        matmul({kernels_, threads_}, matrix_, tiles, {}, false, out);
      }
    });
    return all / n_matrices_;
  }

  size_t matrix_bytes() const { return matrix_.size_bytes(); }

 private:
  const Kernels& kernels_;
  ThreadPool threads_;
  PackedMatrix matrix_;
  int n_matrices_;
  Arena arena_;
};

// One thread computes the attention of the last n_columns of n_positions.
double attention_seconds(const std::string& isa, int n_heads, int head_dim, int n_positions,
                         int n_columns) {
  const Kernels& kernels = kernels_named(isa);
  const GilReleased released;
  const int v_row = (head_dim + kLanes - 1) / kLanes * kLanes;
  const size_t k_elements = static_cast<size_t>(kPagePositions) * head_dim;
  const size_t page_elements = k_elements + static_cast<size_t>(kPagePositions) * v_row;
  const int n_pages = (n_positions + kPagePositions - 1) / kPagePositions;
  const Arena cache(n_pages * page_elements * sizeof(uint16_t));
  fill(cache.data(), cache.size_bytes());
  std::vector<const uint16_t*> pointers;
  std::vector<PageId> ids;
  for (int i = 0; i < n_pages; ++i) {
    ids.push_back(static_cast<PageId>(i));
    pointers.push_back(reinterpret_cast<const uint16_t*>(cache.data()) + i * page_elements);
  }
  const size_t width = static_cast<size_t>(n_heads) * head_dim;
  const std::vector<float> q = random_floats(n_columns * width);
  std::vector<float> out(q.size());
  Attention a{.q = nullptr,
              .n_heads = n_heads,
              .head_dim = head_dim,
              .pages = ids.data(),
              .page_table = pointers.data(),
              .k_offset = 0,
              .v_offset = k_elements,
              .v_row_elements = v_row,
              .n_positions = n_positions,
              .scratch = nullptr,
              .out = nullptr};
  std::vector<float> scratch(a.scratch_elements());
  a.scratch = scratch.data();
  return seconds_per_call([&] {
    for (int c = 0; c < n_columns; ++c) {
      a.q = q.data() + c * width;
      a.out = out.data() + c * width;
      a.n_positions = n_positions - n_columns + c + 1;
      attend(kernels, a);
    }
  });
}

double quantize_seconds(const std::string& isa, int n) {
  const Kernels& kernels = kernels_named(isa);
  const std::vector<float> x = random_floats(n);
  constexpr WeightKind weights = traits(TensorType::Q4_0).kind;
  std::vector<std::byte> out(activation_format(weights).column_bytes(n / kBlock));
  return seconds_per_call(
      [&] { kernels.quantize(x.data(), n / kBlock, weights, out.data(), 0, 1); });
}

double layer_norm_seconds(const std::string& isa, int n) {
  const Kernels& kernels = kernels_named(isa);
  const std::vector<float> x = random_floats(n), gain(n, 1.0f), bias(n);
  std::vector<float> out(n);
  return seconds_per_call(
      [&] { kernels.layer_norm(x.data(), gain.data(), bias.data(), n, 1e-5f, out.data()); });
}

double gelu_seconds(const std::string& isa, int n) {
  const Kernels& kernels = kernels_named(isa);
  std::vector<float> x(n, 16.0f);  // gelu(16) = 16, so calls in place do not change it
  return seconds_per_call([&] { kernels.gelu(x.data(), n); });
}

}  // namespace

void bind_timing(py::module_& m) {
  py::class_<MatmulTimer>(m, "MatmulTimer")
      .def(py::init<const std::string&, const std::string&, int, int, int, int>(), py::arg("isa"),
           py::arg("type"), py::arg("n_rows"), py::arg("n_cols"), py::arg("n_matrices"),
           py::arg("n_threads"), py::call_guard<GilReleased>())
      .def("seconds", &MatmulTimer::seconds, py::arg("n_columns"))
      .def_property_readonly("matrix_bytes", &MatmulTimer::matrix_bytes);
  m.def("attention_seconds", &attention_seconds, py::arg("isa"), py::arg("n_heads"),
        py::arg("head_dim"), py::arg("n_positions"), py::arg("n_columns"));
  m.def("quantize_seconds", &quantize_seconds, py::arg("isa"), py::arg("n"));
  m.def("layer_norm_seconds", &layer_norm_seconds, py::arg("isa"), py::arg("n"));
  m.def("gelu_seconds", &gelu_seconds, py::arg("isa"), py::arg("n"));
}

}  // namespace starchat
