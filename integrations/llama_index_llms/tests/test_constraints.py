"""A constraint is a field of the LLM, so that it reaches LlamaIndex's own components."""

import json
from enum import Enum
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.starchat import StarChat
from pydantic import BaseModel, Field

import starchat
from calling_contract import ADD
from llm_contract import CHATS, QUESTION, WAYS, last, text_of

#: Constraints that leave one reply, and that reply.
HELD: dict[str, tuple[Any, str]] = {
    "choice": (["north"], "north"),
    "regex": ("so{2}n", "soon"),
    "grammar": ('start: "a" "b"', "ab"),
    "json_schema": ({"const": 7}, "7"),
}


class Side(Enum):
    LEFT = "left"


class Turn(BaseModel):
    side: Side


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("way", WAYS)
async def test_a_constraint_that_is_a_field_holds_every_reply(way: str, name: str) -> None:
    value, reply = HELD[name]
    llm = StarChat(temperature=0, max_tokens=24, **{name: value})
    assert text_of(await last(llm, way, QUESTION)) == reply


@pytest.mark.parametrize("other", HELD)
@pytest.mark.parametrize("name", HELD)
def test_a_calls_own_constraint_replaces_the_field(name: str, other: str) -> None:
    llm = StarChat(temperature=0, max_tokens=24, **{name: HELD[name][0]})
    value = ["south"] if other == "choice" else HELD[other][0]
    reply = "south" if other == "choice" else HELD[other][1]
    assert llm.complete(QUESTION, **{other: value}).text == reply
    assert llm.complete(QUESTION, **{name: None}).text != HELD[name][1]


async def test_a_calls_tools_replace_the_field() -> None:
    llm = StarChat(temperature=0, max_tokens=200, choice=["north"])
    response = llm.chat_with_tools([ADD], QUESTION, tool_required=True)
    assert llm.get_tool_calls_from_response(response)[0].tool_name == ADD.metadata.name
    assert llm.structured_predict(Turn, PromptTemplate("Go!")).side is Side.LEFT
    for way in CHATS:  # no call is possible: the reply is a text, which the field holds
        for options in ({"tools": []}, {"tools": [{"name": "now"}], "tool_choice": "none"}):
            assert text_of(await last(llm, way, QUESTION, **options)) == "north"


ANSWER: Any = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
ANSWER["additionalProperties"] = False


@pytest.mark.parametrize("first", "<Y")
async def test_a_reply_beside_tools_may_be_json(first: str) -> None:
    llm = StarChat(temperature=0, max_tokens=80)
    llm.logit_bias = {llm.engine.tokenize(first)[0]: 100.0}
    options: Any = {"json_schema": ANSWER}
    response = llm.chat_with_tools([ADD], QUESTION, **options)
    again = await llm.achat_with_tools([ADD], QUESTION, **options)
    (*_, streamed) = llm.stream_chat_with_tools([ADD], QUESTION, **options)
    for reply in (response, again, streamed):
        calls = llm.get_tool_calls_from_response(reply, error_on_no_tool_call=False)
        assert [call.tool_name for call in calls] == [ADD.metadata.name] * (first == "<")
        assert calls or json.loads(text_of(reply)).keys() == {"yes"}


async def test_a_begun_answer_goes_on() -> None:
    llm = StarChat(temperature=0, max_tokens=8)
    begun = [ChatMessage(QUESTION), ChatMessage("You can", role="assistant")]
    messages = [{"role": message.role.value, "content": message.content} for message in begun]
    options: Any = {"continue_final_message": True}
    expected = llm.engine.chat(messages, temperature=0, max_tokens=8, **options).text
    assert text_of(llm.chat(begun, **options)) == expected
    assert text_of(await llm.achat(begun, **options)) == expected
    with pytest.raises(starchat.InvalidRequestError, match="cannot go on with a message"):
        llm.complete(QUESTION, **options)


def test_own_templates_are_held_too() -> None:
    llm = StarChat(choice=["north"], messages_to_prompt=lambda messages: "# Where?\n")
    assert llm.chat([ChatMessage(QUESTION)]).message.content == "north"
    assert llm.structured_predict(Turn, PromptTemplate("Go!")).side is Side.LEFT


class Stock(BaseModel):
    left: dict[Side, int] = Field(min_length=1)


@pytest.mark.parametrize("mode", ["default", "llm"])
def test_keys_of_an_enum_are_held(mode: str) -> None:
    llm = StarChat(temperature=0, max_tokens=200, pydantic_program_mode=mode)
    stock = llm.structured_predict(Stock, PromptTemplate("How many are left?"))
    assert list(stock.left) == [Side.LEFT]


def test_two_constraints_are_refused() -> None:
    with pytest.raises(starchat.InvalidRequestError, match="regex and choice"):
        StarChat(choice=["a"], regex="a").complete(QUESTION)


@pytest.mark.parametrize("evaluator", [FaithfulnessEvaluator, RelevancyEvaluator])
@pytest.mark.parametrize("verdict", ["YES", "NO"])
def test_evaluators_read_a_verdict(evaluator: Any, verdict: str) -> None:
    judge = StarChat(choice=[verdict])
    result = evaluator(llm=judge).evaluate(query="Why?", response="So.", contexts=["So."])
    assert (result.feedback, result.passing) == (verdict, verdict == "YES")


def test_errors_name_the_argument_at_fault() -> None:
    llm = StarChat(max_tokens=24)
    with pytest.raises(starchat.InvalidRequestError, match="tool_choice, tools: a comp") as raised:
        llm.complete("Hi", tools=[], tool_choice="auto")
    assert raised.value.param == "tool_choice"
    prompt = PromptTemplate("Hi")
    with pytest.raises(starchat.InvalidRequestError, match="llm_kwargs: tools are set") as raised:
        llm.structured_predict(Turn, prompt, {"tools": []})
    assert raised.value.param == "llm_kwargs"


class Note(BaseModel):
    title: str
    parts: dict[str, str]
    next: "Note | None"


@pytest.mark.parametrize("max_tokens", [48, 51, 60, 90])
def test_replies_end_within_max_tokens(max_tokens: int) -> None:
    llm = StarChat(max_tokens=max_tokens, seed=max_tokens, temperature=3.0, top_k=0, top_p=1.0)
    assert llm.structured_predict(Note, PromptTemplate("Note something."))
    *_, last_note = llm.stream_structured_predict(Note, PromptTemplate("Note something."))
    assert isinstance(last_note, Note)


def test_limits_of_open_schemas_are_fields_and_options() -> None:
    limits = {"string": 5, "object": 1}
    hot = {"max_tokens": 200, "temperature": 3.0, "top_k": 0, "seed": 1}
    for llm, own in (
        (StarChat(schema_limits=limits, **hot), {}),
        (StarChat(**hot), {"schema_limits": limits}),
    ):
        note = llm.structured_predict(Note, PromptTemplate("Note something."), own)
        assert len(note.title) <= 5 and len(note.parts) <= 1
