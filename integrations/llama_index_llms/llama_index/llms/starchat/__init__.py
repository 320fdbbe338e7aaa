"""StarChat for LlamaIndex."""

from typing import Any

import wrapt
from llama_index.llms.starchat.base import StarChat
from llama_index.llms.starchat.errors import CutCallError
from llama_index.llms.starchat.prompt_progress import PromptProgressEvent

__version__ = "0.1.0"

__all__ = ["CutCallError", "PromptProgressEvent", "StarChat", "__version__"]


@wrapt.when_imported("llama_index.core.llms.loading")  # imported only where a dict is read
def _register(loading: Any) -> None:
    """Let LlamaIndex make a StarChat of what `to_dict` returned."""
    loading.RECOGNIZED_LLMS[StarChat.class_name()] = StarChat
