"""StarChat for LlamaIndex."""

from llama_index.llms.starchat.base import StarChat

__all__ = ["StarChat"]
