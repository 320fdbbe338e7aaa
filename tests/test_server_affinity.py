"""Which replica gets a request on Ray, and how a cluster's settings are read; without Ray."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

import starchat.cli
from starchat import InvalidRequestError
from starchat.server.affinity import KEY_HEADER, AtProxy, affinity_key, preferred
from starchat.server.face import Faces
from starchat.server.settings import ServerSettings

serve_command = import_module("starchat.cli.serve")
REPLICAS = [f"replica-{i}" for i in range(10)]
IDLE = dict.fromkeys(REPLICAS, 0)
SYSTEM = {"role": "system", "content": "Be brief."}


def key(body: object, credentials: bytes = b"") -> str | None:
    return affinity_key(json.dumps(body).encode(), credentials)


def dialogue(*contents: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(contents)
    turns = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return {"messages": [SYSTEM, *turns]}


# ---- keys -------------------------------------------------------------------------------------


def test_the_turns_of_a_conversation_share_a_key_and_others_do_not() -> None:
    first, later = key(dialogue("a")), key(dialogue("a", "b", "c"))
    assert first == later is not None
    assert key(dialogue("a2")) != first


@pytest.mark.parametrize("name", ["prompt", "inputs", "input", "input_prefix"])
def test_raw_prompts_share_a_key_by_their_first_512_characters(name: str) -> None:
    begin = "x" * 512
    assert key({name: begin + "a"}) == key({name: begin + "b"}) is not None
    assert key({name: "y" + begin}) != key({name: begin})
    assert key({name: [begin]}) == key({name: begin})


def test_what_a_client_names_stands_over_the_prompt() -> None:
    for name in ("prompt_cache_key", "user"):
        one, two = ({**dialogue(text), name: "team"} for text in ("a", "b"))
        assert key(one) == key(two) != key(dialogue("a"))
    both = {"prompt_cache_key": "k", "user": "u"}
    assert key(both) == key({"prompt_cache_key": "k"})


def test_keys_of_different_clients_differ_as_their_caches_do() -> None:
    assert key(dialogue("a"), b"Bearer 1") != key(dialogue("a"), b"Bearer 2")


def test_a_key_tells_nothing_of_the_prompt() -> None:
    given = key({"prompt": "secret"})
    assert given is not None and "secret" not in given and len(given) == 32


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[1]", b"null", b"\xff", b"[" * 100_000, b'{"prompt": []}', b'{"user": 1}'),
        *(b'{"messages": [{}]}', b'{"messages": [{"role": 1, "content": null}, 2]}', b'{"a": 1}'),
        *(b'{"messages": {}}', b'{"prompt": {"a": 1}}', b'{"input": [[1, 2], "a"]}'),
    ],
)
def test_any_body_has_a_key_or_none(body: bytes) -> None:
    given = affinity_key(body)
    assert given is None or len(given) == 32


# ---- replicas ---------------------------------------------------------------------------------


def test_keys_are_spread_evenly_and_always_prefer_the_same_replica() -> None:
    chosen = Counter(preferred(str(i), IDLE, 8)[0] for i in range(2_000))
    assert set(chosen) == set(REPLICAS) and max(chosen.values()) < 1.5 * min(chosen.values())
    assert preferred("k", IDLE, 8) == preferred("k", dict(reversed(IDLE.items())), 8)


def test_a_replica_that_goes_moves_only_its_own_keys() -> None:
    fewer = {name: 0 for name in REPLICAS[1:]}
    for i in range(500):
        before, after = preferred(str(i), IDLE, 8), preferred(str(i), fewer, 8)
        assert after[0] == (before[1] if before[0] == REPLICAS[0] else before[0])


def test_a_busy_replica_hands_over_to_the_second() -> None:
    first, second = preferred("k", IDLE, 8)
    assert preferred("k", {**IDLE, first: 8}, 8) == [first, second]
    assert preferred("k", {**IDLE, first: 9}, 8) == [second, first]
    assert preferred("k", {**IDLE, first: 9, second: 1}, 8) == [first, second]
    assert preferred("k", {"only": 99}, 8) == ["only"]


# ---- at the proxy -----------------------------------------------------------------------------


class Behind:
    """What a proxy would get."""

    def __init__(self, answer: PlainTextResponse | None = None) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers = scope["headers"]
        has_more = True
        while has_more:
            message = await receive()
            self.body += message["body"]
            has_more = message["more_body"]
        if self.answer:
            await self.answer(scope, receive, send)


def ask(
    behind: Behind, *pieces: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []
    left = [{"body": piece, "more_body": i < len(pieces)} for i, piece in enumerate(pieces, 1)]

    async def receive() -> Any:
        return {"type": "http.request", **left.pop(0)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [*headers]}
    asyncio.run(AtProxy(behind, Faces([]))(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


def test_a_request_gets_its_key_and_arrives_whole() -> None:
    behind = Behind(PlainTextResponse("fine"))
    status, _, text = ask(behind, b'{"prompt": ', b'"a"}', headers=((b"authorization", b"B"),))
    assert (status, text, behind.body) == (200, b"fine", b'{"prompt": "a"}')
    assert dict(behind.headers)[KEY_HEADER].decode() == key({"prompt": "a"}, b"B")


def test_a_large_body_arrives_whole_without_a_key() -> None:
    behind = Behind(PlainTextResponse("fine"))
    pieces = [b'{"prompt": "', *[b"x" * 65_536] * 8, b'"}']
    ask(behind, *pieces)
    assert behind.body == b"".join(pieces) and KEY_HEADER not in dict(behind.headers)


def test_a_clients_own_session_counts() -> None:
    behind = Behind(PlainTextResponse("fine"))
    ask(behind, b'{"prompt": "a"}', headers=((KEY_HEADER, b"mine"),))
    assert behind.headers == [(KEY_HEADER, b"mine")]


def test_no_client_keeps_a_proxy_from_seeing_it_go() -> None:
    behind = Behind(PlainTextResponse("fine"))
    unwanted = ((b"x-request-disconnect-disabled", b"?1"), (b"x-request-timeout-seconds", b"1"))
    ask(behind, b"{}", headers=unwanted)
    assert behind.headers == []


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (None, 503, "replica_lost"),
        (PlainTextResponse("Request dropped", 503), 503, "overloaded"),
        (PlainTextResponse("timed out", 408), 504, "deadline_exceeded"),
    ],
)
def test_errors_of_ray_are_json_and_say_when_to_come_again(
    answer: PlainTextResponse | None, status: int, code: str
) -> None:
    got, headers, body = ask(Behind(answer), b"{}")
    assert got == status and json.loads(body)["error"]["code"] == code
    assert headers[b"retry-after"] == b"1" and headers[b"content-type"] == b"application/json"


# ---- settings ---------------------------------------------------------------------------------


def test_settings_are_read_from_the_texts_of_serve_run() -> None:
    given = {"model": "m.bin", "threads": "4", "request_timeout": "2.5", "ray": "True"}
    given |= {"kv_budget": "1000", "cors": "https://a.example, https://b.example", "host": "::1"}
    expected = ServerSettings(
        *("m.bin", 4), request_timeout=2.5, ray=True, kv_budget=1000, host="::1",
        cors=("https://a.example", "https://b.example"),
    )  # fmt: skip
    assert ServerSettings.of_texts(given) == expected
    assert ServerSettings.of_texts({"threads": 4, "ui": False}) == ServerSettings(
        threads=4, ui=False
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"thread": "4"}, "thread: there is no such option: threads?"),
        ({"threads": "four"}, "threads: expected int | None, got 'four'"),
        ({"ray": "maybe"}, "ray: expected bool, got 'maybe'"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ServerSettings.of_texts(given)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("wrong", [{"uds": "/tmp/s"}, {"port": 0}])
def test_rays_proxies_need_a_port(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="Ray's proxies"):
        ServerSettings(ray=True, **wrong).check()


def test_without_ray_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        serve_command, "find_spec", lambda name: None if name == "ray" else find_spec(name)
    )
    monkeypatch.setattr("sys.argv", ["starchat", "serve", "--ray"])
    with pytest.raises(SystemExit):
        starchat.cli.main()
    assert "pip install 'starchat[ray]'" in capfd.readouterr().err
