"""One error more than starchat's own, which all pass through as they are."""

from __future__ import annotations

from llama_index.core.output_parsers.base import OutputParserException

import starchat


class CutCallError(starchat.StarChatError, OutputParserException, ValueError):
    """The reply ended within a tool call: its arguments are not whole. Raise max_tokens.

    A ValueError too, which is what LlamaIndex's own programs raise for such a reply.
    """
