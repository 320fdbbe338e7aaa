"""Who may ask the server, and how large a request may be: section by section of docs/serving.md."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from starchat import InvalidRequestError, StarChat
from starchat.server.app import create_app
from starchat.server.log import _Formatter
from starchat.server.page import static_files
from starchat.server.service import Prompt
from starchat.server.settings import ServerSettings
from support.server import server_model

__all__ = ["server_model"]

KEYS = ("first-key", "second-key")
#: The only paths that are read without a key. A route that is not here needs one.
PUBLIC = {"/health", "/ping", "/v1/health", *static_files()}


class Declared(BaseModel):
    """What a face declares."""

    a: int


def client_of(model: StarChat, base_url: str = "http://localhost", **settings: Any) -> TestClient:
    app = create_app(ServerSettings(**settings), model)

    @app.post("/echo")
    async def echo(request: Request) -> Any:
        """A route of this test's that takes JSON."""
        return await request.json()

    @app.post("/declared")
    async def declared(body: Declared) -> int:
        """A route that FastAPI validates."""
        return body.a

    return TestClient(app, base_url, raise_server_exceptions=False)


@functools.cache
def shared_client(model: StarChat, **settings: Any) -> TestClient:
    """Return one client for all tests with the same settings: making an application takes time."""
    return client_of(model, **settings)


@pytest.fixture(scope="module")
def plain(server_model: StarChat) -> Iterator[TestClient]:
    """A server on loopback without keys."""
    with client_of(server_model) as client:
        yield client


def codes(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# ---- keys -------------------------------------------------------------------------------------


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route, whatever its kind."""
    for route in app.routes:
        if isinstance(route, Mount):
            yield "GET", f"{route.path}/x"
        elif isinstance(route, Route):
            path = route.path_format.format_map(dict.fromkeys(route.param_convertors, "x"))
            for method in route.methods or {"GET"}:
                yield method, path
        else:  # an included router: newer FastAPI keeps it whole
            for context in route.effective_route_contexts():  # type: ignore[attr-defined]
                names = dict.fromkeys(context.param_convertors, "x")
                for method in context.methods or {"GET"}:
                    yield method, context.path_format.format_map(names)


def test_every_route_needs_a_key_but_those_named_here(server_model: StarChat) -> None:
    everything = {"slots": True, "starchat_service": True, "api_key": KEYS}
    app = create_app(ServerSettings(**everything), server_model)  # type: ignore[arg-type]
    asked = set(routes(app))
    assert ("GET", "/metrics") in asked and ("GET", "/openapi.json") in asked
    with TestClient(app, "http://localhost") as client:
        for method, path in asked:
            for headers in ({}, {"Authorization": "Bearer second-ke"}, {"x-api-key": "none"}):
                answer = client.request(method, path, headers=headers, json={})
                is_public = path in PUBLIC and method in ("GET", "HEAD")
                assert (answer.status_code == 401) != is_public, (method, path)
                if answer.status_code == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/nowhere").status_code == 401  # what exists is not told either
        assert client.post("/health", json={}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"authorization": "bearer  second-key"},
        {"x-api-key": "second-key"},
    ],
)
def test_each_key_opens_in_both_headers(server_model: StarChat, headers: dict[str, str]) -> None:
    client = shared_client(server_model, api_key=KEYS)
    assert client.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize("given", ["Basic first-key", "first-key", "Bearer", "Bearer first-key x"])
def test_other_forms_of_a_key_do_not_open(server_model: StarChat, given: str) -> None:
    client = shared_client(server_model, api_key=KEYS)
    assert codes(client.get("/metrics", headers={"Authorization": given})) == (
        401,
        "invalid_api_key",
    )


def test_prompts_of_one_key_are_not_found_in_the_cache_by_another(server_model: StarChat) -> None:
    prompt = Prompt(text="def of_one_key(a, b):\n    return a + b\n\n" * 12)

    def cached(client: TestClient, key: str) -> int:
        answer = client.post("/ask", headers={"x-api-key": key})
        return int(answer.json())

    for keys, of_another in ((KEYS, False), (KEYS[:1], True)):
        app = create_app(ServerSettings(api_key=keys), server_model)

        @app.post("/ask")
        async def ask(request: Request) -> int:
            """Ask the same each time."""
            reply = await request.app.state.service.result(prompt, {"max_tokens": 1})
            cached: int = reply.usage.cached_tokens
            return cached

        with TestClient(app, "http://localhost") as client:
            assert not of_another or cached(client, KEYS[0]) >= 0
            cached(client, KEYS[0])
            assert cached(client, KEYS[0]) > 0
            assert len(keys) == 1 or cached(client, KEYS[1]) == 0


def test_a_server_for_other_machines_needs_a_key_or_a_word() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        with pytest.raises(InvalidRequestError, match="no key: give --api-key-file"):
            ServerSettings(host=host).check()
        assert ServerSettings(host=host, no_auth=True).check()
        assert ServerSettings(host=host, api_key=("k",)).check()
    for host in ("127.0.0.1", "127.0.0.7", "::1", "localhost"):
        assert ServerSettings(host=host).check()


@pytest.mark.parametrize("key", ["", " ", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_have_is_refused(key: str) -> None:
    """An empty one, of a variable that is not set, would let everybody in."""
    with pytest.raises(InvalidRequestError, match="api_key: expected a key of ASCII") as error:
        ServerSettings(host="0.0.0.0", api_key=("good", key)).check()
    assert not key.strip() or key not in str(error.value)


# ---- hosts and origins ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("page.localhost", True),
        ("localhost.", True),
        ("127.0.0.1:8080", True),
        ("192.168.1.5", True),  # an address cannot be rebound
        ("[::1]:8080", True),
        ("[::1]", True),
        ("box.example", True),  # --allowed-host
        ("localhost.evil.com", False),
        ("evil.com", False),
        ("evil-localhost", False),
        ("box.example.evil.com", False),
        ("x.box.example", False),
        ("127.0.0.1.evil.com", False),
        ("127.0.0.1:8080@evil.com", False),
        ("localhost:evil", False),
        ("[::1", False),
        ("[::1]evil", False),
        ("", False),
    ],
)
def test_a_server_of_this_machine_answers_to_its_names_alone(
    server_model: StarChat, host: str, is_allowed: bool
) -> None:
    client = shared_client(server_model, allowed_host=("box.example",))
    answer = client.get("/health", headers={"Host": host})
    if is_allowed:
        assert answer.status_code == 200
    else:
        assert codes(answer) == (403, "host_not_allowed")
        assert "--allowed-host" in answer.json()["error"]["message"]


def test_beyond_this_machine_a_key_makes_every_host_good_and_no_auth_does_not(
    server_model: StarChat,
) -> None:
    headers = {"Host": "any.example"}
    with client_of(server_model, host="0.0.0.0", api_key=KEYS) as client:
        assert client.get("/health", headers=headers).status_code == 200
    with client_of(server_model, host="0.0.0.0", no_auth=True) as client:
        assert codes(client.get("/health", headers=headers)) == (403, "host_not_allowed")
        assert client.get("/health", headers={"Host": "10.0.0.7:8080"}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "host", "cors", "is_allowed"),
    [
        ("http://localhost:8080", "localhost:8080", (), True),  # the page of this server
        ("https://localhost", "localhost", (), True),  # behind a proxy with TLS
        ("http://localhost:3000", "localhost:8080", (), False),
        ("https://evil.com", "localhost:8080", (), False),
        ("null", "localhost:8080", (), False),
        ("", "localhost:8080", (), False),
        ("file://", "localhost:8080", (), False),
        ("https://box.example", "127.0.0.1:8080", (), True),  # a proxy that names its own host
        ("https://box.example:8443", "box.example:8443", (), True),
        ("http://box.example:3000", "box.example", (), False),  # another server of that name
        ("http://localhost:8080.evil.com", "localhost:8080", (), False),
        ("http://localhost:8080/x", "localhost:8080", (), False),
        ("https://app.example", "localhost:8080", ("https://app.example",), True),
        ("https://app.example.evil.com", "localhost:8080", ("https://app.example",), False),
        ("http://app.example", "localhost:8080", ("https://app.example",), False),
        ("https://any.example", "localhost:8080", ("*",), True),
        ("null", "localhost:8080", ("*",), True),
    ],
)
def test_pages_of_other_origins_may_ask_where_cors_names_them(
    server_model: StarChat, origin: str, host: str, cors: tuple[str, ...], is_allowed: bool
) -> None:
    headers = {"Origin": origin, "Host": host}
    client = shared_client(server_model, cors=cors, allowed_host=("box.example",))
    answer = client.post("/echo", json={"a": 1}, headers=headers)
    preflight = {**headers, "Access-Control-Request-Method": "POST"}
    asked = client.options("/echo", headers=preflight)
    assert "access-control-allow-credentials" not in answer.headers
    if is_allowed:
        assert (answer.status_code, asked.status_code) == (200, 204)
        allowed = "*" if "*" in cors else origin if cors else None
        for each in (answer, asked):
            assert each.headers.get("access-control-allow-origin") == allowed
            assert (each.headers.get("vary") == "Origin") == bool(cors)
    else:
        assert codes(answer) == codes(asked) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("option", "value", "is_right"),
    [
        ("cors", "app.example", False),  # would never match
        ("cors", "https://app.example/page", False),
        ("cors", "https://app.example/", True),
        ("cors", "vscode-webview://1a2b", True),
        ("cors", "*", True),
        ("cors", "null", True),
        ("allowed_host", "https://box.example", False),
        ("allowed_host", "box.example:8080", False),
        ("allowed_host", "*", False),
        ("allowed_host", "box.example", True),
    ],
)
def test_origins_and_names_that_never_match_are_refused(
    option: str, value: str, is_right: bool
) -> None:
    settings = ServerSettings(**{option: (value,)})  # type: ignore[arg-type]
    if is_right:
        settings.check()
    else:
        with pytest.raises(InvalidRequestError, match=r"expected an? (origin|name)"):
            settings.check()


def test_a_preflight_needs_no_key_and_the_request_behind_it_does(server_model: StarChat) -> None:
    origin = "https://app.example"
    with client_of(server_model, cors=(origin,), api_key=KEYS) as client:
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, x-stainless-os",
        }
        answer = client.options("/echo", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
        refused = client.post("/echo", json={}, headers={"Origin": origin})
        assert codes(refused) == (401, "invalid_api_key")
        assert refused.headers["access-control-allow-origin"] == origin  # the page can read why


# ---- bodies and headers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        (None, 200),  # what programs send that name no type
        ("text/plain", 415),
        ("text/plain;charset=UTF-8", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
def test_bodies_are_json_so_that_no_page_can_send_them_unasked(
    plain: TestClient, kind: str | None, status: int
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = plain.post("/echo", content=b'{"a": 1}', headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert codes(answer) == (415, "unsupported_media_type")


def chunks(n_bytes: int) -> Iterator[bytes]:
    for _ in range(n_bytes // 1_000):
        yield b" " * 1_000


def test_bodies_beyond_the_bound_are_refused_with_their_length_or_without(
    server_model: StarChat,
) -> None:
    with client_of(server_model, max_body=10_000) as client:
        assert client.post("/echo", content=b"1" + b" " * 9_999).status_code == 200
        assert codes(client.post("/echo", content=b" " * 10_001)) == (413, "request_too_large")
        assert codes(client.post("/echo", content=chunks(12_000)))[0] == 413


def test_too_many_headers_are_refused(plain: TestClient) -> None:
    headers = {f"x-{index}": "a" for index in range(250)}
    assert codes(plain.get("/health", headers=headers)) == (431, "request_too_large")


def test_an_unforeseen_fault_is_answered_and_its_text_is_not_logged(
    server_model: StarChat, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(server_model)

    @client.app.get("/fault")  # type: ignore[attr-defined, untyped-decorator]
    async def fault(prompt: str) -> None:
        raise RuntimeError(prompt)

    with client, caplog.at_level(logging.INFO, "starchat.server"):
        answer = client.get("/fault?prompt=secret")
    assert codes(answer) == (500, "internal_error")
    assert answer.headers["x-should-retry"] == "false"
    for formatter in (_Formatter(as_json=False), _Formatter(as_json=True)):
        text = "\n".join(map(formatter.format, caplog.records))
        assert "RuntimeError" in text and "in fault" in text
        assert "secret" not in text


# ---- log and metrics --------------------------------------------------------------------------


def test_each_request_has_one_line_of_counts_and_no_prompt(
    server_model: StarChat, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(server_model, api_key=KEYS)

    @client.app.post("/ask")  # type: ignore[attr-defined, untyped-decorator]
    async def ask(request: Request) -> str:
        prompt = Prompt(messages=[{"role": "user", "content": "secret question"}])
        reply = await request.app.state.service.result(
            prompt, {"max_tokens": 3, "ignore_eos": True}
        )
        return str(reply.text)

    with client, caplog.at_level(logging.INFO, "starchat.server.access"):
        client.post("/ask?prompt=secret", headers={"x-api-key": KEYS[1]})
        client.get("/evil%0d%0aGET%20/forged%20200", headers={"x-api-key": KEYS[1]})
        client.get("/metrics")
        forged = ("1.2.3.4\x1b[2J\n", 1)  # as of X-Forwarded-For
        TestClient(client.app, "http://localhost", client=forged).get("/health")
        assert "\x1b" not in caplog.records.pop().getMessage()
    lines = [json.loads(_Formatter(as_json=True).format(record)) for record in caplog.records]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/ask", 200),
        ("GET", r"/evil\r\nGET /forged 200", 404),
        ("GET", "/metrics", 401),
    ]
    assert (lines[0]["completion_tokens"], lines[0]["finish"], lines[0]["key"]) == (3, "length", 2)
    assert lines[0]["prompt_tokens"] > 5 and lines[0]["first_s"] > 0
    assert lines[2]["error"] == "invalid_api_key"
    people = [_Formatter(as_json=False).format(record) for record in caplog.records]
    assert all(len(line.splitlines()) == 1 for line in people)
    assert "secret" not in json.dumps(lines) + "".join(people)


def samples(client: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_metrics_count_what_was_asked(server_model: StarChat) -> None:
    client = client_of(server_model, max_running=1, max_queue=0)

    @client.app.post("/ask")  # type: ignore[attr-defined, untyped-decorator]
    async def ask(request: Request) -> int:
        options = {"max_tokens": 4, "n": 2, "ignore_eos": True}
        asked = Prompt(text="def f(x):")
        reply = await request.app.state.service.result(asked, options)
        return int(reply.usage.prompt_tokens)

    with client:
        n_prompt = client.post("/ask").json()
        client.post("/ask")
        service = client.app.state.service  # type: ignore[attr-defined]
        with service.admission.enter():
            assert codes(client.post("/ask")) == (503, "overloaded")
        now = samples(client)
    assert now["starchat_prompt_tokens_total", ()] == 2 * n_prompt
    assert now["starchat_prefix_cache_queries_total", ()] == 2 * n_prompt
    assert now["starchat_generation_tokens_total", ()] == 16
    assert now["starchat_request_success_total", (("finished_reason", "length"),)] == 4
    assert now["starchat_time_to_first_token_seconds_count", ()] == 2
    assert now["starchat_rejected_total", (("reason", "overloaded"),)] == 1
    assert now["starchat_http_requests_total", (("method", "POST"), ("status", "200"))] == 2
    assert now["starchat_http_requests_total", (("method", "POST"), ("status", "503"))] == 1
    assert now["starchat_num_requests_running", ()] == 0
    assert now["starchat_engine_steps_total", ()] == server_model.stats()["steps"]


def test_the_description_of_all_routes_has_their_errors_and_no_422(
    server_model: StarChat,
) -> None:
    everything = {"slots": True, "starchat_service": True, "api_key": KEYS}
    with client_of(server_model, **everything) as client:
        described = client.get("/openapi.json", headers={"x-api-key": KEYS[0]}).json()
    assert "422" not in described["paths"]["/declared"]["post"]["responses"]
    assert "HTTPValidationError" not in json.dumps(described)
    responses = [
        operation["responses"]
        for path, operations in described["paths"].items()
        for operation in operations.values()
    ]
    assert len(responses) >= 4
    assert all("default" in each for each in responses)
    assert described["security"] == [{"key": []}]
