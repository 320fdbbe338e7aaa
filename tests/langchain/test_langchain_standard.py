"""LangChain's standard suites, whole, on the embedded model, with everything that is true of it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_starchat import ChatStarChat


class StarChatTraits:
    """What ChatStarChat can do."""

    @property
    def chat_model_class(self) -> type[ChatStarChat]:
        return ChatStarChat

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 200}

    has_tool_calling = True
    has_tool_choice = True
    has_structured_output = True
    supports_json_mode = True
    supports_model_override = False
    returns_usage_metadata = True


@pytest.mark.filterwarnings("ignore:ChatStarChat runs in this process")
class TestUnit(StarChatTraits, ChatModelUnitTests):
    """Construction, standard parameters, serialization."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {}  # the suite adds temperature and max_tokens itself

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"LC_OUTPUT_VERSION": "v1"}, {}, {"output_version": "v1"}


class TestIntegration(StarChatTraits, ChatModelIntegrationTests):
    """Answers, streams, batches, conversations, usage, stop strings."""
