// Dispatches and copies, recorded once and computed as often as Device::run is asked to. Pipelines
// and buffers must outlive it. What differs from run to run lies in buffers. Move-only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "gpu/buffer.hpp"
#include "gpu/handle.hpp"
#include "gpu/pipeline.hpp"

namespace starchat {

constexpr size_t kMaxPushBytes = 128;  // what every device has

class CommandList {
 public:
  explicit CommandList(std::shared_ptr<Device> device);

  // Workgroups: 65,535 at most in each dimension. push: the push constants as the shader declares
  // them, a multiple of 4 bytes. Addresses are uint64_t.
  void dispatch(const Pipeline& pipeline, std::span<const std::byte> push, uint32_t x,
                uint32_t y = 1, uint32_t z = 1);
  template <class Push>
    requires std::is_class_v<Push>
  void dispatch(const Pipeline& pipeline, const Push& push, uint32_t x, uint32_t y = 1,
                uint32_t z = 1) {
    static_assert(std::is_trivially_copyable_v<Push> && sizeof(Push) <= kMaxPushBytes);
    dispatch(pipeline, std::as_bytes(std::span(&push, 1)), x, y, z);
  }
  void copy(const Buffer& from, size_t from_offset, const Buffer& to, size_t to_offset,
            size_t size_bytes);
  // What follows begins when all before it is done, and sees what that wrote. Dispatches without a
  // barrier between them may run at the same time.
  void barrier();
  // A barrier at which the list may be divided, so that no submission takes long: one a layer.
  void cut();

 private:
  friend class Device;

  void begin_piece();
  void end_piece();

  std::shared_ptr<Device> device_;
  Handle<vk::CommandPool> pool_;
  std::vector<vk::CommandBuffer> pieces_;
  bool is_open_ = false;          // the last piece; the first run ends it
  double seconds_per_piece_ = 0;  // the most of the last run; 0: not measured yet
};

}  // namespace starchat
