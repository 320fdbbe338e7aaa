// A GPU by Vulkan 1.2: choice, memory, and the one queue that all its users share. The driver is
// opened when a device is asked for, never before. In a forked child every use throws ForkError and
// nothing is freed: drivers would wait there for threads that stayed in the parent.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "gpu/vulkan.hpp"

namespace starchat {

class Buffer;
class CommandList;
enum class Place;
template <class Object>
class Handle;

// Matrices of int8, (m, k) · (k, n), that a subgroup multiplies with sums of int32.
struct MatrixShape {
  uint32_t m, n, k;
};

struct DeviceInfo {
  enum class Kind { kOther, kIntegrated, kDiscrete, kVirtual, kCpu };  // Vulkan's numbers

  int index = 0;  // "vulkan:0"
  std::string name, driver;
  Kind kind = Kind::kOther;
  std::string refusal;  // why it cannot be used; "" if it can
  // Of the largest heap that is local to the device. Free: for this process, as the driver says;
  // all of it where the driver does not say.
  uint64_t memory_bytes = 0, free_bytes = 0;
  bool is_unified = false;        // the device's memory is the computer's: buffers are mapped
  uint64_t max_buffer_bytes = 0;  // in one allocation
  uint32_t subgroup_size = 0;
  std::vector<MatrixShape> matrices;  // empty: it has no such instruction
};

// Every device of this machine, usable or not. UnsupportedFeatureError without Vulkan or a driver,
// ForkError in a child of a process that has opened Vulkan.
std::vector<DeviceInfo> list_devices();

// "gpu": the discrete GPU with the most memory, or else an integrated one. "vulkan:1": by index. Or
// a part of a name, in any case; a driver that computes on the CPU must be named. One Device a GPU
// and process. UnsupportedFeatureError says what there is.
class Device;
std::shared_ptr<Device> open_device(const std::string& name = "gpu");

class Device : public std::enable_shared_from_this<Device> {
 public:
  ~Device();

  const DeviceInfo& info() const { return info_; }
  uint64_t free_bytes() const;  // now

  // Copies by way of a window of 64 MiB, or straight where memory is unified, and waits.
  void upload(const Buffer& to, size_t offset, std::span<const std::byte> bytes);
  void download(const Buffer& from, size_t offset, std::span<std::byte> bytes);

  // Computes the list and waits. One list at a time; other threads wait. Systems end programs whose
  // work holds the GPU for 2 s, so what took longer before is submitted in pieces of 0.1 s.
  // DeviceLostError: the device does not answer, and this process cannot use it any more.
  void run(CommandList& list);

 private:
  friend class Buffer;
  friend class CommandList;
  friend class Pipeline;
  template <class Object>
  friend class Handle;
  friend std::vector<DeviceInfo> list_devices();
  friend std::shared_ptr<Device> open_device(const std::string& name);
  struct Instance;
  struct Registry;

  Device(std::shared_ptr<Instance> instance, vk::PhysicalDevice physical, DeviceInfo info);
  void open();

  vk::Device usable() const;                   // throws ForkError, DeviceLostError
  vk::Device handle_to_free() const noexcept;  // null where nothing may be freed
  // Throws OutOfMemoryError, DeviceLostError or UnsupportedFeatureError if a call failed.
  void check(vk::Result result, const std::string& what) const;
  uint32_t memory_type(Place place, uint32_t among) const;
  bool chooses_subgroups() const { return chooses_subgroups_; }
  void submit(std::span<const vk::CommandBuffer> commands);
  template <class Copy>  // copy(window, offset, size) for each piece
  void through_window(size_t size_bytes, const Copy& copy);

  const std::shared_ptr<Instance> instance_;
  const vk::PhysicalDevice physical_;
  const DeviceInfo info_;
  const pid_t owner_;

  vk::Device handle_ = nullptr;
  vk::Queue queue_ = nullptr;
  vk::Fence fence_ = nullptr;
  vk::PipelineLayout layout_ = nullptr;  // of every pipeline: push constants alone
  uint32_t queue_family_ = 0;
  bool has_budget_ = false, chooses_subgroups_ = false;

  std::mutex mutex_;                // of the queue and its fence
  std::mutex window_mutex_;         // taken before mutex_
  std::unique_ptr<Buffer> window_;  // from the first copy on
  mutable std::atomic<bool> is_lost_{false};
  std::atomic<bool> is_stuck_{false};  // its work goes on: nothing can be freed
};

}  // namespace starchat
