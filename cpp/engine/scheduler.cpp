#include "engine/scheduler.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>
#include <utility>

#include "base/errors.hpp"

namespace starchat {
namespace {

std::unique_ptr<float[]> make_rows(const ForwardPass& model, int n) {
  return std::make_unique_for_overwrite<float[]>(static_cast<size_t>(model.max_columns()) * n);
}

// Whether the leader, a sequence with a common prefix, will compute the next page of this prompt.
// Then the sequence waits and reuses the page, or all of the prompt if they share it.
bool awaits(const Sequence& sequence, const Sequence& leader) {
  if (sequence.is_evaluation() || leader.is_evaluation()) return false;
  if (sequence.cache_salt != leader.cache_salt) return false;
  if (leader.n_cached < sequence.n_cached) return false;
  if (sequence.shared && sequence.shared == leader.shared) return true;
  if (leader.n_cached >= leader.n_prompt) return false;
  const auto common = std::ranges::mismatch(leader.ids, sequence.ids).in2 - sequence.ids.begin();
  const auto shareable = std::min<int64_t>(common, sequence.n_prompt - 1);
  return shareable / kPagePositions * kPagePositions > sequence.n_cached;
}

size_t prefix_budget(ForwardPass& model, int64_t bytes) {
  if (bytes >= 0) return static_cast<size_t>(bytes);
  const size_t n_pages = (model.n_ctx() + kPagePositions - 1) / kPagePositions;
  return n_pages * model.kv_pool().page_bytes();
}

// Made by the first scheduler: later there may be no memory for it.
const std::exception_ptr& out_of_memory() {
  static const std::exception_ptr error = std::make_exception_ptr(
      OutOfMemoryError("no memory is left to continue this sequence: free memory, run fewer "
                       "sequences at once, or load the model with a smaller n_ctx"));
  return error;
}

}  // namespace

std::exception_ptr current_error() noexcept {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (...) {
    return std::current_exception();
  }
}

// Decoding sequences get at most half of the columns: prompts always advance.
Scheduler::Scheduler(ForwardPass& model, int max_sequences, int64_t prefix_cache_bytes)
    : model_(model),
      max_sequences_(std::clamp(model.max_columns() / 2, 1, max_sequences)),
      prefixes_(model.kv_pool(), prefix_budget(model, prefix_cache_bytes)),
      logits_(make_rows(model, model.n_vocab())),
      states_(make_rows(model, model.n_embd())) {
  out_of_memory();
  const auto n_columns = static_cast<size_t>(model.max_columns());
  batch_.reserve(n_columns);
  slices_.reserve(n_columns);
  prefilling_.reserve(max_sequences_);
  leaders_.reserve(max_sequences_);
}

void Scheduler::add(Sequences sequences) noexcept {
  for (const auto& sequence : sequences) {
    counters_.n_tokens += sequence->counts.n_forced;
    counters_.n_forced_tokens += sequence->counts.n_forced;
  }
  waiting_.splice(waiting_.end(), sequences);
  publish();
}

bool Scheduler::step() {
  drop_cancelled();
  bool progressed = retire();
  admit();
  if (take_shared_prompts()) {
    retire();
    progressed = true;
  }
  schedule();
  if (!slices_.empty()) {
    compute();
    progressed = true;
  }
  progressed |= retire();
  publish();
  return progressed;
}

void Scheduler::took(double seconds) {
  seconds -= std::exchange(grammar_seconds_, 0);
  if (batch_.n_columns() > 0) budget_.learn(batch_.n_columns(), only_decodes_, seconds);
  for (const auto& sequence : running_) sequence->rest_seconds -= seconds;
}

void Scheduler::fail_all(std::exception_ptr error) noexcept {
  for (auto& sequence : running_) sequence->end(error);
  for (auto& sequence : waiting_) sequence->end(error);
  retire();
}

void Scheduler::drop_cancelled() noexcept {
  const auto drop = [](const auto& sequences) {
    for (const auto& sequence : sequences)
      if (sequence->stream->has_ended()) sequence->end(FinishReason::kCancelled);
  };
  drop(running_);
  drop(waiting_);
}

void Scheduler::admit() noexcept {
  auto n_awake =
      std::ranges::count_if(running_, [](const auto& s) { return s->stream->has_room(); });
  for (; !waiting_.empty() && n_awake < max_sequences_; ++n_awake)
    running_.splice(running_.end(), waiting_, waiting_.begin());
}

bool Scheduler::take_shared_prompts() {
  bool took_any = false;
  for (const auto& sequence : running_) {
    const bool is_ready = sequence->shared && sequence->shared->is_computed();
    if (!is_ready || !sequence->stream->has_room()) continue;
    took_any = true;
    try {
      take_shared_prompt(*sequence);
    } catch (...) {
      sequence->end(current_error());
    }
  }
  return took_any;
}

// Makes the sequence as if it had computed its prompt, and samples its first token.
void Scheduler::take_shared_prompt(Sequence& sequence) {
  const auto shared = std::exchange(sequence.shared, nullptr);
  const auto& pages = shared->pages.pages();
  const size_t n_full = sequence.n_ids() / kPagePositions;
  sequence.cache.clear();
  for (size_t i = 0; i < n_full; ++i) sequence.cache.share(pages[i]);
  if (n_full < pages.size()) {
    reserve(sequence, sequence.n_ids());
    model_.copy_page(pages.back(), sequence.cache.pages().back());
  }
  counters_.n_cached_tokens += sequence.n_prompt - sequence.n_cached;
  sequence.counts.n_cached += sequence.n_prompt - sequence.n_cached;
  sequence.n_cached = sequence.n_ids();
  sequence.tell_progress();
  std::ranges::copy(shared->logits, logits_.get());
  take_tokens({&sequence, 0, 0, 0, 0});
}

// Lets the sequences that share this prompt take it, which was computed just now.
void Scheduler::share_prompt(const Slice& slice) {
  const auto shared = std::exchange(slice.sequence->shared, nullptr);
  if (shared.use_count() == 1 || shared->is_computed()) return;
  const float* row = logits_.get() + static_cast<size_t>(slice.first_logits) * model_.n_vocab();
  try {
    for (const PageId page : slice.sequence->cache.pages()) shared->pages.share(page);
    shared->logits.assign(row, row + model_.n_vocab());
  } catch (const std::bad_alloc&) {  // the next one computes it again
    shared->pages.clear();
  }
}

void Scheduler::schedule() {
  batch_.clear();
  slices_.clear();
  prefilling_.clear();
  const auto rests = [](const auto& s) { return s->rest_seconds > 0; };
  const bool may_rest = std::ranges::any_of(
      running_, [&](const auto& s) { return !rests(s) && s->stream->has_room(); });
  const auto takes_part = [&](const auto& s) {
    return s->stream->has_room() && !(may_rest && rests(s));
  };
  const auto is_ready = [&](const auto& s) { return s->is_decoding() && takes_part(s); };
  const int n_decoding =
      std::min(static_cast<int>(std::ranges::count_if(running_, is_ready)), max_sequences_);
  only_decodes_ = std::ranges::all_of(running_, [](const auto& s) { return s->is_decoding(); });
  const bool is_mixed = n_decoding > 0 && !only_decodes_;
  const int n_columns = is_mixed ? std::min(model_.max_columns(), budget_.most_columns(n_decoding))
                                 : model_.max_columns();
  const int n_free = std::min(kFreeColumns, n_columns / 2) - n_decoding;
  auto next_turn = running_.begin();  // that of the first sequence without a column
  int n_placed = 0;
  for (auto i = running_.begin(); i != running_.end(); ++i) {
    Sequence& sequence = **i;
    if (!takes_part(*i)) continue;
    if (!sequence.is_decoding())
      prefilling_.push_back(&sequence);
    else if (n_placed++ < n_decoding)
      place(sequence, 1, std::max(0, n_free) / n_decoding);
    else if (next_turn == running_.begin())
      next_turn = i;
  }
  running_.splice(running_.end(), running_, running_.begin(), next_turn);

  leaders_.clear();
  for (Sequence* sequence : prefilling_) {
    reuse_prefix(*sequence);
    const auto goes_ahead = [&](const Sequence* leader) { return awaits(*sequence, *leader); };
    if (std::ranges::none_of(leaders_, goes_ahead)) leaders_.push_back(sequence);
  }
  // The remaining columns are shared equally; what one prompt does not need goes to the next ones.
  for (size_t i = 0; i < leaders_.size(); ++i) {
    const int n_left = n_columns - batch_.n_columns();
    if (n_left <= 0) break;
    const int n_sharing = static_cast<int>(leaders_.size() - i);
    const int share = (n_left + n_sharing - 1) / n_sharing;
    place(*leaders_[i], std::min(share, leaders_[i]->n_pending()));
  }
}

void Scheduler::reuse_prefix(Sequence& sequence) {
  if (sequence.is_evaluation() || sequence.n_cached >= sequence.n_prompt) return;
  if (sequence.n_cached % kPagePositions != 0) return;
  const int n_before = sequence.n_cached;
  // The last id is always computed, because its logits are needed.
  const std::span<const int32_t> ids(sequence.ids.data(), sequence.n_prompt - 1);
  sequence.n_cached = prefixes_.extend(sequence.cache_salt, ids, sequence.cache);
  counters_.n_cached_tokens += sequence.n_cached - n_before;
  sequence.counts.n_cached += sequence.n_cached - n_before;
  if (sequence.n_cached > n_before) sequence.tell_progress();
}

void Scheduler::reserve(Sequence& sequence, int n_tokens) {
  try {
    sequence.cache.reserve(n_tokens);
  } catch (const OutOfMemoryError&) {
    if (!prefixes_.clear()) throw;
    sequence.cache.reserve(n_tokens);
  }
}

void Scheduler::keep_prefix(const Sequence& sequence) {
  if (sequence.is_evaluation()) return;
  try {
    prefixes_.keep(sequence.cache_salt, sequence.ids, sequence.n_cached, sequence.cache);
  } catch (const std::bad_alloc&) {  // not cached: will be computed again if needed
  }
}

// Fills the sequence's guesses with forced ids (those that need logits for their logprobs), or with
// the drafter's guess, as far as the constraint allows it.
void Scheduler::guess(Sequence& sequence, int limit) {
  sequence.guesses.clear();
  // After right guesses follows one more token: leave room for it.
  limit = std::min(limit, sequence.max_ids - sequence.n_ids() - 1);
  if (limit <= 0 || !sequence.sampler.params().speculation) return;
  auto guesses = sequence.sampler.forced();
  if (guesses.empty()) guesses = sequence.drafter.guess(sequence.ids, limit);
  guesses = guesses.first(std::min<size_t>(guesses.size(), limit));
  guesses = guesses.first(sequence.sampler.n_allowed(guesses));
  sequence.guesses.assign(guesses.begin(), guesses.end());
}

void Scheduler::place(Sequence& sequence, int n_columns, int max_guesses) {
  int n_guessed = 0;
  try {
    guess(sequence, max_guesses);
    n_guessed = static_cast<int>(sequence.guesses.size());
    n_columns += n_guessed;
    reserve(sequence, sequence.n_cached + n_columns);
  } catch (...) {
    sequence.end(current_error());
    return;
  }
  slices_.push_back({&sequence, n_columns, n_guessed, batch_.n_logits(), batch_.n_states()});
  for (int i = 0; i < n_columns; ++i) {
    const int position = sequence.n_cached + i, behind = position - sequence.n_ids();
    if (sequence.pooled)
      batch_.state_columns.push_back(batch_.n_columns());
    else if (sequence.is_evaluation() || behind >= -1)
      batch_.logit_columns.push_back(batch_.n_columns());
    batch_.token_ids.push_back(behind >= 0 ? sequence.guesses[behind] : sequence.ids[position]);
    batch_.positions.push_back(position);
    batch_.caches.push_back(&sequence.cache);
  }
}

void Scheduler::compute() {
  ++counters_.n_steps;
  counters_.n_columns += batch_.n_columns();
  try {
    const size_t n_logits = static_cast<size_t>(batch_.n_logits()) * model_.n_vocab();
    const size_t n_states = static_cast<size_t>(batch_.n_states()) * model_.n_embd();
    model_.forward(batch_, {logits_.get(), n_logits}, {states_.get(), n_states});
  } catch (...) {
    // Any of the sequences may be the cause, and the caches of all may be incomplete.
    const std::exception_ptr error = current_error();
    for (const Slice& slice : slices_) slice.sequence->end(error);
    batch_.clear();  // took() must ignore this step
    return;
  }
  for (const Slice& slice : slices_) {
    try {
      take_logits(slice);
    } catch (...) {
      slice.sequence->end(current_error());
    }
  }
}

void Scheduler::take_logits(const Slice& slice) {
  Sequence& sequence = *slice.sequence;
  const bool was_prefill = !sequence.is_decoding();
  sequence.n_cached += slice.n_columns - slice.n_guessed;
  if (sequence.is_evaluation()) {
    sequence.pooled ? take_states(slice) : take_evaluation(slice);
    if (sequence.n_pending() == 0) sequence.end(FinishReason::kLength);
    return;
  }
  if (was_prefill) {
    keep_prefix(sequence);
    sequence.tell_progress();
  }
  if (sequence.n_pending() > 0) return;
  if (sequence.shared) share_prompt(slice);
  take_tokens(slice);
}

void Scheduler::take_evaluation(const Slice& slice) {
  Sequence& sequence = *slice.sequence;
  const size_t n_vocab = model_.n_vocab(), n = slice.n_columns * n_vocab;
  const float* rows = logits_.get() + slice.first_logits * n_vocab;
  if (!std::all_of(rows, rows + n, [](float logit) { return std::isfinite(logit); }))
    throw NumericalError(
        "the model computed logits that are not finite: the file's weights may be damaged");
  std::copy_n(rows, n, sequence.logits.get() + (sequence.n_cached - slice.n_columns) * n_vocab);
}

void Scheduler::take_states(const Slice& slice) {
  const Sequence& sequence = *slice.sequence;
  const size_t n_embd = model_.n_embd();
  const float* row = states_.get() + slice.first_state * n_embd;
  for (int i = 0; i < slice.n_columns; ++i, row += n_embd) sequence.pooled->add({row, n_embd});
  if (sequence.n_pending() == 0) sequence.pooled->normalise();
}

// Samples the token after the last id. While it equals the guess, samples the token after that
// guess too. Each token is sampled from the same logits and mask as without guesses.
void Scheduler::take_tokens(const Slice& slice) {
  Sequence& sequence = *slice.sequence;
  const size_t n_vocab = model_.n_vocab();
  const int n_forced = sequence.counts.n_forced;
  const auto begin = std::chrono::steady_clock::now();
  int n_right = 0;
  for (bool as_guessed = true; as_guessed && !sequence.has_ended();) {
    float* row = logits_.get() + (slice.first_logits + n_right) * n_vocab;
    const auto n_known = sequence.ids.size();
    sequence.append(sequence.sampler.sample({row, n_vocab}));
    const auto added = std::span(sequence.ids).subspan(n_known);
    const auto guesses = std::span(sequence.guesses).subspan(n_right);
    const auto n_same = std::ranges::mismatch(added, guesses).in1 - added.begin();
    counters_.n_tokens += std::max<size_t>(added.size(), 1);  // a stop id is not added
    n_right += n_same;
    sequence.n_cached += n_same;
    as_guessed = n_same == std::ssize(added);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  if (sequence.sampler.is_constrained() && seconds.count() > kQuickSeconds) {
    sequence.rest_seconds = seconds.count() / kShareOfGrammars;
    grammar_seconds_ += seconds.count();
  }
  sequence.drafter.learn(slice.n_guessed, n_right);
  sequence.counts.n_guessed += slice.n_guessed;
  sequence.counts.n_accepted += n_right;
  counters_.n_guessed_tokens += slice.n_guessed;
  counters_.n_accepted_tokens += n_right;
  counters_.n_forced_tokens += sequence.counts.n_forced - n_forced;
  sequence.stream->set_counts(sequence.counts);
}

// Removes ended sequences. Their memory is freed before their readers are told.
bool Scheduler::retire() noexcept {
  Sequences ended;
  const auto take_ended = [&](Sequences& sequences) {
    for (auto next = sequences.begin(); next != sequences.end();) {
      const auto sequence = next++;
      if ((*sequence)->has_ended()) ended.splice(ended.end(), sequences, sequence);
    }
  };
  take_ended(running_);
  take_ended(waiting_);
  if (ended.empty()) return false;
  for (const auto& sequence : ended) {
    keep_prefix(*sequence);
    sequence->cache.clear();
  }
  publish();
  for (const auto& sequence : ended) sequence->tell_stream();
  return true;
}

void Scheduler::publish() noexcept {
  uint64_t n_pages = 0;
  for (const auto& sequence : running_) n_pages += sequence->cache.pages().size();
  counters_.n_kv_pages_used = n_pages;
  counters_.n_running = running_.size();
  counters_.n_waiting = waiting_.size();
  counters_.n_prefix_pages = prefixes_.n_pages();
}

}  // namespace starchat
