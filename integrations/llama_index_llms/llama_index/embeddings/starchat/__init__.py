"""StarChat's embeddings for LlamaIndex."""

from llama_index.embeddings.starchat.base import StarChatEmbedding

__all__ = ["StarChatEmbedding"]
