#include "engine/guess_policy.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace starchat {
namespace {

// The floor is 0.97 of the speed without guesses; the rest of 0.03 is for what is measured badly.
constexpr double kShareToLose = 0.02;
// Steps that a stream may be behind at its start, while guesses are expected to gain.
constexpr double kLoanedSteps = 0.5;
// Drafting has to be better than not by so much.
constexpr double kWorthwhile = 1.02;
// What drafts of StarCoder's family are hoped for before anything was measured, and look-ups.
constexpr double kHope = 0.6, kHopeOfLookUp = 0.7;
// How much a turn leaves of what was known before: of a sequence, and of all.
constexpr double kMemory = 0.9, kLongMemory = 0.99;
// Before anything was measured: seconds of a step, and of the draft model's.
constexpr double kStepS = 1, kDraftS = 0.1;
// Of steps with more columns. 4 columns take 1.36 as long as one, 16 take 3.26 (SantaCoder's
// shape).
constexpr double kGrowth = 0.13;
constexpr int kWide = 16;         // columns, of a step of the draft model that reads a prompt
constexpr double kWideGain = 32;  // how much less a column takes there, before it was measured
constexpr int kNearTokens = 64;   // for which a gain is believed in
constexpr double kGrow = 1.05;

}  // namespace

void ColumnTimes::learn(int n_columns, double seconds) {
  n_columns = std::clamp(n_columns, 1, kMost);
  seconds = std::max(seconds, 1e-9);
  double& shortest_s = shortest_s_[n_columns];
  shortest_s = shortest_s > 0 ? std::min(shortest_s * kGrow, seconds) : seconds;
  measured_at_[n_columns] = ++n_measured_;
}

bool ColumnTimes::lacks(int n_columns) const {
  if (shortest_s_[std::clamp(n_columns, 1, kMost)] > 0) return false;
  return std::ranges::any_of(shortest_s_, [](double seconds) { return seconds > 0; });
}

// Between two that were measured, or by the expected growth from one.
double ColumnTimes::between(int n_columns, double forget) const {
  n_columns = std::clamp(n_columns, 1, kMost);
  int below = n_columns, above = n_columns;
  while (below > 0 && shortest_s_[below] == 0) --below;
  while (above <= kMost && shortest_s_[above] == 0) ++above;
  const auto at = [&](int n) {
    return shortest_s_[n] * std::pow(forget, static_cast<double>(n_measured_ - measured_at_[n]));
  };
  if (below == 0 && above > kMost) return first_s_ * shape(n_columns);
  if (below == 0) return at(above) * shape(n_columns) / shape(above);
  if (above > kMost) return at(below) * shape(n_columns) / shape(below);
  if (above == below) return at(below);
  const double part = static_cast<double>(n_columns - below) / (above - below);
  return at(below) + part * (at(above) - at(below));
}

GuessPolicy::GuessPolicy()
    : step_(kStepS, kGrowth), draft_(kDraftS, kGrowth), draft_column_s_(kDraftS / kWideGain) {}

// The tokens that a step is expected to give: the one that it computes, and guesses up to the first
// wrong one.
double GuessPolicy::tokens(double acceptance, int n_guesses) {
  double sum = 1, right = 1;
  for (int i = 0; i < n_guesses; ++i) sum += right *= acceptance;
  return sum;
}

double GuessPolicy::loan(const GuessRecord& record) const {
  return record.balance_s + kShareToLose * record.plain_s + kLoanedSteps * step_.measured(1);
}

GuessOption GuessPolicy::option(const GuessRecord& record, int n_found, bool is_forced,
                                int n_most) const {
  return {.draft_acceptance = record.draft.value(draft_right_.value(kHope)),
          .look_up_acceptance = record.look_up.value(look_up_right_.value(kHopeOfLookUp)),
          .n_found = n_found,
          .is_forced = is_forced,
          .n_most = is_forced ? 0 : n_most,
          .allowance_s = loan(record)};
}

double GuessPolicy::choose(std::span<GuessOption> options) const {
  const auto n = static_cast<int>(options.size());
  for (GuessOption& option : options) option.n_drafted = 0;
  if (n == 0 || step_.lacks(n)) return 0;  // what guesses are compared with is measured first
  // What each brings without the draft model, and the most that the step may lose.
  const auto found_tokens = [&](const GuessOption& option) {
    return tokens(option.is_forced ? 1 : option.look_up_acceptance, option.n_found);
  };
  double base_tokens = 0, most_lost_s = options.front().allowance_s;
  int base_columns = n, n_longest = 0;
  for (const GuessOption& option : options) {
    base_tokens += found_tokens(option);
    base_columns += option.n_found;
    n_longest = std::max(n_longest, option.n_most);
    most_lost_s = std::min(most_lost_s, option.allowance_s);
  }
  const double base_s = step_.hoped(base_columns), base_rate = base_tokens / base_s;

  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) {
    return options[a].draft_acceptance > options[b].draft_acceptance;
  });
  double best_rate = kWorthwhile * base_rate, gain_s = 0;
  int best_guesses = 0, n_best = 0;  // so many of the first in `order`, as far as they can
  for (int n_guesses = 1; n_guesses <= n_longest; ++n_guesses) {
    double all_tokens = base_tokens;
    int n_columns = base_columns, n_drafting = 0;
    for (int rank = 0; rank < n; ++rank) {
      const GuessOption& option = options[order[rank]];
      const int k = std::min(n_guesses, option.n_most);
      const double gained = tokens(option.draft_acceptance, k) - found_tokens(option);
      if (k == 0 || gained <= 0) continue;
      all_tokens += gained;
      n_columns += k - option.n_found;
      ++n_drafting;
      const double all_s = step_.hoped(n_columns) + n_guesses * draft_.hoped(n_drafting);
      const double rate = all_tokens / all_s;
      if (rate <= best_rate || all_s - base_s > most_lost_s) continue;
      best_rate = rate;
      best_guesses = n_guesses;
      n_best = rank + 1;
      gain_s = all_tokens / base_rate - all_s;
    }
  }
  for (int rank = 0; rank < n_best; ++rank) {
    GuessOption& option = options[order[rank]];
    const int k = std::min(best_guesses, option.n_most);
    if (k > 0 && tokens(option.draft_acceptance, k) > found_tokens(option)) option.n_drafted = k;
  }
  return gain_s;
}

// At once, if the stream can lose it; or if what is known of the draft will bring twice as much.
bool GuessPolicy::may_catch_up(const GuessRecord& record, int n_columns, double gain_s,
                               int n_left) const {
  const double cost_s = catch_up_seconds(n_columns);
  if (cost_s <= loan(record)) return true;
  const double expected = draft_right_.value(kHope);
  const int n_steps = static_cast<int>(std::min(n_left, kNearTokens) / tokens(expected, 2));
  return draft_right_.n_tried() > kNearTokens / 2 && 2 * cost_s <= gain_s * n_steps;
}

void GuessPolicy::begin_step(GuessRecord& record, int n_columns, int n_decoding,
                             double drafted_s) const {
  record.plain_step_s = step_.measured(n_decoding);
  record.step_s = step_.measured(n_columns) + drafted_s;
}

void GuessPolicy::end_step(GuessRecord& record, GuessSource source, int n_guessed, int n_right,
                           int n_tokens) {
  if (source == GuessSource::kDraft) {
    record.draft.learn(n_guessed, n_right, kMemory);
    draft_right_.learn(n_guessed, n_right, kLongMemory);
  } else if (source == GuessSource::kLookUp) {
    record.look_up.learn(n_guessed, n_right, kMemory);
    look_up_right_.learn(n_guessed, n_right, kLongMemory);
  }
  record.plain_s += n_tokens * record.plain_step_s;
  record.balance_s += n_tokens * record.plain_step_s - record.step_s;
  record.step_s = record.plain_step_s = 0;
}

void GuessPolicy::draft_took(int n_columns, double seconds) {
  if (n_columns < kWide) {
    draft_.learn(n_columns, seconds);
    if (!has_draft_columns_) draft_column_s_ = draft_.measured(1) / kWideGain;
    return;
  }
  const double column_s = std::max(seconds, 1e-9) / n_columns;
  draft_column_s_ = has_draft_columns_ ? std::min(draft_column_s_ * kGrow, column_s) : column_s;
  has_draft_columns_ = true;
}

}  // namespace starchat
