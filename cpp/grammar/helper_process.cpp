#include "grammar/helper_process.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <new>
#include <stdexcept>

#include "base/file_descriptor.hpp"
#include "base/thread_pool.hpp"
#include "grammar/grammar_trial.hpp"
#include "grammar/llguidance.hpp"

namespace starchat {
namespace {

using Clock = TrialClock;

constexpr int kNice = 10;
constexpr int64_t kMostResident = 64 << 20;  // more than at its start: the helper ends

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
  const TrialAnswer answer{end, 1, cpu_seconds() - g_trial.cpu, 0, peak_bytes, 0};
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
  const auto receive = [&](void* data, size_t size) {
    if (!receive_all(socket, data, size, TrialClock::time_point::max())) _exit(0);
  };
  static_cast<void>(send_all(socket, greeting, sizeof greeting, Clock::now() + kExchange));
  std::map<uint64_t, std::pair<std::shared_ptr<const GrammarVocabulary>, int32_t>> vocabularies;
  int64_t at_rest = 0;
  for (;;) {
    TrialRequest request;
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
    send_all(socket, &accepted, 1, Clock::now() + kExchange);
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
    TrialAnswer answer{compiled.end, 0, cpu_seconds() - g_trial.cpu, compiled.bytes, 0, 0};
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
    send_all(socket, message.data(), message.size(), Clock::now() + kExchange);
    if (answer.is_last) _exit(0);
  }
}

}  // namespace starchat
