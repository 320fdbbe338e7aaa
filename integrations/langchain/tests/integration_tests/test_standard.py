"""LangChain's standard suites, whole, on the embedded model, with everything that is true of it."""

from __future__ import annotations

from typing import Any

from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

from langchain_starchat import StarChatEmbeddings
from standard_traits import StarChatTraits


class TestChat(StarChatTraits, ChatModelIntegrationTests):
    """Answers, streams, batches, conversations, usage, stop strings."""


class TestEmbeddings(EmbeddingsIntegrationTests):
    """Queries and documents, sync and async."""

    embeddings_class = StarChatEmbeddings
    embedding_model_params: dict[str, Any] = {}  # noqa: RUF012 (a property of the suite)
