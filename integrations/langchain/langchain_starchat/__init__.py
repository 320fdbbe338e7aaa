"""StarChat models in LangChain, run in this process: chat, completions and embeddings."""

from langchain_starchat.chat_models import ChatStarChat
from langchain_starchat.embeddings import StarChatEmbeddings
from langchain_starchat.errors import ContextOverflow
from langchain_starchat.llms import StarChatLLM

__all__ = ["ChatStarChat", "ContextOverflow", "StarChatEmbeddings", "StarChatLLM"]
