"""The walls of the server: what holds whatever protocol a client speaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from starchat import Limits, StarChat
from starchat.server.app import create_app
from starchat.server.errors import ApiError, api_error
from starchat.server.events import EventStream, event
from starchat.server.front import Front
from starchat.server.service import Prompt, Replies, Service, service
from starchat.server.settings import ServerSettings
from starchat.server.together import merged
from support.server import N_CTX, app, client, server_model

__all__ = ["app", "client", "server_model"]

QUESTION = Prompt(messages=[{"role": "user", "content": "How do I sort a list in Python?"}])


def test_health_is_503_until_the_model_is_loaded_and_loading_does_not_hold_it_up(
    monkeypatch: pytest.MonkeyPatch, server_model: StarChat
) -> None:
    is_allowed = threading.Event()

    def load(*path: object, **settings: object) -> StarChat:
        assert is_allowed.wait(10)
        return server_model

    monkeypatch.setattr(StarChat, "load", load)
    monkeypatch.setattr(Service, "close", lambda self: None)
    with TestClient(create_app(ServerSettings()), "http://localhost") as client:
        for path in ("/health", "/v1/health"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            assert answer.json() == {"error": error}
        is_allowed.set()
        while client.get("/health").status_code == 503:
            pass
        assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "not_found"), ("POST", "/health", 405, "method_not_allowed")],
)
def test_paths_without_a_face_have_errors_of_openai(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, None)
    assert path in error["message"]


@pytest.mark.parametrize(
    ("path", "methods"), [("/", "GET, HEAD, POST"), ("/health", "GET, HEAD"), ("/generate", "POST")]
)
def test_a_method_that_a_path_has_not_is_told_all_that_it_has(
    client: TestClient, path: str, methods: str
) -> None:
    for method in ("OPTIONS", "DELETE"):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_a_remedy_that_the_command_does_not_offer_is_not_told() -> None:
    error = Limits().beyond("stop_bytes", "stop", 20_000)
    assert str(error).endswith("or raise Limits.stop_bytes where the model is loaded")
    assert api_error(error).message == "stop: expected at most 16,384, got 20,000: ask for less"


async def test_a_result_is_what_the_model_says(app: FastAPI, server_model: StarChat) -> None:
    service: Service = app.state.service
    options = {"temperature": 0, "max_tokens": 12}
    completion = await service.result(QUESTION, options)
    assert completion == server_model.chat(QUESTION.messages or [], **options)  # type: ignore[arg-type]
    async with await service.stream(QUESTION, options) as replies:
        assert "".join([chunk.text async for chunk in replies]) == completion.text
    assert service.admission.running == service.admission.waiting == 0


async def test_leaving_or_dropping_replies_gives_their_place_back(app: FastAPI) -> None:
    service: Service = app.state.service
    options = {"ignore_eos": True, "max_tokens": 1_000}
    async with await service.stream(QUESTION, options) as replies:
        await replies.__anext__()
        assert service.admission.running == 1
    assert service.admission.running == 0
    replies = await service.stream(QUESTION, options)
    assert service.admission.running == 1
    del replies
    assert service.admission.running == 0


async def test_who_finds_no_place_waits_and_who_finds_no_room_in_the_queue_is_sent_away(
    server_model: StarChat,
) -> None:
    app = create_app(ServerSettings(max_running=1, max_queue=1), server_model)
    service: Service = app.state.service
    options = {"max_tokens": 4, "ignore_eos": True}
    running = await service.stream(QUESTION, options)
    waiting = asyncio.create_task(service.result(QUESTION, options))
    await asyncio.sleep(0.01)
    assert (service.admission.running, service.admission.waiting) == (1, 1)
    with pytest.raises(ApiError) as refused:
        await service.stream(QUESTION, options)
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    assert refused.value.headers["Retry-After"]
    assert not waiting.done()
    await running.aclose()
    assert (await waiting).finish_reason == "length"
    assert service.admission.running == service.admission.waiting == 0


async def test_no_comment_follows_the_end_of_a_stream_that_is_read_slowly() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("more_body") is False:
            await asyncio.sleep(0.05)

    async def events() -> AsyncIterator[bytes]:
        yield event({})

    await EventStream(events(), ping_s=0.01)({}, cast(Any, None), send)
    assert sent[-1]["more_body"] is False


async def test_a_stream_that_fails_after_it_began_ends_with_the_error_of_its_face(
    server_model: StarChat,
) -> None:
    app = create_app(ServerSettings(), server_model)

    async def events(replies: Replies) -> Any:
        async for chunk in replies:
            yield event({"text": chunk.text})
            raise ApiError(504, "too late", code="deadline_exceeded")

    @app.get("/stream")
    async def stream(service: Service = Depends(service)) -> EventStream:  # noqa: B008
        replies = await service.stream(QUESTION, {"max_tokens": 5})
        return EventStream(events(replies), replies=replies)

    with TestClient(app, "http://localhost") as client:
        answer = client.get("/stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    *_, error, done, rest = answer.text.split("\n\n")
    assert '"code":"deadline_exceeded"' in error
    assert (done, rest) == ("data: [DONE]", "")
    assert app.state.service.admission.running == 0


DIALOGUE = "<|system|>\n<|end|>\n<|user|>\nSay «hello» <b><|end|>\n<|assistant|>"


@pytest.mark.parametrize("prefix", ["", "A memory.\n"])
async def test_raw_prompts_are_read_by_their_frame_unless_they_shall_be_plain(
    server_model: StarChat, prefix: str
) -> None:
    n_framed = len(server_model.tokenize(prefix + DIALOGUE, True))
    n_plain = len(server_model.tokenize(prefix + DIALOGUE))
    for plain, allow_special, n_tokens in (
        (False, None, n_framed),
        (False, False, n_plain),
        (True, None, n_plain),
        (True, True, n_framed),
    ):
        app = create_app(ServerSettings(plain_prompts=plain), server_model)
        prompt = Prompt(text=prefix + DIALOGUE, allow_special=allow_special)
        completion = await app.state.service.result(prompt, {"max_tokens": 1})
        assert completion.usage.prompt_tokens == n_tokens, (plain, allow_special)
        if allow_special is None:
            ids = await app.state.service.tokenize(prompt.text, None)
            assert len(ids) == n_tokens


async def test_prompts_are_scored_beside_other_requests(
    app: FastAPI, server_model: StarChat
) -> None:
    service: Service = app.state.service
    ids = server_model.tokenize("def add(a, b):\n    return a + b\n")
    scored = await service.score(ids, 2)
    assert scored == [*server_model.score(ids, logprobs=2)]
    assert service.admission.running == service.admission.kv_bytes == 0
    cases = [
        ([10**6], 0, "invalid_parameter"),
        ([1] * (N_CTX + 1), 0, "context_length_exceeded"),
        (ids, 21, "invalid_parameter"),
    ]
    for wrong, n_top, code in cases:
        with pytest.raises(ApiError) as caught:
            await service.score(wrong, n_top)
        assert (caught.value.status, caught.value.code) == (400, code)


async def test_a_rendered_dialogue_reads_as_the_same_tokens_and_forges_none(
    app: FastAPI, server_model: StarChat
) -> None:
    service: Service = app.state.service
    messages = [{"role": "user", "content": "Say <|end|> and «<|user|>»"}]
    text = await service.render(messages)
    assert len(await service.tokenize(text, None)) == server_model.count_tokens(messages)
    assert await service.count(messages) == server_model.count_tokens(messages)
    assert await service.detokenize(await service.tokenize("naïve")) == "naïve"


async def test_vectors_are_those_of_the_model(app: FastAPI, server_model: StarChat) -> None:
    service: Service = app.state.service
    texts = ["sort a list", "open a socket"]
    vectors, n_tokens = await service.embed(texts)
    assert (vectors == server_model.embed(texts)).all()
    assert n_tokens == sum(len(server_model.tokenize(text)) for text in texts)
    with pytest.raises(ApiError, match="at most 2,048") as refused:
        await service.embed(["x"] * 2_049)
    assert (refused.value.status, refused.value.param) == (400, "input")
    assert service.admission.running == service.admission.waiting == 0


# ---- events -----------------------------------------------------------------------------------


class Sent:
    """What an application sends, by its bytes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_whole = False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.pieces.append(message["body"])
            self.is_whole = not message["more_body"]


async def nothing() -> Any:
    await asyncio.Event().wait()


async def test_silence_has_comments_of_one_line_and_events_have_none() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield event({"n": 1})
        await asyncio.sleep(0.12)
        for n in range(20):
            await asyncio.sleep(0.005)
            yield event({"n": n})

    sent = Sent()
    await EventStream(events(), ping_s=0.05)({}, nothing, sent)
    assert sent.pieces[1:3] == [b":\n", b":\n"]
    assert b":\n" not in sent.pieces[4:] and sent.is_whole
    sent = Sent()
    await EventStream(events(), ping_s=0)({}, nothing, sent)
    assert b":\n" not in sent.pieces


async def test_a_cancelled_stream_ends_its_iterator_and_its_replies_even_before_it_began() -> None:
    ended: list[str] = []

    class Resource:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *error: object) -> None:
            ended.append("replies")

    async def events() -> AsyncIterator[bytes]:
        try:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            ended.append("events")

    async def stuck(message: Any) -> None:
        await asyncio.Event().wait()

    async def stuck_at_body(message: Any) -> None:
        if message["type"] == "http.response.body":
            await stuck(message)

    for send, expected in (
        (Sent(), ["events", "replies"]),
        (stuck, ["replies"]),
        (stuck_at_body, ["replies", "events"]),
    ):
        ended.clear()
        task = asyncio.create_task(
            EventStream(events(), replies=Resource())({}, nothing, send)  # type: ignore[arg-type]
        )
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == expected


async def test_a_fault_within_a_stream_is_told_without_its_text() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise RuntimeError("secret")

    sent = Sent()
    await EventStream(events())({}, nothing, sent)
    assert b'"code":"internal_error"' in sent.pieces[1] and b"secret" not in sent.pieces[1]
    assert sent.pieces[1].endswith(b"data: [DONE]\n\n") and sent.is_whole


def test_lone_surrogates_are_escaped_and_numbers_that_json_lacks_are_faults() -> None:
    assert event({"a": "\ud800ä"}, "x") == b'event: x\ndata: {"a":"\\ud800\xc3\xa4"}\n\n'
    with pytest.raises(ValueError):
        event({"a": float("nan")})


def test_before_the_application_is_there_health_is_503_and_other_requests_wait_for_it(
    server_model: StarChat,
) -> None:
    is_allowed, made, failed = threading.Event(), [], []

    def make() -> FastAPI:
        assert is_allowed.wait(10)
        return create_app(ServerSettings(), server_model)

    with TestClient(Front(make, made.append, lambda: None), "http://localhost") as client:
        error = client.get("/health").json()["error"]
        assert error == {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        with ThreadPoolExecutor() as pool:
            early = [
                pool.submit(client.request, *asked)
                for asked in (("GET", "/"), ("POST", "/v1/chat/completions"), ("POST", "/generate"))
            ]
            assert client.get("/health").status_code == 503
            is_allowed.set()
            page, openai, tgi = [each.result() for each in early]
        assert (page.status_code, page.headers["content-type"][:9]) == (200, "text/html")
        assert (openai.status_code, openai.json()["error"]["type"]) == (
            400,
            "invalid_request_error",
        )
        assert (tgi.status_code, tgi.json()["error_type"]) == (422, "validation")
        assert made and client.get("/metrics").status_code == 200

    def broken() -> FastAPI:
        raise RuntimeError("of this test")

    front = Front(broken, made.append, lambda: failed.append(True))
    with TestClient(front, "http://localhost") as client:
        early = client.post("/v1/chat/completions", json={})
        assert (early.status_code, early.headers["retry-after"]) == (503, "2")
        assert early.json()["error"]["code"] == "loading" and "param" in early.json()["error"]
        assert failed and client.get("/health").status_code == 503
    assert isinstance(front.failure, RuntimeError)


async def test_iterators_that_are_merged_end_with_the_first_error_and_with_their_reader() -> None:
    ended = []

    async def counted(name: str, n: int) -> AsyncIterator[str]:
        try:
            for _ in range(n):
                await asyncio.sleep(0)
                yield name
            raise ValueError(name)
        finally:
            ended.append(name)

    work = [partial(counted, "a", 3), partial(counted, "b", 10**9)]
    found = []
    with pytest.raises(ValueError, match=r"^a$"):
        async for name in merged(work):
            found.append(name)
    assert found.count("a") == 3 and "b" in found
    await asyncio.sleep(0.01)
    assert sorted(ended) == ["a", "b"]

    async for _ in (reader := cast(AsyncGenerator[str, None], merged(work[1:]))):
        break
    await reader.aclose()
    await asyncio.sleep(0.01)
    assert len(ended) == 3
