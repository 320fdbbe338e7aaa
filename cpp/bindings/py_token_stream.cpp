#include "bindings/py_token_stream.hpp"

#include <pybind11/stl.h>

#include "bindings/memory_checks.hpp"
#include "bindings/waiting.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

PyTypeObject *token_type, *counts_type;  // made when the module is imported, never freed

PyTypeObject* named_tuple(py::module_& m, const char* name, const char* qualified, const char* doc,
                          std::vector<PyStructSequence_Field> fields) {
  const int n_fields = static_cast<int>(fields.size());
  fields.push_back({nullptr, nullptr});
  PyStructSequence_Desc description{qualified, doc, fields.data(), n_fields};
  PyTypeObject* type = PyStructSequence_NewType(&description);
  m.attr(name) = py::reinterpret_borrow<py::object>(checked(reinterpret_cast<PyObject*>(type)));
  return type;
}

template <class... Items>
py::object make(PyTypeObject* type, Items... items) {
  py::object made = checked(PyStructSequence_New(type));
  py::ssize_t i = 0;
  (PyStructSequence_SET_ITEM(made.ptr(), i++, items.release().ptr()), ...);
  return made;
}

py::object as_int(int value) { return checked(PyLong_FromLong(value)); }
py::object as_float(double value) { return checked(PyFloat_FromDouble(value)); }

}  // namespace

py::object as_token(const SampledToken& token) {
  const auto& best = token.top_logprobs;
  py::object top = checked(PyTuple_New(std::ssize(best)));
  for (size_t i = 0; i < best.size(); ++i) {
    py::object id = as_int(best[i].first), logprob = as_float(best[i].second);
    py::object pair = checked(PyTuple_Pack(2, id.ptr(), logprob.ptr()));
    PyTuple_SET_ITEM(top.ptr(), static_cast<py::ssize_t>(i), pair.release().ptr());
  }
  py::object logprob = token.logprob ? as_float(*token.logprob) : py::none();
  return make(token_type, as_int(token.id), std::move(logprob), std::move(top));
}

PyReadyQueue::PyReadyQueue() : queue_(std::make_shared<ReadyQueue>()) {
  CloseAtExit<ReadyQueue>::add(queue_.get());
}

// Keys that there is no memory to return are for the next call: no reader misses its news.
py::object PyReadyQueue::wait() {
  ReadyQueue::Keys keys = std::exchange(kept_, {});
  ReadyQueue& queue = *queue_.get();
  if (keys.n == 0) wait_interruptibly([&](auto timeout) { return queue.wait(timeout, keys); });
  try {
    py::object list = checked(PyList_New(static_cast<py::ssize_t>(keys.n)));
    for (size_t i = 0; i < keys.n; ++i) {
      py::object key = checked(PyLong_FromLongLong(keys.values[i]));
      PyList_SET_ITEM(list.ptr(), static_cast<py::ssize_t>(i), key.release().ptr());
    }
    return list;
  } catch (...) {
    kept_ = keys;
    throw;
  }
}

void PyReadyQueue::close() { queue_->close(); }

py::object PyTokenStream::next() {
  SampledToken token;
  TokenStream& stream = *stream_.get();
  TokenStream::Next result = stream.next(std::chrono::milliseconds(0), token);
  if (result == TokenStream::Next::kTimeout)
    wait_interruptibly([&](auto timeout) {
      result = stream.next(timeout, token);
      return result != TokenStream::Next::kTimeout;
    });
  return result == TokenStream::Next::kEnd ? py::none() : as_token(token);
}

py::object PyTokenStream::drain() {
  const std::vector<SampledToken> tokens = stream_->drain();
  py::object list = checked(PyList_New(std::ssize(tokens)));
  for (size_t i = 0; i < tokens.size(); ++i)
    PyList_SET_ITEM(list.ptr(), static_cast<py::ssize_t>(i), as_token(tokens[i]).release().ptr());
  return list;
}

py::object PyTokenStream::stop_token() const {
  const auto token = stream_->stop_token();
  return token ? as_token(*token) : py::none();
}

py::object PyTokenStream::counts() const {
  const StreamCounts counts = stream_->counts();
  return make(counts_type, as_int(counts.n_cached), as_int(counts.n_guessed),
              as_int(counts.n_accepted), as_int(counts.n_forced), as_int(counts.n_prompt_done),
              as_float(counts.queue_s), as_float(counts.prompt_s), as_float(counts.decode_s));
}

// In a forked child there is nothing to cancel, and destructors call this.
void PyTokenStream::cancel() {
  if (stream_.is_here()) stream_->cancel();
}

std::optional<std::string> PyTokenStream::finish_reason() const {
  const auto reason = stream_->finish_reason();
  if (!reason) return std::nullopt;
  switch (*reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      break;
  }
  return "cancelled";
}

void bind_token_stream(py::module_& m) {
  CloseAtExit<ReadyQueue>::prepare();
  token_type = named_tuple(
      m, "Token", "starchat._core.Token", "One token of the output.",
      {{"id", "Of the vocabulary."},
       {"logprob", "Log softmax of the model's logits, before sampling changes them; or None."},
       {"top_logprobs", "The best (id, log probability), best first."}});
  counts_type = named_tuple(m, "StreamCounts", "starchat._core.StreamCounts",
                            "What a sequence did and was spared so far, in tokens, and its time.",
                            {{"cached_tokens", "Of the prompt, computed before."},
                             {"guessed_tokens", "By prompt look-up."},
                             {"accepted_tokens", "Guesses that were right."},
                             {"forced_tokens", "Of the reply: a constraint left no choice."},
                             {"prompt_done", "Of the prompt, computed by now."},
                             {"queue_seconds", "Until the first step with a part of the prompt."},
                             {"prompt_seconds", "From there until the prompt was computed."},
                             {"decode_seconds", "From there to the last token."}});

  CheckedClass<PyReadyQueue>(
      m, "ReadyQueue", "Holds the keys of streams with something new, each once until drained.")
      .def(py::init([] { return std::make_unique<PyReadyQueue>(); }))
      .def("wait", &PyReadyQueue::wait,
           "Wait for and return the keys of streams with new tokens; [] after close().")
      .def("close", &PyReadyQueue::close, "End every wait(), now and later.");

  CheckedClass<PyTokenStream>(m, "TokenStream",
                              "The tokens of one sequence, as they come. Dropping it cancels it.")
      .def("next", &PyTokenStream::next,
           "Wait for the next token; None at the end. Raises what ended the sequence.")
      .def("drain", &PyTokenStream::drain,
           "Return the tokens that are there, without waiting. Raises like next().")
      .def_property_readonly("finish_reason", &PyTokenStream::finish_reason,
                             "\"stop\", \"length\" or \"cancelled\" once drained, None before.")
      .def_property_readonly("stop_token", &PyTokenStream::stop_token,
                             "The stop id that ended the sequence, once drained, or None.")
      .def_property_readonly("counts", &PyTokenStream::counts, "So far.")
      .def("cancel", &PyTokenStream::cancel,
           "End the sequence within one step; harmless when it has ended.");
}

}  // namespace starchat
