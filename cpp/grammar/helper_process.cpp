#include "grammar/helper_process.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __linux__
#include <malloc.h>
#elif defined(__APPLE__)
#include <malloc/malloc.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <new>
#include <stdexcept>

#include "base/cpu_time.hpp"
#include "base/file_descriptor.hpp"
#include "base/process_memory.hpp"
#include "base/thread_pool.hpp"
#include "grammar/grammar_trial.hpp"
#include "grammar/llguidance.hpp"

namespace starchat {
namespace {

using Clock = TrialClock;

constexpr int kNice = 10;
constexpr size_t kSignalStack = 1 << 16;
constexpr int64_t kMostResident = 64 << 20;  // more than at its start: the helper ends

// The most that was resident since clear_refs was written to.
int64_t peak_resident() {
  const FileDescriptor file(open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  char text[4096] = "";
  if (file.get() < 0 || read(file.get(), text, sizeof text - 1) <= 0) return 0;
  const char* line = std::strstr(text, "VmHWM:");
  return line ? std::atoll(line + 6) << 10 : 0;
}

void write_file(const char* path, const char* text) {
  const FileDescriptor file(open(path, O_WRONLY | O_CLOEXEC));
  if (file.is_open()) static_cast<void>(write(file.get(), text, std::strlen(text)) > 0);
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
#elif defined(__APPLE__)
  return static_cast<int64_t>(mstats().bytes_used);
#endif
  return process_memory().resident;
}

// What the handler of fatal signals needs; it allocates nothing.
struct {
  int socket = -1, messages = -1;  // Rust's last words are read from `messages`
  int64_t space = 0;               // before the compilation
  double cpu = 0;
  TrialEnd too_large = TrialEnd::kTooLarge;
} g_trial;

double used_seconds() { return cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - g_trial.cpu; }

[[noreturn]] void answer_and_end(TrialEnd end, int64_t peak_bytes) {
  const TrialAnswer answer{end, 1, used_seconds(), 0, 0, peak_bytes, 0};
  static_cast<void>(send(g_trial.socket, &answer, sizeof answer, 0));  // Python ignores SIGPIPE
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
  answer_and_end(g_trial.too_large, process_memory().space - g_trial.space + wanted);
}

struct Compiled {
  TrialEnd end = TrialEnd::kCompiled;
  int64_t bytes = 0, copy_bytes = 0;
  std::string message{};
};

// Compiles, makes a copy as each reply does, and computes what the first token needs.
Compiled compile(const std::shared_ptr<const GrammarVocabulary>& vocabulary, int32_t n_vocab,
                 const std::string& kind, const std::string& text) {
  Compiled result;
  try {
    const int64_t before = allocated();
    const Grammar grammar = compile_grammar(vocabulary, kind, text);
    const int64_t compiled = allocated();
    result.bytes = std::max<int64_t>(compiled - before, 0);
    const auto constraint = grammar.start();
    result.copy_bytes = std::max<int64_t>(allocated() - compiled, 0);
    std::vector<uint32_t> mask(n_vocab / 32 + 1);
    const bool may_end = constraint->fill_mask(mask);
    int n_allowed = 0;
    for (const uint32_t word : mask) n_allowed += std::popcount(word);
    if (n_allowed == 1 && !may_end) static_cast<void>(constraint->forced());
  } catch (const std::bad_alloc&) {
    result.end = g_trial.too_large;
  } catch (const std::exception& error) {
    if (result.bytes == 0) result = {TrialEnd::kRefused, 0, 0, error.what()};
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
      static_cast<int64_t>(data.rlim_cur) - process_memory().data < bytes - process_memory().space)
    g_trial.too_large = TrialEnd::kOutOfMemory;
}

// Ends the descriptors that are inherited, and leaves the process that started this one: an orphan
// meets nobody's wait(). Returns 0, or why it cannot.
int detach() {
#ifdef SYS_close_range
  const bool is_closed = syscall(SYS_close_range, 3, ~0U, 0) == 0;
#else
  const bool is_closed = false;
#endif
  for (int fd = 3; !is_closed && fd < 4096; ++fd) close(fd);
  setsid();
  const pid_t child = fork();
  if (child > 0) _exit(0);
  return child < 0 ? errno : 0;
}

// Where the system must choose, it stops or ends this process rather than its owner.
void yield_to_others() {
  static_cast<void>(nice(kNice) == -1);
  write_file("/proc/self/oom_score_adj", "1000");
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
#ifdef M_ARENA_MAX
  mallopt(M_ARENA_MAX, 1);  // others would reserve address space
#endif
}

struct Pipe {
  int out = -1, in = -1;

  Pipe() {
    int ends[2];
    if (pipe(ends) != 0) _exit(1);
    for (const int end : ends) fcntl(end, F_SETFD, FD_CLOEXEC);
    out = ends[0];
    in = ends[1];
  }
};

stack_t stack_of(void* begin, size_t size) {
  stack_t stack{};  // its fields have another order on macOS
  stack.ss_sp = begin;
  stack.ss_size = size;
  if (!begin) stack.ss_flags = SS_DISABLE;
  return stack;
}

// Fatal signals answer what is compiled; what Rust says before, on standard error, goes to a pipe.
void catch_fatal_signals(int socket) {
  const Pipe messages;
  for (const int end : {messages.out, messages.in}) fcntl(end, F_SETFL, O_NONBLOCK);
  dup2(messages.in, 2);
  g_trial.socket = socket;
  g_trial.messages = messages.out;
  static char memory[kSignalStack];
  const stack_t stack = stack_of(memory, sizeof memory);
  sigaltstack(&stack, nullptr);
  struct sigaction action{};
  action.sa_handler = end_by_signal;
  action.sa_flags = SA_ONSTACK;
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE})
    sigaction(signal, &action, nullptr);
  for (const int signal : {SIGINT, SIGHUP, SIGTERM}) ::signal(signal, SIG_DFL);
}

// Calls work() in a thread with this stack until it is done, the CPU time is used up, or the owner
// is gone.
void run_within(double seconds, size_t stack_bytes, const std::function<void()>& work) {
  static const Pipe done;
  try {
    start_on_stack(stack_bytes, [&work] {
      void* const memory = std::malloc(kSignalStack);
      const stack_t own = stack_of(memory, kSignalStack), none = stack_of(nullptr, 0);
      sigaltstack(&own, nullptr);
      work();
      sigaltstack(&none, nullptr);
      std::free(memory);
      static_cast<void>(write(done.in, "", 1) == 1);
    });
  } catch (const std::exception&) {
    answer_and_end(TrialEnd::kOutOfMemory, static_cast<int64_t>(stack_bytes));
  }
  for (;;) {
    const double left = seconds - used_seconds();
    if (left <= 0) answer_and_end(TrialEnd::kTooLong, 0);
    pollfd waiting[2] = {{done.out, POLLIN, 0}, {g_trial.socket, POLLIN, 0}};
    poll(waiting, 2, static_cast<int>(std::min(1000 * left + 1, 1e6)));
    if (waiting[0].revents) break;
    if (waiting[1].revents) _exit(0);  // the other end closed: nothing is sent meanwhile
  }
  char byte;
  static_cast<void>(read(done.out, &byte, 1) == 1);
}

struct KnownVocabulary {
  std::shared_ptr<const GrammarVocabulary> prepared;
  int32_t n_tokens = 0;
};

KnownVocabulary vocabulary_of(const std::string& library, const std::vector<uint32_t>& lengths,
                              const std::string& bytes) {
  Vocabulary vocabulary;
  size_t begin = 0;
  for (const uint32_t marked : lengths) {
    const uint32_t length = marked & ~kControlToken;
    if (marked != length) {
      vocabulary.control_ids.push_back(static_cast<int32_t>(vocabulary.tokens.size()));
    }
    vocabulary.tokens.push_back(bytes.substr(begin, length));
    begin += length;
  }
  auto tokenizer = std::make_shared<const Tokenizer>(std::move(vocabulary));
  return {grammar_vocabulary(library, tokenizer), tokenizer->size()};
}

}  // namespace

void serve_grammar_trials(int socket) {
  TrialGreeting greeting{kGreeting, 0, detach()};
  greeting.pid = static_cast<int32_t>(getpid());
  if (greeting.error == 0) {
    yield_to_others();
    catch_fatal_signals(socket);
  }
  const auto send_or_end = [&](const void* data, size_t size) {
    if (!send_all(socket, data, size, Clock::now() + kExchange)) _exit(0);
  };
  const auto receive = [&](void* data, size_t size, Clock::time_point until) {
    if (!receive_all(socket, data, size, until)) _exit(0);
  };
  send_or_end(&greeting, sizeof greeting);
  if (greeting.error != 0) _exit(0);

  rlimit inherited{};
  getrlimit(RLIMIT_AS, &inherited);
  std::map<uint64_t, KnownVocabulary> vocabularies;
  int64_t at_rest = 0;
  for (auto asked_until = Clock::time_point::max();;) {
    TrialRequest request;
    receive(&request, sizeof request, asked_until);
    const auto sent_until = Clock::now() + kExchange;
    std::string kind(request.n_kind, 0), text(request.n_text, 0);
    std::string library(request.n_library, 0), bytes(request.n_token_bytes, 0);
    std::vector<uint32_t> lengths(request.n_tokens);
    receive(kind.data(), kind.size(), sent_until);
    receive(text.data(), text.size(), sent_until);
    receive(library.data(), library.size(), sent_until);
    receive(lengths.data(), 4 * lengths.size(), sent_until);
    receive(bytes.data(), bytes.size(), sent_until);
    const uint8_t accepted = 1;
    send_or_end(&accepted, 1);
    if (request.forgets) vocabularies.clear();
    g_trial.cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    if (request.n_library) {
      try {
        vocabularies[request.vocabulary] = vocabulary_of(library, lengths, bytes);
      } catch (const std::bad_alloc&) {
        answer_and_end(TrialEnd::kOutOfMemory, 0);
      } catch (const std::exception&) {
        answer_and_end(TrialEnd::kVocabulary, 0);
      }
      at_rest = process_memory().resident;
    }
    const KnownVocabulary& known = vocabularies[request.vocabulary];

    for (char old[4096]; read(g_trial.messages, old, sizeof old) > 0;) {
    }
    const size_t stack_bytes = compiling_stack_bytes(text.size());
    g_trial.cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    g_trial.space = process_memory().space;
    write_file("/proc/self/clear_refs", "5");  // peak_resident() begins again
    const int64_t resident = process_memory().resident;
    Compiled compiled;
    run_within(request.seconds, stack_bytes, [&] {
      g_trial.space = process_memory().space;  // with this thread's stack
      set_space(g_trial.space + request.bytes, inherited);
      compiled = compile(known.prepared, known.n_tokens, kind, text);
    });
    if (compiled.end == g_trial.too_large) answer_and_end(compiled.end, request.bytes);
    TrialAnswer answer{compiled.end,        0, used_seconds(),         compiled.bytes,
                       compiled.copy_bytes, 0, compiled.message.size()};
    answer.peak_bytes = std::max(peak_resident() - resident, compiled.bytes);
    set_space(INT64_MAX, inherited);
    if (answer.peak_bytes > 8 << 20) {
#ifdef __GLIBC__
      malloc_trim(0);
#endif
      answer.is_last = process_memory().resident - at_rest > kMostResident;
    }
    std::string message(reinterpret_cast<const char*>(&answer), sizeof answer);
    message += compiled.message;
    send_or_end(message.data(), message.size());
    if (answer.is_last) _exit(0);
    asked_until = request.idle_seconds ? Clock::now() + std::chrono::seconds(request.idle_seconds)
                                       : Clock::time_point::max();
  }
}

}  // namespace starchat
