"""Structured output of the embedded model: every method, every kind of schema, on every path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from langchain_starchat import ChatStarChat
from starchat import InvalidRequestError

QUESTION = "Is a list mutable?"


class Verdict(BaseModel):
    """What is right."""

    answer: Literal["yes", "no"] = Field(description="yes or no")
    score: int = Field(ge=0, le=9)


class VerdictV1(BaseModelV1):
    """What is right."""

    answer: Literal["yes", "no"]
    sure: bool


class VerdictDict(TypedDict):
    """What is right."""

    answer: Literal["yes", "no"]
    sure: bool


class Long(BaseModel):
    """A text that no reply here has room for."""

    text: str = Field(pattern="^(so ){100}$")


FUNCTION = {"name": "verdict", "parameters": Verdict.model_json_schema()}
SCHEMAS = [Verdict, VerdictV1, VerdictDict, Verdict.model_json_schema(), FUNCTION]
KINDS = ["pydantic", "pydantic 1", "TypedDict", "JSON Schema", "OpenAI function"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", SCHEMAS, ids=KINDS)
async def test_results_are_of_the_schema_on_every_path(
    chat: ChatStarChat, schema: Any, method: Any
) -> None:
    model = chat.with_structured_output(schema, method=method, max_tokens=100)
    result = model.invoke(QUESTION)
    if isinstance(schema, type) and issubclass(schema, (BaseModel, BaseModelV1)):
        assert isinstance(result, schema)
    else:
        assert set(result) >= {"answer"} and result["answer"] in ("yes", "no")
    assert await model.ainvoke(QUESTION) == result
    (*_, last) = model.stream(QUESTION)
    assert last == result
    (*_, last) = [piece async for piece in model.astream(QUESTION)]
    assert last == result


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_a_reply_that_was_cut_is_an_error(chat: ChatStarChat, method: Any) -> None:
    fields: Any = {"method": method, "max_tokens": 40}
    for schema in (Long, Long.model_json_schema()):
        model = chat.with_structured_output(schema, **fields)
        with pytest.raises(OutputParserException, match="cut at max_tokens"):
            model.invoke(QUESTION)
        with pytest.raises(OutputParserException, match="cut at max_tokens"):
            await model.ainvoke(QUESTION)
        with pytest.raises(OutputParserException, match="cut at max_tokens"):
            list(model.stream(QUESTION))
        with pytest.raises(OutputParserException, match="cut at max_tokens"):
            _ = [piece async for piece in model.astream(QUESTION)]
    result = chat.with_structured_output(Long, include_raw=True, **fields).invoke(QUESTION)
    assert isinstance(result["raw"], AIMessage)
    assert result["parsed"] is None
    assert isinstance(result["parsing_error"], OutputParserException)


def test_raw_replies_come_along_where_asked_for(chat: ChatStarChat) -> None:
    result = chat.with_structured_output(Verdict, include_raw=True).invoke(QUESTION)
    assert result["parsed"] == Verdict.model_validate_json(result["raw"].text)
    assert result["parsing_error"] is None


def test_json_mode_gives_some_object(chat: ChatStarChat) -> None:
    message = chat.invoke(QUESTION, response_format={"type": "json_object"}, max_tokens=300)
    assert message.text.startswith("{")
    if message.response_metadata["finish_reason"] == "stop":
        assert isinstance(json.loads(message.text), dict)


def test_constraints_of_the_engine_reach_it(chat: ChatStarChat) -> None:
    assert chat.bind(choice=["yes", "no"], min_tokens=0).invoke(QUESTION).text in ("yes", "no")
    assert chat.invoke(QUESTION, regex="[0-9]{4}", min_tokens=0).text.isdecimal()
    with pytest.raises(InvalidRequestError, match="at most one"):
        chat.invoke(QUESTION, regex="a", choice=["b"])


def test_a_schema_may_refer_to_itself(chat: ChatStarChat) -> None:
    class Tree(BaseModel):
        kind: Literal["leaf"]
        below: list[Tree] = Field(max_length=0)

    assert chat.with_structured_output(Tree).invoke("?") == Tree(kind="leaf", below=[])


@pytest.mark.parametrize("form", [None, {"type": "text"}])
def test_text_is_a_format_too(chat: ChatStarChat, form: Any) -> None:
    assert chat.invoke(QUESTION, response_format=form).text == chat.invoke(QUESTION).text


class Shelf(BaseModel):
    """A shelf."""

    folder: Path
    names: set[Literal["a", "b"]] = Field(min_length=1, max_length=2)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_what_only_pydantic_can_check_is_left_to_it(nano: Any, method: Any) -> None:
    llm = ChatStarChat(temperature=0, max_tokens=300)
    shelf = llm.with_structured_output(Shelf, method=method).invoke("folder: here, names: a")
    assert isinstance(shelf, Shelf)
    with pytest.raises(InvalidRequestError, match="Unknown format: path"):
        llm.with_structured_output(Shelf.model_json_schema(), method=method).invoke("Hi")


class Note(BaseModel):
    title: str
    parts: dict[str, str]
    next: Note | None


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_replies_end_within_max_tokens(chat: ChatStarChat, method: Any) -> None:
    hot = chat.model_copy(update={"temperature": 3.0, "top_k": 0, "top_p": 1.0})
    for max_tokens in (48, 51, 60, 90):
        llm = hot.model_copy(update={"max_tokens": max_tokens, "seed": max_tokens})
        note = llm.with_structured_output(Note, method=method).invoke("Note something.")
        assert isinstance(note, Note)


def test_limits_of_open_schemas_are_fields_and_options(chat: ChatStarChat) -> None:
    limits = {"string": 5, "object": 1}
    hot = chat.model_copy(update={"temperature": 3.0, "top_k": 0, "max_tokens": 200})
    fields = hot.model_copy(update={"schema_limits": limits})
    for note in (
        fields.with_structured_output(Note).invoke("Note something."),
        hot.with_structured_output(Note, schema_limits=limits).invoke("Note something."),
    ):
        assert isinstance(note, Note)
        assert len(note.title) <= 5 and len(note.parts) <= 1
