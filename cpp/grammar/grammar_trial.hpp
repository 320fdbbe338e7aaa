// Compiles grammars in a helper process first, whose time and memory are bounded: llguidance bounds
// neither, and aborts the process that it runs in where memory ends. What passed is compiled again
// in this process. The helper is another Python that loads only `_core`; it is started when the
// first grammar comes, stays, and ends with this process.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "text/tokenizer.hpp"

namespace starchat {

struct GrammarTrial {
  const Tokenizer& tokenizer;
  uint64_t vocabulary;  // a number for the tokenizer, one in this process
  std::string library, kind, text;
  double seconds;  // of CPU time
  int64_t bytes;   // of memory
};

enum class TrialEnd : uint32_t {
  kCompiled,
  kRefused,      // by llguidance
  kTooLong,      // more than `seconds`
  kTooLarge,     // more than `bytes`
  kOutOfMemory,  // a limit of this process, which the helper inherits, is narrower than `bytes`
  kCrashed,
  kVocabulary,   // llguidance does not support it: it says why in this process
  kUnwanted,     // nobody waits any more
  kUnavailable,  // no process can be started
};

struct TrialResult {
  TrialEnd end = TrialEnd::kUnavailable;
  double seconds = 0;
  int64_t compiled_bytes = 0, peak_bytes = 0;
  std::string message{};  // llguidance's
};

// Waits for a free helper, up to 4 of them, and for its answer. command: a Python program that
// calls serve_grammar_trials with its standard input; empty for kUnavailable. while_compiling is
// called once the helper works. is_wanted is asked while no helper is free. Throws OutOfMemoryError
// where memory does not suffice to start one.
TrialResult try_grammar(const std::vector<std::string>& command, const GrammarTrial& trial,
                        const std::function<void()>& while_compiling,
                        const std::function<bool()>& is_wanted);

// The helper: answers until the other end of the socket closes, then ends the process.
[[noreturn]] void serve_grammar_trials(int socket);

}  // namespace starchat
