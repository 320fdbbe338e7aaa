#include "grammar/llguidance.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <iterator>

#include "base/errors.hpp"
#include "base/shared_library.hpp"
#include "grammar/call_watch.hpp"
#include "grammar/ending.hpp"

namespace starchat {
namespace {

// llguidance compiles by recursion. The worst case, a chain of terminals, needs about 700 bytes of
// stack for each byte of the text.
constexpr size_t kStackBytes = 16 << 20, kStackBytesPerByte = 1 << 10;

// ---- the C interface, as documented in llguidance.h (1.0 and later) ----

struct LlgTokenizer;
struct LlgMatcher;
struct LlgCancellationHandle;

using LlgTokenize = size_t(const void* user, const uint8_t* bytes, size_t n_bytes, uint32_t* tokens,
                           size_t n_tokens);

struct LlgTokenizerInit {
  uint32_t vocab_size;
  uint32_t tok_eos;
  const uint32_t* token_lens;
  const uint8_t* token_bytes;
  const char* tokenizer_json;
  bool tokenize_assumes_string;
  LlgTokenize* tokenize_fn;
  bool use_approximate_greedy_tokenize_fn;
  const void* tokenize_user_data;
  const char* const* slices;
  void* added_later[32];
};

struct LlgConstraintInit {
  const LlgTokenizer* tokenizer;
  uint32_t log_buffer_level;
  uint32_t log_stderr_level;
  bool ff_tokens_ok;
  bool backtrack_ok;
  alignas(8) unsigned char limits[512];  // larger than in any version
};

struct Library {
  LlgTokenizer* (*new_tokenizer)(const LlgTokenizerInit*, char* error, size_t n_error);
  void (*free_tokenizer)(LlgTokenizer*);
  void (*set_defaults)(LlgConstraintInit*, const LlgTokenizer*);
  LlgMatcher* (*new_matcher)(const LlgConstraintInit*, const char* kind, const char* text);
  LlgMatcher* (*clone_matcher)(const LlgMatcher*);
  void (*free_matcher)(LlgMatcher*);
  const char* (*get_error)(LlgMatcher*);
  int32_t (*consume_tokens)(LlgMatcher*, const uint32_t*, size_t);
  int32_t (*compute_mask_into)(LlgMatcher*, uint32_t* mask, size_t n_bytes);
  int32_t (*compute_ff_tokens)(LlgMatcher*, uint32_t* tokens, size_t n_tokens);
  int32_t (*validate_tokens)(LlgMatcher*, const uint32_t*, size_t);
  LlgCancellationHandle* (*cancellation_handle)(const LlgMatcher*);
  void (*cancel)(const LlgCancellationHandle*);
  void (*free_handle)(LlgCancellationHandle*);

  explicit Library(const std::string& path) : handle_(open_library(path)) {
    find(path, new_tokenizer, "llg_new_tokenizer");
    find(path, free_tokenizer, "llg_free_tokenizer");
    find(path, set_defaults, "llg_constraint_init_set_defaults");
    find(path, new_matcher, "llg_new_matcher");
    find(path, clone_matcher, "llg_clone_matcher");
    find(path, free_matcher, "llg_free_matcher");
    find(path, get_error, "llg_matcher_get_error");
    find(path, consume_tokens, "llg_matcher_consume_tokens");
    find(path, compute_mask_into, "llg_matcher_compute_mask_into");
    find(path, compute_ff_tokens, "llg_matcher_compute_ff_tokens");
    find(path, validate_tokens, "llg_matcher_validate_tokens");
    find(path, cancellation_handle, "llg_matcher_get_cancellation_handle");
    find(path, cancel, "llg_cancel");
    find(path, free_handle, "llg_free_cancellation_handle");
  }

 private:
  template <class Function>
  void find(const std::string& path, Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (!function)
      throw UnsupportedFeatureError(path + ": has no function " + name +
                                    ": install a release of llguidance from 1.9 to below 2");
  }

  void* handle_;
};

// llguidance's message without the dumps that follow it: <state>, <backtrace>.
std::string shortened(const char* error) {
  std::string text = error ? error : "unknown error";
  text = text.substr(0, text.find("\n<"));
  if (text.starts_with("panic: ")) text.replace(0, 5, "llguidance gave up");
  constexpr size_t kMost = 400;
  if (text.size() > kMost) {
    size_t end = kMost;
    while (end > 0 && (text[end] & 0xc0) == 0x80) --end;  // to the start of a UTF-8 character
    text = text.substr(0, end) + " …";
  }
  while (!text.empty() && std::strchr(" \n\r\t", text.back())) text.pop_back();
  return text;
}

size_t tokenize(const void* tokenizer, const uint8_t* bytes, size_t n_bytes, uint32_t* tokens,
                size_t n_tokens) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), n_bytes);
  try {
    const auto ids = static_cast<const Tokenizer*>(tokenizer)->encode(text);
    std::copy_n(ids.begin(), std::min(ids.size(), n_tokens), tokens);
    return ids.size();
  } catch (...) {  // out of memory; an exception must not cross llguidance's stack frames
    return 0;
  }
}

}  // namespace

// The library and its form of one vocabulary: all tokens, then one more for the end of the text.
// Control tokens begin with a byte FF, so they never match text.
struct GrammarVocabulary {
  GrammarVocabulary(const std::string& path, std::shared_ptr<const Tokenizer> vocabulary)
      : library(path),
        n_vocab(static_cast<uint32_t>(vocabulary->size())),
        keeps(vocabulary),
        for_endings(*vocabulary) {
    std::vector<uint32_t> lengths;
    std::string bytes;
    const auto add = [&](std::string_view token, bool is_special) {
      if (is_special) bytes += '\xff';
      bytes += token;
      lengths.push_back(static_cast<uint32_t>(token.size() + is_special));
    };
    for (int32_t id = 0; id < vocabulary->size(); ++id)
      add(vocabulary->token_bytes(id), vocabulary->is_special(id));
    lengths.push_back(0);  // the end has no bytes that a grammar could take

    LlgTokenizerInit init{};
    init.vocab_size = n_vocab + 1;
    init.tok_eos = n_vocab;
    init.token_lens = lengths.data();
    init.token_bytes = reinterpret_cast<const uint8_t*>(bytes.data());
    init.tokenize_fn = &tokenize;
    init.tokenize_user_data = vocabulary.get();
    char error[500] = "";
    tokenizer = library.new_tokenizer(&init, error, sizeof error);
    if (!tokenizer)
      throw UnsupportedFeatureError("llguidance cannot use this file's vocabulary: " +
                                    shortened(error));
  }
  ~GrammarVocabulary() { library.free_tokenizer(tokenizer); }

  const Library library;
  const uint32_t n_vocab;
  const std::shared_ptr<const Tokenizer> keeps;  // tokenize() reads it
  const EndingVocabulary for_endings;
  LlgTokenizer* tokenizer;
};

namespace {

// A matcher of one sequence, and what must live as long.
class LlguidanceConstraint : public Constraint {
 public:
  LlguidanceConstraint(std::shared_ptr<const void> keeps, const Library& library,
                       const EndingVocabulary& vocabulary, bool takes_bytes, LlgMatcher* matcher,
                       std::shared_ptr<GrammarBudget> budget)
      : keeps_(std::move(keeps)),
        library_(library),
        vocabulary_(vocabulary),
        n_vocab_(static_cast<uint32_t>(vocabulary.tokenizer.size())),
        takes_bytes_(takes_bytes),
        matcher_(matcher),
        handle_(library.cancellation_handle(matcher)),
        cancel_([this] { library_.cancel(handle_); }),
        budget_(std::move(budget)),
        mask_(n_vocab_ / 32 + 1) {}
  ~LlguidanceConstraint() override {
    library_.free_handle(handle_);
    library_.free_matcher(matcher_);
  }

  void accept(int32_t id) override {
    const auto token = static_cast<uint32_t>(id);
    call([&] { return library_.consume_tokens(matcher_, &token, 1); });
  }

  bool fill_mask(std::span<uint32_t> mask) override {
    call([&] {
      return library_.compute_mask_into(matcher_, mask_.data(), mask_.size() * sizeof(uint32_t));
    });
    uint32_t& last = mask_.back();
    const uint32_t end = uint32_t{1} << n_vocab_ % 32;
    const bool may_end = last & end;
    last &= end - 1;
    std::copy_n(mask_.begin(), std::min(mask.size(), mask_.size()), mask.begin());
    if (takes_bytes_) leave_control_tokens_out(mask, may_end);
    return may_end;
  }

  std::vector<int32_t> forced() override {
    uint32_t tokens[256];
    const int32_t n =
        call([&] { return library_.compute_ff_tokens(matcher_, tokens, std::size(tokens)); });
    const auto end = std::find(tokens, tokens + n, n_vocab_);
    return {tokens, end};
  }

  size_t n_allowed(std::span<const int32_t> ids) override {
    const auto* tokens = reinterpret_cast<const uint32_t*>(ids.data());
    return call([&] { return library_.validate_tokens(matcher_, tokens, ids.size()); });
  }

  std::unique_ptr<Constraint> clone() const override {
    return std::make_unique<LlguidanceConstraint>(keeps_, library_, vocabulary_, takes_bytes_,
                                                  library_.clone_matcher(matcher_), budget_);
  }

  Ending ending(std::span<const int32_t> next, std::span<const int32_t> known, size_t n_most,
                int n_steps) const override {
    const auto after = clone();
    if (after->n_allowed(next) < next.size()) return {};
    for (const int32_t id : next) after->accept(id);
    return find_ending(*after, vocabulary_, known, n_most, n_steps);
  }

 private:
  // Where any bytes are taken, a control token fits by its FF. It is meant only if all else ends.
  void leave_control_tokens_out(std::span<uint32_t> mask, bool may_end) const {
    std::vector<uint32_t> others(mask.begin(), mask.end());
    forbid(vocabulary_.tokenizer.control_ids(), others);
    const bool has_others = std::ranges::any_of(others, [](uint32_t bits) { return bits != 0; });
    if (has_others || may_end) std::ranges::copy(others, mask.begin());
  }

  // What the library returns for a call within the budget.
  template <class Call>
  int32_t call(const Call& of_library) {
    const WatchedCall watched(*budget_, cancel_);
    const int32_t result = of_library();
    watched.check();
    if (result >= 0) return result;
    const std::string reason = shortened(library_.get_error(matcher_));
    if (reason.starts_with("NoExtension")) throw ConstraintError(kNothingAllowed);
    throw ConstraintError("the constraint cannot be followed any further: " + reason +
                          ": simplify it");
  }

  const std::shared_ptr<const void> keeps_;
  const Library& library_;
  const EndingVocabulary& vocabulary_;
  const uint32_t n_vocab_;
  const bool takes_bytes_;
  LlgMatcher* const matcher_;
  LlgCancellationHandle* const handle_;
  const std::function<void()> cancel_;
  const std::shared_ptr<GrammarBudget> budget_;
  std::vector<uint32_t> mask_;  // the engine's mask and one bit for the end of the text
};

}  // namespace

struct Grammar::Compiled {
  Compiled(std::shared_ptr<const GrammarVocabulary> model_vocabulary, const std::string& kind,
           const std::string& text)
      : vocabulary(std::move(model_vocabulary)),
        takes_bytes(text.find("allow_invalid_utf8") != std::string::npos) {
    LlgConstraintInit init{};
    vocabulary->library.set_defaults(&init, vocabulary->tokenizer);
    init.log_stderr_level = 0;
    matcher = vocabulary->library.new_matcher(&init, kind.c_str(), text.c_str());
    if (const char* error = vocabulary->library.get_error(matcher)) {
      const std::string reason = shortened(error);
      vocabulary->library.free_matcher(matcher);
      throw ConstraintError(reason);
    }
  }
  ~Compiled() { vocabulary->library.free_matcher(matcher); }

  const std::shared_ptr<const GrammarVocabulary> vocabulary;
  const bool takes_bytes;  // the grammar may have lexemes of any bytes
  LlgMatcher* matcher;     // in its initial state: copied for each sequence
  mutable std::mutex copying;
};

std::unique_ptr<Constraint> Grammar::start(const GrammarBudget& budget) const {
  const auto& vocabulary = *compiled_->vocabulary;
  using Kept = std::pair<std::shared_ptr<const GrammarVocabulary>, std::shared_ptr<const void>>;
  const auto keeps = std::make_shared<const Kept>(compiled_->vocabulary,
                                                  copies_ ? copies_->take(copy_bytes_) : nullptr);
  const std::lock_guard lock(compiled_->copying);
  return std::make_unique<LlguidanceConstraint>(
      keeps, vocabulary.library, vocabulary.for_endings, compiled_->takes_bytes,
      vocabulary.library.clone_matcher(compiled_->matcher),
      std::make_shared<GrammarBudget>(budget));
}

void Grammar::count_copies(std::shared_ptr<GrammarCopies> copies, int64_t bytes) {
  copies_ = std::move(copies);
  copy_bytes_ = bytes;
}

void check_library(const std::string& path) { const Library library(path); }

std::shared_ptr<const GrammarVocabulary> grammar_vocabulary(
    const std::string& library, std::shared_ptr<const Tokenizer> tokenizer) {
  return std::make_shared<GrammarVocabulary>(library, std::move(tokenizer));
}

size_t compiling_stack_bytes(size_t n_bytes) { return kStackBytes + kStackBytesPerByte * n_bytes; }

Grammar compile_grammar(std::shared_ptr<const GrammarVocabulary> vocabulary,
                        const std::string& kind, const std::string& text) {
  return Grammar(std::make_shared<Grammar::Compiled>(std::move(vocabulary), kind, text));
}

}  // namespace starchat
