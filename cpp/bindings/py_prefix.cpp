#include "bindings/py_prefix.hpp"

#include <pybind11/stl.h>

#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/errors.hpp"
#include "bindings/bindings.hpp"
#include "bindings/memory_checks.hpp"
#include "bindings/waiting.hpp"

namespace py = pybind11;

namespace starchat {
namespace {

void await(EngineTask& task) {
  wait_interruptibly([&](auto timeout) { return task.wait(timeout); });
}

}  // namespace

PyPrefix::PyPrefix(std::shared_ptr<EngineLoop> loop, size_t page_bytes, std::vector<int32_t> ids,
                   std::shared_ptr<KvSequence> pages)
    : page_bytes_(page_bytes),
      held_(std::make_shared<Held>(Held{std::move(loop), std::move(ids), std::move(pages)})) {}

PyPrefix::~PyPrefix() {
  const GilReleased released;
  held_.reset();
}

void PyPrefix::make_room() {
  const Held& held = *held_->get();
  await(*held.loop->make_room(held.ids));
}

py::bytes PyPrefix::read(size_t first, size_t n_pages) {
  const Held& held = *held_->get();
  if (held.pages->pages().size() < first + n_pages)
    throw OutOfMemoryError("no memory was left to hold the pages of this prefix: free memory");
  const auto out = std::make_shared<std::vector<std::byte>>(n_pages * page_bytes_);
  await(*held.loop->read_pages(held.pages, first, out));
  return py::bytes(reinterpret_cast<const char*>(out->data()), out->size());
}

void PyPrefix::write(const py::bytes& pages) {
  const Held& held = *held_->get();
  const std::string_view given = pages;
  std::shared_ptr<EngineTask> task;
  {
    const GilReleased released;
    const auto bytes = std::make_shared<std::vector<std::byte>>(given.size());
    std::memcpy(bytes->data(), given.data(), given.size());
    task = held.loop->write_pages(held.pages, bytes);
  }
  await(*task);
}

void PyPrefix::add(const std::optional<std::string>& cache_salt) {
  const Held& held = *held_->get();
  if (held.pages->pages().size() * kPagePositions < held.ids.size())
    throw InvalidRequestError("pages of this prefix were not written yet");
  await(*held.loop->add_prefix(cache_salt, held.ids, held.pages));
}

void bind_prefix(py::module_& m) {
  m.attr("SUMS_VERSION") = kSumsVersion;
  CheckedClass<PyPrefix>(m, "Prefix",
                         "Whole pages of a prompt's keys and values, on the way to a file or from "
                         "one.")
      .def("make_room", &PyPrefix::make_room,
           "Drop what the prefix cache must drop for it; InvalidRequestError: it is too small.")
      .def("read", &PyPrefix::read, py::arg("first"), py::arg("n_pages"),
           "Return pages as bytes, as cpp/model/layer_run.hpp lays them out.")
      .def("write", &PyPrefix::write, py::arg("pages"),
           "Append pages to those that were written before.")
      .def("add", &PyPrefix::add, py::arg("cache_salt"),
           "Add the pages to the prefix cache: for prompts of one `cache_salt`; None: for all\n"
           "prompts, and pinned.");
}

}  // namespace starchat
