// The parts of the `_core` module: each file of this folder has one function that adds its classes.
// Only this folder includes pybind11.
#pragma once
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "base/vocabulary.hpp"
#include "format/model_file.hpp"
#include "quant/types.hpp"

namespace starchat {

void bind_errors(pybind11::module_& m);
void bind_tokenizer(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_prefix(pybind11::module_& m);
void bind_format(pybind11::module_& m);
void bind_quant(pybind11::module_& m);
void bind_checkpoint(pybind11::module_& m);
void bind_machine(pybind11::module_& m);
void bind_testing(pybind11::module_& m);  // testing/: absent where STARCHAT_TESTING is off

// As (device, inode, size in bytes, mtime in ns) each.
pybind11::tuple numbers_of(const std::vector<FileIdentity>& files);
// Ids are int32 each; merges are (left, right, merged) by rank, or none. IndexError: no such id.
Vocabulary vocabulary_of(std::vector<std::string> tokens, const pybind11::bytes& control_ids,
                         const pybind11::bytes& added_ids, const pybind11::bytes& merges);
std::vector<int32_t> int32s(const pybind11::bytes& data);
TensorType type_named(const std::string& name);  // InvalidRequestError: no such type

}  // namespace starchat
