"""StarChat models in LangChain: a chat model and a completion model, run in this process."""

from langchain_starchat.chat_models import ChatStarChat
from langchain_starchat.errors import ContextOverflow
from langchain_starchat.llms import StarChatLLM

__all__ = ["ChatStarChat", "ContextOverflow", "StarChatLLM"]
