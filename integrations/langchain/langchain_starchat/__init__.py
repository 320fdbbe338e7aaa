"""StarChat models in LangChain, run in this process: chat, completions and embeddings."""

from typing import TYPE_CHECKING, Any

from langchain_starchat.chat_models import ChatStarChat
from langchain_starchat.errors import ContextOverflow, CutReplyError
from langchain_starchat.llms import StarChatLLM

if TYPE_CHECKING:
    from langchain_starchat.embeddings import StarChatEmbeddings

__version__ = "0.1.0"

__all__ = [
    "ChatStarChat",
    "ContextOverflow",
    "CutReplyError",
    "StarChatEmbeddings",
    "StarChatLLM",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import embeddings on first use: they load more of LangChain."""
    if name == "StarChatEmbeddings":
        from langchain_starchat.embeddings import StarChatEmbeddings

        return StarChatEmbeddings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
