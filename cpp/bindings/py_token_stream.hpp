// The Python classes TokenStream, Token and ReadyQueue. All waiting is done without the GIL.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/fork_guard.hpp"
#include "engine/ready_queue.hpp"
#include "engine/token_stream.hpp"

namespace starchat {

class PyReadyQueue {
 public:
  PyReadyQueue();
  std::vector<int64_t> wait();
  void close();
  const std::shared_ptr<ReadyQueue>& get() const { return queue_.get(); }

 private:
  ForkGuard<ReadyQueue> queue_;
};

// Dropping it cancels the sequence.
class PyTokenStream {
 public:
  explicit PyTokenStream(std::shared_ptr<TokenStream> stream) : stream_(std::move(stream)) {}
  ~PyTokenStream() { cancel(); }

  std::optional<SampledToken> next();
  std::vector<SampledToken> drain() { return stream_->drain(); }
  void cancel();
  std::optional<std::string> finish_reason() const;
  std::optional<int32_t> stop_token_id() const { return stream_->stop_token_id(); }
  StreamCounts counts() const { return stream_->counts(); }

 private:
  ForkGuard<TokenStream> stream_;
};

void bind_token_stream(pybind11::module_& m);
void bind_sampling_params(pybind11::module_& m);

}  // namespace starchat
