// The Python classes TokenStream, Token and ReadyQueue. All waiting is done without the GIL.
// Token and StreamCounts are named tuples: of many small objects, pybind11 would keep a table.
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
  pybind11::object wait();
  void close();
  const std::shared_ptr<ReadyQueue>& get() const { return queue_.get(); }

 private:
  ForkGuard<ReadyQueue> queue_;
  ReadyQueue::Keys kept_;  // that could not be returned; protected by the GIL
};

// Dropping it cancels the sequence.
class PyTokenStream {
 public:
  explicit PyTokenStream(std::shared_ptr<TokenStream> stream) : stream_(std::move(stream)) {}
  ~PyTokenStream() { cancel(); }

  pybind11::object next();   // Token or None
  pybind11::object drain();  // list of Token
  void cancel();
  std::optional<std::string> finish_reason() const;
  pybind11::object stop_token() const;  // Token or None
  pybind11::object counts() const;

 private:
  ForkGuard<TokenStream> stream_;
};

pybind11::object as_token(const SampledToken& token);
void bind_token_stream(pybind11::module_& m);
void bind_sampling_params(pybind11::module_& m);

}  // namespace starchat
