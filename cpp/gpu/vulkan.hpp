// The part of Vulkan 1.2 that the core uses, by the names and numbers of its specification, without
// the prefix "Vk". A build needs no package of Vulkan, and the loader is opened at run time.
// Of structures that have more than is used here, the rest is bytes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace starchat::vk {

using Bool32 = uint32_t;
using Flags = uint32_t;
using DeviceSize = uint64_t;

// Handles. All are pointers on 64-bit systems.
using Instance = struct InstanceObject*;
using PhysicalDevice = struct PhysicalDeviceObject*;
using Device = struct DeviceObject*;
using Queue = struct QueueObject*;
using CommandBuffer = struct CommandBufferObject*;
using DeviceMemory = struct DeviceMemoryObject*;
using Buffer = struct BufferObject*;
using Fence = struct FenceObject*;
using ShaderModule = struct ShaderModuleObject*;
using PipelineLayout = struct PipelineLayoutObject*;
using Pipeline = struct PipelineObject*;
using CommandPool = struct CommandPoolObject*;
static_assert(sizeof(void*) == 8);

enum Result : int32_t {  // those that are told apart
  kSuccess = 0,
  kTimeout = 2,
  kErrorOutOfHostMemory = -1,
  kErrorOutOfDeviceMemory = -2,
  kErrorDeviceLost = -4,
  kErrorTooManyObjects = -10,
};

constexpr uint32_t version(uint32_t major, uint32_t minor) { return major << 22 | minor << 12; }

// What structures begin with: their number (sType), and the structure that follows (pNext).
#define STARCHAT_VK_HEAD(number) \
  int32_t type = number;         \
  const void* next = nullptr

// --- instance and physical devices

struct ApplicationInfo {
  STARCHAT_VK_HEAD(0);
  const char* application_name = nullptr;
  uint32_t application_version = 0;
  const char* engine_name = nullptr;
  uint32_t engine_version = 0, api_version = 0;
};

struct InstanceCreateInfo {
  STARCHAT_VK_HEAD(1);
  Flags flags = 0;
  const ApplicationInfo* application_info = nullptr;
  uint32_t n_layers = 0;
  const char* const* layers = nullptr;
  uint32_t n_extensions = 0;
  const char* const* extensions = nullptr;
};

struct ExtensionProperties {
  char name[256];
  uint32_t version;
};

struct PhysicalDeviceProperties {
  uint32_t api_version, driver_version, vendor, device;
  int32_t device_type;  // other, integrated, discrete, virtual, CPU
  char device_name[256];
  uint8_t cache_id[16];
  alignas(8) uint8_t limits_before[216];
  uint32_t max_shared_bytes;       // maxComputeSharedMemorySize
  uint32_t max_group_count[3];     // maxComputeWorkGroupCount
  uint32_t max_group_invocations;  // maxComputeWorkGroupInvocations
  uint8_t limits_after[504 - 236];
  Bool32 sparse[5];
};

struct PhysicalDeviceProperties2 {
  STARCHAT_VK_HEAD(1000059001);
  PhysicalDeviceProperties properties{};
};

struct PhysicalDeviceDriverProperties {
  STARCHAT_VK_HEAD(1000196000);
  uint32_t id = 0;
  char name[256]{}, info[256]{};
  uint8_t conformance[4]{};
};

struct PhysicalDeviceSubgroupProperties {
  STARCHAT_VK_HEAD(1000094000);
  uint32_t subgroup_size = 0;
  Flags stages = 0, operations = 0;
  Bool32 quads = 0;
};

struct PhysicalDeviceMaintenance3Properties {
  STARCHAT_VK_HEAD(1000168000);
  uint32_t max_descriptors = 0;
  DeviceSize max_allocation_bytes = 0;
};

struct CooperativeMatrixProperties {
  STARCHAT_VK_HEAD(1000506001);
  uint32_t m = 0, n = 0, k = 0;
  int32_t a = 0, b = 0, c = 0, result = 0;  // kSint8, kSint32
  Bool32 saturates = 0;
  int32_t scope = 0;
};
enum ComponentType : int32_t { kSint8 = 3, kSint32 = 5 };
constexpr int32_t kScopeSubgroup = 3;

struct PhysicalDeviceFeatures2 {
  STARCHAT_VK_HEAD(1000059000);
  Bool32 features[55]{};
};
enum FeatureIndex { kShaderInt64 = 40, kShaderInt16 = 41 };

// Any of the structures that are a row of switches: at most so many of them here.
struct FeatureSwitches {
  STARCHAT_VK_HEAD(0);
  Bool32 switches[4]{};
};
enum FeatureType : int32_t {                  // and what the switches are
  kBufferDeviceAddressFeatures = 1000257000,  // bufferDeviceAddress, captureReplay, multiDevice
  kIntegerDotProductFeatures = 1000280000,    // shaderIntegerDotProduct
  kMemoryModelFeatures = 1000211000,          // vulkanMemoryModel, deviceScope, chains
  kFloat16Int8Features = 1000082000,          // shaderFloat16, shaderInt8
  k8BitStorageFeatures = 1000177000,          // storageBuffer8BitAccess, uniform, push constants
  k16BitStorageFeatures = 1000083000,         // storageBuffer16BitAccess, uniform, push, input
  kSubgroupSizeControlFeatures = 1000225002,  // subgroupSizeControl, computeFullSubgroups
  kCooperativeMatrixFeatures = 1000506000,    // cooperativeMatrix, robustBufferAccess
};

struct MemoryType {
  Flags flags;
  uint32_t heap;
};
enum MemoryFlags : Flags { kDeviceLocal = 1, kHostVisible = 2, kHostCoherent = 4, kHostCached = 8 };

struct MemoryHeap {
  DeviceSize size;
  Flags flags;  // kDeviceLocal
};

struct PhysicalDeviceMemoryProperties2 {
  STARCHAT_VK_HEAD(1000059006);
  uint32_t n_types = 0;
  MemoryType types[32]{};
  uint32_t n_heaps = 0;
  MemoryHeap heaps[16]{};
};

struct PhysicalDeviceMemoryBudget {
  STARCHAT_VK_HEAD(1000237000);
  DeviceSize budget[16]{}, usage[16]{};  // of this process
};

struct QueueFamilyProperties {
  Flags flags;
  uint32_t n_queues, timestamp_bits, granularity[3];
};
constexpr Flags kQueueCompute = 2;

// --- device

struct DeviceQueueCreateInfo {
  STARCHAT_VK_HEAD(2);
  Flags flags = 0;
  uint32_t family = 0, n_queues = 0;
  const float* priorities = nullptr;
};

struct DeviceCreateInfo {
  STARCHAT_VK_HEAD(3);
  Flags flags = 0;
  uint32_t n_queue_infos = 0;
  const DeviceQueueCreateInfo* queue_infos = nullptr;
  uint32_t n_layers = 0;
  const char* const* layers = nullptr;
  uint32_t n_extensions = 0;
  const char* const* extensions = nullptr;
  const Bool32* features = nullptr;
};

struct SubmitInfo {
  STARCHAT_VK_HEAD(4);
  uint32_t n_wait = 0;
  const void* wait = nullptr;
  const Flags* wait_stages = nullptr;
  uint32_t n_commands = 0;
  const CommandBuffer* commands = nullptr;
  uint32_t n_signal = 0;
  const void* signal = nullptr;
};

struct FenceCreateInfo {
  STARCHAT_VK_HEAD(8);
  Flags flags = 0;
};

// --- memory and buffers

struct MemoryAllocateFlagsInfo {
  STARCHAT_VK_HEAD(1000060000);
  Flags flags = 0;
  uint32_t device_mask = 0;
};
constexpr Flags kAllocateDeviceAddress = 2;

struct MemoryAllocateInfo {
  STARCHAT_VK_HEAD(5);
  DeviceSize size = 0;
  uint32_t memory_type = 0;
};

struct BufferCreateInfo {
  STARCHAT_VK_HEAD(12);
  Flags flags = 0;
  DeviceSize size = 0;
  Flags usage = 0;
  int32_t sharing = 0;
  uint32_t n_families = 0;
  const uint32_t* families = nullptr;
};
enum BufferUsage : Flags {
  kTransferFrom = 1,
  kTransferTo = 2,
  kStorage = 0x20,
  kDeviceAddress = 0x20000,
};

struct MemoryRequirements {
  DeviceSize size, alignment;
  uint32_t memory_types;  // a bit each
};

struct BufferDeviceAddressInfo {
  STARCHAT_VK_HEAD(1000244001);
  Buffer buffer = nullptr;
};

// --- pipelines

struct ShaderModuleCreateInfo {
  STARCHAT_VK_HEAD(16);
  Flags flags = 0;
  size_t size_bytes = 0;
  const uint32_t* words = nullptr;
};

struct SpecializationMapEntry {
  uint32_t id, offset;
  size_t size;
};

struct SpecializationInfo {
  uint32_t n_entries = 0;
  const SpecializationMapEntry* entries = nullptr;
  size_t size_bytes = 0;
  const void* data = nullptr;
};

struct RequiredSubgroupSize {
  STARCHAT_VK_HEAD(1000225001);
  uint32_t size = 0;
};

struct PipelineShaderStageCreateInfo {
  STARCHAT_VK_HEAD(18);
  Flags flags = 0, stage = 0;
  ShaderModule module = nullptr;
  const char* entry = nullptr;
  const SpecializationInfo* specialization = nullptr;
};
constexpr Flags kStageCompute = 0x20;  // of a shader
constexpr int32_t kBindCompute = 1;
constexpr Flags kRequireFullSubgroups = 2;

struct PushConstantRange {
  Flags stages;
  uint32_t offset, size;
};

struct PipelineLayoutCreateInfo {
  STARCHAT_VK_HEAD(30);
  Flags flags = 0;
  uint32_t n_sets = 0;
  const void* sets = nullptr;
  uint32_t n_ranges = 0;
  const PushConstantRange* ranges = nullptr;
};

struct ComputePipelineCreateInfo {
  STARCHAT_VK_HEAD(29);
  Flags flags = 0;
  PipelineShaderStageCreateInfo stage{};
  PipelineLayout layout = nullptr;
  Pipeline base = nullptr;
  int32_t base_index = -1;
};

// --- commands

struct CommandPoolCreateInfo {
  STARCHAT_VK_HEAD(39);
  Flags flags = 0;
  uint32_t family = 0;
};

struct CommandBufferAllocateInfo {
  STARCHAT_VK_HEAD(40);
  CommandPool pool = nullptr;
  int32_t level = 0;
  uint32_t n_buffers = 0;
};

struct CommandBufferBeginInfo {
  STARCHAT_VK_HEAD(42);
  Flags flags = 0;
  const void* inheritance = nullptr;
};

struct MemoryBarrier {
  STARCHAT_VK_HEAD(46);
  Flags from = 0, to = 0;
};
enum Access : Flags {
  kShaderRead = 0x20,
  kShaderWrite = 0x40,
  kTransferRead = 0x800,
  kTransferWrite = 0x1000,
  kHostRead = 0x2000,
};
enum PipelineStage : Flags {
  kStageComputeShader = 0x800,
  kStageTransfer = 0x1000,
  kStageHost = 0x4000
};

struct BufferCopy {
  DeviceSize from, to, size;
};

// --- functions: X(name, result, parameters)

#define STARCHAT_VK_GLOBAL(X) \
  X(CreateInstance, Result, (const InstanceCreateInfo*, const void*, Instance*))

#define STARCHAT_VK_OF_INSTANCE(X)                                                                \
  X(DestroyInstance, void, (Instance, const void*))                                               \
  X(EnumeratePhysicalDevices, Result, (Instance, uint32_t*, PhysicalDevice*))                     \
  X(EnumerateDeviceExtensionProperties, Result,                                                   \
    (PhysicalDevice, const char*, uint32_t*, ExtensionProperties*))                               \
  X(GetPhysicalDeviceProperties2, void, (PhysicalDevice, PhysicalDeviceProperties2*))             \
  X(GetPhysicalDeviceFeatures2, void, (PhysicalDevice, PhysicalDeviceFeatures2*))                 \
  X(GetPhysicalDeviceMemoryProperties2, void, (PhysicalDevice, PhysicalDeviceMemoryProperties2*)) \
  X(GetPhysicalDeviceQueueFamilyProperties, void,                                                 \
    (PhysicalDevice, uint32_t*, QueueFamilyProperties*))                                          \
  X(CreateDevice, Result, (PhysicalDevice, const DeviceCreateInfo*, const void*, Device*))        \
  X(DestroyDevice, void, (Device, const void*))                                                   \
  X(GetDeviceQueue, void, (Device, uint32_t family, uint32_t index, Queue*))                      \
  X(QueueSubmit, Result, (Queue, uint32_t, const SubmitInfo*, Fence))                             \
  X(CreateFence, Result, (Device, const FenceCreateInfo*, const void*, Fence*))                   \
  X(DestroyFence, void, (Device, Fence, const void*))                                             \
  X(ResetFences, Result, (Device, uint32_t, const Fence*))                                        \
  X(WaitForFences, Result, (Device, uint32_t, const Fence*, Bool32 all, uint64_t timeout_ns))     \
  X(AllocateMemory, Result, (Device, const MemoryAllocateInfo*, const void*, DeviceMemory*))      \
  X(FreeMemory, void, (Device, DeviceMemory, const void*))                                        \
  X(MapMemory, Result, (Device, DeviceMemory, DeviceSize, DeviceSize, Flags, void**))             \
  X(CreateBuffer, Result, (Device, const BufferCreateInfo*, const void*, Buffer*))                \
  X(DestroyBuffer, void, (Device, Buffer, const void*))                                           \
  X(GetBufferMemoryRequirements, void, (Device, Buffer, MemoryRequirements*))                     \
  X(BindBufferMemory, Result, (Device, Buffer, DeviceMemory, DeviceSize))                         \
  X(GetBufferDeviceAddress, uint64_t, (Device, const BufferDeviceAddressInfo*))                   \
  X(CreateShaderModule, Result,                                                                   \
    (Device, const ShaderModuleCreateInfo*, const void*, ShaderModule*))                          \
  X(DestroyShaderModule, void, (Device, ShaderModule, const void*))                               \
  X(CreatePipelineLayout, Result,                                                                 \
    (Device, const PipelineLayoutCreateInfo*, const void*, PipelineLayout*))                      \
  X(DestroyPipelineLayout, void, (Device, PipelineLayout, const void*))                           \
  X(CreateComputePipelines, Result,                                                               \
    (Device, const void* cache, uint32_t, const ComputePipelineCreateInfo*, const void*,          \
     Pipeline*))                                                                                  \
  X(DestroyPipeline, void, (Device, Pipeline, const void*))                                       \
  X(CreateCommandPool, Result, (Device, const CommandPoolCreateInfo*, const void*, CommandPool*)) \
  X(DestroyCommandPool, void, (Device, CommandPool, const void*))                                 \
  X(AllocateCommandBuffers, Result, (Device, const CommandBufferAllocateInfo*, CommandBuffer*))   \
  X(BeginCommandBuffer, Result, (CommandBuffer, const CommandBufferBeginInfo*))                   \
  X(EndCommandBuffer, Result, (CommandBuffer))                                                    \
  X(CmdBindPipeline, void, (CommandBuffer, int32_t bind_point, Pipeline))                         \
  X(CmdPushConstants, void,                                                                       \
    (CommandBuffer, PipelineLayout, Flags stages, uint32_t offset, uint32_t size, const void*))   \
  X(CmdDispatch, void, (CommandBuffer, uint32_t x, uint32_t y, uint32_t z))                       \
  X(CmdCopyBuffer, void, (CommandBuffer, Buffer, Buffer, uint32_t, const BufferCopy*))            \
  X(CmdPipelineBarrier, void,                                                                     \
    (CommandBuffer, Flags from, Flags to, Flags, uint32_t, const MemoryBarrier*, uint32_t,        \
     const void*, uint32_t, const void*))

// By extensions: null where an instance lacks it.
#define STARCHAT_VK_OPTIONAL(X)                              \
  X(GetPhysicalDeviceCooperativeMatrixPropertiesKHR, Result, \
    (PhysicalDevice, uint32_t*, CooperativeMatrixProperties*))

struct Functions {
#define STARCHAT_VK_POINTER(name, result, parameters) result(*name) parameters = nullptr;
  STARCHAT_VK_GLOBAL(STARCHAT_VK_POINTER)
  STARCHAT_VK_OF_INSTANCE(STARCHAT_VK_POINTER)
  STARCHAT_VK_OPTIONAL(STARCHAT_VK_POINTER)
#undef STARCHAT_VK_POINTER
};

// Of the loader, which passes each call to the driver of its handle. Tests put others in their
// place.
Functions& functions();

// Opens the loader and finds the functions of no instance, once. UnsupportedFeatureError says how
// to install it.
void open_loader();
void find_functions_of(Instance instance);  // UnsupportedFeatureError: one is missing

}  // namespace starchat::vk
