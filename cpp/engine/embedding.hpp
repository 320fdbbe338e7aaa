// What a text is turned into: the mean of the hidden states of its tokens, of length 1. Summed in
// double and in order of position, so that neither chunks nor company change a bit.
#pragma once
#include <cmath>
#include <span>
#include <vector>

#include "base/errors.hpp"

namespace starchat {

class Embedding {
 public:
  explicit Embedding(int n_embd) : vector_(n_embd) {}

  void add(std::span<const float> state) {
    for (size_t i = 0; i < vector_.size(); ++i) vector_[i] += state[i];
  }

  // The sum has the mean's direction. Throws NumericalError where it has none.
  void normalise() {
    double squares = 0;
    for (const double x : vector_) squares += x * x;
    const double length = std::sqrt(squares);
    if (!(length > 0 && std::isfinite(length)))
      throw NumericalError(
          "the model computed hidden states that are zero or not finite: the file's weights may be "
          "damaged");
    for (double& x : vector_) x /= length;
  }

  std::span<const double> vector() const { return vector_; }

 private:
  std::vector<double> vector_;  // (n_embd)
};

}  // namespace starchat
