// This process's helpers, in which grammars are compiled first, with bounded time and memory:
// llguidance bounds neither, and aborts the process that it runs in where memory ends. A helper is
// another Python that loads only `_core`; it is started when the first grammar comes, stays, and
// ends with this process.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "grammar/grammar_trial.hpp"

namespace starchat {

// Waits for a free helper, up to 4 of them, and for its answer. command: a Python program that
// calls serve_grammar_trials with its standard input; empty for kUnavailable. while_compiling is
// called once the helper works. is_wanted is asked while no helper is free. Throws OutOfMemoryError
// where memory does not suffice to start one.
TrialResult try_grammar(const std::vector<std::string>& command, const GrammarTrial& trial,
                        const std::function<void()>& while_compiling,
                        const std::function<bool()>& is_wanted);

}  // namespace starchat
