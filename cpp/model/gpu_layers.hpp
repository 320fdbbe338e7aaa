// The LayerRun of a GPU: the last layers and the output, with their weights, keys and values in its
// memory. A step is one list of dispatches, recorded once for each shape of a step and kept:
// what differs between such steps lies in a buffer that is copied there first.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "gpu/buffer.hpp"
#include "gpu/command_list.hpp"
#include "gpu/shaders.hpp"
#include "model/layer_run.hpp"
#include "model/weights.hpp"

namespace starchat {

class GpuLayers : public LayerRun {
 public:
  // Layers from `first` on. Throws OutOfMemoryError, DeviceLostError, and UnsupportedFeatureError
  // for a device whose bits are not those of the CPU.
  GpuLayers(const std::shared_ptr<Device>& device, const DecoderConfig& config,
            const Weights& weights, int first, int max_columns);

  // As many of the last layers as fit, with the output and one whole context.
  static int fitting_layers(const DecoderConfig& config, const Weights& weights, int max_columns,
                            uint64_t free_bytes);

  size_t page_bytes() const override { return page_bytes_; }
  void reserve_pages(int n_pages) override;
  void copy_page(PageId from, PageId to) override;
  void read_page(PageId page, std::span<std::byte> out) override;
  void write_page(PageId page, std::span<const std::byte> bytes) override;
  void forward(const Batch& batch, ActivationBuffer& x) override;  // leaves x on the device
  void output(const Batch& batch, const ActivationBuffer& x, std::span<float> logits,
              std::span<float> states) override;

 private:
  struct Norm {
    uint64_t gain, bias;  // addresses
    float eps;
  };
  struct Matrix {
    WeightKind kind;
    int n_cols;
    uint32_t n_strips, strip_words;
    uint64_t weights, bias, order;  // addresses; 0: none
  };
  struct DeviceLayer {
    Buffer memory;
    Norm attn_norm, ffn_norm;
    Matrix qkv, attn_out, ffn_up, ffn_down;
  };
  class Parts;
  // What a list depends on.
  struct Shape {
    int n_columns, n_positions;  // n_positions: the most of a column, rounded up
    int n_logits, n_states;
    auto operator<=>(const Shape&) const = default;
  };
  // Byte offsets of what a step is told, in the staging buffer and on the device.
  struct StepPlaces {
    size_t columns, pages, logits, states, size_bytes;
  };
  struct PagePlace {
    size_t slab, offset;
  };

  // Of the device's memory.
  static uint64_t layer_bytes(const Layer& layer);
  static uint64_t output_bytes(const Weights& weights);
  static uint64_t work_bytes(const DecoderConfig& config, const Weights& weights, int max_columns);

  StepPlaces places(const Shape& shape) const;
  void write_step(const Batch& batch, const Shape& shape);
  CommandList record(const Shape& shape);
  void record_layer(CommandList& list, const Shape& shape, int i);
  void record_logits(CommandList& list, uint64_t indices, int n);
  void prepare(CommandList& list, Prologue source, const Matrix& matrix, ActivationsPush push,
               int n_columns);
  void multiply(CommandList& list, const Matrix& matrix, bool accumulates, const Buffer& out,
                uint32_t stride, int n_columns);

  const std::shared_ptr<Shaders> shaders_;
  const std::shared_ptr<Device> device_;
  const DecoderConfig config_;
  const int logits_stride_;
  const size_t head_words_, page_bytes_;  // of one layer and key head in a page; of a page
  std::vector<DeviceLayer> layers_;
  Buffer output_memory_;
  Norm final_norm_;
  Matrix output_;

  std::vector<Buffer> slabs_;
  std::vector<PagePlace> pages_;  // by id

  Buffer staging_, step_;  // StepPlaces, then x; on the device without x
  Buffer x_, tiles_, qkv_, inner_, attention_;
  Buffer logits_, states_;  // of one list
  Buffer results_;          // logits, then states, as the processor reads them
  std::map<Shape, CommandList> lists_;
};

}  // namespace starchat
