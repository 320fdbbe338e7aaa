// Owns an object that a device made, and the device. Move-only.
#pragma once
#include <memory>
#include <utility>

#include "gpu/device.hpp"

namespace starchat {

template <class Object>
class Handle {
 public:
  using Free = void (*)(vk::Device, Object, const void*);

  Handle() = default;
  Handle(std::shared_ptr<Device> device, Free free) : device_(std::move(device)), free_(free) {}
  Handle(Handle&& other) noexcept { *this = std::move(other); }
  Handle& operator=(Handle&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(free_, other.free_);
    std::swap(object_, other.object_);
    return *this;
  }
  ~Handle() {
    if (const vk::Device device = object_ ? device_->handle_to_free() : nullptr)
      free_(device, object_, nullptr);
  }

  Object get() const { return object_; }
  Object* place() { return &object_; }  // for the function that makes it

 private:
  std::shared_ptr<Device> device_;
  Free free_ = nullptr;
  Object object_ = nullptr;
};

}  // namespace starchat
