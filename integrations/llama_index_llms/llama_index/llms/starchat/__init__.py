"""StarChat for LlamaIndex."""

from llama_index.llms.starchat.base import StarChat
from llama_index.llms.starchat.errors import CutCallError

__all__ = ["CutCallError", "StarChat"]
