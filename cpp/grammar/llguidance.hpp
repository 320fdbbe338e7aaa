// Makes Constraints from JSON Schemas, regular expressions and Lark grammars with the llguidance
// library. The C functions that its Python wheel exports are loaded at run time (dlopen), so masks
// are computed without Python and without the GIL.
#pragma once
#include <memory>
#include <string>
#include <utility>

#include "grammar/call_watch.hpp"
#include "grammar/grammar_copies.hpp"
#include "sampling/constraint.hpp"
#include "text/tokenizer.hpp"

namespace starchat {

// A compiled grammar. Any number of sequences may use it, from any thread.
class Grammar {
 public:
  struct Compiled;
  explicit Grammar(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
  // Throws ConstraintError where there is no room for a copy.
  std::unique_ptr<Constraint> start(const GrammarBudget& budget = {}) const;
  // Counts its copies, of so many bytes each.
  void count_copies(std::shared_ptr<GrammarCopies> copies, int64_t bytes);

 private:
  std::shared_ptr<const Compiled> compiled_;
  std::shared_ptr<GrammarCopies> copies_;  // null: not counted
  int64_t copy_bytes_ = 0;
};

// The library and its form of one vocabulary.
struct GrammarVocabulary;

// Throw UnsupportedFeatureError if the shared object at `path` lacks functions, and if it does not
// support this vocabulary.
void check_library(const std::string& path);
std::shared_ptr<const GrammarVocabulary> grammar_vocabulary(
    const std::string& library, std::shared_ptr<const Tokenizer> tokenizer);

// Compiles in this thread, whose stack needs so many bytes for a text of n_bytes, and sets no bound
// to time or memory. kind: "json_schema", "regex" or "lark". Throws ConstraintError.
size_t compiling_stack_bytes(size_t n_bytes);
Grammar compile_grammar(std::shared_ptr<const GrammarVocabulary> vocabulary,
                        const std::string& kind, const std::string& text);

}  // namespace starchat
