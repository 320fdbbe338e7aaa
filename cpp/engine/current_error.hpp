// The exception that is being handled, as a stream tells it to its reader.
#pragma once
#include <exception>

namespace starchat {

// std::bad_alloc becomes OutOfMemoryError. Allocates nothing.
std::exception_ptr current_error() noexcept;

}  // namespace starchat
