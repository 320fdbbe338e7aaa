// The sampler and a constraint by themselves, and scheduler and engine over a fake model, so that
// tests see single steps and choose when the model is slow or fails.
#include <pybind11/stl.h>

#include <chrono>
#include <limits>
#include <new>
#include <string>
#include <thread>
#include <utility>

#include "base/errors.hpp"
#include "bindings/bindings.hpp"
#include "bindings/py_engine.hpp"
#include "bindings/testing/testing.hpp"
#include "bindings/waiting.hpp"
#include "model/kv_store.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

// Stores token ids in the pages of the KV cache. Logits are a hash of all cached ids up to the
// column, so that any mistake in positions, caches or order changes the tokens. With a period, the
// likeliest id is mostly the one that many positions before: a text that repeats itself. `differs`:
// behind one in so many texts the logits are others, as those of a draft model.
class FakeModel : public ForwardPass {
 public:
  FakeModel(int n_vocab, int n_ctx, int max_columns, double step_s, int nan_id, int head_dim,
            int period = 0, int differs = 0)
      : n_vocab_(n_vocab),
        max_columns_(max_columns),
        step_s_(step_s),
        nan_id_(nan_id),
        period_(period),
        differs_(differs),
        kv_store_({1, 1, head_dim}),
        kv_pool_(n_ctx, kv_store_.page_bytes(), [this](int n) { kv_store_.reserve(n); }) {}

  int n_vocab() const override { return n_vocab_; }
  int n_ctx() const override { return kv_pool_.n_ctx(); }
  int n_embd() const override { return n_vocab_; }
  int max_columns() const override { return max_columns_; }
  KvPool& kv_pool() override { return kv_pool_; }
  void copy_page(PageId from, PageId to) override { kv_store_.copy(from, to); }
  void read_page(PageId page, std::span<std::byte> out) override { kv_store_.read(page, out); }
  void write_page(PageId page, std::span<const std::byte> bytes) override {
    kv_store_.write(page, bytes);
  }

  void forward(const Batch& batch, std::span<float> logits, std::span<float> states) override {
    runs.clear();
    std::this_thread::sleep_for(std::chrono::duration<double>(step_s_));
    const std::string failure = std::exchange(fail_next, {});
    if (failure == "NumericalError") throw NumericalError("the fake model was told to fail");
    if (failure == "bad_alloc") throw std::bad_alloc();
    if (batch.n_columns() > max_columns_) throw Error("batch larger than max_columns");
    for (int c = 0; c < batch.n_columns(); ++c) {
      const int position = batch.positions[c];
      cached_id(batch, c, position) = static_cast<uint16_t>(batch.token_ids[c]);
      if (c > 0 && batch.caches[c] == batch.caches[c - 1])
        ++runs.back().second;
      else
        runs.emplace_back(position, 1);
    }
    for (int row = 0; row < batch.n_logits(); ++row)
      fill(batch, batch.logit_columns[row], logits.subspan(size_t{1} * row * n_vocab_, n_vocab_));
    for (int row = 0; row < batch.n_states(); ++row)
      fill(batch, batch.state_columns[row], states.subspan(size_t{1} * row * n_vocab_, n_vocab_));
  }

  std::vector<std::pair<int, int>> runs;  // of the last batch: first position, columns
  std::string fail_next;

 private:
  uint16_t& cached_id(const Batch& batch, int column, int position) const {
    const PageId page = batch.caches[column]->pages().at(position / kPagePositions);
    return kv_store_.page(page)[position % kPagePositions];
  }

  void fill(const Batch& batch, int column, std::span<float> logits) const {
    uint64_t hash = 0;
    bool poisoned = false;
    for (int position = 0; position <= batch.positions[column]; ++position) {
      const int id = cached_id(batch, column, position);
      hash = (hash + static_cast<uint64_t>(id) + 1) * 0x9e3779b97f4a7c15;
      hash ^= hash >> 29;
      poisoned |= id == nan_id_;
    }
    if (differs_ > 0 && (hash >> 8) % differs_ == 0) hash = ~hash;
    Random random(hash);
    for (float& logit : logits)
      logit = poisoned ? std::numeric_limits<float>::quiet_NaN()
                       : static_cast<float>(random.uniform() * 8 - 4);
    const int quoted = batch.positions[column] + 1 - period_;
    if (period_ > 0 && quoted >= 0 && hash % 8 != 0) {
      logits[cached_id(batch, column, quoted)] = 9;
    }
  }

  int n_vocab_, max_columns_;
  double step_s_;
  int nan_id_, period_, differs_;
  KvStore kv_store_;
  KvPool kv_pool_;
};

// The settings of a draft model over the same fake vocabulary, cut or longer.
struct PyDraftSettings {
  int n_vocab, n_ctx, max_columns, nan_id, differs;
};

IdMap same_ids(int n_vocab, int n_draft) {
  IdMap ids{std::vector<int32_t>(n_vocab), std::vector<int32_t>(n_draft, -1),
            std::min(n_vocab, n_draft)};
  for (int id = 0; id < ids.n_same; ++id) ids.to_draft[id] = ids.to_model[id] = id;
  return ids;
}

class PyScheduler {
 public:
  PyScheduler(int n_vocab, int n_ctx, int max_columns, int max_sequences, int nan_id, int head_dim,
              int period, int64_t prefix_cache_bytes, int64_t unread_bytes,
              const std::optional<PyDraftSettings>& draft)
      : model_(n_vocab, n_ctx, max_columns, 0, nan_id, head_dim, period),
        draft_(draft
                   ? std::make_unique<FakeModel>(draft->n_vocab, draft->n_ctx, draft->max_columns,
                                                 0, draft->nan_id, head_dim, period, draft->differs)
                   : nullptr),
        scheduler_(model_, max_sequences, prefix_cache_bytes, unread_bytes, Scheduler::kMostAway,
                   {draft_.get(), draft ? same_ids(n_vocab, draft->n_vocab) : IdMap{}}) {}

  std::unique_ptr<PyTokenStream> add(const std::vector<int64_t>& prompt,
                                     const SamplingParams& params, const Grammar* grammar,
                                     const std::vector<int64_t>& lead,
                                     const std::string& cache_salt) {
    auto stream = std::make_shared<TokenStream>(wake_event_);
    Guidance guidance;
    if (grammar) guidance = {grammar->start(), lead};
    auto sequence = Sequence::generation(model_, prompt, params, stream, std::move(guidance));
    sequence->cache_salt = cache_salt;
    enqueue(std::move(sequence));
    return std::make_unique<PyTokenStream>(std::move(stream));
  }

  std::vector<std::unique_ptr<PyTokenStream>> add_replies(const std::vector<int64_t>& prompt,
                                                          const SamplingParams& params, int n,
                                                          const Grammar* grammar,
                                                          const std::vector<int64_t>& lead) {
    std::vector<std::shared_ptr<TokenStream>> streams(n);
    for (auto& stream : streams) stream = std::make_shared<TokenStream>(wake_event_);
    std::vector<Guidance> guidances(n);
    if (grammar)
      for (Guidance& guidance : guidances) guidance = {grammar->start(), lead};
    scheduler_.add(Sequence::replies(model_, prompt, params, streams, std::move(guidances)));
    std::vector<std::unique_ptr<PyTokenStream>> result;
    for (auto& stream : streams) result.push_back(std::make_unique<PyTokenStream>(stream));
    return result;
  }

  std::pair<std::unique_ptr<PyTokenStream>, std::shared_ptr<Embedding>> embed(
      const std::vector<int64_t>& prompt) {
    auto stream = std::make_shared<TokenStream>(wake_event_);
    auto embedding = std::make_shared<Embedding>(model_.n_embd());
    enqueue(Sequence::embedding(model_, prompt, embedding, stream));
    return {std::make_unique<PyTokenStream>(std::move(stream)), std::move(embedding)};
  }

  std::unique_ptr<PyTokenStream> score(const std::vector<int64_t>& prompt, int64_t n_best) {
    auto stream = std::make_shared<TokenStream>(wake_event_);
    enqueue(Sequence::scoring(model_, prompt, n_best, stream));
    return std::make_unique<PyTokenStream>(std::move(stream));
  }

  bool step() {
    model_.runs.clear();
    return scheduler_.step();
  }
  void took(double seconds) { scheduler_.took(seconds); }
  void fail_next(const std::string& error) { model_.fail_next = error; }
  void fail_draft(const std::string& error) { draft_->fail_next = error; }
  std::vector<std::pair<int, int>> draft_runs() const { return draft_->runs; }
  const std::vector<std::pair<int, int>>& runs() const { return model_.runs; }
  uint64_t n_signals() { return wake_event_->n_signals(); }
  py::dict stats() const {
    const SchedulerStats stats = scheduler_.stats();
    py::dict result;
    result["running"] = stats.n_running;
    result["waiting"] = stats.n_waiting;
    result["kv_pages_used"] = stats.n_kv_pages_used;
    return result;
  }
  py::dict draft_stats() const {
    const SchedulerStats stats = scheduler_.stats();
    py::dict result;
    result["drafted_tokens"] = stats.n_drafted_tokens;
    result["accepted_drafts"] = stats.n_accepted_drafts;
    result["draft_columns"] = stats.n_draft_columns;
    result["draft_pages_used"] = stats.n_draft_pages - stats.n_draft_pages_spare;
    result["draft_prefix_pages"] = stats.n_draft_prefix_pages;
    return result;
  }
  uint64_t n_prefix_pages() const { return scheduler_.stats().n_prefix_pages; }
  size_t page_bytes() { return model_.kv_pool().page_bytes(); }

 private:
  void enqueue(std::shared_ptr<Sequence> sequence) {
    Sequences sequences;
    sequences.push_back(std::move(sequence));
    scheduler_.add(std::move(sequences));
  }

  FakeModel model_;
  std::unique_ptr<FakeModel> draft_;
  std::shared_ptr<WakeEvent> wake_event_ = std::make_shared<WakeEvent>();
  Scheduler scheduler_;
};

// A constraint by itself, at the first token of a reply.
class PyConstraint {
 public:
  PyConstraint(const Tokenizer& tokenizer, const Grammar& grammar)
      : mask_((tokenizer.size() + 31) / 32), constraint_(grammar.start()) {}

  bool fill_mask() { return constraint_->fill_mask(mask_); }
  bool allows(uint32_t id) const { return mask_.at(id / 32) >> id % 32 & 1; }
  void accept(int32_t id) { constraint_->accept(id); }
  std::vector<int32_t> forced() { return constraint_->forced(); }
  size_t n_allowed(const std::vector<int32_t>& ids) { return constraint_->n_allowed(ids); }
  std::optional<std::vector<int32_t>> ending(const std::vector<int32_t>& next,
                                             const std::vector<int32_t>& known, size_t n_most,
                                             int n_steps) const {
    return constraint_->ending(next, known, n_most, n_steps).ids;
  }

 private:
  std::vector<uint32_t> mask_;
  std::unique_ptr<Constraint> constraint_;
};

// The choice of guesses for one sequence, step by step, where a test says what steps take.
class PyGuessPolicy {
 public:
  // Chooses for a step of n_streams alike; returns (n_drafted, n_looked_up) of each.
  std::pair<int, int> choose(int n_streams, int n_found, int n_most) {
    std::vector<GuessOption> options(n_streams, policy_.option(record_, n_found, false, n_most));
    policy_.choose(options);
    return {options[0].n_drafted, options[0].n_drafted > 0 ? 0 : n_found};
  }
  bool may_catch_up(int n_columns, double gain_s, int n_left) const {
    return policy_.may_catch_up(record_, n_columns, gain_s, n_left);
  }
  void read_prompt(double seconds) { record_.plain_s += seconds; }
  void begin_step(int n_columns, int n_decoding, double drafted_s) {
    policy_.begin_step(record_, n_columns, n_decoding, drafted_s);
  }
  void end_step(bool is_draft, int n_guessed, int n_right) {
    policy_.end_step(record_, is_draft ? GuessSource::kDraft : GuessSource::kLookUp, n_guessed,
                     n_right, n_right + 1);
  }
  void step_took(int n_columns, double seconds) { policy_.step_took(n_columns, seconds); }
  void draft_took(int n_columns, double seconds) { policy_.draft_took(n_columns, seconds); }
  void begin_stream() { record_ = {}; }

 private:
  GuessPolicy policy_;
  GuessRecord record_;
};

void bind_guess_policy(py::module_& testing) {
  py::class_<PyGuessPolicy>(testing, "GuessPolicy")
      .def(py::init<>())
      .def("choose", &PyGuessPolicy::choose, py::arg("n_streams") = 1, py::arg("n_found") = 0,
           py::arg("n_most") = 15)
      .def("may_catch_up", &PyGuessPolicy::may_catch_up, py::arg("n_columns"), py::arg("gain_s"),
           py::arg("n_left"))
      .def("read_prompt", &PyGuessPolicy::read_prompt, py::arg("seconds"))
      .def("begin_step", &PyGuessPolicy::begin_step, py::arg("n_columns"), py::arg("n_decoding"),
           py::arg("drafted_s"))
      .def("end_step", &PyGuessPolicy::end_step, py::arg("is_draft"), py::arg("n_guessed"),
           py::arg("n_right"))
      .def("step_took", &PyGuessPolicy::step_took, py::arg("n_columns"), py::arg("seconds"))
      .def("draft_took", &PyGuessPolicy::draft_took, py::arg("n_columns"), py::arg("seconds"))
      .def("begin_stream", &PyGuessPolicy::begin_stream);
}

Sampler sampler_after(const SamplingParams& params, const std::vector<int32_t>& prompt,
                      const std::vector<int32_t>& output, size_t n_vocab) {
  params.validate(static_cast<int>(n_vocab));
  Sampler sampler(params, prompt);
  for (const int32_t id : output) sampler.remember(id);
  return sampler;
}

py::object sample(std::vector<float> logits, SamplingParams params,
                  const std::vector<int32_t>& prompt, const std::vector<int32_t>& output,
                  const TokenIds& control_ids) {
  params.control_ids = control_ids;
  return as_token(sampler_after(params, prompt, output, logits.size()).sample(logits));
}

std::vector<std::pair<int32_t, double>> candidates(std::vector<float> logits,
                                                   const SamplingParams& params,
                                                   const std::vector<int32_t>& prompt,
                                                   const std::vector<int32_t>& output) {
  Sampler sampler = sampler_after(params, prompt, output, logits.size());
  std::vector<std::pair<int32_t, double>> result;
  for (const Candidate& c : sampler.candidates(logits)) result.emplace_back(c.id, c.weight);
  return result;
}

std::unique_ptr<PyEngine> fake_engine(int n_vocab, int n_ctx, int max_columns, double step_s,
                                      int nan_id) {
  auto model = std::make_unique<FakeModel>(n_vocab, n_ctx, max_columns, step_s, nan_id, 2);
  ModelInfo info{};
  info.file = "fake";
  info.config.n_vocab = n_vocab;
  info.config.n_ctx = n_ctx;
  Vocabulary vocabulary;
  vocabulary.tokens.assign(n_vocab, "fake");
  auto tokenizer = std::make_shared<Tokenizer>(std::move(vocabulary));
  return std::make_unique<PyEngine>(std::move(model), std::move(info), std::move(tokenizer));
}

}  // namespace

void bind_testing(py::module_& m) {
  py::module_ testing = m.def_submodule("testing", "Seams for the tests of this repository.");
  bind_kernels(testing);
  bind_timing(testing);
  bind_readers(testing);
  bind_gpu(testing);
  bind_shaders(testing);
  testing.def("sample", &sample, py::arg("logits"), py::arg("params"),
              py::arg("prompt") = py::list(), py::arg("output") = py::list(),
              py::arg("control_ids") = py::list());
  testing.def("candidates", &candidates, py::arg("logits"), py::arg("params"),
              py::arg("prompt") = py::list(), py::arg("output") = py::list());
  testing.def("engine", &fake_engine, py::kw_only(), py::arg("n_vocab") = 64,
              py::arg("n_ctx") = 256, py::arg("max_columns") = 16, py::arg("step_s") = 0.0,
              py::arg("nan_id") = -1);
  py::class_<GrammarCompiler>(testing, "GrammarCompiler")
      .def(py::init([](const std::string& library, std::shared_ptr<Tokenizer> tokenizer,
                       std::vector<std::string> helper, double seconds, int64_t bytes,
                       int64_t cache_bytes, int64_t copy_bytes) {
             return std::make_unique<GrammarCompiler>(
                 library, std::move(tokenizer), std::move(helper),
                 CompileLimits{seconds, bytes, cache_bytes, copy_bytes});
           }),
           py::arg("library"), py::arg("tokenizer"), py::kw_only(), py::arg("helper") = py::list(),
           py::arg("seconds") = CompileLimits().seconds, py::arg("bytes") = CompileLimits().bytes,
           py::arg("cache_bytes") = CompileLimits().cache_bytes,
           py::arg("copy_bytes") = CompileLimits().copy_bytes)
      .def(
          "compile",
          [](GrammarCompiler& compiler, const std::string& kind, const std::string& text) {
            std::unique_ptr<PendingGrammar> pending;
            {
              const GilReleased released;
              pending = compiler.begin(kind, text);
            }
            return finished(*pending);
          },
          py::arg("kind"), py::arg("text"))
      .def(
          "counts",
          [](const GrammarCompiler& compiler) {
            const auto counts = compiler.counts();
            return std::make_tuple(counts.n_compiled, counts.n_kept, counts.kept_bytes,
                                   counts.n_tried);
          },
          "Compiled so far; kept; the bytes of these; begun to compile.")
      .def("close", &GrammarCompiler::close);
  py::class_<PyConstraint>(testing, "Constraint")
      .def(py::init<const Tokenizer&, const Grammar&>(), py::arg("tokenizer"), py::arg("grammar"))
      .def("fill_mask", &PyConstraint::fill_mask, "Whether the text may end here.")
      .def("allows", &PyConstraint::allows, py::arg("id"), "In the mask that was filled last.")
      .def("accept", &PyConstraint::accept)
      .def("forced", &PyConstraint::forced)
      .def("n_allowed", &PyConstraint::n_allowed)
      .def("ending", &PyConstraint::ending, py::arg("next") = py::list(),
           py::arg("known") = py::list(), py::arg("n_most") = 1000, py::arg("n_steps") = 2000);
  py::class_<PyDraftSettings>(testing, "Draft")
      .def(py::init<int, int, int, int, int>(), py::kw_only(), py::arg("n_vocab") = 64,
           py::arg("n_ctx") = 256, py::arg("max_columns") = 256, py::arg("nan_id") = -1,
           py::arg("differs") = 0);
  bind_guess_policy(testing);
  py::class_<PyScheduler>(testing, "Scheduler")
      .def(py::init<int, int, int, int, int, int, int, int64_t, int64_t,
                    const std::optional<PyDraftSettings>&>(),
           py::kw_only(), py::arg("n_vocab") = 64, py::arg("n_ctx") = 256,
           py::arg("max_columns") = 16, py::arg("max_sequences") = 64, py::arg("nan_id") = -1,
           py::arg("head_dim") = 2, py::arg("period") = 0, py::arg("prefix_cache_bytes") = -1,
           py::arg("unread_bytes") = Scheduler::kUnreadBytes, py::arg("draft") = py::none())
      .def("add", &PyScheduler::add, py::arg("prompt"), py::arg("params"),
           py::arg("grammar") = py::none(), py::arg("lead") = py::list(),
           py::arg("cache_salt") = "")
      .def("add_replies", &PyScheduler::add_replies, py::arg("prompt"), py::arg("params"),
           py::arg("n"), py::arg("grammar") = py::none(), py::arg("lead") = py::list())
      .def("embed", &PyScheduler::embed, py::arg("prompt"))
      .def("score", &PyScheduler::score, py::arg("prompt"), py::arg("n_best"))
      .def("step", &PyScheduler::step)
      .def("took", &PyScheduler::took, py::arg("seconds"))
      .def("fail_next", &PyScheduler::fail_next)
      .def("fail_draft", &PyScheduler::fail_draft)
      .def_property_readonly("draft_runs", &PyScheduler::draft_runs)
      .def("stats", &PyScheduler::stats)
      .def("draft_stats", &PyScheduler::draft_stats)
      .def_property_readonly("runs", &PyScheduler::runs)
      .def_property_readonly("n_prefix_pages", &PyScheduler::n_prefix_pages)
      .def_property_readonly("page_bytes", &PyScheduler::page_bytes)
      .def_property_readonly("n_signals", &PyScheduler::n_signals);
}

}  // namespace starchat
