// The engine's loop: takes the requests that any number of threads submit, steps the scheduler, and
// sleeps if there is nothing to do. Only close() and the destructor end it; errors do not. One
// thread at a time runs it; a turn of a slow grammar moves it to another one.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine_task.hpp"
#include "engine/loop_threads.hpp"
#include "engine/scheduler.hpp"

namespace starchat {

// Pending logits, complete when the stream has ended. The buffer is shared, so a caller that stops
// waiting does not free memory that is being written.
struct Evaluation {
  std::shared_ptr<float[]> logits;  // (n_tokens - first, n_vocab)
  std::shared_ptr<TokenStream> stream;
};

// A pending embedding, likewise. The stream has no tokens.
struct PendingEmbedding {
  std::shared_ptr<Embedding> embedding;
  std::shared_ptr<TokenStream> stream;
};

// A pending prefix, likewise, with one token that means nothing.
struct PendingPrefix {
  std::shared_ptr<SharedPrompt> prompt;  // computed, unless memory ended
  std::shared_ptr<TokenStream> stream;
};

class EngineLoop {
 public:
  explicit EngineLoop(ForwardPass& model, int64_t prefix_cache_bytes = -1,
                      int64_t unread_bytes = Scheduler::kUnreadBytes,
                      std::chrono::duration<double> most_away = Scheduler::kMostAway,
                      Draft draft = {});  // as there
  ~EngineLoop();
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // From any thread. Throw InvalidRequestError, ContextLengthError, EngineClosedError;
  // evaluate() also OutOfMemoryError.
  // One stream for each key: replies with the seeds params.seed, params.seed + 1 … The prompt
  // shares pages with prompts of the same salt only.
  std::vector<std::shared_ptr<TokenStream>> submit_replies(std::span<const int64_t> prompt,
                                                           const SamplingParams& params,
                                                           std::shared_ptr<ReadyQueue> ready,
                                                           std::span<const int64_t> keys,
                                                           std::vector<Guidance> guidances,
                                                           const std::string& cache_salt = {});
  Evaluation evaluate(std::span<const int64_t> prompt, int64_t first = 0);
  PendingEmbedding embed(std::span<const int64_t> prompt,
                         std::shared_ptr<ReadyQueue> ready = nullptr, int64_t key = 0);
  // The ids of a prompt behind the first, with their log probabilities and those of the n_best.
  std::shared_ptr<TokenStream> score(std::span<const int64_t> prompt, int64_t n_best,
                                     std::shared_ptr<ReadyQueue> ready = nullptr, int64_t key = 0,
                                     const std::string& cache_salt = {});

  // Prefixes to and from files; their pages are held by nothing else on the way. A task moves its
  // pages between two steps, so it should have few. write_pages() appends to `pages`.
  PendingPrefix compute_prefix(std::span<const int64_t> prompt, std::shared_ptr<ReadyQueue> ready,
                               int64_t key, const std::string& cache_salt);
  using Bytes = std::shared_ptr<std::vector<std::byte>>;
  std::shared_ptr<EngineTask> read_pages(std::shared_ptr<const KvSequence> pages, size_t first,
                                         Bytes out);
  std::shared_ptr<EngineTask> write_pages(std::shared_ptr<KvSequence> pages, Bytes bytes);
  // As those of the scheduler.
  std::shared_ptr<EngineTask> make_room(std::vector<int32_t> ids);
  std::shared_ptr<EngineTask> add_prefix(std::optional<std::string> salt, std::vector<int32_t> ids,
                                         std::shared_ptr<const KvSequence> pages);

  SchedulerStats stats();
  void close();  // ends every stream with EngineClosedError, within one step

 private:
  void enqueue(std::shared_ptr<Sequence> sequence);
  void enqueue(Sequences sequences);
  bool run();
  bool take_turns();
  bool leave_turn(const std::shared_ptr<Sequence>& sequence) noexcept;
  bool take_inbox();
  std::shared_ptr<EngineTask> post(std::function<void()> work);
  bool run_task();

  ForwardPass& model_;
  Scheduler scheduler_;  // used by the loop; stats() by any thread
  const std::shared_ptr<WakeEvent> wake_event_ = std::make_shared<WakeEvent>();
  std::mutex inbox_mutex_;
  Sequences inbox_;
  std::deque<std::shared_ptr<EngineTask>> tasks_;  // with the mutex of the inbox
  bool closed_ = false;
  const std::exception_ptr closed_error_;  // made at load: later there may be no memory for it
  LoopThreads threads_;                    // the last member: they use all others
};

}  // namespace starchat
