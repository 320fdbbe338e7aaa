// Every error that the core throws. Two errors have different classes if a caller would react
// differently. kind() is the name of the Python class (starchat.errors) that the bindings raise.
// Messages say what, where, expected, actual and the remedy; fields say the same to programs.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

namespace starchat {

struct ErrorFields {
  using Number = std::variant<std::monostate, int64_t, double>;
  std::string param{};  // the argument at fault, "" for none
  Number limit{};       // the bound that `got` is beyond
  Number got{};
};

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ErrorFields fields = {})
      : std::runtime_error(message), fields_(std::move(fields)) {}
  virtual const char* kind() const noexcept { return "StarChatError"; }
  const ErrorFields& fields() const noexcept { return fields_; }

 private:
  ErrorFields fields_;
};

#define STARCHAT_ERROR(Name, Base)                               \
  class Name : public Base {                                     \
   public:                                                       \
    using Base::Base;                                            \
    const char* kind() const noexcept override { return #Name; } \
  }

STARCHAT_ERROR(ModelFileError, Error);
STARCHAT_ERROR(FileAccessError, ModelFileError);  // missing, a folder, no permission: fix the path
STARCHAT_ERROR(UnsupportedFormatError,
               ModelFileError);  // another format or version: convert, or use another tool
STARCHAT_ERROR(CorruptFileError, ModelFileError);  // cut, altered or hostile: download it again
STARCHAT_ERROR(InvalidRequestError, Error);  // a parameter, token or message that cannot be served
STARCHAT_ERROR(ContextLengthError, InvalidRequestError);  // prompt longer than the context
STARCHAT_ERROR(ConstraintError, InvalidRequestError);     // a grammar that cannot be followed
STARCHAT_ERROR(UnsupportedFeatureError, Error);  // impossible with this machine or vocabulary
STARCHAT_ERROR(EngineClosedError, Error);        // used after close()
STARCHAT_ERROR(ForkError, Error);                // used in a forked child
STARCHAT_ERROR(OutOfMemoryError, Error);         // the machine has too little memory
STARCHAT_ERROR(DeviceLostError, Error);          // a GPU does not answer any more: load again
STARCHAT_ERROR(NumericalError, Error);           // values that are not finite

#undef STARCHAT_ERROR

}  // namespace starchat
