// Which sequences guess ahead in a step, by what, and how many ids: by prompt look-up, by the draft
// model, or not at all. It learns what steps take, by their columns, and how many guesses were
// right. A stream never falls behind one without guesses by more than a share of its time. It has
// no clock of its own, and is used where there is a draft model.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>

namespace starchat {

enum class GuessSource : uint8_t { kNone, kForced, kLookUp, kDraft };

// The share of guesses that were right, of those whose predecessors were. Old ones count less.
class Acceptance {
 public:
  void learn(int n_guessed, int n_right, double memory) {
    if (n_guessed == 0) return;
    n_right_ = memory * n_right_ + n_right;
    n_tried_ = memory * n_tried_ + n_right + (n_right < n_guessed);
  }
  // As if `expected` had been seen a few times before.
  double value(double expected) const {
    return (n_right_ + kWeight * expected) / (n_tried_ + kWeight);
  }
  double n_tried() const { return n_tried_; }

 private:
  static constexpr double kWeight = 4;
  double n_right_ = 0, n_tried_ = 0;
};

// What a step takes, by its columns. An interruption by another program can only lengthen a step,
// so the shortest counts. What was not measured for long is hoped to take less and less, until it
// is tried again.
class ColumnTimes {
 public:
  // Of a step of one column where nothing was measured, and how much each further one adds to it.
  explicit ColumnTimes(double first_s, double growth) : first_s_(first_s), growth_(growth) {}
  void learn(int n_columns, double seconds);
  double measured(int n_columns) const { return between(n_columns, 1); }
  double hoped(int n_columns) const { return between(n_columns, kForget); }
  // Whether steps of other numbers of columns were measured, but not of this one.
  bool lacks(int n_columns) const;

 private:
  static constexpr int kMost = 64;          // columns; wider steps are as kMost
  static constexpr double kForget = 0.999;  // for each other step since it was measured
  double between(int n_columns, double forget) const;
  double shape(int n_columns) const { return 1 + growth_ * (n_columns - 1); }

  double first_s_, growth_;
  std::array<double, kMost + 1> shortest_s_{};  // 0: not measured
  std::array<int64_t, kMost + 1> measured_at_{};
  int64_t n_measured_ = 0;
};

// What a sequence has won or lost by guesses of all kinds so far.
struct GuessRecord {
  Acceptance draft, look_up;
  double plain_s = 0;    // what it would have taken without guesses, the prompt included
  double balance_s = 0;  // what it took less
  // Of the step that it is in: what that takes, and a step without guesses would take.
  double step_s = 0, plain_step_s = 0;
  std::optional<double> began_s;  // by the scheduler's count of seconds, until its prompt is read
};

// A sequence that decodes in the next step.
struct GuessOption {
  double draft_acceptance = 0, look_up_acceptance = 0;
  int n_found = 0;         // ids guessed already: by look-up, or forced
  bool is_forced = false;  // these are right
  int n_most = 0;          // that the draft model may guess; 0: it cannot
  double allowance_s = 0;  // that the step may lose of its time
  int n_drafted = 0;       // the choice; 0: it keeps what was found
};

class GuessPolicy {
 public:
  GuessPolicy();

  // Chooses n_drafted of each; returns what the step is expected to win, in seconds of each stream.
  double choose(std::span<GuessOption> options) const;

  GuessOption option(const GuessRecord& record, int n_found, bool is_forced, int n_most) const;
  // What it costs the draft model to catch up with so many ids, and whether it may: the gain of a
  // step is as choose() returns it, and a reply has so many tokens left.
  double catch_up_seconds(int n_columns) const { return n_columns * draft_column_s_; }
  bool may_catch_up(const GuessRecord& record, int n_columns, double gain_s, int n_left) const;

  // The step that the record's sequence is in computes n_columns, n_decoding of them without
  // guesses, and the draft model took so long before.
  void begin_step(GuessRecord& record, int n_columns, int n_decoding, double drafted_s) const;
  // What the turn at its end brought.
  void end_step(GuessRecord& record, GuessSource source, int n_guessed, int n_right, int n_tokens);

  void step_took(int n_columns, double seconds) { step_.learn(n_columns, seconds); }
  void draft_took(int n_columns, double seconds);

 private:
  static double tokens(double acceptance, int n_guesses);
  double loan(const GuessRecord& record) const;

  ColumnTimes step_, draft_;
  double draft_column_s_;  // of wide steps of the draft model
  bool has_draft_columns_ = false;
  Acceptance draft_right_, look_up_right_;  // of all sequences
};

}  // namespace starchat
