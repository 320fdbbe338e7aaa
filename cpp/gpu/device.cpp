#include "gpu/device.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <utility>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "gpu/buffer.hpp"
#include "gpu/command_list.hpp"

namespace starchat {
namespace {

using Seconds = std::chrono::duration<double>;
constexpr double kMostSeconds = 0.1;           // of a submission, by what the last one took
constexpr uint64_t kWaitNs = 120'000'000'000;  // for a submission
constexpr size_t kWindowBytes = size_t{64} << 20;
constexpr vk::Flags kMapped = vk::kHostVisible | vk::kHostCoherent;
constexpr uint32_t kGroup = 256, kSharedBytes = 16 << 10;  // what shaders need of a workgroup

const char* const kExtensions[] = {"VK_KHR_shader_integer_dot_product", "VK_KHR_cooperative_matrix",
                                   "VK_EXT_memory_budget", "VK_EXT_subgroup_size_control",
                                   "VK_KHR_portability_subset"};

template <class T, class Enumerate>
std::vector<T> enumerate(const Enumerate& call, T value = {}) {
  uint32_t n = 0;
  call(&n, static_cast<T*>(nullptr));
  std::vector<T> all(n, value);
  call(&n, all.data());
  all.resize(n);
  return all;
}

// What a device can do, as its driver says. The features are those that it is opened with.
struct Abilities {
  explicit Abilities(vk::PhysicalDevice device, uint32_t version) {
    const auto& f = vk::functions();
    for (const auto& extension : enumerate<vk::ExtensionProperties>([&](auto* n, auto* values) {
           f.EnumerateDeviceExtensionProperties(device, nullptr, n, values);
         }))
      extensions.insert(extension.name);
    const bool is_1_3 = version >= vk::version(1, 3);
    add(vk::kBufferDeviceAddressFeatures, address);
    add(vk::kMemoryModelFeatures, memory_model);
    add(vk::kFloat16Int8Features, small_types);
    add(vk::k8BitStorageFeatures, bytes);
    add(vk::k16BitStorageFeatures, halves);
    if (is_1_3 || extensions.contains(kExtensions[0])) add(vk::kIntegerDotProductFeatures, dot);
    if (is_1_3 || extensions.contains(kExtensions[3]))
      add(vk::kSubgroupSizeControlFeatures, subgroups);
    if (extensions.contains(kExtensions[1])) add(vk::kCooperativeMatrixFeatures, matrices);
    f.GetPhysicalDeviceFeatures2(device, &all);
    for (vk::Bool32& feature : all.features)  // the others cost speed, as bounds checks
      if (const auto i = &feature - all.features; i != vk::kShaderInt64 && i != vk::kShaderInt16)
        feature = 0;
    address.switches[1] = address.switches[2] = matrices.switches[1] = 0;
  }
  Abilities(const Abilities&) = delete;

  std::set<std::string> extensions;
  vk::PhysicalDeviceFeatures2 all;
  vk::FeatureSwitches address, memory_model, small_types, bytes, halves, dot, subgroups, matrices;

 private:
  void add(vk::FeatureType type, vk::FeatureSwitches& features) {
    features.type = type;
    features.next = std::exchange(all.next, &features);
  }
};

vk::PhysicalDeviceMemoryProperties2 memory_of(vk::PhysicalDevice device,
                                              vk::PhysicalDeviceMemoryBudget* budget = nullptr) {
  vk::PhysicalDeviceMemoryProperties2 memory{.next = budget};
  vk::functions().GetPhysicalDeviceMemoryProperties2(device, &memory);
  return memory;
}

bool has_all(vk::Flags flags, vk::Flags needs) { return (flags & needs) == needs; }

uint32_t local_heap(const vk::PhysicalDeviceMemoryProperties2& memory) {
  uint32_t best = 0;
  const auto size = [&](uint32_t i) {
    return memory.heaps[i].flags & vk::kDeviceLocal ? memory.heaps[i].size : 0;
  };
  for (uint32_t i = 1; i < memory.n_heaps; ++i)
    if (size(i) > size(best)) best = i;
  return best;
}

uint64_t free_of(vk::PhysicalDevice device, bool has_budget) {
  vk::PhysicalDeviceMemoryBudget budget;
  const auto memory = memory_of(device, has_budget ? &budget : nullptr);
  const uint32_t heap = local_heap(memory);
  const uint64_t size = memory.heaps[heap].size;
  if (!has_budget || !budget.budget[heap]) return size;
  return std::min(size, budget.budget[heap] - std::min(budget.budget[heap], budget.usage[heap]));
}

std::optional<uint32_t> compute_family(vk::PhysicalDevice device) {
  const auto families = enumerate<vk::QueueFamilyProperties>([&](auto* n, auto* values) {
    vk::functions().GetPhysicalDeviceQueueFamilyProperties(device, n, values);
  });
  for (uint32_t i = 0; i < families.size(); ++i)
    if (families[i].flags & vk::kQueueCompute) return i;
  return std::nullopt;
}

DeviceInfo describe(vk::PhysicalDevice device, int index) {
  const vk::Functions& f = vk::functions();
  vk::PhysicalDeviceDriverProperties driver;
  vk::PhysicalDeviceSubgroupProperties subgroups{.next = &driver};
  vk::PhysicalDeviceMaintenance3Properties limits{.next = &subgroups};
  vk::PhysicalDeviceProperties2 all{.next = &limits};
  f.GetPhysicalDeviceProperties2(device, &all);
  const vk::PhysicalDeviceProperties& properties = all.properties;

  DeviceInfo info;
  info.index = index;
  info.name = properties.device_name;
  info.driver = std::string(driver.name) + " " + driver.info;
  info.kind = static_cast<DeviceInfo::Kind>(properties.device_type);
  if (properties.api_version < vk::version(1, 2)) {
    info.refusal = "its driver has no Vulkan 1.2: install a newer one";
    return info;
  }
  const Abilities abilities(device, properties.api_version);
  const auto memory = memory_of(device);
  info.memory_bytes = memory.heaps[local_heap(memory)].size;
  info.free_bytes = free_of(device, abilities.extensions.contains("VK_EXT_memory_budget"));
  const bool shares_memory =
      info.kind == DeviceInfo::Kind::kIntegrated || info.kind == DeviceInfo::Kind::kCpu;
  for (uint32_t i = 0; i < memory.n_types && shares_memory; ++i)
    if (memory.types[i].heap == local_heap(memory) && has_all(memory.types[i].flags, kMapped))
      info.is_unified = true;
  info.max_buffer_bytes = limits.max_allocation_bytes;
  info.subgroup_size = subgroups.subgroup_size;
  if (!abilities.address.switches[0]) info.refusal = "its driver has no buffers by address";
  if (!abilities.dot.switches[0])
    info.refusal = "its driver has no VK_KHR_shader_integer_dot_product: install a newer one";
  if (properties.max_group_invocations < kGroup || properties.max_shared_bytes < kSharedBytes)
    info.refusal = "its workgroups are too small: " + std::to_string(kGroup) +
                   " invocations with " + format_number(kSharedBytes) +
                   " bytes are needed, it has " + std::to_string(properties.max_group_invocations) +
                   " with " + format_number(properties.max_shared_bytes);
  if (!compute_family(device)) info.refusal = "it has no queue for computing";
  if (abilities.matrices.switches[0] && abilities.memory_model.switches[0] &&
      abilities.small_types.switches[1] && f.GetPhysicalDeviceCooperativeMatrixPropertiesKHR) {
    for (const auto& shape : enumerate<vk::CooperativeMatrixProperties>([&](auto* n, auto* values) {
           f.GetPhysicalDeviceCooperativeMatrixPropertiesKHR(device, n, values);
         }))
      if (shape.a == vk::kSint8 && shape.b == vk::kSint8 && shape.c == vk::kSint32 &&
          shape.result == vk::kSint32 && shape.scope == vk::kScopeSubgroup && !shape.saturates)
        info.matrices.push_back({shape.m, shape.n, shape.k});
  }
  return info;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::string shown(const std::vector<DeviceInfo>& devices) {
  std::string text;
  for (const DeviceInfo& device : devices) {
    text +=
        (text.empty() ? "vulkan:" : "; vulkan:") + std::to_string(device.index) + " " + device.name;
    if (!device.refusal.empty())
      text += ", which cannot be used: " + device.refusal;
    else if (device.kind == DeviceInfo::Kind::kCpu)
      text += ", which computes on the CPU and must be named";
  }
  return text;
}

const DeviceInfo& choose(const std::vector<DeviceInfo>& devices, const std::string& name) {
  const auto rank = [](const DeviceInfo& device) {
    using Kind = DeviceInfo::Kind;
    const int kind = device.kind == Kind::kDiscrete     ? 3
                     : device.kind == Kind::kVirtual    ? 2
                     : device.kind == Kind::kIntegrated ? 1
                                                        : 0;
    return std::pair(kind, device.memory_bytes);
  };
  const std::string wanted = lower(name);
  const DeviceInfo* best = nullptr;
  const DeviceInfo* refused = nullptr;
  for (const DeviceInfo& device : devices) {
    const bool fits = wanted == "gpu" ? device.kind != DeviceInfo::Kind::kCpu
                                      : wanted == "vulkan:" + std::to_string(device.index) ||
                                            lower(device.name).find(wanted) != std::string::npos;
    if (fits && !device.refusal.empty())
      refused = &device;
    else if (fits && (!best || rank(device) > rank(*best)))
      best = &device;
  }
  if (best && !wanted.empty()) return *best;
  if (refused && !wanted.empty())
    throw UnsupportedFeatureError("the device " + refused->name + " (" + refused->driver +
                                      ") cannot be used: " + refused->refusal,
                                  {.param = "device"});
  throw UnsupportedFeatureError("this machine has no device \"" + name + "\", but " +
                                    shown(devices) + ": `starchat devices` lists them",
                                {.param = "device"});
}

}  // namespace

struct Device::Instance {
  ~Instance() {
    if (owner == getpid()) vk::functions().DestroyInstance(handle, nullptr);
  }
  std::vector<vk::PhysicalDevice> devices() const {
    return enumerate<vk::PhysicalDevice>([&](auto* n, auto* values) {
      vk::functions().EnumeratePhysicalDevices(handle, n, values);
    });
  }
  std::vector<DeviceInfo> infos() const {
    std::vector<DeviceInfo> all;
    for (const vk::PhysicalDevice device : devices())
      all.push_back(describe(device, static_cast<int>(all.size())));
    return all;
  }

  vk::Instance handle = nullptr;
  const pid_t owner = getpid();
};

// What the process has open. Never destroyed: drivers crash when libraries that they use have ended
// before them.
struct Device::Registry {
  static Registry& get() {
    static Registry& registry = *new Registry;
    [[maybe_unused]] static const int at_fork = pthread_atfork(nullptr, nullptr, [] {
      new (&registry.mutex) std::mutex;  // a thread of the parent may have held it
    });
    return registry;
  }

  std::unique_lock<std::mutex> lock() {  // throws ForkError
    if (owner && owner != getpid())
      throw ForkError(
          "this process was forked from one that had opened Vulkan, and cannot use a GPU: start "
          "processes by spawn, or use the CPU");
    return std::unique_lock(mutex);
  }

  std::shared_ptr<Instance> open_instance() {
    if (auto open = instance.lock()) return open;
    vk::open_loader();
    const vk::Functions& f = vk::functions();
    const vk::ApplicationInfo application{.application_name = "starchat",
                                          .api_version = vk::version(1, 3)};
    const vk::InstanceCreateInfo info{.application_info = &application};
    vk::Instance handle = nullptr;
    const vk::Result result = f.CreateInstance(&info, nullptr, &handle);
    if (result == vk::kErrorOutOfHostMemory || result == vk::kErrorOutOfDeviceMemory)
      throw OutOfMemoryError("Vulkan cannot start: there is too little memory");
    const std::string no_driver =
        "Vulkan finds no driver of a GPU (VkResult " + std::to_string(result) +
        "): install it (Mesa: mesa-vulkan-drivers; NVIDIA: its driver). In a container, NVIDIA's "
        "needs NVIDIA_DRIVER_CAPABILITIES=all and the file nvidia_icd.json in "
        "/etc/vulkan/icd.d; WSL2 has none. Or use the CPU";
    if (result != vk::kSuccess) throw UnsupportedFeatureError(no_driver);
    if (!std::exchange(knows_functions, true)) vk::find_functions_of(handle);
    const auto opened = std::make_shared<Instance>();
    opened->handle = handle;
    if (opened->devices().empty()) throw UnsupportedFeatureError(no_driver);
    owner = getpid();
    instance = opened;
    return opened;
  }

  std::atomic<pid_t> owner{0};  // the process that has found devices, or a parent of it
  std::mutex mutex;
  bool knows_functions = false;
  std::weak_ptr<Instance> instance;
  std::map<int, std::weak_ptr<Device>> devices;  // by index
};

std::vector<DeviceInfo> list_devices() {
  Device::Registry& registry = Device::Registry::get();
  const auto lock = registry.lock();
  return registry.open_instance()->infos();
}

std::shared_ptr<Device> open_device(const std::string& name) {
  Device::Registry& registry = Device::Registry::get();
  const auto lock = registry.lock();
  const auto instance = registry.open_instance();
  const DeviceInfo info = choose(instance->infos(), name);
  std::weak_ptr<Device>& known = registry.devices[info.index];
  if (auto device = known.lock(); device && !device->is_lost_) return device;
  const auto physical = instance->devices().at(static_cast<size_t>(info.index));
  const std::shared_ptr<Device> device(new Device(instance, physical, info));
  device->open();
  known = device;
  return device;
}

Device::Device(std::shared_ptr<Instance> instance, vk::PhysicalDevice physical, DeviceInfo info)
    : instance_(std::move(instance)),
      physical_(physical),
      info_(std::move(info)),
      owner_(getpid()) {}

void Device::open() {
  const vk::Functions& f = vk::functions();
  vk::PhysicalDeviceProperties2 properties;
  f.GetPhysicalDeviceProperties2(physical_, &properties);
  Abilities abilities(physical_, properties.properties.api_version);
  std::vector<const char*> extensions;
  for (const char* name : kExtensions)
    if (abilities.extensions.contains(name)) extensions.push_back(name);
  has_budget_ = abilities.extensions.contains("VK_EXT_memory_budget");
  chooses_subgroups_ = abilities.subgroups.switches[0] && abilities.subgroups.switches[1];
  queue_family_ = *compute_family(physical_);
  const float priority = 1;
  const vk::DeviceQueueCreateInfo queue{
      .family = queue_family_, .n_queues = 1, .priorities = &priority};
  const vk::DeviceCreateInfo device{.next = &abilities.all,
                                    .n_queue_infos = 1,
                                    .queue_infos = &queue,
                                    .n_extensions = static_cast<uint32_t>(extensions.size()),
                                    .extensions = extensions.data()};
  check(f.CreateDevice(physical_, &device, nullptr, &handle_), "the device");
  f.GetDeviceQueue(handle_, queue_family_, 0, &queue_);
  const vk::FenceCreateInfo fence;
  check(f.CreateFence(handle_, &fence, nullptr, &fence_), "a fence");
  const vk::PushConstantRange range{vk::kStageCompute, 0, kMaxPushBytes};
  const vk::PipelineLayoutCreateInfo layout{.n_ranges = 1, .ranges = &range};
  check(f.CreatePipelineLayout(handle_, &layout, nullptr, &layout_), "a pipeline layout");
}

Device::~Device() {
  window_.reset();
  const vk::Device device = handle_to_free();
  if (!device) return;
  const vk::Functions& f = vk::functions();
  if (layout_) f.DestroyPipelineLayout(device, layout_, nullptr);
  if (fence_) f.DestroyFence(device, fence_, nullptr);
  f.DestroyDevice(device, nullptr);
}

vk::Device Device::usable() const {
  if (owner_ != getpid())
    throw ForkError(
        "this model uses a GPU that was opened before the process forked: start "
        "processes by spawn, or load the model on the CPU");
  if (is_lost_)
    throw DeviceLostError(info_.name + " was lost before: close the model and load it again");
  return handle_;
}

vk::Device Device::handle_to_free() const noexcept {
  return owner_ == getpid() && !is_stuck_ ? handle_ : nullptr;
}

void Device::check(vk::Result result, const std::string& what) const {
  if (result == vk::kSuccess) return;
  const std::string failed = info_.name + " (" + info_.driver + "): making " + what +
                             " failed with VkResult " + std::to_string(result);
  switch (result) {
    case vk::kErrorOutOfHostMemory:
    case vk::kErrorOutOfDeviceMemory:
    case vk::kErrorTooManyObjects:
      throw OutOfMemoryError(failed +
                             ": there is too little memory: put fewer layers on the GPU "
                             "(gpu_layers)");
    case vk::kErrorDeviceLost:
      is_lost_ = true;
      throw DeviceLostError(
          failed +
          ": the driver gave up the device, often because work took too long or another "
          "program broke it (the system's log says more): close the model and load it again, with "
          "fewer gpu_layers or on the CPU if it happens again");
    default:
      throw UnsupportedFeatureError(failed +
                                    ": install another version of the driver, or use the CPU");
  }
}

uint64_t Device::free_bytes() const {
  usable();
  return free_of(physical_, has_budget_);
}

uint32_t Device::memory_type(Place place, uint32_t among) const {
  const auto memory = memory_of(physical_);
  const bool is_mapped = place == Place::kHost || info_.is_unified;
  // Cached memory is much faster to read; every driver has a mapped type.
  for (const vk::Flags wish : {vk::kHostCached, vk::MemoryFlags{}})
    for (uint32_t i = 0; i < memory.n_types; ++i) {
      const auto [flags, heap] = memory.types[i];
      const vk::Flags needs = is_mapped ? kMapped | wish : vk::kDeviceLocal;
      const bool right_heap = place == Place::kHost || heap == local_heap(memory);
      if ((among >> i & 1) && has_all(flags, needs) && right_heap) return i;
    }
  throw UnsupportedFeatureError(info_.name + " (" + info_.driver +
                                "): there is no memory of the kind that buffers need");
}

void Device::submit(std::span<const vk::CommandBuffer> commands) {
  const vk::Functions& f = vk::functions();
  const vk::SubmitInfo info{.n_commands = static_cast<uint32_t>(commands.size()),
                            .commands = commands.data()};
  check(f.QueueSubmit(queue_, 1, &info, fence_), "a submission");
  const vk::Result result = f.WaitForFences(handle_, 1, &fence_, 1, kWaitNs);
  if (result == vk::kTimeout) {
    is_lost_ = is_stuck_ = true;
    throw DeviceLostError(info_.name + " (" + info_.driver + "): work was not done after " +
                          std::to_string(kWaitNs / 1'000'000'000) +
                          " s: restart the process, and use fewer gpu_layers or the CPU");
  }
  check(result, "a submission");
  check(f.ResetFences(handle_, 1, &fence_), "a fence");
}

void Device::run(CommandList& list) {
  usable();
  if (list.is_open_) list.end_piece();
  const std::lock_guard lock(mutex_);
  usable();  // another thread may have lost it
  const std::span<const vk::CommandBuffer> pieces(list.pieces_);
  const double allowed = list.seconds_per_piece_ > 0 ? kMostSeconds / list.seconds_per_piece_ : 1;
  const size_t at_once =
      static_cast<size_t>(std::clamp(allowed, 1.0, static_cast<double>(pieces.size())));
  double most = 0;
  for (size_t i = 0; i < pieces.size(); i += at_once) {
    const auto some = pieces.subspan(i, std::min(at_once, pieces.size() - i));
    const auto start = std::chrono::steady_clock::now();
    submit(some);
    const Seconds taken = std::chrono::steady_clock::now() - start;
    most = std::max(most, taken.count() / static_cast<double>(some.size()));
  }
  list.seconds_per_piece_ = most;
}

template <class Copy>
void Device::through_window(size_t size_bytes, const Copy& copy) {
  usable();
  const std::lock_guard lock(window_mutex_);
  // The window does not own the device that owns it.
  const std::shared_ptr<Device> self(std::shared_ptr<void>(), this);
  if (!window_) window_ = std::make_unique<Buffer>(self, kWindowBytes, Place::kHost);
  for (size_t done = 0; done < size_bytes; done += kWindowBytes)
    copy(*window_, done, std::min(kWindowBytes, size_bytes - done));
}

void Device::upload(const Buffer& to, size_t offset, std::span<const std::byte> bytes) {
  usable();
  if (to.data()) {
    std::memcpy(to.data() + offset, bytes.data(), bytes.size());
    return;
  }
  through_window(bytes.size(), [&](const Buffer& window, size_t done, size_t size) {
    std::memcpy(window.data(), bytes.data() + done, size);
    CommandList list(shared_from_this());
    list.copy(window, 0, to, offset + done, size);
    run(list);
  });
}

void Device::download(const Buffer& from, size_t offset, std::span<std::byte> bytes) {
  usable();
  if (from.data()) {
    std::memcpy(bytes.data(), from.data() + offset, bytes.size());
    return;
  }
  through_window(bytes.size(), [&](const Buffer& window, size_t done, size_t size) {
    CommandList list(shared_from_this());
    list.copy(from, offset + done, window, 0, size);
    run(list);
    std::memcpy(bytes.data() + done, window.data(), size);
  });
}

}  // namespace starchat
