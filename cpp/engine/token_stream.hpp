// A bounded queue that carries the tokens of one sequence from the engine thread to its reader, and
// how the sequence ended. A full queue stops only its own sequence. Any number of threads may
// read; each token goes to one of them.
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

// Work that a sequence did and saved so far, in tokens, and the time that it took.
struct StreamCounts {
  int n_cached = 0;       // of the prompt, computed before
  int n_guessed = 0;      // guessed ahead
  int n_accepted = 0;     // of these, right
  int n_forced = 0;       // of the reply, forced by the constraint
  int n_prompt_done = 0;  // of the prompt, computed by now
  // From submission to the first step with a part of the prompt; until the prompt was computed; and
  // from then to the last token.
  double queue_s = 0, prompt_s = 0, decode_s = 0;
};

// What the engine needs to know for a step.
struct StreamState {
  bool has_ended = false;
  bool is_read = false;  // a reader has come, and is not far behind
  int n_room = 0;        // tokens that the queue has room for
  bool has_room() const { return n_room > 0; }
};

class TokenStream {
 public:
  static constexpr int kCapacity = 256;  // tokens
  // A reader that has more tokens still to read waits for none of the engine. Readers in Python are
  // some tokens behind while others hold the GIL.
  static constexpr int kMostBehind = 32;
  enum class Next { kToken, kEnd, kTimeout };

  explicit TokenStream(std::shared_ptr<WakeEvent> engine,
                       std::shared_ptr<ReadyQueue> ready = nullptr, int64_t key = 0);
  ~TokenStream();
  TokenStream(const TokenStream&) = delete;
  TokenStream& operator=(const TokenStream&) = delete;

  // For the reader. If the sequence failed, its error is thrown after its tokens have been read.
  Next next(std::chrono::milliseconds timeout, SampledToken& token);
  std::vector<SampledToken> drain();
  void cancel();  // ends the stream at once; the engine drops the sequence within one step
  std::optional<FinishReason> finish_reason();  // once drained
  std::optional<SampledToken> stop_token();     // once drained: the one that ended the sequence
  StreamCounts counts();

  // For the engine. Calls after the end have no effect. Only push() may throw: std::bad_alloc.
  StreamState state();
  void push(SampledToken token, const StreamCounts& counts);
  // is_news: wakes an async reader.
  void set_counts(StreamCounts counts, bool is_news = false) noexcept;
  void finish(FinishReason reason, std::optional<SampledToken> stop_token = {}) noexcept;
  void fail(std::exception_ptr error) noexcept;

 private:
  using Lock = std::unique_lock<std::mutex>;
  bool ended() const { return reason_ || error_; }
  StreamState state_now() const;
  void announce() noexcept;  // puts the key into the ready queue, once until drained
  // Wakes the engine if it may go on with the sequence, and could not before.
  void signal_reading(const StreamState& before);

  const std::shared_ptr<WakeEvent> engine_;
  const std::shared_ptr<ReadyQueue> ready_;
  ReadyQueue::Place place_;  // in ready_, if there is one

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<SampledToken> tokens_;
  std::optional<FinishReason> reason_;
  std::optional<SampledToken> stop_token_;
  std::exception_ptr error_;
  StreamCounts counts_;
  bool announced_ = false;
  bool was_asked_ = false;  // for a token, at least once
};

}  // namespace starchat
