// Makes Constraints from JSON Schemas, regular expressions and Lark grammars with the llguidance
// library. The C functions that its Python wheel exports are loaded at run time (dlopen), so masks
// are computed without Python and without the GIL. A grammar is compiled once and copied for each
// sequence.
#pragma once
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "sampling/constraint.hpp"
#include "text/tokenizer.hpp"

namespace starchat {

// A compiled grammar. Any number of sequences may use it, from any thread.
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
  // library: the path of llguidance's shared object. Throws UnsupportedFeatureError if functions
  // are missing or if it does not support this vocabulary.
  GrammarCompiler(const std::string& library, std::shared_ptr<const Tokenizer> tokenizer);
  ~GrammarCompiler();

  // kind: "json_schema", "regex" or "lark". Caches the latest grammars. Throws ConstraintError.
  Grammar compile(const std::string& kind, const std::string& text);

 private:
  struct Vocabulary;
  struct Kept {
    std::string kind, text;
    Grammar grammar;
  };
  static constexpr size_t kMaxKept = 32;
  static constexpr size_t kMaxKeptBytes = 1 << 20;  // of text; a compiled grammar takes about 50x

  friend struct Grammar::Compiled;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  std::mutex mutex_;
  std::list<Kept> kept_;  // most recently used first
};

}  // namespace starchat
