// Shaders one by one, on buffers of a test, and faults of a device that no test could wait for.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/testing/testing.hpp"
#include "bindings/waiting.hpp"
#include "gpu/buffer.hpp"
#include "gpu/command_list.hpp"
#include "gpu/device.hpp"
#include "gpu/pipeline.hpp"

namespace starchat {

namespace py = pybind11;

namespace {

std::string bytes_of(const py::buffer& data) {
  const py::buffer_info info = data.request();
  return {static_cast<const char*>(info.ptr), static_cast<size_t>(info.size * info.itemsize)};
}

// A device, and the pipelines that it has compiled.
class Gpu {
 public:
  explicit Gpu(const std::string& device) : device_(open_device(device)) {}

  // Dispatches a shader n_times, with a cut of the list between, and runs the list n_runs times.
  // Returns the buffers after it. Push constants are the addresses of the buffers, then `push`.
  std::vector<py::bytes> run(const py::buffer& shader, const std::vector<py::buffer>& buffers,
                             std::array<uint32_t, 3> groups, const std::vector<uint32_t>& constants,
                             const py::buffer& push, uint32_t subgroup_size, int n_times,
                             int n_runs, bool in_host_memory) {
    const std::string code = bytes_of(shader), more = bytes_of(push);
    std::vector<std::string> contents;
    for (const py::buffer& buffer : buffers) contents.push_back(bytes_of(buffer));
    {
      const GilReleased released;
      std::vector<Buffer> placed;
      std::string pushed;
      for (const std::string& content : contents) {
        Buffer& buffer = placed.emplace_back(device_, content.size(),
                                             in_host_memory ? Place::kHost : Place::kDevice);
        device_->upload(buffer, 0, std::as_bytes(std::span(content)));
        const uint64_t address = buffer.address();
        pushed.append(reinterpret_cast<const char*>(&address), sizeof address);
      }
      pushed += more;
      const Pipeline& compiled = pipeline(code, constants, subgroup_size);
      CommandList list(device_);
      for (int i = 0; i < n_times; ++i) {
        if (i > 0) list.cut();
        list.dispatch(compiled, std::as_bytes(std::span(pushed)), groups[0], groups[1], groups[2]);
      }
      for (int i = 0; i < n_runs; ++i) device_->run(list);
      for (size_t i = 0; i < placed.size(); ++i)
        device_->download(placed[i], 0, std::as_writable_bytes(std::span(contents[i])));
    }
    return {contents.begin(), contents.end()};
  }

  const std::shared_ptr<Device>& device() const { return device_; }

 private:
  const Pipeline& pipeline(const std::string& code, const std::vector<uint32_t>& constants,
                           uint32_t subgroup_size) {
    const auto key = std::make_tuple(code, constants, subgroup_size);
    if (const auto known = pipelines_.find(key); known != pipelines_.end()) return known->second;
    std::vector<uint32_t> words(code.size() / sizeof(uint32_t));
    std::memcpy(words.data(), code.data(), words.size() * sizeof(uint32_t));
    return pipelines_.emplace(key, Pipeline(device_, "a test's", words, constants, subgroup_size))
        .first->second;
  }

  const std::shared_ptr<Device> device_;
  std::map<std::tuple<std::string, std::vector<uint32_t>, uint32_t>, Pipeline> pipelines_;
};

// The driver's own functions, where others are in their place.
vk::Functions own;
int n_submitted = 0;
uint64_t pretended_bytes = 0;

vk::Result count(vk::Queue queue, uint32_t n, const vk::SubmitInfo* infos, vk::Fence fence) {
  ++n_submitted;
  return own.QueueSubmit(queue, n, infos, fence);
}

vk::Result submit_slowly(vk::Queue queue, uint32_t n, const vk::SubmitInfo* infos,
                         vk::Fence fence) {
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  return count(queue, n, infos, fence);
}

vk::Result lose(vk::Queue, uint32_t, const vk::SubmitInfo*, vk::Fence) {
  return vk::kErrorDeviceLost;
}

vk::Result never_end(vk::Device, uint32_t, const vk::Fence*, vk::Bool32, uint64_t) {
  return vk::kTimeout;
}

vk::Result refuse(vk::Device, const vk::MemoryAllocateInfo*, const void*, vk::DeviceMemory*) {
  return vk::kErrorOutOfDeviceMemory;
}

void pretend_discrete(vk::PhysicalDevice device, vk::PhysicalDeviceProperties2* all) {
  own.GetPhysicalDeviceProperties2(device, all);
  all->properties.device_type = static_cast<int32_t>(DeviceInfo::Kind::kDiscrete);
}

void pretend_memory(vk::PhysicalDevice device, vk::PhysicalDeviceMemoryProperties2* memory) {
  own.GetPhysicalDeviceMemoryProperties2(device, memory);
  for (auto& heap : memory->heaps) heap.size = std::min(heap.size, pretended_bytes);
}

// From now on, for the whole process; the stub says what each fault is.
void gpu_faults(const std::string& fault, uint64_t heap_bytes) {
  vk::Functions& f = vk::functions();
  if (!own.QueueSubmit) list_devices(), own = f;
  f = own;
  f.QueueSubmit = fault == "lost" ? lose : fault == "slow" ? submit_slowly : count;
  if (fault == "stuck") f.WaitForFences = never_end;
  if (fault == "memory") f.AllocateMemory = refuse;
  if (fault == "discrete") f.GetPhysicalDeviceProperties2 = pretend_discrete;
  if (heap_bytes) f.GetPhysicalDeviceMemoryProperties2 = pretend_memory;
  pretended_bytes = heap_bytes;
  n_submitted = 0;
}

}  // namespace

void bind_gpu(py::module_& testing) {
  py::class_<Gpu>(testing, "Gpu")
      .def(py::init<const std::string&>(), py::arg("device"), py::call_guard<GilReleased>())
      .def("run", &Gpu::run, py::arg("shader"), py::arg("buffers"), py::arg("groups"),
           py::arg("constants") = py::list(), py::arg("push") = py::bytes(),
           py::arg("subgroup_size") = 0, py::arg("n_times") = 1, py::arg("n_runs") = 1,
           py::arg("in_host_memory") = false)
      .def_property_readonly("index", [](const Gpu& gpu) { return gpu.device()->info().index; })
      .def_property_readonly("free_bytes",
                             [](const Gpu& gpu) { return gpu.device()->free_bytes(); })
      .def_property_readonly("n_shares", [](const Gpu& gpu) { return gpu.device().use_count(); });
  testing.def("gpu_faults", &gpu_faults, py::arg("fault") = "", py::arg("heap_bytes") = 0);
  testing.def("gpu_submissions", [] { return n_submitted; });
}

}  // namespace starchat
