"""What pydantic classes of adapters share: which file, how it runs, and the model behind it.

Imports pydantic, which every adapter brings and nothing else in starchat needs.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from . import _core
from .argument_names import unknown_argument
from .chat.framed_prompt import read_prompt
from .chat.template import STARCHAT
from .chat.tools import Toolbox
from .checks import check_allow_special, json_size
from .errors import InvalidRequestError, StarChatError, unexpected
from .hub.find import find
from .json_text import write_json
from .lazy_model import Loader, LoadSettings
from .limits import Limits
from .model import EMBEDDED, StarChat
from .model_path import model_name
from .model_source import context_size, read_tokenizer
from .prompt_room import PromptRoom
from .request_size import is_small
from .types import Messages

__all__ = ["ModelSettings", "is_small", "rows", "rows_async", "unknown_argument", "write_json"]

_MOST_OPTIONS = 1 << 22
#: the names that most models of the frameworks have: ours
_ALIASES = {"model": "model_path", "n_gpu_layers": "gpu_layers"}


class ModelSettings(BaseModel):
    """Fields to mix in before a framework's class; the weights are loaded on first use.

    >>> ModelSettings(n_ctx=512).engine.info.n_ctx
    512
    """

    model_config = ConfigDict(extra="forbid")

    model_path: str | None = Field(
        default=None,
        frozen=True,
        description="A file, a folder, or a hub's name; None: the embedded one.",
    )
    n_threads: int | None = Field(default=None, frozen=True, description="None: all cores.")
    n_ctx: int | None = Field(
        default=None, frozen=True, description="Tokens of context; None: the file's own."
    )
    limits: Limits | None = Field(
        default=None, frozen=True, description="Bounds on each request; None: the defaults."
    )
    check_memory: bool = Field(
        default=True, frozen=True, description="Refuse to load what does not fit into memory."
    )
    draft: str | None = Field(
        default=None,
        frozen=True,
        description="A smaller model of the same family, which guesses ahead; None: none.",
    )
    gpu_layers: int | Literal["auto"] | None = Field(
        default=None,
        frozen=True,
        description='Last layers that a GPU computes, "auto" or -1; also n_gpu_layers.',
    )
    device: str | None = Field(
        default=None, frozen=True, description="Which GPU; None: the best one."
    )
    _loader: Loader = PrivateAttr(default_factory=Loader)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, values: Any) -> Any:
        known = cls.model_fields
        for other, name in _ALIASES.items():
            if isinstance(values, dict) and other in values and other not in known:
                values = dict(values)
                value = values.pop(other)
                if values.setdefault(name, value) != value:
                    raise ValueError(f"{other} and {name} are one argument: give one of them")
        if isinstance(values, dict) and cls.model_config.get("extra") == "forbid":
            for name in values.keys() - known.keys() - {field.alias for field in known.values()}:
                raise ValueError(unknown_argument(cls.__name__, name, known))
        return values

    @field_validator("model_path", "draft", mode="before")
    @classmethod
    def _path_as_text(cls, path: Any) -> Any:
        return os.fspath(path) if isinstance(path, os.PathLike) else path

    @field_validator("limits", mode="before")
    @classmethod
    def _check_limits(cls, limits: Any) -> Limits | None:
        return None if limits is None else Limits.check(limits)

    @property
    def engine(self) -> StarChat:
        """The model beneath, loaded now if it was not: `engine.info`, `engine.stats()` …"""
        return self._loader.load(self.model_path, **self._settings)

    @property
    def _settings(self) -> LoadSettings:
        """How the loader loads the model."""
        return {
            "n_threads": self.n_threads,
            "n_ctx": self.n_ctx,
            "limits": self.limits,
            "check_memory": self.check_memory,
            "draft": self.draft,
            "gpu_layers": self.gpu_layers,
            "device": self.device,
        }

    @property
    def _loaded(self) -> StarChat | None:
        """The model, if it is there."""
        return self._loader.loaded(self.model_path, **self._settings)

    @property
    def _file(self) -> str:
        """The path of the file, as far as it is known without asking a hub."""
        if self.model_path is None:
            return EMBEDDED
        if model := self._loaded:
            return model._handle.path
        name = model_name(self.model_path)
        return (find(name) if name else None) or self.model_path

    @property
    def _is_absent(self) -> bool:
        """Whether the model has a hub's name and is not here: loading it takes minutes."""
        name = model_name(self.model_path)
        return name is not None and find(name) is None

    def _context_size(self) -> int | None:
        """Return the context by the file's header, loading nothing; None where load would fail."""
        try:
            own = context_size(self._file)
        except (StarChatError, ValueError):
            return None
        return own if self.n_ctx is None else self.n_ctx if 2 <= self.n_ctx <= own else None

    def _file_state(self) -> list[str | int]:
        """Return the path behind links, size and time of change; [] where load would fail.

        Asks the core, as `context_size` does: no call that an event loop must not make.
        """
        try:
            real, _, files = _core.file_state(os.fsencode(self._file))
            _, _, sizes, times = zip(*files, strict=True)
        except (StarChatError, ValueError):
            return []
        return [os.fsdecode(real), sum(sizes), max(times)]

    def _reader(self) -> _core.Tokenizer:
        """Return the file's tokenizer, without its weights as long as they are not loaded."""
        if model := self._loaded:
            return model._engine.tokenizer
        state = self._file_state()
        return _read_tokenizer(self._file, *state) if state else self.engine._engine.tokenizer

    def _prompt_ids(self, text: str, allow_special: bool | Sequence[str] | None) -> list[int]:
        """Return the ids of a text as StarChat.tokenize_prompt does."""
        if not isinstance(text, str):
            raise unexpected("text", "a string", text)
        allowed = None if allow_special is None else check_allow_special(allow_special)
        self._check_length(text)
        return read_prompt(text, allowed, self._reader())

    def _count_tokens(self, messages: Messages, tools: Sequence[Mapping[str, Any]]) -> int:
        """Return what StarChat.count_tokens does."""
        toolbox = Toolbox.check(tools, bounds=self._bounds)
        room = PromptRoom("messages", self._bounds)
        return STARCHAT.count_tokens(messages, toolbox, self._reader(), room)

    def _check_length(self, prompt: object) -> None:
        """Raise InvalidRequestError for a text that is too long to be looked at."""
        if isinstance(prompt, str):
            PromptRoom("prompt", self._bounds).take(len(prompt))

    @staticmethod
    def _check_options(options: Mapping[str, Any]) -> None:
        """Raise InvalidRequestError for a call's keywords beyond what any request may have.

        Frameworks write them out as a cache key, in one hold of the GIL.
        """
        if json_size(options, _MOST_OPTIONS) > _MOST_OPTIONS:
            problem = f"expected at most {_MOST_OPTIONS:,} bytes of options: ask for less"
            raise InvalidRequestError(problem, limit=_MOST_OPTIONS)

    @property
    def _bounds(self) -> Limits:
        return self.limits or Limits()

    async def _aengine(self) -> StarChat:
        """Load in a thread: it may take seconds."""
        return await self._loader.aload(self.model_path, **self._settings)


@functools.lru_cache(maxsize=8)
def _read_tokenizer(path: str, *_: object) -> _core.Tokenizer:
    """Return the tokenizer of a file; the other arguments tell its states apart."""
    return read_tokenizer(path)


def rows(vectors: Any) -> list[list[float]]:
    """Return vectors as lists; one by one, as a call that makes all would hold the GIL."""
    return [row.tolist() for row in vectors]


async def rows_async(vectors: Any) -> list[list[float]]:
    """Return vectors as lists; between two of them the event loop goes on."""
    made: list[list[float]] = []
    for row in vectors:
        made.append(row.tolist())
        await asyncio.sleep(0)
    return made
