"""llama.cpp's own routes: what llama.vscode, Continue and SillyTavern send, and what they read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from starchat import StarChat
from starchat.server.app import create_app
from starchat.server.llama_cpp import TokenizeForm, tokenized
from starchat.server.llama_cpp.forms import CompletionForm, InfillForm
from starchat.server.llama_cpp.line_limits import LineLimits
from starchat.server.llama_cpp.prompts import read_gap
from starchat.server.service import Service
from starchat.server.settings import ServerSettings
from support.server import Served, app, client, served, server_model
from support.tiny_model import Shape, write_tiny

__all__ = ["app", "client", "served", "server_model"]

DIALOGUE = "<|system|>\n<|end|>\n<|user|>\nHow do I sort a list?<|end|>\n<|assistant|>"


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StarChat]:
    """A model of random weights whose vocabulary has StarCoder's tokens for infilling."""
    path = tmp_path_factory.mktemp("coder") / "coder.bin"
    write_tiny(path, shape=Shape(n_ctx=512))
    with StarChat.load(path) as model:
        yield model


@pytest.fixture(scope="module")
def coding(coder: StarChat) -> Iterator[TestClient]:
    """A client of its server."""
    app = create_app(ServerSettings(), coder)
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        yield client


def completed(client: TestClient, **body: Any) -> Any:
    answer = client.post("/completion", json={"prompt": "x", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(client: TestClient, path: str = "/completion", **body: Any) -> list[dict[str, Any]]:
    answer = client.post(path, json={"prompt": "x", "stream": True, **body})
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    *blocks, rest = answer.text.split("\n\n")
    assert rest == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


# ---- one sequence of llama.vscode's ---------------------------------------------------------

PREFIX = "def add(a, b):\n    "
SUFFIX = "\n\nprint(add(1, 2))\n"
EXTRA = [{"filename": "util.py", "text": "import os\n"}]
VSCODE: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": EXTRA,
    "prompt": "re",
    "n_predict": 24,
    "n_cmpl": 1,
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 60_000,
}
WARM_UP: dict[str, Any] = {
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": EXTRA,
    "prompt": "",
    "n_predict": 0,
    "samplers": [],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1,
}


def test_what_llama_vscode_sends_is_answered(coding: TestClient, coder: StarChat) -> None:
    def post(path: str, body: dict[str, Any]) -> Any:
        return coding.post(path, content=json.dumps(body), headers=JSON).json()

    JSON = {"content-type": "application/json", "accept": "application/json, text/plain, */*"}
    assert coding.get("/health").content == b'{"status":"ok"}'
    properties = coding.get("/props").json()
    assert properties["default_generation_settings"]["n_ctx"] == coder.info.n_ctx

    warm = post("/infill", WARM_UP)
    assert (warm["content"], warm["tokens_predicted"], warm["stop_type"]) == ("", 0, "limit")

    answer = post("/infill", {**VSCODE, "seed": 3, "return_tokens": True})
    ids = [
        *coder.tokenize("import os\n"),
        *coder.tokenize("<fim_prefix>", True),
        *coder.tokenize(PREFIX),
        *coder.tokenize("<fim_suffix>", True),
        *coder.tokenize(SUFFIX),
        *coder.tokenize("<fim_middle>", True),
        *coder.tokenize("re"),
    ]
    reply = coder.complete(ids, top_k=40, top_p=0.99, seed=3, max_tokens=24)
    assert (answer["content"], answer["tokens"]) == (reply.text, [*reply.token_ids])
    assert answer["tokens_evaluated"] == len(ids)
    assert answer["tokens_cached"] <= len(ids)
    assert answer["truncated"] is False
    assert answer["prompt"] == coder.detokenize(ids)
    timings = answer["timings"]
    assert timings["prompt_n"] == len(ids) - timings["cache_n"]
    assert timings["predicted_n"] == len(reply.token_ids)
    for key in ("prompt_ms", "prompt_per_second", "predicted_ms", "predicted_per_second"):
        assert timings[key] >= 0

    messages = [{"role": "user", "content": "Hi"}]
    prompt = post("/apply-template", {"messages": messages})["prompt"]
    assert coder.tokenize_prompt(prompt) == coder.tokenize(
        "<|system|>\n<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>", True
    )


def test_all_ways_to_fill_a_gap_give_the_same_tokens(coding: TestClient, coder: StarChat) -> None:
    choice = {"temperature": 0.8, "top_k": 40, "seed": 5}
    reply = coder.infill(PREFIX, SUFFIX, max_tokens=24, **choice)  # type: ignore[arg-type]
    body = {**VSCODE, **choice, "input_extra": [], "prompt": "", "top_p": 0.95}
    answer = coding.post("/infill", json={**body, "return_tokens": True}).json()
    assert answer["tokens"] == [*reply.token_ids]

    template = f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>"  # Continue's
    assert completed(coding, prompt=template, n_predict=24, **choice)["content"] == reply.text
    for body in ({"prompt": template}, {"prompt": PREFIX, "suffix": SUFFIX}):
        asked = {**body, **choice, "max_tokens": 24, "model": "x"}
        answer = coding.post("/v1/completions", json=asked).json()
        assert answer["choices"][0]["text"] == reply.text
        assert answer["usage"]["prompt_tokens"] == reply.usage.prompt_tokens


def test_a_model_without_these_tokens_says_so(client: TestClient) -> None:
    answer = client.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, 400)
    assert "<fim_prefix>" in error["message"]


async def test_what_is_farthest_from_the_gap_is_left_out(coder: StarChat) -> None:
    service: Service = create_app(ServerSettings(), coder).state.service
    n_ctx, n_reply = coder.info.n_ctx, 20

    async def parts(prefix: int, suffix: int, extra: int) -> tuple[list[int], bool]:
        form = InfillForm(
            input_prefix="p" * prefix,
            input_suffix="s" * suffix,
            input_extra=[{"text": "e" * extra}],  # type: ignore[list-item]
        )
        asked = await read_gap(form, n_reply, service)
        text = coder.detokenize(asked.prompt.text)  # type: ignore[arg-type]
        return [text.replace("<fim_prefix>", "").split("<fim_")[0].count(c) for c in "ep"] + [
            text.count("s") - text.count("<fim_suffix>")
        ], asked.is_cut

    room = n_ctx - 3 - n_reply
    assert await parts(100, 100, 100) == ([100, 100, 100], False)
    assert await parts(100, 100, 1000) == ([room - 201, 100, 100], True)  # a line break is one
    assert await parts(1000, 1000, 1000) == ([0, room - room // 4, room // 4], True)
    assert await parts(100, 1000, 9) == ([0, 100, room - 100], True)


# ---- other clients' bodies ------------------------------------------------------------------

#: What SillyTavern's "Text Completion" sends to llama.cpp, with the neutral values of its own.
TAVERN: dict[str, Any] = {
    "prompt": f"A memory.\n{DIALOGUE}",
    "model": "starchat",
    "max_new_tokens": 12,
    "max_tokens": 12,
    "n_predict": 12,
    "num_predict": 12,
    "temperature": 0.7,
    "top_p": 0.9,
    "typical_p": 1,
    "typical": 1,
    "min_p": 0,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "repeat_last_n": 256,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_k": 0,
    "skew": 0,
    "min_keep": 0,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "smoothing_factor": 0,
    "smoothing_curve": 1,
    "xtc_threshold": 0.1,
    "xtc_probability": 0,
    "nsigma": 0,
    "top_n_sigma": 0,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "tfs_z": 1,
    "mirostat": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "ignore_eos": False,
    "seed": 7,
    "n_probs": 0,
    "logit_bias": [],
    "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "stop": ["<|user|>", "\nYou:"],
    "json_schema": None,
    "grammar": "",
    "cache_prompt": True,
    "api_type": "llamacpp",
    "api_server": "http://127.0.0.1:8080",
}
#: What Continue's provider "llama.cpp" sends to chat, with a template of its own.
CONTINUE: dict[str, Any] = {
    "prompt": DIALOGUE,
    "stream": True,
    "n_predict": 12,
    "temperature": 0.7,
    "top_k": 0,
    "top_p": 0.9,
    "min_p": None,
    "mirostat": None,
    "stop": ["<|end|>"],
    "seed": 7,
    "repeat_penalty": None,
}


def test_what_sillytavern_and_continue_send_is_answered(
    client: TestClient, server_model: StarChat
) -> None:
    options: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "seed": 7}
    answer = completed(client, **TAVERN)
    penalties = {"repetition_penalty": 1.1, "repetition_window": 256}
    prompt = server_model.tokenize_prompt(TAVERN["prompt"], leading_text=True)
    reply = server_model.complete(prompt, max_tokens=12, **penalties, **options)
    assert (answer["content"], "warnings" in answer) == (reply.text, False)
    assert answer["tokens_evaluated"] == len(prompt)
    streamed = events(client, **CONTINUE)
    reply = server_model.complete(DIALOGUE, max_tokens=12, **options)
    assert "".join(piece["content"] for piece in streamed) == reply.text


# ---- ends of lines --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("a\n    b\n    c", "a\n    b\n    c"),
        ("a\n    b\n  c\n    d", "a\n    b"),
        ("a\n\n\n    b\n\nc", "a\n\n\n    b"),
        ("a\r\n    b\r\nc", "a\r\n    b\r"),
        ("  a\n\t\t\t\tb", "  a\n\t\t\t\tb"),
        ("a\n  ", "a\n  "),
        ("\nb", ""),
    ],
)
def test_a_line_with_less_indentation_ends_the_reply(text: str, passed: str) -> None:
    for n in (1, 2, 3, 100):
        lines = LineLimits(indentation=4)
        pieces = [text[i : i + n] for i in range(0, len(text), n)]
        read = "".join([lines.feed(piece) for piece in pieces]) + lines.finish()
        assert (read, lines.is_over) == (passed, passed != text)


def test_time_ends_a_reply_that_has_a_whole_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    lines = LineLimits(seconds=1.0)
    assert [lines.feed("a"), lines.is_over] == ["a", False]
    now = 12.0
    assert [lines.feed("b"), lines.is_over] == ["b", False]
    assert [lines.feed("c\n"), lines.is_over] == ["c\n", True]


def test_indentation_ends_requests_whole_and_streamed(coding: TestClient) -> None:
    grammar = 'root ::= "ab\\n\\n    b\\n" [b]+'
    body = {"n_indent": 4, "n_predict": 450, "grammar": grammar}
    whole = completed(coding, **body)
    assert (whole["content"], whole["stop_type"]) == ("ab\n\n    b", "limit")
    assert whole["tokens_predicted"] < 450
    streamed = events(coding, **body)
    assert "".join(piece["content"] for piece in streamed) == whole["content"]
    assert streamed[-1]["stop_type"] == "limit"


# ---- bodies ---------------------------------------------------------------------------------

BAN = float("-inf")


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({}, {}),
        ({"n_predict": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "n": 2}, {"max_tokens": 5, "n": 2}),
        ({"n_predict": -1}, {"max_tokens": 2048}),
        ({"n_predict": 0}, {"max_tokens": 1}),
        ({"temperature": 0.7, "top_k": 40, "top_p": 0.9}, None),
        ({"temperature": -1, "top_k": 0, "top_p": 1}, {"temperature": 0, "top_k": 0, "top_p": 1}),
        ({"top_p": 0}, {"temperature": 0}),
        (
            {"repeat_penalty": 1.1, "repeat_last_n": 64},
            {"repetition_penalty": 1.1, "repetition_window": 64},
        ),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, {}),
        (
            {"presence_penalty": 0.5, "repeat_last_n": -1},
            {"presence_penalty": 0.5, "repetition_window": 0},
        ),
        ({"stop": ["a", "", "a"], "ignore_eos": True}, {"stop": ["a"], "ignore_eos": True}),
        ({"logit_bias": [[70, -1], [71, False]]}, {"logit_bias": {70: -1, 71: BAN}}),
        ({"logit_bias": {"70": 2}}, {"logit_bias": {70: 2}}),
        ({"samplers": ["top_p", "temperature"], "min_p": 0.1}, {"top_k": 0}),
        (
            {"samplers": "edkypmxt", "min_p": 0.1, "presence_penalty": 1},
            {"min_p": 0.1, "presence_penalty": 1},
        ),
        ({"samplers": [], "repeat_penalty": 2}, {"top_k": 0, "top_p": 1}),
        ({"grammar": "", "json_schema": {}}, {"json_schema": {}}),
        ({"n_probs": 3}, {"logprobs": 3}),
        ({"n_probs": 0, "seed": None, "stop": None}, {}),
        ({"typical_p": 1, "mirostat": 0, "dynatemp_range": 0, "xtc_probability": 0}, {}),
    ],
    ids=str,
)
async def test_fields_become_options(
    app: FastAPI, body: dict[str, Any], options: dict[str, Any] | None
) -> None:
    form = CompletionForm(prompt="x", **body)
    asked = await form.asked(app.state.service)
    assert not asked.warnings
    given = {name: value for name, value in asked.options.items() if value not in (None, [])}
    assert 0 <= given.pop("seed") < 2**32
    assert given == (body if options is None else options)


@pytest.mark.parametrize(("seed", "is_kept"), [(7, True), (-1, False), (0xFFFFFFFF, False)])
async def test_a_seed_is_kept_or_drawn(app: FastAPI, seed: int, is_kept: bool) -> None:
    asked = await CompletionForm(prompt="x", seed=seed).asked(app.state.service)
    assert (asked.options["seed"] == seed) is is_kept


def test_a_bias_for_a_text_is_one_for_its_tokens(client: TestClient) -> None:
    body = {"prompt": DIALOGUE, "temperature": 0, "n_predict": 8}
    text = completed(client, **body)["content"]
    assert "You" in text
    assert "You" not in completed(client, **body, logit_bias=[["You", False]])["content"]
    answer = client.post("/completion", json={**body, "logit_bias": [["You", True]]})
    assert answer.json()["error"]["param"] == "logit_bias[0]"


def test_samplers_that_this_engine_lacks_are_named(client: TestClient) -> None:
    answer = completed(client, n_predict=1, mirostat=2, lora=[{"id": 0}], post_sampling_probs=True)
    assert [text.partition(":")[0] for text in answer["warnings"]] == [
        *("mirostat", "post_sampling_probs", "lora")
    ]


# ---- prompts --------------------------------------------------------------------------------


def test_prompts_come_in_all_forms(client: TestClient, server_model: StarChat) -> None:
    ids = server_model.tokenize("def f(x):")
    body = {"n_predict": 4, "temperature": 0}
    text = completed(client, **body, prompt="def f(x):")["content"]
    assert completed(client, **body, prompt=ids)["content"] == text
    assert completed(client, **body, prompt=[*ids[:2], server_model.detokenize(ids[2:])])
    assert completed(client, **body, prompt={"prompt_string": "def f(x):"})["content"] == text
    several = completed(client, **body, prompt=["def f(x):", ids, {"prompt_string": "def f(x):"}])
    assert [(one["index"], one["content"]) for one in several] == [(i, text) for i in range(3)]
    assert [one["content"] for one in completed(client, **body, prompt=["def f(x):"])] == [text]
    assert completed(client, **body, prompt="")["tokens_evaluated"] == 1
    assert completed(client, **body, prompt=ids)["prompt"] == "def f(x):"


def test_several_replies_have_their_own_seeds(client: TestClient, server_model: StarChat) -> None:
    body = {"prompt": "def f(x):", "n_predict": 8, "temperature": 2, "seed": 5}
    several = completed(client, **body, n_cmpl=2)
    expected = server_model.complete("def f(x):", n=2, max_tokens=8, temperature=2, seed=5).choices
    assert [one["content"] for one in several] == [reply.text for reply in expected]
    streamed = events(client, **body, n_cmpl=2)
    for index, reply in enumerate(expected):
        own = [piece for piece in streamed if piece["index"] == index]
        assert "".join(piece["content"] for piece in own) == reply.text
        assert [piece["stop"] for piece in own][-1] is True


def test_control_tokens_of_a_prompt_can_be_plain_text(
    client: TestClient, server_model: StarChat
) -> None:
    n_framed, n_plain = [len(server_model.tokenize(DIALOGUE, special)) for special in (True, False)]
    for body, n in (
        ({}, n_framed),
        ({"parse_special": False}, n_plain),
        ({"allow_special": False}, n_plain),
        ({"allow_special": ["<|end|>"]}, len(server_model.tokenize(DIALOGUE, ["<|end|>"]))),
    ):
        assert completed(client, prompt=DIALOGUE, n_predict=1, **body)["tokens_evaluated"] == n


# ---- answers --------------------------------------------------------------------------------


def test_a_whole_answer(client: TestClient, server_model: StarChat) -> None:
    options: dict[str, Any] = {"temperature": 0, "seed": 5}
    answer = completed(client, prompt=DIALOGUE, **options, n_predict=200, return_tokens=True)
    reply = server_model.complete(DIALOGUE, **options, max_tokens=200)
    settings = answer.pop("generation_settings")
    del answer["timings"]
    assert answer == {
        "index": 0,
        "content": reply.text,
        "tokens": [*reply.token_ids],
        "id_slot": 0,
        "stop": True,
        "model": "starchat-nano.q8_0.bin",
        "tokens_predicted": reply.usage.completion_tokens,
        "tokens_evaluated": reply.usage.prompt_tokens,
        "prompt": DIALOGUE,
        "has_new_line": True,
        "truncated": False,
        "stop_type": "eos",
        "stopping_word": "",
        "tokens_cached": answer["tokens_cached"],
    }
    assert (settings["temperature"], settings["seed"], settings["n_predict"]) == (0, 5, 200)
    assert (settings["top_k"], settings["top_p"]) == (50, 0.95)


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        ({"n_predict": 3, "ignore_eos": True}, "limit", ""),
        ({"prompt": DIALOGUE, "temperature": 0}, "eos", ""),
        ({"prompt": DIALOGUE, "temperature": 0, "stop": ["never", "sort"]}, "word", "sort"),
        ({"n_predict": 0}, "limit", ""),
    ],
)
def test_why_a_reply_ended(client: TestClient, body: dict[str, Any], kind: str, word: str) -> None:
    answer = completed(client, **body)
    assert (answer["stop_type"], answer["stopping_word"]) == (kind, word)
    last = events(client, **body)[-1]
    assert (last["stop_type"], last["stopping_word"], last["stop"]) == (kind, word, True)


def test_a_stream_has_the_text_of_a_whole_answer(client: TestClient) -> None:
    body = {"prompt": DIALOGUE, "seed": 5, "temperature": 0.8}
    whole = completed(client, **body, return_tokens=True)
    *pieces, last = events(client, **body, timings_per_token=True, n_probs=2)
    assert "".join(piece["content"] for piece in pieces) == whole["content"]
    assert [id for piece in pieces for id in piece["tokens"]] == whole["tokens"]
    assert all(piece["stop"] is False and piece["tokens"] for piece in pieces)
    assert [piece["tokens_predicted"] for piece in pieces][-1] == len(whole["tokens"])
    assert all(piece["timings"]["prompt_ms"] > 0 for piece in pieces)
    assert sum(len(piece["completion_probabilities"]) for piece in pieces) == len(whole["tokens"])
    assert (last["content"], last["tokens"]) == ("", [])
    for name in ("tokens_predicted", "tokens_evaluated", "stop_type", "generation_settings"):
        assert last[name] == whole[name]


def test_progress_of_a_prompt(client: TestClient) -> None:
    prompt = "".join(f"a{i} = {i}\n" for i in range(200))
    first, *_ = events(client, prompt=prompt, n_predict=1, return_progress=True)
    progress = first["prompt_progress"]
    assert progress["total"] == first["tokens_evaluated"] or first["tokens_evaluated"] == 0
    assert 0 <= progress["cache"] <= progress["processed"] <= progress["total"]
    assert progress["time_ms"] >= 0
    assert "prompt_progress" not in events(client, prompt=prompt, n_predict=1)[0]


def test_log_probabilities(client: TestClient, server_model: StarChat) -> None:
    answer = completed(client, prompt="é", n_predict=3, n_probs=2, temperature=0, ignore_eos=True)
    reply = server_model.complete("é", max_tokens=3, logprobs=2, temperature=0, ignore_eos=True)
    for sent, token in zip(answer["completion_probabilities"], reply.logprobs, strict=True):
        assert (sent["id"], sent["token"]) == (token.token_id, token.token)
        assert bytes(sent["bytes"]) == token.bytes
        assert [one["id"] for one in sent["top_logprobs"]] == [id for id, _, _ in token.top]
        assert sent["logprob"] == pytest.approx(token.logprob)


def test_a_warm_up_leaves_its_prompt_in_the_cache(client: TestClient) -> None:
    prompt = "warm = 1\n" * 60
    assert completed(client, prompt=prompt, n_predict=0)["content"] == ""
    answer = completed(client, prompt=prompt, n_predict=1)
    assert answer["tokens_cached"] > answer["tokens_evaluated"] // 2


def test_only_the_fields_that_are_asked_for(client: TestClient) -> None:
    wanted = ["content", "generation_settings/n_predict", "nothing", "timings/none"]
    answer = completed(client, n_predict=2, response_fields=wanted)
    assert {*answer} == {"content", "generation_settings/n_predict"}
    assert answer["generation_settings/n_predict"] == 2


# ---- tokens and properties ------------------------------------------------------------------


async def test_texts_and_tokens(app: FastAPI, client: TestClient, server_model: StarChat) -> None:
    service: Service = app.state.service
    ids = server_model.tokenize("<|end|>é🙂", True)
    assert await tokenized(TokenizeForm(content="<|end|>é🙂"), service) == {"tokens": ids}
    plain = TokenizeForm(content="<|end|>", parse_special=False)
    assert (await tokenized(plain, service))["tokens"] == server_model.tokenize("<|end|>")
    pieces = (await tokenized(TokenizeForm(content="aé🙂", with_pieces=True), service))["tokens"]
    joined = b"".join(
        piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"])
        for piece in pieces
    )
    assert joined.decode() == "aé🙂"
    assert client.post("/detokenize", json={"tokens": ids}).json() == {"content": "<|end|>é🙂"}


def test_properties(client: TestClient, server_model: StarChat) -> None:
    properties = client.get("/props").json()
    settings = properties["default_generation_settings"]
    assert settings["n_ctx"] == server_model.info.n_ctx
    defaults = settings["params"]
    assert (defaults["temperature"], defaults["top_k"], defaults["top_p"]) == (0.2, 50, 0.95)
    assert properties["total_slots"] == 64
    assert "/" not in properties["model_path"]


def test_the_template_renders_what_the_model_reads(
    client: TestClient, server_model: StarChat
) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = ImmutableSandboxedEnvironment().from_string(
        client.get("/props").json()["chat_template"]
    )
    user, assistant = [{"role": role, "content": "Hi {%"} for role in ("user", "assistant")]
    system = {"role": "system", "content": "Be brief."}
    for messages in ([user], [system, user], [system, user, assistant, user]):
        text = template.render(messages=messages, add_generation_prompt=True)
        marked = server_model.render(messages)
        assert text == marked.replace("«", "").replace("»", "")
        prompt = client.post("/apply-template", json={"messages": messages}).json()["prompt"]
        assert server_model.tokenize_prompt(prompt) == server_model.tokenize(text, True)


def test_slots_are_shown_where_the_operator_says_so(
    client: TestClient, server_model: StarChat
) -> None:
    answer = client.get("/slots")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (501, 501, "not_supported_error")
    app = create_app(ServerSettings(slots=True, max_running=2), server_model)
    slots = TestClient(app, "http://localhost").get("/slots?fail_on_no_slot=1").json()
    assert [(slot["id"], slot["is_processing"]) for slot in slots] == [(0, False), (1, False)]
    assert slots[0]["n_ctx"] == server_model.info.n_ctx
    assert "prompt" not in slots[0]


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "send", "status", "kind"),
    [
        ("POST", "/completion", {"json": {}}, 400, "invalid_request_error"),
        ("POST", "/completion", {"json": {"prompt": []}}, 400, "invalid_request_error"),
        ("POST", "/completion", {"content": b"["}, 400, "invalid_request_error"),
        ("POST", "/completion", {"json": {"prompt": "x", "n": 17}}, 400, "invalid_request_error"),
        ("POST", "/completion", {"json": {"prompt": ["x"] * 17}}, 400, "invalid_request_error"),
        (
            "POST",
            "/completion",
            {"json": {"prompt": ["x", "y"], "stream": True}},
            400,
            "invalid_request_error",
        ),
        (
            "POST",
            "/completion",
            {"json": {"prompt": {"prompt_string": "x", "multimodal_data": ["a"]}}},
            400,
            "invalid_request_error",
        ),
        ("POST", "/completion", {"json": {"prompt": "x" * 9000}}, 400, "exceed_context_size_error"),
        ("POST", "/infill", {"json": {"input_prefix": "a"}}, 400, "invalid_request_error"),
        ("POST", "/detokenize", {"json": {"tokens": [-1]}}, 400, "invalid_request_error"),
        ("POST", "/apply-template", {"json": {"messages": [1]}}, 400, "invalid_request_error"),
        ("GET", "/completion", {}, 405, "invalid_request_error"),
    ],
)
def test_errors_have_the_code_of_http(
    client: TestClient, method: str, path: str, send: Any, status: int, kind: str
) -> None:
    answer = client.request(method, path, **send)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, status, kind)
    assert error["message"]
    if kind.startswith("exceed"):
        assert (error["n_ctx"], error["n_prompt_tokens"] > 2048) == (2048, True)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/completion", {"prompt": [None] * 9_000}, "prompt: expected 1 to 16 prompts, got 9000"),
        ("/completion", {"prompt": [[1, None]]}, "prompt[0]: expected a text, a list of token ids"),
        ("/completion", {"prompt": [1, "a"] * 4_500}, "prompt has at least 9,000 tokens"),
        (
            "/completion",
            {"stop": [None] * 9_000},
            "stop: expected a text, or a list of at most 1,0",
        ),
        ("/completion", {"logit_bias": {str(i): None for i in range(9_000)}}, "at most 512"),
        ("/completion", {"logit_bias": [["a" * 300, 1]]}, "logit_bias[0]: expected a token id or"),
        ("/completion", {"samplers": [None] * 9_000}, "samplers"),
        ("/completion", {"repeat_penalty": -1}, "repeat_penalty: "),
        ("/completion", {"n_probs": 99}, "n_probs: "),
        ("/infill", {"input_extra": [None] * 9_000}, "at most 1024 items"),
        ("/apply-template", {"messages": [None] * 9_000}, "messages[0]"),
        ("/detokenize", {"tokens": [None] * 9_000}, "tokens[0]"),
        ("/detokenize", {"tokens": [1, 10**30]}, "tokens[1]"),
    ],
)
def test_what_is_wrong_is_said_in_llama_cpps_terms(
    client: TestClient, path: str, body: dict[str, Any], words: str
) -> None:
    whole = {"prompt": "x", "input_prefix": "", "input_suffix": "", **body}
    answer = client.post(path, json=whole)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_work_ends_when_its_client_goes(served: Served, stream: bool) -> None:
    body = {"prompt": "def f(x):", "n_predict": 1_900, "ignore_eos": True, "stream": stream}
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        asking = asyncio.create_task(http.post("/completion", json=body))
        while served.service.admission.running == 0:
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.wait((asking,))
    tokens = served.model.stats()["tokens"]
    await asyncio.to_thread(served.wait_until_idle)
    assert served.model.stats()["tokens"] - tokens < 1_000


def test_a_wrong_id_is_named_as_part_of_the_prompt(client: TestClient) -> None:
    error = client.post("/completion", json={"prompt": [True], "n_predict": 1}).json()["error"]
    assert error["param"] == "prompt[0]"
