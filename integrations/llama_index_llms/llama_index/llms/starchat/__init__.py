"""StarChat for LlamaIndex."""

from llama_index.llms.starchat.base import StarChat
from llama_index.llms.starchat.errors import CutCallError

__version__ = "0.1.0"

__all__ = ["CutCallError", "StarChat", "__version__"]
