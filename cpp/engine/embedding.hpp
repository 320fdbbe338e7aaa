// The embedding of a text: the mean of the hidden states of its tokens, scaled to length 1. States
// are added in double and in the order of positions, so the bits depend neither on prompt slices
// nor on other sequences.
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

  // The sum has the direction of the mean. Throws NumericalError if it is zero or not finite.
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
