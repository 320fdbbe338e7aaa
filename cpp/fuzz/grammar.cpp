// Any text as a JSON Schema, a regular expression or a Lark grammar: compile it, then follow it for
// some tokens. Reads the path of llguidance's shared object from STARCHAT_LLGUIDANCE. Faults that
// are known: known_faults.md.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "grammar/grammar_compiler.hpp"

using namespace starchat;

namespace {

constexpr int kMaxTokens = 16;  // of a reply

void require(bool holds, const char* law) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", law);
  std::abort();
}

std::shared_ptr<const Tokenizer> bytes_and_words() {
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* word : {"  ", "er", "in", "on", "re", " t", "he", " the", "\":", "\",", "00"}) {
    vocabulary.tokens.emplace_back(word);
  }
  for (const char* name : {"<|endoftext|>", "<|assistant|>", "<|end|>"}) {
    vocabulary.tokens.emplace_back(name);
  }
  return std::make_shared<Tokenizer>(std::move(vocabulary));
}

std::vector<int32_t> allowed_ids(const std::vector<uint32_t>& mask) {
  std::vector<int32_t> ids;
  for (size_t id = 0; id < 32 * mask.size(); ++id) {
    if (mask[id / 32] >> id % 32 & 1) ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

void follow(const Tokenizer& tokenizer, Constraint& constraint, FuzzedDataProvider& choices) {
  std::vector<uint32_t> mask((tokenizer.size() + 31) / 32);
  if (const auto ending = constraint.ending({}, {}, kMaxTokens, kMaxTokens).ids)
    require(constraint.n_allowed(*ending) == ending->size(), "an ending is allowed");
  for (int i = 0; i < kMaxTokens; ++i) {
    const auto forced = constraint.forced();
    const bool may_end = constraint.fill_mask(mask);
    const auto allowed = allowed_ids(mask);
    if (allowed.empty()) return;
    require(allowed.back() < tokenizer.size(), "only ids of the vocabulary are allowed");
    require(constraint.n_allowed(forced) == forced.size(), "forced ids are allowed");
    require(forced.empty() || !may_end, "the text may not end where ids are forced");
    const int32_t id = allowed[choices.ConsumeIntegral<uint16_t>() % allowed.size()];
    require(constraint.n_allowed({&id, 1}) == 1, "the mask and n_allowed agree");
    constraint.accept(id);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  static const char* const library = std::getenv("STARCHAT_LLGUIDANCE");
  static const auto tokenizer = bytes_and_words();
  static GrammarCompiler compiler(library ? library : "", tokenizer);

  static const char* const kinds[] = {"json_schema", "regex", "lark"};
  if (size < 1) return -1;
  const char* kind = kinds[bytes[0] % 3];  // '0', '1' or '2' in the seeds
  const std::string text(bytes + 1, bytes + size);
  FuzzedDataProvider choices(bytes, size);  // of tokens: by the text's own bytes, from its end
  try {
    const Grammar grammar = compiler.compile(kind, text);
    for (int reply = 0; reply < 2; ++reply) follow(*tokenizer, *grammar.start(), choices);
  } catch (const ConstraintError&) {
  }
  return 0;
}
