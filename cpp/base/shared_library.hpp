// Opens a shared library for good: threads may still run its code when the process ends.
#pragma once
#include <string>

namespace starchat {

// What dlopen returns. In a forked child, a copy of what its parent had opened (Linux): threads of
// the parent may have held the library's locks, as Rust's lock for backtraces, and nobody would
// release them in the child. Throws
// UnsupportedFeatureError, OutOfMemoryError.
void* open_library(const std::string& path);

}  // namespace starchat
