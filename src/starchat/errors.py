"""Every error that starchat raises on purpose.

StarChatError
├── ModelFileError                 the model file cannot be used
│   ├── FileAccessError            (OSError) missing, a folder, no permission: fix the path
│   ├── UnsupportedFormatError     another format or version: convert it, or use another tool
│   └── CorruptFileError           cut, altered or hostile: download it again
├── InvalidRequestError            (ValueError) a message, token or parameter that cannot be served
│   ├── ContextLengthError         the prompt does not fit into the context
│   └── ConstraintError            a schema, regex or grammar is wrong, unsupported or too complex
├── UnsupportedFeatureError        this machine or this vocabulary cannot do it
├── EngineClosedError              the model was used after close()
├── ForkError                      the model was used in a forked child process
├── OutOfMemoryError               (MemoryError) the machine's memory does not suffice
└── NumericalError                 the weights produced values that are not finite

The C++ core throws classes of the same names (cpp/base/errors.hpp).
"""


class StarChatError(Exception):
    """Base of every error that starchat raises on purpose."""


class ModelFileError(StarChatError):
    """The model file cannot be used."""


class FileAccessError(ModelFileError, OSError):
    """The file is missing, a folder, or not readable."""


class UnsupportedFormatError(ModelFileError):
    """The file is of another format or version."""


class CorruptFileError(ModelFileError):
    """The file is cut short, altered or contradicts itself."""


class InvalidRequestError(StarChatError, ValueError):
    """A message, token or parameter cannot be served."""


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit into the model's context."""


class ConstraintError(InvalidRequestError):
    """A schema, regex or grammar is wrong, unsatisfiable, unsupported or too complex."""


class UnsupportedFeatureError(StarChatError):
    """This machine or this vocabulary cannot do what was asked."""


class EngineClosedError(StarChatError):
    """The model was used after it was closed."""


class ForkError(StarChatError):
    """The model was used in a forked child of the process that loaded it."""


class OutOfMemoryError(StarChatError, MemoryError):
    """The machine's memory does not suffice."""


class NumericalError(StarChatError):
    """The model computed values that are not finite."""
