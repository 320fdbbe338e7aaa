// Memory that shaders know by its address. Its first contents are undefined. Move-only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "gpu/handle.hpp"

namespace starchat {

enum class Place {
  kDevice,  // the device's own memory: weights, activations, pages
  kHost     // mapped memory, which the device reaches slowly: inputs and results of a step
};

class Buffer {
 public:
  Buffer() = default;
  // size_bytes > 0. Throws OutOfMemoryError.
  Buffer(std::shared_ptr<Device> device, size_t size_bytes, Place place);

  size_t size_bytes() const { return size_bytes_; }
  uint64_t address() const { return address_; }
  // Null if only the device sees it: kHost is always mapped, kDevice where memory is unified. What
  // is written before Device::run is seen by the list, and what the list wrote is here after it.
  std::byte* data() const { return data_; }
  vk::Buffer handle() const { return buffer_.get(); }

 private:
  Handle<vk::DeviceMemory> memory_;
  Handle<vk::Buffer> buffer_;
  size_t size_bytes_ = 0;
  uint64_t address_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace starchat
