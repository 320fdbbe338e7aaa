#include "engine/drafter.hpp"

#include <algorithm>
#include <utility>

namespace starchat {

// Keys are unique for vocabularies of up to 2^21 tokens. For larger ones, a collision only leads to
// a wrong guess.
uint64_t Drafter::key(std::span<const int32_t> ids, size_t end) {
  uint64_t key = 0;
  for (size_t i = end - kGram; i < end; ++i) key = key << 21 ^ static_cast<uint64_t>(ids[i]);
  return key;
}

std::span<const int32_t> Drafter::guess(std::span<const int32_t> ids, int limit) {
  const bool resumes = std::exchange(resumes_, false);  // valid for one step
  if (ids.size() <= kGram || limit <= 0) return {};
  for (; n_indexed_ < ids.size(); ++n_indexed_) {
    next_[key(ids, n_indexed_)] = static_cast<int32_t>(n_indexed_);
  }
  if (n_to_skip_ > 0) {
    --n_to_skip_;
    return {};
  }
  if (const auto found = next_.find(key(ids, ids.size())); found != next_.end())
    distance_ = ids.size() - static_cast<size_t>(found->second);
  else
    limit = resumes ? std::min(limit, kShort) : 0;
  const std::span<const int32_t> rest = ids.last(distance_);
  return rest.first(std::min<size_t>(rest.size(), std::min(limit, length_)));
}

void Drafter::learn(int n_guessed, int n_right) {
  if (n_guessed == 0) return;
  resumes_ = n_right > 0;
  if (n_right == n_guessed) {
    length_ = std::min(2 * length_ + 1, kLongest);
  } else if (2 * n_right < n_guessed) {
    length_ = std::max(length_ / 2, 1);
  }
  if (n_right > 0) {
    n_failures_ = 0;
  } else {  // pause for 0, 1, 3, 7, 15, 31 steps
    n_to_skip_ = (1 << n_failures_) - 1;
    n_failures_ = std::min(n_failures_ + 1, 5);
  }
}

}  // namespace starchat
