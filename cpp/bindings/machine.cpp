// `_core.machine`: the instruction sets and the measured limits of this machine.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu_quota.hpp"
#include "base/free_memory.hpp"
#include "base/hardware_limits.hpp"
#include "bindings/bindings.hpp"
#include "bindings/waiting.hpp"
#include "gpu/device.hpp"
#include "kernels/kernels.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

double multiply_peak_here(const std::string& isa, const std::string& operands, int n_threads) {
  kernels_named(isa);  // throws where this machine lacks it
  return multiply_peak(isa, operands, n_threads);
}

py::dict as_dict(const DeviceInfo& device) {
  const char* const kinds[] = {"other", "integrated", "discrete", "virtual", "cpu"};
  py::list matrices;
  for (const auto [m, n, k] : device.matrices) matrices.append(py::make_tuple(m, n, k));
  using namespace py::literals;
  return py::dict("name"_a = device.name, "driver"_a = device.driver,
                  "kind"_a = kinds[static_cast<int>(device.kind)], "refusal"_a = device.refusal,
                  "memory_bytes"_a = device.memory_bytes, "free_bytes"_a = device.free_bytes,
                  "is_unified"_a = device.is_unified, "subgroup_size"_a = device.subgroup_size,
                  "matrices"_a = matrices);
}

}  // namespace

void bind_machine(py::module_& m) {
  py::module_ machine = m.def_submodule("machine", "What this machine has, and its limits.");
  machine.def("instruction_sets", &available_instruction_sets,
              "Return the instruction sets that this machine can run, the best last.");
  machine.def("read_bandwidth", &read_bandwidth, py::arg("n_threads"), py::arg("size_bytes"),
              py::call_guard<GilReleased>(),
              "Measure the bytes per second that threads read from memory together.");
  machine.def("multiply_peak", &multiply_peak_here, py::arg("isa"), py::arg("operands"),
              py::arg("n_threads") = 1, py::call_guard<GilReleased>(),
              "Measure multiply-adds per second, operands (\"int8\" or \"f32\") in registers.\n"
              "Raises UnsupportedFeatureError for an instruction set that is not on this machine,\n"
              "InvalidRequestError where a set has no peak for these operands.");
  machine.def("cpu_quota", &cpu_quota, py::arg("root") = "",
              "Return the cores that control groups allow this process, None without a limit.\n\n"
              "Their files are read below the folder `root`.");
  machine.def(
      "free_memory",
      [](const std::string& root) {
        const auto left = free_memory(root);
        return left ? std::optional(std::pair(left->bytes, left->source)) : std::nullopt;
      },
      py::arg("root") = "",
      "Return the bytes that this process can still take, and what says so; None where nothing\n"
      "does.\n\nFiles of the system are read below the folder `root`.");
  machine.def(
      "gpu_devices",
      [] {
        std::vector<DeviceInfo> devices;
        {
          const GilReleased released;
          devices = list_devices();
        }
        py::list all;
        for (const DeviceInfo& device : devices) all.append(as_dict(device));
        return all;
      },
      "Return the devices that Vulkan finds, usable or not.\n\n"
      "Raises UnsupportedFeatureError without Vulkan or a driver.");
  machine.def("clock_hz", &clock_hz, py::call_guard<GilReleased>(),
              "Measure the cycles per second of one busy core.");
}

}  // namespace starchat
