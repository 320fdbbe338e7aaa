// The one thread that computes: it takes what any number of callers submit, steps the scheduler,
// and sleeps when there is nothing to do. No error ends it; close() or the destructor does.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "engine/scheduler.hpp"

namespace starchat {

// Logits on their way: complete when the stream has ended. The memory outlives an impatient caller.
struct Evaluation {
  std::shared_ptr<float[]> logits;  // (n_tokens, n_vocab)
  std::shared_ptr<TokenStream> stream;
};

// Likewise; the stream has no tokens.
struct PendingEmbedding {
  std::shared_ptr<Embedding> embedding;
  std::shared_ptr<TokenStream> stream;
};

class EngineLoop {
 public:
  explicit EngineLoop(ForwardPass& model, int64_t prefix_cache_bytes = -1);  // as Scheduler
  ~EngineLoop();
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // From any thread. Throw InvalidRequestError, ContextLengthError, EngineClosedError;
  // evaluate() also OutOfMemoryError.
  std::shared_ptr<TokenStream> submit(std::span<const int64_t> prompt, const SamplingParams& params,
                                      std::shared_ptr<ReadyQueue> ready = nullptr, int64_t key = 0,
                                      Guidance guidance = {});
  Evaluation evaluate(std::span<const int64_t> prompt);
  PendingEmbedding embed(std::span<const int64_t> prompt,
                         std::shared_ptr<ReadyQueue> ready = nullptr, int64_t key = 0);
  SchedulerStats stats();
  void close();  // ends every stream with EngineClosedError, within one step

 private:
  void enqueue(std::unique_ptr<Sequence> sequence);
  void run();
  bool take_inbox();

  ForwardPass& model_;
  Scheduler scheduler_;  // of the thread
  const std::shared_ptr<WakeEvent> wake_event_ = std::make_shared<WakeEvent>();
  std::mutex inbox_mutex_;
  std::vector<std::unique_ptr<Sequence>> inbox_;
  bool closed_ = false;
  std::mutex join_mutex_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace starchat
