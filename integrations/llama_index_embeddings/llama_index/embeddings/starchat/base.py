"""StarChat as a LlamaIndex embedding model: texts in, pooled hidden states out.

Vectors and errors are `starchat`'s: a text that is empty or longer than the context is refused,
not cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, field_validator

from starchat import ContextLengthError
from starchat.model_settings import ModelSettings, rows, rows_async


class StarChatEmbedding(ModelSettings, BaseEmbedding):
    """Embeds texts with a StarChat model in this process; an LLM of the same file shares it.

    StarChat was trained to continue text, not to embed it: BM25 retrieves better. Use these
    vectors where an index needs vectors and no second model should be in memory.

    Construction is cheap: weights are loaded on first use, and shared. Texts are batched with
    all running replies. The same text gives the same bits. Queries and documents are embedded in
    the same way.

    Examples:
        `pip install llama-index-embeddings-starchat`

        ```python
        from llama_index.core import VectorStoreIndex
        from llama_index.embeddings.starchat import StarChatEmbedding

        index = VectorStoreIndex(nodes, embed_model=StarChatEmbedding())
        ```
    """

    model_name: str = Field(default="starchat", description="The name that callbacks get.")
    embed_batch_size: int = Field(
        default=128, gt=0, le=2048, description="Texts that are given to the engine at a time."
    )

    @field_validator("model_name")
    @classmethod
    def _refuse_file_as_name(cls, name: str) -> str:
        """Refuse what other embedders load by this argument: the embedded model would answer."""
        if "/" in name or name.endswith((".bin", ".gguf", ".ggml")):
            raise ValueError("it is what callbacks get, not a model: did you mean model_path?")
        return name

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex's serialization knows."""
        return "StarChatEmbedding"

    def to_payload(self) -> dict[str, Any]:
        """Describe the model for callbacks, without loading it."""
        return {**super().to_payload(), "model_path": self.model_path}

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embeddings([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: Sequence[str]) -> list[list[float]]:
        with _named_texts(texts):
            return rows(self.engine.embed(texts))

    # The async methods of BaseEmbedding would block the event loop.

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aget_text_embeddings([query]))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: Sequence[str]) -> list[list[float]]:
        engine = await self._aengine()
        with _named_texts(texts):
            return await rows_async(await engine.aembed(texts))


@contextmanager
def _named_texts(texts: Sequence[str]) -> Iterator[None]:
    """Let an error say how its text begins: LlamaIndex puts a node's metadata there."""
    try:
        yield
    except ContextLengthError as error:
        place = re.fullmatch(r"texts\[(\d+)\]", error.param or "")
        begin = texts[int(place[1])][:80] if place else ""
        error.args = (f"{error}; the text begins with {begin!r}",)
        raise
