"""Clients that go, that are slow, or send what is no request: over real connections."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from starchat import StarChat
from starchat.server import run, security
from starchat.server.events import EventStream, event
from starchat.server.service import Prompt, Replies
from support.server import Served, server_model, serving

__all__ = ["server_model"]

LONG = {"max_tokens": 1_500, "ignore_eos": True, "n": 8}
SLOW_GRAMMAR = {"type": "integer", "multipleOf": 999_983}  # 5 s, then it is refused
#: request of a test → what /stream and /plain ask
REQUESTS: dict[str, dict[str, Any]] = {
    "writing": {"text": "def f(x):", "options": LONG},
    "in the prompt": {"text": "a = b + c\n" * 200, "options": LONG},
    "compiling": {"text": "x", "options": {"json_schema": SLOW_GRAMMAR}},
}


class Asked(BaseModel):
    """What a face declares."""

    text: str
    options: dict[str, Any]


async def _events(replies: Replies) -> Any:
    async for chunk in replies:
        yield event({"text": chunk.text})


def routes(app: FastAPI) -> None:
    """Add what a face would."""

    async def asked(request: Request) -> tuple[Prompt, dict[str, Any]]:
        body = await request.json()
        return Prompt(text=body["text"]), body["options"]

    @app.post("/stream", response_model=None)
    async def stream(request: Request) -> EventStream:
        replies = await app.state.service.stream(*await asked(request))
        return EventStream(_events(replies), replies=replies)

    @app.post("/declared")
    async def declared(asked: Asked) -> str:
        prompt = Prompt(text=asked.text)
        return str((await app.state.service.result(prompt, asked.options)).text)

    @app.post("/plain")
    async def plain(request: Request) -> str:
        return str((await app.state.service.result(*await asked(request))).text)


@pytest.fixture(scope="module")
def served(server_model: StarChat) -> Iterator[Served]:
    with serving(server_model, routes) as served:
        yield served


def begin(served: Served, path: str, body: Any) -> http.client.HTTPConnection:
    """Send a request, and do not read the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    text = json.dumps(body)
    connection.request("POST", path, text, {"Content-Type": "application/json"})
    return connection


def wait_until(is_so: Any, timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("path", ["/stream", "/plain"])
@pytest.mark.parametrize("request_of", REQUESTS)
def test_the_work_of_a_client_that_goes_ends_at_once(
    served: Served, path: str, request_of: str
) -> None:
    admission, n_before = served.service.admission, served.model.stats()["tokens"]
    connection = begin(served, path, REQUESTS[request_of])
    wait_until(lambda: admission.running + admission.waiting)
    if request_of == "writing":
        steps = served.model.stats()["steps"]
        wait_until(lambda: served.model.stats()["steps"] > steps + 20)
    connection.close()
    served.wait_until_idle()
    assert served.model.stats()["tokens"] - n_before < 8 * 1_500 / 2


def test_who_waits_and_goes_is_never_begun_and_others_go_on(server_model: StarChat) -> None:
    with serving(server_model, routes, max_running=1) as served:
        admission = served.service.admission
        running = begin(served, "/stream", REQUESTS["writing"])
        wait_until(lambda: admission.running == 1)
        gone = begin(served, "/plain", REQUESTS["writing"])
        wait_until(lambda: admission.waiting == 1)
        stays = begin(served, "/plain", {"text": "y", "options": {"max_tokens": 2}})
        wait_until(lambda: admission.waiting == 2)
        tokens = server_model.stats()["tokens"]
        gone.close()
        wait_until(lambda: admission.waiting == 1)
        assert admission.running == 1
        assert server_model.stats()["tokens"] >= tokens
        running.close()
        assert stays.getresponse().status == 200
        served.wait_until_idle()


def test_eight_streams_of_which_four_go_leave_the_others_whole(
    served: Served, server_model: StarChat
) -> None:
    options = {"max_tokens": 60, "ignore_eos": True, "temperature": 0}
    texts = [f"def f{index}(x):" for index in range(8)]
    connections = [begin(served, "/stream", {"text": t, "options": options}) for t in texts]
    answers = [connection.getresponse() for connection in connections]
    for index in range(0, 8, 2):
        answers[index].read(10)
        answers[index].close()
        connections[index].close()
    for index in range(1, 8, 2):
        whole = answers[index].read().decode()
        read = "".join(json.loads(line[6:])["text"] for line in whole.splitlines() if line)
        assert read == server_model.complete(texts[index], **options).text  # type: ignore[arg-type]
    served.wait_until_idle()


def test_64_clients_at_once_get_what_each_gets_alone(
    served: Served, server_model: StarChat
) -> None:
    options = {"max_tokens": 12, "ignore_eos": True, "temperature": 1.0}
    bodies = [
        {"text": f"def f{index}(x):", "options": {**options, "seed": index}} for index in range(64)
    ]
    limits = httpx.Limits(max_connections=64)
    with (
        httpx.Client(base_url=served.url, limits=limits, timeout=60) as client,
        ThreadPoolExecutor(64) as pool,
    ):
        answers = [*pool.map(lambda body: client.post("/plain", json=body).json(), bodies)]
    for body, answer in zip(bodies, answers, strict=True):
        alone = server_model.complete(body["text"], **body["options"])  # type: ignore[arg-type]
        assert answer == alone.text


def test_a_full_server_answers_503_and_health_meanwhile(server_model: StarChat) -> None:
    with serving(server_model, routes, max_running=2, max_queue=2) as served:
        busy = [begin(served, "/plain", REQUESTS["writing"]) for _ in range(4)]
        admission = served.service.admission
        wait_until(lambda: admission.running == admission.waiting == 2)
        refused = httpx.post(served.url + "/plain", json=REQUESTS["writing"])
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert refused.json()["error"]["code"] == "overloaded"
        slowest = 0.0
        with httpx.Client(base_url=served.url) as client:
            for _ in range(20):
                began = time.monotonic()
                assert client.get("/health").status_code == 200
                slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1.0  # the nightly tests measure it where nothing else runs
        for connection in busy:
            connection.close()
        served.wait_until_idle()


def test_memory_for_the_kv_cache_is_reserved_and_what_never_fits_is_refused(
    server_model: StarChat,
) -> None:
    bytes_of = server_model.memory().bytes_of
    with serving(server_model, routes, kv_budget=bytes_of(1_000)) as served:
        admission = served.service.admission
        long = {"text": "x", "options": {"max_tokens": 700, "ignore_eos": True}}
        first = begin(served, "/stream", long)
        wait_until(lambda: admission.running == 1)
        assert admission.kv_bytes == bytes_of(701)
        second = begin(served, "/plain", {"text": "x", "options": {"max_tokens": 400}})
        wait_until(lambda: admission.waiting == 1)
        assert admission.running == 1
        first.close()
        assert second.getresponse().status == 200
        refused = httpx.post(
            served.url + "/plain", json={"text": "x", "options": {"max_tokens": 600, "n": 2}}
        )
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        served.wait_until_idle()
        assert admission.kv_bytes == 0


@pytest.mark.parametrize(
    ("header", "settings"),
    [({}, {"request_timeout": 0.05}), ({"X-Stainless-Read-Timeout": "0.05"}, {})],
)
def test_a_request_beyond_its_time_ends_with_504(
    server_model: StarChat, header: dict[str, str], settings: dict[str, float]
) -> None:
    # 400 tokens may take less than 0.05 s, guessed ones a part of that.
    options = {"max_tokens": 1_900, "ignore_eos": True, "speculation": False}
    body = {"text": "x", "options": options}
    with serving(server_model, routes, **settings) as served:
        answer = httpx.post(served.url + "/plain", json=body, headers=header, timeout=20)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        served.wait_until_idle()
        whole = httpx.post(served.url + "/stream", json=body, headers=header, timeout=20).text
        # The client's time is between two pieces: a stream that goes on is within it.
        assert ('"code":"deadline_exceeded"' in whole) == (not header)
        served.wait_until_idle()


# ---- slow and wrong clients -------------------------------------------------------------------


def answer_to(served: Served, *pieces: bytes, timeout_s: float = 10.0) -> bytes:
    """Return what comes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=timeout_s) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            received = b""
            while piece := connection.recv(1 << 16):
                received += piece
        except ConnectionError:
            pass
        return received


HEAD = b"POST /plain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_head_that_does_not_come_ends_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "HEADERS_S", 0.1)
    assert answer_to(served) == b""
    assert answer_to(served, b"GET /health HTTP/1.1\r\nHost: local") == b""
    twice = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HT"
    assert answer_to(served, twice).startswith(b"HTTP/1.1 200")


def test_a_body_that_comes_too_slowly_is_answered_with_408(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "BODY_S", 0.2)
    received = answer_to(served, HEAD + b"Content-Length: 100\r\n\r\n{", b" ")
    assert received.startswith(b"HTTP/1.1 408")
    assert b"the body did not come" in received


def test_a_reader_that_takes_nothing_loses_its_connection_and_its_place(
    server_model: StarChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STALLED_S", 0.2)

    def chatter(app: FastAPI) -> None:
        async def events(replies: Replies) -> Any:
            async for _ in replies:
                yield b":" + b" " * 100_000 + b"\n"

        @app.post("/stream", response_model=None)
        async def stream() -> EventStream:
            replies = await app.state.service.stream(Prompt(text="x"), LONG)
            return EventStream(events(replies), replies=replies)

    with serving(server_model, chatter) as served:
        connection = begin(served, "/stream", {})
        wait_until(lambda: served.service.admission.running == 1)
        served.wait_until_idle(10.0)
        connection.close()


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        (b"x: y\r\n" * 10_000, (b"400", b"431")),
        (b"x: " + b"y" * 100_000 + b"\r\n", (b"400", b"431")),
        (b"Content-Length: 100000000\r\n", (b"413",)),
        (b"Content-Length: -1\r\n", (b"400",)),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", (b"400", b"408")),
        (b"Host: localhost\r\n", (b"400",)),
        (b"x y: z\r\n", (b"400",)),
    ],
    ids=["many", "long", "100-MB", "negative", "both-lengths", "two-hosts", "no-name"],
)
def test_heads_that_are_too_large_or_wrong_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch, head: bytes, statuses: tuple[bytes, ...]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(security, "BODY_S", 0.2)
        patch.setattr(run, "HEADERS_S", 0.3)
        received = answer_to(served, HEAD + b"Connection: close\r\n" + head + b"\r\n{}")
    assert received[9:12] in statuses or received == b""
    assert httpx.get(served.url + "/health").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b'{"text": "\xff\xfe"}', 400),
        (b'{"text": "x", "options": {"temperature": NaN}}', 400),
        (b'{"text": "x", "options": {"temperature": 1e999}}', 400),
        (b'{"text": "x", "options": {"max_tokens": ' + b"9" * 5_000 + b"}}", 400),
        (b'{"text": "x", "options": {"no_such": 1}}', 400),
        (b"[" + b"0," * 40_000 + b"0]", 413),
        (b'{"text": "' + b',\\",' * 40_000 + b'", "options": {"max_tokens": 1}}', 400),
        (b'{"text": "\\ud800", "options": {"max_tokens": 1}}', 200),
        (b'{"text": "x", "options": {"stop": ["\\ud800"], "max_tokens": 1}}', 200),
        (b'{"text": "x", "options": {"regex": "\\ud800("}}', 400),
    ],
    ids=lambda value: repr(value[:48]) if isinstance(value, bytes) else None,
)
def test_bodies_that_are_no_request_are_answered_in_json(
    served: Served, body: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(served.url + "/declared", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert {*answer.json()["error"]} == {"message", "type", "param", "code"}
    served.wait_until_idle()


# ---- the end ----------------------------------------------------------------------------------


def test_draining_lets_streams_end_and_refuses_who_comes_and_who_waits(
    server_model: StarChat,
) -> None:
    with serving(server_model, routes, max_running=1) as served:
        admission = served.service.admission
        body = {"text": "x", "options": {"max_tokens": 300, "ignore_eos": True}}
        running = begin(served, "/stream", body)
        wait_until(lambda: admission.running == 1)
        waiting = begin(served, "/plain", body)
        wait_until(lambda: admission.waiting == 1)
        loop_call(served, served.server.stop)
        for answer in (waiting.getresponse(), get(served, "/health")):
            assert answer.status == 503 and answer.getheader("retry-after") == "2"
        whole = running.getresponse().read().decode()
        assert whole.count("data: ") > 5 and "error" not in whole
        wait_until(lambda: not served.server.servers[0].is_serving())


def test_streams_that_go_on_beyond_the_drain_end_with_an_event(server_model: StarChat) -> None:
    with serving(server_model, routes, drain_timeout=0.1) as served:
        body = {"text": "x", "options": {"max_tokens": 2_000, "ignore_eos": True, "n": 8}}
        streaming, plain = (begin(served, path, body) for path in ("/stream", "/plain"))
        wait_until(lambda: served.service.admission.running == 2)
        loop_call(served, served.server.stop)
        *_, last = [line for line in streaming.getresponse().read().decode().split("\n\n") if line]
        assert last == "data: [DONE]"
        answer = plain.getresponse()
        assert answer.status == 503
        assert json.loads(answer.read())["error"]["code"] == "server_shutting_down"


def loop_call(served: Served, call: Any) -> None:
    """Call in the server's event loop, as a signal does."""
    done = threading.Event()
    loop = served.server.servers[0].get_loop()
    loop.call_soon_threadsafe(lambda: (call(), done.set()))
    assert done.wait(5)


def get(served: Served, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse()
