"""Hugging Face's face: what text-generation-inference's clients send, and what they read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from starchat import Chunk, Completion, StarChat, TokenLogprob, Usage, escape
from starchat.server.app import create_app
from starchat.server.errors import ApiError
from starchat.server.service import Service
from starchat.server.settings import ServerSettings
from starchat.server.tgi.answers import Reply, StreamWriter, generated, prefill
from starchat.server.tgi.forms import Asked, Parameters
from starchat.text_stream import TextStream
from support.server import app, client, server_model

__all__ = ["app", "client", "server_model"]

QUESTION = "How do I sort a list in Python?"
PROMPT = f"<|system|>\n<|end|>\n<|user|>\n{QUESTION}<|end|>\n<|assistant|>"
JSON = {"content-type": "application/json"}
GREEDY: dict[str, Any] = {"do_sample": False}


def post(client: TestClient, path: str, inputs: str = PROMPT, **parameters: Any) -> Any:
    answer = client.post(path, json={"inputs": inputs, "parameters": parameters or GREEDY})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def events(
    client: TestClient, path: str = "/generate_stream", body: Any = None, **parameters: Any
) -> list[dict[str, Any]]:
    body = body or {"inputs": PROMPT, "parameters": parameters or GREEDY}
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    pieces = answer.text.split("\n\n")
    assert pieces.pop() == ""
    assert all(piece.startswith("data:") for piece in pieces)
    return [json.loads(piece.removeprefix("data:")) for piece in pieces]


# ---- answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "is_list", "echoes"),
    [
        ("/generate", False, False),
        ("/", True, True),
        ("/models/HuggingFaceH4/starchat-beta", True, True),
        ("/models/starchat-beta", True, True),
    ],
)
def test_a_path_decides_on_list_and_echo(
    client: TestClient, server_model: StarChat, path: str, is_list: bool, echoes: bool
) -> None:
    text = server_model.complete(PROMPT, temperature=0).text
    for wanted in (None, True, False):
        answer = post(client, path, return_full_text=wanted)
        begin = PROMPT if (echoes if wanted is None else wanted) else ""
        expected = {"generated_text": begin + text}
        assert answer == ([expected] if is_list else expected)


def test_details_have_every_token_and_the_one_that_ends(
    client: TestClient, server_model: StarChat
) -> None:
    answer = post(client, "/generate", details=True, top_n_tokens=2, decoder_input_details=True)
    reply = server_model.complete(PROMPT, temperature=0, logprobs=2)
    details, text = answer["details"], answer["generated_text"]
    tokens = details["tokens"]
    end = {name: details[name] for name in ("finish_reason", "generated_tokens", "seed")}
    assert end == {
        "finish_reason": "eos_token",
        "generated_tokens": len(reply.token_ids) + 1,
        "seed": None,
    }
    assert "".join(token["text"] for token in tokens if not token["special"]) == text == reply.text
    assert [token["id"] for token in tokens[:-1]] == [*reply.token_ids]
    (id,) = server_model.tokenize("<|end|>", allow_special=True)
    prompt = server_model.tokenize_prompt(PROMPT)
    scores = server_model.score([*prompt, *reply.token_ids, id])
    assert [token["logprob"] for token in tokens] == [s.logprob for s in scores[len(prompt) - 1 :]]
    last = {"id": id, "text": "<|end|>", "logprob": scores[-1].logprob, "special": True}
    assert tokens[-1] == last
    assert details["top_tokens"][-1][0] == last
    for token, best in zip(tokens, details["top_tokens"], strict=True):
        assert len(best) == 2 and best[0]["id"] == token["id"]
    assert [token["id"] for token in details["prefill"]] == prompt
    first, *others = [token["logprob"] for token in details["prefill"]]
    assert first == 0.0 and others == [s.logprob for s in scores[: len(prompt) - 1]]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"max_new_tokens": 3}, "length"),
        ({"stop": ["nowhere"]}, "eos_token"),
        ({"stop": ["ort a li"]}, "stop_sequence"),
        ({"stop": ["<|end|>"]}, "stop_sequence"),
        ({"stop_sequences": ["sort"]}, "stop_sequence"),
        ({"stop": "sort"}, "stop_sequence"),
        ({"max_new_tokens": 10**30}, "eos_token"),
        ({"grammar": {"type": "regex", "value": "ab+c"}}, "eos_token"),
    ],
    ids=str,
)
def test_whole_and_streamed_answers_end_for_the_same_reason(
    client: TestClient, parameters: dict[str, Any], reason: str
) -> None:
    parameters = {**parameters, "details": True}
    whole = post(client, "/generate", **parameters)
    *before, last = events(client, **parameters)
    assert whole["details"]["finish_reason"] == last["details"]["finish_reason"] == reason
    assert whole["generated_text"] == last["generated_text"]
    assert {event["generated_text"] for event in before} <= {None}
    assert {event["details"] for event in before} <= {None}
    told = [event["token"] for event in (*before, last)]
    assert [event["index"] for event in (*before, last)] == [*range(1, len(told) + 1)]
    assert "".join(t["text"] for t in told if not t["special"]) == last["generated_text"]
    assert told == whole["details"]["tokens"]
    assert last["details"]["generated_tokens"] == len(told)
    assert [token["special"] for token in told[:-1]] == [False] * (len(told) - 1)
    assert all(math.isfinite(token["logprob"]) for token in told)
    stops = parameters.get("stop") or parameters.get("stop_sequences") or []
    stop = stops if isinstance(stops, str) else "".join(stops)
    if reason == "stop_sequence" and stop != "<|end|>":
        assert last["generated_text"].endswith(stop)
        assert stop in told[-1]["text"]  # langchain-huggingface looks for it in each by itself


def test_without_details_the_texts_of_a_stream_are_the_reply(client: TestClient) -> None:
    told = events(client)
    assert "".join(event["token"]["text"] for event in told) == told[-1]["generated_text"]
    assert told[-1]["token"]["special"] and told[-1]["details"] is None
    assert "top_tokens" not in told[0]


def test_best_of_has_the_likeliest_reply_first(client: TestClient) -> None:
    how = {"best_of": 4, "temperature": 2.0, "top_k": 1000, "seed": 7, "max_new_tokens": 12}
    details = post(client, "/generate", details=True, **how)["details"]
    sequences = [details, *details.pop("best_of_sequences")]
    assert {sequence["seed"] for sequence in sequences} == {7, 8, 9, 10}
    means = [
        sum(token["logprob"] for token in sequence["tokens"]) / sequence["generated_tokens"]
        for sequence in sequences
    ]
    assert means == sorted(means, reverse=True)
    one = post(client, "/generate", details=True, **{**how, "best_of": 1, "seed": details["seed"]})
    assert one["details"] == details


# ---- what is asked --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "is_sampled"),
    [
        (None, True),
        ({}, False),
        ({"temperature": 1.0, "top_p": 1.0, "typical_p": 1.0, "top_k": 0}, False),
        ({"do_sample": True}, True),
        ({"temperature": 0.7}, True),
        ({"top_k": 5}, True),
        ({"top_p": 0.9}, True),
        ({"typical_p": 0.95}, True),
        ({"do_sample": True, "temperature": 0}, False),
        ({"do_sample": True, "top_p": 0.0}, False),
    ],
    ids=str,
)
def test_parameters_decide_on_sampling(parameters: Any, is_sampled: bool) -> None:
    form = None if parameters is None else Parameters.model_validate(parameters)
    asked = Asked.of(form, is_stream=False)
    assert (asked.seed is not None) == is_sampled
    assert (asked.options["temperature"] == 0.0) != is_sampled


def test_a_fresh_seed_is_told_and_gives_the_reply_again(client: TestClient) -> None:
    body = {"inputs": "import ", "parameters": {"temperature": 2.0, "max_new_tokens": 9}}
    body["parameters"] |= {"details": True}  # type: ignore[operator]
    first = client.post("/generate", json=body).json()
    body["parameters"] |= {"seed": first["details"]["seed"]}  # type: ignore[operator]
    assert client.post("/generate", json=body).json() == first
    assert 0 <= first["details"]["seed"] < 1 << 53


_NUMBERS = st.one_of(
    st.none(),
    st.floats(),
    st.integers(),
    st.sampled_from([0, 1, -1, 1.0, 0.0, 1e-320, 1e400, 10**400, -(1 << 63), 1 << 64]),
)
_INTEGERS = st.one_of(st.none(), st.integers(), st.sampled_from([0, -1, 10**400, 1 << 64]))


@settings(max_examples=60)
@given(
    parameters=st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(
                ("temperature", "top_p", "typical_p", "repetition_penalty", "frequency_penalty"),
                _NUMBERS,
            ),
            **dict.fromkeys(
                ("top_k", "max_new_tokens", "seed", "truncate", "best_of", "top_n_tokens"),
                _INTEGERS,
            ),
            **dict.fromkeys(
                ("do_sample", "details", "watermark", "decoder_input_details", "return_full_text"),
                st.sampled_from([None, True, False]),
            ),
            "stop": st.one_of(st.none(), st.lists(st.sampled_from(["", "a", "b", "##"]))),
            "unknown": st.none(),
        },
    ),
    is_stream=st.booleans(),
)
@example(parameters={"temperature": 1e-320, "repetition_penalty": 1e-320}, is_stream=False)
@example(parameters={"do_sample": True, "top_p": 1e-320, "best_of": 99}, is_stream=False)
def test_numbers_are_clamped_not_refused(
    client: TestClient, parameters: dict[str, Any], is_stream: bool
) -> None:
    form = Parameters.model_validate(parameters)
    asked = Asked.of(form, is_stream=is_stream)
    asked.options["max_tokens"] = 1
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    options = {name: value for name, value in asked.options.items() if value is not None}
    reply = service.model.complete("import", **options)
    assert len(reply.choices) == asked.best_of <= 16


def test_a_number_beyond_json_is_a_number(client: TestClient) -> None:
    for number in ("NaN", "Infinity", "1e999", "-1e999"):
        body = f'{{"inputs": "a", "parameters": {{"temperature": {number}, "max_new_tokens": 1}}}}'
        answer = client.post("/generate", content=body, headers=JSON)
        assert answer.status_code == 200, answer.text


def test_truncate_keeps_the_end_of_the_prompt(client: TestClient, server_model: StarChat) -> None:
    inputs = "x = 1\n" * 2_000 + "def add(a, b):"
    ids = server_model.tokenize(inputs)[-20:]
    how = {"max_new_tokens": 6, "details": True, "decoder_input_details": True}
    answer = post(client, "/generate", inputs, truncate=20, **how)
    assert [token["id"] for token in answer["details"]["prefill"]] == ids
    assert answer["generated_text"] == server_model.complete(ids, temperature=0, max_tokens=6).text


def test_text_before_the_dialogue_is_allowed_and_plain_prompts_are_plain(
    client: TestClient, server_model: StarChat
) -> None:
    led = "A chat.\n" + PROMPT
    n = len(server_model.tokenize_prompt(led, leading_text=True))
    assert n < len(server_model.tokenize(led))
    for how, length in (({}, n), ({"parse_special": False}, len(server_model.tokenize(led)))):
        body = {"inputs": led, "parameters": {"details": True, "max_new_tokens": 1, **how}}
        assert events(client, body=body)[-1]["details"]["input_length"] == length
    with TestClient(create_app(ServerSettings(plain_prompts=True), server_model)) as plain:
        body = {"inputs": PROMPT, "parameters": {"details": True, "max_new_tokens": 1}}
        answer = plain.post("http://localhost/generate_stream", json=body)
        details = json.loads(answer.text.removeprefix("data:"))["details"]
        assert details["input_length"] == len(server_model.tokenize(PROMPT))


def test_grammars_are_constraints(client: TestClient) -> None:
    schema = {"const": {"a": 1}}
    for grammar in (
        {"type": "json", "value": schema},
        {"type": "json", "value": json.dumps(schema)},
        {"type": "json_object", "value": schema},
        {"type": "json_schema", "value": {"name": "one", "schema": schema}},
        {"type": "json_schema", "value": schema},
    ):
        answer = post(client, "/generate", grammar=grammar)
        assert json.loads(answer["generated_text"]) == {"a": 1}, grammar


# ---- clients' bodies ------------------------------------------------------------------------

_NULLS = dict.fromkeys(
    ("best_of", "repetition_penalty", "frequency_penalty", "seed", "temperature", "top_k", "top_p")
)
#: client → path, body, what the text begins with
BODIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "text_generation.Client": (
        "/",
        {
            "inputs": PROMPT,
            "stream": False,
            "parameters": {
                **_NULLS,
                **dict.fromkeys(("truncate", "typical_p", "top_n_tokens", "grammar")),
                **{"do_sample": False, "max_new_tokens": 20, "return_full_text": False},
                **{"stop": [], "watermark": False, "details": True},
                "decoder_input_details": False,
            },
        },
        "",
    ),
    "LangChain HuggingFaceHub": (
        "/models/HuggingFaceH4/starchat-beta",
        {
            "inputs": PROMPT,
            "parameters": {"temperature": 0.1, "max_length": 99, "min_length": 5},
        },
        PROMPT,
    ),
    "llm-ls, huggingface": (
        "/models/bigcode/starcoder",
        {
            "inputs": "<fim_prefix>def add(<fim_suffix>)<fim_middle>",
            "parameters": {"max_new_tokens": 20, "temperature": 0.2, "top_p": 0.95}
            | {"return_full_text": False, "stop": ["<|endoftext|>"]},
        },
        "",
    ),
    "llm-ls without parameters": (
        "/models/bigcode/starcoder",
        {"inputs": PROMPT, "parameters": {"parameters": {"return_full_text": False}}},
        "",
    ),
    "llm-ls, tgi": (
        "/generate",
        {"inputs": PROMPT, "parameters": {"max_new_tokens": 20, "return_full_text": False}},
        "",
    ),
    "transformers' HfAgent": (
        "/",
        {
            "inputs": PROMPT,
            "parameters": {"max_new_tokens": 20, "return_full_text": False, "stop": ["Task:"]},
        },
        "",
    ),
    "IntelliJ plugin": (
        "/models/bigcode/starcoder",
        {
            "inputs": "<fim_prefix>def add(<fim_suffix>)<fim_middle>",
            "parameters": {"max_new_tokens": 8, "temperature": 0.2, "eos_token_id": 0},
            "options": {"use_cache": False, "wait_for_model": True},
        },
        "<fim_prefix>def add(<fim_suffix>)<fim_middle>",
    ),
    "the card's playground": ("/", {"inputs": PROMPT}, PROMPT),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_bodies_of_clients_are_answered(client: TestClient, name: str) -> None:
    path, body, begin = BODIES[name]
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    generated = answer.json() if path == "/generate" else answer.json()[0]
    text = generated["generated_text"]
    assert text.startswith(begin) and len(text) > len(begin)
    assert ("<|assistant|>" in text) == ("<|assistant|>" in begin)
    assert ("details" in generated) == bool(body.get("parameters", {}).get("details"))


@pytest.mark.parametrize("path", ["/", "/models/HuggingFaceH4/starchat-beta", "/generate_stream"])
def test_the_old_chat_ui_streams(client: TestClient, path: str) -> None:
    parameters = {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.2, "top_k": 50}
    parameters |= {"truncate": 1000, "max_new_tokens": 24, "watermark": False}
    stop = {"stop": ["<|end|>"], "return_full_text": False}
    body = {"inputs": PROMPT, "parameters": parameters | stop, "stream": True, "model": path}
    told = events(client, path, body)
    assert told[-1]["generated_text"].startswith("\n")
    assert "<|" not in told[-1]["generated_text"]


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/generate", {"inputs": ""}, 422, "validation", "`inputs` cannot be empty"),
        ("/generate", {}, 422, "validation", "inputs"),
        ("/", {"inputs": 7}, 422, "validation", "inputs"),
        ("/", [], 422, "validation", "the body"),
        ("/generate", "{", 422, "validation", "no JSON"),
        ("/generate_stream", {"inputs": "x" * 100_000}, 422, "validation", "2,048"),
        ("/generate", {"inputs": "a", "parameters": {"top_k": "x"}}, 422, "validation", "top_k"),
        (
            "/generate_stream",
            {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "("}}},
            422,
            "validation",
            "grammar.value",
        ),
        (
            "/generate_stream",
            {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "("}}},
            422,
            "validation",
            "regex",
        ),
        (
            "/generate",
            {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": "x"}}},
            422,
            "validation",
            "grammar.value",
        ),
        ("/models/a/b/c", {"inputs": "a"}, 404, "not_found", "/models/a/b/c"),
    ],
)
def test_errors_are_a_string_and_come_before_a_stream_begins(
    client: TestClient, path: str, body: Any, status: int, kind: str, words: str
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(path, content=content, headers=JSON)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()
    assert error.keys() == {"error", "error_type"} and error["error_type"] == kind
    assert words in error["error"]
    assert error["error"].startswith("Input validation error: ") == (status == 422)


def test_walls_speak_this_language_too(server_model: StarChat) -> None:
    settings = ServerSettings(api_key=("k",), max_body=100)
    with TestClient(create_app(settings, server_model), "http://localhost") as client:
        for path in ("/", "/generate", "/generate_stream", "/models/a/b", "/info"):
            answer = client.request("GET" if path == "/info" else "POST", path, json={})
            assert (answer.status_code, answer.json()["error_type"]) == (401, "invalid_api_key")
            assert isinstance(answer.json()["error"], str)
        assert client.get("/ping").status_code == 200
        headers = {"authorization": "Bearer k"}
        answer = client.post("/generate", json={"inputs": "x" * 100}, headers=headers)
        assert (answer.status_code, answer.json()["error_type"]) == (413, "validation")


def test_no_place_is_429_and_loading_is_503(server_model: StarChat) -> None:
    app = create_app(ServerSettings(max_running=1, max_queue=0), server_model)
    service: Service = app.state.service
    with TestClient(app, "http://localhost") as client:
        ticket = service.admission.enter()
        answer = client.post("/generate", json={"inputs": "a"})
        assert (answer.status_code, answer.json()["error_type"]) == (429, "overloaded")
        assert answer.headers["retry-after"] == "2"
        ticket.leave()
        service._model = None
        answer = client.post("/models/a/b", json={"inputs": "a"})
        problem = "Model starchat-nano.q8_0.bin is currently loading"
        assert (answer.status_code, answer.json()) == (
            503,
            {"error": problem, "estimated_time": 20.0},
        )
        assert client.get("/ping").json()["error_type"] == "healthcheck"
        service._model = server_model
        assert client.get("/ping").content == b""


def test_an_error_in_a_stream_is_an_event(
    client: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, chunk: object) -> Any:
        raise ApiError.unavailable("the server is shutting down", "server_shutting_down")

    monkeypatch.setattr("starchat.server.tgi.answers.StreamWriter.events", fail)
    (event,) = events(client)
    problem = "the server is shutting down"
    assert event == {"error": problem, "error_type": "incomplete_generation"}


def test_strict_model_refuses_other_names(server_model: StarChat) -> None:
    settings = ServerSettings(strict_model=True, served_name="HuggingFaceH4/starchat-beta")
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    with TestClient(create_app(settings, server_model), "http://localhost") as client:
        assert client.post("/models/HuggingFaceH4/starchat-beta", json=body).status_code == 200
        assert client.post("/", json=body).status_code == 200
        answer = client.post("/models/bigcode/starcoder", json=body)
        assert (answer.status_code, answer.json()["error_type"]) == (404, "model_not_found")


def test_a_models_address_has_chats_and_errors_of_its_own(client: TestClient) -> None:
    path = "/models/HuggingFaceH4/starchat-beta/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    reply = client.post(path, json=body).json()
    assert reply["choices"] == client.post("/v1/chat/completions", json=body).json()["choices"]
    assert isinstance(client.post(path, json={}).json()["error"], str)


def test_info_tells_the_bounds(client: TestClient) -> None:
    info = client.get("/info").json()
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (2_047, 2_048)
    assert info == client.get("/models/HuggingFaceH4/starchat-beta/info").json()
    names = "model_id model_sha model_pipeline_tag max_concurrent_requests max_best_of"
    names += " max_stop_sequences validation_workers max_client_batch_size router version sha"
    assert info.keys() >= {*names.split(), "docker_label"}


# ---- texts of tokens ------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [b"a", b"#", b"##", b"a#", b"\xc3", b"\xa9", b"\xf0\x9f", b"\x99\x82", b""]
)


@settings(max_examples=200)
@given(pieces=st.lists(_PIECES, max_size=12), cuts=st.sets(st.integers(0, 12)), ends=st.booleans())
def test_texts_of_tokens_are_the_text_of_their_reply(
    pieces: list[bytes], cuts: set[int], ends: bool
) -> None:
    asked = Asked.of(Parameters(stop=["###"]), is_stream=True)  # type: ignore[call-arg]
    reply, text = Reply(asked, {0: "<|end|>"}), TextStream(["###"])
    told: list[str] = []
    pending: list[TokenLogprob] = []
    fresh = ""
    for i, piece in enumerate(pieces):
        pending.append(TokenLogprob(7, piece.decode("utf-8", "replace"), -1.0, bytes=piece))
        fresh += text.feed(piece)
        if text.stopped:
            break
        if fresh and i in cuts:
            chunk = Chunk(fresh, (7,) * len(pending), tuple(pending))
            told += [token["text"] for token, _ in reply.feed(chunk)]
            pending, fresh = [], ""
    fresh += "" if text.stopped else text.finish()
    why: Any = "stop" if ends or text.stopped else "length"
    ids = (7,) * len(pending)
    last = Chunk(fresh, ids, tuple(pending), why, Usage(1, 1), stop_string=text.found)
    rest = [token for token, _ in reply.feed(last)]
    if why == "stop" and not text.found:
        end = rest.pop()
        assert end == {"id": 0, "text": "<|end|>", "logprob": 0.0, "special": True}
    told += [token["text"] for token in rest]
    assert "".join(told) == reply.text
    if text.found:
        assert told[-1].endswith("###")


def test_the_last_token_waits_for_the_news_that_it_is_the_last() -> None:
    form = Parameters.model_validate({"details": True})
    asked = Asked.of(form, is_stream=True)
    writer = StreamWriter(Reply(asked, {}, n_most=2), asked, "prompt")
    tokens = [
        TokenLogprob(id, text, -1.0, bytes=text.encode()) for id, text in ((7, "a"), (8, "b"))
    ]
    (event,) = writer.events(Chunk("ab", (7, 8), tuple(tokens)))
    assert (event["token"]["text"], event["generated_text"]) == ("a", None)
    (event,) = writer.events(Chunk("", (), (), "length", Usage(3, 2)))
    assert (event["token"]["text"], event["generated_text"]) == ("b", "promptab")
    assert event["details"]["generated_tokens"] == 2


def test_log_probabilities_are_numbers_of_json() -> None:
    asked = Asked.of(
        Parameters.model_validate({"details": True, "top_n_tokens": 1}), is_stream=False
    )
    never = TokenLogprob(7, "a", -math.inf, ((8, "b", -math.inf),), b"a")
    reply = Completion("a", (7,), "length", Usage(1, 1), (never,))
    details = generated(reply, asked, {}, "", prefill((1, "x"), [never]))["details"]
    told = [*details["prefill"], *details["tokens"], *details["top_tokens"][0]]
    assert [token["logprob"] for token in told] == [0.0, -9999.0, -9999.0, -9999.0]


# ---- the other paths ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    ["naïve 🙂 x", "", PROMPT, " \n" + PROMPT, "<fim_prefix>", "\ud800a", "x = 1\n" * 3_000],
)
def test_tokenize_says_where_tokens_are(
    client: TestClient, server_model: StarChat, inputs: str
) -> None:
    answer = client.post("/tokenize", content=json.dumps({"inputs": inputs}), headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    tokens = answer.json()
    assert [token["id"] for token in tokens] == server_model.tokenize_prompt(inputs)
    assert all(token["text"] == inputs[token["start"] : token["stop"]] for token in tokens)
    ends = [0, *[token["stop"] for token in tokens]]
    for end, token in zip(ends, tokens, strict=False):  # no gap but white space before a frame
        assert token["start"] <= end or not inputs[end : token["start"]].strip()
    assert ends[-1] == len(inputs)
    plain = client.post("/tokenize", content=json.dumps({"inputs": inputs, "allow_special": False}))
    assert [token["id"] for token in plain.json()] == server_model.tokenize(inputs)


def test_tokenize_of_marked_text_skips_the_marks(client: TestClient) -> None:
    inputs = PROMPT.replace(QUESTION, escape("<|end|> ends"))
    tokens = client.post("/tokenize", json={"inputs": inputs}).json()
    assert "".join(token["text"] for token in tokens) == inputs.replace("\u2060", "")
    assert client.post("/tokenize", json={}).json() == {
        "error": "Input validation error: inputs: Field required",
        "error_type": "validation",
    }


def test_a_body_with_content_is_llama_cpps(client: TestClient, server_model: StarChat) -> None:
    ids = server_model.tokenize("a<|end|>", allow_special=True)
    for body in ({"content": "a<|end|>"}, {"content": "a<|end|>", "inputs": None}):
        assert client.post("/tokenize", json=body).json() == {"tokens": ids}
    for content in (7, ["a"]):
        answer = client.post("/tokenize", json={"content": content})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, 400)
        assert "content" in error["message"]


def test_the_courses_panel_is_answered_where_it_is_asked_for(
    client: TestClient, server_model: StarChat
) -> None:
    assert client.post("/api/getBotResponse", json={"user_message": "x"}).status_code == 404
    origin = "http://localhost:8888"
    settings = ServerSettings(starchat_service=True, cors=(origin,))
    with TestClient(create_app(settings, server_model), "http://localhost") as panel:
        wish = {"origin": origin, "access-control-request-method": "POST"}
        wish["access-control-request-headers"] = "content-type"
        preflight = panel.options("/api/getBotResponse", headers=wish)
        assert preflight.status_code == 204
        answer = panel.post(
            "/api/getBotResponse", json={"user_message": "Say <|end|>"}, headers={"origin": origin}
        )
        assert answer.headers["access-control-allow-origin"] == origin
        assert [*answer.json()] == ["bot_response"] and answer.json()["bot_response"]
        assert panel.post("/api/getBotResponse", json={}).status_code == 400
