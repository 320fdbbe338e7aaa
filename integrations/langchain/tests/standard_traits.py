"""What LangChain's standard suites have to know of ChatStarChat."""

from __future__ import annotations

from typing import Any

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
