#include "bindings/py_engine.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "base/errors.hpp"
#include "bindings/bindings.hpp"
#include "bindings/memory_checks.hpp"
#include "bindings/py_checkpoint.hpp"
#include "bindings/waiting.hpp"
#include "grammar/helper_process.hpp"
#include "model/decoder.hpp"
#include "model/memory_need.hpp"
#include "model/model_sample.hpp"
#include "text/match_vocabularies.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

using namespace py::literals;

// A decoder of the draft's weights, with the threads of the model's.
PyDraft make_draft(const std::shared_ptr<PyWeights>& weights, const PyWeights& model_weights,
                   const Decoder& model) {
  if (!weights) return {};
  const GilReleased released;
  IdMap ids = match_vocabularies(*model_weights.tokenizer, model_weights.file->path,
                                 *weights->tokenizer, weights->file->path);
  const int n_ctx = std::min(model.n_ctx(), weights->file->config.n_ctx);
  return {std::make_unique<Decoder>(weights->file, model.cores(), n_ctx), std::move(ids), weights};
}

// Loads without the GIL, unless weights are given. Calls progress, if there is one, and lets Ctrl-C
// end the load. memory_root: of free_memory(); None: memory is not checked. draft: weights of a
// model that guesses, or null.
std::unique_ptr<PyEngine> load(const py::object& path, int n_threads, int n_ctx,
                               int64_t prefix_cache_bytes, int gpu_layers,
                               const std::string& device, int64_t unread_bytes,
                               const py::object& progress, std::shared_ptr<PyWeights> weights,
                               bool share_weights, const std::optional<std::string>& memory_root,
                               const std::shared_ptr<PyCheckpoint>& checkpoint,
                               const std::shared_ptr<PyWeights>& draft) {
  const auto file = py::module_::import("os").attr("fsencode")(path).cast<std::string>();
  std::unique_ptr<Decoder> model;
  bool is_checked = !memory_root;
  MemoryPromise promise;
  const Placement placement{gpu_layers, device};
  const auto check = [&](const auto& what) {
    if (is_checked) return;
    MemorySettings settings{n_threads, n_ctx, prefix_cache_bytes};
    if (draft) settings.draft_bytes = draft_bytes(*draft->file, what.config, settings);
    check_memory(what, settings, free_memory(*memory_root), promise);
    is_checked = true;
  };
  // Before the weights are read, which may take long.
  const auto check_file = [&](const ModelFile& opened) {
    if (draft)
      match_vocabularies(Tokenizer(opened.vocabulary), opened.path(), *draft->tokenizer,
                         draft->file->path);
    check(opened);
  };
  if (weights) {
    const GilReleased released;
    model = std::make_unique<Decoder>(weights->file, n_threads, n_ctx, placement);
  } else {
    GilReleased released;
    ProgressReport report(released, progress);
    LoadedModel loaded = checkpoint
                             ? load_model(checkpoint->take(released), n_threads, n_ctx,
                                          share_weights, std::ref(report), check_file, placement)
                             : load_model(file, n_threads, n_ctx, share_weights, std::ref(report),
                                          check_file, placement);
    model = std::move(loaded.model);
    weights = std::make_shared<PyWeights>(
        model->file(), std::make_shared<Tokenizer>(std::move(loaded.vocabulary)));
  }
  check(*weights->file);
  ModelInfo info = model->info();
  info.file = file;  // which may be another name of the one that was read
  PyDraft guesses = make_draft(draft, *weights, *model);
  return std::make_unique<PyEngine>(std::move(model), std::move(info), weights->tokenizer,
                                    prefix_cache_bytes, unread_bytes, weights, std::move(guesses));
}

py::tuple identity(const PyWeights& weights) { return numbers_of(weights.file->identities); }

py::bytes sample(const PyWeights& weights) {
  std::vector<std::byte> bytes;
  {
    const GilReleased released;
    bytes = sample_of(*weights.file);
  }
  return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

PyEngine::PyEngine(std::unique_ptr<ForwardPass> model, ModelInfo info,
                   std::shared_ptr<Tokenizer> tokenizer, int64_t prefix_cache_bytes,
                   int64_t unread_bytes, std::shared_ptr<PyWeights> weights, PyDraft draft)
    : info_(std::move(info)),
      kv_page_bytes_(model->kv_pool().page_bytes()),
      draft_page_bytes_(draft.model ? draft.model->kv_pool().page_bytes() : 0),
      weights_(std::move(weights)),
      draft_weights_(std::move(draft.weights)),
      tokenizer_(std::move(tokenizer)),
      core_(std::make_shared<Core>(std::move(model), prefix_cache_bytes, unread_bytes,
                                   std::move(draft))) {
  CloseAtExit<EngineLoop>::add({core_->get(), &core_->get()->loop});
}

PyWeights::~PyWeights() {
  const GilReleased released;
  file.reset();
}

PyEngine::~PyEngine() {
  const GilReleased released;
  grammars_.reset();
  core_.reset();
}

py::dict PyEngine::info() const {
  const LoadedFile* const draft = draft_weights_ ? draft_weights_->file.get() : nullptr;
  return py::dict("file"_a = py::module_::import("os").attr("fsdecode")(py::bytes(info_.file)),
                  "quantization"_a = info_.quantization, "n_layer"_a = info_.config.n_layer,
                  "n_embd"_a = info_.config.n_embd, "n_head"_a = info_.config.n_head,
                  "n_kv_head"_a = info_.config.n_kv_head, "n_ctx"_a = info_.config.n_ctx,
                  "n_vocab"_a = info_.config.n_vocab, "n_params"_a = info_.n_params,
                  "weight_bytes"_a = info_.weight_bytes, "isa"_a = info_.isa,
                  "n_threads"_a = info_.n_threads, "gpu_layers"_a = info_.placement.gpu_layers,
                  "device"_a = info_.placement.device, "kv_page_bytes"_a = kv_page_bytes_,
                  "kv_page_tokens"_a = kPagePositions,
                  "draft_weight_bytes"_a = draft ? draft->weights.size_bytes() : 0,
                  "draft_page_bytes"_a = draft_page_bytes_);
}

std::vector<std::unique_ptr<PyTokenStream>> PyEngine::submit_replies(
    const std::vector<int64_t>& token_ids, const SamplingParams& params, const PyReadyQueue* ready,
    const std::vector<int64_t>& keys, const Grammar* grammar, const std::vector<int64_t>& lead,
    const Grammar* otherwise, const std::string& cache_salt, double mask_seconds,
    double grammar_seconds) {
  SamplingParams guarded = params;
  guarded.control_ids = tokenizer_->control_ids();
  EngineLoop& loop = (*core_)->loop;
  auto queue = ready ? ready->get() : nullptr;
  const GilReleased released;
  std::vector<Guidance> guidances(keys.size());
  const GrammarBudget budget{.mask_seconds = mask_seconds, .reply_seconds = grammar_seconds};
  if (grammar)
    for (Guidance& guidance : guidances)
      guidance = {grammar->start(budget), lead, otherwise ? otherwise->start(budget) : nullptr};
  std::vector<std::unique_ptr<PyTokenStream>> streams;
  for (auto& stream : loop.submit_replies(token_ids, guarded, std::move(queue), keys,
                                          std::move(guidances), cache_salt))
    streams.push_back(std::make_unique<PyTokenStream>(std::move(stream)));
  return streams;
}

Grammar PyEngine::compile(const std::string& library, const std::string& kind,
                          const std::string& text, const std::vector<std::string>& helper,
                          double seconds, int64_t bytes, int64_t cache_bytes, int64_t copy_bytes) {
  core_->get();  // in a forked child, another thread may hold the mutex forever
  std::unique_ptr<PendingGrammar> pending;
  {
    const GilReleased released;
    const std::lock_guard lock(grammars_mutex_);
    if (!grammars_)
      grammars_ = std::make_unique<GrammarCompiler>(
          library, tokenizer_, helper, CompileLimits{seconds, bytes, cache_bytes, copy_bytes});
    pending = grammars_->begin(kind, text);
  }
  return finished(*pending);
}

py::array_t<float> PyEngine::logits(const std::vector<int64_t>& token_ids, int64_t first) {
  EngineLoop& loop = (*core_)->loop;
  Evaluation evaluation;
  {
    const GilReleased released;
    evaluation = loop.evaluate(token_ids, first);
  }
  PyTokenStream cancelled_if_interrupted(evaluation.stream);
  cancelled_if_interrupted.next();
  if (evaluation.stream->finish_reason() == FinishReason::kCancelled)
    throw EngineClosedError("the engine was closed while these logits were computed");
  const py::ssize_t n_rows = std::ssize(token_ids) - first;
  float* rows = evaluation.logits.get();
  const py::capsule owner(
      new std::shared_ptr<float[]>(std::move(evaluation.logits)),
      [](void* pointer) { delete static_cast<std::shared_ptr<float[]>*>(pointer); });
  return py::array_t<float>({n_rows, py::ssize_t{info_.config.n_vocab}}, rows, owner);
}

std::pair<std::unique_ptr<PyTokenStream>, std::shared_ptr<Embedding>> PyEngine::embed(
    const std::vector<int64_t>& token_ids, const PyReadyQueue* ready, int64_t key) {
  EngineLoop& loop = (*core_)->loop;
  auto queue = ready ? ready->get() : nullptr;
  const GilReleased released;
  PendingEmbedding pending = loop.embed(token_ids, std::move(queue), key);
  return {std::make_unique<PyTokenStream>(std::move(pending.stream)), std::move(pending.embedding)};
}

std::unique_ptr<PyTokenStream> PyEngine::score(const std::vector<int64_t>& token_ids,
                                               int64_t n_best, const PyReadyQueue* ready,
                                               int64_t key, const std::string& cache_salt) {
  EngineLoop& loop = (*core_)->loop;
  auto queue = ready ? ready->get() : nullptr;
  const GilReleased released;
  return std::make_unique<PyTokenStream>(
      loop.score(token_ids, n_best, std::move(queue), key, cache_salt));
}

std::pair<std::unique_ptr<PyTokenStream>, std::unique_ptr<PyPrefix>> PyEngine::compute_prefix(
    const std::vector<int64_t>& token_ids, const PyReadyQueue* ready, int64_t key,
    const std::string& cache_salt) {
  EngineLoop& loop = (*core_)->loop;
  auto queue = ready ? ready->get() : nullptr;
  const GilReleased released;
  PendingPrefix pending = loop.compute_prefix(token_ids, std::move(queue), key, cache_salt);
  const auto n_whole = std::ssize(token_ids) / kPagePositions * kPagePositions;
  std::shared_ptr<KvSequence> pages(pending.prompt, &pending.prompt->pages);
  return {std::make_unique<PyTokenStream>(std::move(pending.stream)),
          prefix({token_ids.begin(), token_ids.begin() + n_whole}, std::move(pages))};
}

std::unique_ptr<PyPrefix> PyEngine::new_prefix(std::vector<int32_t> token_ids) {
  auto pages = std::make_shared<KvSequence>((*core_)->model->kv_pool());
  return prefix(std::move(token_ids), std::move(pages));
}

std::unique_ptr<PyPrefix> PyEngine::prefix(std::vector<int32_t> ids,
                                           std::shared_ptr<KvSequence> pages) {
  const std::shared_ptr<Core>& core = core_->get();
  return std::make_unique<PyPrefix>(std::shared_ptr<EngineLoop>(core, &core->loop), kv_page_bytes_,
                                    std::move(ids), std::move(pages));
}

py::dict PyEngine::stats() {
  const SchedulerStats stats = (*core_)->loop.stats();
  py::dict result;
#define ITEM(name, meaning) result[#name] = stats.n_##name;
  STARCHAT_COUNTERS(ITEM)
#undef ITEM
  return result;
}

void PyEngine::close() {
  if (!core_->is_here()) return;  // a forked child has nothing to close
  EngineLoop& loop = (*core_)->loop;
  const GilReleased released;
  loop.close();
  const std::lock_guard lock(grammars_mutex_);
  if (grammars_) grammars_->close();
}

Grammar finished(const PendingGrammar& pending) {
  wait_interruptibly([&](auto timeout) { return pending.wait(timeout); });
  return pending.get();
}

#define LINE(name, meaning) "\n" #name ": " meaning

// A large grammar takes 0.1 s to free.
struct FreedWithoutGil {
  void operator()(Grammar* grammar) const {
    const GilReleased released;
    delete grammar;
  }
};

void bind_engine(py::module_& m) {
  m.def("serve_grammar_trials", &serve_grammar_trials, py::arg("socket"),
        "Be a helper process, which compiles what comes from a socket. Never returns.");
  CloseAtExit<EngineLoop>::prepare();
  bind_sampling_params(m);
  bind_token_stream(m);
  bind_prefix(m);
  CheckedClass<Grammar, std::unique_ptr<Grammar, FreedWithoutGil>>(
      m, "Grammar", "A compiled constraint of one engine's vocabulary.");
  CheckedClass<Embedding, std::shared_ptr<Embedding>>(m, "Embedding",
                                                      "A vector that is being computed.")
      .def_property_readonly(
          "vector", checked(+[](const Embedding& embedding) {
            const auto vector = embedding.vector();
            return py::array_t<double>(std::ssize(vector), vector.data());
          }),
          "Of length 1, float64 (n_embd); complete once the stream that came with it has ended.");
  CheckedClass<PyWeights, std::shared_ptr<PyWeights>>(m, "Weights",
                                                      "The constant part of a loaded model.")
      .def_property_readonly("identity", &identity,
                             "Of each file: device, inode, size in bytes, mtime in ns.")
      .def("sample", checked(&sample),
           "Return what tells models apart: shapes, types and values at fixed places.");
  CheckedClass<PyEngine>(m, "Engine", "A loaded model and the thread that computes with it.")
      .def(
          py::init(&load), py::arg("path"), py::kw_only(), py::arg("n_threads") = 0,
          py::arg("n_ctx") = 0, py::arg("prefix_cache_bytes") = -1, py::arg("gpu_layers") = 0,
          py::arg("device") = "", py::arg("unread_bytes") = Scheduler::kUnreadBytes,
          py::arg("progress") = py::none(), py::arg("weights") = nullptr,
          py::arg("share_weights") = false, py::arg("memory_root") = py::none(),
          py::arg("checkpoint") = nullptr, py::arg("draft") = nullptr,
          "Load a model file. progress(done_bytes, total_bytes) is called meanwhile; what it\n"
          "raises ends the load. With `weights`, those of another engine on this file, nothing is\n"
          "read; with `share_weights`, processes of this user have them together. Raises\n"
          "OutOfMemoryError where what is free does not suffice by the files below the folder\n"
          "`memory_root`; None is no such check. With a `checkpoint`, path is only its name. The\n"
          "model of the weights `draft` guesses ahead; InvalidRequestError where its vocabulary "
          "is\n"
          "of another family.")
      .def_property_readonly("info", &PyEngine::info, "What was loaded.")
      .def_property_readonly("tokenizer", &PyEngine::tokenizer)
      .def_property_readonly("weights", &PyEngine::weights,
                             "What other engines on this file can compute with.")
      .def("submit_replies", &PyEngine::submit_replies, py::arg("token_ids"), py::arg("params"),
           py::arg("ready"), py::arg("keys"), py::arg("grammar") = py::none(),
           py::arg("lead") = py::list(), py::arg("otherwise") = py::none(),
           py::arg("cache_salt") = py::bytes(),
           py::arg("mask_seconds") = GrammarBudget().mask_seconds,
           py::arg("grammar_seconds") = GrammarBudget().reply_seconds,
           "Start a sequence for each key, with the seeds seed, seed + 1 …; return their streams.\n"
           "The prompt is computed once. With a grammar a reply is `lead`, and then what the\n"
           "grammar allows; or what `otherwise` allows, where the model would begin with a token\n"
           "that the grammar forbids. Only prompts of the same `cache_salt`, any bytes, share\n"
           "pages. mask_seconds and grammar_seconds bound the grammar's work for a token and a\n"
           "reply: ConstraintError. Raises InvalidRequestError for what cannot be served,\n"
           "ContextLengthError, EngineClosedError and ForkError.")
      .def(
          "compile", &PyEngine::compile, py::arg("library"), py::arg("kind"), py::arg("text"),
          py::kw_only(), py::arg("helper") = py::list(),
          py::arg("seconds") = CompileLimits().seconds, py::arg("bytes") = CompileLimits().bytes,
          py::arg("cache_bytes") = CompileLimits().cache_bytes,
          py::arg("copy_bytes") = CompileLimits().copy_bytes,
          "Return a grammar, compiled by llguidance's shared object `library` or kept from\n"
          "before; kind is \"json_schema\", \"regex\" or \"lark\". `helper`, a command that calls\n"
          "serve_grammar_trials, and the bounds of the first call hold for the engine. Raises\n"
          "ConstraintError and OutOfMemoryError; Ctrl-C ends the wait.")
      .def("logits", &PyEngine::logits, py::arg("token_ids"), py::arg("first") = 0,
           "Return the logits of position `first` and those behind it, float32 (n_tokens - first,\n"
           "n_vocab). With first > 0, positions before it are cached, and taken from the cache.")
      .def("embed", &PyEngine::embed, py::arg("token_ids"), py::arg("ready") = py::none(),
           py::arg("key") = 0,
           "Return a stream without tokens, and the embedding that is complete at its end: the\n"
           "normalised mean of the hidden states of all ids.")
      .def("score", &PyEngine::score, py::arg("token_ids"), py::arg("n_best"),
           py::arg("ready") = py::none(), py::arg("key") = 0, py::arg("cache_salt") = py::bytes(),
           "Return a stream of the ids behind the first, each with its log probability and those\n"
           "of the n_best. Positions are cached for prompts of the same `cache_salt`.")
      .def("compute_prefix", &PyEngine::compute_prefix, py::arg("token_ids"),
           py::arg("ready") = py::none(), py::arg("key") = 0, py::arg("cache_salt") = py::bytes(),
           "Return a stream of one token that means nothing, and a Prefix, which holds the whole\n"
           "pages of these ids once the stream has ended.")
      .def("new_prefix", &PyEngine::new_prefix, py::arg("token_ids"),
           "Return a Prefix of whole pages, whose bytes are still to be written.")
      .def("stats", &PyEngine::stats, "Return these counters:" STARCHAT_COUNTERS(LINE))
      .def("close", &PyEngine::close,
           "End every stream with EngineClosedError and join the thread; harmless when closed.");
}

}  // namespace starchat
