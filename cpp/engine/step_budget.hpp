// How many columns a step may have while running sequences wait for their next token. The time of a
// step is that of reading all weights, which is constant, or of computing, which grows with its
// columns; the ratio depends on machine and model. So this learns from measured times. It has no
// clock of its own.
#pragma once
#include <algorithm>
#include <limits>

namespace starchat {

class StepBudget {
 public:
  // The number of columns, prompts included, with which a step takes about kMostSteps times as long
  // as a step that only decodes n_decoding sequences.
  int most_columns(int n_decoding) const {
    const double n_free = narrow_s_ < kUnknown ? narrow_s_ / column_s_ : kFirstGuess;
    return static_cast<int>(std::min(kMostSteps * std::max<double>(n_free, n_decoding), 1e6));
  }

  // The measured time of a step. only_decodes: it had no column of a prompt.
  void learn(int n_columns, bool only_decodes, double seconds) {
    seconds = std::max(seconds, 1e-9);
    if (only_decodes)
      follow(narrow_s_, seconds);
    else
      follow(column_s_, seconds / n_columns);
    column_s_ = std::min(column_s_, seconds / n_columns);
  }

 private:
  // With the time of reading weights and interruptions, the longest gap between two tokens was
  // measured as 3.3 to 3.7 steps; 4 is the aim. With 3 it was 3.9 to 4.9.
  static constexpr double kMostSteps = 2.6;
  static constexpr double kFirstGuess = 8;
  static constexpr double kUnknown = std::numeric_limits<double>::infinity();

  // An interruption by another program can only lengthen a step, so the minimum is used. It grows
  // by 5 % a step, so that a lasting change (a longer context) is followed after a few steps.
  static void follow(double& shortest_s, double seconds) {
    shortest_s = std::min(shortest_s * 1.05, seconds);
  }

  double narrow_s_ = kUnknown;  // time of a step that only decodes
  double column_s_ = kUnknown;  // time of a wide step, per column
};

}  // namespace starchat
