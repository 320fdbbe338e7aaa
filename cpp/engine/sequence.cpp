#include "engine/sequence.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "engine/current_error.hpp"

namespace starchat {
namespace {

double seconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

void check_ids(const ForwardPass& model, const std::string& name, std::span<const int64_t> ids) {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= model.n_vocab())
      throw InvalidRequestError(
          name + " token " + format_number(i) + ": expected an id from 0 to " +
              format_number(model.n_vocab() - 1) + ", got " + format_number(ids[i]),
          {.param = name + "[" + std::to_string(i) + "]",
           .limit = ids[i] < 0 ? 0 : model.n_vocab() - 1,
           .got = ids[i]});
}

// n_new: the number of new tokens for which the context must have room.
void check_prompt(const ForwardPass& model, std::span<const int64_t> prompt, int n_new) {
  const int64_t n = std::ssize(prompt), n_ctx = model.n_ctx();
  if (n == 0)
    throw InvalidRequestError("prompt has 0 tokens, expected at least 1",
                              {.param = "prompt", .limit = 1, .got = 0});
  if (n + n_new > n_ctx)
    throw ContextLengthError("prompt has " + format_number(n) + " tokens, the context holds " +
                                 format_number(n_ctx) +
                                 (n_new ? " with at least one new token" : "") +
                                 ": shorten it by " + format_number(n + n_new - n_ctx),
                             {.param = "prompt", .limit = n_ctx, .got = n});
  check_ids(model, "prompt", prompt);
}

}  // namespace

std::shared_ptr<Sequence> Sequence::generation(ForwardPass& model, std::span<const int64_t> prompt,
                                               SamplingParams params,
                                               std::shared_ptr<TokenStream> stream,
                                               Guidance guidance) {
  check_prompt(model, prompt, 1);
  std::vector<int32_t> ids(prompt.begin(), prompt.end());
  const int64_t room = model.n_ctx() - std::ssize(ids);
  if (!params.max_tokens) params.max_tokens = room;
  params.validate(model.n_vocab());
  params.max_tokens = std::min(room, *params.max_tokens);
  const int max_ids = static_cast<int>(std::ssize(ids) + *params.max_tokens);
  std::shared_ptr<Sequence> sequence(
      new Sequence(model, std::move(ids), max_ids, params, nullptr, std::move(stream)));
  if (guidance.constraint) {
    check_ids(model, "lead", guidance.lead);
    const std::vector<int32_t> lead(guidance.lead.begin(), guidance.lead.end());
    sequence->sampler.constrain(std::move(guidance.constraint), lead, model.n_vocab(),
                                std::move(guidance.otherwise));
    sequence->append_forced();
  }
  return sequence;
}

Sequences Sequence::replies(ForwardPass& model, std::span<const int64_t> prompt,
                            SamplingParams params,
                            std::span<const std::shared_ptr<TokenStream>> streams,
                            std::vector<Guidance> guidances, const std::string& cache_salt) {
  Sequences sequences;
  for (size_t i = 0; i < streams.size(); ++i, ++params.seed)
    sequences.push_back(generation(model, prompt, params, streams[i], std::move(guidances[i])));
  for (const auto& sequence : sequences) sequence->cache_salt = cache_salt;
  if (sequences.size() > 1) {
    const auto shared = std::make_shared<SharedPrompt>(model.kv_pool());
    for (const auto& sequence : sequences) sequence->shared = shared;
  }
  return sequences;
}

void Sequence::check_evaluation(const ForwardPass& model, std::span<const int64_t> prompt,
                                int64_t first) {
  check_prompt(model, prompt, 0);
  const int64_t last = std::ssize(prompt) - 1;
  if (first < 0 || first > last)
    throw InvalidRequestError("first: expected 0 to " + std::to_string(last) +
                                  ", a position of the tokens, got " + std::to_string(first),
                              {.param = "first", .limit = first < 0 ? 0 : last, .got = first});
}

std::shared_ptr<Sequence> Sequence::evaluation(ForwardPass& model, std::span<const int64_t> prompt,
                                               int64_t first, std::shared_ptr<float[]> logits,
                                               std::shared_ptr<TokenStream> stream) {
  check_evaluation(model, prompt, first);
  std::vector<int32_t> ids(prompt.begin(), prompt.end());
  const int max_ids = static_cast<int>(ids.size());
  std::shared_ptr<Sequence> sequence(new Sequence(model, std::move(ids), max_ids, SamplingParams{},
                                                  std::move(logits), std::move(stream)));
  sequence->first_logits = static_cast<int>(first);
  return sequence;
}

std::shared_ptr<Sequence> Sequence::embedding(ForwardPass& model, std::span<const int64_t> prompt,
                                              std::shared_ptr<Embedding> embedding,
                                              std::shared_ptr<TokenStream> stream) {
  auto sequence = evaluation(model, prompt, 0, nullptr, std::move(stream));
  sequence->pooled = std::move(embedding);
  return sequence;
}

std::shared_ptr<Sequence> Sequence::scoring(ForwardPass& model, std::span<const int64_t> prompt,
                                            int64_t n_best, std::shared_ptr<TokenStream> stream,
                                            const std::string& cache_salt) {
  if (n_best < 0)
    throw InvalidRequestError("logprobs: expected at least 0, got " + format_number(n_best),
                              {.param = "logprobs", .limit = 0, .got = n_best});
  auto sequence = evaluation(model, prompt, 0, nullptr, std::move(stream));
  const SamplingParams params{.logprobs = n_best};
  params.validate(model.n_vocab());
  sequence->sampler = Sampler(params, {});
  sequence->cache_salt = cache_salt;
  sequence->is_scored = true;
  return sequence;
}

Sequence::Sequence(ForwardPass& model, std::vector<int32_t> prompt, int max_ids,
                   const SamplingParams& params, std::shared_ptr<float[]> logits,
                   std::shared_ptr<TokenStream> stream)
    : ids(std::move(prompt)),
      n_prompt(static_cast<int>(ids.size())),
      max_ids(max_ids),
      cache(model.kv_pool(), max_ids),
      sampler(params, ids),
      logits(std::move(logits)),
      stream(std::move(stream)) {}

Sequence::~Sequence() { stream->finish(FinishReason::kCancelled); }

bool Sequence::wants_logits(int position) const {
  if (pooled) return false;
  if (is_scored) return position + 1 < n_prompt;
  return position >= (is_evaluation() ? first_logits : n_ids() - 1);
}

void Sequence::take_turn(std::span<float> rows, int most_guesses) noexcept {
  turn = {.n_guessed = static_cast<int>(guesses.size()), .source = guess_source};
  turn.n_right_ids = n_ids();
  const size_t n_vocab = rows.size() / (1 + guesses.size());
  const int n_forced = counts.n_forced;
  try {
    for (bool as_guessed = true; as_guessed && !has_ended();) {
      const auto n_known = ids.size();
      append(sampler.sample(rows.subspan(turn.n_accepted * n_vocab, n_vocab)));
      const auto added = std::span(ids).subspan(n_known);
      const auto rest = std::span(guesses).subspan(turn.n_accepted);
      const auto n_same = std::ranges::mismatch(added, rest).in1 - added.begin();
      turn.n_tokens += std::max<int>(std::ssize(added), 1);  // a stop id is not added
      turn.n_accepted += n_same;
      turn.n_right_ids += n_same;
      n_cached += n_same;
      as_guessed = n_same == std::ssize(added);
    }
    if (turn.source != GuessSource::kDraft) drafter.learn(turn.n_guessed, turn.n_accepted);
    guess(most_guesses);
  } catch (...) {
    end(current_error());
  }
  turn.n_forced = counts.n_forced - n_forced;
  counts.n_guessed += turn.n_guessed;
  counts.n_accepted += turn.n_accepted;
  stream->set_counts(counts);
}

// Forced ids (those that need logits for their logprobs), or the drafter's guess, as far as the
// constraint allows it.
void Sequence::guess(int limit) {
  guesses.clear();
  guess_source = GuessSource::kNone;
  // After right guesses follows one more token: leave room for it.
  limit = std::min(limit, max_ids - n_ids() - 1);
  if (has_ended() || limit <= 0 || !sampler.params().speculation) return;
  auto next = sampler.forced();
  guess_source = next.empty() ? GuessSource::kLookUp : GuessSource::kForced;
  if (next.empty()) next = drafter.guess(ids, limit);
  next = next.first(std::min<size_t>(next.size(), limit));
  next = next.first(sampler.n_allowed(next));
  guesses.assign(next.begin(), next.end());
}

// Appends a sampled token and the forced tokens after it; a stop id ends the reply instead.
void Sequence::append(SampledToken token) {
  push(std::move(token));
  append_forced();
}

// Without logprobs, forced ids need no logits, so they are appended at once.
void Sequence::append_forced() {
  while (!has_ended() && sampler.params().logprobs < 0 && !sampler.forced().empty()) {
    SampledToken token;
    token.id = sampler.forced().front();
    sampler.remember(token.id);
    const auto n_before = ids.size();
    push(std::move(token));
    counts.n_forced += static_cast<int>(ids.size() - n_before);  // none for a stop id
  }
  if (!has_ended() && sampler.is_complete()) end(FinishReason::kStop);
}

void Sequence::push(SampledToken token) {
  if (had_prompt_) counts.decode_s = seconds(Clock::now() - *had_prompt_);
  if (sampler.is_stop(token.id)) {
    end(FinishReason::kStop, std::move(token));
    return;
  }
  ids.push_back(token.id);
  stream->push(std::move(token), counts);
  if (n_ids() == max_ids) end(sampler.is_complete() ? FinishReason::kStop : FinishReason::kLength);
}

void Sequence::end_left_turn(std::chrono::duration<double> cpu_time) noexcept {
  left_time = cpu_time;
  turn_ended = true;
}

void Sequence::end(FinishReason reason, std::optional<SampledToken> stop_token) {
  reason_ = reason;
  stop_token_ = std::move(stop_token);
}

void Sequence::end(std::exception_ptr error) { error_ = std::move(error); }

void Sequence::tell_progress() {
  counts.n_prompt_done = std::max(counts.n_prompt_done, std::min(n_cached, n_prompt));
  stream->set_counts(counts, counts.n_prompt_done < n_prompt);
}

void Sequence::mark_begin() noexcept {
  if (began_) return;
  began_ = Clock::now();
  counts.queue_s = seconds(*began_ - came_);
}

void Sequence::mark_prompt() noexcept {
  mark_begin();
  if (had_prompt_) return;
  had_prompt_ = Clock::now();
  counts.prompt_s = seconds(*had_prompt_ - *began_);
}

void Sequence::pause() noexcept {
  cache.clear();
  n_cached = 0;
  drafting.clear();
  guesses.clear();
  is_paused = true;
  takes_part = false;
}

void Sequence::tell_stream() {
  stream->set_counts(counts);
  if (error_)
    stream->fail(error_);
  else
    stream->finish(*reason_, std::move(stop_token_));
}

}  // namespace starchat
