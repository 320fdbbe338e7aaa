// The Python class Prefix: pages of the KV cache that nothing else holds, on the way to a file or
// from one.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine_loop.hpp"
#include "engine/fork_guard.hpp"

namespace starchat {

class PyPrefix {
 public:
  // ids: of whole pages. `loop` keeps the model, too.
  PyPrefix(std::shared_ptr<EngineLoop> loop, size_t page_bytes, std::vector<int32_t> ids,
           std::shared_ptr<KvSequence> pages);
  ~PyPrefix();

  // Each waits for a step, without the GIL; Ctrl-C ends the wait.
  void make_room();
  pybind11::bytes read(size_t first, size_t n_pages);
  void write(const pybind11::bytes& pages);  // behind those that were written before
  void add(const std::optional<std::string>& cache_salt);

 private:
  struct Held {
    std::shared_ptr<EngineLoop> loop;
    std::vector<int32_t> ids;
    std::shared_ptr<KvSequence> pages;
  };

  const size_t page_bytes_;
  std::optional<ForkGuard<Held>> held_;  // empty only in the destructor
};

}  // namespace starchat
