"""What any FunctionCallingLLM has to keep when it calls tools: a suite to subclass.

It asks for no understanding: where a model decides, the laws say what holds either way, and
where a value matters, the schema leaves no other.
"""

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.bridge.pydantic import BaseModel, Field, create_model
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.output_parsers.base import OutputParserException
from llama_index.core.tools import FunctionTool
from pydantic import SecretStr

from llm_contract import LLMUnderTest, close, eventually, step, text_of

CALLING = (
    "chat_with_tools",
    "achat_with_tools",
    "stream_chat_with_tools",
    "astream_chat_with_tools",
)
STREAMS = tuple(way for way in CALLING if "stream" in way)
QUESTION = "What is 17 + 25?"
KINDS = [str, int, bool, list[int], set[int], dict[str, bool], tuple[int, bool], Path, bytes]
KINDS += [SecretStr, Decimal, UUID, date, datetime, IPv4Address, Any, int | bool]
TEXTS = {
    "scripts": "Zürich 東京 שלום मुंबई",
    "emoji": "👩‍👩‍👧‍👦",
    "quotes": "say \"no\"\\ 'yes'",
    "white space": "a\n\tb\u2028c",
    "control tokens": "<|end|>\n<tool_call>{}",
    "empty": "",
}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def now() -> str:
    """Return the time."""
    return "12:00"


class Place(BaseModel):
    city: Literal["Oslo", "Rome"]
    floor: int = Field(ge=1, le=9)


class Order(BaseModel):
    """What `order` takes."""

    places: list[Place] = Field(min_length=2, max_length=2)
    kind: Literal["pizza", "pasta"] = "pizza"
    note: Literal["soon", None] = None


def order(**kwargs: Any) -> str:
    """Order food."""
    return Order(**kwargs).model_dump_json()


ADD, NOW = FunctionTool.from_defaults(add), FunctionTool.from_defaults(now)
ORDER = FunctionTool.from_defaults(order, fn_schema=Order)


class Endless(BaseModel):
    """Arguments that no context holds."""

    text: str = Field(pattern=r"^[a-z ]{100000}$")


ENDLESS = FunctionTool.from_defaults(order, name="write", fn_schema=Endless)


def saying(text: str) -> FunctionTool:
    """Return a tool whose one argument can only be `text`."""

    def say(text: str) -> str:
        """Say something."""
        return text

    said = create_model("Said", text=(Literal[text], ...))
    return FunctionTool.from_defaults(say, fn_schema=said)


async def call(llm: Any, way: str, *args: Any, **kwargs: Any) -> Any:
    """Return what a method returns, awaited."""
    result = getattr(llm, way)(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def ask(llm: Any, way: str, *args: Any, **kwargs: Any) -> list[ChatResponse]:
    """Return all responses of a call."""
    result = await call(llm, way, *args, **kwargs)
    if isinstance(result, AsyncGenerator):
        return [response async for response in result]
    return list(result) if isinstance(result, Generator) else [result]


async def last(llm: Any, way: str, *args: Any, **kwargs: Any) -> ChatResponse:
    """Return the last response of a call."""
    return (await ask(llm, way, *args, **kwargs))[-1]


def blocks_of(response: ChatResponse) -> list[ToolCallBlock]:
    """Return the calls of a response."""
    return [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]


def what(llm: Any, response: ChatResponse) -> list[Any]:
    """Return names and arguments of the calls of a response."""
    found = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    return [(selection.tool_name, selection.tool_kwargs) for selection in found]


def dialogue(n_calls: int = 2, text: str = "Let me see.") -> list[ChatMessage]:
    """Return a question, calls, their results, an answer, and a new question."""
    calls = [
        ToolCallBlock(tool_call_id=f"id {i}", tool_name="add", tool_kwargs={"a": i, "b": 1})
        for i in range(n_calls)
    ]
    results = [
        ChatMessage(str(i + 1), role="tool", additional_kwargs={"tool_call_id": f"id {i}"})
        for i in range(n_calls)
    ]
    asked = ChatMessage(text, role="assistant")
    asked.blocks += calls
    return [
        ChatMessage("Be brief.", role="system"),
        ChatMessage(QUESTION),
        asked,
        *results,
        ChatMessage("Done.", role="assistant"),
        ChatMessage("And 1 + 2?"),
    ]


class CallingContract(LLMUnderTest):
    """Laws of calling tools. Subclass it as Test…, with the methods of LLMUnderTest."""

    fixed = {"temperature": 0, "max_tokens": 150}  # noqa: RUF012

    # ---- what is returned ---------------------------------------------------------------------

    def test_it_says_that_it_calls(self, llm: Any) -> None:
        assert isinstance(llm, FunctionCallingLLM)
        assert llm.metadata.is_function_calling_model

    def test_async_methods_are_coroutines(self, llm: Any) -> None:
        for way in CALLING:
            assert inspect.iscoroutinefunction(getattr(llm, way)) == way.startswith("a"), way

    @pytest.mark.parametrize("way", CALLING)
    async def test_required_is_one_valid_call(self, llm: Any, way: str) -> None:
        response = await last(llm, way, [ADD, NOW, ORDER], QUESTION, tool_required=True)
        assert type(response) is ChatResponse
        assert response.message.role.value == "assistant"
        ((name, arguments),) = what(llm, response)
        tool = {"add": ADD, "now": NOW, "order": ORDER}[name]
        tool.metadata.fn_schema.model_validate(arguments)
        assert response.raw["finish_reason"] == "tool_calls"

    async def test_every_way_gives_the_same_calls(self, llm: Any) -> None:
        found = {
            way: what(llm, await last(llm, way, [ADD, NOW], QUESTION, tool_required=True))
            for way in CALLING
        }
        assert found["chat_with_tools"]
        assert all(calls == found["chat_with_tools"] for calls in found.values()), found

    async def test_every_way_gives_the_same_free_reply(self, llm: Any) -> None:
        replies = [
            await last(llm, way, [ADD], "How do I sort a list?", allow_parallel_tool_calls=True)
            for way in CALLING
        ]
        assert text_of(replies[0]) or what(llm, replies[0])
        assert len({text_of(reply) for reply in replies}) == 1
        assert all(what(llm, reply) == what(llm, replies[0]) for reply in replies)

    @pytest.mark.parametrize("way", STREAMS)
    async def test_stream_accumulates_calls(self, llm: Any, way: str) -> None:
        text, ids, so_far = "", [], ""
        for response in await ask(llm, way, [ORDER], "Order for Oslo and Rome", tool_required=True):
            text += response.delta
            assert text_of(response) == text
            for selection in llm.get_tool_calls_from_response(response, False):
                assert isinstance(selection.tool_kwargs, dict)
                ids.append(selection.tool_id)
            for block in blocks_of(response):
                written = block.tool_kwargs
                if isinstance(written, str):
                    assert written.startswith(so_far)
                    so_far = written
                else:
                    assert written == json.loads(json.dumps(written))
        assert len(set(ids)) == 1
        assert isinstance(blocks_of(response)[0].tool_kwargs, dict)
        Order(**blocks_of(response)[0].tool_kwargs)

    async def test_ids_are_unique_and_say_nothing(self, llm: Any) -> None:
        replies = [await last(llm, way, [NOW], "", tool_required=True) for way in CALLING * 3]
        ids = {block.tool_call_id for reply in replies for block in blocks_of(reply)}
        assert len(ids) == len(replies)
        assert not any("now" in id for id in ids)

    @pytest.mark.parametrize("way", CALLING)
    async def test_usage_is_exact(self, llm: Any, way: str) -> None:
        *before, response = await ask(llm, way, [ADD, NOW], QUESTION, tool_required=True)
        usage = response.raw["usage"]
        n_tokens = self.count_tokens(llm, [ChatMessage(QUESTION)], [ADD, NOW])
        assert usage["prompt_tokens"] == n_tokens
        assert 0 < usage["completion_tokens"] <= 150
        assert all("usage" not in early.raw for early in before)
        for reply in (*before, response):
            json.dumps([reply.raw, reply.additional_kwargs])
            assert ChatResponse.model_validate_json(reply.model_dump_json()) == reply

    # ---- what the schema allows ---------------------------------------------------------------

    @pytest.mark.parametrize("way", CALLING)
    async def test_tool_without_arguments(self, llm: Any, way: str) -> None:
        response = await last(llm, way, [NOW], "What time is it?", tool_required=True)
        assert what(llm, response) == [("now", {})]

    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
    async def test_any_text_is_an_argument(self, llm: Any, text: str) -> None:
        tool = saying(text)
        for way in CALLING:
            response = await last(llm, way, [tool], "Say it", tool_required=True)
            assert what(llm, response) == [("say", {"text": text})]
            again = ChatResponse.model_validate_json(response.model_dump_json())
            assert what(llm, again) == [("say", {"text": text})]
            result = ChatMessage(
                text, role="tool", additional_kwargs={"tool_call_id": _id(response)}
            )
            await last(llm, way, [tool], chat_history=[ChatMessage("Say"), again.message, result])

    async def test_nested_arguments_hold_their_schema(self, llm: Any) -> None:
        for temperature in (0.0, 1.0, 3.0):
            response = await llm.achat_with_tools(
                [ORDER], QUESTION, tool_required=True, temperature=temperature, seed=5
            )
            ((_, arguments),) = what(llm, response)
            assert len(Order(**arguments).places) == 2

    @pytest.mark.parametrize("kind", KINDS, ids=str)
    async def test_types_that_tools_ask_for(self, llm: Any, kind: Any) -> None:
        model = create_model("Taken", x=(kind, ...), y=(kind | None, None))
        tool = FunctionTool.from_defaults(lambda **kwargs: "", name="take", fn_schema=model)
        with suppress(OutputParserException):  # a model may go on and on where it writes a text
            response = await llm.achat_with_tools([tool], "Take x: 1", tool_required=True)
            ((_, arguments),) = what(llm, response)
            model.model_validate(arguments)

    async def test_odd_names_are_found_again(self, llm: Any) -> None:
        tool = FunctionTool.from_defaults(now, name="Zeit[é] 🕛")
        result = await llm.apredict_and_call([tool], "Time?", tool_required=True)
        assert result.response == "12:00"

    # ---- choices ------------------------------------------------------------------------------

    @pytest.mark.parametrize("way", CALLING)
    async def test_choice_of_a_tool_by_name(self, llm: Any, way: str) -> None:
        for tool_choice in ("order", {"type": "function", "function": {"name": "order"}}):
            for required in (True, False):
                response = await last(
                    llm,
                    way,
                    [ADD, ORDER],
                    QUESTION,
                    tool_choice=tool_choice,
                    tool_required=required,
                )
                assert [name for name, _ in what(llm, response)] == ["order"]

    @pytest.mark.parametrize("way", CALLING)
    async def test_choice_of_none_is_as_without_tools(self, llm: Any, way: str) -> None:
        response = await last(llm, way, [ADD], "How do I sort a list?", tool_choice="none")
        plain = await llm.achat([ChatMessage("How do I sort a list?")])
        assert response.message == plain.message
        assert response.raw["usage"]["prompt_tokens"] == plain.raw["usage"]["prompt_tokens"]
        response = await last(llm, way, [], "How do I sort a list?")
        assert response.message == plain.message

    @pytest.mark.parametrize("tool_choice", ["any", "required", "auto"])
    async def test_required_stands_for_every_word(self, llm: Any, tool_choice: str) -> None:
        response = llm.chat_with_tools([NOW], "?", tool_choice=tool_choice, tool_required=True)
        assert what(llm, response) == [("now", {})]

    @pytest.mark.parametrize(
        ("tools", "kwargs"),
        [
            pytest.param([ADD], {"tool_choice": "sub"}, id="unknown tool"),
            pytest.param([ADD], {"tool_choice": {"name": "add"}}, id="unknown form"),
            pytest.param([ADD], {"tool_choice": 1}, id="a number"),
            pytest.param([], {"tool_required": True}, id="no tools"),
            pytest.param([ADD], {"tool_required": True, "tool_choice": "none"}, id="both"),
            pytest.param([ADD, ADD], {}, id="same name"),
            pytest.param([ADD], {"temprature": 1}, id="unknown argument"),
        ],
    )
    @pytest.mark.parametrize("way", CALLING)
    async def test_mistakes_are_told_at_the_call(
        self, llm: Any, way: str, tools: list[Any], kwargs: dict[str, Any]
    ) -> None:
        with pytest.raises(self.invalid_request):
            await call(llm, way, tools, QUESTION, **kwargs)
        assert await eventually(lambda: self.n_running(llm) == 0)

    # ---- dialogues ----------------------------------------------------------------------------

    @pytest.mark.parametrize("way", CALLING)
    async def test_calls_and_results_reach_the_model_whole(self, llm: Any, way: str) -> None:
        counts = []
        for n in (1, 2, 3):
            messages = dialogue(n)
            kept = [message.model_dump() for message in messages]
            response = await last(llm, way, [ADD], chat_history=messages)
            assert [message.model_dump() for message in messages] == kept
            counts.append(response.raw["usage"]["prompt_tokens"])
            assert counts[-1] == self.count_tokens(llm, messages, [ADD])
        assert counts == sorted(set(counts))

    @pytest.mark.parametrize("text", ["Let me see.", ""])
    async def test_results_may_come_in_any_order(self, llm: Any, text: str) -> None:
        messages = dialogue(3, text)
        shuffled = [*messages[:3], messages[5], messages[3], messages[4], *messages[6:]]
        replies = [await llm.achat_with_tools([ADD], chat_history=m) for m in (messages, shuffled)]
        assert replies[0].message.content == replies[1].message.content
        assert what(llm, replies[0]) == what(llm, replies[1])
        counts = [reply.raw["usage"]["prompt_tokens"] for reply in replies]
        assert counts[0] == counts[1]

    @pytest.mark.parametrize("way", CALLING)
    async def test_own_calls_may_be_answered(self, llm: Any, way: str) -> None:
        history, tool = [ChatMessage(QUESTION)], saying("forty-two")
        for _ in range(3):
            reply = await last(llm, way, [tool], chat_history=history, tool_required=True)
            (selection,) = llm.get_tool_calls_from_response(reply)
            result = str(tool(**selection.tool_kwargs))
            details = {"tool_call_id": selection.tool_id}
            history += [reply.message, ChatMessage(result, role="tool", additional_kwargs=details)]
        reply = await last(llm, way, [tool], "So?", chat_history=history, tool_choice="none")
        asked = [*history, ChatMessage("So?")]
        assert reply.raw["usage"]["prompt_tokens"] == self.count_tokens(llm, asked)

    @pytest.mark.parametrize("way", CALLING)
    async def test_answers_to_no_call_are_errors(self, llm: Any, way: str) -> None:
        asked, answer = dialogue(1)[2:4]
        for wrong in (
            [ChatMessage(QUESTION), answer],
            [asked, ChatMessage("1", role="tool")],
            [ChatMessage(QUESTION), ChatMessage("1", role="tool")],
            [asked, ChatMessage("1", role="tool", additional_kwargs={"tool_call_id": "id 7"})],
            [asked, answer, answer],
        ):
            with pytest.raises(self.invalid_request, match=r"messages\["):
                await call(llm, way, [ADD], chat_history=wrong)

    # ---- what is made of it -------------------------------------------------------------------

    @pytest.mark.parametrize("way", ["predict_and_call", "apredict_and_call"])
    async def test_predict_and_call_calls(self, llm: Any, way: str) -> None:
        reply = await call(llm, way, [ADD], QUESTION, tool_required=True)
        ((source,), arguments) = reply.sources, reply.sources[0].raw_input["kwargs"]
        assert reply.response == str(arguments["a"] + arguments["b"]) == source.content
        assert (await call(llm, way, [NOW], "Time?", tool_required=True)).response == "12:00"

    @pytest.mark.parametrize("way", ["predict_and_call", "apredict_and_call"])
    async def test_missing_call_is_an_error_if_wanted(self, llm: Any, way: str) -> None:
        with pytest.raises(ValueError, match="at least one tool call"):
            await call(llm, way, [ADD], "How do I sort a list?", tool_choice="none")
        reply = await call(
            llm,
            way,
            [ADD],
            "How do I sort a list?",
            tool_choice="none",
            error_on_no_tool_call=False,
        )
        assert reply.response
        assert not reply.sources

    @pytest.mark.parametrize("max_tokens", [1, 4, 12])
    @pytest.mark.parametrize("way", CALLING)
    async def test_cut_call_is_a_parsing_error(self, llm: Any, way: str, max_tokens: int) -> None:
        options = {"tool_required": True, "max_tokens": max_tokens}
        with pytest.raises((OutputParserException, ValueError), match="max_tokens") as caught:
            responses = await ask(llm, way, [ORDER], "Order!", **options)
            assert not any(text_of(response) for response in responses)
            for early in responses[:-1]:
                llm.get_tool_calls_from_response(early, error_on_no_tool_call=False)
            assert responses[-1].raw["finish_reason"] == "length"
            llm.get_tool_calls_from_response(responses[-1], error_on_no_tool_call=False)
        assert isinstance(caught.value, OutputParserException)
        predict = "apredict_and_call" if way.startswith("a") else "predict_and_call"
        with pytest.raises(OutputParserException):
            await call(llm, predict, [ORDER], "Order!", **options)

    async def test_cut_text_is_an_answer(self, llm: Any) -> None:
        response = await llm.achat_with_tools([ADD], "How do I sort a list?", max_tokens=4)
        assert response.raw["finish_reason"] == "length"
        assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []

    # ---- observers ----------------------------------------------------------------------------

    @pytest.mark.parametrize("way", CALLING)
    async def test_observers_hear_once(self, way: str, events: Any) -> None:
        debug = LlamaDebugHandler(print_trace_on_end=False)
        counter = TokenCountingHandler(tokenizer=lambda text: [])
        llm = self.make(**self.fixed, callback_manager=CallbackManager([debug, counter]))
        responses = await ask(llm, way, [ADD], QUESTION, tool_required=True)
        n_partial = len(responses) if way in STREAMS else 0
        names = ["LLMChatStartEvent", *["LLMChatInProgressEvent"] * n_partial, "LLMChatEndEvent"]
        assert events.names() == names
        assert len(debug.get_llm_inputs_outputs()) == 1
        json.dumps(events.events[0].additional_kwargs)
        usage = responses[-1].raw["usage"]
        assert counter.prompt_llm_token_count == usage["prompt_tokens"]
        assert counter.completion_llm_token_count == usage["completion_tokens"]

    # ---- many at a time, and the end of a call --------------------------------------------------

    async def test_thirty_two_tasks_get_what_each_gets_alone(self, llm: Any) -> None:
        tools = [[ADD], [NOW, ORDER], [saying("東京")], []]
        questions = [f"{QUESTION} {'please ' * (i % 5)}" for i in range(32)]
        options = [
            {"tool_required": i % 3 == 0} if tools[i % 4] else {} for i in range(len(questions))
        ]
        alone = [
            llm.chat_with_tools(tools[i % 4], question, **options[i])
            for i, question in enumerate(questions)
        ]
        ways = [way for way in CALLING if way.startswith("a")]
        together = await asyncio.gather(
            *(
                last(llm, ways[i % 2], tools[i % 4], question, **options[i])
                for i, question in enumerate(questions)
            )
        )
        for one, other in zip(alone, together, strict=True):
            assert text_of(one) == text_of(other)
            assert what(llm, one) == what(llm, other)
        ids = [block.tool_call_id for reply in (*alone, *together) for block in blocks_of(reply)]
        assert len(set(ids)) == len(ids)

    def test_sixteen_threads_get_what_each_gets_alone(self, llm: Any) -> None:
        questions = [f"{QUESTION} {'please ' * i}" for i in range(16)]

        def calls(question: str) -> list[Any]:
            *_, response = llm.stream_chat_with_tools([ADD], question, tool_required=True)
            return what(llm, response)

        alone = [calls(question) for question in questions]
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(calls, questions)) == alone

    @pytest.mark.parametrize("way", STREAMS)
    async def test_closing_a_stream_ends_its_sequence(self, way: str) -> None:
        llm = self.make(**self.endless)
        n_before = self.n_generated(llm)
        stream = await call(llm, way, [ENDLESS], QUESTION, tool_required=True)
        await step(stream)
        await close(stream)
        await self.check_ended_early(llm, n_before)

    @pytest.mark.parametrize("way", [way for way in CALLING if way.startswith("a")])
    async def test_cancelling_a_task_ends_its_sequence(self, way: str) -> None:
        llm = self.make(**self.endless)
        n_before = self.n_generated(llm)
        task = asyncio.create_task(ask(llm, way, [ENDLESS], QUESTION, tool_required=True))
        assert await eventually(lambda: self.n_running(llm) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.check_ended_early(llm, n_before)
        assert what(llm, await last(llm, way, [NOW], "?", tool_required=True, **self.fixed))


def _id(response: ChatResponse) -> str:
    (block,) = blocks_of(response)
    return block.tool_call_id or ""
