#include "engine/engine_loop.hpp"

#include <chrono>
#include <new>
#include <string>
#include <utility>

#include "base/cpu_time.hpp"
#include "base/errors.hpp"
#include "engine/current_error.hpp"

namespace starchat {

EngineLoop::EngineLoop(ForwardPass& model, int64_t prefix_cache_bytes, int64_t unread_bytes,
                       std::chrono::duration<double> most_away, Draft draft)
    : model_(model),
      scheduler_(model, Scheduler::kMaxSequences, prefix_cache_bytes, unread_bytes, most_away,
                 std::move(draft)),
      closed_error_(std::make_exception_ptr(
          EngineClosedError("the engine was closed while this sequence was running"))),
      threads_([this] { return run(); }) {}

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

Evaluation EngineLoop::evaluate(std::span<const int64_t> prompt, int64_t first) {
  Sequence::check_evaluation(model_, prompt, first);  // before the allocation
  Evaluation evaluation{nullptr, std::make_shared<TokenStream>(wake_event_)};
  const size_t n_rows = prompt.size() - first, n = n_rows * model_.n_vocab();
  try {
    evaluation.logits = std::make_unique_for_overwrite<float[]>(n);
  } catch (const std::bad_alloc&) {
    throw OutOfMemoryError("logits of " + std::to_string(n_rows) + " tokens need " +
                               std::to_string(n * sizeof(float) >> 20) +
                               " MiB: ask for fewer tokens at once",
                           {.param = "token_ids"});
  }
  enqueue(Sequence::evaluation(model_, prompt, first, evaluation.logits, evaluation.stream));
  return evaluation;
}

PendingEmbedding EngineLoop::embed(std::span<const int64_t> prompt,
                                   std::shared_ptr<ReadyQueue> ready, int64_t key) {
  PendingEmbedding pending{std::make_shared<Embedding>(model_.n_embd()),
                           std::make_shared<TokenStream>(wake_event_, std::move(ready), key)};
  enqueue(Sequence::embedding(model_, prompt, pending.embedding, pending.stream));
  return pending;
}

std::shared_ptr<TokenStream> EngineLoop::score(std::span<const int64_t> prompt, int64_t n_best,
                                               std::shared_ptr<ReadyQueue> ready, int64_t key,
                                               const std::string& cache_salt) {
  auto stream = std::make_shared<TokenStream>(wake_event_, std::move(ready), key);
  enqueue(Sequence::scoring(model_, prompt, n_best, stream, cache_salt));
  return stream;
}

PendingPrefix EngineLoop::compute_prefix(std::span<const int64_t> prompt,
                                         std::shared_ptr<ReadyQueue> ready, int64_t key,
                                         const std::string& cache_salt) {
  PendingPrefix pending{std::make_shared<SharedPrompt>(model_.kv_pool()),
                        std::make_shared<TokenStream>(wake_event_, std::move(ready), key)};
  auto sequence = Sequence::generation(model_, prompt, {.max_tokens = 1}, pending.stream);
  sequence->cache_salt = cache_salt;
  sequence->shared = pending.prompt;
  enqueue(std::move(sequence));
  return pending;
}

std::shared_ptr<EngineTask> EngineLoop::read_pages(std::shared_ptr<const KvSequence> pages,
                                                   size_t first, Bytes out) {
  return post([this, pages = std::move(pages), first, out = std::move(out)] {
    const size_t page_bytes = model_.kv_pool().page_bytes();
    for (size_t i = 0; i < out->size() / page_bytes; ++i)
      model_.read_page(pages->pages()[first + i], {out->data() + i * page_bytes, page_bytes});
  });
}

std::shared_ptr<EngineTask> EngineLoop::write_pages(std::shared_ptr<KvSequence> pages,
                                                    Bytes bytes) {
  return post([this, pages = std::move(pages), bytes = std::move(bytes)] {
    const size_t page_bytes = model_.kv_pool().page_bytes(), first = pages->pages().size();
    const size_t n_pages = bytes->size() / page_bytes;
    pages->reserve(static_cast<int>(first + n_pages) * kPagePositions);
    for (size_t i = 0; i < n_pages; ++i)
      model_.write_page(pages->pages()[first + i], {bytes->data() + i * page_bytes, page_bytes});
  });
}

std::shared_ptr<EngineTask> EngineLoop::make_room(std::vector<int32_t> ids) {
  return post([this, ids = std::move(ids)] { scheduler_.make_room(ids); });
}

std::shared_ptr<EngineTask> EngineLoop::add_prefix(std::optional<std::string> salt,
                                                   std::vector<int32_t> ids,
                                                   std::shared_ptr<const KvSequence> pages) {
  return post([this, salt = std::move(salt), ids = std::move(ids), pages = std::move(pages)] {
    scheduler_.add_prefix(salt ? &*salt : nullptr, ids, *pages);
  });
}

std::shared_ptr<EngineTask> EngineLoop::post(std::function<void()> work) {
  auto task = std::make_shared<EngineTask>(std::move(work));
  {
    const std::lock_guard lock(inbox_mutex_);
    if (closed_) throw EngineClosedError("the engine was closed: load the model again");
    tasks_.push_back(task);
  }
  wake_event_->signal();
  return task;
}

// Returns whether there was one.
bool EngineLoop::run_task() {
  std::shared_ptr<EngineTask> task;
  {
    const std::lock_guard lock(inbox_mutex_);
    if (tasks_.empty()) return false;
    task = std::move(tasks_.front());
    tasks_.pop_front();
  }
  task->run();
  return true;
}

void EngineLoop::enqueue(std::shared_ptr<Sequence> sequence) {
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
  const auto [n_taken, n_spare] = model_.kv_pool().n_pages();  // others give pages back, too
  stats.n_kv_pages = n_taken;
  stats.n_kv_pages_spare = n_spare;
  return stats;
}

void EngineLoop::close() {
  {
    const std::lock_guard lock(inbox_mutex_);
    closed_ = true;
  }
  wake_event_->signal();
  threads_.join();
}

// Moves submitted sequences to the scheduler. Returns false after close().
bool EngineLoop::take_inbox() {
  const std::lock_guard lock(inbox_mutex_);
  scheduler_.add(std::exchange(inbox_, {}));
  return !closed_;
}

// Returns true at the end, and false if another thread runs the loop now: then this may be gone.
bool EngineLoop::run() {
  using Clock = std::chrono::steady_clock;
  scheduler_.leave_turn();  // if the thread before is left with one, in the middle of a step
  if (!take_turns()) return false;
  scheduler_.end_step();
  for (;;) {
    const uint64_t seen = wake_event_->n_signals();
    try {
      if (!take_inbox()) break;
      const bool had_task = run_task();
      const auto begin = Clock::now();
      bool progressed = scheduler_.begin_step();
      if (progressed) scheduler_.took(std::chrono::duration<double>(Clock::now() - begin).count());
      if (!take_turns()) return false;
      progressed |= scheduler_.end_step() || had_task;
      if (progressed) continue;
      model_.pause();
      wake_event_->wait(seen, scheduler_.has_left());
    } catch (...) {
      scheduler_.fail_all(current_error());
    }
  }
  model_.pause();
  scheduler_.fail_all(closed_error_);
  for (const auto& task : tasks_) task->end(closed_error_);  // none is posted any more
  tasks_.clear();
  return true;
}

// Returns whether this thread still has the loop.
bool EngineLoop::take_turns() {
  while (const auto sequence = scheduler_.next_turn()) {
    if (sequence->was_left && scheduler_.has_others() && leave_turn(sequence)) continue;
    const auto wake_event = wake_event_;
    const bool has_loop =
        threads_.call([&] { sequence->take_turn(sequence->rows, sequence->most_guesses); });
    if (!has_loop) {
      sequence->end_left_turn(std::chrono::hours(1));  // long, in any case
      wake_event->signal();
      return false;
    }
    scheduler_.end_turn();
  }
  return true;
}

// Leaves the turn, which is likely to be slow, to a thread of its own, if there is memory for one.
bool EngineLoop::leave_turn(const std::shared_ptr<Sequence>& sequence) noexcept {
  try {
    threads_.leave([sequence, wake_event = wake_event_] {
      const double begin = cpu_seconds();
      sequence->take_turn(sequence->rows, sequence->most_guesses);
      sequence->end_left_turn(std::chrono::duration<double>(cpu_seconds() - begin));
      wake_event->signal();
    });
  } catch (...) {
    return false;
  }
  scheduler_.leave_turn();
  return true;
}

}  // namespace starchat
