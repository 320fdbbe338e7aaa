#include "engine/token_stream.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace starchat {

TokenStream::TokenStream(std::shared_ptr<WakeEvent> engine, std::shared_ptr<ReadyQueue> ready,
                         int64_t key)
    : engine_(std::move(engine)), ready_(std::move(ready)) {
  if (ready_) place_ = ready_->add(key);
}

TokenStream::~TokenStream() {
  if (ready_) ready_->remove(place_);
}

TokenStream::Next TokenStream::next(std::chrono::milliseconds timeout, SampledToken& token) {
  Lock lock(mutex_);
  StreamState before = state_now();
  was_asked_ = true;
  signal_reading(before);
  if (!changed_.wait_for(lock, timeout, [&] { return !tokens_.empty() || ended(); }))
    return Next::kTimeout;
  if (!tokens_.empty()) {
    before = state_now();
    token = std::move(tokens_.front());
    tokens_.pop_front();
    signal_reading(before);
    return Next::kToken;
  }
  if (error_) std::rethrow_exception(error_);
  return Next::kEnd;
}

std::vector<SampledToken> TokenStream::drain() {
  const Lock lock(mutex_);
  const StreamState before = state_now();
  announced_ = false;
  was_asked_ = true;
  if (tokens_.empty() && error_) std::rethrow_exception(error_);
  std::vector<SampledToken> tokens(std::make_move_iterator(tokens_.begin()),
                                   std::make_move_iterator(tokens_.end()));
  tokens_.clear();
  if (error_) announce();  // the error is for the next drain
  signal_reading(before);
  return tokens;
}

void TokenStream::cancel() {
  finish(FinishReason::kCancelled);
  engine_->signal();
}

std::optional<FinishReason> TokenStream::finish_reason() {
  const Lock lock(mutex_);
  return tokens_.empty() ? reason_ : std::nullopt;
}

std::optional<SampledToken> TokenStream::stop_token() {
  const Lock lock(mutex_);
  return tokens_.empty() ? stop_token_ : std::nullopt;
}

StreamCounts TokenStream::counts() {
  const Lock lock(mutex_);
  return counts_;
}

void TokenStream::set_counts(StreamCounts counts, bool is_news) noexcept {
  const Lock lock(mutex_);
  counts_ = counts;
  if (is_news) announce();
}

StreamState TokenStream::state() {
  const Lock lock(mutex_);
  return state_now();
}

void TokenStream::push(SampledToken token, const StreamCounts& counts) {
  {
    const Lock lock(mutex_);
    if (ended()) return;
    counts_ = counts;
    tokens_.push_back(std::move(token));
    announce();
  }
  changed_.notify_one();
}

void TokenStream::finish(FinishReason reason, std::optional<SampledToken> stop_token) noexcept {
  {
    const Lock lock(mutex_);
    if (ended()) return;
    reason_ = reason;
    stop_token_ = std::move(stop_token);
    announce();
  }
  changed_.notify_all();
}

void TokenStream::fail(std::exception_ptr error) noexcept {
  {
    const Lock lock(mutex_);
    if (ended()) return;
    error_ = std::move(error);
    announce();
  }
  changed_.notify_all();
}

void TokenStream::announce() noexcept {
  if (!ready_ || announced_) return;
  ready_->push(place_);
  announced_ = true;
}

StreamState TokenStream::state_now() const {
  const int n = static_cast<int>(tokens_.size());
  return {ended(), was_asked_ && n <= kMostBehind, std::max(0, kCapacity - n)};
}

void TokenStream::signal_reading(const StreamState& before) {
  const StreamState now = state_now();
  if (now.has_ended) return;
  if (now.is_read != before.is_read || now.has_room() != before.has_room()) engine_->signal();
}

}  // namespace starchat
