#include "engine/draft_model.hpp"

#include <algorithm>
#include <exception>
#include <limits>
#include <new>

#include "base/errors.hpp"

namespace starchat {
namespace {

using Clock = std::chrono::steady_clock;

// Of what it has read, the part that is still the sequence's: it may have gone on behind guesses.
int n_known(const Sequence& sequence) {
  return std::min(sequence.drafting.n_cached, sequence.n_ids() - 1);
}

}  // namespace

DraftModel::DraftModel(ForwardPass& model, IdMap ids, size_t prefix_cache_bytes, int n_together)
    : model_(model),
      ids_(std::move(ids)),
      prefixes_(model.kv_pool(), prefix_cache_bytes),
      n_together_(static_cast<size_t>(n_together)),
      logits_(static_cast<size_t>(n_together) * model.n_vocab()),
      row_(ids_.to_draft.size()) {
  batch_.reserve(static_cast<size_t>(model.max_columns()));
  active_.reserve(n_together);
}

int DraftModel::n_behind(const Sequence& sequence) { return sequence.n_ids() - n_known(sequence); }

int DraftModel::n_room(const Sequence& sequence) const {
  if (sequence.drafting.has_failed) return 0;
  // The last guess is not read. Behind right guesses follows one more token of the model's.
  return std::max(
      0, std::min(model_.n_ctx() - sequence.n_ids() + 1, sequence.max_ids - sequence.n_ids() - 1));
}

int DraftModel::read(Sequence& sequence, int n_columns) {
  Drafting& drafting = sequence.drafting;
  open(sequence);
  const int n_last = sequence.n_ids() - 1;
  const bool is_at_page = drafting.n_cached % kPagePositions == 0;
  if (is_at_page &&
      std::cmp_equal(drafting.cache->pages().size() * kPagePositions, drafting.n_cached)) {
    drafting.n_cached =
        prefixes_.extend(sequence.cache_salt, ids_of(sequence, 0, n_last), *drafting.cache);
  }
  n_columns = std::min({n_columns, n_last - drafting.n_cached, model_.max_columns()});
  if (n_columns <= 0 || !reserve(sequence, drafting.n_cached + n_columns)) return 0;
  batch_.clear();
  const int end = drafting.n_cached + n_columns;
  for (int i = drafting.n_cached; i < end; ++i)
    add_column(sequence, ids_.to_draft[sequence.ids[i]], i);
  if (!compute()) {
    drafting.has_failed = true;
    return 0;
  }
  drafting.n_cached = end;
  if (end == n_last) keep_prefix(sequence);
  return n_columns;
}

void DraftModel::guess(std::span<const Request> requests) {
  active_.clear();
  batch_.clear();
  for (const Request& request : requests) {
    Sequence& sequence = *request.sequence;
    const int begin = n_known(sequence), n_ids = sequence.n_ids();
    const bool has_room = batch_.n_columns() + n_ids - begin <= model_.max_columns();
    if (request.n_guesses <= 0 || active_.size() == n_together_ || !has_room) continue;
    open(sequence);
    if (!reserve(sequence, n_ids + request.n_guesses - 1)) continue;
    sequence.guesses.clear();
    sequence.guess_source = GuessSource::kDraft;
    sequence.sampler.begin_guesses();
    for (int i = begin; i < n_ids; ++i) add_column(sequence, ids_.to_draft[sequence.ids[i]], i);
    batch_.logit_columns.push_back(batch_.n_columns() - 1);
    active_.push_back(request);
  }
  const auto n_vocab = static_cast<size_t>(model_.n_vocab());
  while (!active_.empty()) {
    const bool is_computed = compute();
    size_t n_left = 0;
    batch_.clear();
    for (size_t i = 0; i < active_.size(); ++i) {
      Sequence& sequence = *active_[i].sequence;
      if (!is_computed) {
        sequence.drafting.has_failed = true;
        continue;
      }
      const int position = sequence.n_ids() + static_cast<int>(sequence.guesses.size());
      sequence.drafting.n_cached = position;
      const bool is_first = sequence.guesses.empty();
      if (!choose(sequence, {logits_.data() + i * n_vocab, n_vocab}, is_first)) continue;
      const int32_t id = sequence.guesses.back();
      if (sequence.sampler.is_stop(id)) {  // it is sampled in the next step without a guess
        sequence.guesses.pop_back();
        continue;
      }
      if (std::ssize(sequence.guesses) == active_[i].n_guesses) continue;
      add_column(sequence, ids_.to_draft[id], position);
      batch_.logit_columns.push_back(batch_.n_columns() - 1);
      active_[n_left++] = active_[i];
    }
    active_.resize(n_left);
  }
}

// Appends the id that the draft would sample to the guesses. False: the model has no such token.
bool DraftModel::choose(Sequence& sequence, std::span<const float> row, bool is_first) {
  std::span<const float> same = row.first(ids_.n_same);
  std::ranges::copy(same, row_.begin());
  std::fill(row_.begin() + ids_.n_same, row_.end(), -std::numeric_limits<float>::infinity());
  for (size_t id = ids_.n_same; id < row.size(); ++id)
    if (const int32_t to = ids_.to_model[id]; to >= 0) row_[to] = row[id];
  try {
    sequence.guesses.push_back(sequence.sampler.guess(row_, is_first));
  } catch (const std::bad_alloc&) {
    return false;
  } catch (const Error&) {  // logits that are not finite, or nothing that is allowed
    sequence.drafting.has_failed = true;
    return false;
  }
  return true;
}

void DraftModel::keep_prefix(const Sequence& sequence) {
  if (!sequence.drafting.cache) return;
  const int n_cached = n_known(sequence);
  try {
    prefixes_.keep(sequence.cache_salt, ids_of(sequence, 0, n_cached), n_cached,
                   *sequence.drafting.cache);
  } catch (const std::bad_alloc&) {  // not cached: will be computed again if needed
  }
}

void DraftModel::open(Sequence& sequence) {
  Drafting& drafting = sequence.drafting;
  if (drafting.cache) return;
  const int n_most = std::min(sequence.max_ids, model_.n_ctx());
  drafting.cache = std::make_unique<KvSequence>(model_.kv_pool(), n_most);
  drafting.n_cached = 0;
}

// Where memory ends, the prefix cache is dropped; then the sequence is not guessed for any more.
bool DraftModel::reserve(Sequence& sequence, int n_tokens) {
  for (;;) {
    try {
      sequence.drafting.cache->reserve(n_tokens);
      return true;
    } catch (const OutOfMemoryError&) {
      if (prefixes_.clear()) continue;
      sequence.drafting.clear();
      sequence.drafting.has_failed = true;
      return false;
    }
  }
}

// False: the draft model has failed. What it wrote is not counted as cached.
bool DraftModel::compute() {
  const auto begin = Clock::now();
  n_columns_ += batch_.n_columns();
  const auto n_logits = static_cast<size_t>(batch_.n_logits()) * model_.n_vocab();
  try {
    model_.forward(batch_, {logits_.data(), n_logits}, {});
  } catch (const std::exception&) {
    return false;
  }
  times_.emplace_back(batch_.n_columns(),
                      std::chrono::duration<double>(Clock::now() - begin).count());
  return true;
}

void DraftModel::add_column(Sequence& sequence, int32_t id, int position) {
  batch_.token_ids.push_back(id);
  batch_.positions.push_back(position);
  batch_.caches.push_back(sequence.drafting.cache.get());
}

std::vector<int32_t> DraftModel::ids_of(const Sequence& sequence, int begin, int end) const {
  std::vector<int32_t> ids;
  ids.reserve(end - begin);
  for (int i = begin; i < end; ++i) ids.push_back(ids_.to_draft[sequence.ids[i]]);
  return ids;
}

}  // namespace starchat
