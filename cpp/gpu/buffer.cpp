#include "gpu/buffer.hpp"

#include <string>

#include "base/errors.hpp"
#include "base/format_number.hpp"

namespace starchat {

Buffer::Buffer(std::shared_ptr<Device> device, size_t size_bytes, Place place)
    : memory_(device, vk::functions().FreeMemory),
      buffer_(device, vk::functions().DestroyBuffer),
      size_bytes_(size_bytes) {
  const vk::Functions& f = vk::functions();
  const DeviceInfo& info = device->info();
  const vk::Device handle = device->usable();
  const auto refusal = [&](const std::string& reason) {
    return OutOfMemoryError(
        info.name + ": no memory for " + format_number(size_bytes) + " bytes: " + reason +
            ": put fewer layers on the GPU (gpu_layers), or choose a smaller n_ctx",
        {.got = static_cast<int64_t>(size_bytes)});
  };
  if (size_bytes > info.max_buffer_bytes)
    throw refusal("the driver gives at most " + format_number(info.max_buffer_bytes) + " at once");
  // Some drivers would take the computer's memory instead, and be slow without a word.
  const uint64_t free_bytes = device->free_bytes();
  if (place == Place::kDevice && size_bytes > free_bytes)
    throw refusal(format_number(free_bytes) + " are free");

  const vk::BufferCreateInfo buffer{
      .size = size_bytes,
      .usage = vk::kStorage | vk::kDeviceAddress | vk::kTransferFrom | vk::kTransferTo};
  device->check(f.CreateBuffer(handle, &buffer, nullptr, buffer_.place()), "a buffer");
  vk::MemoryRequirements needs{};
  f.GetBufferMemoryRequirements(handle, buffer_.get(), &needs);
  const vk::MemoryAllocateFlagsInfo flags{.flags = vk::kAllocateDeviceAddress};
  const vk::MemoryAllocateInfo memory{
      .next = &flags,
      .size = needs.size,
      .memory_type = device->memory_type(place, needs.memory_types)};
  const vk::Result result = f.AllocateMemory(handle, &memory, nullptr, memory_.place());
  if (result == vk::kErrorOutOfDeviceMemory || result == vk::kErrorTooManyObjects)
    throw refusal("the driver has no more");
  device->check(result, "memory");
  device->check(f.BindBufferMemory(handle, buffer_.get(), memory_.get(), 0), "a buffer's memory");
  const vk::BufferDeviceAddressInfo of{.buffer = buffer_.get()};
  address_ = f.GetBufferDeviceAddress(handle, &of);
  if (place == Place::kDevice && !info.is_unified) return;
  void* data = nullptr;
  device->check(f.MapMemory(handle, memory_.get(), 0, ~vk::DeviceSize{0}, 0, &data), "a mapping");
  data_ = static_cast<std::byte*>(data);
}

}  // namespace starchat
