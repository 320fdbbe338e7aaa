#include "grammar/helper_pool.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "base/errors.hpp"

namespace starchat {
namespace {

using Clock = TrialClock;
using std::chrono::milliseconds;

constexpr int kMostHelpers = 4;
constexpr milliseconds kBusy{100};  // a helper that works longer does not make others wait
constexpr double kWallPerCpu = 4, kGraceSeconds = 1;  // the helper has a low priority
constexpr uint32_t kIdleSeconds = 10;                 // then all helpers end but the first
constexpr size_t kMostVocabularies = 8;               // that a helper knows
constexpr uint64_t kMostMessage = 1 << 16;
constexpr milliseconds kFirstPause{250}, kLongestPause{64'000};  // after starts that failed

struct Helper {
  int socket = -1;
  pid_t pid = 0;
  bool is_busy = false;
  Clock::time_point since{};
  std::vector<uint64_t> known;  // vocabularies
};

// The helpers of one command in this process.
struct Pool {
  explicit Pool(std::vector<std::string> program) : command(std::move(program)) {}

  const std::vector<std::string> command;
  std::array<Helper, kMostHelpers> helpers;
  std::mutex mutex;
  std::condition_variable freed;
  // Where no helper can be started: when to try again.
  Clock::time_point retry_at{};
  milliseconds pause = kFirstPause;
  bool has_greeted = false;  // any helper
};

// No fork while sockets are opened and closed: a forked child closes its copies, so that a helper
// ends with its owner.
std::mutex& forking = *new std::mutex;
std::vector<Pool*>* pools = nullptr;  // they are never freed: threads use them while a process ends

[[maybe_unused]] const int at_fork =
    pthread_atfork([] { forking.lock(); }, [] { forking.unlock(); },
                   [] {
                     if (pools)
                       for (Pool* const pool : *pools)
                         for (const Helper& helper : pool->helpers)
                           if (helper.socket >= 0) close(helper.socket);
                     pools = nullptr;  // a child has helpers of its own
                     forking.unlock();
                   });

Pool& pool_of(const std::vector<std::string>& command) {
  const std::lock_guard lock(forking);
  if (!pools) pools = new std::vector<Pool*>;
  for (Pool* const pool : *pools)
    if (pool->command == command) return *pool;
  auto made = std::make_unique<Pool>(command);
  pools->push_back(made.get());
  return *made.release();
}

int above_standard_streams(int fd) {
  if (fd > 2) return fd;
  const int higher = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  close(fd);
  return higher;
}

#ifdef SOCK_CLOEXEC
constexpr int kSocketType = SOCK_STREAM | SOCK_CLOEXEC;
#else
constexpr int kSocketType = SOCK_STREAM;  // macOS
#endif

// Makes a pair of sockets, of which the helper keeps one. Returns the other one, -1 where none is
// to be had.
int connect(Helper& helper) {
  const std::lock_guard lock(forking);
  int ends[2];
  if (socketpair(AF_UNIX, kSocketType, 0, ends) != 0) return -1;
  for (const int end : ends) {
    fcntl(end, F_SETFD, FD_CLOEXEC);
#ifdef SO_NOSIGPIPE
    const int on = 1;
    setsockopt(end, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  }
  helper.socket = above_standard_streams(ends[0]);
  const int theirs = above_standard_streams(ends[1]);
  if (helper.socket >= 0 && theirs >= 0) return theirs;
  if (theirs >= 0) close(theirs);
  if (helper.socket >= 0) close(std::exchange(helper.socket, -1));
  return -1;
}

void end(Helper& helper) {
  {
    const std::lock_guard lock(forking);
    if (helper.socket < 0) return;
    close(std::exchange(helper.socket, -1));  // which ends it
  }
  helper.known.clear();
  // Where this process is the first of its system, orphans become its children.
  if (helper.pid > 0) waitpid(helper.pid, nullptr, WNOHANG);
  helper.pid = 0;
}

std::vector<std::string> helper_environment() {
  std::vector<std::string> variables = {"RUST_BACKTRACE=0", "RUST_LIB_BACKTRACE=0"};
  for (const char* name : {"PATH", "LD_LIBRARY_PATH", "HOME", "LANG"})
    if (const char* value = std::getenv(name)) variables.push_back(std::string(name) + "=" + value);
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

int spawn(std::vector<std::string> command, int socket, pid_t& pid) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, socket, 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  auto variables = helper_environment();
  const int failure = posix_spawn(&pid, command[0].c_str(), &actions, &attributes,
                                  pointers(command).data(), pointers(variables).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return failure;
}

bool is_scarcity(int error) {
  return error == ENOMEM || error == EAGAIN || error == EMFILE || error == ENFILE;
}

OutOfMemoryError scarce(const std::string& reason) {
  return OutOfMemoryError("compiling a constraint: no helper process can be started: " + reason +
                          ": close other programs or files, or raise the limits of this process");
}

bool is_memory_limited() {
  rlimit space{}, data{};
  return getrlimit(RLIMIT_AS, &space) == 0 && getrlimit(RLIMIT_DATA, &data) == 0 &&
         (space.rlim_cur != RLIM_INFINITY || data.rlim_cur != RLIM_INFINITY);
}

// Starts a helper. kCompiled: it is ready. kUnavailable: none can be. kOverloaded: not in time.
// kKilled: the system ended it. Throws OutOfMemoryError where memory, processes or files do not
// suffice.
TrialEnd start(Helper& helper, const Pool& pool) {
  const int theirs = connect(helper);
  if (theirs < 0) throw scarce(std::strerror(errno));
  pid_t pid = 0;
  const int failure = spawn(pool.command, theirs, pid);
  close(theirs);
  if (failure) {
    end(helper);
    if (is_scarcity(failure)) throw scarce(std::strerror(failure));
    return TrialEnd::kUnavailable;
  }
  // It greets from a child of its own: what is started here ends at once, and is no child any more.
  TrialGreeting greeting;
  const auto until = Clock::now() + kExchange;
  const bool is_greeted = receive_all(helper.socket, &greeting, sizeof greeting, until);
  const bool is_late = !is_greeted && Clock::now() >= until;
  if (!is_greeted) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  const bool is_known = is_greeted && greeting.mark == kGreeting && greeting.pid > 1;
  if (is_known && greeting.error == 0) {
    helper.pid = static_cast<pid_t>(greeting.pid);
    return TrialEnd::kCompiled;
  }
  end(helper);
  if (is_greeted && !is_known) return TrialEnd::kUnavailable;
  if (is_greeted) throw scarce(std::strerror(greeting.error));
  if (is_late) return TrialEnd::kOverloaded;
  if (is_memory_limited()) throw scarce("the limits of this process's memory are too narrow");
  // Python found what is wrong; or the system killed it.
  return WIFEXITED(status) && WEXITSTATUS(status) != 0 ? TrialEnd::kUnavailable : TrialEnd::kKilled;
}

// Starts a helper unless none could be started a short time ago.
TrialEnd start_again(Helper& helper, Pool& pool) {
  {
    const std::lock_guard lock(pool.mutex);
    if (Clock::now() < pool.retry_at) return TrialEnd::kUnavailable;
  }
  TrialEnd result = start(helper, pool);
  const std::lock_guard lock(pool.mutex);
  // What never started one may be a program of another kind.
  if (result != TrialEnd::kCompiled && !pool.has_greeted) result = TrialEnd::kUnavailable;
  if (result == TrialEnd::kCompiled) {
    pool.has_greeted = true;
    pool.pause = kFirstPause;
  } else if (result == TrialEnd::kUnavailable) {
    pool.retry_at = Clock::now() + pool.pause;
    pool.pause = std::min(2 * pool.pause, kLongestPause);
  }
  return result;
}

// Whether it waits for a request: others have ended, or speak when not asked.
bool is_ready(const Helper& helper) {
  char byte;
  return recv(helper.socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
         (errno == EAGAIN || errno == EWOULDBLOCK);
}

// A helper for this vocabulary, null where nobody wants one any more. It may have to be started.
Helper* take(Pool& pool, uint64_t vocabulary, const std::function<bool()>& is_wanted) {
  std::unique_lock lock(pool.mutex);
  for (;;) {
    const auto now = Clock::now();
    Helper *idle = nullptr, *absent = nullptr;
    auto oldest = now;
    bool has_busy = false;
    for (Helper& helper : pool.helpers) {
      if (helper.is_busy) {
        has_busy = true;
        oldest = std::min(oldest, helper.since);
        continue;
      }
      if (helper.socket >= 0 && !is_ready(helper)) end(helper);
      const bool knows = std::ranges::count(helper.known, vocabulary) > 0;
      if (helper.socket < 0) {
        if (!absent) absent = &helper;
      } else if (!idle || (knows && !std::ranges::count(idle->known, vocabulary))) {
        idle = &helper;
      }
    }
    if (Helper* const taken = idle ? idle : !has_busy || now - oldest >= kBusy ? absent : nullptr) {
      taken->is_busy = true;
      taken->since = now;
      return taken;
    }
    pool.freed.wait_for(lock, milliseconds(20));
    lock.unlock();
    if (!is_wanted()) return nullptr;
    lock.lock();
  }
}

void give_back(Pool& pool, Helper& helper, bool ends) {
  if (ends) end(helper);
  const std::lock_guard lock(pool.mutex);
  helper.is_busy = false;
  pool.freed.notify_one();
}

// The request, and its texts. The helper knows the vocabulary afterwards.
std::string request_of(Helper& helper, bool is_first, const GrammarTrial& trial) {
  TrialRequest request{};
  request.vocabulary = trial.vocabulary;
  request.seconds = trial.seconds;
  request.bytes = trial.bytes;
  request.idle_seconds = is_first ? 0 : kIdleSeconds;
  request.n_kind = trial.kind.size();
  request.n_text = trial.text.size();
  std::string texts = trial.kind + trial.text;
  if (!std::ranges::count(helper.known, trial.vocabulary)) {
    request.forgets = helper.known.size() >= kMostVocabularies;
    if (request.forgets) helper.known.clear();
    std::vector<uint32_t> lengths;
    std::string tokens;
    for (int32_t id = 0; id < trial.tokenizer.size(); ++id) {
      const auto token = trial.tokenizer.token_bytes(id);
      const uint32_t mark = trial.tokenizer.is_special(id) ? kControlToken : 0;
      lengths.push_back(static_cast<uint32_t>(token.size()) | mark);
      tokens += token;
    }
    request.n_library = trial.library.size();
    request.n_tokens = lengths.size();
    request.n_token_bytes = tokens.size();
    texts += trial.library;
    texts.append(reinterpret_cast<const char*>(lengths.data()), 4 * lengths.size());
    texts += tokens;
    helper.known.push_back(trial.vocabulary);
  }
  return std::string(reinterpret_cast<const char*>(&request), sizeof request) + texts;
}

bool is_sound(const TrialAnswer& answer) {
  return answer.end <= TrialEnd::kVocabulary && answer.compiled_bytes >= 0 &&
         answer.copy_bytes >= 0 && answer.peak_bytes >= 0 && answer.n_message <= kMostMessage;
}

// Nothing where the helper ended before it had the request. ends: whether it is of no use any more.
std::optional<TrialResult> ask(Helper& helper, bool is_first, const GrammarTrial& trial,
                               const std::function<void()>& while_compiling, bool& ends) {
  ends = true;
  const std::string request = request_of(helper, is_first, trial);
  const auto sent_until = Clock::now() + kExchange;
  uint8_t is_accepted = 0;
  if (!send_all(helper.socket, request.data(), request.size(), sent_until) ||
      !receive_all(helper.socket, &is_accepted, 1, sent_until))
    return {};
  while_compiling();
  TrialResult result{TrialEnd::kKilled};
  TrialAnswer answer;
  const std::chrono::duration<double> most(kWallPerCpu * trial.seconds + kGraceSeconds);
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(most);
  if (!receive_all(helper.socket, &answer, sizeof answer, until)) {
    if (Clock::now() < until) return result;
    kill(helper.pid, SIGKILL);  // it has its socket still, so it has its number
    return TrialResult{TrialEnd::kOverloaded, most.count()};
  }
  if (!is_sound(answer)) return result;
  std::string message(answer.n_message, 0);
  if (!receive_all(helper.socket, message.data(), message.size(), Clock::now() + kExchange))
    return result;
  ends = answer.is_last != 0;
  return TrialResult{answer.end,        answer.seconds,    answer.compiled_bytes,
                     answer.copy_bytes, answer.peak_bytes, std::move(message)};
}

}  // namespace

TrialResult try_grammar(const std::vector<std::string>& command, const GrammarTrial& trial,
                        const std::function<void()>& while_compiling,
                        const std::function<bool()>& is_wanted) {
  if (command.empty()) return {TrialEnd::kUnavailable};
  Pool& pool = pool_of(command);
  int n_killed = 0;
  for (int attempt = 0; attempt < kMostHelpers + 2; ++attempt) {
    Helper* const helper = take(pool, trial.vocabulary, is_wanted);
    if (!helper) return {TrialEnd::kUnwanted};
    struct GiveBack {
      Pool& pool;
      Helper& helper;
      bool ends = true;
      ~GiveBack() { give_back(pool, helper, ends); }
    } back{pool, *helper};
    std::optional<TrialResult> result;
    if (helper->socket < 0)
      if (const TrialEnd end = start_again(*helper, pool); end != TrialEnd::kCompiled)
        result = TrialResult{end, std::chrono::duration<double>(kExchange).count()};
    const bool is_first = helper == pool.helpers.data();
    if (!result) result = ask(*helper, is_first, trial, while_compiling, back.ends);
    if (!result) continue;  // it had ended while idle: perhaps all have
    if (result->end != TrialEnd::kKilled || ++n_killed == 2) return *result;
  }
  return {TrialEnd::kKilled};
}

}  // namespace starchat
