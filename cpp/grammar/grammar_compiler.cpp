#include "grammar/grammar_compiler.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "base/thread_pool.hpp"
#include "grammar/helper_pool.hpp"

namespace starchat {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxBytes = 1 << 22;
constexpr int64_t kKeptOverhead = 1 << 10;     // of a grammar in the cache, beside its two texts
constexpr int kMostUnbounded = 4;              // at once, without a helper process
constexpr int64_t kCompiledBytesPerByte = 50;  // without a helper process: an estimate

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

// What compilations that run now may still take.
std::atomic<int64_t> g_reserved_bytes = 0;

// Refuses what this process's own limits on memory leave no room for: there, Rust would abort.
class Room {
 public:
  explicit Room(int64_t peak_bytes) : bytes_(peak_bytes + peak_bytes / 4 + (4 << 20)) {
    const int64_t others = g_reserved_bytes.fetch_add(bytes_);
    try {
      check(others);
    } catch (...) {
      g_reserved_bytes -= bytes_;
      throw;
    }
  }
  ~Room() { g_reserved_bytes -= bytes_; }
  Room(const Room&) = delete;

 private:
  void check(int64_t others) const {
    rlimit space{RLIM_INFINITY, RLIM_INFINITY}, data = space;
    getrlimit(RLIMIT_AS, &space);
    getrlimit(RLIMIT_DATA, &data);
    if (space.rlim_cur == RLIM_INFINITY && data.rlim_cur == RLIM_INFINITY) return;
    long pages[6] = {};  // size, resident, shared, text, lib, data
    if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
      for (long& count : pages)
        if (std::fscanf(file, "%ld", &count) != 1) break;
      std::fclose(file);
    }
    const auto check_one = [&](rlim_t limit, long n_pages) {
      if (limit == RLIM_INFINITY) return;
      const int64_t left =
          static_cast<int64_t>(limit) - int64_t{n_pages} * sysconf(_SC_PAGESIZE) - others;
      if (left < bytes_)
        throw OutOfMemoryError("compiling this constraint needs " + format_number(bytes_ >> 20) +
                                   " MiB, but the limits of this process's memory leave " +
                                   format_number(std::max<int64_t>(left, 0) >> 20) +
                                   " MiB: raise them (ulimit -v, -d), or simplify it",
                               {.limit = std::max<int64_t>(left, 0), .got = bytes_});
    };
    check_one(space.rlim_cur, pages[0]);
    check_one(data.rlim_cur, pages[5]);
  }

  int64_t bytes_;
};

}  // namespace

struct PendingGrammar::Work {
  Work(std::string kind_, std::string text_) : kind(std::move(kind_)), text(std::move(text_)) {}

  const std::string kind, text;
  int n_waiting = 0;  // under the compiler's mutex

  void finish(std::optional<Grammar> made, std::exception_ptr problem) {
    const std::lock_guard lock(mutex);
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
  std::shared_ptr<std::mutex> compiler_mutex;
};

struct GrammarCompiler::State {
  using Work = PendingGrammar::Work;
  using Key = std::string;  // kind, NUL, text

  struct Kept {
    Key key;
    Grammar grammar;
    int64_t bytes;
  };

  std::string library;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<std::string> helper;
  CompileLimits limits;
  uint64_t number;

  std::mutex vocabulary_mutex;
  std::shared_ptr<const GrammarVocabulary> vocabulary;

  std::shared_ptr<std::mutex> mutex = std::make_shared<std::mutex>();
  std::list<Kept> kept;  // most recently used first
  std::unordered_map<std::string_view, std::list<Kept>::iterator> by_key;
  int64_t kept_bytes = 0, n_compiled = 0;
  std::unordered_map<Key, std::shared_ptr<Work>> running;
  std::atomic<int> n_unbounded = 0;

  static Key key_of(const std::string& kind, const std::string& text) { return kind + '\0' + text; }

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
    if (work.n_waiting > 0) return true;
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
        const Room room(result.peak_bytes);
        return keep(work, compile_grammar(prepared(), work.kind, work.text), result.compiled_bytes);
      }
      case TrialEnd::kRefused:
        throw ConstraintError(result.message);
      case TrialEnd::kTooLong:
        throw too_long(result.seconds, limits.seconds);
      case TrialEnd::kTooLarge:
        throw too_large(result.peak_bytes, limits.bytes);
      case TrialEnd::kOutOfMemory:
        throw OutOfMemoryError(
            "compiling this constraint needs more memory than the limits of this process allow: "
            "raise them (ulimit -v, -d), or simplify it",
            {.got = result.peak_bytes});
      case TrialEnd::kCrashed:
        throw ConstraintError("llguidance crashed while it compiled this: simplify it");
      case TrialEnd::kUnwanted:
        throw ConstraintError("nobody waited for it");
      case TrialEnd::kVocabulary:
      case TrialEnd::kUnavailable:
        break;
    }
    return compile_unbounded(work);
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
    return keep(work, compile_grammar(words, work.kind, work.text),
                kCompiledBytesPerByte * std::ssize(work.text));
  }

  Grammar keep(const Work& work, Grammar grammar, int64_t bytes) {
    Key key = key_of(work.kind, work.text);
    bytes += 2 * std::ssize(key) + kKeptOverhead;
    std::list<Kept> dropped;  // freed without the lock
    const std::lock_guard lock(*mutex);
    ++n_compiled;
    if (bytes > limits.cache_bytes || by_key.contains(key)) return grammar;
    kept.push_front({std::move(key), grammar, bytes});
    try {
      by_key.emplace(kept.front().key, kept.begin());
    } catch (const std::bad_alloc&) {  // not kept: compiled again if needed
      kept.pop_front();
      return grammar;
    }
    kept_bytes += bytes;
    while (kept_bytes > limits.cache_bytes) {
      kept_bytes -= kept.back().bytes;
      by_key.erase(kept.back().key);
      dropped.splice(dropped.begin(), kept, std::prev(kept.end()));
    }
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
    : state_(std::make_shared<State>()) {
  check_library(library);
  static std::atomic<uint64_t> n_made = 0;
  state_->library = std::move(library);
  state_->tokenizer = std::move(tokenizer);
  state_->helper = std::move(helper);
  state_->limits = limits;
  state_->number = ++n_made;
}

std::unique_ptr<PendingGrammar> GrammarCompiler::begin(const std::string& kind,
                                                       const std::string& text) {
  const std::string key = State::key_of(kind, text);
  const std::lock_guard lock(*state_->mutex);
  const auto found = state_->by_key.find(key);
  std::shared_ptr<PendingGrammar::Work> work;
  if (found == state_->by_key.end()) {
    const auto same = state_->running.find(key);
    if (same != state_->running.end()) work = same->second;
  }
  const bool is_new = !work;
  if (is_new) {
    if (std::ssize(text) > kMaxBytes)
      throw ConstraintError("has " + format_number(text.size()) + " bytes, expected at most " +
                                format_number(kMaxBytes) + ": simplify it",
                            {.limit = kMaxBytes, .got = std::ssize(text)});
    const bool is_kept = found != state_->by_key.end();
    work = is_kept ? std::make_shared<PendingGrammar::Work>("", "")
                   : std::make_shared<PendingGrammar::Work>(kind, text);
    work->compiler_mutex = state_->mutex;
    if (is_kept) {
      state_->kept.splice(state_->kept.begin(), state_->kept, found->second);
      work->finish(found->second->grammar, nullptr);
    } else {
      state_->running.emplace(key, work);
      try {
        start_on_stack(compiling_stack_bytes(text.size()),
                       [state = state_, work] { state->run(work); });
      } catch (...) {
        state_->running.erase(key);
        throw;
      }
    }
  }
  auto pending = std::make_unique<PendingGrammar>(work);
  ++work->n_waiting;
  return pending;
}

Grammar GrammarCompiler::compile(const std::string& kind, const std::string& text) {
  return begin(kind, text)->get();
}

GrammarCompiler::Counts GrammarCompiler::counts() const {
  const std::lock_guard lock(*state_->mutex);
  return {state_->n_compiled, std::ssize(state_->kept), state_->kept_bytes};
}

}  // namespace starchat
