"""Bounds that LlamaIndex's own tools and classes lack, although their prompts name them.

The number of a choice is one of those that are listed; an agent to hand off to exists.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.base.base_selector import MultiSelection, SingleSelection
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.postprocessor.structured_llm_rerank import DocumentRelevanceList

from starchat import map_schema

Schema: TypeAlias = dict[str, Any]
_REASON = {"maxLength": 300}


def bounded(schema: Schema, source: Any, messages: Sequence[ChatMessage]) -> Schema:
    """Return the schema of what `source`, a class or a function, takes, with what it lacks."""
    text = "\n".join(message.content or "" for message in messages)
    if source in (SingleSelection, MultiSelection):
        n_choices, most = _number(r"\(1 to (\d+)\)", text), _number(r"\(no more than (\d+)", text)
        selections = {"minItems": 1} | ({"maxItems": most} if most else {})
        return _with(schema, index=_up_to(n_choices), reason=_REASON, selections=selections)
    if source is DocumentRelevanceList:
        n_documents = _n_listed(text)
        documents = {"maxItems": n_documents} if n_documents else {}
        return _with(schema, document_number=_up_to(n_documents), documents=documents)
    return schema


def with_agents(schema: Schema, function: Any, description: str) -> Schema:
    """Return the schema of AgentWorkflow's tool for a hand-off, with the agents that exist."""
    where = f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', '')}"
    if where != "llama_index.core.agent.workflow.multi_agent_workflow.handoff":
        return schema
    names = next(_dicts(description), None)
    return _with(schema, to_agent={"enum": list(names)}, reason=_REASON) if names else schema


def _with(schema: Schema, **bounds: Schema) -> Schema:
    """Return a schema with bounds on the properties of these names."""

    def change(node: Schema) -> Schema:
        own = node.get("properties")
        if not isinstance(own, dict):
            return node
        return node | {"properties": {name: own[name] | bounds.get(name, {}) for name in own}}

    return map_schema(schema, change)


def _up_to(most: int) -> Schema:
    return {"minimum": 1} | ({"maximum": most} if most else {})


def _number(pattern: str, text: str) -> int:
    """Return the number that a prompt names, 0 if it does not."""
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def _n_listed(text: str) -> int:
    """Return how many documents a prompt lists."""
    number = start = 0
    while (found := text.find(f"Document {number + 1}:\n", start)) >= 0:
        number, start = number + 1, found
    return number


def _dicts(text: str) -> Iterator[Mapping[str, str]]:
    """Yield the dicts of strings that stand in a text as Python writes them."""
    for start in re.finditer(r"\{['\"]", text):
        for end in reversed([*re.finditer(r"\}", text)]):
            try:
                value = ast.literal_eval(text[start.start() : end.end()])
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value
