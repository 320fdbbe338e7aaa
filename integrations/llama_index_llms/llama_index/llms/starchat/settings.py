"""What the LLM and the embeddings share: which file, how it runs, and the engine behind it."""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

import starchat


class ModelSettings(BaseModel):
    """Mixed in before a class of LlamaIndex's; the weights are loaded on first use."""

    model_config = ConfigDict(extra="forbid")

    model_path: str | None = Field(
        default=None, frozen=True, description="A ggml file; None: the embedded starchat-nano."
    )
    n_threads: int | None = Field(default=None, frozen=True, description="None: all cores.")
    n_ctx: int | None = Field(
        default=None, frozen=True, description="Tokens of context; None: the file's own."
    )
    _loader: starchat.Loader = PrivateAttr(default_factory=starchat.Loader)

    @field_validator("model_path", mode="before")
    @classmethod
    def _path_as_text(cls, path: Any) -> Any:
        return os.fspath(path) if isinstance(path, os.PathLike) else path

    @property
    def engine(self) -> starchat.StarChat:
        """The model below, loaded now if it was not: `engine.info`, `engine.stats()` …"""
        return self._loader.load(self.model_path, self.n_threads, self.n_ctx)

    async def _aengine(self) -> starchat.StarChat:
        return await self._loader.aload(self.model_path, self.n_threads, self.n_ctx)
