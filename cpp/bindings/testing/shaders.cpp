// Shaders compared with the scalar kernels, at any shape (gpu/self_test.hpp).
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/testing/testing.hpp"
#include "bindings/waiting.hpp"
#include "gpu/self_test.hpp"

namespace starchat {

namespace py = pybind11;

namespace {

class BoundShaderTest {
 public:
  BoundShaderTest(const std::string& device, bool native_fma)
      : shaders_(open_device(device), native_fma), test_(shaders_) {}

  void arithmetic() { test_.arithmetic(); }
  void product(const std::string& type, int n_strips, int n_blocks, int n_columns,
               bool accumulates) {
    test_.product(traits(find_type(&TypeTraits::name, type).value()), n_strips, n_blocks, n_columns,
                  accumulates);
  }
  void activations(const std::string& source, bool quantizes, int n, int n_columns, bool reorders) {
    const auto of_name = source == "norm"   ? Prologue::Norm
                         : source == "gelu" ? Prologue::Gelu
                                            : Prologue::Plain;
    test_.activations(of_name, quantizes, n, n_columns, reorders);
  }
  void attention(int n_heads, int n_kv_heads, int head_dim, int n_positions, int n_columns) {
    test_.attention(n_heads, n_kv_heads, head_dim, n_positions, n_columns);
  }

 private:
  Shaders shaders_;
  ShaderTest test_;
};

// A driver that compiles one word of shaders as another.
decltype(vk::Functions::CreateShaderModule) own_create = nullptr;
uint32_t wrong_word = 0;

vk::Result create_wrong(vk::Device device, const vk::ShaderModuleCreateInfo* info,
                        const void* allocator, vk::ShaderModule* module) {
  std::vector<uint32_t> words(info->words, info->words + info->size_bytes / sizeof(uint32_t));
  std::ranges::replace(words, wrong_word, wrong_word + 1);
  vk::ShaderModuleCreateInfo changed = *info;
  changed.words = words.data();
  return own_create(device, &changed, allocator, module);
}

// Returns whether fma() of the device is used.
bool test_shaders(const std::string& device, const std::vector<std::string>& types,
                  uint32_t wrong_constant) {
  std::vector<TensorType> found;
  for (const auto& name : types) found.push_back(find_type(&TypeTraits::name, name).value());
  const auto opened = open_device(device);
  vk::Functions& f = vk::functions();
  own_create = f.CreateShaderModule;
  wrong_word = wrong_constant;
  struct Restored {
    ~Restored() { vk::functions().CreateShaderModule = own_create; }
  } restored;
  if (wrong_constant != 0) f.CreateShaderModule = create_wrong;
  return tested_shaders(opened, found)->native_fma();
}

}  // namespace

void bind_shaders(py::module_& testing) {
  py::class_<BoundShaderTest>(testing, "ShaderTest")
      .def(py::init<const std::string&, bool>(), py::arg("device"), py::arg("native_fma") = false,
           py::call_guard<GilReleased>())
      .def("arithmetic", &BoundShaderTest::arithmetic, py::call_guard<GilReleased>())
      .def("product", &BoundShaderTest::product, py::arg("type"), py::arg("n_strips"),
           py::arg("n_blocks"), py::arg("n_columns"), py::arg("accumulates") = true,
           py::call_guard<GilReleased>())
      .def("activations", &BoundShaderTest::activations, py::arg("source"), py::arg("quantizes"),
           py::arg("n"), py::arg("n_columns"), py::arg("reorders"), py::call_guard<GilReleased>())
      .def("attention", &BoundShaderTest::attention, py::arg("n_heads"), py::arg("n_kv_heads"),
           py::arg("head_dim"), py::arg("n_positions"), py::arg("n_columns"),
           py::call_guard<GilReleased>());
  testing.def("test_shaders", &test_shaders, py::arg("device"), py::arg("types"),
              py::arg("wrong_constant") = 0, py::call_guard<GilReleased>());
}

}  // namespace starchat
