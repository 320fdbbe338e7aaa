"""Schemas of tools and of structured output: what a grammar of them allows, pydantic accepts."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, get_type_hints

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.llms.starchat import StarChat
from llama_index.llms.starchat.structured import StructuredReply, text_schema
from llama_index.llms.starchat.tools import definition
from pydantic import BaseModel, Field, HttpUrl, PastDate, RootModel

from starchat import ConstraintError
from starchat.chat.call_reader import load_object
from starchat.chat.tools import Toolbox, reply_grammar
from starchat.grammar.constraint import json_text

grammars = pytest.importorskip("support.grammars", reason="the tests of starchat are not here")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    """A tree."""

    name: Annotated[str, Field(max_length=5)]
    kids: Annotated[list[Tree], Field(max_length=2)] = []
    seen: PastDate | None = None


class Stock(BaseModel):
    left: dict[Color, Decimal]
    after: timedelta
    page: HttpUrl


class Forest(RootModel[list[Tree]]):
    """Some trees."""


class Nest(RootModel["list[Nest] | None"]):
    """A list of itself."""


def call_of(tools: list[Any], seed: int) -> dict[str, Any]:
    lark = reply_grammar(Toolbox.check(tools, "any", False))
    text = grammars.random_text(lark, seed, soft_limit=60)
    call: dict[str, Any] = load_object(text.removeprefix("<tool_call>"))
    return call["arguments"]


@pytest.mark.parametrize("model", [Tree, Stock, Forest, Nest], ids=lambda model: model.__name__)
def test_structured_output_validates(model: Any) -> None:
    options = StructuredReply(model).options([])
    lark = f"start: %json {json_text(text_schema(model))}"
    for seed in range(8):
        arguments = call_of(options["tools"], seed)
        value = arguments["root"] if issubclass(model, RootModel) else arguments
        model.model_validate_json(json.dumps(value))
        model.model_validate_json(grammars.random_text(lark, seed, soft_limit=60))


def plant(tree: Tree, stock: Stock) -> str:
    """Plant a tree."""
    return f"{tree} {stock}"


plant.__annotations__ = get_type_hints(plant)  # LlamaIndex reads no text of annotations


def test_calls_validate_by_the_schema_of_their_tool() -> None:
    made = FunctionTool.from_defaults(plant)
    defined = definition(made)
    assert defined["name"] == "plant" and "Plant a tree." in defined["description"]
    assert "description" not in defined["parameters"]
    for seed in range(8):
        made.metadata.fn_schema.model_validate(call_of([defined], seed))


def test_a_tool_without_a_schema_takes_one_text() -> None:
    tool = FunctionTool(plant, ToolMetadata("Plant.", name="plant", fn_schema=None))
    assert call_of([definition(tool)], 0).keys() == {"input"}


def test_what_cannot_be_held_is_refused_with_its_place() -> None:
    class Late(BaseModel):
        due: Annotated[timedelta, Field(gt=timedelta(0))]

    problem = "Late: at #/properties/due: gt=0:00:00 of a timedelta"
    with pytest.raises(ConstraintError, match=problem):
        StarChat().structured_predict(Late, PromptTemplate("When?"))
