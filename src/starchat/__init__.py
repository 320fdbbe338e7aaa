"""Runs StarChat and StarCoder files on the CPU: load, chat, stream.

>>> from starchat import StarChat
>>> model = StarChat.load()  # the embedded model; or the path of a file
>>> question = {"role": "user", "content": "How do I sort a list in Python?"}
>>> print(model.chat([question], temperature=0).text)
You can sort a list in Python...
"""

from .chat.framed_prompt import escape, is_framed
from .errors import (
    ConstraintError,
    ContextLengthError,
    ControlTokenWarning,
    CorruptFileError,
    CutReplyError,
    DeviceLostError,
    DownloadError,
    EngineClosedError,
    ErrorCode,
    FileAccessError,
    ForkError,
    InvalidRequestError,
    ModelFileError,
    NumericalError,
    OutOfMemoryError,
    StarChatError,
    UnsupportedFeatureError,
    UnsupportedFormatError,
    shown,
)
from .grammar.class_schema import class_schema
from .grammar.limits import limited_schema
from .grammar.schemas import closed_schema, map_schema, untitled_schema
from .lazy_model import Loader
from .limits import Limits
from .model import StarChat
from .partial_json import json_so_far
from .progress import long_prompts_only
from .sampling import ChatOptions, ConstraintOptions, ReplyOptions, SamplingOptions, SamplingParams
from .stream import AsyncStream, Stream
from .types import (
    Chunk,
    Completion,
    FinishReason,
    MemoryUse,
    Message,
    Messages,
    ModelInfo,
    Role,
    TokenLogprob,
    ToolCall,
    ToolCallChunk,
    Usage,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncStream",
    "ChatOptions",
    "Chunk",
    "Completion",
    "ConstraintError",
    "ConstraintOptions",
    "ContextLengthError",
    "ControlTokenWarning",
    "CorruptFileError",
    "CutReplyError",
    "DeviceLostError",
    "DownloadError",
    "EngineClosedError",
    "ErrorCode",
    "FileAccessError",
    "FinishReason",
    "ForkError",
    "InvalidRequestError",
    "Limits",
    "Loader",
    "MemoryUse",
    "Message",
    "Messages",
    "ModelFileError",
    "ModelInfo",
    "NumericalError",
    "OutOfMemoryError",
    "ReplyOptions",
    "Role",
    "SamplingOptions",
    "SamplingParams",
    "StarChat",
    "StarChatError",
    "Stream",
    "TokenLogprob",
    "ToolCall",
    "ToolCallChunk",
    "UnsupportedFeatureError",
    "UnsupportedFormatError",
    "Usage",
    "class_schema",
    "closed_schema",
    "escape",
    "is_framed",
    "json_so_far",
    "limited_schema",
    "long_prompts_only",
    "map_schema",
    "shown",
    "untitled_schema",
]
