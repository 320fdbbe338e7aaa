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
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "base/errors.hpp"

namespace starchat {
namespace {

using Clock = TrialClock;
using std::chrono::milliseconds;

constexpr int kMostHelpers = 4;
constexpr milliseconds kBusy{100};       // a helper that works longer does not make others wait
constexpr int kWallPerCpu = 4;           // the helper has a low priority
constexpr size_t kMostVocabularies = 8;  // that a helper knows

// The sockets of the helpers. A forked child closes them, so that a helper ends with its owner.
std::array<std::atomic<int>, kMostHelpers> g_sockets = {-1, -1, -1, -1};

void close_in_child() {
  for (auto& socket : g_sockets)
    if (const int open = socket.exchange(-1); open >= 0) close(open);
}

struct Helper {
  int slot = -1, socket = -1;
  pid_t pid = 0;
  bool is_busy = false;
  Clock::time_point since{};
  std::vector<uint64_t> known;  // vocabularies
};

int above_standard_streams(int fd) {
  if (fd > 2) return fd;
  const int higher = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  close(fd);
  return higher;
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

// Starts a helper; false where none can be. Throws OutOfMemoryError.
bool start(Helper& helper, std::vector<std::string> command) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return false;
  const int ours = above_standard_streams(ends[0]), theirs = above_standard_streams(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, theirs, 0);
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
  pid_t pid = 0;
  const int failure = posix_spawn(&pid, command[0].c_str(), &actions, &attributes,
                                  pointers(command).data(), pointers(variables).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  close(theirs);
  if (failure) {
    close(ours);
    if (failure == ENOMEM)
      throw OutOfMemoryError(
          "compiling a constraint: the system has no memory for a helper process: close other "
          "programs, or raise its limits");
    return false;
  }
  // It greets from a child of its own: what is started here ends at once, and is no child any more.
  uint64_t greeting[2] = {};
  const bool greets = receive_all(ours, greeting, sizeof greeting, Clock::now() + kExchange) &&
                      greeting[0] == kGreeting;
  if (!greets) {
    close(ours);  // which ends it
    for (int i = 0; i < 10 && waitpid(pid, nullptr, WNOHANG) == 0; ++i)
      std::this_thread::sleep_for(milliseconds(10));
    rlimit space{}, data{};
    if (getrlimit(RLIMIT_AS, &space) == 0 && getrlimit(RLIMIT_DATA, &data) == 0 &&
        (space.rlim_cur != RLIM_INFINITY || data.rlim_cur != RLIM_INFINITY))
      throw OutOfMemoryError(
          "compiling a constraint: no helper process starts within the limits of this process's "
          "memory: raise them (ulimit -v, -d)");
    return false;
  }
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  helper.pid = static_cast<pid_t>(greeting[1]);
  helper.socket = ours;
  g_sockets[helper.slot] = ours;
  return true;
}

class Helpers {
 public:
  // A forked child has helpers of its own.
  static Helpers& of_this_process() {
    static std::atomic<Helpers*> current = nullptr;
    Helpers* found = current;
    while (!found || found->owner_ != getpid()) {
      auto made = std::make_unique<Helpers>();
      if (current.compare_exchange_strong(found, made.get())) found = made.release();
    }
    return *found;
  }

  Helpers() {
    static const int is_registered = pthread_atfork(nullptr, nullptr, close_in_child);
    static_cast<void>(is_registered);
    for (int slot = 0; slot < kMostHelpers; ++slot) helpers_[slot].slot = slot;
  }

  // A helper for this vocabulary, null where nobody wants one any more. It may have to be started.
  Helper* take(uint64_t vocabulary, const std::function<bool()>& is_wanted) {
    std::unique_lock lock(mutex_);
    for (;;) {
      const auto now = Clock::now();
      Helper *idle = nullptr, *absent = nullptr;
      auto oldest = now;
      bool all_busy = true;
      for (Helper& helper : helpers_) {
        if (helper.is_busy) {
          oldest = std::min(oldest, helper.since);
        } else if (helper.socket < 0) {
          if (!absent) absent = &helper;
        } else {
          all_busy = false;
          if (!idle || std::ranges::count(helper.known, vocabulary)) idle = &helper;
        }
      }
      const bool has_one = all_busy && std::ranges::any_of(helpers_, &Helper::is_busy);
      Helper* taken = idle ? idle : (!has_one || now - oldest >= kBusy) ? absent : nullptr;
      if (taken) {
        taken->is_busy = true;
        taken->since = now;
        return taken;
      }
      freed_.wait_for(lock, milliseconds(20));
      lock.unlock();
      if (!is_wanted()) return nullptr;
      lock.lock();
    }
  }

  void give_back(Helper& helper, bool ends) {
    if (ends) end(helper);
    const std::lock_guard lock(mutex_);
    helper.is_busy = false;
    freed_.notify_one();
  }

  void end(Helper& helper) {
    if (helper.socket < 0) return;
    g_sockets[helper.slot] = -1;
    close(helper.socket);  // which ends it
    helper.socket = -1;
    helper.known.clear();
    // Where this process is the first of its system, orphans become its children.
    waitpid(helper.pid, nullptr, WNOHANG);
  }

  std::atomic<bool> is_unavailable = false;

 private:
  const pid_t owner_ = getpid();
  std::mutex mutex_;
  std::condition_variable freed_;
  std::array<Helper, kMostHelpers> helpers_;
};

// Nothing where the helper ended before it had the request.
std::optional<TrialResult> ask(Helper& helper, const GrammarTrial& trial,
                               const std::function<void()>& while_compiling, bool& ends) {
  ends = true;
  TrialRequest request{trial.vocabulary,
                       trial.seconds,
                       trial.bytes,
                       trial.kind.size(),
                       trial.text.size(),
                       0,
                       0,
                       0,
                       0};
  std::vector<uint32_t> lengths;
  std::string library, bytes;
  const bool is_known = std::ranges::count(helper.known, trial.vocabulary) > 0;
  if (!is_known) {
    request.forgets = helper.known.size() >= kMostVocabularies;
    if (request.forgets) helper.known.clear();
    for (int32_t id = 0; id < trial.tokenizer.size(); ++id) {
      const auto token = trial.tokenizer.token_bytes(id);
      lengths.push_back(static_cast<uint32_t>(token.size()));
      bytes += token;
    }
    library = trial.library;
    request.n_library = library.size();
    request.n_tokens = lengths.size();
    request.n_token_bytes = bytes.size();
    helper.known.push_back(trial.vocabulary);
  }
  const auto until = Clock::now() + kExchange;
  std::string message(reinterpret_cast<const char*>(&request), sizeof request);
  message += trial.kind + trial.text + library;
  message.append(reinterpret_cast<const char*>(lengths.data()), 4 * lengths.size());
  message += bytes;
  uint8_t is_accepted = 0;
  if (!send_all(helper.socket, message.data(), message.size(), until) ||
      !receive_all(helper.socket, &is_accepted, 1, until))
    return {};
  while_compiling();
  const auto asked = Clock::now();
  const auto most = std::chrono::duration<double>(kWallPerCpu * trial.seconds) + kExchange / 10;
  TrialResult result;
  TrialAnswer answer;
  const auto answer_until = asked + std::chrono::duration_cast<Clock::duration>(most);
  const bool is_answered = receive_all(helper.socket, &answer, sizeof answer, answer_until);
  if (is_answered) {
    result = {answer.end, answer.seconds, answer.compiled_bytes, answer.peak_bytes};
    result.message.resize(answer.n_message);
    if (receive_all(helper.socket, result.message.data(), answer.n_message,
                    answer_until + kExchange))
      ends = answer.is_last != 0;
  } else if (Clock::now() >= answer_until) {
    result.end = TrialEnd::kTooLong;
    result.seconds = std::chrono::duration<double>(Clock::now() - asked).count();
  } else {
    result.end = TrialEnd::kCrashed;
  }
  return result;
}

}  // namespace

TrialResult try_grammar(const std::vector<std::string>& command, const GrammarTrial& trial,
                        const std::function<void()>& while_compiling,
                        const std::function<bool()>& is_wanted) {
  Helpers& helpers = Helpers::of_this_process();
  if (command.empty() || helpers.is_unavailable) return {};
  for (int attempt = 0; attempt < 3; ++attempt) {
    Helper* const helper = helpers.take(trial.vocabulary, is_wanted);
    if (!helper) return {TrialEnd::kUnwanted};
    struct GiveBack {
      Helpers& helpers;
      Helper& helper;
      bool ends = true;
      ~GiveBack() { helpers.give_back(helper, ends); }
    } back{helpers, *helper};
    if (helper->socket < 0 && !start(*helper, command)) {
      helpers.is_unavailable = true;
      return {};
    }
    if (auto result = ask(*helper, trial, while_compiling, back.ends)) return *result;
  }
  return {TrialEnd::kCrashed};
}

}  // namespace starchat
