// How wide a step may be while others wait for their next token: from how long steps took. A step
// reads every weight, which takes a while whatever its width, and calculates, which takes longer
// the wider it is; how the two compare is the machine's and the file's affair. No clock in here.
#pragma once
#include <algorithm>
#include <limits>

namespace starchat {

class StepBudget {
 public:
  // Columns, prompts included, of a step that takes about kMostSteps times as long as one that
  // only decodes for n_decoding sequences: prompts in between delay their tokens by no more.
  int most_columns(int n_decoding) const {
    const double n_free = narrow_s_ < kUnknown ? narrow_s_ / column_s_ : kFirstGuess;
    return static_cast<int>(std::min(kMostSteps * std::max<double>(n_free, n_decoding), 1e6));
  }

  // What a step took; only_decodes: it had no column of a prompt.
  void learn(int n_columns, bool only_decodes, double seconds) {
    seconds = std::max(seconds, 1e-9);
    if (only_decodes)
      follow(narrow_s_, seconds);
    else
      follow(column_s_, seconds / n_columns);
    column_s_ = std::min(column_s_, seconds / n_columns);
  }

 private:
  static constexpr double kMostSteps = 2.6;  // and the reading, and interruptions: 4 at most
  static constexpr double kFirstGuess = 8;
  static constexpr double kUnknown = std::numeric_limits<double>::infinity();

  // Interruptions only ever lengthen a step: the shortest is believed. What takes longer for good,
  // as steps do when contexts grow, is believed after a few.
  static void follow(double& shortest_s, double seconds) {
    shortest_s = std::min(shortest_s * 1.05, seconds);
  }

  double narrow_s_ = kUnknown;  // of a step that only decodes
  double column_s_ = kUnknown;  // of a wide step, each column's share
};

}  // namespace starchat
