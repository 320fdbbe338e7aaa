// A compute shader, compiled for a device. Move-only.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "gpu/handle.hpp"

namespace starchat {

class Pipeline {
 public:
  Pipeline() = default;
  // words: SPIR-V with the entry "main", no descriptors, and push constants of 128 bytes at most.
  // constants: the value of specialization constant i, each of 32 bits. name: for errors.
  // subgroup_size: 0, or what every subgroup of it must have. UnsupportedFeatureError: the driver
  // refuses the shader.
  Pipeline(std::shared_ptr<Device> device, const std::string& name, std::span<const uint32_t> words,
           std::span<const uint32_t> constants, uint32_t subgroup_size = 0);

  vk::Pipeline handle() const { return pipeline_.get(); }

 private:
  Handle<vk::Pipeline> pipeline_;
};

}  // namespace starchat
