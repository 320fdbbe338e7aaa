// The Python class Engine: a model, its tokenizer and the loop that computes.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/id_map.hpp"
#include "bindings/py_prefix.hpp"
#include "bindings/py_token_stream.hpp"
#include "engine/engine_loop.hpp"
#include "engine/fork_guard.hpp"
#include "grammar/grammar_compiler.hpp"
#include "model/model_info.hpp"
#include "model/weights.hpp"
#include "text/tokenizer.hpp"

namespace starchat {

// What engines on the same file share. Without it, Python's owner could hold the GIL while
// gigabytes are freed.
struct PyWeights {
  std::shared_ptr<const LoadedFile> file;
  std::shared_ptr<Tokenizer> tokenizer;

  ~PyWeights();
};

// A model that guesses for another one.
struct PyDraft {
  std::unique_ptr<ForwardPass> model;  // null: none
  IdMap ids;
  std::shared_ptr<PyWeights> weights;  // null: of a fake model
};

class PyEngine {
 public:
  PyEngine(std::unique_ptr<ForwardPass> model, ModelInfo info, std::shared_ptr<Tokenizer> tokenizer,
           int64_t prefix_cache_bytes = -1, int64_t unread_bytes = Scheduler::kUnreadBytes,
           std::shared_ptr<PyWeights> weights = nullptr, PyDraft draft = {});
  ~PyEngine();

  pybind11::dict info() const;
  std::shared_ptr<Tokenizer> tokenizer() const { return tokenizer_; }
  std::shared_ptr<PyWeights> weights() const { return weights_; }
  // One stream for each key.
  std::vector<std::unique_ptr<PyTokenStream>> submit_replies(
      const std::vector<int64_t>& token_ids, const SamplingParams& params,
      const PyReadyQueue* ready, const std::vector<int64_t>& keys, const Grammar* grammar,
      const std::vector<int64_t>& lead, const Grammar* otherwise, const std::string& cache_salt,
      double mask_seconds, double grammar_seconds);
  Grammar compile(const std::string& library, const std::string& kind, const std::string& text,
                  const std::vector<std::string>& helper, double seconds, int64_t bytes,
                  int64_t cache_bytes, int64_t copy_bytes);
  pybind11::array_t<float> logits(const std::vector<int64_t>& token_ids, int64_t first);
  std::pair<std::unique_ptr<PyTokenStream>, std::shared_ptr<Embedding>> embed(
      const std::vector<int64_t>& token_ids, const PyReadyQueue* ready, int64_t key);
  std::unique_ptr<PyTokenStream> score(const std::vector<int64_t>& token_ids, int64_t n_best,
                                       const PyReadyQueue* ready, int64_t key,
                                       const std::string& cache_salt);
  // A stream of one token that means nothing, and what holds the prompt's whole pages at its end.
  std::pair<std::unique_ptr<PyTokenStream>, std::unique_ptr<PyPrefix>> compute_prefix(
      const std::vector<int64_t>& token_ids, const PyReadyQueue* ready, int64_t key,
      const std::string& cache_salt);
  std::unique_ptr<PyPrefix> new_prefix(std::vector<int32_t> token_ids);
  pybind11::dict stats();
  void close();

 private:
  std::unique_ptr<PyPrefix> prefix(std::vector<int32_t> ids, std::shared_ptr<KvSequence> pages);

  struct Core {
    Core(std::unique_ptr<ForwardPass> model, int64_t prefix_cache_bytes, int64_t unread_bytes,
         PyDraft draft)
        : model(std::move(model)),
          draft(std::move(draft.model)),
          loop(*this->model, prefix_cache_bytes, unread_bytes, Scheduler::kMostAway,
               {this->draft.get(), std::move(draft.ids)}) {}
    std::unique_ptr<ForwardPass> model, draft;
    EngineLoop loop;
  };

  ModelInfo info_;
  const size_t kv_page_bytes_, draft_page_bytes_;  // here, as a forked child may ask for them
  std::shared_ptr<PyWeights> weights_;             // null: of a fake model
  std::shared_ptr<PyWeights> draft_weights_;       // null: none, or of a fake model
  std::shared_ptr<Tokenizer> tokenizer_;
  std::mutex grammars_mutex_;
  std::unique_ptr<GrammarCompiler> grammars_;  // made for the first constraint
  std::optional<ForkGuard<Core>> core_;        // empty only in the destructor
};

// Waits for it; Ctrl-C ends the wait.
Grammar finished(const PendingGrammar& pending);

}  // namespace starchat
