// A smaller model that guesses what the model will say (speculative decoding: Leviathan, Kalman and
// Matias 2023). Its guesses cost a step of its own each, for all sequences together; the model
// checks them in its next step, so a wrong one changes no token. It has pages and a prefix cache of
// its own. Whatever fails here ends no reply: there are no guesses then.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/id_map.hpp"
#include "engine/prefix_cache.hpp"
#include "engine/sequence.hpp"
#include "model/batch.hpp"

namespace starchat {

class DraftModel {
 public:
  // It may be behind by so many ids before it guesses; more of them are read as a prompt.
  static constexpr int kFewIds = 8;

  // n_together: sequences that guess() is given at once, at most.
  DraftModel(ForwardPass& model, IdMap ids, size_t prefix_cache_bytes, int n_together);

  // Ids of a sequence that it has not read; it has to read the last one in any case.
  static int n_behind(const Sequence& sequence);
  // How many ids it may guess behind those of a sequence.
  int n_room(const Sequence& sequence) const;
  int max_columns() const { return model_.max_columns(); }

  // Reads at most n_columns ids of a sequence, as its prompt; those that another sequence has left
  // cost nothing. Returns how many it read.
  int read(Sequence& sequence, int n_columns);
  struct Request {
    Sequence* sequence;
    int n_guesses;
  };
  // Replaces the guesses of sequences that it is few ids behind; fewer than asked for where it does
  // not know one.
  void guess(std::span<const Request> requests);

  void keep_prefix(const Sequence& sequence);  // of one that ends
  size_t n_prefix_pages() const { return prefixes_.n_pages(); }
  ForwardPass& model() { return model_; }

  // Of its steps since the last call: columns and seconds.
  std::vector<std::pair<int, double>> take_times() { return std::exchange(times_, {}); }
  uint64_t n_columns() const { return n_columns_; }  // computed so far

 private:
  void open(Sequence& sequence);  // makes room for pages, if there is none yet
  bool reserve(Sequence& sequence, int n_tokens);
  bool compute();
  void add_column(Sequence& sequence, int32_t id, int position);
  std::vector<int32_t> ids_of(const Sequence& sequence, int begin, int end) const;
  bool choose(Sequence& sequence, std::span<const float> row, bool is_first);

  ForwardPass& model_;
  const IdMap ids_;
  PrefixCache prefixes_;
  const size_t n_together_;
  Batch batch_;
  std::vector<float> logits_;    // (n_together, n_vocab of the draft)
  std::vector<float> row_;       // (n_vocab of the model): logits of one column by the model's ids
  std::vector<Request> active_;  // scratch memory of guess()
  std::vector<std::pair<int, double>> times_;
  uint64_t n_columns_ = 0;
};

}  // namespace starchat
