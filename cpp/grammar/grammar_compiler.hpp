// Compiles grammars within bounds of time and memory, each one once however many ask for it, and
// keeps the latest by their compiled size. What was refused is refused again without work.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "grammar/llguidance.hpp"
#include "text/tokenizer.hpp"

namespace starchat {

struct CompileLimits {
  double seconds = 5;               // of CPU time; without a helper process, of waiting
  int64_t bytes = 256 << 20;        // of memory, while it compiles
  int64_t cache_bytes = 256 << 20;  // of all compiled grammars that are kept
  int64_t copy_bytes = 256 << 20;   // of all copies of large grammars that replies have
};

// A grammar that is being compiled in a thread of its own. Whoever waits may leave: the thread
// belongs to nobody, and what it makes is kept.
class PendingGrammar {
 public:
  struct Work;
  explicit PendingGrammar(std::shared_ptr<Work> work);
  ~PendingGrammar();
  PendingGrammar(const PendingGrammar&) = delete;

  bool wait(std::chrono::milliseconds timeout) const;  // whether it is done
  // Waits. Throws ConstraintError, OutOfMemoryError, EngineClosedError, and UnsupportedFeatureError
  // for a vocabulary.
  Grammar get() const;

 private:
  std::shared_ptr<Work> work_;
};

class GrammarCompiler {
 public:
  // library: the path of llguidance's shared object. helper: the command of helper_pool.hpp,
  // empty to compile in this process alone. Throws UnsupportedFeatureError if functions are
  // missing.
  GrammarCompiler(std::string library, std::shared_ptr<const Tokenizer> tokenizer,
                  std::vector<std::string> helper = {}, CompileLimits limits = {});

  // kind: "json_schema", "regex" or "lark". Throws ConstraintError for a text that is too long or
  // was refused before, and EngineClosedError.
  std::unique_ptr<PendingGrammar> begin(const std::string& kind, const std::string& text);
  Grammar compile(const std::string& kind, const std::string& text);

  // Whoever waits gets an EngineClosedError. Nothing waits here.
  void close();

  struct Counts {
    int64_t n_compiled, n_kept, kept_bytes, n_tried;
  };
  Counts counts() const;

 private:
  struct State;
  std::shared_ptr<PendingGrammar::Work> start(const std::string& kind, const std::string& text,
                                              const std::string& key);

  std::shared_ptr<State> state_;  // shared with the threads that compile
};

}  // namespace starchat
