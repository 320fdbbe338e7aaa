// The way of tokens from the engine's thread to a reader: a bounded queue and an end. A full queue
// pauses its own sequence and no other. Any number of threads may read; each token goes to one.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/ready_queue.hpp"
#include "engine/wake_event.hpp"
#include "sampling/sampler.hpp"

namespace starchat {

enum class FinishReason { kStop, kLength, kCancelled };

// What a sequence was spared so far, in tokens.
struct StreamCounts {
  int n_cached = 0;    // of the prompt, computed before by another
  int n_guessed = 0;   // by look-up
  int n_accepted = 0;  // of these
  int n_forced = 0;    // of the reply: the constraint left no choice
};

class TokenStream {
 public:
  static constexpr size_t kCapacity = 256;  // tokens
  enum class Next { kToken, kEnd, kTimeout };

  explicit TokenStream(std::shared_ptr<WakeEvent> engine,
                       std::shared_ptr<ReadyQueue> ready = nullptr, int64_t key = 0)
      : engine_(std::move(engine)), ready_(std::move(ready)), key_(key) {}

  // For the reader. When the sequence failed, its error is thrown once its tokens are read.
  Next next(std::chrono::milliseconds timeout, SampledToken& token);
  std::vector<SampledToken> drain();
  void cancel();  // the end comes at once; the engine drops the sequence within one step
  std::optional<FinishReason> finish_reason();  // once drained
  std::optional<int32_t> stop_token_id();       // once drained
  StreamCounts counts();

  // For the engine. Whatever comes after the end is ignored.
  bool has_room();
  bool has_ended();
  void push(SampledToken token);
  void set_counts(StreamCounts counts);
  void finish(FinishReason reason, std::optional<int32_t> stop_token_id = {});
  void fail(std::exception_ptr error);

 private:
  using Lock = std::unique_lock<std::mutex>;
  bool ended() const { return reason_ || error_; }
  void announce();                  // tells the ready queue, once until drained
  void made_room(size_t n_before);  // wakes the engine when the queue was full

  const std::shared_ptr<WakeEvent> engine_;
  const std::shared_ptr<ReadyQueue> ready_;
  const int64_t key_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<SampledToken> tokens_;
  std::optional<FinishReason> reason_;
  std::optional<int32_t> stop_token_id_;
  std::exception_ptr error_;
  StreamCounts counts_;
  bool announced_ = false;
};

}  // namespace starchat
