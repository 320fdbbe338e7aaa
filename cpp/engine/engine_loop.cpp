#include "engine/engine_loop.hpp"

#include <chrono>
#include <new>
#include <string>
#include <utility>

#include "base/errors.hpp"
#include "base/thread_pool.hpp"

namespace starchat {

EngineLoop::EngineLoop(ForwardPass& model, int64_t prefix_cache_bytes)
    : model_(model),
      scheduler_(model, Scheduler::kMaxSequences, prefix_cache_bytes),
      closed_error_(std::make_exception_ptr(
          EngineClosedError("the engine was closed while this sequence was running"))),
      thread_(start_thread([this] { run(); })) {}

EngineLoop::~EngineLoop() { close(); }

std::vector<std::shared_ptr<TokenStream>> EngineLoop::submit_replies(
    std::span<const int64_t> prompt, const SamplingParams& params,
    std::shared_ptr<ReadyQueue> ready, std::span<const int64_t> keys,
    std::vector<Guidance> guidances, const std::string& cache_salt) {
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (const int64_t key : keys)
    streams.push_back(std::make_shared<TokenStream>(wake_event_, ready, key));
  enqueue(Sequence::replies(model_, prompt, params, streams, std::move(guidances), cache_salt));
  return streams;
}

Evaluation EngineLoop::evaluate(std::span<const int64_t> prompt) {
  Sequence::check_evaluation(model_, prompt);  // before the allocation
  Evaluation evaluation{nullptr, std::make_shared<TokenStream>(wake_event_)};
  const size_t n = prompt.size() * model_.n_vocab();
  try {
    evaluation.logits = std::make_unique_for_overwrite<float[]>(n);
  } catch (const std::bad_alloc&) {
    throw OutOfMemoryError("logits of " + std::to_string(prompt.size()) + " tokens need " +
                               std::to_string(n * sizeof(float) >> 20) +
                               " MiB: ask for fewer tokens at once",
                           {.param = "token_ids"});
  }
  enqueue(Sequence::evaluation(model_, prompt, evaluation.logits, evaluation.stream));
  return evaluation;
}

PendingEmbedding EngineLoop::embed(std::span<const int64_t> prompt,
                                   std::shared_ptr<ReadyQueue> ready, int64_t key) {
  PendingEmbedding pending{std::make_shared<Embedding>(model_.n_embd()),
                           std::make_shared<TokenStream>(wake_event_, std::move(ready), key)};
  enqueue(Sequence::embedding(model_, prompt, pending.embedding, pending.stream));
  return pending;
}

void EngineLoop::enqueue(std::unique_ptr<Sequence> sequence) {
  Sequences sequences;
  sequences.push_back(std::move(sequence));
  enqueue(std::move(sequences));
}

void EngineLoop::enqueue(Sequences sequences) {
  {
    const std::lock_guard lock(inbox_mutex_);
    if (closed_) throw EngineClosedError("the engine was closed: load the model again");
    inbox_.splice(inbox_.end(), sequences);
  }
  wake_event_->signal();
}

SchedulerStats EngineLoop::stats() {
  const std::lock_guard lock(inbox_mutex_);
  SchedulerStats stats = scheduler_.stats();
  stats.n_waiting += inbox_.size();
  return stats;
}

void EngineLoop::close() {
  {
    const std::lock_guard lock(inbox_mutex_);
    closed_ = true;
  }
  wake_event_->signal();
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

// Moves submitted sequences to the scheduler. Returns false after close().
bool EngineLoop::take_inbox() {
  const std::lock_guard lock(inbox_mutex_);
  scheduler_.add(std::exchange(inbox_, {}));
  return !closed_;
}

void EngineLoop::run() {
  using Clock = std::chrono::steady_clock;
  for (;;) {
    const uint64_t seen = wake_event_->n_signals();
    try {
      if (!take_inbox()) break;
      const auto begin = Clock::now();
      if (scheduler_.step()) {
        scheduler_.took(std::chrono::duration<double>(Clock::now() - begin).count());
      } else {
        model_.pause();
        wake_event_->wait(seen);
      }
    } catch (...) {
      scheduler_.fail_all(current_error());
    }
  }
  model_.pause();
  scheduler_.fail_all(closed_error_);
}

}  // namespace starchat
