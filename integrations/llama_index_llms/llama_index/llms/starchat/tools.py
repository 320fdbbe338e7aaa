"""LlamaIndex's tools → starchat's definitions, and a response's calls → ToolSelections."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import ToolMetadata
from llama_index.llms.starchat.choices import bounded, with_agents
from llama_index.llms.starchat.errors import CutCallError

from starchat import InvalidRequestError, class_schema, json_so_far, shown
from starchat.openai import read_tool_choice

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool


def definition(tool: BaseTool, messages: Sequence[ChatMessage] = ()) -> dict[str, Any]:
    """Return a tool in starchat's form, by the name that LlamaIndex looks up.

    What LlamaIndex's own tools leave open is bounded by what they and `messages` say.
    """
    about = tool.metadata
    parameters = about.get_parameters_dict
    own = getattr(parameters, "__func__", None) is not ToolMetadata.get_parameters_dict
    if own or about.fn_schema is None:
        schema = parameters()
    else:
        schema = bounded(class_schema(about.fn_schema), about.fn_schema, messages)
        schema.pop("description", None)  # of the class; the tool's own is beside it
    return {
        "name": about.get_name(),
        "description": about.description,
        "parameters": with_agents(schema, getattr(tool, "real_fn", None), about.description),
    }


def made_of_class(tool: BaseTool) -> bool:
    """Whether FunctionCallingProgram made the tool of a pydantic class, of which it needs one."""
    function = getattr(tool, "real_fn", None)
    return getattr(function, "__qualname__", "") == "get_function_tool.<locals>.model_fn"


def resolved_choice(tool_choice: Any, tool_required: bool) -> str:
    """Return a tool_choice, given in any form, in starchat's; raise InvalidRequestError."""
    choice = read_tool_choice(tool_choice) or "auto"
    if choice == "none" and tool_required:
        raise InvalidRequestError.of("tool_choice", "'none' contradicts tool_required=True")
    return "required" if choice == "auto" and tool_required else choice


def selections(response: ChatResponse, at_least_one: bool) -> list[ToolSelection]:
    """Return the calls of a response; within a stream, with their arguments so far.

    Raises CutCallError for the last response of a reply that was cut within a call, and
    ValueError if `at_least_one` and there is none.
    """
    check_whole(response)
    blocks = calls(response)
    if at_least_one and not blocks:
        raise ValueError(
            f"expected at least one tool call, got the text {shown(response.message.content)}: "
            "pass tool_required=True to allow nothing else, or error_on_no_tool_call=False"
        )
    return [
        ToolSelection(
            tool_id=block.tool_call_id or block.tool_name,
            tool_name=block.tool_name,
            tool_kwargs=arguments(block),
        )
        for block in blocks
    ]


def calls(response: ChatResponse) -> Sequence[ToolCallBlock]:
    """Return the blocks of tool calls."""
    return [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]


def arguments(block: ToolCallBlock) -> dict[str, Any]:
    """Return the arguments of a call; of partial JSON, those that are there so far."""
    if isinstance(block.tool_kwargs, dict):
        return block.tool_kwargs
    so_far = json_so_far(block.tool_kwargs)
    return so_far if isinstance(so_far, dict) else {}


def check_whole(response: ChatResponse, is_parsed: bool = False) -> ChatResponse:
    """Return the response; raise CutCallError if it was cut within a call, or has no content.

    Where the text `is_parsed`, it must be whole too.
    """
    raw = response.raw if isinstance(response.raw, Mapping) else {}
    if raw.get("finish_reason") != "length":
        return response
    blocks = calls(response)
    text = response.message.content or ""
    if not blocks and text and not is_parsed:
        return response  # a text that was cut is still an answer
    where = "before the end of its JSON" if text else "before any content"
    partial = json_so_far(text)
    if blocks:
        last = blocks[-1]
        where = f"in or after a call of {shown(last.tool_name)}"
        partial, written = arguments(last), last.tool_kwargs
        text = written if isinstance(written, str) else json.dumps(written, ensure_ascii=False)
    n_tokens = raw["usage"]["completion_tokens"]
    raise CutCallError(
        f"the reply was cut {where}, at {n_tokens} tokens: raise max_tokens, or shorten the prompt "
        "if the context was full",
        text=text,
        partial=partial,
    )
