"""LangChain's standard suites of what needs no reply."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from langchain_starchat import StarChatEmbeddings
from standard_traits import StarChatTraits


@pytest.mark.filterwarnings("ignore:ChatStarChat runs in this process")
class TestChat(StarChatTraits, ChatModelUnitTests):
    """Construction, standard parameters, serialization."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {}  # the suite adds temperature and max_tokens itself

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"LC_OUTPUT_VERSION": "v1"}, {}, {"output_version": "v1"}


class TestEmbeddings(EmbeddingsUnitTests):
    """Construction."""

    embeddings_class = StarChatEmbeddings
    embedding_model_params: dict[str, Any] = {}  # noqa: RUF012 (a property of the suite)
