// The engine over a model file, used by many threads at once: tokens are those of each request
// alone, and cancelling, closing and slow readers leave it in order. Under ThreadSanitizer it finds
// races, under AddressSanitizer lifetimes that are too short. Exit code 1: a check failed.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/errors.hpp"
#include "engine/engine_loop.hpp"
#include "model/decoder.hpp"
#include "text/tokenizer.hpp"

using namespace starchat;
using std::chrono::milliseconds;

namespace {

using Ids = std::vector<int32_t>;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

// Starts `n` threads that call body(0) … body(n - 1), and joins them.
template <class Body>
void in_threads(int n, const Body& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < n; ++i) threads.emplace_back([&body, i] { body(i); });
  for (auto& thread : threads) thread.join();
}

// Every second id is allowed; the text may always end.
class EvenIds : public Constraint {
 public:
  void accept(int32_t id) override { require(id % 2 == 0, "only allowed ids are accepted"); }
  bool fill_mask(std::span<uint32_t> mask) override {
    for (uint32_t& word : mask) word = 0x55555555;
    return true;
  }
  std::vector<int32_t> forced() override { return {}; }
  size_t n_allowed(std::span<const int32_t> ids) override {
    const auto odd = std::ranges::find_if(ids, [](int32_t id) { return id % 2 != 0; });
    return static_cast<size_t>(odd - ids.begin());
  }
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<EvenIds>(); }
};

// A gate for calls of a constraint, which closes after so many of them.
class Gate {
 public:
  explicit Gate(int n_before) : n_before_(n_before) {}
  void open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    --n_before_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return n_before_ >= 0 || is_open_; });
  }
  void await_visitor() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return n_before_ < 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int n_before_;
  bool is_open_ = false;
};

// EvenIds behind a gate.
class GatedIds : public EvenIds {
 public:
  explicit GatedIds(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  bool fill_mask(std::span<uint32_t> mask) override {
    gate_->pass();
    return EvenIds::fill_mask(mask);
  }

 private:
  const std::shared_ptr<Gate> gate_;
};

// EvenIds that take their time.
class SlowIds : public EvenIds {
 public:
  bool fill_mask(std::span<uint32_t> mask) override {
    std::this_thread::sleep_for(milliseconds(20));
    return EvenIds::fill_mask(mask);
  }
};

struct Request {
  std::vector<int64_t> prompt;
  SamplingParams params;
  bool is_constrained = false;
  std::shared_ptr<Gate> gate;  // or null
};

std::vector<Guidance> guidances(const Request& request, size_t n) {
  std::vector<Guidance> guidances(n);
  if (request.is_constrained)
    for (Guidance& guidance : guidances) {
      guidance.constraint = std::make_unique<EvenIds>();
      if (request.gate) guidance.constraint = std::make_unique<GatedIds>(request.gate);
    }
  return guidances;
}

std::shared_ptr<TokenStream> submit(EngineLoop& engine, const Request& request,
                                    std::shared_ptr<ReadyQueue> ready = nullptr, int64_t key = 0) {
  return engine
      .submit_replies(request.prompt, request.params, std::move(ready), {&key, 1},
                      guidances(request, 1))
      .front();
}

Ids read_all(TokenStream& stream) {
  Ids ids;
  SampledToken token;
  for (;;) {
    const auto next = stream.next(milliseconds(100), token);
    if (next == TokenStream::Next::kEnd) return ids;
    if (next == TokenStream::Next::kToken) ids.push_back(token.id);
  }
}

class Tests {
 public:
  explicit Tests(const std::string& path) {
    LoadedModel loaded = load_model(path, /*n_threads=*/3, /*n_ctx=*/256);
    model_ = std::move(loaded.model);
    const Tokenizer tokenizer(std::move(loaded.vocabulary));
    // Prompts that share pages of the cache, and repeat themselves, so that guesses are made.
    std::string shared;
    for (int i = 0; i < 8; ++i) shared += "def add(a, b):\n    return a + b\n\n";
    for (int i = 0; i < 12; ++i) {
      const Ids ids = tokenizer.encode(shared.substr(0, 60 + 12 * i) + std::string(i % 3, '#'));
      Request request{{ids.begin(), ids.end()}, {}, i % 4 == 3, nullptr};
      request.params.max_tokens = 12;
      request.params.temperature = i % 2 == 0 ? 0 : 0.9;
      request.params.seed = static_cast<uint64_t>(i);
      request.params.logprobs = i % 5 == 0 ? 2 : -1;
      request.params.repetition_penalty = i % 6 == 5 ? 1.2 : 1;
      requests_.push_back(std::move(request));
    }
  }

  void company_changes_no_token() {
    std::vector<Ids> alone;
    for (Request request : requests_) {
      request.params.speculation = false;
      EngineLoop engine(*model_, /*prefix_cache_bytes=*/0);
      alone.push_back(read_all(*submit(engine, request)));
      require(!alone.back().empty(), "a request has tokens");
    }
    EngineLoop engine(*model_);
    const int n = static_cast<int>(requests_.size());
    in_threads(4, [&](int thread) {
      for (int i = 0; i < n; ++i) {
        const int which = (i + 3 * thread) % n;
        require(read_all(*submit(engine, requests_[which])) == alone[which],
                "tokens are those of the request alone");
      }
    });
    const SchedulerStats stats = engine.stats();
    require(stats.n_cached_tokens > 0, "prefixes are taken from the cache");
    require(stats.n_guessed_tokens > 0, "tokens are guessed");
  }

  void replies_share_their_prompt() {
    EngineLoop engine(*model_);
    in_threads(4, [&](int thread) {
      const std::vector<int64_t> keys = {0, 1, 2};
      Request request = requests_[thread];
      request.params.temperature = 0.9;
      const auto replies = engine.submit_replies(request.prompt, request.params, nullptr, keys,
                                                 guidances(request, std::size(keys)));
      if (thread == 0) replies[0]->cancel();  // perhaps the one that computes the prompt
      for (size_t i = thread == 0; i < replies.size(); ++i) {
        Request alone = request;
        alone.params.seed += i;
        require(read_all(*replies[i]) == read_all(*submit(engine, alone)),
                "a reply is that of a request with its seed");
      }
    });
  }

  void all_kinds_of_work_at_once() {
    EngineLoop engine(*model_);
    std::atomic<bool> is_done = false;
    std::thread observer([&] {
      while (!is_done) engine.stats();
    });
    in_threads(4, [&](int thread) {
      for (int i = 0; i < 3; ++i) {
        const Request& request = requests_[3 * thread + i];
        if (thread == 0) {
          const Evaluation evaluation = engine.evaluate(request.prompt);
          require(read_all(*evaluation.stream).empty(), "an evaluation has no tokens");
        } else if (thread == 1) {
          const PendingEmbedding pending = engine.embed(request.prompt);
          require(read_all(*pending.stream).empty(), "an embedding has no tokens");
          require(std::ssize(pending.embedding->vector()) == model_->n_embd(),
                  "an embedding has n_embd values");
        } else {
          read_all(*submit(engine, request));
        }
      }
    });
    is_done = true;
    observer.join();
  }

  void streams_are_cancelled_by_other_threads() {
    EngineLoop engine(*model_);
    in_threads(4, [&](int thread) {
      for (int i = 0; i < 4; ++i) {
        Request request = requests_[(4 * i + thread) % requests_.size()];
        request.params.max_tokens = 150;
        const auto stream = submit(engine, request);
        std::thread canceller([&] {
          std::this_thread::sleep_for(milliseconds(5 * i));
          stream->cancel();
        });
        read_all(*stream);
        canceller.join();
      }
    });
    const auto n_left = [&] { return engine.stats().n_running + engine.stats().n_waiting; };
    while (n_left() > 0) std::this_thread::sleep_for(milliseconds(1));
  }

  void one_thread_serves_many_streams() {
    EngineLoop engine(*model_);
    const auto ready = std::make_shared<ReadyQueue>();
    std::map<int64_t, std::shared_ptr<TokenStream>> streams;
    for (size_t i = 0; i < requests_.size(); ++i) {
      const auto key = static_cast<int64_t>(i);
      streams[key] = submit(engine, requests_[i], ready, key);
    }
    ReadyQueue::Keys keys;
    while (!streams.empty()) {
      if (!ready->wait(milliseconds(100), keys)) continue;
      for (const int64_t key : std::span(keys.values).first(keys.n)) {
        streams.at(key)->drain();
        if (streams.at(key)->finish_reason()) streams.erase(key);
      }
    }
  }

  void slow_constraints_stop_nobody() {
    Request gated = requests_[3];
    gated.gate = std::make_shared<Gate>(6);
    EngineLoop engine(*model_);
    const Ids alone = read_all(*submit(engine, requests_[3]));
    std::vector<std::shared_ptr<TokenStream>> slow;
    for (int i = 0; i < 4; ++i) slow.push_back(submit(engine, gated));
    gated.gate->await_visitor();
    in_threads(4, [&](int thread) {
      for (int i = 0; i < 3; ++i) read_all(*submit(engine, requests_[3 * thread + i]));
    });
    require(engine.stats().n_slow_turns > 0, "slow turns are left to their threads");
    gated.gate->open();
    for (const auto& stream : slow)
      require(read_all(*stream) == alone, "slow turns change no token");
    require(engine.stats().n_abandoned == 0, "nothing is given up early");
  }

  void slow_constraints_rest_while_others_run() {
    EngineLoop engine(*model_);
    Request request = requests_[0];
    request.params.max_tokens = 150;
    const int64_t key = 0;
    std::vector<Guidance> slow_guidance(1);
    slow_guidance[0].constraint = std::make_unique<SlowIds>();
    const auto slow = engine
                          .submit_replies(request.prompt, request.params, nullptr, {&key, 1},
                                          std::move(slow_guidance))
                          .front();
    size_t n_others = 0;
    while (n_others < 150) n_others += read_all(*submit(engine, request)).size();
    require(slow->drain().size() < n_others / 2, "slow constraints leave others their pace");
    slow->cancel();
  }

  void calls_that_never_come_back_are_given_up() {
    Request gated = requests_[3];
    gated.gate = std::make_shared<Gate>(3);
    {
      EngineLoop engine(*model_, -1, Scheduler::kUnreadBytes, /*most_away=*/milliseconds(50));
      const auto stream = submit(engine, gated);
      try {
        read_all(*stream);
        require(false, "a reply that does not come back ends with an error");
      } catch (const ConstraintError&) {
      }
      require(!read_all(*submit(engine, requests_[0])).empty(), "others go on");
      require(engine.stats().n_abandoned == 1, "what is given up is counted");
      require(engine.stats().n_running == 0, "what is given up takes no place");
    }
    gated.gate->open();  // it comes back when the engine is gone
  }

  void closing_ends_every_stream() {
    for (int round = 0; round < 3; ++round) {
      EngineLoop engine(*model_);
      std::thread closer([&] {
        std::this_thread::sleep_for(milliseconds(30 * round));
        in_threads(2, [&](int) { engine.close(); });
      });
      in_threads(4, [&](int thread) {
        try {
          for (;;) {
            Request request = requests_[thread];
            request.params.max_tokens = 150;
            read_all(*submit(engine, request));
          }
        } catch (const EngineClosedError&) {
        }
      });
      closer.join();
    }
  }

  // As Python's garbage collector may do it: the engine goes first.
  void streams_outlive_their_engine() {
    std::vector<std::shared_ptr<TokenStream>> streams;
    {
      EngineLoop engine(*model_);
      for (const Request& request : requests_) streams.push_back(submit(engine, request));
    }
    in_threads(4, [&](int thread) {
      for (int i = 0; i < 3; ++i) {
        try {
          read_all(*streams[3 * thread + i]);
        } catch (const EngineClosedError&) {
        }
      }
    });
  }

 private:
  std::unique_ptr<ForwardPass> model_;
  std::vector<Request> requests_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s MODEL\n", argv[0]);
    return 2;
  }
  Tests tests(argv[1]);
  tests.company_changes_no_token();
  tests.replies_share_their_prompt();
  tests.all_kinds_of_work_at_once();
  tests.streams_are_cancelled_by_other_threads();
  tests.one_thread_serves_many_streams();
  tests.slow_constraints_stop_nobody();
  tests.slow_constraints_rest_while_others_run();
  tests.calls_that_never_come_back_are_given_up();
  tests.closing_ends_every_stream();
  tests.streams_outlive_their_engine();
}
