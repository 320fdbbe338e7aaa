// The helper process: compiles the grammars that come from a socket, within their bounds, and says
// how each went. Its owner's side is helper_pool.hpp.
#pragma once

namespace starchat {

// Answers until the other end of the socket closes, then ends the process.
[[noreturn]] void serve_grammar_trials(int socket);

}  // namespace starchat
