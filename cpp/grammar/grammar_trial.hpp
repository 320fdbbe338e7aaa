// A grammar that is compiled on trial in a helper process: what is asked and answered, and how both
// cross the socket between the processes, which run the same program.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

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
  kCrashed,      // llguidance did
  kVocabulary,   // llguidance does not support it: it says why in this process
  // What no helper answers:
  kKilled,       // two helpers ended without an answer
  kOverloaded,   // a helper had no answer in time, or did not start in time
  kUnwanted,     // nobody waits any more
  kUnavailable,  // no process can be started
};

struct TrialResult {
  TrialEnd end = TrialEnd::kUnavailable;
  double seconds = 0;
  int64_t compiled_bytes = 0, copy_bytes = 0, peak_bytes = 0;  // a copy: what each reply has
  std::string message{};                                       // llguidance's
};

// ---- on the socket: a greeting; then a request and an answer, each with the texts it counts ----

constexpr std::chrono::milliseconds kExchange{10'000};  // for Python to start, for what is sent
constexpr uint64_t kGreeting = 0x3354616972546772;      // changes with these structs

struct TrialGreeting {
  uint64_t mark;
  int32_t pid, error;  // of the helper; errno where there is none
};

constexpr uint32_t kControlToken = uint32_t{1} << 31;  // with the length of a token

struct TrialRequest {
  uint64_t vocabulary;
  double seconds;
  int64_t bytes;
  uint64_t idle_seconds;  // without a request, then the helper ends; 0: it stays
  uint64_t n_kind, n_text;
  uint64_t n_library, n_tokens, n_token_bytes;  // 0 where the helper knows the vocabulary
  uint64_t forgets;                             // whether it forgets the vocabularies before
};

struct TrialAnswer {
  TrialEnd end;
  uint32_t is_last;  // the helper ends
  double seconds;
  int64_t compiled_bytes, copy_bytes, peak_bytes;
  uint64_t n_message;
};

using TrialClock = std::chrono::steady_clock;

// False where the other end is closed or `until` has passed.
bool send_all(int socket, const void* data, size_t size, TrialClock::time_point until);
bool receive_all(int socket, void* data, size_t size, TrialClock::time_point until);

}  // namespace starchat
