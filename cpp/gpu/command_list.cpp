#include "gpu/command_list.hpp"

#include <utility>

namespace starchat {

CommandList::CommandList(std::shared_ptr<Device> device)
    : device_(std::move(device)), pool_(device_, vk::functions().DestroyCommandPool) {
  const vk::CommandPoolCreateInfo info{.family = device_->queue_family_};
  device_->check(
      vk::functions().CreateCommandPool(device_->usable(), &info, nullptr, pool_.place()),
      "a command pool");
  begin_piece();
}

void CommandList::dispatch(const Pipeline& pipeline, std::span<const std::byte> push, uint32_t x,
                           uint32_t y, uint32_t z) {
  const vk::Functions& f = vk::functions();
  const vk::CommandBuffer commands = pieces_.back();
  f.CmdBindPipeline(commands, vk::kBindCompute, pipeline.handle());
  f.CmdPushConstants(commands, device_->layout_, vk::kStageCompute, 0,
                     static_cast<uint32_t>(push.size()), push.data());
  f.CmdDispatch(commands, x, y, z);
}

void CommandList::copy(const Buffer& from, size_t from_offset, const Buffer& to, size_t to_offset,
                       size_t size_bytes) {
  const vk::BufferCopy region{from_offset, to_offset, size_bytes};
  vk::functions().CmdCopyBuffer(pieces_.back(), from.handle(), to.handle(), 1, &region);
}

void CommandList::barrier() {
  constexpr vk::Flags kStages = vk::kStageComputeShader | vk::kStageTransfer;
  const vk::MemoryBarrier memory{
      .from = vk::kShaderWrite | vk::kTransferWrite,
      .to = vk::kShaderRead | vk::kShaderWrite | vk::kTransferRead | vk::kTransferWrite};
  vk::functions().CmdPipelineBarrier(pieces_.back(), kStages, kStages, 0, 1, &memory, 0, nullptr, 0,
                                     nullptr);
}

void CommandList::cut() {
  end_piece();
  begin_piece();
}

void CommandList::begin_piece() {
  const vk::CommandBufferAllocateInfo info{.pool = pool_.get(), .n_buffers = 1};
  vk::CommandBuffer commands = nullptr;
  const vk::Functions& f = vk::functions();
  device_->check(f.AllocateCommandBuffers(device_->usable(), &info, &commands), "commands");
  const vk::CommandBufferBeginInfo begin;
  device_->check(f.BeginCommandBuffer(commands, &begin), "commands");
  pieces_.push_back(commands);
  is_open_ = true;
  barrier();  // after all that was submitted before
}

void CommandList::end_piece() {
  const vk::MemoryBarrier memory{.from = vk::kShaderWrite | vk::kTransferWrite,
                                 .to = vk::kHostRead};
  const vk::Functions& f = vk::functions();
  f.CmdPipelineBarrier(pieces_.back(), vk::kStageComputeShader | vk::kStageTransfer, vk::kStageHost,
                       0, 1, &memory, 0, nullptr, 0, nullptr);
  device_->check(f.EndCommandBuffer(pieces_.back()), "commands");
  is_open_ = false;
}

}  // namespace starchat
