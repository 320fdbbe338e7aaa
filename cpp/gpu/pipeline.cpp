#include "gpu/pipeline.hpp"

#include <vector>

#include "base/errors.hpp"

namespace starchat {

Pipeline::Pipeline(std::shared_ptr<Device> device, const std::string& name,
                   std::span<const uint32_t> words, std::span<const uint32_t> constants,
                   uint32_t subgroup_size)
    : pipeline_(device, vk::functions().DestroyPipeline) {
  const vk::Functions& f = vk::functions();
  const vk::Device handle = device->usable();
  const std::string what = "the shader " + name;
  Handle<vk::ShaderModule> module(device, f.DestroyShaderModule);
  const vk::ShaderModuleCreateInfo code{.size_bytes = words.size_bytes(), .words = words.data()};
  device->check(f.CreateShaderModule(handle, &code, nullptr, module.place()), what);

  std::vector<vk::SpecializationMapEntry> entries;
  for (uint32_t i = 0; i < constants.size(); ++i) entries.push_back({i, 4 * i, 4});
  const vk::SpecializationInfo specialization{.n_entries = static_cast<uint32_t>(entries.size()),
                                              .entries = entries.data(),
                                              .size_bytes = constants.size_bytes(),
                                              .data = constants.data()};
  vk::RequiredSubgroupSize size{.size = subgroup_size};
  const bool needs_size = subgroup_size && device->chooses_subgroups();
  if (subgroup_size && !needs_size && subgroup_size != device->info().subgroup_size)
    throw UnsupportedFeatureError(device->info().name + ": " + what + " needs subgroups of " +
                                  std::to_string(subgroup_size) + " invocations");
  const vk::ComputePipelineCreateInfo info{
      .stage = {.next = needs_size ? &size : nullptr,
                .flags = needs_size ? vk::kRequireFullSubgroups : 0,
                .stage = vk::kStageCompute,
                .module = module.get(),
                .entry = "main",
                .specialization = &specialization},
      .layout = device->layout_};
  device->check(f.CreateComputePipelines(handle, nullptr, 1, &info, nullptr, pipeline_.place()),
                what);
}

}  // namespace starchat
