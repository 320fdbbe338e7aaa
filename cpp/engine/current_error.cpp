#include "engine/current_error.hpp"

#include <new>

#include "base/errors.hpp"

namespace starchat {
namespace {

// Made when the library is loaded: later there may be no memory for it. Never destroyed, because a
// thread may be left with a turn when the process ends.
const std::exception_ptr& out_of_memory = *new std::exception_ptr(std::make_exception_ptr(
    OutOfMemoryError("no memory is left to continue this sequence: free memory, run fewer "
                     "sequences at once, or load the model with a smaller n_ctx")));

}  // namespace

std::exception_ptr current_error() noexcept {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return out_of_memory;
  } catch (...) {
    return std::current_exception();
  }
}

}  // namespace starchat
