"""StarChat's embeddings for LlamaIndex."""

from typing import Any

import wrapt
from llama_index.embeddings.starchat.base import StarChatEmbedding

__version__ = "0.1.0"

__all__ = ["StarChatEmbedding", "__version__"]


@wrapt.when_imported("llama_index.core.embeddings.loading")  # imported only where a dict is read
def _register(loading: Any) -> None:
    """Let LlamaIndex make a StarChatEmbedding of what `to_dict` returned."""
    loading.RECOGNIZED_EMBEDDINGS[StarChatEmbedding.class_name()] = StarChatEmbedding
