"""One error beside starchat's own ones, which pass through unchanged."""

from __future__ import annotations

from llama_index.core.output_parsers.base import OutputParserException

import starchat


class CutCallError(starchat.CutReplyError, OutputParserException, ValueError):
    """The reply ended within a tool call or its JSON: raise max_tokens.

    `text` has the JSON that was written, `partial` its value so far.

    It is a ValueError too, because LlamaIndex's own programs raise one for such a reply.
    """
