"""StarChat's embeddings for LlamaIndex."""

from llama_index.embeddings.starchat.base import StarChatEmbedding

__version__ = "0.1.0"

__all__ = ["StarChatEmbedding", "__version__"]
