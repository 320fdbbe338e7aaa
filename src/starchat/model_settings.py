"""What pydantic classes of adapters share: which file, how it runs, and the model behind it.

Imports pydantic, which every adapter brings and nothing else in starchat needs.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from . import _core
from .errors import StarChatError
from .lazy_model import Loader
from .model import EMBEDDED, StarChat
from .sampling import unknown_argument

__all__ = ["ModelSettings", "unknown_argument"]


class ModelSettings(BaseModel):
    """Fields to mix in before a framework's class; the weights are loaded on first use.

    >>> ModelSettings(n_ctx=512).engine.info.n_ctx
    512
    """

    model_config = ConfigDict(extra="forbid")

    model_path: str | None = Field(
        default=None, frozen=True, description="A ggml file; None: the embedded starchat-nano."
    )
    n_threads: int | None = Field(default=None, frozen=True, description="None: all cores.")
    n_ctx: int | None = Field(
        default=None, frozen=True, description="Tokens of context; None: the file's own."
    )
    _loader: Loader = PrivateAttr(default_factory=Loader)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, values: Any) -> Any:
        known = cls.model_fields
        if isinstance(values, dict) and cls.model_config.get("extra") == "forbid":
            for name in values.keys() - known.keys() - {field.alias for field in known.values()}:
                raise ValueError(unknown_argument(cls.__name__, name, known))
        return values

    @field_validator("model_path", mode="before")
    @classmethod
    def _path_as_text(cls, path: Any) -> Any:
        return os.fspath(path) if isinstance(path, os.PathLike) else path

    @property
    def engine(self) -> StarChat:
        """The model beneath, loaded now if it was not: `engine.info`, `engine.stats()` …"""
        return self._loader.load(self.model_path, self.n_threads, self.n_ctx)

    def _context_size(self) -> int | None:
        """Return the context by the file's header, loading nothing; None where load would fail."""
        file = EMBEDDED if self.model_path is None else self.model_path
        try:
            own = _core.context_size(os.fsencode(file))
        except (StarChatError, ValueError):
            return None
        return own if self.n_ctx is None else self.n_ctx if 2 <= self.n_ctx <= own else None

    async def _aengine(self) -> StarChat:
        """Load in a thread: it may take seconds."""
        return await self._loader.aload(self.model_path, self.n_threads, self.n_ctx)
