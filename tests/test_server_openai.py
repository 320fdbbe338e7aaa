"""OpenAI's face: openai's own client gets from the server what the model says in this process."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse, responses
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient

from starchat import NumericalError, StarChat, Usage
from starchat.server.app import create_app
from starchat.server.errors import ApiError
from starchat.server.openai.answers import finite
from starchat.server.openai.forms import (
    ChatForm,
    CompletionForm,
    EmbeddingForm,
    ResponseForm,
)
from starchat.server.openai.options import reply_options
from starchat.server.service import Replies
from starchat.server.settings import ServerSettings
from starchat.server.tgi.forms import Parameters
from support.server import app, client, server_model

__all__ = ["app", "client", "server_model"]

Model = TypeVar("Model", bound=BaseModel)

QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
PARAMETERS = {"type": "object", "properties": {"a": NUMBER}, "required": ["a"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}}
    for name in ("add", "subtract")
]
TEXT = {"type": "string", "minLength": 300}
LONG_CALL = {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}
LONG = [{"type": "function", "function": {"name": "say", "parameters": LONG_CALL}}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


def openai_of(client: TestClient) -> openai.OpenAI:
    """Return openai's client, whose requests stay in this process."""
    return openai.OpenAI(
        base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=2
    )


@pytest.fixture(scope="module")
def api(client: TestClient) -> openai.OpenAI:
    return openai_of(client)


@pytest.fixture(scope="module")
def filling(tiny_model_path: Path) -> Iterator[tuple[TestClient, StarChat]]:
    """A server of a model that fills gaps."""
    with StarChat.load(tiny_model_path) as model:
        app = create_app(ServerSettings(default_max_tokens=8), model)
        with TestClient(app, "http://localhost") as client:
            yield client, model


def post(client: TestClient, path: str, kind: type[Model], **body: Any) -> Model:
    """Return an answer, checked by openai's own type: fields, their types and their values."""
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return kind.model_validate(answer.json(), strict=True)


def events(client: TestClient, path: str, **body: Any) -> list[Any]:
    """Return the data of a stream's events."""
    answer = client.post(f"/v1/{path}", json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *lines, done = re.findall("^data: (.*)$", answer.text, re.M)
    if path != "responses":
        assert done == "[DONE]"
    else:
        lines.append(done)
    return [json.loads(line) for line in lines]


def chunks(client: TestClient, **body: Any) -> list[ChatCompletionChunk]:
    found = events(client, "chat/completions", messages=QUESTION, **body)
    return [ChatCompletionChunk.model_validate(each, strict=True) for each in found]


def chat(client: TestClient, **body: Any) -> ChatCompletion:
    return post(client, "chat/completions", ChatCompletion, **{"messages": QUESTION, **body})


def error_of(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


# ---- chat -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_reply_as_in_the_process(
    api: openai.OpenAI, server_model: StarChat
) -> None:
    options = {"seed": 7, "temperature": 1.0, "max_tokens": 30}
    reply = api.chat.completions.create(model="any", messages=QUESTION, **options)  # type: ignore[call-overload]
    expected = server_model.chat(QUESTION, **options)  # type: ignore[arg-type]
    assert reply.choices[0].message.content == expected.text
    assert reply.model == server_model.info.file.rpartition("/")[2]
    assert reply.usage.prompt_tokens == server_model.count_tokens(QUESTION)
    assert reply.usage.completion_tokens == expected.usage.completion_tokens
    negative = chat(client=api._client, **{**options, "seed": -3})  # type: ignore[arg-type]
    again = server_model.chat(QUESTION, **{**options, "seed": 2**64 - 3})  # type: ignore[arg-type]
    assert negative.choices[0].message.content == again.text


def test_a_stream_has_a_role_then_text_one_reason_and_usage_if_asked(client: TestClient) -> None:
    whole = chat(client, **GREEDY)
    *pieces, last = chunks(client, **GREEDY, stream_options={"include_usage": True})
    assert (last.choices, last.usage) == ([], whole.usage)
    assert all(piece.usage is None and "usage" in piece.model_fields_set for piece in pieces)
    deltas = [piece.choices[0].delta.model_dump(exclude_unset=True) for piece in pieces]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    text = "".join([delta["content"] for delta in deltas[:-1]])
    assert text == whole.choices[0].message.content
    reasons = [piece.choices[0].finish_reason for piece in pieces]
    assert reasons == [*[None] * (len(pieces) - 1), "length"]
    assert len({piece.id for piece in pieces}) == 1
    assert "usage" not in events(client, "chat/completions", messages=QUESTION, **GREEDY)[-1]


ENDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "end of the reply": ({"choice": ["It ends."]}, "stop"),
    "stop string": ({"regex": "One, two, three", "stop": ["two"]}, "stop"),
    "max_tokens": ({"max_tokens": 3}, "length"),
    "whole JSON": ({"response_format": {"type": "json_object"}, "max_tokens": 12}, "stop"),
    "cut regex": ({"regex": "[a-z ]+", "max_tokens": 4}, "length"),
    "forced call": ({"tools": TOOLS, "tool_choice": "required", "max_tokens": 80}, "tool_calls"),
    "cut call": ({"tools": LONG, "tool_choice": "required", "max_tokens": 30}, "length"),
    "tools that are not called": (
        {"tools": TOOLS, "tool_choice": "none", "choice": ["No."]},
        "stop",
    ),
}


@pytest.mark.parametrize(("body", "reason"), ENDINGS.values(), ids=ENDINGS)
def test_why_a_reply_ended_is_the_same_streamed_or_not(
    client: TestClient, body: dict[str, Any], reason: str
) -> None:
    choice = chat(client, temperature=0, **body).choices[0]
    pieces = chunks(client, temperature=0, **body)
    assert choice.finish_reason == reason
    assert [piece.choices[0].finish_reason for piece in pieces][-1] == reason
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]] == [None] * len(pieces[:-1])
    text = "".join([piece.choices[0].delta.content or "" for piece in pieces])
    assert (choice.message.content or "") == text
    arguments = [call.function.arguments for call in choice.message.tool_calls or ()]  # type: ignore[union-attr]
    streamed = [""] * len(arguments)
    for piece in pieces:
        for call in piece.choices[0].delta.tool_calls or ():
            streamed[call.index] += (call.function and call.function.arguments) or ""
    assert arguments == streamed
    if body.get("tools") == LONG:
        assert arguments and arguments[0].startswith('{"text": "')
    if reason == "tool_calls":
        assert choice.message.content is None and arguments


def test_calls_are_streamed_with_their_index_and_name_them_once(client: TestClient) -> None:
    body = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 120, "min_tokens": 40}
    pieces: dict[int, list[Any]] = {}
    for piece in chunks(client, n=2, seed=1, **body):
        delta = piece.choices[0].delta.model_dump(exclude_unset=True)
        pieces.setdefault(piece.choices[0].index, []).append(delta.get("tool_calls", []))
    for parts in pieces.values():
        assert all(len(some) <= 1 for some in parts)  # clients join them one by one
        calls = [call for some in parts for call in some]
        heads = [call for call in calls if "id" in call]
        for index, head in enumerate(heads):
            function = {"name": head["function"]["name"], "arguments": ""}
            expected = {"index": index, "id": head["id"], "type": "function", "function": function}
            assert head == expected
            rest = [call for call in calls if call["index"] == index and "id" not in call]
            assert all(set(call) == {"index", "function"} for call in rest)
            assert all(set(call["function"]) == {"arguments"} for call in rest)
            json.loads("".join([call["function"]["arguments"] for call in rest]))
        assert len({head["id"] for head in heads}) == len(heads)
        assert len(heads) > 1  # by min_tokens


FUNCTION = {"type": "function", "function": {"name": "subtract"}}
CHOICES: dict[str, tuple[Any, set[str]]] = {
    "none": ("none", set()),
    "required": ("required", {"add", "subtract"}),
    "a function": (FUNCTION, {"subtract"}),
    "allowed tools": (
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [FUNCTION]}},
        {"subtract"},
    ),
}


@pytest.mark.parametrize(("choice", "names"), CHOICES.values(), ids=CHOICES)
def test_tool_choice_decides_what_is_called(
    client: TestClient, choice: Any, names: set[str]
) -> None:
    reply = chat(client, tools=TOOLS, tool_choice=choice, max_tokens=60, seed=1, temperature=2)
    called = {call.function.name for call in reply.choices[0].message.tool_calls or ()}  # type: ignore[union-attr]
    assert called <= names and bool(called) == bool(names)


def test_one_call_where_parallel_ones_are_off(client: TestClient) -> None:
    body = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 120, "min_tokens": 40}
    reply = chat(client, parallel_tool_calls=False, **body)
    assert len(reply.choices[0].message.tool_calls or ()) == 1


def test_keys_of_tools_that_say_nothing_are_left_out(client: TestClient) -> None:
    function = {"name": "now", "strict": True, "cache_control": {"type": "ephemeral"}}
    tools = [{"type": "function", "function": function, "cache_control": None}]
    reply = chat(client, tools=tools, tool_choice="required", max_tokens=60)
    assert reply.choices[0].message.tool_calls


def test_a_dialogue_as_agents_send_it(client: TestClient, server_model: StarChat) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Add"}], "name": "eve"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
        {"role": "system", "content": "In English."},
    ]
    own = [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "In English."},
        {"role": "user", "content": "Add"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "name": "add", "arguments": {"a": 1}}],
        },
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]
    nulls = dict.fromkeys(("logprobs", "seed", "stop", "n", "tools", "response_format"))
    reply = chat(client, messages=messages, **GREEDY, **nulls)
    assert reply.choices[0].message.content == server_model.chat(own, **GREEDY).text
    assert reply.usage and reply.usage.prompt_tokens == server_model.count_tokens(own)


def test_a_begun_reply_goes_on(client: TestClient, server_model: StarChat) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "You can use"}]
    reply = chat(client, messages=begun, continue_final_message=True, **GREEDY)
    expected = server_model.chat(begun, continue_final_message=True, **GREEDY)
    assert reply.choices[0].message.content == expected.text
    another = chat(client, messages=begun, **GREEDY)
    assert another.choices[0].message.content == server_model.chat(begun, **GREEDY).text


SCHEMA = {"type": "object", "properties": {"a": NUMBER}, "additionalProperties": False}
NAMED = {"name": "answer", "strict": True, "schema": SCHEMA}
CONSTRAINTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "json_schema strict": (
        {"response_format": {"type": "json_schema", "json_schema": NAMED}},
        {"json_schema": SCHEMA},
    ),
    "json_object": ({"response_format": {"type": "json_object"}}, {"json_schema": True}),
    "json_object of llama.cpp": (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"json_schema": SCHEMA},
    ),
    "text": ({"response_format": {"type": "text"}}, {}),
    "json_schema": ({"json_schema": SCHEMA}, {"json_schema": SCHEMA}),
    "regex": ({"regex": "[ab]{5}"}, {"regex": "[ab]{5}"}),
    "grammar": ({"grammar": 'root ::= "a" | "b"'}, {"grammar": 'root ::= "a" | "b"'}),
    "choice": ({"choice": ["yes", "no"]}, {"choice": ["yes", "no"]}),
    "vLLM's json": ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, {"json_schema": SCHEMA}),
    "vLLM's choice": ({"structured_outputs": {"choice": ["yes"]}}, {"choice": ["yes"]}),
    "vLLM's older json": ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
}


@pytest.mark.parametrize(("body", "options"), CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_constraints_hold_by_every_name_of_theirs(
    client: TestClient, server_model: StarChat, body: dict[str, Any], options: dict[str, Any]
) -> None:
    expected = server_model.chat(QUESTION, **GREEDY, **options).text  # type: ignore[arg-type]
    assert chat(client, **GREEDY, **body).choices[0].message.content == expected
    if "response_format" not in body or options:
        answer = post(client, "completions", Completion, prompt="a =", **GREEDY, **body)
        assert answer.choices[0].text == server_model.complete("a =", **GREEDY, **options).text  # type: ignore[arg-type]


def test_json_beside_tools_is_calls_or_json(client: TestClient) -> None:
    form = {"type": "json_schema", "json_schema": NAMED}
    body = {"tools": TOOLS, "response_format": form, **GREEDY}
    message = chat(client, **body).choices[0].message
    assert message.tool_calls or json.loads(message.content or "") is not None


def test_logprobs_have_the_bytes_of_the_text(client: TestClient) -> None:
    body = {"logprobs": True, "top_logprobs": 3, "temperature": 0, "max_tokens": 400}
    emoji = [{"role": "user", "content": "Say 🙂"}]
    for messages, more in ((QUESTION, {}), (emoji, {"regex": "naïve 🙂!"})):
        choice = chat(client, messages=messages, **body, **more).choices[0]
        tokens = (choice.logprobs and choice.logprobs.content) or []
        assert b"".join([bytes(t.bytes or ()) for t in tokens]).decode() == choice.message.content
        assert all(len(token.top_logprobs) == 3 for token in tokens)
        if not more:
            assert tokens[0].top_logprobs[0].model_dump() == tokens[0].model_dump(
                exclude={"top_logprobs"}
            )
    streamed = [
        token.model_dump()
        for piece in chunks(client, **body)
        if piece.choices[0].logprobs
        for token in piece.choices[0].logprobs.content or ()
    ]
    whole = chat(client, **body).choices[0].logprobs
    assert whole and streamed == [token.model_dump() for token in whole.content or ()]
    assert chat(client, **GREEDY).choices[0].logprobs is None


def test_json_has_no_infinity() -> None:
    assert (finite(float("-inf")), finite(-1.5)) == (-9999.0, -1.5)


def test_n_replies_have_seeds_of_their_own(client: TestClient, server_model: StarChat) -> None:
    body = {"n": 3, "seed": 11, "temperature": 1.2, "max_tokens": 8}
    reply = chat(client, **body)
    expected = server_model.chat(QUESTION, **body)  # type: ignore[arg-type]
    texts = [choice.message.content for choice in reply.choices]
    assert texts == [choice.text for choice in expected.choices]
    assert reply.usage and reply.usage.total_tokens == expected.total_usage.total_tokens
    streamed = ["", "", ""]
    *pieces, last = chunks(client, stream_options={"include_usage": True}, **body)
    for piece in pieces:
        streamed[piece.choices[0].index] += piece.choices[0].delta.content or ""
    assert streamed == texts
    assert last.usage and last.usage.total_tokens == reply.usage.total_tokens


def test_stop_bias_and_length_are_translated(client: TestClient, server_model: StarChat) -> None:
    first = server_model.chat(QUESTION, temperature=0, max_tokens=2).token_ids[-1]
    reply = chat(client, temperature=0, max_tokens=9, logit_bias={str(first): -100})
    own = {"temperature": 0, "max_tokens": 9, "logit_bias": {first: float("-inf")}}
    assert reply.choices[0].message.content == server_model.chat(QUESTION, **own).text  # type: ignore[arg-type]
    both = chat(client, temperature=0, max_tokens=90, max_completion_tokens=4)
    assert both.usage and both.usage.completion_tokens == 4
    stopped = chat(client, temperature=0, regex="One, two", stop="two")
    assert stopped.choices[0].message.content == "One, "


def test_progress_and_times_are_reported_if_asked(client: TestClient) -> None:
    messages = [{"role": "user", "content": "word " * 900}]
    body = {"messages": messages, "max_tokens": 2, "timings": True, "return_progress": True}
    found = events(client, "chat/completions", **body)
    progress = [each["prompt_progress"] for each in found if "prompt_progress" in each]
    assert all(set(each) == {"total", "cache", "processed", "time_ms"} for each in progress)
    done = [each["processed"] for each in progress]
    assert done == sorted(done) and done[-1] <= progress[0]["total"]
    times = found[-1]["timings"]
    assert times["predicted_n"] == 2 and times["prompt_ms"] > 0
    assert times["prompt_n"] + times["cache_n"] == progress[0]["total"]
    assert chat(client, timings=True, **GREEDY).model_extra["timings"]["predicted_n"] == 24  # type: ignore[index]


def options_of(**body: Any) -> dict[str, Any]:
    options = reply_options(ChatForm(messages=QUESTION, **body))
    return {name: value for name, value in options.items() if value is not None}


@pytest.mark.parametrize(
    ("body", "options"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"temperature": None, "stop": None}, {}, id="null"),
        pytest.param({"top_p": 0}, {"temperature": 0.0}, id="top_p 0 is greedy"),
        pytest.param({"seed": -1}, {"seed": 2**64 - 1}, id="seed -1"),
        pytest.param({"seed": 5.0}, {"seed": 5}, id="an integer as a float"),
        pytest.param(
            {"logit_bias": {"5": -100, "6": 1}},
            {"logit_bias": {5: float("-inf"), 6: 1.0}},
            id="bias",
        ),
        pytest.param({"top_k": 3, "min_p": 0.5}, {"top_k": 3, "min_p": 0.5}, id="own names"),
    ],
)
def test_sampling_fields_become_keywords(body: dict[str, Any], options: dict[str, Any]) -> None:
    assert options_of(**body) == options


IMAGE = {"type": "image_url", "image_url": {"url": "http://x/a.png"}}
WRONG: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "top_p": ("chat", {"top_p": 3}, "top_p", "invalid_parameter"),
    "n": ("chat", {"n": 17}, "n", "invalid_request"),
    "string for a number": ("chat", {"temperature": "1"}, "temperature", "invalid_request"),
    "no messages": ("chat", {"messages": []}, "messages", "invalid_request"),
    "role": ("chat", {"messages": [{"role": "x", "content": ""}]}, "messages[0].role", ""),
    "image": (
        "chat",
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        "messages[0].content[0]",
        "",
    ),
    "result without call behind a late system message": (
        "chat",
        {
            "messages": [
                *QUESTION,
                {"role": "tool", "content": "", "tool_call_id": "x"},
                {"role": "system", "content": ""},
            ]
        },
        "messages[1].tool_call_id",
        "",
    ),
    "audio": ("chat", {"audio": {}}, "audio", "unsupported_feature"),
    "modalities": ("chat", {"modalities": ["audio"]}, "modalities", "unsupported_feature"),
    "functions": ("chat", {"functions": []}, "functions", "unsupported_feature"),
    "web search": ("chat", {"web_search_options": {}}, "web_search_options", ""),
    "lonely top_logprobs": ("chat", {"top_logprobs": 2}, "top_logprobs", ""),
    "too many logprobs": ("chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs", ""),
    "no token": ("chat", {"max_completion_tokens": 0}, "max_completion_tokens", ""),
    "stop string": ("chat", {"stop": ["x" * 257]}, "stop", "invalid_request"),
    "many stop strings": ("chat", {"stop": ["x"] * 17}, "stop", ""),
    "bias of no id": ("chat", {"logit_bias": {"x": 1}}, "logit_bias", ""),
    "large bias": ("chat", {"logit_bias": {"5": 101}}, "logit_bias.5", ""),
    "many biases": ("chat", {"logit_bias": {str(i): 1 for i in range(513)}}, "logit_bias", ""),
    "unknown tool": (
        "chat",
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice",
        "",
    ),
    "unknown allowed tool": (
        "chat",
        {
            "tools": TOOLS[:1],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [FUNCTION]},
            },
        },
        "tool_choice.allowed_tools",
        "",
    ),
    "a call of nothing": ("chat", {"tool_choice": "required"}, "tool_choice", ""),
    "tool of no function": ("chat", {"tools": [{"type": "web_search"}]}, "tools[0]", ""),
    "wrong schema of a tool": (
        "chat",
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]},
        "tools[0].function.parameters",
        "invalid_schema",
    ),
    "wrong schema": (
        "chat",
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
        "response_format",
        "invalid_schema",
    ),
    "no schema": ("chat", {"response_format": {"type": "json_schema"}}, "response_format", ""),
    "wrong regex": ("chat", {"structured_outputs": {"regex": "("}}, "structured_outputs.regex", ""),
    "two constraints": ("chat", {"regex": "a", "choice": ["a"]}, "choice", ""),
    "regex beside tools": ("chat", {"regex": "a", "tools": TOOLS}, "regex", ""),
    "too long": (
        "chat",
        {"messages": [{"role": "user", "content": "word " * 3000}]},
        "messages",
        "context_length_exceeded",
    ),
    "too long prompt": (
        "completions",
        {"prompt": "word " * 3000},
        "prompt",
        "context_length_exceeded",
    ),
    "too long prompt of several": (
        "completions",
        {"prompt": ["a", "word " * 3000], "stream": True},
        "prompt[1]",
        "context_length_exceeded",
    ),
    "prompt of both": ("completions", {"prompt": ["a", 1]}, "prompt", "invalid_request"),
    "no prompt in the list": ("completions", {"prompt": []}, "prompt", ""),
    "unknown id": ("completions", {"prompt": [10**6]}, "prompt[0]", ""),
    "unknown id of lists": ("completions", {"prompt": [[10**6]]}, "prompt[0][0]", ""),
    "best_of below n": ("completions", {"n": 3, "best_of": 2}, "best_of", ""),
    "best_of in a stream": ("completions", {"best_of": 2, "stream": True}, "best_of", ""),
    "six logprobs": ("completions", {"logprobs": 6}, "logprobs", ""),
    "infill without tokens for it": (
        "completions",
        {"prompt": "a", "suffix": "b"},
        "suffix",
        "unsupported_feature",
    ),
    "no text to embed": ("embeddings", {"input": []}, "input", ""),
    "an empty text": ("embeddings", {"input": ["a", ""]}, "input[1]", ""),
    "the empty text": ("embeddings", {"input": ""}, "input", ""),
    "ids of another vocabulary": ("embeddings", {"input": [[99_999]]}, "input[0]", ""),
    "dimensions": ("embeddings", {"input": "a", "dimensions": 10**6}, "dimensions", ""),
    "base32": ("embeddings", {"input": "a", "encoding_format": "base32"}, "encoding_format", ""),
    "a response before": (
        "responses",
        {"input": "a", "previous_response_id": "resp_1"},
        "previous_response_id",
        "unsupported_feature",
    ),
    "background": ("responses", {"input": "a", "background": True}, "background", ""),
    "a built-in tool": (
        "responses",
        {"input": "a", "tools": [{"type": "web_search"}]},
        "tools[0]",
        "unsupported_feature",
    ),
    "a reference": (
        "responses",
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        "input[0]",
        "unsupported_feature",
    ),
    "an output without its call": (
        "responses",
        {"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]},
        "input[0].tool_call_id",
        "",
    ),
    "no input": ("responses", {}, "input", ""),
    "wrong format": ("responses", {"input": "a", "text": {"format": {}}}, "text.format", ""),
}


@pytest.mark.parametrize(("path", "body", "param", "code"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_the_clients_terms(
    client: TestClient, path: str, body: dict[str, Any], param: str, code: str
) -> None:
    if path == "chat":
        path, body = "chat/completions", {"messages": QUESTION, **body}
    for streamed in ({}, {"stream": True}):
        error = error_of(client, path, **{**body, **streamed})
        assert error["param"] == param if param else error["param"], error
        assert error["code"] == code if code else error["code"], error
        assert error["message"]


@pytest.mark.parametrize(
    "form", [ChatForm, CompletionForm, EmbeddingForm, ResponseForm, Parameters]
)
def test_a_long_list_of_wrong_items_is_one_error(form: type[BaseModel]) -> None:
    for name in form.model_fields:
        for value in ([True] * 1_000, {str(i): True for i in range(1_000)}):
            try:
                form.model_validate({name: value})
            except ValidationError as error:
                assert error.error_count() < 10, (name, error.errors()[:2])


@pytest.mark.parametrize("number", ["NaN", "1e999"])
@pytest.mark.parametrize("field", ["text", "metadata", "tool_choice"])
def test_numbers_that_json_lacks_are_refused_where_an_answer_repeats_them(
    client: TestClient, field: str, number: str
) -> None:
    for more in ("", ', "stream": true'):
        body = f'{{"input": "a", "{field}": {{"x": {number}}}{more}}}'
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/responses", content=body, headers=headers)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == field


def test_an_error_does_not_repeat_a_long_name(client: TestClient) -> None:
    name = "k" * 10_000
    for given in ({"schema_limits": {name: "x"}}, {"structured_outputs": {name: 1}}):
        error = error_of(client, "chat/completions", messages=QUESTION, **given)
        assert len(json.dumps(error)) < 1_000


# ---- errors, as openai's client raises them -------------------------------------------------


@pytest.fixture(scope="module")
def strict(server_model: StarChat) -> Iterator[TestClient]:
    """A client of a server with a key, that is strict about names."""
    settings = ServerSettings(api_key=("key",), strict_model=True, max_body=50_000)
    with TestClient(create_app(settings, server_model), "http://localhost") as client:
        client.headers["Authorization"] = "Bearer key"
        yield client


ERRORS: dict[str, tuple[int, str, type[openai.APIStatusError], dict[str, Any], dict[str, str]]] = {
    # status, code, class in the client, fields of the body, headers
    "parameter": (400, "invalid_parameter", openai.BadRequestError, {"top_p": 3}, {}),
    "form": (400, "invalid_request", openai.BadRequestError, {"n": 0}, {}),
    "context": (
        400,
        "context_length_exceeded",
        openai.BadRequestError,
        {"messages": [{"role": "user", "content": "word " * 3_000}]},
        {},
    ),
    "schema": (400, "invalid_schema", openai.BadRequestError, {"regex": "("}, {}),
    "feature": (400, "unsupported_feature", openai.BadRequestError, {"audio": {}}, {}),
    "key": (
        401,
        "invalid_api_key",
        openai.AuthenticationError,
        {},
        {"Authorization": "Bearer no"},
    ),
    "host": (403, "host_not_allowed", openai.PermissionDeniedError, {}, {"Host": "example.com"}),
    "origin": (
        403,
        "origin_not_allowed",
        openai.PermissionDeniedError,
        {},
        {"Origin": "https://example.com"},
    ),
    "model": (404, "model_not_found", openai.NotFoundError, {"model": "gpt-4o"}, {}),
    "size": (413, "request_too_large", openai.APIStatusError, {"user": "x" * 50_000}, {}),
    "type": (
        415,
        "unsupported_media_type",
        openai.APIStatusError,
        {},
        {"Content-Type": "text/plain"},
    ),
    "head": (
        431,
        "request_too_large",
        openai.APIStatusError,
        {},
        {f"x-{i}": "" for i in range(201)},
    ),
}


@pytest.mark.parametrize(("status", "code", "kind", "body", "headers"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_errors_have_four_keys_and_are_not_retried(
    strict: TestClient,
    status: int,
    code: str,
    kind: type[openai.APIStatusError],
    body: dict[str, Any],
    headers: dict[str, str],
    stream: bool,
) -> None:
    name = strict.get("/v1/models").json()["data"][0]["id"]
    body = {"model": name, "messages": QUESTION, "max_tokens": 1, "stream": stream, **body}
    with counted(strict) as attempts, pytest.raises(openai.APIStatusError) as raised:
        openai_of(strict).post(
            "/chat/completions",
            body=body,
            cast_to=object,
            options={"headers": {"Authorization": "Bearer key", **headers}},
        )
    answer = raised.value.response
    assert (raised.value.status_code, type(raised.value)) == (status, kind)
    assert len(attempts) == 1
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code
    assert error["message"] and error["type"]
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    if status == 404:
        assert name in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
    ],
)
def test_paths_that_are_not_served_have_openais_errors(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "responses"])
@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{", b'{"temperature": NaN}', b"\xff"])
def test_bodies_that_are_no_objects_are_400(client: TestClient, path: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post(f"/v1/{path}", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@contextmanager
def counted(client: TestClient) -> Iterator[list[Any]]:
    """Collect the requests that a client sends."""
    sent: list[Any] = []
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [sent.append]}
    try:
        yield sent
    finally:
        client.event_hooks = hooks


BUSY: dict[str, tuple[int, str, int]] = {  # status, code, attempts of a client that may retry twice
    "no place": (503, "overloaded", 3),
    "loading": (503, "loading", 3),
    "shutdown": (503, "server_shutting_down", 3),
    "time": (504, "deadline_exceeded", 3),
    "broken weights": (500, "internal_error", 1),
}


@pytest.mark.parametrize(("status", "code", "n_attempts"), BUSY.values(), ids=BUSY)
def test_what_may_pass_is_retried_and_what_stays_is_not(
    monkeypatch: pytest.MonkeyPatch,
    server_model: StarChat,
    status: int,
    code: str,
    n_attempts: int,
) -> None:
    monkeypatch.setattr("openai._base_client.time.sleep", lambda seconds: None)
    app = create_app(ServerSettings(), None if code == "loading" else server_model)
    service = app.state.service
    headers = {}
    if code == "overloaded":
        service.admission.max_running = service.admission.max_queue = 0
    elif code == "server_shutting_down":
        service.admission.drain()
    elif code == "deadline_exceeded":
        headers["X-Stainless-Read-Timeout"] = "0.01"
    elif code == "internal_error":

        def broken(*args: object) -> Any:
            raise NumericalError("the weights gave no finite numbers")

        monkeypatch.setattr(StarChat, "_chat", broken)
    client = TestClient(app, "http://localhost")  # without its lifespan: nothing is loaded
    with counted(client) as attempts, pytest.raises(openai.InternalServerError) as raised:
        openai_of(client).chat.completions.create(
            model="m",
            messages=QUESTION,  # type: ignore[arg-type]
            max_tokens=1_500,
            extra_headers=headers,
            extra_body={"ignore_eos": True},
        )
    answer = raised.value.response
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert len(attempts) == n_attempts
    assert ("retry-after" in answer.headers) == (status == 503)


def test_an_error_in_the_middle_of_a_stream_is_raised_by_the_client(
    monkeypatch: pytest.MonkeyPatch, client: TestClient, api: openai.OpenAI
) -> None:
    following = Replies.__anext__
    n = 0

    async def failing(replies: Replies) -> Any:
        nonlocal n
        n += 1
        if n == 2:
            raise ApiError(504, "too late", code="deadline_exceeded")
        return await following(replies)

    monkeypatch.setattr(Replies, "__anext__", failing)
    ask: dict[str, Any] = {"model": "m", "max_tokens": 600, "stream": True}
    ask["extra_body"] = {"ignore_eos": True}
    for stream in (
        lambda: api.chat.completions.create(messages=QUESTION, **ask),  # type: ignore[call-overload]
        lambda: api.completions.create(prompt="a", **ask),
    ):
        n = 0
        with pytest.raises(openai.APIError, match="too late"):
            [*stream()]
    n = 0
    seen = []
    with pytest.raises(openai.APIError, match="too late"):
        for each in api.responses.create(model="m", input="a", stream=True):
            seen.append(each.type)
    assert seen[-1] == "response.failed"


def test_fields_that_are_not_known_are_ignored_and_logged_once(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "starchat.server")
    for _ in range(2):
        chat(client, max_tokens=1, frobnicate=1, prediction=None)
    lines = [record.getMessage() for record in caplog.records if "ignored" in record.msg]
    assert [line for line in lines if "frobnicate" in line] == [
        "/v1/chat/completions: the field frobnicate is ignored"
    ]


# ---- completions ----------------------------------------------------------------------------


def test_prompts_have_four_forms(client: TestClient, server_model: StarChat) -> None:
    texts = ["import os", "a = "]
    ids = [server_model.tokenize(text) for text in texts]
    expected = [server_model.complete(text, **GREEDY).text for text in texts]
    for prompt in (texts, ids):
        answer = post(client, "completions", Completion, prompt=prompt, **GREEDY)
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage and answer.usage.prompt_tokens == len(ids[0]) + len(ids[1])
        one = post(client, "completions", Completion, prompt=prompt[0], **GREEDY)
        assert [choice.text for choice in one.choices] == expected[:1]
        streamed = ["", ""]
        *pieces, last = events(
            client, "completions", prompt=prompt, stream_options={"include_usage": True}, **GREEDY
        )
        for piece in pieces:
            choice = Completion.model_validate(
                {**piece, "choices": [{**piece["choices"][0], "finish_reason": "stop"}]}
            ).choices[0]
            streamed[choice.index] += choice.text
        assert streamed == expected
        assert last["choices"] == [] and last["usage"] == answer.usage.model_dump(
            exclude_unset=True
        )
        reasons = [piece["choices"][0]["finish_reason"] for piece in pieces]
        assert len([reason for reason in reasons if reason]) == 2


def test_many_prompts_need_no_more_places_than_there_are(server_model: StarChat) -> None:
    settings = ServerSettings(max_running=1, max_queue=0)
    with TestClient(create_app(settings, server_model), "http://localhost") as client:
        for stream in (False, True):
            body = {"prompt": ["a", "b", "c"], "max_tokens": 2, "stream": stream}
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == 200 and "error" not in answer.text, answer.text


def test_streams_of_several_prompts_run_side_by_side(client: TestClient) -> None:
    body = {"prompt": ["a", "b", "c"], "max_tokens": 600, "ignore_eos": True}
    pieces = events(client, "completions", **body)
    indices = [piece["choices"][0]["index"] for piece in pieces]
    assert {*indices} == {0, 1, 2}
    assert indices.index(2) < len(indices) - 1 - indices[::-1].index(0)  # before the end of 0


def test_a_streamed_echo_with_scores_does_not_wait_for_its_own_place(
    server_model: StarChat,
) -> None:
    settings = ServerSettings(max_running=1, max_queue=0, request_timeout=5)
    with TestClient(create_app(settings, server_model), "http://localhost") as client:
        body = {"prompt": ["a b", "c d"], "max_tokens": 2, "echo": True, "logprobs": 1}
        pieces = events(client, "completions", **body)
    assert not [piece for piece in pieces if "error" in piece]
    assert {piece["choices"][0]["index"] for piece in pieces} == {0, 1}


@pytest.mark.parametrize("prompt", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": [""]}])
def test_no_prompt_is_the_beginning_of_a_document(
    client: TestClient, server_model: StarChat, prompt: dict[str, Any]
) -> None:
    answer = post(client, "completions", Completion, **prompt, **GREEDY)
    own = server_model.complete("<|endoftext|>", allow_special=True, **GREEDY)
    assert answer.choices[0].text == own.text
    assert answer.usage and answer.usage.prompt_tokens == own.usage.prompt_tokens == 1


def test_replies_have_the_servers_length_where_a_request_does_not_say(
    filling: tuple[TestClient, StarChat],
) -> None:
    assert ServerSettings().default_max_tokens == 1_024
    answer = post(filling[0], "completions", Completion, prompt="a = ", ignore_eos=True)
    assert answer.usage and answer.usage.completion_tokens == 8


FRAMED = "<|system|>\n<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>"


def test_control_tokens_in_raw_prompts_count_unless_switched_off(
    client: TestClient, server_model: StarChat
) -> None:
    def n_tokens(**body: Any) -> int:
        answer = post(client, "completions", Completion, prompt=FRAMED, max_tokens=1, **body)
        return answer.usage.prompt_tokens if answer.usage else 0

    n_framed = len(server_model.tokenize(FRAMED, True))
    n_plain = len(server_model.tokenize(FRAMED))
    assert n_tokens() == n_tokens(allow_special=True) == n_framed
    assert n_tokens(allow_special=False) == n_tokens(parse_special=False) == n_plain


def test_the_suffix_is_what_follows_the_gap(filling: tuple[TestClient, StarChat]) -> None:
    client, model = filling
    expected = model.infill("def ", "(a):", temperature=0, max_tokens=8).text
    body = {"suffix": "(a):", "temperature": 0, "max_tokens": 8}
    for prompt in ("def ", model.tokenize("def ")):
        assert post(client, "completions", Completion, prompt=prompt, **body).choices[0].text == (
            expected
        )
    spelt = "<fim_prefix>def <fim_suffix>(a):<fim_middle>"  # as Continue's template has it
    answer = post(client, "completions", Completion, prompt=spelt, temperature=0, max_tokens=8)
    assert answer.choices[0].text == expected


def test_an_echoed_prompt_is_scored_as_the_model_scores_it(
    client: TestClient, server_model: StarChat
) -> None:
    prompt = "def naïve(🙂):\n    return"
    scores = server_model.score(prompt, logprobs=2)
    ids = server_model.tokenize(prompt)
    for given, max_tokens in ((prompt, 0), (ids, 3), (prompt, 3)):
        body = {"prompt": given, "echo": True, "logprobs": 2, "temperature": 0}
        answer = client.post("/v1/completions", json={**body, "max_tokens": max_tokens}).json()
        choice = answer["choices"][0]
        reply = server_model.complete(prompt, temperature=0, max_tokens=3).text
        assert choice["text"] == prompt + (reply if max_tokens else "")
        logprobs = choice["logprobs"]
        n = len(ids)
        assert logprobs["token_logprobs"][:n] == [None, *[score.logprob for score in scores]]
        assert logprobs["top_logprobs"][0] is None
        best = {token.token: token.logprob for token in scores[0].best}
        assert best.items() <= logprobs["top_logprobs"][1].items()
        assert logprobs["tokens"][1] in logprobs["top_logprobs"][1]
        assert all(len(logprobs[key]) == n + max_tokens for key in logprobs)
        offsets = logprobs["text_offset"]
        assert offsets == sorted(offsets) and offsets[n:][:1] in ([], [len(prompt)])
        for token, offset in zip(logprobs["tokens"], offsets, strict=True):
            if not token.startswith("bytes:"):
                assert choice["text"][offset:].startswith(token)
        assert any(token.startswith("bytes:\\xf0") for token in logprobs["tokens"])
        pieces = events(client, "completions", **body, max_tokens=max_tokens)
        assert "".join([piece["choices"][0]["text"] for piece in pieces]) == choice["text"]
        for key, values in logprobs.items():
            assert [v for p in pieces for v in p["choices"][0]["logprobs"][key]] == values
        assert answer["usage"]["completion_tokens"] == max_tokens


def test_the_best_replies_are_the_likeliest_on_average(
    client: TestClient, server_model: StarChat
) -> None:
    options: dict[str, Any] = {"seed": 3, "temperature": 1.5, "max_tokens": 6}
    answer = post(client, "completions", Completion, prompt="a", n=2, best_of=20, **options)
    replies = server_model.complete("a", n=20, logprobs=0, **options).choices
    means = [sum(t.logprob for t in reply.logprobs) / len(reply.logprobs) for reply in replies]
    best = sorted(range(20), key=lambda index: means[index], reverse=True)[:2]
    assert [choice.text for choice in answer.choices] == [replies[index].text for index in best]
    assert [choice.logprobs for choice in answer.choices] == [None, None]
    n_tokens = sum(reply.usage.completion_tokens for reply in replies)
    assert answer.usage and answer.usage.completion_tokens == n_tokens


# ---- embeddings and models ------------------------------------------------------------------


def test_vectors_are_those_of_the_model_bit_for_bit(
    client: TestClient, api: openai.OpenAI, server_model: StarChat
) -> None:
    texts = ["sort a list", "open a socket"]
    expected = server_model.embed(texts)
    floats = post(client, "embeddings", CreateEmbeddingResponse, input=texts)
    assert np.array_equal(np.array([d.embedding for d in floats.data], np.float32), expected)
    assert floats.usage.prompt_tokens == sum(len(server_model.tokenize(text)) for text in texts)
    answer = client.post("/v1/embeddings", json={"input": texts, "encoding_format": "base64"})
    for item, vector in zip(answer.json()["data"], expected, strict=True):
        assert base64.b64decode(item["embedding"]) == vector.astype("<f4").tobytes()
    # The client asks for base64, and reads it.
    one = api.embeddings.create(model="m", input=texts[0], dimensions=8).data[0].embedding
    short = expected[0, :8] / np.linalg.norm(expected[0, :8])
    assert np.allclose(one, short, atol=1e-6)
    ids = [server_model.tokenize(text) for text in texts]
    assert post(client, "embeddings", CreateEmbeddingResponse, input=ids).data == floats.data
    assert post(client, "embeddings", CreateEmbeddingResponse, input=ids[0]).data == floats.data[:1]


def test_ids_of_another_vocabulary_are_known_by_the_setting_that_sends_them(
    client: TestClient,
) -> None:
    error = error_of(client, "embeddings", input=[[99_999]])
    assert "check_embedding_ctx_length=False" in error["message"]


def test_models_are_listed_with_what_other_clients_read(
    client: TestClient, api: openai.OpenAI, server_model: StarChat
) -> None:
    (model,) = api.models.list().data
    assert model == api.models.retrieve(model.id) == api.models.retrieve("gpt-4o")
    assert client.get("/models").json() == client.get("/v1/models").json()
    info = server_model.info
    assert (model.id, model.owned_by) == (info.file.rpartition("/")[2], "starchat")
    assert model.model_extra and model.model_extra["max_model_len"] == info.n_ctx
    assert model.model_extra["meta"]["n_ctx_train"] == info.n_ctx


def test_paths_are_also_served_without_v1(client: TestClient) -> None:
    body = {"prompt": "a = ", **GREEDY}
    with_v1, without = [
        client.post(path, json=body).json() for path in ("/v1/completions", "/completions")
    ]
    assert with_v1["choices"] == without["choices"]
    assert client.post("/chat/completions", json={"messages": QUESTION, **GREEDY}).is_success


# ---- responses ------------------------------------------------------------------------------

FLAT = [{"type": "function", "name": "add", "parameters": PARAMETERS}]
EVENTS = {  # a union of all would take seconds to build
    "response.created": responses.ResponseCreatedEvent,
    "response.in_progress": responses.ResponseInProgressEvent,
    "response.output_item.added": responses.ResponseOutputItemAddedEvent,
    "response.content_part.added": responses.ResponseContentPartAddedEvent,
    "response.output_text.delta": responses.ResponseTextDeltaEvent,
    "response.output_text.done": responses.ResponseTextDoneEvent,
    "response.content_part.done": responses.ResponseContentPartDoneEvent,
    "response.function_call_arguments.delta": responses.ResponseFunctionCallArgumentsDeltaEvent,
    "response.function_call_arguments.done": responses.ResponseFunctionCallArgumentsDoneEvent,
    "response.output_item.done": responses.ResponseOutputItemDoneEvent,
    "response.completed": responses.ResponseCompletedEvent,
}


def test_a_response_is_the_reply_to_its_input(client: TestClient, server_model: StarChat) -> None:
    own = [{"role": "system", "content": "Be brief."}, *QUESTION]
    expected = server_model.chat(own, **GREEDY)
    inputs: list[Any] = [QUESTION[0]["content"], QUESTION]
    inputs.append([{"role": "user", "content": [{"type": "input_text", "text": inputs[0]}]}])
    for given in inputs:
        body = {"input": given, "instructions": "Be brief.", "temperature": 0}
        answer = post(client, "responses", Response, max_output_tokens=24, **body)
        assert answer.output_text == expected.text
        assert (answer.status, answer.output[0].status) == ("incomplete", "incomplete")  # type: ignore[union-attr]
        assert answer.incomplete_details and answer.incomplete_details.reason == "max_output_tokens"
        assert answer.usage and answer.usage.output_tokens == 24
        assert answer.model_extra == {"store": False}
    whole = post(client, "responses", Response, input=QUESTION, temperature=0)
    assert (whole.status, whole.output[0].status) == ("completed", "completed")  # type: ignore[union-attr]
    form = {"format": {"type": "json_schema", **NAMED}}
    answer = post(client, "responses", Response, input=QUESTION, text=form)
    assert set(json.loads(answer.output_text)) <= {"a"}


def test_calls_of_responses_go_back_as_items(client: TestClient, server_model: StarChat) -> None:
    ask = {"input": QUESTION, "tools": FLAT, "max_output_tokens": 100, "seed": 1}
    answer = post(client, "responses", Response, tool_choice="required", **ask)
    calls = [item.model_dump(exclude_none=True) for item in answer.output]
    assert {item["type"] for item in calls} == {"function_call"} and answer.status == "completed"
    results = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "3"}
        for call in calls
    ]
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]}
    items = [*QUESTION, {"type": "reasoning", "summary": []}, said, *calls, *results]
    again = post(client, "responses", Response, **{**ask, "input": items, "temperature": 0})
    own: list[dict[str, Any]] = [
        *QUESTION,
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": call["call_id"],
                    "name": call["name"],
                    "arguments": json.loads(call["arguments"]),
                }
                for call in calls
            ],
        },
        *[
            {"role": "tool", "content": "3", "tool_call_id": result["call_id"]}
            for result in results
        ],
    ]
    assert again.usage and again.usage.input_tokens == server_model.count_tokens(own, FLAT_OWN)


FLAT_OWN = [{"name": "add", "parameters": PARAMETERS}]


@pytest.mark.parametrize("body", [{}, {"tools": FLAT, "tool_choice": "required", "seed": 5}])
def test_events_of_a_response_build_it(
    client: TestClient, api: openai.OpenAI, body: dict[str, Any]
) -> None:
    ask = {"temperature": 0, "max_output_tokens": 100, **body}
    found = events(client, "responses", input="How do I sort a list?", **ask)
    for number, each in enumerate(found):
        EVENTS[each["type"]].model_validate(each, strict=True)
        assert each["sequence_number"] == number
    kinds = [each["type"].removeprefix("response.") for each in found]
    assert kinds[:3] == ["created", "in_progress", "output_item.added"]
    assert kinds[-2:] == ["output_item.done", "completed"]
    delta = "function_call_arguments" if body else "output_text"
    assert f"{delta}.delta" in kinds and f"{delta}.done" in kinds
    last = found[-1]["response"]
    assert last["output"] == [e["item"] for e in found if e["type"].endswith("item.done")]
    whole = post(client, "responses", Response, input="How do I sort a list?", **ask)
    assert last["usage"]["output_tokens"] == (whole.usage and whole.usage.output_tokens)
    seed = {"extra_body": {"seed": ask.pop("seed", 1)}}
    with api.responses.stream(model="m", input="How do I sort a list?", **ask, **seed) as stream:
        stream.until_done()
        response = stream.get_final_response()
    assert response.output_text == whole.output_text
    assert [i.arguments for i in response.output if i.type == "function_call"] == [
        i.arguments for i in whole.output if i.type == "function_call"
    ]


def test_usages_of_replies_count_their_prompt_once() -> None:
    usages = [Usage(7, 2, 5, decode_seconds=1.0), Usage(7, 3, 7, decode_seconds=2.0)]
    total = Usage.of_replies(usages)
    assert (total.prompt_tokens, total.completion_tokens, total.cached_tokens) == (7, 5, 5)
    assert total.decode_seconds == 2.0
