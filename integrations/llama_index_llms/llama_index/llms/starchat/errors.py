"""One error beside starchat's own ones, which pass through unchanged."""

from __future__ import annotations

from llama_index.core.output_parsers.base import OutputParserException

import starchat


class CutCallError(starchat.StarChatError, OutputParserException, ValueError):
    """The reply ended within a tool call, so its arguments are incomplete. Raise max_tokens.

    It is a ValueError too, because LlamaIndex's own programs raise one for such a reply.
    """
