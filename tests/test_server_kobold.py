"""KoboldAI's API: what its clients send, answered as KoboldCpp does where they can tell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from starchat import StarChat
from starchat.server.app import create_app
from starchat.server.kobold.forms import GenerateForm
from starchat.server.kobold.generations import Generations
from starchat.server.service import Service
from starchat.server.settings import ServerSettings
from support.server import Served, app, client, served, server_model, serving

__all__ = ["app", "client", "served", "server_model"]

DIALOGUE = "<|system|>\n<|end|>\n<|user|>\nHow do I sort a list?<|end|>\n<|assistant|>"
LONG = {"prompt": "def f(x):", "max_length": 1_900, "bypass_eos": True}

#: What SillyTavern sends of a preset, with the names and neutral values of its own.
TAVERN = {
    "prompt": DIALOGUE,
    "use_story": False,
    "use_memory": False,
    "use_authors_note": False,
    "use_world_info": False,
    "max_context_length": 2048,
    "max_length": 12,
    "rep_pen": 1.1,
    "rep_pen_range": 600,
    "rep_pen_slope": 1,
    "temperature": 0.5,
    "tfs": 1,
    "top_a": 0,
    "top_k": 0,
    "top_p": 0.95,
    "min_p": 0,
    "typical": 1,
    "sampler_order": [6, 0, 1, 3, 4, 2, 5],
    "singleline": False,
    "use_default_badwordsids": False,
    "mirostat": 0,
    "mirostat_eta": 0.1,
    "mirostat_tau": 5,
    "grammar": "",
    "sampler_seed": 7,
    "stop_sequence": ["<|user|>", "\nYou:"],
}
TAVERN_OPTIONS: dict[str, Any] = {
    "max_tokens": 12,
    "repetition_penalty": 1.1,
    "repetition_window": 600,
    "temperature": 0.5,
    "top_k": 0,
    "top_p": 0.95,
    "min_p": 0.0,
    "seed": 7,
    "stop": ["<|user|>", "\nYou:"],
}


def generated(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/generate", json=body)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert isinstance(result, dict)
    return result


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The names and objects of a stream; every byte of it is looked at."""
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    read = []
    for block in blocks:
        name, data = block.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        read.append((name[7:], json.loads(data[6:])))
    return read


# ---- one sequence of SillyTavern's ----------------------------------------------------------


def test_what_sillytavern_sends_is_answered(client: TestClient, server_model: StarChat) -> None:
    def get(path: str) -> bytes:
        answer = client.get(f"/api/{path}", headers={"content-type": "application/json"})
        assert answer.headers["content-type"] == "application/json"
        return answer.content

    assert get("v1/info/version") == b'{"result":"1.2.5"}'
    version = json.loads(get("extra/version"))
    assert (version["result"], version["version"]) == ("KoboldCpp", "1.102")
    assert get("v1/model") == b'{"result":"koboldcpp/starchat-nano.q8_0.bin"}'

    counted = client.post(
        "/api/extra/tokencount",
        content=json.dumps({"prompt": DIALOGUE}),
        headers={"content-type": "application/json"},
    ).json()
    ids = server_model.tokenize_prompt(DIALOGUE)
    assert counted == {"value": len(ids), "ids": ids}

    body = json.dumps(TAVERN).encode()
    with client.stream(
        "POST",
        "/api/extra/generate/stream",
        content=body,
        headers={"content-type": "application/json"},
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        sent = events(answer.read().decode())
    reply = server_model.complete(DIALOGUE, **TAVERN_OPTIONS)
    assert {name for name, _ in sent} == {"message"}
    assert "".join(data["token"] for _, data in sent) == reply.text
    assert [data["finish_reason"] for _, data in sent][-1] == reply.finish_reason
    assert all(data["finish_reason"] is None for _, data in sent[:-1])
    assert "warnings" not in sent[-1][1]

    assert client.post("/api/extra/abort").content == b'{"success":"true","done":"true"}'


def test_version_gates_of_clients_are_open(client: TestClient) -> None:
    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert numbers(client.get("/api/v1/info/version").json()["result"]) > [1, 2, 4]
    version = client.get("/api/extra/version").json()
    assert numbers(version["version"]) > [1, 48]
    assert version["protected"] is False


def test_what_else_clients_ask_at_the_start(client: TestClient, server_model: StarChat) -> None:
    n_ctx = server_model.info.n_ctx
    answers = {
        "v1/config/max_length": {"value": 1024},
        "v1/config/max_context_length": {"value": n_ctx},
        "extra/true_max_context_length": {"value": n_ctx},
        "v1/config/soft_prompt": {"value": ""},
        "v1/config/soft_prompts_list": {"values": []},
        "latest/info/version": {"result": "1.2.5"},
    }
    for path, answer in answers.items():
        assert client.get(f"/api/{path}").json() == answer


# ---- bodies ---------------------------------------------------------------------------------


async def options_of(app: FastAPI, **body: Any) -> dict[str, Any]:
    service: Service = app.state.service
    _, asked = await GenerateForm(**{"prompt": "x", "sampler_seed": 7, **body}).asked(service)
    assert not asked.warnings
    given = {name: value for name, value in asked.options.items() if value not in (None, [])}
    assert given.pop("seed") == 7
    return given


BAN = float("-inf")


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({}, {}),
        ({"max_length": 5, "temperature": 0.7}, {"max_tokens": 5, "temperature": 0.7}),
        ({"temperature": -1, "top_k": -1}, {"temperature": 0, "top_k": 0}),
        ({"top_p": 1, "min_p": 0.1}, {"top_p": 1, "min_p": 0.1}),
        ({"top_p": 0}, {"temperature": 0}),
        ({"stop_sequence": ["a", "", "a"]}, {"stop": ["a"]}),
        ({"stop_sequence": "a"}, {"stop": ["a"]}),
        ({"bypass_eos": True}, {"ignore_eos": True}),
        ({"use_default_badwordsids": True}, {"ignore_eos": True}),
        ({"grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"logit_bias": {"70": -2, "71": 3.5}}, {"logit_bias": {70: -2, 71: 3.5}}),
        ({"banned_tokens": ["", "x"]}, {"logit_bias": {88: BAN}}),
        ({"rep_pen": 1, "rep_pen_slope": 0.9, "rep_pen_range": 0}, {"repetition_penalty": 1}),
        ({"top_k": None, "temperature": None, "stop_sequence": None}, {}),
    ],
    ids=str,
)
async def test_fields_become_options(
    app: FastAPI, server_model: StarChat, body: dict[str, Any], options: dict[str, Any]
) -> None:
    if "banned_tokens" in body:
        options = {"logit_bias": {server_model.tokenize("x")[0]: BAN}}
    if "rep_pen" in body:
        options = {**options, "repetition_window": 0}
    assert await options_of(app, **body) == options


def test_all_of_a_preset_is_read(client: TestClient, server_model: StarChat) -> None:
    result = generated(client, **TAVERN)
    reply = server_model.complete(DIALOGUE, **TAVERN_OPTIONS)
    assert result == {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.usage.prompt_tokens,
        "completion_tokens": reply.usage.completion_tokens,
    }


def test_samplers_that_this_engine_lacks_are_named(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"prompt": "x", "max_length": 1}
    with caplog.at_level("INFO", "starchat.server.access"):
        result = generated(client, **body, mirostat=2, tfs=0.9, sampler_order=[5, 6], typical=1)
    assert [text.partition(":")[0] for text in result["warnings"]] == [
        *("tfs", "mirostat", "sampler_order")
    ]
    assert "ignored=tfs,mirostat,sampler_order" in caplog.text


def test_texts_that_no_token_is_cannot_be_banned(client: TestClient) -> None:
    result = generated(client, prompt="x", max_length=1, banned_tokens=["many tokens"])
    assert "banned_tokens" in result["warnings"][0]


def test_more_stop_sequences_than_there_may_be_are_left_out(client: TestClient) -> None:
    names = [f"\nName {i}:" for i in range(40)]
    result = generated(client, prompt="x", max_length=1, stop_sequence=names)
    assert "stop_sequence: 40 strings, the first 16 count" in result["warnings"]


def test_a_stop_sequence_stays_in_the_text_where_it_is_not_to_be_trimmed(
    client: TestClient,
) -> None:
    body = {"prompt": DIALOGUE, "temperature": 0, "stop_sequence": ["sort"]}
    trimmed, whole = [generated(client, **body, trim_stop=trim) for trim in (True, False)]
    assert whole["text"] == trimmed["text"] + "sort"
    assert trimmed["text"] == generated(client, **body)["text"]
    assert whole["finish_reason"] == trimmed["finish_reason"] == "stop"


def test_control_tokens_of_a_prompt_can_be_plain_text(
    client: TestClient, server_model: StarChat
) -> None:
    n_framed, n_plain = [len(server_model.tokenize(DIALOGUE, special)) for special in (True, False)]
    for name in ("allow_special", "parse_special"):
        result = generated(client, prompt=DIALOGUE, max_length=1, **{name: False})
        assert "warnings" not in result
        assert result["prompt_tokens"] == n_plain
        body = {"prompt": DIALOGUE, name: False}
        assert client.post("/api/extra/tokencount", json=body).json()["value"] == n_plain
    assert generated(client, prompt=DIALOGUE, max_length=1)["prompt_tokens"] == n_framed
    with_memory = generated(client, memory="A memory.\n", prompt=DIALOGUE, max_length=1)
    assert with_memory["prompt_tokens"] == n_framed + len(server_model.tokenize("A memory.\n"))


async def test_a_long_prompt_loses_its_beginning_but_not_its_memory(
    app: FastAPI, server_model: StarChat
) -> None:
    service: Service = app.state.service
    memory, story = "Remember me.\n", "".join(f"line {i}\n" for i in range(400))
    body = {"memory": memory, "prompt": story, "max_length": 20, "max_context_length": 120}
    prompt, asked = await GenerateForm(**body).asked(service)
    ids = server_model.tokenize(memory + story)
    n_kept = len(server_model.tokenize(memory))
    assert prompt.text == ids[:n_kept] + ids[len(ids) - 100 + n_kept :]
    assert f"the first {len(ids) - 100:,} tokens are cut" in asked.warnings[0]
    short, asked = await GenerateForm(**{**body, "max_context_length": 100_000}).asked(service)
    assert not isinstance(short.text, str) and len(short.text) == server_model.info.n_ctx - 20
    whole, asked = await GenerateForm(**{**body, "prompt": "a story"}).asked(service)
    assert (whole.text, asked.warnings) == (memory + "a story", [])


def test_an_empty_prompt_is_the_beginning_of_a_document(client: TestClient) -> None:
    assert generated(client, max_length=1)["prompt_tokens"] == 1


@pytest.mark.parametrize(
    ("method", "path", "send", "status", "kind", "words"),
    [
        ("POST", "v1/generate", {"json": {"prompt": 5}}, 400, "bad_input", "prompt"),
        ("POST", "v1/generate", {"content": b"{"}, 400, "bad_input", "no JSON"),
        ("POST", "extra/generate/stream", {"json": {"grammar": "x ::="}}, 400, "bad_input", ""),
        ("POST", "extra/detokenize", {"json": {"ids": [-1]}}, 400, "bad_input", "token id -1"),
        ("POST", "v1/generate", {"json": {"genkey": "a" * 300}}, 400, "bad_input", "genkey"),
        ("POST", "v1/generate", {"json": {"max_context_length": 0}}, 400, "bad_input", "max_co"),
        (
            *("POST", "v1/generate", {"json": {"banned_tokens": [None] * 9_000}}),
            *(400, "bad_input", "banned_tokens: List should have at most 512"),
        ),
        (
            *("POST", "v1/generate", {"json": {"stop_sequence": [None] * 9_000}}),
            *(400, "bad_input", "stop_sequence: expected a text, or a list of at most 1,024"),
        ),
        ("POST", "v1/generate", {"json": {"rep_pen": -1}}, 400, "bad_input", "rep_pen: "),
        ("POST", "extra/abort", {"content": b"[1]"}, 400, "bad_input", ""),
        ("GET", "v1/nowhere", {}, 404, "not_found", "/api/v1/nowhere"),
        ("GET", "v1/generate", {}, 405, "method_not_allowed", ""),
        ("POST", "v1/generate", {"json": {"prompt": "x", "min_p": 7}}, 400, "bad_input", "min_p"),
    ],
)
def test_errors_have_a_detail(
    client: TestClient, method: str, path: str, send: Any, status: int, kind: str, words: str
) -> None:
    answer = client.request(method, f"/api/{path}", **send)
    detail = answer.json()["detail"]
    assert (answer.status_code, detail["type"]) == (status, kind)
    assert words in detail["msg"]


def test_the_face_can_be_switched_off(server_model: StarChat) -> None:
    app = create_app(ServerSettings(kobold=False), server_model)
    answer = TestClient(app, "http://localhost").get("/api/v1/info/version")
    assert (answer.status_code, "error" in answer.json()) == (404, True)


def test_figures_of_the_last_generation(client: TestClient) -> None:
    generated(client, prompt="x", max_length=3, bypass_eos=True, sampler_seed=5)
    perf = client.get("/api/extra/perf").json()
    assert (perf["last_token_count"], perf["last_seed"], perf["stop_reason"]) == (3, 5, 0)
    assert (perf["queue"], perf["idle"]) == (0, 1)
    generated(client, prompt=DIALOGUE, temperature=0, stop_sequence=["sort"])
    again = client.get("/api/extra/perf").json()
    assert (again["total_gens"], again["stop_reason"]) == (perf["total_gens"] + 1, 2)


# ---- beside each other ----------------------------------------------------------------------


class Clients:
    """Clients of a server that ask at the same time."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def post(self, path: str, **body: Any) -> Any:
        return (await self.http.post(f"/api/{path}", json=body)).json()

    def generate(self, **body: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.post("v1/generate", **{**LONG, **body}))

    async def written(self, key: str | None) -> str:
        body = {} if key is None else {"genkey": key}
        text = (await self.post("extra/generate/check", **body))["results"][0]["text"]
        assert isinstance(text, str)
        return text

    async def when_written(self, key: str) -> str:
        while not (text := await self.written(key)):
            await asyncio.sleep(0.005)
        return text

    async def stream(self, **body: Any) -> AsyncIterator[dict[str, Any]]:
        path = "/api/extra/generate/stream"
        async with self.http.stream("POST", path, json={**LONG, **body}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])


@pytest.fixture
async def clients(served: Served) -> AsyncIterator[Clients]:
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        yield Clients(http)


async def test_a_key_aborts_its_generation_and_no_other(clients: Clients, served: Served) -> None:
    seen: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}

    async def read(key: str) -> None:
        async for data in clients.stream(genkey=key, max_length=1_900 if key == "a" else 700):
            seen[key].append(data)

    streams = [asyncio.create_task(read(key)) for key in seen]
    plain = clients.generate(genkey="c")
    texts = [await clients.when_written(key) for key in ("a", "b", "c")]
    assert await clients.post("extra/abort", genkey="c") == {"success": "true", "done": "true"}
    (result,) = (await plain)["results"]
    assert result["finish_reason"] == "abort"
    assert result["text"].startswith(texts[2])
    await clients.post("extra/abort", genkey="a")
    await asyncio.gather(*streams)
    reasons = [[data["finish_reason"] for data in of_one][-1] for of_one in seen.values()]
    assert reasons == ["abort", "length"]
    assert await clients.written("b") == "".join(data["token"] for data in seen["b"])
    assert await clients.post("extra/abort", genkey="a") == {"success": "false", "done": "false"}
    await asyncio.to_thread(served.wait_until_idle)


async def test_a_waiting_generation_can_be_aborted(server_model: StarChat) -> None:
    with serving(server_model, max_running=1) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
            clients = Clients(http)
            running = clients.generate(genkey="a")
            await clients.when_written("a")
            waiting = clients.generate(genkey="b")
            while served.service.admission.waiting == 0:
                await asyncio.sleep(0.005)
            await clients.post("extra/abort", genkey="b")
            (result,) = (await waiting)["results"]
            assert (result["text"], result["finish_reason"]) == ("", "abort")
            assert not running.done()
            await clients.post("extra/abort", genkey="a")
            assert (await running)["results"][0]["text"]
            await asyncio.to_thread(served.wait_until_idle)


async def test_an_abort_that_comes_as_the_work_begins_ends_it() -> None:
    generation, closed = Generations().begin("a"), []

    class Replies:
        async def aclose(self) -> None:
            closed.append(self)

    async def begun() -> Any:
        generation.was_aborted = True  # as abort() does, which has nothing to close yet
        return Replies()

    await generation.submit(begun())
    assert len(closed) == 1


async def test_an_abort_without_a_key_ends_nothing(clients: Clients) -> None:
    running = clients.generate(genkey="a", max_length=100)
    await clients.when_written("a")
    answer = await clients.http.post("/api/extra/abort")
    assert answer.json() == {"success": "true", "done": "true"}
    (result,) = (await running)["results"]
    assert result["completion_tokens"] == 100


async def test_a_text_without_a_key_is_told_while_it_is_the_only_one() -> None:
    generations = Generations()
    first = generations.begin(None)
    first.text = "one"
    assert generations.text(None) == generations.text("") == "one"
    second = generations.begin("")
    second.text = "two"
    assert generations.text(None) == ""
    await first.end()
    assert generations.text(None) == "two"
    await second.end()
    assert generations.text(None) == "two"


@pytest.mark.parametrize("path", ["v1/generate", "extra/generate/stream"])
async def test_work_ends_when_its_client_goes(clients: Clients, served: Served, path: str) -> None:
    async def ask() -> None:
        async with clients.http.stream("POST", f"/api/{path}", json={**LONG, "genkey": path}) as a:
            async for _ in a.aiter_raw():
                pass

    asking = asyncio.create_task(ask())
    await clients.when_written(path)
    asking.cancel()
    await asyncio.wait((asking,))
    await asyncio.to_thread(served.wait_until_idle)
    assert len(served.model.tokenize(await clients.written(path))) < 1_800


def test_other_keys_of_the_server_see_no_text(server_model: StarChat) -> None:
    app = create_app(ServerSettings(api_key=("one", "two")), server_model)
    client = TestClient(app, "http://localhost", raise_server_exceptions=False)
    one, two = [{"Authorization": f"Bearer {key}"} for key in ("one", "two")]
    body = {"prompt": DIALOGUE, "max_length": 5, "genkey": "a"}
    assert client.post("/api/v1/generate", json=body).json()["detail"]["type"] == "invalid_api_key"
    text = client.post("/api/v1/generate", json=body, headers=one).json()["results"][0]["text"]
    for headers, expected in ((one, text), (two, "")):
        answer = client.post("/api/extra/generate/check", json={"genkey": "a"}, headers=headers)
        assert answer.json() == {"results": [{"text": expected}]}
    assert client.get("/api/extra/version", headers=one).json()["protected"] is True


def test_the_texts_that_are_kept_have_a_bound(client: TestClient) -> None:
    for i in range(70):
        generated(client, prompt="x", max_length=1, bypass_eos=True, genkey=f"bound{i}")
    check = [
        client.post("/api/extra/generate/check", json={"genkey": f"bound{i}"}).json()
        for i in (0, 69)
    ]
    assert [one["results"][0]["text"] != "" for one in check] == [False, True]
