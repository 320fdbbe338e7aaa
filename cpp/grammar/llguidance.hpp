// JSON Schemas, regular expressions and Lark grammars → Constraints, by the llguidance library. Its
// C interface, which the Python wheel exports, is opened at run time: masks are computed without
// Python and without the GIL. A grammar is compiled once and copied for each sequence.
#pragma once
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "sampling/constraint.hpp"
#include "text/tokenizer.hpp"

namespace starchat {

// A compiled grammar; any number of sequences may start from it, in any thread.
class Grammar {
 public:
  struct Compiled;
  explicit Grammar(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
  std::unique_ptr<Constraint> start() const;

 private:
  std::shared_ptr<const Compiled> compiled_;
};

class GrammarCompiler {
 public:
  // library: the path of llguidance's shared object. Throws UnsupportedFeatureError where it does
  // not have the interface, or cannot work with this vocabulary.
  GrammarCompiler(const std::string& library, std::shared_ptr<const Tokenizer> tokenizer);
  ~GrammarCompiler();

  // kind: "json_schema", "regex" or "lark". The latest are kept. Throws ConstraintError.
  Grammar compile(const std::string& kind, const std::string& text);

 private:
  struct Vocabulary;
  struct Kept {
    std::string kind, text;
    Grammar grammar;
  };
  static constexpr size_t kMaxKept = 32;
  static constexpr size_t kMaxKeptBytes = 1 << 20;  // of text: compiled it is some 50 times that

  friend struct Grammar::Compiled;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  std::mutex mutex_;
  std::list<Kept> kept_;  // the latest first
};

}  // namespace starchat
