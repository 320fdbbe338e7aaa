"""Schemas of tools and of structured output: what their grammar allows, their source accepts."""

from __future__ import annotations

import json
import typing
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from langchain.agents.structured_output import (
    OutputToolBinding,
    ProviderStrategy,
    ToolStrategy,
)
from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool, StructuredTool, tool
from pydantic import BaseModel, Field, HttpUrl, Json, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from langchain_starchat import ChatStarChat
from langchain_starchat.schemas import definitions, json_schema
from scripted_model import reply
from starchat import ConstraintError, InvalidRequestError
from starchat.chat.call_reader import load_object
from starchat.chat.tools import Toolbox, check_tools, reply_grammar
from starchat.grammar.constraint import json_text

grammars = pytest.importorskip("support.grammars", reason="the tests of starchat are not here")


class Tree(BaseModel):
    """A tree."""

    name: Annotated[str, Field(max_length=5)]
    kids: Annotated[list[Tree], Field(max_length=2)] = []
    owner: Owner | None = None


class Owner(BaseModel):
    """Who has trees."""

    trees: Annotated[list[Tree], Field(max_length=1)]
    paid: Decimal


class Branch(TypedDict):
    """A branch.

    Args:
        name: what it is called
    """

    name: str
    parts: NotRequired[Annotated[list[Branch], ..., "its branches"]]


@tool
def plant(tree: Tree, after: timedelta, seen: HttpUrl) -> str:
    """Plant a tree."""
    return f"{tree} {after} {seen}"


def grow(tree: Tree) -> str:
    """Grow a tree.

    Args:
        tree: the one to grow
    """
    return repr(tree)


NODE = {
    "type": "object",
    "properties": {
        "name": {"const": "n", "description": "a name"},
        "next": {"anyOf": [{"$ref": "#/definitions/Node"}, {"type": "null"}]},
        "also": {"$ref": "#/properties/kind", "maxLength": 1},
    },
    "required": ["next", "also"],
    "additionalProperties": False,
}
REMOTE = StructuredTool(
    name="link",
    description="Link nodes.",
    args_schema={
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"node": {"$ref": "#/definitions/Node"}, "kind": {"enum": ["a", "bb"]}},
        "required": ["node"],
        "definitions": {"Node": NODE},
    },
    func=lambda **arguments: repr(arguments),
)


def arguments_of(defined: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the arguments of a random call that the tool's grammar allows."""
    lark = reply_grammar(Toolbox.check([defined], "any", False))
    text = grammars.random_text(lark, seed, soft_limit=60)
    call: dict[str, Any] = load_object(text.removeprefix("<tool_call>"))
    return call["arguments"]


@pytest.mark.parametrize(
    "source",
    [plant, grow, Tree, Owner, Branch, REMOTE],
    ids=["tool", "function", "pydantic", "mutual", "TypedDict", "MCP"],
)
def test_calls_validate_by_what_was_given(source: Any) -> None:
    (defined,) = definitions([source])
    for seed in range(8):
        arguments = arguments_of(defined, seed)
        if source is REMOTE:
            Draft202012Validator(REMOTE.args_schema).validate(arguments)
        elif isinstance(source, BaseTool):
            assert source.invoke(arguments)
        elif source is grow:
            Tree.model_validate(arguments["tree"])
        else:
            TypeAdapter(source).validate_python(arguments)


@pytest.mark.parametrize("source", [Tree, Owner, Branch], ids=lambda source: source.__name__)
def test_structured_output_validates(source: Any) -> None:
    lark = f"start: %json {json_text(json_schema(source))}"
    for seed in range(8):
        TypeAdapter(source).validate_json(grammars.random_text(lark, seed, soft_limit=60))


def test_definitions_keep_what_describes_them() -> None:
    trees, branch, remote, grown = [
        defined["function"] for defined in definitions([Tree, Branch, REMOTE, grow])
    ]
    assert (trees["name"], trees["description"]) == ("Tree", "A tree.")
    assert (remote["name"], remote["description"]) == ("link", "Link nodes.")
    assert remote["parameters"]["definitions"]["Node"] == NODE
    assert (grown["name"], grown["description"]) == ("grow", "Grow a tree.")
    assert grown["parameters"]["properties"]["tree"]["description"] == "the one to grow"
    assert branch["description"].startswith("A branch.")
    parts = branch["parameters"]["$defs"]["Branch"]["properties"]["parts"]
    assert parts["description"] == "its branches"


def test_a_prompt_shows_a_tool_that_refers_to_itself() -> None:
    (checked,) = check_tools(definitions([Tree]))
    shown = json.loads(checked.line)
    assert shown["parameters"]["$defs"]["Tree"]["properties"]["kids"]["items"] == {
        "$ref": "#/$defs/Tree"
    }
    assert '"title"' not in checked.line and "pattern" not in checked.line


class Order(BaseModel):
    """What to buy."""

    price: Annotated[Decimal, Field(max_digits=4, decimal_places=1)]
    page: HttpUrl


@pytest.mark.parametrize("model", [Order, Owner], ids=["plain", "of itself"])
def test_agents_get_what_their_class_accepts(script: Any, model: Any) -> None:
    asked = script(*[reply("{}")] * 2)
    provider, tools = ProviderStrategy(model), ToolStrategy(model)
    ChatStarChat().invoke("?", **provider.to_model_kwargs())
    (spec,) = tools.schema_specs
    (defined,) = definitions([OutputToolBinding.from_schema_spec(spec).tool])
    lark = f"start: %json {json_text(asked.asked[0][1]['json_schema'])}"
    for seed in range(8):
        model.model_validate_json(grammars.random_text(lark, seed, soft_limit=60))
        model.model_validate(arguments_of(defined, seed))


def test_schemas_that_no_class_made_stay_as_they_are() -> None:
    given = {"title": "Order", "type": "object", "properties": {"price": {"type": "string"}}}
    made = StructuredTool(name="x", description="X", args_schema=given, func=print)
    (defined,) = definitions([made])
    assert defined["function"]["parameters"] == {k: given[k] for k in ("type", "properties")}


class Packed(BaseModel):
    data: Json[int]


def test_what_cannot_be_held_is_refused_where_it_is_given() -> None:
    problem = "Packed: at #/properties/data: Json, which is JSON within a string"
    with pytest.raises(ConstraintError, match=problem):
        ChatStarChat().bind_tools([Packed])
    for method in ("json_schema", "function_calling"):
        with pytest.raises(ConstraintError, match=problem):
            ChatStarChat().with_structured_output(Packed, method=method)


class Old(typing.TypedDict):
    name: str


class Looping(typing.TypedDict):
    below: list[Looping]


def test_dicts_of_typing_are_read_as_far_as_they_can_be() -> None:
    (defined,) = definitions([Old])
    assert defined["function"]["parameters"]["required"] == ["name"]
    try:
        (looping,) = definitions([Looping])
    except InvalidRequestError as error:  # before Python 3.12
        assert "Looping cannot be read: Please use `typing_extensions.TypedDict`" in str(error)
    else:
        assert "$defs" in looping["function"]["parameters"]


def repeated(n: int) -> dict[str, Any]:
    """Return a schema that holds the same one 2^n times."""
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(n):
        schema = {"anyOf": [schema, schema]}
    return schema


def test_a_response_format_is_bounded_before_the_prompt_shows_it() -> None:
    form = {"type": "json_schema", "json_schema": {"schema": repeated(18)}}
    error = "response_format: expected at most 1,048,576 bytes, got more than 1,048,576: make the"
    with pytest.raises(ConstraintError, match=error):
        ChatStarChat().invoke("Hi", response_format=form)
    small = ChatStarChat(limits={"schema_bytes": 9})  # type: ignore[arg-type]
    with pytest.raises(ConstraintError, match="expected at most 9 bytes, got more than 9"):
        small.with_structured_output({"title": "a", "type": "null"}).invoke("Hi")


def test_tools_are_bounded_and_shared_parts_read_once() -> None:
    tool = {"title": "t", "properties": {"a": repeated(60)}}
    defined = definitions([tool])  # at once
    with pytest.raises(InvalidRequestError, match=r"\('t'\): expected at most 1,048,576 bytes of "):
        check_tools(defined)
    few = ChatStarChat(limits={"tool_bytes": 9})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=r"Limits\.tool_bytes"):
        few.get_num_tokens_from_messages([HumanMessage("Hi")], [{"title": "t", "properties": {}}])


def test_what_is_nested_too_deeply_is_no_recursion_error() -> None:
    deep: dict[str, Any] = {"title": "t", "properties": {}}
    for _ in range(3000):
        deep = {"title": "t", "properties": {"a": deep}}
    for ask in (ChatStarChat().bind_tools, lambda given: json_schema(given[0])):
        with pytest.raises(InvalidRequestError, match=r"recursion|nested too deeply"):
            ask([deep])
