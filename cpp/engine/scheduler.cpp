#include "engine/scheduler.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>
#include <utility>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "engine/current_error.hpp"

namespace starchat {
namespace {

using Clock = std::chrono::steady_clock;

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

// Of a page of the KV cache, and of the one that the draft model has beside it.
size_t page_bytes(ForwardPass& model, ForwardPass* draft) {
  return model.kv_pool().page_bytes() + (draft ? draft->kv_pool().page_bytes() : 0);
}

// Its prefix cache may hold as many pages as the model's.
std::unique_ptr<DraftModel> make_draft(ForwardPass& model, Draft draft, int64_t bytes) {
  if (!draft.model) return nullptr;
  const size_t n_pages = prefix_budget(model, bytes) / model.kv_pool().page_bytes();
  return std::make_unique<DraftModel>(*draft.model, std::move(draft.ids),
                                      n_pages * draft.model->kv_pool().page_bytes(),
                                      Scheduler::kFreeColumns);
}

// Made when the library is loaded: later there may be no memory for it.
const std::exception_ptr& abandoned = *new std::exception_ptr(std::make_exception_ptr(
    ConstraintError("a call of the grammar library did not come back: this reply was given up, "
                    "others go on; simplify the constraint",
                    {.param = "constraint"})));

}  // namespace

// Decoding sequences get at most half of the columns: prompts always advance.
Scheduler::Scheduler(ForwardPass& model, int max_sequences, int64_t prefix_cache_bytes,
                     int64_t unread_bytes, std::chrono::duration<double> most_away, Draft draft)
    : model_(model),
      max_sequences_(std::clamp(model.max_columns() / 2, 1, max_sequences)),
      places_(max_sequences_, unread_bytes / page_bytes(model, draft.model)),
      prefixes_(model.kv_pool(), prefix_budget(model, prefix_cache_bytes)),
      draft_(make_draft(model, std::move(draft), prefix_cache_bytes)),
      most_away_(most_away),
      logits_(make_rows(model, model.n_vocab())),
      states_(make_rows(model, model.n_embd())) {
  const auto n_columns = static_cast<size_t>(model.max_columns());
  batch_.reserve(n_columns);
  slices_.reserve(n_columns);
  due_.reserve(n_columns);
  prefilling_.reserve(max_sequences_);
  leaders_.reserve(2 * max_sequences_);
  decoding_.reserve(kFreeColumns);
  options_.reserve(kFreeColumns);
  requests_.reserve(kFreeColumns);
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
  const bool progressed = begin_step();
  while (const auto sequence = next_turn()) {
    sequence->take_turn(sequence->rows, sequence->most_guesses);
    end_turn();
  }
  return end_step() || progressed;
}

bool Scheduler::begin_step() {
  batch_.clear();
  slices_.clear();
  take_back();
  drop_cancelled();
  bool progressed = retire();
  places_.give(running_, waiting_);
  if (take_shared_prompts()) return true;
  schedule();
  if (!slices_.empty()) {
    compute();
    progressed = true;
  }
  return progressed;
}

void Scheduler::took(double seconds) {
  rest_ -= std::min(rest_, std::chrono::duration<double>(seconds));
  if (draft_) {
    for (const auto& [n_columns, step_s] : draft_->take_times())
      policy_.draft_took(n_columns, step_s);
    seconds -= drafted_s_;
    computed_s_ += seconds;
  }
  if (batch_.n_columns() == 0) return;
  budget_.learn(batch_.n_columns(), only_decodes_, seconds);
  if (draft_ && only_decodes_) policy_.step_took(batch_.n_columns(), seconds);
}

std::shared_ptr<Sequence> Scheduler::next_turn() noexcept {
  if (next_due_ == due_.size()) {
    due_.clear();
    next_due_ = 0;
    return nullptr;
  }
  turn_ = std::move(due_[next_due_++]);
  turn_->turn_ended = false;
  turn_begin_ = Clock::now();
  return turn_;
}

void Scheduler::end_turn() noexcept {
  const std::chrono::duration<double> taken = Clock::now() - turn_begin_;
  turn_->turn_ended = true;
  turn_->is_slow = taken > kQuick;
  turn_->was_left = false;
  if (turn_->is_slow) {
    rest_ += taken / kShareOfGrammars;
    running_.splice(running_.end(), running_, std::ranges::find(running_, turn_));
  }
  count_turn(*turn_);
  turn_.reset();
}

void Scheduler::leave_turn() noexcept {
  if (!turn_) return;
  turn_->left_at = Clock::now();
  rest_ += (turn_->left_at - turn_begin_) / kShareOfGrammars;
  away_.splice(away_.end(), running_, std::ranges::find(running_, turn_));
  turn_.reset();
  ++counters_.n_slow_turns;
}

// The sequences whose turns other threads have ended by now.
void Scheduler::take_back() noexcept {
  for (auto next = away_.begin(); next != away_.end();) {
    const auto sequence = next++;
    if ((*sequence)->turn_ended) {
      (*sequence)->is_slow = (*sequence)->was_left = (*sequence)->left_time > kQuick;
      count_turn(**sequence);
      running_.splice(running_.end(), away_, sequence);
    } else if (Clock::now() - (*sequence)->left_at > most_away_) {
      ++counters_.n_abandoned;
      give_up(**sequence, abandoned);
      away_.erase(sequence);
    }
  }
}

// Ends a sequence that another thread is left with, and keeps the rest of it.
void Scheduler::give_up(Sequence& sequence, const std::exception_ptr& error) noexcept {
  sequence.cache.clear();
  sequence.drafting.clear();
  sequence.shared.reset();
  sequence.stream->fail(error);
}

bool Scheduler::end_step() noexcept {
  const bool has_retired = retire();
  publish();
  return has_retired;
}

void Scheduler::fail_all(std::exception_ptr error) noexcept {
  for (auto& sequence : running_) sequence->end(error);
  for (auto& sequence : waiting_) sequence->end(error);
  due_.clear();
  next_due_ = 0;
  retire();
  for (const auto& sequence : away_) give_up(*sequence, error);
  away_.clear();
}

void Scheduler::drop_cancelled() noexcept {
  for (const auto* sequences : {&running_, &waiting_})
    for (const auto& sequence : *sequences) {
      sequence->state = sequence->stream->state();
      sequence->state.is_read |= sequence->is_evaluation();
      if (sequence->state.has_ended) sequence->end(FinishReason::kCancelled);
    }
}

bool Scheduler::take_shared_prompts() {
  bool took_any = false;
  for (const auto& sequence : running_) {
    const bool is_ready = sequence->shared && sequence->shared->is_computed();
    if (!is_ready || sequence->is_paused || !sequence->state.has_room()) continue;
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
  count_cached(sequence, sequence.n_cached, sequence.n_prompt);
  sequence.n_cached = sequence.n_ids();
  sequence.mark_prompt();
  sequence.tell_progress();
  std::ranges::copy(shared->logits, logits_.get());
  sequence.guesses.clear();
  take_turn(sequence, logits_.get());
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

// Sequences with a place come first; the others get the columns that are left.
void Scheduler::schedule() {
  batch_.clear();
  slices_.clear();
  leaders_.clear();
  choose_parts();
  int n_decoding = 0, n_prompts = 0;
  bool has_decoding = false;  // among those with a place
  for (const auto& sequence : running_) {
    if (!sequence->takes_part) continue;
    ++(sequence->is_decoding() ? n_decoding : n_prompts);
    has_decoding |= sequence->is_decoding() && sequence->has_place;
  }
  n_decoding = std::min(n_decoding, max_sequences_);
  const bool is_mixed = n_decoding > 0 && n_prompts > 0;
  const int n_columns = is_mixed ? std::min(model_.max_columns(), budget_.most_columns(n_decoding))
                                 : model_.max_columns();
  const int n_free = std::max(0, std::min(kFreeColumns, n_columns / 2) - n_decoding);
  drafted_s_ = 0;
  if (draft_ && n_free >= n_decoding && n_decoding > 0)
    choose_guesses(n_decoding, n_free / n_decoding);

  auto next_turn = running_.end();  // that of the first sequence without a column
  int n_placed = 0;
  const auto place_decoding = [&](bool has_place) {
    for (auto i = running_.begin(); i != running_.end(); ++i) {
      if (!(*i)->takes_part || !(*i)->is_decoding() || (*i)->has_place != has_place) continue;
      const int n_left = n_columns - batch_.n_columns();
      if (n_placed < n_decoding && n_left > 0) {
        place(**i, 1, std::min(n_free / n_decoding, n_left - 1));
        ++n_placed;
      } else if (next_turn == running_.end()) {
        next_turn = i;
      }
    }
  };
  place_decoding(true);
  only_decodes_ = true;
  place_prompts(true, has_decoding ? n_columns : model_.max_columns());
  place_decoding(false);
  place_prompts(false, n_columns);
  if (next_turn != running_.end())
    running_.splice(running_.end(), running_, running_.begin(), next_turn);
}

// Replaces guesses by those of the draft model where these are likely to bring more.
void Scheduler::choose_guesses(int n_decoding, int n_most) noexcept {
  const bool has_places = std::ranges::any_of(running_, [](const auto& s) { return s->has_place; });
  const auto begin = Clock::now();
  try {
    decoding_.clear();
    for (const auto& sequence : running_) {
      const bool decodes = sequence->takes_part && sequence->is_decoding();
      if (decodes && sequence->has_place == has_places && std::ssize(decoding_) < n_decoding)
        decoding_.push_back(sequence.get());
    }
    draft(n_most);
  } catch (...) {  // without guesses, then
    for (Sequence* sequence : decoding_)
      if (sequence->guess_source == GuessSource::kDraft) sequence->guesses.clear();
  }
  drafted_s_ = std::chrono::duration<double>(Clock::now() - begin).count();
}

void Scheduler::draft(int n_most) {
  options_.clear();
  for (Sequence* sequence : decoding_) {
    if (sequence->guess_source == GuessSource::kDraft) sequence->guesses.clear();  // of no step
    GuessRecord& record = sequence->guess_record;
    if (record.began_s)
      record.plain_s += computed_s_ - *std::exchange(record.began_s, std::nullopt);
    const auto n_found = std::min(n_most, static_cast<int>(sequence->guesses.size()));
    const bool is_forced = n_found > 0 && sequence->guess_source == GuessSource::kForced;
    const bool may_guess = sequence->sampler.params().speculation &&
                           sequence->sampler.forced().empty() && !sequence->shared;
    options_.push_back(policy_.option(record, n_found, is_forced,
                                      may_guess ? std::min(n_most, draft_->n_room(*sequence)) : 0));
  }
  const double gain_s = policy_.choose(options_);
  requests_.clear();
  bool has_read = false;  // for one at a time; replies to one prompt find what the first has read
  for (size_t i = 0; i < decoding_.size(); ++i) {
    Sequence& sequence = *decoding_[i];
    if (options_[i].n_drafted == 0) continue;
    int n_behind = DraftModel::n_behind(sequence);
    if (n_behind > DraftModel::kFewIds && !has_read) {
      const int n_left = sequence.max_ids - sequence.n_ids();
      if (!policy_.may_catch_up(sequence.guess_record, n_behind, gain_s, n_left)) continue;
      has_read = true;
      draft_->read(sequence, std::min(n_behind, draft_->max_columns()));
      n_behind = DraftModel::n_behind(sequence);
    }
    if (n_behind <= DraftModel::kFewIds) requests_.push_back({&sequence, options_[i].n_drafted});
  }
  draft_->guess(requests_);
}

// Those whose streams have room; of slow ones, while others run, one at a time.
void Scheduler::choose_parts() noexcept {
  const bool has_places = std::ranges::any_of(running_, [](const auto& s) { return s->has_place; });
  const auto is_awake = [](const auto& s) { return s->state.has_room() && !s->is_paused; };
  const bool others_run = std::ranges::any_of(running_, [&](const auto& s) {
    return !s->is_slow && is_awake(s) && s->has_place == has_places;
  });
  if (!others_run) rest_ = rest_.zero();
  const auto is_next = [&](const auto& s) {
    return s->is_slow && is_awake(s) && (!s->was_left || away_.size() < kMostAwayTurns);
  };
  auto next_slow = std::ranges::find_if(
      running_, [&](const auto& s) { return is_next(s) && s->has_place == has_places; });
  if (next_slow == running_.end()) next_slow = std::ranges::find_if(running_, is_next);
  for (auto i = running_.begin(); i != running_.end(); ++i) {
    Sequence& sequence = **i;
    sequence.takes_part = is_awake(*i);
    if (sequence.is_slow)
      sequence.takes_part = rest_ == rest_.zero() && (others_run ? i == next_slow : is_next(*i));
  }
}

// Gives the columns that are left of n_columns to prompts, in equal shares; what one prompt does
// not need goes to the next ones.
void Scheduler::place_prompts(bool has_place, int n_columns) {
  const int n_before = batch_.n_columns();
  if (n_before >= n_columns) return;
  prefilling_.clear();
  for (const auto& sequence : running_) {
    const bool is_next =
        sequence->takes_part && !sequence->is_decoding() && sequence->has_place == has_place;
    if (is_next && prefilling_.size() < prefilling_.capacity())
      prefilling_.push_back(sequence.get());
  }
  const auto n_first = std::ssize(leaders_);
  for (Sequence* sequence : prefilling_) {
    reuse_prefix(*sequence);
    const auto goes_ahead = [&](const Sequence* leader) { return awaits(*sequence, *leader); };
    if (std::ranges::none_of(leaders_, goes_ahead)) leaders_.push_back(sequence);
  }
  for (auto i = n_first; i < std::ssize(leaders_); ++i) {
    const int n_left = n_columns - batch_.n_columns();
    if (n_left <= 0) break;
    const auto n_sharing = static_cast<int>(std::ssize(leaders_) - i);
    const int share = (n_left + n_sharing - 1) / n_sharing;
    place(*leaders_[i], std::min(share, leaders_[i]->n_pending()));
  }
  only_decodes_ &= batch_.n_columns() == n_before;
}

void Scheduler::reuse_prefix(Sequence& sequence) {
  if (sequence.n_cached >= sequence.n_cacheable()) return;
  if (sequence.n_cached % kPagePositions != 0) return;
  const int n_before = sequence.n_cached;
  const std::span<const int32_t> ids(sequence.ids.data(), sequence.n_cacheable());
  sequence.n_cached = prefixes_.extend(sequence.cache_salt, ids, sequence.cache);
  count_cached(sequence, n_before, sequence.n_cached);
  if (sequence.n_cached > n_before) sequence.tell_progress();
}

// Counts positions of the prompt; not again what was done before the sequence was paused.
void Scheduler::count_cached(Sequence& sequence, int begin, int end) noexcept {
  const int n = std::max(0, end - std::max(begin, sequence.counts.n_prompt_done));
  counters_.n_cached_tokens += n;
  sequence.counts.n_cached += n;
}

// Where memory ends, the prefix cache is dropped; then sequences without a place are paused.
void Scheduler::reserve(Sequence& sequence, int n_tokens) {
  while (true) {
    try {
      return sequence.cache.reserve(n_tokens);
    } catch (const OutOfMemoryError&) {
      const bool has_freed =
          prefixes_.clear() || (sequence.has_place && Places::pause_one(running_));
      if (!has_freed) throw;
    }
  }
}

void Scheduler::keep_prefix(const Sequence& sequence) {
  if (!sequence.leaves_prefix()) return;
  if (draft_) draft_->keep_prefix(sequence);
  try {
    prefixes_.keep(sequence.cache_salt, sequence.ids, sequence.n_cached, sequence.cache);
  } catch (const std::bad_alloc&) {  // not cached: will be computed again if needed
  }
}

void Scheduler::make_room(std::span<const int32_t> ids) {
  const size_t n_pages = prefixes_.n_not_pinned(ids), room = prefixes_.room();
  if (n_pages > room) {
    const size_t page_bytes = model_.kv_pool().page_bytes();
    const size_t n_bytes = (prefixes_.n_pinned() + n_pages) * page_bytes;
    throw InvalidRequestError(
        "the prefix takes " + format_number(n_pages * page_bytes) +
            " bytes of the prefix cache, which has room for " + format_number(room * page_bytes) +
            ": load the model with prefix_cache_bytes of at least " + format_number(n_bytes),
        {.param = "path",
         .limit = static_cast<int64_t>(room * page_bytes),
         .got = static_cast<int64_t>(n_pages * page_bytes)});
  }
  prefixes_.drop_until_room_for(n_pages);
  publish();
}

void Scheduler::add_prefix(const std::string* salt, std::span<const int32_t> ids,
                           const KvSequence& pages) {
  if (salt)
    prefixes_.keep(*salt, ids, static_cast<int>(ids.size()), pages);
  else
    prefixes_.pin(ids, pages);
  publish();
}

void Scheduler::place(Sequence& sequence, int n_columns, int max_guesses) {
  int n_guessed = 0;
  try {
    n_guessed = std::min(static_cast<int>(sequence.guesses.size()), max_guesses);
    sequence.guesses.resize(n_guessed);
    n_columns += n_guessed;
    reserve(sequence, sequence.n_cached + n_columns);
  } catch (...) {
    sequence.end(current_error());
    return;
  }
  sequence.mark_begin();
  if (!sequence.is_decoding() && !sequence.guess_record.began_s)
    sequence.guess_record.began_s = computed_s_;
  slices_.push_back({&sequence, n_columns, n_guessed, batch_.n_logits(), batch_.n_states()});
  for (int i = 0; i < n_columns; ++i) {
    const int position = sequence.n_cached + i, behind = position - sequence.n_ids();
    if (sequence.pooled) batch_.state_columns.push_back(batch_.n_columns());
    if (sequence.wants_logits(position)) batch_.logit_columns.push_back(batch_.n_columns());
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
  if (draft_) tell_policy();
  const auto n_turns = static_cast<int>(std::ranges::count_if(slices_, [](const Slice& slice) {
    const Sequence& sequence = *slice.sequence;
    return !sequence.is_evaluation() && slice.n_columns - slice.n_guessed == sequence.n_pending();
  }));
  const int n_free = std::min(kFreeColumns, model_.max_columns() / 2) - n_turns;
  most_guesses_ = std::max(0, n_free) / std::max(1, n_turns);
  for (const Slice& slice : slices_) {
    try {
      take_logits(slice);
    } catch (...) {
      slice.sequence->end(current_error());
    }
  }
}

void Scheduler::tell_policy() noexcept {
  int n_decoding = 0, n_columns = 0;
  for (const Slice& slice : slices_) {
    if (!slice.sequence->is_decoding()) continue;
    ++n_decoding;
    n_columns += slice.n_columns;
  }
  for (const Slice& slice : slices_)
    if (slice.sequence->is_decoding())
      policy_.begin_step(slice.sequence->guess_record, n_columns, n_decoding, drafted_s_);
}

void Scheduler::take_logits(const Slice& slice) {
  Sequence& sequence = *slice.sequence;
  const bool was_prefill = !sequence.is_decoding();
  sequence.n_cached += slice.n_columns - slice.n_guessed;
  if (sequence.n_cached >= sequence.n_prompt) sequence.mark_prompt();
  if (sequence.is_evaluation()) {
    if (sequence.pooled)
      take_states(slice);
    else if (sequence.is_scored)
      take_scores(slice);
    else
      take_evaluation(slice);
    if (sequence.n_pending() == 0) sequence.end(FinishReason::kLength);
    return;
  }
  if (was_prefill) {
    keep_prefix(sequence);
    sequence.tell_progress();
  }
  if (sequence.n_pending() > 0) return;
  if (sequence.shared) share_prompt(slice);
  take_turn(sequence, logits_.get() + static_cast<size_t>(slice.first_logits) * model_.n_vocab());
}

void Scheduler::take_evaluation(const Slice& slice) {
  Sequence& sequence = *slice.sequence;
  const int first = std::max(sequence.n_cached - slice.n_columns, sequence.first_logits);
  const size_t n_vocab = model_.n_vocab(), n = std::max(0, sequence.n_cached - first) * n_vocab;
  const float* rows = logits_.get() + slice.first_logits * n_vocab;
  if (!std::all_of(rows, rows + n, [](float logit) { return std::isfinite(logit); }))
    throw NumericalError(
        "the model computed logits that are not finite: the file's weights may be damaged");
  std::copy_n(rows, n, sequence.logits.get() + (first - sequence.first_logits) * n_vocab);
}

void Scheduler::take_states(const Slice& slice) {
  const Sequence& sequence = *slice.sequence;
  const size_t n_embd = model_.n_embd();
  const float* row = states_.get() + slice.first_state * n_embd;
  for (int i = 0; i < slice.n_columns; ++i, row += n_embd) sequence.pooled->add({row, n_embd});
  if (sequence.n_pending() == 0) sequence.pooled->normalise();
}

void Scheduler::take_scores(const Slice& slice) {
  Sequence& sequence = *slice.sequence;
  const size_t n_vocab = model_.n_vocab();
  const float* row = logits_.get() + slice.first_logits * n_vocab;
  for (int position = sequence.n_cached - slice.n_columns;
       position < sequence.n_cached && sequence.wants_logits(position); ++position, row += n_vocab)
    sequence.stream->push(sequence.sampler.score({row, n_vocab}, sequence.ids[position + 1]),
                          sequence.counts);
  sequence.tell_progress();
}

// Takes the sequence's turn; or, if it has a constraint, lets the caller of next_turn() do so.
void Scheduler::take_turn(Sequence& sequence, float* rows) {
  const std::span all(rows, (1 + sequence.guesses.size()) * model_.n_vocab());
  if (sequence.sampler.is_constrained()) {
    sequence.rows.assign(all.begin(), all.end());
    sequence.most_guesses = most_guesses_;
    due_.push_back(sequence.shared_from_this());
  } else {
    sequence.take_turn(all, most_guesses_);
    count_turn(sequence);
  }
}

void Scheduler::count_turn(Sequence& sequence) noexcept {
  counters_.n_tokens += sequence.turn.n_tokens;
  counters_.n_forced_tokens += sequence.turn.n_forced;
  counters_.n_guessed_tokens += sequence.turn.n_guessed;
  counters_.n_accepted_tokens += sequence.turn.n_accepted;
  if (!draft_) return;
  const TurnCounts& turn = sequence.turn;
  if (turn.source == GuessSource::kDraft) {
    counters_.n_drafted_tokens += turn.n_guessed;
    counters_.n_accepted_drafts += turn.n_accepted;
  }
  sequence.drafting.n_cached = std::min(sequence.drafting.n_cached, turn.n_right_ids);
  policy_.end_step(sequence.guess_record, turn.source, turn.n_guessed, turn.n_accepted,
                   turn.n_tokens);
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
    sequence->drafting.clear();
  }
  publish();
  for (const auto& sequence : ended) sequence->tell_stream();
  return true;
}

void Scheduler::publish() noexcept {
  uint64_t n_pages = 0;
  for (const auto* sequences : {&running_, &away_})
    for (const auto& sequence : *sequences) n_pages += sequence->cache.pages().size();
  counters_.n_kv_pages_used = n_pages;
  counters_.n_running = running_.size() + away_.size();
  counters_.n_waiting = waiting_.size();
  counters_.n_prefix_pages = prefixes_.n_pages();
  const auto [n_pages_taken, n_pages_spare] = model_.kv_pool().n_pages();
  counters_.n_kv_pages = n_pages_taken;
  counters_.n_kv_pages_spare = n_pages_spare;
  if (!draft_) return;
  const auto [n_draft_pages, n_draft_spare] = draft_->model().kv_pool().n_pages();
  counters_.n_draft_pages = n_draft_pages;
  counters_.n_draft_pages_spare = n_draft_spare;
  counters_.n_draft_prefix_pages = draft_->n_prefix_pages();
  counters_.n_draft_columns = draft_->n_columns();
}

}  // namespace starchat
