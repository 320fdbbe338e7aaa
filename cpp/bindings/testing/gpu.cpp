// Shaders one by one, on buffers of a test, and faults of a device that no test could wait for.
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <string>
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

  // Dispatches a shader n_times, with a cut of the list between, and returns the buffers after it.
  // Its push constants are the addresses of the buffers, then `push`.
  std::vector<py::bytes> run(const py::buffer& shader, const std::vector<py::buffer>& buffers,
                             std::array<uint32_t, 3> groups, const std::vector<uint32_t>& constants,
                             const py::buffer& push, uint32_t subgroup_size, int n_times,
                             bool in_host_memory) {
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
      device_->run(list);
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
uint64_t pretended_bytes = 0;

vk::Result lost(vk::Queue, uint32_t, const vk::SubmitInfo*, vk::Fence) {
  return vk::kErrorDeviceLost;
}

vk::Result refuse(vk::Device, const vk::MemoryAllocateInfo*, const void*, vk::DeviceMemory*) {
  return vk::kErrorOutOfDeviceMemory;
}

void small_heaps(vk::PhysicalDevice device, vk::PhysicalDeviceMemoryProperties2* memory) {
  own.GetPhysicalDeviceMemoryProperties2(device, memory);
  for (auto& heap : memory->heaps) heap.size = std::min(heap.size, pretended_bytes);
}

// From now on: "" nothing fails; "lost": submissions lose their device; "memory": the driver gives
// none. heap_bytes: what every heap of every device has at most; 0: what it has.
void gpu_faults(const std::string& fault, uint64_t heap_bytes) {
  vk::Functions& f = vk::functions();
  if (!own.QueueSubmit) list_devices(), own = f;
  f.QueueSubmit = fault == "lost" ? lost : own.QueueSubmit;
  f.AllocateMemory = fault == "memory" ? refuse : own.AllocateMemory;
  pretended_bytes = heap_bytes;
  f.GetPhysicalDeviceMemoryProperties2 =
      heap_bytes ? small_heaps : own.GetPhysicalDeviceMemoryProperties2;
}

}  // namespace

void bind_gpu(py::module_& testing) {
  py::class_<Gpu>(testing, "Gpu")
      .def(py::init<const std::string&>(), py::arg("device"), py::call_guard<GilReleased>())
      .def("run", &Gpu::run, py::arg("shader"), py::arg("buffers"), py::arg("groups"),
           py::arg("constants") = py::list(), py::arg("push") = py::bytes(),
           py::arg("subgroup_size") = 0, py::arg("n_times") = 1, py::arg("in_host_memory") = false)
      .def_property_readonly("index", [](const Gpu& gpu) { return gpu.device()->info().index; })
      .def_property_readonly("free_bytes",
                             [](const Gpu& gpu) { return gpu.device()->free_bytes(); })
      .def_property_readonly("n_shares", [](const Gpu& gpu) { return gpu.device().use_count(); });
  testing.def("gpu_faults", &gpu_faults, py::arg("fault") = "", py::arg("heap_bytes") = 0);
}

}  // namespace starchat
