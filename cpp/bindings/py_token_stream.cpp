#include "bindings/py_token_stream.hpp"

#include <pybind11/stl.h>

#include "bindings/waiting.hpp"

namespace py = pybind11;

namespace starchat {

PyReadyQueue::PyReadyQueue() : queue_(std::make_shared<ReadyQueue>()) {
  CloseAtExit<ReadyQueue>::add(queue_.get());
}

std::vector<int64_t> PyReadyQueue::wait() {
  std::vector<int64_t> keys;
  ReadyQueue& queue = *queue_.get();
  wait_interruptibly([&](auto timeout) { return queue.wait(timeout, keys); });
  return keys;
}

void PyReadyQueue::close() { queue_->close(); }

std::optional<SampledToken> PyTokenStream::next() {
  SampledToken token;
  TokenStream& stream = *stream_.get();
  TokenStream::Next result = stream.next(std::chrono::milliseconds(0), token);
  if (result == TokenStream::Next::kTimeout)
    wait_interruptibly([&](auto timeout) {
      result = stream.next(timeout, token);
      return result != TokenStream::Next::kTimeout;
    });
  if (result == TokenStream::Next::kEnd) return std::nullopt;
  return token;
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
  py::class_<SampledToken>(m, "Token", "One token of the output.")
      .def_readonly("id", &SampledToken::id)
      .def_readonly("logprob", &SampledToken::logprob,
                    "Log softmax of the model's logits, before sampling changes them; or None.")
      .def_readonly("top_logprobs", &SampledToken::top_logprobs,
                    "The best (id, log probability), best first.")
      .def("__repr__",
           [](const SampledToken& token) { return "Token(" + std::to_string(token.id) + ")"; });

  py::class_<PyReadyQueue>(m, "ReadyQueue",
                           "Holds the keys of streams with something new, each once until drained.")
      .def(py::init<>())
      .def("wait", &PyReadyQueue::wait,
           "Wait for and return the keys of streams with new tokens; [] after close().")
      .def("close", &PyReadyQueue::close, "End every wait(), now and later.");

  py::class_<StreamCounts>(m, "StreamCounts",
                           "What a sequence did and was spared so far, in tokens.")
      .def_readonly("cached_tokens", &StreamCounts::n_cached, "Of the prompt, computed before.")
      .def_readonly("guessed_tokens", &StreamCounts::n_guessed, "By prompt look-up.")
      .def_readonly("accepted_tokens", &StreamCounts::n_accepted, "Guesses that were right.")
      .def_readonly("forced_tokens", &StreamCounts::n_forced,
                    "Of the reply: a constraint left no choice.")
      .def_readonly("prompt_done", &StreamCounts::n_prompt_done, "Of the prompt, computed by now.");

  py::class_<PyTokenStream>(m, "TokenStream",
                            "The tokens of one sequence, as they come. Dropping it cancels it.")
      .def("next", &PyTokenStream::next,
           "Wait for the next token; None at the end. Raises what ended the sequence.")
      .def("drain", &PyTokenStream::drain,
           "Return the tokens that are there, without waiting. Raises like next().")
      .def_property_readonly("finish_reason", &PyTokenStream::finish_reason,
                             "\"stop\", \"length\" or \"cancelled\" once drained, None before.")
      .def_property_readonly("stop_token_id", &PyTokenStream::stop_token_id,
                             "The stop id that ended the sequence, once drained, or None.")
      .def_property_readonly("counts", &PyTokenStream::counts, "So far.")
      .def("cancel", &PyTokenStream::cancel,
           "End the sequence within one step; harmless when it has ended.");
}

}  // namespace starchat
