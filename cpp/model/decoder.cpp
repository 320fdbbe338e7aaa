#include "model/decoder.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "format/duplicates.hpp"
#include "format/open_model.hpp"
#include "format/shards.hpp"
#include "gpu/device.hpp"
#include "model/cpu_layers.hpp"
#include "model/gpu_layers.hpp"

namespace starchat {

namespace {

constexpr int kMaxThreads = 256;

int checked_threads(int n_threads) {
  if (n_threads == 0) return available_cores();
  if (n_threads < 0 || n_threads > kMaxThreads) {
    throw InvalidRequestError(
        "n_threads: expected 1 to " + std::to_string(kMaxThreads) +
            ", or 0 for one for each core; got " + std::to_string(n_threads),
        {.param = "n_threads", .limit = n_threads < 0 ? 1 : kMaxThreads, .got = n_threads});
  }
  return n_threads;
}

// n_ctx 0: as many positions as the file has.
DecoderConfig with_n_ctx(DecoderConfig config, int n_ctx) {
  if (n_ctx == 0) return config;
  if (n_ctx < 2 || n_ctx > config.n_ctx) {
    throw InvalidRequestError(
        "n_ctx: expected 2 to " + std::to_string(config.n_ctx) +
            " (positions are learned, the file has no more); got " + std::to_string(n_ctx),
        {.param = "n_ctx", .limit = n_ctx < 2 ? 2 : config.n_ctx, .got = n_ctx});
  }
  config.n_ctx = n_ctx;
  return config;
}

// Of one page, in all runs together.
size_t page_bytes(const std::vector<std::unique_ptr<LayerRun>>& runs) {
  return std::accumulate(runs.begin(), runs.end(), size_t{0},
                         [](size_t sum, const auto& run) { return sum + run->page_bytes(); });
}

// Null: the CPU computes every layer, also where as many as fit were asked for and no GPU is there.
std::shared_ptr<Device> device_of(const Placement& placement) {
  if (placement.gpu_layers == 0) return nullptr;
  if (!placement.device.empty()) return open_device(placement.device);
  try {
    return open_device();
  } catch (const UnsupportedFeatureError&) {
    if (placement.gpu_layers > 0) throw;
    return nullptr;
  }
}

// How many layers a device gets. asked: Placement::gpu_layers.
int layers_on(const Device& device, const DecoderConfig& config, const Weights& weights,
              int max_columns, int asked) {
  constexpr uint64_t kLeastLeft = uint64_t{512} << 20;  // to others, where the number is ours
  const uint64_t free_bytes = device.free_bytes();
  const auto fitting = [&](uint64_t bytes) {
    return GpuLayers::fitting_layers(config, weights, max_columns, bytes);
  };
  if (asked < 0) {
    const uint64_t left = std::max(kLeastLeft, free_bytes / 16);
    return fitting(free_bytes - std::min(free_bytes, left));
  }
  const int n = std::min(asked, config.n_layer), fits = fitting(free_bytes);
  if (n > fits) {
    throw OutOfMemoryError(
        "gpu_layers: " + std::to_string(fits) + " of " + std::to_string(config.n_layer) +
            " layers fit into the memory of " + device.info().name + ", of which " +
            format_number(free_bytes) + " bytes are free; got " + std::to_string(n) +
            ": ask for gpu_layers=" + std::to_string(fits) + ", or for a smaller n_ctx",
        {.param = "gpu_layers", .limit = fits, .got = n});
  }
  return n;
}

}  // namespace

Cores::Cores(int n_threads)
    : threads(checked_threads(n_threads)), share(threads.n_threads(), available_cores()) {}

Decoder::Decoder(std::shared_ptr<const LoadedFile> file, int n_threads, int n_ctx,
                 const Placement& placement)
    : Decoder(std::move(file), std::make_shared<Cores>(n_threads), n_ctx, placement) {}

Decoder::Decoder(std::shared_ptr<const LoadedFile> file, std::shared_ptr<Cores> cores, int n_ctx,
                 const Placement& placement)
    : file_(std::move(file)),
      weights_(file_->weights),
      kernels_(select_kernels()),
      cores_(std::move(cores)),
      config_(with_n_ctx(file_->config, n_ctx)),
      info_{.file = file_->path,
            .quantization = file_->quantization,
            .isa = kernels_.name,
            .config = config_,
            .n_threads = cores_->threads.n_threads(),
            .placement = {0, "cpu"},
            .n_params = file_->n_params,
            .weight_bytes = weights_.size_bytes()},
      max_columns_(columns_per_step(weights_.size_bytes())),
      x_(max_columns_, config_.n_embd),
      runs_(make_runs(placement)),
      kv_pool_(config_.n_ctx, page_bytes(runs_), [this](int n_pages) {
        for (const auto& run : runs_) run->reserve_pages(n_pages);
      }) {}

int Decoder::columns_per_step(uint64_t weight_bytes) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  if (weight_bytes < kGiB) return 256;
  return weight_bytes < 4 * kGiB ? 128 : 64;
}

uint64_t Decoder::work_bytes(const DecoderConfig& config, int n_threads, int max_columns) {
  const uint64_t of_scheduler = sizeof(float) * max_columns * (config.n_vocab + config.n_embd);
  return ActivationBuffer::size_bytes(max_columns, config.n_embd) + of_scheduler +
         CpuLayers::work_bytes(config, n_threads, max_columns);
}

// Decides where each layer is computed.
std::vector<std::unique_ptr<LayerRun>> Decoder::make_runs(const Placement& placement) {
  int n_cpu = config_.n_layer;
  const std::shared_ptr<Device> device = device_of(placement);
  if (device != nullptr) {
    const int n_gpu = layers_on(*device, config_, weights_, max_columns_, placement.gpu_layers);
    n_cpu -= n_gpu;
    if (n_gpu > 0) info_.placement = {n_gpu, device->info().name};
  }
  std::vector<std::unique_ptr<LayerRun>> runs;
  if (n_cpu > 0) {
    runs.push_back(std::make_unique<CpuLayers>(Compute{kernels_, cores_->threads}, config_,
                                               weights_, 0, n_cpu, max_columns_));
  }
  if (n_cpu < config_.n_layer) {
    runs.push_back(std::make_unique<GpuLayers>(device, config_, weights_, n_cpu, max_columns_));
  }
  return runs;
}

void Decoder::forward(const Batch& batch, std::span<float> logits, std::span<float> states) {
  cores_->threads.use(cores_->share.begin());
  embed(batch);
  for (const auto& run : runs_) run->forward(batch, x_);
  runs_.back()->output(batch, x_, logits, states);
}

void Decoder::copy_page(PageId from, PageId to) {
  for (const auto& run : runs_) run->copy_page(from, to);
}

void Decoder::read_page(PageId page, std::span<std::byte> out) {
  for (const auto& run : runs_) {
    run->read_page(page, out.first(run->page_bytes()));
    out = out.subspan(run->page_bytes());
  }
}

void Decoder::write_page(PageId page, std::span<const std::byte> bytes) {
  for (const auto& run : runs_) {
    run->write_page(page, bytes.first(run->page_bytes()));
    bytes = bytes.subspan(run->page_bytes());
  }
}

void Decoder::embed(const Batch& batch) {
  for (int c = 0; c < batch.n_columns(); ++c) {
    unpack_row(weights_.token_embedding, batch.token_ids[c], x_[c]);
    weights_.positions.add_row(batch.positions[c], x_[c]);
  }
}

LoadedModel load_model(const std::string& path, int n_threads, int n_ctx, bool share,
                       const Progress& progress, const CheckFile& check,
                       const Placement& placement) {
  for (const std::string& part : shard_paths(path)) wait_until_writes_show(part);
  return load_model(open_model(path), n_threads, n_ctx, share, progress, check, placement);
}

LoadedModel load_model(ModelFile file, int n_threads, int n_ctx, bool share,
                       const Progress& progress, const CheckFile& check,
                       const Placement& placement) {
  select_kernels();  // these four throw before any weight is read
  const int n_loaders = checked_threads(n_threads);
  with_n_ctx(file.config, n_ctx);
  const std::shared_ptr<Device> device = device_of(placement);  // open from here on
  // A copy is done when it is known to be one, other weights when they are packed. Copies that turn
  // out to differ in a later layer are packed too: the count waits for them.
  const uint64_t total_bytes = file.weight_bytes();
  uint64_t shown_bytes = 0;
  const auto report = [&](uint64_t done_bytes) {
    shown_bytes = std::max(shown_bytes, done_bytes);
    if (progress) progress(shown_bytes, total_bytes);
  };
  remove_duplicates(file, report);
  const Progress packed = [&](uint64_t done, uint64_t total) {
    report(total_bytes - (total - done));
  };
  const auto begin = [&] {
    if (check) check(file);
  };
  auto loaded = [&] {
    ThreadPool threads(n_loaders);
    return load_weights(file, threads, share, packed, begin);
  }();
  auto model = std::make_unique<Decoder>(std::move(loaded), n_threads, n_ctx, placement);
  return {std::move(model), std::move(file.vocabulary)};
}

}  // namespace starchat
