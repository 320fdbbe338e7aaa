#include "grammar/grammar_compiler.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "base/latest_by_size.hpp"
#include "base/thread_pool.hpp"
#include "base/thread_priority.hpp"
#include "grammar/grammar_copies.hpp"
#include "grammar/helper_pool.hpp"
#include "grammar/memory_room.hpp"

namespace starchat {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxBytes = 1 << 22;
constexpr double kLongSeconds = 0.05;            // to compile: then others go first
constexpr int64_t kRefusedBytes = 8 << 20;       // of texts that were refused
constexpr std::chrono::minutes kRefusedFor{10};  // a busy machine may count more time than another
constexpr int kMostUnbounded = 4;                // at once, without a helper process
constexpr int64_t kCompiledBytesPerByte = 50;    // without a helper process: an estimate

ConstraintError too_long(double seconds, double limit) {
  char numbers[100];
  std::snprintf(numbers, sizeof numbers, "took %.3g s to compile, expected at most %.3g s", seconds,
                limit);
  return ConstraintError(std::string(numbers) +
                             ": simplify it (a multipleOf of many digits, or thousands of "
                             "alternatives, cost most), or "
                             "raise limits.compile_seconds",
                         {.limit = limit, .got = seconds});
}

// bytes: in use when an allocation failed, which may be a page or two below the limit.
ConstraintError too_large(int64_t bytes, int64_t limit) {
  bytes = std::max(bytes, limit + 1);
  return ConstraintError("needs " + format_number((bytes + (1 << 20) - 1) >> 20) +
                             " MiB or more to compile, expected at most " +
                             format_number(limit >> 20) +
                             " MiB: simplify it (a multipleOf of many digits, or thousands of "
                             "alternatives, cost most), or raise limits.compile_bytes",
                         {.limit = limit, .got = bytes});
}

ConstraintError overloaded(double seconds) {
  char number[30];
  std::snprintf(number, sizeof number, "%.3g", seconds);
  return ConstraintError(std::string("the helper process that compiles it did not answer within ") +
                         number + " s: the machine has too much to do: try again");
}

}  // namespace

struct PendingGrammar::Work {
  Work(std::string kind_, std::string text_, std::shared_ptr<std::mutex> mutex_)
      : kind(std::move(kind_)), text(std::move(text_)), compiler_mutex(std::move(mutex_)) {}

  const std::string kind, text;
  const std::shared_ptr<std::mutex> compiler_mutex;
  int n_waiting = 0;  // under the compiler's mutex

  // The first time counts.
  void finish(std::optional<Grammar> made, std::exception_ptr problem) {
    const std::lock_guard lock(mutex);
    if (is_done) return;
    grammar = std::move(made);
    error = std::move(problem);
    is_done = true;
    changed.notify_all();
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool is_done = false;
  std::optional<Grammar> grammar;
  std::exception_ptr error;
  std::optional<Clock::time_point> deadline;  // of those who wait: without a helper process
  double seconds = 0;                         // until the deadline
};

struct GrammarCompiler::State {
  using Work = PendingGrammar::Work;

  struct Refusal {
    std::exception_ptr error;
    Clock::time_point until;
  };

  explicit State(CompileLimits of_compiler)
      : limits(of_compiler),
        kept(limits.cache_bytes),
        copies(std::make_shared<GrammarCopies>(limits.copy_bytes)) {}

  std::string library;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<std::string> helper;
  const CompileLimits limits;
  uint64_t number = 0;

  std::mutex vocabulary_mutex;
  std::shared_ptr<const GrammarVocabulary> vocabulary;

  std::shared_ptr<std::mutex> mutex = std::make_shared<std::mutex>();
  bool is_closed = false;
  LatestBySize<Grammar> kept;
  LatestBySize<Refusal> refused{kRefusedBytes};
  int64_t n_compiled = 0, n_tried = 0;
  std::unordered_map<std::string, std::shared_ptr<Work>> running;
  std::atomic<int> n_unbounded = 0;
  const std::shared_ptr<GrammarCopies> copies;

  // kind, NUL, text
  static std::string key_of(const std::string& kind, const std::string& text) {
    return kind + '\0' + text;
  }

  std::shared_ptr<const GrammarVocabulary> prepared() {
    const std::lock_guard lock(vocabulary_mutex);
    if (!vocabulary) vocabulary = grammar_vocabulary(library, tokenizer);
    return vocabulary;
  }

  void run(const std::shared_ptr<Work>& work) {
    std::optional<Grammar> grammar;
    std::exception_ptr error;
    try {
      grammar = compile(*work);
    } catch (...) {
      error = std::current_exception();
    }
    {
      const std::lock_guard lock(*mutex);
      std::erase_if(running, [&](const auto& each) { return each.second == work; });
    }
    work->finish(std::move(grammar), std::move(error));
  }

  bool is_wanted(Work& work) {
    const std::lock_guard lock(*mutex);
    if (work.n_waiting > 0 && !is_closed) return true;
    running.erase(key_of(work.kind, work.text));  // nobody can join it now
    return false;
  }

  Grammar compile(Work& work) {
    const GrammarTrial trial{*tokenizer, number,         library,     work.kind,
                             work.text,  limits.seconds, limits.bytes};
    const TrialResult result =
        try_grammar(helper, trial, [&] { prepared(); }, [&] { return is_wanted(work); });
    switch (result.end) {
      case TrialEnd::kCompiled: {
        const MemoryRoom room(result.peak_bytes);
        if (result.seconds > kLongSeconds) lower_priority(this_thread());
        return keep(work, compile_grammar(prepared(), work.kind, work.text), result.compiled_bytes,
                    result.copy_bytes);
      }
      case TrialEnd::kRefused:
        refuse(work, ConstraintError(result.message));
      case TrialEnd::kTooLong:
        refuse(work, too_long(result.seconds, limits.seconds));
      case TrialEnd::kTooLarge:
        refuse(work, too_large(result.peak_bytes, limits.bytes));
      case TrialEnd::kCrashed:
        refuse(work, ConstraintError("llguidance crashed while it compiled this: simplify it"));
      case TrialEnd::kOutOfMemory:
        throw OutOfMemoryError(
            "compiling this constraint needs more memory than the limits of this process allow: "
            "raise them (ulimit -v, -d), or simplify it",
            {.got = result.peak_bytes});
      case TrialEnd::kKilled:
        throw OutOfMemoryError(
            "the helper process that compiles this constraint was ended, twice, which systems do "
            "where memory is short: close other programs, and try again");
      case TrialEnd::kOverloaded:
        throw overloaded(result.seconds);
      case TrialEnd::kUnwanted:
        throw ConstraintError("nobody waited for it");
      case TrialEnd::kVocabulary:
      case TrialEnd::kUnavailable:
        break;
    }
    return compile_unbounded(work);
  }

  // Throws the error, also to those who come with this text in the next time.
  [[noreturn]] void refuse(const Work& work, const ConstraintError& error) {
    {
      const std::lock_guard lock(*mutex);
      refused.keep(key_of(work.kind, work.text),
                   {std::make_exception_ptr(error), Clock::now() + kRefusedFor},
                   std::ssize(std::string_view(error.what())));
    }
    throw error;
  }

  Grammar compile_unbounded(Work& work) {
    {
      const std::lock_guard lock(work.mutex);
      work.seconds = limits.seconds;
      work.deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                         std::chrono::duration<double>(limits.seconds));
    }
    struct Place {
      explicit Place(std::atomic<int>& n_taken) : n(n_taken) {
        for (int taken = n; taken >= kMostUnbounded || !n.compare_exchange_weak(taken, taken + 1);
             taken = n)
          if (taken >= kMostUnbounded) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
      ~Place() { --n; }
      std::atomic<int>& n;
    } const place(n_unbounded);
    const auto words = prepared();
    const int64_t bytes = kCompiledBytesPerByte * std::ssize(work.text);
    try {
      return keep(work, compile_grammar(words, work.kind, work.text), bytes, bytes);
    } catch (const ConstraintError& error) {
      refuse(work, error);
    }
  }

  Grammar keep(const Work& work, Grammar grammar, int64_t bytes, int64_t copy_bytes) {
    grammar.count_copies(copies, copy_bytes);
    LatestBySize<Grammar>::Entries dropped;  // freed without the lock
    const std::lock_guard lock(*mutex);
    ++n_compiled;
    dropped = kept.keep(key_of(work.kind, work.text), grammar, bytes + std::ssize(work.text));
    return grammar;
  }
};

PendingGrammar::PendingGrammar(std::shared_ptr<Work> work) : work_(std::move(work)) {}

PendingGrammar::~PendingGrammar() {
  const std::lock_guard lock(*work_->compiler_mutex);
  --work_->n_waiting;
}

bool PendingGrammar::wait(std::chrono::milliseconds timeout) const {
  std::unique_lock lock(work_->mutex);
  const auto until = Clock::now() + timeout;
  for (;;) {
    if (work_->is_done) return true;
    const auto now = Clock::now();
    if (work_->deadline && now >= *work_->deadline) return true;
    if (now >= until) return false;
    auto next = until;
    if (work_->deadline) next = std::min(next, *work_->deadline);
    // The deadline is set later than some begin to wait: look again after a while.
    work_->changed.wait_until(lock, std::min(next, now + std::chrono::milliseconds(500)));
  }
}

Grammar PendingGrammar::get() const {
  while (!wait(std::chrono::hours(1))) {
  }
  const std::lock_guard lock(work_->mutex);
  if (!work_->is_done) throw too_long(work_->seconds, work_->seconds);
  if (work_->error) std::rethrow_exception(work_->error);
  return *work_->grammar;
}

GrammarCompiler::GrammarCompiler(std::string library, std::shared_ptr<const Tokenizer> tokenizer,
                                 std::vector<std::string> helper, CompileLimits limits)
    : state_(std::make_shared<State>(limits)) {
  check_library(library);
  static std::atomic<uint64_t> n_made = 0;
  state_->library = std::move(library);
  state_->tokenizer = std::move(tokenizer);
  state_->helper = std::move(helper);
  state_->number = ++n_made;
}

std::unique_ptr<PendingGrammar> GrammarCompiler::begin(const std::string& kind,
                                                       const std::string& text) {
  using Work = PendingGrammar::Work;
  const std::string key = State::key_of(kind, text);
  const std::lock_guard lock(*state_->mutex);
  if (state_->is_closed)
    throw EngineClosedError("the engine was closed before this constraint was compiled");
  if (const auto* refusal = state_->refused.find(key)) {
    if (Clock::now() < refusal->until) std::rethrow_exception(refusal->error);
    state_->refused.remove(key);
  }
  std::shared_ptr<Work> work;
  if (const Grammar* kept = state_->kept.find(key)) {
    work = std::make_shared<Work>("", "", state_->mutex);
    work->finish(*kept, nullptr);
  } else if (const auto same = state_->running.find(key); same != state_->running.end()) {
    work = same->second;
  } else {
    work = start(kind, text, key);
  }
  auto pending = std::make_unique<PendingGrammar>(work);
  ++work->n_waiting;
  return pending;
}

// Under the mutex.
std::shared_ptr<PendingGrammar::Work> GrammarCompiler::start(const std::string& kind,
                                                             const std::string& text,
                                                             const std::string& key) {
  if (std::ssize(text) > kMaxBytes)
    throw ConstraintError("has " + format_number(text.size()) + " bytes, expected at most " +
                              format_number(kMaxBytes) + ": simplify it",
                          {.limit = kMaxBytes, .got = std::ssize(text)});
  auto work = std::make_shared<PendingGrammar::Work>(kind, text, state_->mutex);
  state_->running.emplace(key, work);
  try {
    start_on_stack(compiling_stack_bytes(text.size()),
                   [state = state_, work] { state->run(work); });
  } catch (...) {
    state_->running.erase(key);
    throw;
  }
  ++state_->n_tried;
  return work;
}

void GrammarCompiler::close() {
  const std::lock_guard lock(*state_->mutex);
  state_->is_closed = true;
  for (const auto& [key, work] : state_->running)
    work->finish({}, std::make_exception_ptr(EngineClosedError(
                         "the engine was closed while this constraint was compiled")));
}

Grammar GrammarCompiler::compile(const std::string& kind, const std::string& text) {
  return begin(kind, text)->get();
}

GrammarCompiler::Counts GrammarCompiler::counts() const {
  const std::lock_guard lock(*state_->mutex);
  return {state_->n_compiled, state_->kept.size(), state_->kept.bytes(), state_->n_tried};
}

}  // namespace starchat
