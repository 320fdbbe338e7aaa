// One request on its way through the scheduler: token ids, how they continue, what is cached, and
// the stream that the result goes to. Evaluations want the logits of every id, or an embedding of
// them, and no new ones.
#pragma once
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/drafter.hpp"
#include "engine/embedding.hpp"
#include "engine/token_stream.hpp"
#include "model/batch.hpp"
#include "sampling/sampler.hpp"

namespace starchat {

// What a reply begins with, and what it may say behind that.
struct Guidance {
  std::unique_ptr<Constraint> constraint;  // none: anything, and no lead
  std::vector<int64_t> lead;
};

class Sequence {
 public:
  // All throw InvalidRequestError or ContextLengthError for what the model cannot serve.
  static std::unique_ptr<Sequence> generation(ForwardPass& model, std::span<const int64_t> prompt,
                                              const SamplingParams& params,
                                              std::shared_ptr<TokenStream> stream,
                                              Guidance guidance = {});
  static void check_evaluation(const ForwardPass& model, std::span<const int64_t> prompt);
  // logits: (prompt.size(), n_vocab), filled chunk by chunk.
  static std::unique_ptr<Sequence> evaluation(ForwardPass& model, std::span<const int64_t> prompt,
                                              std::shared_ptr<float[]> logits,
                                              std::shared_ptr<TokenStream> stream);
  static std::unique_ptr<Sequence> embedding(ForwardPass& model, std::span<const int64_t> prompt,
                                             std::shared_ptr<Embedding> embedding,
                                             std::shared_ptr<TokenStream> stream);

  ~Sequence();  // whatever happens, the reader learns of an end

  int n_ids() const { return static_cast<int>(ids.size()); }
  int n_pending() const { return n_ids() - n_cached; }  // columns still to be computed
  bool is_evaluation() const { return logits || pooled; }
  bool is_decoding() const { return n_cached >= n_prompt && n_pending() <= 1; }  // column by column

  // Adds a chosen token and those that are forced behind it, or notes that it ends the reply.
  void append(SampledToken token);

  // Notes how this ended; the scheduler frees the cache before it tells the stream.
  void end(FinishReason reason, std::optional<int32_t> stop_token_id = {});
  void end(std::exception_ptr error);
  bool has_ended() const { return reason_ || error_; }
  void tell_stream();

  std::vector<int32_t> ids;  // the prompt, then what was generated
  const int n_prompt;
  const int max_ids;  // finish_reason "length" at this many
  int n_cached = 0;   // positions 0 .. n_cached-1 are in the cache
  KvSequence cache;
  Sampler sampler;
  Drafter drafter;
  std::vector<int32_t> guesses;  // behind ids, in the step that is being computed
  StreamCounts counts;
  const std::shared_ptr<float[]> logits;  // of evaluations: these
  std::shared_ptr<Embedding> pooled;      // or this instead
  const std::shared_ptr<TokenStream> stream;

 private:
  std::optional<FinishReason> reason_;
  std::optional<int32_t> stop_token_id_;
  std::exception_ptr error_;

  void append_forced();
  void push(SampledToken token);

  Sequence(ForwardPass& model, std::vector<int32_t> prompt, int max_ids,
           const SamplingParams& params, std::shared_ptr<float[]> logits,
           std::shared_ptr<TokenStream> stream);
};

}  // namespace starchat
