#include "grammar/grammar_trial.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <thread>

#include "base/errors.hpp"
#include "base/file_descriptor.hpp"
#include "base/thread_pool.hpp"
#include "grammar/llguidance.hpp"

extern char** environ;

namespace starchat {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kMostHelpers = 4;
constexpr milliseconds kBusy{100};      // a helper that works longer does not make others wait
constexpr milliseconds kStart{10'000};  // for Python to start on a machine under load
constexpr int kWallPerCpu = 4;          // the helper has a low priority
constexpr int kNice = 10;
constexpr size_t kMostVocabularies = 8;      // that a helper knows
constexpr int64_t kMostResident = 64 << 20;  // more than at its start: the helper ends
constexpr uint64_t kGreeting = 0x3154616972546772;

// ---- messages: the same program at both ends ----

struct Request {
  uint64_t vocabulary;
  double seconds;
  int64_t bytes;
  uint64_t n_kind, n_text;
  uint64_t n_library, n_tokens, n_token_bytes;  // 0 where the helper knows the vocabulary
  uint64_t forgets;                             // whether it forgets the vocabularies before
};

struct Answer {
  TrialEnd end;
  uint32_t is_last;  // the helper ends
  double seconds;
  int64_t compiled_bytes, peak_bytes;
  uint64_t n_message;
};

// False where the other end is closed or `until` has passed.
bool send_all(int socket, const void* data, size_t size, Clock::time_point until) {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = send(socket, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      bytes += n;
      size -= static_cast<size_t>(n);
      continue;
    }
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return false;
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
    if (left.count() <= 0) return false;
    pollfd waiting{socket, POLLOUT, 0};
    poll(&waiting, 1, static_cast<int>(std::min<int64_t>(left.count(), 1000)));
  }
  return true;
}

bool receive_all(int socket, void* data, size_t size, Clock::time_point until) {
  char* bytes = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = recv(socket, bytes, size, MSG_DONTWAIT);
    if (n > 0) {
      bytes += n;
      size -= static_cast<size_t>(n);
      continue;
    }
    if (n == 0) return false;
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return false;
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
    if (left.count() <= 0) return false;
    pollfd waiting{socket, POLLIN, 0};
    poll(&waiting, 1, static_cast<int>(std::min<int64_t>(left.count(), 1000)));
  }
  return true;
}

// ---- this process ----

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
  const bool greets = receive_all(ours, greeting, sizeof greeting, Clock::now() + kStart) &&
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
  Request request{trial.vocabulary,
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
  const auto until = Clock::now() + kStart;
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
  const auto most = std::chrono::duration<double>(kWallPerCpu * trial.seconds) + kStart / 10;
  TrialResult result;
  Answer answer;
  const auto answer_until = asked + std::chrono::duration_cast<Clock::duration>(most);
  const bool is_answered = receive_all(helper.socket, &answer, sizeof answer, answer_until);
  if (is_answered) {
    result = {answer.end, answer.seconds, answer.compiled_bytes, answer.peak_bytes};
    result.message.resize(answer.n_message);
    if (receive_all(helper.socket, result.message.data(), answer.n_message, answer_until + kStart))
      ends = answer.is_last != 0;
  } else if (Clock::now() >= answer_until) {
    result.end = TrialEnd::kTooLong;
    result.seconds = std::chrono::duration<double>(Clock::now() - asked).count();
  } else {
    result.end = TrialEnd::kCrashed;
  }
  return result;
}

// ---- the helper ----

int64_t statm(int field) {  // 0: address space, 1: resident, 5: data
  const FileDescriptor file(open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
  char text[200] = "";
  if (file.get() < 0 || read(file.get(), text, sizeof text - 1) <= 0) return 0;
  const char* number = text;
  for (; field > 0 && number; --field) number = std::strchr(number + 1, ' ');
  return number ? std::atoll(number) * sysconf(_SC_PAGESIZE) : 0;
}

// The most that was resident since forget_peak().
int64_t peak_resident() {
  const FileDescriptor file(open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  char text[4096] = "";
  if (file.get() < 0 || read(file.get(), text, sizeof text - 1) <= 0) return 0;
  const char* line = std::strstr(text, "VmHWM:");
  return line ? std::atoll(line + 6) << 10 : 0;
}

void forget_peak() {
  const FileDescriptor file(open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC));
  if (file.get() >= 0) static_cast<void>(write(file.get(), "5", 1) == 1);
}

int64_t allocated() {
#ifdef __GLIBC__
  struct Info {  // mallinfo2, which older systems lack
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
  };
  static const auto mallinfo2 = reinterpret_cast<Info (*)()>(dlsym(RTLD_DEFAULT, "mallinfo2"));
  if (mallinfo2) {
    const Info info = mallinfo2();
    return static_cast<int64_t>(info.uordblks + info.hblkhd);
  }
#endif
  return statm(1);
}

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// What the handler of fatal signals needs; it allocates nothing.
struct {
  int socket = -1, messages = -1;  // Rust's last words are read from `messages`
  int64_t space = 0;               // before the compilation
  double cpu = 0;
  TrialEnd too_large = TrialEnd::kTooLarge;
} g_trial;

[[noreturn]] void answer_and_end(TrialEnd end, int64_t peak_bytes) {
  const Answer answer{end, 1, cpu_seconds() - g_trial.cpu, 0, peak_bytes, 0};
  static_cast<void>(send(g_trial.socket, &answer, sizeof answer, MSG_NOSIGNAL));
  _exit(0);
}

// llguidance's allocation failed, or its stack ended.
void end_by_signal(int) {
  char text[4096];
  ssize_t n = 0;
  for (ssize_t more; (more = read(g_trial.messages, text, sizeof text - 1)) > 0;) n = more;
  text[std::max<ssize_t>(n, 0)] = 0;
  const char* failed = std::strstr(text, "memory allocation of ");
  if (!failed) answer_and_end(TrialEnd::kCrashed, 0);
  int64_t wanted = 0;
  for (failed += 21; *failed >= '0' && *failed <= '9'; ++failed)
    wanted = 10 * wanted + *failed - '0';
  answer_and_end(g_trial.too_large, statm(0) - g_trial.space + wanted);
}

struct Compiled {
  TrialEnd end = TrialEnd::kCompiled;
  int64_t bytes = 0;
  std::string message{};
};

// Compiles, and computes what the first token needs.
Compiled compile(const std::shared_ptr<const GrammarVocabulary>& vocabulary, int32_t n_vocab,
                 const std::string& kind, const std::string& text) {
  Compiled result;
  try {
    const int64_t before = allocated();
    const Grammar grammar = compile_grammar(vocabulary, kind, text);
    result.bytes = std::max<int64_t>(allocated() - before, 0);
    const auto constraint = grammar.start();
    std::vector<uint32_t> mask(n_vocab / 32 + 1);
    const bool may_end = constraint->fill_mask(mask);
    int n_allowed = 0;
    for (const uint32_t word : mask) n_allowed += std::popcount(word);
    if (n_allowed == 1 && !may_end) static_cast<void>(constraint->forced());
  } catch (const std::bad_alloc&) {
    result.end = g_trial.too_large;
  } catch (const std::exception& error) {
    if (result.bytes == 0) result = {TrialEnd::kRefused, 0, error.what()};
  }  // a fault of the first mask shows in the reply
  return result;
}

// Bounds the address space; says who is at fault where memory ends.
void set_space(int64_t bytes, const rlimit& inherited) {
  rlimit limit = inherited;
  if (inherited.rlim_cur == RLIM_INFINITY || bytes < static_cast<int64_t>(inherited.rlim_cur)) {
    limit.rlim_cur = static_cast<rlim_t>(bytes);
    g_trial.too_large = TrialEnd::kTooLarge;
  } else {
    g_trial.too_large = TrialEnd::kOutOfMemory;
  }
  setrlimit(RLIMIT_AS, &limit);
  rlimit data{};
  getrlimit(RLIMIT_DATA, &data);
  if (data.rlim_cur != RLIM_INFINITY &&
      static_cast<int64_t>(data.rlim_cur) - statm(5) < bytes - statm(0))
    g_trial.too_large = TrialEnd::kOutOfMemory;
}

void close_inherited() {
#ifdef SYS_close_range
  if (syscall(SYS_close_range, 3, ~0U, 0) == 0) return;
#endif
  for (int fd = 3; fd < 4096; ++fd) close(fd);
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

void serve_grammar_trials(int socket) {
  close_inherited();
  setsid();
  if (fork() != 0) _exit(0);  // an orphan: nobody's wait() meets it
  static_cast<void>(nice(kNice) == -1);
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
#ifdef M_ARENA_MAX
  mallopt(M_ARENA_MAX, 1);  // others would reserve address space
#endif
  int ends[2];
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) _exit(1);
  dup2(ends[1], 2);
  g_trial.socket = socket;
  g_trial.messages = ends[0];
  int done[2];
  if (pipe2(done, O_CLOEXEC) != 0) _exit(1);
  static char stack[1 << 16];
  const stack_t other{stack, 0, sizeof stack};
  struct sigaction action{};
  action.sa_handler = end_by_signal;
  action.sa_flags = SA_ONSTACK;
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE})
    sigaction(signal, &action, nullptr);
  for (const int signal : {SIGINT, SIGHUP, SIGTERM}) ::signal(signal, SIG_DFL);
  rlimit inherited{};
  getrlimit(RLIMIT_AS, &inherited);
  const uint64_t greeting[2] = {kGreeting, static_cast<uint64_t>(getpid())};
  constexpr auto kForever = Clock::time_point::max();
  const auto receive = [&](void* data, size_t size) {
    while (size > 0) {
      const ssize_t n = recv(socket, data, size, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) _exit(0);
      data = static_cast<char*>(data) + n;
      size -= static_cast<size_t>(n);
    }
  };
  static_cast<void>(send_all(socket, greeting, sizeof greeting, Clock::now() + kStart));
  std::map<uint64_t, std::pair<std::shared_ptr<const GrammarVocabulary>, int32_t>> vocabularies;
  int64_t at_rest = 0;
  for (;;) {
    Request request;
    receive(&request, sizeof request);
    std::string kind(request.n_kind, 0), text(request.n_text, 0);
    receive(kind.data(), kind.size());
    receive(text.data(), text.size());
    std::string library(request.n_library, 0), bytes(request.n_token_bytes, 0);
    std::vector<uint32_t> lengths(request.n_tokens);
    receive(library.data(), library.size());
    receive(lengths.data(), 4 * lengths.size());
    receive(bytes.data(), bytes.size());
    const uint8_t accepted = 1;
    send_all(socket, &accepted, 1, Clock::now() + kStart);
    if (request.forgets) vocabularies.clear();
    if (request.n_library) {
      try {
        std::vector<std::string> tokens;
        size_t begin = 0;
        for (const uint32_t length : lengths) {
          tokens.push_back(bytes.substr(begin, length));
          begin += length;
        }
        auto tokenizer = std::make_shared<const Tokenizer>(std::move(tokens));
        vocabularies[request.vocabulary] = {grammar_vocabulary(library, tokenizer),
                                            tokenizer->size()};
      } catch (const std::exception&) {
        answer_and_end(TrialEnd::kVocabulary, 0);
      }
      at_rest = statm(1);
    }
    const auto& known = vocabularies[request.vocabulary];

    for (char old[4096]; read(ends[0], old, sizeof old) > 0;) {
    }
    const size_t stack_bytes = compiling_stack_bytes(text.size());
    g_trial.cpu = cpu_seconds();
    g_trial.space = statm(0) + static_cast<int64_t>(stack_bytes);
    set_space(g_trial.space + request.bytes, inherited);
    forget_peak();
    const int64_t resident = statm(1);
    Compiled compiled;
    try {
      start_on_stack(stack_bytes, [&] {
        const stack_t own{std::malloc(sizeof stack), 0, sizeof stack};
        if (own.ss_sp) sigaltstack(&own, nullptr);
        compiled = compile(known.first, known.second, kind, text);
        const stack_t none{nullptr, SS_DISABLE, 0};
        sigaltstack(&none, nullptr);
        std::free(own.ss_sp);
        static_cast<void>(write(done[1], "", 1) == 1);
      });
    } catch (const std::exception&) {
      answer_and_end(g_trial.too_large, static_cast<int64_t>(stack_bytes));
    }
    for (;;) {
      const double left = request.seconds - (cpu_seconds() - g_trial.cpu);
      if (left <= 0) answer_and_end(TrialEnd::kTooLong, peak_resident() - resident);
      pollfd waiting[2] = {{done[0], POLLIN, 0}, {socket, POLLIN, 0}};
      poll(waiting, 2, static_cast<int>(std::min(1000 * left + 1, 1e6)));
      if (waiting[0].revents) break;
      if (waiting[1].revents) _exit(0);  // the other end closed: nothing is sent meanwhile
    }
    char byte;
    static_cast<void>(read(done[0], &byte, 1) == 1);
    Answer answer{compiled.end, 0, cpu_seconds() - g_trial.cpu, compiled.bytes, 0, 0};
    answer.peak_bytes = std::max(peak_resident() - resident, compiled.bytes);
    if (compiled.end == g_trial.too_large) answer_and_end(compiled.end, request.bytes);
    set_space(INT64_MAX, inherited);
#ifdef __GLIBC__
    if (answer.peak_bytes > 8 << 20) malloc_trim(0);
#endif
    if (answer.peak_bytes > 8 << 20) answer.is_last = statm(1) - at_rest > kMostResident;
    answer.n_message = compiled.message.size();
    std::string message(reinterpret_cast<const char*>(&answer), sizeof answer);
    message += compiled.message;
    send_all(socket, message.data(), message.size(), Clock::now() + kStart);
    if (answer.is_last) _exit(0);
  }
}

}  // namespace starchat
