// Binds inspect() and what else is asked of a file without loading it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/py_checkpoint.hpp"
#include "bindings/waiting.hpp"
#include "format/duplicates.hpp"
#include "format/open_model.hpp"
#include "format/shards.hpp"
#include "model/memory_need.hpp"
#include "text/tokenizer.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

using namespace py::literals;

py::dict vocabulary_summary(const Vocabulary& vocabulary) {
  const std::vector<std::string>& tokens = vocabulary.tokens;
  uint64_t size_bytes = 0;
  size_t longest_bytes = 0;
  for (const std::string& token : tokens) {
    size_bytes += token.size();
    longest_bytes = std::max(longest_bytes, token.size());
  }
  const std::unordered_set<std::string_view> distinct(tokens.begin(), tokens.end());
  const Tokenizer tokenizer(vocabulary);
  py::list control_tokens;
  for (const int32_t id : tokenizer.special_ids()) {
    control_tokens.append(py::str(std::string(tokenizer.token_bytes(id))));
  }
  return py::dict("n_tokens"_a = tokens.size(), "n_distinct"_a = distinct.size(),
                  "size_bytes"_a = size_bytes, "longest_bytes"_a = longest_bytes,
                  "control_tokens"_a = control_tokens);
}

py::dict tensor_summary(const StoredTensor& tensor) {
  return py::dict("name"_a = tensor.name, "type"_a = traits(tensor.type).name,
                  "shape"_a = py::tuple(py::cast(tensor.shape)), "offset"_a = tensor.offset,
                  "size_bytes"_a = tensor.size_bytes, "file"_a = tensor.file);
}

int32_t context_size(const std::string& path) {
  const GilReleased released;
  return open_model(path).config.n_ctx;
}

std::shared_ptr<Tokenizer> read_tokenizer(const std::string& path) {
  const GilReleased released;
  return std::make_shared<Tokenizer>(open_model(path).vocabulary);
}

// (left, right) of every merge, by rank, in a file that says them.
py::list read_merges(const std::string& path) {
  Vocabulary vocabulary;
  {
    const GilReleased released;
    vocabulary = open_model(path).vocabulary;
  }
  py::list merges;
  for (const auto& [left, right, merged] : vocabulary.merges) {
    merges.append(
        py::make_tuple(py::bytes(vocabulary.tokens[left]), py::bytes(vocabulary.tokens[right])));
  }
  return merges;
}

// The path behind links, whether it is a folder, and the states of the shards or of the files in
// it.
py::tuple file_state(const std::string& path) {
  namespace fs = std::filesystem;
  std::string real;
  std::vector<FileIdentity> identities;
  bool is_folder = false;
  {
    const GilReleased released;
    std::error_code error;
    is_folder = fs::is_directory(path, error);
    if (is_folder) {
      std::vector<std::string> files;
      for (const auto& entry : fs::directory_iterator(path, error)) {
        if (entry.is_regular_file(error)) files.push_back(entry.path().string());
      }
      std::ranges::sort(files);
      for (const std::string& file : files) identities.push_back(identity_of(file));
    } else {
      for (const std::string& file : shard_paths(path)) {
        identities.push_back(InputFile(file).identity());
      }
    }
    real = fs::canonical(path).string();
  }
  return py::make_tuple(py::bytes(real), is_folder, numbers_of(identities));
}

py::bytes read_file(const std::string& path, uint64_t most_bytes) {
  std::string bytes;
  {
    const GilReleased released;
    const InputFile file(path);
    bytes.resize(static_cast<size_t>(std::min(file.size_bytes(), most_bytes)));
    file.read(0, std::as_writable_bytes(std::span(bytes)));
  }
  return bytes;
}

py::dict memory_summary(const ModelFile& file, const MemorySettings& settings) {
  const MemoryNeed need = memory_need(file, settings);
  return py::dict("weights"_a = need.weights, "context"_a = need.context,
                  "prefix_cache"_a = need.prefix_cache, "work"_a = need.work,
                  "total"_a = need.total());
}

py::dict inspect(const py::object& path_like, const py::object& progress, bool compare, int n_ctx,
                 int n_threads, int64_t prefix_cache_bytes,
                 const std::shared_ptr<PyCheckpoint>& checkpoint) {
  const auto path = py::module_::import("os").attr("fsencode")(path_like).cast<std::string>();
  const ModelFile file = [&] {
    GilReleased released;
    ProgressReport report(released, progress);
    ModelFile opened = checkpoint ? checkpoint->take(released) : open_model(path);
    if (compare)
      remove_duplicates(opened, [&, total = opened.weight_bytes()](uint64_t copied_bytes) {
        report(copied_bytes, total);
      });
    else
      remove_likely_duplicates(opened);
    return opened;
  }();
  const DecoderConfig& c = file.config;
  const py::object fsdecode = py::module_::import("os").attr("fsdecode");
  uint64_t size_bytes = 0;
  py::list tensors, files;
  py::dict metadata;
  for (const auto& [key, text] : file.metadata) {
    metadata[py::str(key)] = py::bytes(text).attr("decode")("utf-8", "replace");
  }
  for (const InputFile& part : file.files) {
    size_bytes += part.size_bytes();
    files.append(fsdecode(py::bytes(part.path())));
  }
  for (const StoredTensor& tensor : file.stored) tensors.append(tensor_summary(tensor));
  const bool has_n_ctx = 2 <= n_ctx && n_ctx <= c.n_ctx;
  const MemorySettings settings{n_threads, has_n_ctx ? n_ctx : 0, prefix_cache_bytes};
  return py::dict(
      "path"_a = fsdecode(py::bytes(path)), "files"_a = files, "metadata"_a = metadata,
      "format"_a = file.format, "size_bytes"_a = size_bytes, "n_vocab"_a = c.n_vocab,
      "n_ctx"_a = c.n_ctx, "n_embd"_a = c.n_embd, "n_head"_a = c.n_head, "n_layer"_a = c.n_layer,
      "norm_eps"_a = c.norm_eps,
      "ftype"_a = file.ftype < 0 ? py::object(py::none()) : py::int_(file.ftype),
      "weight_type"_a = file.quantization,
      "has_lm_head"_a = file.repeats_token_embedding || file.find(Role::Output) != nullptr,
      "lm_head_is_wte"_a = file.repeats_token_embedding, "multi_query"_a = c.n_kv_head == 1,
      "n_kv_head"_a = c.n_kv_head, "n_params"_a = file.n_params(),
      "weight_bytes"_a = file.weight_bytes(), "memory"_a = memory_summary(file, settings),
      "vocabulary"_a = vocabulary_summary(file.vocabulary), "tensors"_a = tensors);
}

}  // namespace

py::tuple numbers_of(const std::vector<FileIdentity>& files) {
  py::list all;
  for (const FileIdentity& file : files) {
    all.append(py::make_tuple(file.device, file.inode, file.size_bytes, file.mtime_ns));
  }
  return py::tuple(all);
}

void bind_format(py::module_& module) {
  module.def(
      "inspect", &inspect, py::arg("path"), py::arg("progress") = py::none(), py::kw_only(),
      py::arg("compare") = true, py::arg("n_ctx") = 0, py::arg("n_threads") = 0,
      py::arg("prefix_cache_bytes") = -1, py::arg("checkpoint") = nullptr,
      "Return what is in a model file, read and checked without loading its weights.\n\n"
      "progress(done_bytes, total_bytes) is called while copies of weights are compared;\n"
      "compare=False looks at the beginning of some. \"memory\" is what an engine with these\n"
      "settings needs, in bytes; a context that the file does not have is the file's own. With a\n"
      "checkpoint, path is only its name.");
  module.def(
      "context_size", &context_size, py::arg("path"),
      "Return the tokens of context by a file's header, checked without loading its weights.");
  module.def("read_tokenizer", &read_tokenizer, py::arg("path"),
             "Return the tokenizer of a file, without loading its weights.");
  module.def("read_merges", &read_merges, py::arg("path"),
             "Return the merges of a file that says them, by rank; else nothing: ids say them.");
  module.def("file_state", &file_state, py::arg("path"),
             "Return the path behind links, whether it is a folder, and of each shard, or of each\n"
             "file in the folder: device, inode, size in bytes, mtime in ns.");
  module.def("wait_until_writes_show", &wait_until_writes_show, py::arg("path"),
             py::call_guard<GilReleased>(),
             "Return when writes from now on give a file another time than its present one.");
  module.def("read_file", &read_file, py::arg("path"), py::arg("most_bytes"),
             "Return the beginning of a file.");
}

}  // namespace starchat
