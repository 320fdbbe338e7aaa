#include "sampling/sampler.hpp"

#include <algorithm>
#include <cfloat>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "base/errors.hpp"
#include "sampling/portable_math.hpp"

namespace starchat {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 16, kBlock = 64;

// An ending is held to when less than twice its length and this is left of max_tokens.
constexpr int64_t kNearTokens = 64;
constexpr int kFirstSearchSteps = 1000, kSearchSteps = 100, kMostFailedSearches = 4;

bool better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

double sum_of_weights(const std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.weight;
  return sum;
}

// ln of the sum of e^(logit - best). Eight interleaved partial sums, which are added in order.
double log_sum(std::span<const float> logits, double best) {
  double sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= logits.size(); i += 8)
    for (size_t j = 0; j < 8; ++j) sums[j] += exp_nonpositive(logits[i + j] - best);
  for (; i < logits.size(); ++i) sums[0] += exp_nonpositive(logits[i] - best);
  double sum = 0;
  for (const double partial : sums) sum += partial;
  return log_from_one(sum);
}

}  // namespace

Sampler::Sampler(SamplingParams params, std::span<const int32_t> prompt)
    : params_(std::move(params)),
      random_(params_.seed),
      random_of_guesses_(random_),
      has_penalties_(params_.repetition_penalty != 1 || params_.frequency_penalty != 0 ||
                     params_.presence_penalty != 0) {
  std::erase_if(params_.control_ids, [&](int64_t id) { return is_stop(static_cast<int32_t>(id)); });
  if (!has_penalties_) return;
  if (params_.repetition_window > 0) {
    const auto n = std::min<uint64_t>(params_.repetition_window, prompt.size());
    window_.assign(prompt.end() - n, prompt.end());
    n_prompt_in_window_ = n;
    prompt = prompt.last(n);
  }
  for (const int32_t id : prompt) ++seen_[id].n_in_prompt;
}

bool Sampler::is_stop(int32_t id) const {
  return std::ranges::find(params_.stop_token_ids, id) != params_.stop_token_ids.end();
}

void Sampler::constrain(std::unique_ptr<Constraint> constraint, std::span<const int32_t> lead,
                        int n_vocab, std::unique_ptr<Constraint> otherwise) {
  allowed_.assign((n_vocab + 31) / 32, 0);
  n_lead_ = lead.size();
  if (otherwise) {
    constraint_ = std::move(otherwise);
    look_ahead();
    otherwise_ = std::move(constraint_);
  }
  constraint_ = std::move(constraint);
  look_ahead();  // throws now if the constraint allows nothing, even behind a lead
  if (lead.empty()) return;
  forced_.assign(lead.begin(), lead.end());
  n_forced_used_ = 0;
  is_complete_ = false;
}

void Sampler::remember(int32_t id) {
  ++n_generated_;
  if (has_penalties_) count(id);
  if (!constraint_ || is_stop(id)) return;
  if (n_lead_ > 0)
    --n_lead_;
  else
    constraint_->accept(id);
  if (n_forced_used_ < forced_.size()) ++n_forced_used_;
  if (forced().empty()) look_ahead();
}

void Sampler::count(int32_t id) {
  ++seen_[id].n_in_reply;
  if (params_.repetition_window == 0) return;
  window_.push_back(id);
  if (std::cmp_less_equal(window_.size(), params_.repetition_window)) return;
  const auto oldest = seen_.find(window_.front());
  window_.pop_front();
  if (n_prompt_in_window_ > 0) {
    --n_prompt_in_window_;
    --oldest->second.n_in_prompt;
  } else {
    --oldest->second.n_in_reply;
  }
  if (oldest->second.n_in_prompt + oldest->second.n_in_reply == 0) seen_.erase(oldest);
}

// Whether this is a control token that does not end the reply: no reply contains one.
bool Sampler::is_control(int32_t id) const {
  return std::ranges::binary_search(params_.control_ids, id);
}

bool Sampler::is_banned(int32_t id) const {
  if (is_control(id)) return true;
  const auto bias = params_.logit_bias.find(id);
  return bias != params_.logit_bias.end() && bias->second < -FLT_MAX;
}

// Finds what may come next: forced ids, up to the first banned one; or else a mask.
void Sampler::look_ahead() {
  n_forced_used_ = 0;
  forced_.clear();
  if (!otherwise_) {
    look_for_ending();
    forced_ = constraint_->forced();
  }
  forced_.erase(std::ranges::find_if(forced_, [&](int32_t id) { return is_banned(id); }),
                forced_.end());
  if (!forced_.empty()) {
    was_incomplete_ = true;
    if (ending_) force_ending();
    return;
  }

  const bool may_end = constraint_->fill_mask(allowed_);
  const auto is_empty = [&] { return std::ranges::all_of(allowed_, std::logical_not<>()); };
  was_incomplete_ |= !may_end;
  if (!may_end && is_empty()) throw ConstraintError(kNothingAllowed);
  forbid(params_.control_ids, allowed_);
  is_complete_ = is_empty();
  if (!may_end && is_complete_) throw ConstraintError(kOnlyControlAllowed);
  if (may_end)
    for (const int64_t id : params_.stop_token_ids) allowed_[id / 32] |= uint32_t{1} << id % 32;
}

// An ending after `next` that fits into max_tokens, without tokens that end the reply earlier.
std::optional<std::vector<int32_t>> Sampler::ending_after(std::span<const int32_t> next,
                                                          int n_steps) {
  const int64_t n_most = n_left() - std::ssize(next);
  if (n_most < 0) return {};
  const auto known = ending_ ? std::span<const int32_t>(*ending_) : std::span<const int32_t>();
  auto [found, is_slow] = constraint_->ending(next, known, n_most, n_steps);
  if (is_slow) n_failed_searches_ = kMostFailedSearches;
  const auto is_wrong = [&](int32_t id) { return is_stop(id) || is_banned(id); };
  if (found && std::ranges::any_of(*found, is_wrong)) found.reset();
  return std::move(found);
}

// Learns how long an ending is, at the start and each time that half of the rest is used. Holds to
// one as soon as little more than that is left.
void Sampler::look_for_ending() {
  if (ending_ || n_lead_ > 0 || n_left() <= 0 || n_left() > search_at_) return;
  if (!params_.max_tokens || n_failed_searches_ >= kMostFailedSearches) return;
  auto found = ending_after({}, kFirstSearchSteps);
  if (!found) {
    ++n_failed_searches_;
    search_at_ = n_left() / 2;
    return;
  }
  const int64_t near = 2 * std::ssize(*found) + kNearTokens;
  if (n_left() <= near)
    ending_ = std::move(found);
  else
    search_at_ = std::max(near, n_left() / 2);
}

// Brings the ending behind the forced ids; or forces its ids, if these would make it too long.
void Sampler::force_ending() {
  const bool is_same = std::ranges::mismatch(forced_, *ending_).in1 == forced_.end();
  if (is_same) {
    ending_->erase(ending_->begin(), ending_->begin() + std::ssize(forced_));
  } else if (auto found = ending_after(forced_, kSearchSteps)) {
    ending_ = std::move(found);
  } else if (n_failed_searches_ >= kMostFailedSearches) {  // this search was slow
    ending_.reset();
  } else if (!ending_->empty()) {
    forced_.assign(1, ending_->front());
    ending_->erase(ending_->begin());
  }
}

// Returns the chosen token, or another one if the text could not be completed after it. A reply
// that could end at any time, such as plain text before a call, is cut as without a constraint.
int32_t Sampler::within_reach(int32_t id) {
  if (!ending_ || is_stop(id)) return id;
  if (!ending_->empty() && ending_->front() == id) {
    ending_->erase(ending_->begin());
  } else if (auto found = ending_after({&id, 1}, kSearchSteps)) {
    ending_ = std::move(found);
  } else if (n_failed_searches_ >= kMostFailedSearches) {
    ending_.reset();
  } else if (!ending_->empty()) {
    id = ending_->front();
    ending_->erase(ending_->begin());
  } else if (was_incomplete_ && !params_.stop_token_ids.empty() && !masks_stop()) {
    id = static_cast<int32_t>(params_.stop_token_ids.front());
  } else {
    ending_.reset();
    search_at_ = n_left() / 2;
  }
  return id;
}

// Chooses the first token as if nothing constrained it, to see which of the constraints holds.
void Sampler::decide(std::span<const float> logits) {
  std::vector<float> free(logits.begin(), logits.end());
  auto constraint = std::exchange(constraint_, nullptr);
  scan(free);
  const int32_t id = choose(free);
  const bool is_allowed = allowed_[id / 32] >> id % 32 & 1;
  constraint_ = std::move(is_allowed ? constraint : otherwise_);
  otherwise_ = nullptr;
  look_ahead();
}

size_t Sampler::n_allowed(std::span<const int32_t> ids) {
  const bool is_free = !constraint_ || n_lead_ > 0 || ids.empty();
  return is_free ? ids.size() : constraint_->n_allowed(ids);
}

SampledToken Sampler::sample(std::span<float> logits) {
  if (otherwise_ && forced().empty()) decide(logits);
  scan(logits);
  SampledToken token;
  double log_normalizer = 0;
  if (params_.logprobs >= 0) {
    raw_.assign(logits.begin(), logits.end());
    log_normalizer = report_best(logits, token);
  }
  token.id = forced().empty() ? within_reach(choose(logits)) : forced().front();
  if (params_.logprobs >= 0) token.logprob = raw_[token.id] - log_normalizer;
  remember(token.id);
  return token;
}

int32_t Sampler::guess(std::span<float> logits, bool is_first) {
  // Later masks are known once the tokens before are; so is the first, if a constraint is chosen.
  auto held = is_first && !otherwise_ ? nullptr : std::exchange(constraint_, nullptr);
  std::swap(random_, random_of_guesses_);
  const auto restore = [&] {
    std::swap(random_, random_of_guesses_);
    if (held) constraint_ = std::move(held);
  };
  try {
    scan(logits);
    const int32_t id = choose(logits);
    restore();
    return id;
  } catch (...) {
    restore();
    throw;
  }
}

SampledToken Sampler::score(std::span<const float> logits, int32_t id) {
  scan(logits);
  SampledToken token{.id = id};
  token.logprob = logits[id] - report_best(logits, token);
  return token;
}

// Reports the best ids; returns what is to be subtracted from logits. scan() must have run.
double Sampler::report_best(std::span<const float> logits, SampledToken& token) {
  const double log_normalizer = best_ + log_sum(logits, best_);
  select_best(logits, params_.logprobs);
  for (const Candidate& candidate : candidates_)
    token.top_logprobs.emplace_back(candidate.id, candidate.logit - log_normalizer);
  return log_normalizer;
}

// Chooses a token that is not forced. scan() must have run.
int32_t Sampler::choose(std::span<float> logits) {
  prepare(logits);
  const int32_t id = pick(logits);
  if (!is_control(id)) return id;
  for (const int64_t control : params_.control_ids) logits[control] = -kInfinity;
  scan_masked(logits);
  return pick(logits);
}

int32_t Sampler::pick(std::span<const float> logits) {
  if (params_.temperature == 0) return argmax(logits);
  narrow(logits);
  return draw();
}

const std::vector<Candidate>& Sampler::candidates(std::span<float> logits) {
  scan(logits);
  prepare(logits);
  narrow(logits);
  return candidates_;
}

// Finds the highest logit, of each block and of all. Throws NumericalError for NaN and +inf.
void Sampler::scan(std::span<const float> logits) {
  block_best_.clear();
  bool finite = true;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    float best[kLanes];
    int invalid[kLanes] = {};
    std::fill(best, best + kLanes, -kInfinity);
    const float* x = logits.data() + begin;
    const size_t n = std::min(kBlock, logits.size() - begin);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (size_t j = 0; j < kLanes; ++j) {
        best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
        invalid[j] |= !(x[i + j] < kInfinity);
      }
    }
    for (; i < n; ++i) {
      best[0] = x[i] > best[0] ? x[i] : best[0];
      invalid[0] |= !(x[i] < kInfinity);
    }
    block_best_.push_back(*std::max_element(best, best + kLanes));
    finite &= std::count(invalid, invalid + kLanes, 0) == static_cast<int>(kLanes);
  }
  best_ = block_best_.empty() ? -kInfinity : std::ranges::max(block_best_);
  if (!finite || best_ == -kInfinity)
    throw NumericalError(
        "the model computed logits that are not finite: the file's weights may be damaged, or "
        "the sequence drives this model beyond its numbers");
}

bool Sampler::masks_stop() const {
  return n_generated_ < params_.min_tokens && !params_.stop_token_ids.empty();
}

bool Sampler::adjust(std::span<float> logits) {
  // Clamped to the range of a float, so that no sum becomes +inf.
  const auto narrowed = [](double logit) {
    return logit < -FLT_MAX ? -kInfinity : static_cast<float>(std::min<double>(logit, FLT_MAX));
  };
  for (const auto& [id, bias] : params_.logit_bias) logits[id] = narrowed(logits[id] + bias);
  for (const auto& [id, seen] : seen_) {
    double logit = logits[id];
    logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    if (seen.n_in_reply > 0)
      logit -= params_.frequency_penalty * static_cast<double>(seen.n_in_reply) +
               params_.presence_penalty;
    logits[id] = narrowed(logit);
  }
  if (masks_stop())
    for (const int64_t id : params_.stop_token_ids) logits[id] = -kInfinity;
  if (constraint_) {
    for (size_t i = 0; i < logits.size(); i += 32) {
      const uint32_t word = allowed_[i / 32];
      if (word == ~uint32_t{0}) continue;
      const size_t n = std::min<size_t>(32, logits.size() - i);
      for (size_t j = 0; j < n; ++j) logits[i + j] = word >> j & 1 ? logits[i + j] : -kInfinity;
    }
  }
  return masks_stop() || constraint_ || !seen_.empty() || !params_.logit_bias.empty();
}

// Applies all changes of single logits. scan() must have run.
void Sampler::prepare(std::span<float> logits) {
  if (adjust(logits)) scan_masked(logits);
}

void Sampler::scan_masked(std::span<const float> logits) {
  if (std::ranges::none_of(logits, [](float logit) { return logit > -kInfinity; }))
    throw InvalidRequestError(
        std::string("logit_bias and min_tokens mask every token ") +
            (constraint_ ? "that the constraint allows" : "of the vocabulary") +
            ": leave at least one",
        {.param = params_.logit_bias.empty() ? "min_tokens" : "logit_bias"});
  scan(logits);
}

int32_t Sampler::argmax(std::span<const float> logits) const {
  const size_t block = std::ranges::find(block_best_, best_) - block_best_.begin();
  const auto first = logits.begin() + block * kBlock;
  return static_cast<int32_t>(std::find(first, logits.end(), best_) - logits.begin());
}

// Fills candidates_ with the k best ids, best first. The k-th best of the blocks' best logits is a
// lower bound of the k-th best logit, so blocks with a lower best logit are skipped.
void Sampler::select_best(std::span<const float> logits, size_t k) {
  candidates_.clear();
  if (k == 0) return;
  float threshold = -kInfinity;
  if (k <= block_best_.size()) {
    thresholds_ = block_best_;
    const auto kth = thresholds_.begin() + (k - 1);
    std::nth_element(thresholds_.begin(), kth, thresholds_.end(), std::greater<>());
    threshold = *kth;
  }
  for (size_t block = 0; block < block_best_.size(); ++block) {
    if (block_best_[block] < threshold) continue;
    const size_t end = std::min(logits.size(), (block + 1) * kBlock);
    for (size_t i = block * kBlock; i < end; ++i)
      if (logits[i] >= threshold && logits[i] > -kInfinity)
        candidates_.push_back({logits[i], static_cast<int32_t>(i), 0});
  }
  if (candidates_.size() > k) {
    std::nth_element(candidates_.begin(), candidates_.begin() + k, candidates_.end(), better);
    candidates_.resize(k);
  }
  std::ranges::sort(candidates_, better);
}

// Fills candidates_ with the ids that may be drawn: best first with top_k or top_p, otherwise in
// the order of ids.
void Sampler::narrow(std::span<const float> logits) {
  const bool has_top_k = params_.top_k > 0 && params_.top_k < static_cast<int64_t>(logits.size());
  if (has_top_k) {
    select_best(logits, params_.top_k);
  } else {
    candidates_.clear();
    for (size_t i = 0; i < logits.size(); ++i)
      candidates_.push_back({logits[i], static_cast<int32_t>(i), 0});
  }
  for (Candidate& candidate : candidates_)
    candidate.weight = exp_nonpositive((double{candidate.logit} - best_) / params_.temperature);
  std::erase_if(candidates_, [](const Candidate& candidate) { return candidate.weight == 0; });

  if (params_.top_p < 1) {
    const double total = sum_of_weights(candidates_);
    if (!has_top_k) {
      // The ids below this weight have, together, less weight than top_p cuts off.
      const double negligible = (1 - params_.top_p) * total / static_cast<double>(logits.size());
      std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < negligible; });
      std::ranges::sort(candidates_, better);
    }
    double sum = 0;
    size_t n = 0;
    while (n < candidates_.size() && sum < params_.top_p * total) sum += candidates_[n++].weight;
    candidates_.resize(n);
  }
  // The best candidate's weight is 1.
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < params_.min_p; });
}

int32_t Sampler::draw() {
  const double target = random_.uniform() * sum_of_weights(candidates_);
  double sum = 0;
  for (const Candidate& candidate : candidates_) {
    sum += candidate.weight;
    if (target < sum) return candidate.id;
  }
  return candidates_.back().id;  // rounding made target equal to the sum
}

}  // namespace starchat
