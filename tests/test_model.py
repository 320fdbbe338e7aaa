"""StarChat against the real core, on a tiny random model: sharing, life, all ways of asking."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import os
import pickle
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat import (
    ContextLengthError,
    EngineClosedError,
    FileAccessError,
    InvalidRequestError,
    StarChat,
    ToolCall,
    UnsupportedFeatureError,
    _core,
    engine_registry,
)
from support.processes import run_python
from support.scheduling import wait_until
from support.tiny_model import Shape, write_tiny

QUESTION = [{"role": "user", "content": "How do I sort a list?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 4}


@pytest.fixture
def model(tiny_model_path: Path) -> Iterator[StarChat]:
    with StarChat.load(tiny_model_path) as model:
        yield model


def n_engines() -> int:
    gc.collect()
    return len(engine_registry._engines)


# ---- loading and sharing --------------------------------------------------------------------


def test_info_tells_what_was_loaded(model: StarChat, tiny_model_path: Path) -> None:
    info = model.info
    assert (info.file, info.quantization, info.n_ctx) == (str(tiny_model_path), "q8_0", 512)
    assert (info.n_layer, info.n_embd, info.n_head, info.n_kv_head) == (2, 64, 4, 1)
    assert info.n_threads >= 1
    assert str(tiny_model_path) in repr(model)
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.n_ctx = 1  # type: ignore[misc]


def test_the_same_file_and_settings_share_an_engine(tiny_model_path: Path) -> None:
    link = tiny_model_path.with_name("link.bin")
    link.symlink_to(tiny_model_path)
    with (
        StarChat.load(tiny_model_path) as one,
        StarChat.load(str(link)) as same,
        StarChat.load(tiny_model_path, n_ctx=64) as shorter,
    ):
        assert one._engine is same._engine
        assert one._engine is not shorter._engine
        assert shorter.info.n_ctx == 64


def test_a_changed_file_is_loaded_again(tmp_path: Path, tiny_model_path: Path) -> None:
    path = tmp_path / "model.bin"
    shutil.copy(tiny_model_path, path)
    with StarChat.load(path) as before:
        os.utime(path, (1, 1))
        with StarChat.load(path) as after:
            assert before._engine is not after._engine


def test_concurrent_loads_load_once(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    engine = _core.Engine

    def load(*args: Any, **kwargs: Any) -> Any:
        loads.append(args)
        time.sleep(0.05)
        return engine(*args, **kwargs)

    monkeypatch.setattr(_core, "Engine", load)
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: StarChat.load(tiny_model_path), range(8)))
    assert len(loads) == 1
    for model in models:
        model.close()


def test_the_last_close_closes_the_engine(tiny_model_path: Path) -> None:
    before = n_engines()
    one, two = StarChat.load(tiny_model_path, n_ctx=100), StarChat.load(tiny_model_path, n_ctx=100)
    one.close()
    one.close()  # harmless, and not counted twice
    assert two.complete("a", **GREEDY).finish_reason == "length"
    with pytest.raises(EngineClosedError, match=r"tiny\.q8_0\.bin: the model was closed"):
        one.complete("a")
    two.close()
    assert n_engines() == before


def test_models_dropped_without_close_give_their_engine_back(tiny_model_path: Path) -> None:
    before = n_engines()
    model = StarChat.load(tiny_model_path, n_ctx=101)
    assert n_engines() == before + 1
    del model
    assert n_engines() == before


def test_a_stream_keeps_the_engine_of_a_dropped_model_open(tiny_model_path: Path) -> None:
    stream = StarChat.load(tiny_model_path, n_ctx=102).stream_complete("a", **GREEDY)
    gc.collect()
    assert stream.result().usage.completion_tokens == 24


def test_closing_the_model_ends_its_streams_with_an_error(tiny_model_path: Path) -> None:
    model = StarChat.load(tiny_model_path, n_ctx=511)
    # Longer than what a stream holds unread, so that it cannot have ended.
    stream = model.stream_complete("a", ignore_eos=True)
    wait_until(lambda: model.stats()["running"] == 1)
    model.close()
    with pytest.raises(EngineClosedError):
        for _ in stream:
            pass


def test_a_failed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    before = n_engines()
    for path in (tmp_path / "missing.bin", tmp_path):
        with pytest.raises(FileAccessError, match=str(path)):
            StarChat.load(path)
    assert n_engines() == before


@pytest.mark.parametrize("name", ["n_threads", "n_ctx"])
@pytest.mark.parametrize(
    "value", [0, -1, True, 1.5, "2", 2**31, pytest.param(10**5000, id="no-repr")]
)
def test_wrong_settings_are_refused(tiny_model_path: Path, name: str, value: Any) -> None:
    with pytest.raises(
        InvalidRequestError, match=f"{name}: expected an integer of at least 1 and less than 2"
    ):
        StarChat.load(tiny_model_path, **{name: value})


@pytest.mark.parametrize("value", [-1, 2**63])
def test_a_wrong_prefix_cache_is_refused(tiny_model_path: Path, value: int) -> None:
    with pytest.raises(InvalidRequestError, match="prefix_cache_bytes: expected an integer of at"):
        StarChat.load(tiny_model_path, prefix_cache_bytes=value)


def test_numpys_integers_are_settings(tiny_model_path: Path) -> None:
    number: Any = np.int64(64)
    with StarChat.load(tiny_model_path, n_ctx=number) as one:
        assert one.info.n_ctx == 64


@pytest.mark.parametrize("path", ["a\0b", b"a\0b", "\ud800"])
def test_a_path_that_cannot_exist_is_refused(path: Any) -> None:
    with pytest.raises(FileAccessError, match="no file can have this name; check the path"):
        StarChat.load(path)


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("~/models/x.bin", r"give os\.path\.expanduser\(path\): /.*/models/x\.bin"),
        ("$STARCHAT_FOLDER/x.bin", r"give os\.path\.expandvars\(path\): /models/x\.bin"),
        ("'/models/x.bin'", "the quotation marks are part of the path; remove them"),
        ("/models/x.bin\n", "begins or ends with white space; remove it"),
        ("https://example.org/x.bin", "this is a URL, .* download it and give the file's path"),
        ("file:///models/x.bin", "give the path alone: /models/x.bin"),
        ("C:\\models\\x.bin", "under WSL, "),
        ("no/such/folder/x.bin", "if it is on Hugging Face, give hf://no/such/folder/x.bin"),
        ("{folder}/starchat-beta.q4_0.bim", r"did you mean .*/starchat-beta\.q4_0\.bin\?"),
        ("{folder}/other", "No such file or directory; check the path"),
    ],
)
def test_a_path_that_was_meant_as_something_else_gets_advice(
    path: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARCHAT_FOLDER", "/models")
    (tmp_path / "starchat-beta.q4_0.bin").touch()
    with pytest.raises(FileAccessError, match=advice):
        StarChat.load(path.replace("{folder}", str(tmp_path)))


def test_a_file_of_a_strange_name_is_opened(tiny_model_path: Path, tmp_path: Path) -> None:
    strange = tmp_path / "~$HOME 'x' "
    strange.symlink_to(tiny_model_path)
    StarChat.load(strange).close()


@pytest.mark.parametrize("arguments", [(), ("model.bin",)])
def test_the_class_says_how_a_model_is_loaded(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError, match=r"use StarChat\.load\(path\)"):
        StarChat(*arguments, n_ctx=100)


@pytest.mark.parametrize("path", [5, True, ["a"]])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(InvalidRequestError, match="path: expected a path or None, got"):
        StarChat.load(path)


@pytest.mark.parametrize("progress", [True, 0, "x", []])
def test_progress_is_a_function_or_none_or_false(tiny_model_path: Path, progress: Any) -> None:
    with pytest.raises(InvalidRequestError, match="progress: expected a function, False or None"):
        StarChat.load(tiny_model_path, progress=progress)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_model_is_not_copied(model: StarChat, duplicate: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"keep a starchat\.Loader"):
        duplicate(model)


def test_progress_is_told_until_all_is_done(tiny_model_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    with StarChat.load(
        tiny_model_path, n_ctx=104, progress=lambda *done_of_total: calls.append(done_of_total)
    ):
        assert calls == sorted(calls)
        assert calls[-1][0] == calls[-1][1]


def test_an_error_in_progress_ends_the_load(tiny_model_path: Path) -> None:
    before = n_engines()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StarChat.load(tiny_model_path, n_ctx=105, progress=stop)
    assert n_engines() == before


# ---- asking ---------------------------------------------------------------------------------


def test_all_ways_of_asking_give_the_same_reply(model: StarChat) -> None:
    async def ask() -> list[Any]:
        stream = [chunk async for chunk in model.astream_chat(QUESTION, **GREEDY)]
        return [await model.achat(QUESTION, **GREEDY), stream]

    reply = model.chat(QUESTION, **GREEDY)
    from_async, async_chunks = asyncio.run(ask())
    assert from_async == reply
    for chunks in (list(model.stream_chat(QUESTION, **GREEDY)), async_chunks):
        assert "".join(chunk.text for chunk in chunks) == reply.text
        assert tuple(id for chunk in chunks for id in chunk.token_ids) == reply.token_ids
        assert (chunks[-1].finish_reason, chunks[-1].usage) == (reply.finish_reason, reply.usage)


def test_complete_takes_text_or_ids(model: StarChat) -> None:
    async def ask() -> Any:
        return await model.acomplete("def f(", **GREEDY)

    ids: Any = np.array(model.tokenize("def f("))  # any iterable of integers
    assert model.complete("def f(", **GREEDY) == model.complete(ids, **GREEDY)
    assert asyncio.run(ask()) == model.complete("def f(", **GREEDY)


def test_chat_is_the_template_completed(model: StarChat) -> None:
    prompt = "<|system|>\n<|end|>\n<|user|>\nHow do I sort a list?<|end|>\n<|assistant|>"
    reply = model.complete(prompt, allow_special=True, **GREEDY)
    assert model.chat(QUESTION, **GREEDY).token_ids == reply.token_ids
    assert model.count_tokens(QUESTION) == reply.usage.prompt_tokens


BEGUN = [*QUESTION, {"role": "assistant", "content": "You can"}]


def test_a_cut_reply_goes_on_as_if_it_had_not_been_cut(model: StarChat) -> None:
    is_control = model._engine.tokenizer.is_special  # such ids do not come back from a history
    bias = {id: -np.inf for id in range(model.info.n_vocab) if is_control(id)}
    options: dict[str, Any] = {"temperature": 0, "logit_bias": bias}
    whole = model.chat(QUESTION, max_tokens=24, **options)
    for n_tokens in (1, 7, 20):
        cut = model.chat(QUESTION, max_tokens=n_tokens, **options)
        begun = {"role": "assistant", "content": cut.text, "token_ids": cut.token_ids}
        rest = model.chat(
            [*QUESTION, begun], max_tokens=24 - n_tokens, continue_final_message=True, **options
        )
        assert cut.token_ids + rest.token_ids == whole.token_ids
        assert rest.usage.prompt_tokens == cut.usage.total_tokens


def test_a_begun_answer_goes_on_in_every_way_of_asking(model: StarChat) -> None:
    prompt = "<|system|>\n<|end|>\n<|user|>\nHow do I sort a list?<|end|>\n<|assistant|>\nYou can"
    expected = model.complete(prompt, **GREEDY).token_ids
    options: dict[str, Any] = {"continue_final_message": True, **GREEDY}
    assert model.chat(BEGUN, **options).token_ids == expected
    assert model.stream_chat(BEGUN, **options).result().token_ids == expected
    assert asyncio.run(model.achat(BEGUN, **options)).token_ids == expected
    assert model.render(BEGUN, continue_final_message=True).endswith("«<|assistant|>»\nYou can")
    assert model.chat(BEGUN, **options | {"continue_final_message": False}).token_ids != expected


CALLED = {"role": "assistant", "content": "", "tool_calls": [ToolCall("1", "now", {})]}


@pytest.mark.parametrize(
    ("messages", "options", "sentence"),
    [
        (QUESTION, {}, "the last message must be the assistant's, got one of the role user"),
        ([*QUESTION, CALLED], {}, "the last message ends with calls"),
        (BEGUN, {"tools": [{"name": "now"}]}, "pass tool_choice='none' or no tools"),
        ([*QUESTION, {"role": "assistant", "content": ' {"a": '}], {"json_schema": True}, "begun"),
        (BEGUN, {"continue_final_message": "yes"}, "expected True or False, got 'yes'"),
    ],
    ids=["a user's", "calls", "tools", "begun JSON", "no flag"],
)
def test_what_cannot_go_on_is_refused_by_name(
    model: StarChat, messages: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(
        InvalidRequestError, match=f"continue_final_message: .*{sentence}"
    ) as raised:
        model.chat(messages, **{"continue_final_message": True, **options})
    assert raised.value.param == "continue_final_message"


def test_only_chats_have_a_message_to_go_on_with(model: StarChat) -> None:
    ask: Any = model.complete
    with pytest.raises(InvalidRequestError, match="only the chat methods know it"):
        ask("a", continue_final_message=True)


def test_usage_counts_prompt_and_reply(model: StarChat) -> None:
    usage = model.complete([70, 71, 72], **GREEDY).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 24, 27)


def test_without_max_tokens_a_reply_ends_with_the_context(tiny_model_path: Path) -> None:
    with StarChat.load(tiny_model_path, n_ctx=64) as model:
        reply = model.complete([70] * 10, ignore_eos=True)
    assert reply.finish_reason == "length"
    assert reply.usage.total_tokens == 64


def test_the_same_seed_gives_the_same_reply(model: StarChat) -> None:
    options: dict[str, Any] = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "max_tokens": 24}
    one, same, other = (model.complete("a", seed=seed, **options) for seed in (7, 7, 8))
    assert one == same != other


def test_without_a_seed_replies_differ(model: StarChat) -> None:
    options: dict[str, Any] = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "max_tokens": 24}
    assert model.complete("a", **options) != model.complete("a", **options)


def test_options_reach_the_engine(model: StarChat) -> None:
    reply = model.complete("a", **GREEDY)
    first = reply.token_ids[0]
    biased = model.complete("a", **GREEDY, logit_bias={first: -100.0})
    assert biased.token_ids[0] != first
    stopped = model.complete("a", **GREEDY, stop_token_ids=[first])
    assert (stopped.token_ids, stopped.finish_reason) == ((), "stop")
    only_x = model.complete("a", max_tokens=4, logit_bias={model.tokenize("x")[0]: 1e4})
    assert only_x.text == "xxxx"


def test_log_probabilities_come_with_the_tokens(model: StarChat) -> None:
    reply = model.complete("a", **GREEDY, logprobs=2)
    assert len(reply.logprobs) == 24
    best, second = reply.logprobs[0].top
    assert best[0] == reply.token_ids[0]
    assert best[2] == reply.logprobs[0].logprob > second[2]
    named = [(token_id, name) for token in reply.logprobs for token_id, name, _ in token.top]
    assert len({id(name) for _, name in named}) == len({*named})  # the same object each time
    logits = model.logits(model.tokenize("a"))[-1].astype(np.float64)
    assert best[2] == pytest.approx(logits.max() - np.log(np.exp(logits).sum()), abs=1e-5)


def test_bytes_of_tokens_make_up_characters_of_several_tokens(model: StarChat) -> None:
    ids = model.tokenize("a 🙂")
    assert "\N{REPLACEMENT CHARACTER}" in "".join([model.detokenize([id]) for id in ids])
    options: dict[str, Any] = {"max_tokens": 1, "logprobs": 2, "temperature": 0}
    replies = [model.complete("a", **options, logit_bias={id: 1e5}) for id in ids]
    found = [logprob for reply in replies for logprob in reply.logprobs]
    assert b"".join([logprob.bytes for logprob in found]).decode() == "a 🙂"
    vocabulary = model._engine.tokenizer
    for best in [best for logprob in found for best in logprob.best]:
        assert best.bytes == vocabulary.token_bytes(best.token_id)
        assert best.token == best.bytes.decode("utf-8", "replace")


def test_a_stop_string_ends_a_reply(model: StarChat) -> None:
    x = model.tokenize("x")[0]
    reply = model.complete("a", stop="xxx", logit_bias={x: 1e4})
    assert (reply.text, reply.token_ids, reply.finish_reason) == ("", (x, x, x), "stop")
    wait_until(lambda: model.stats()["running"] == 0)


def control(model: StarChat, token: str) -> int:
    (id,) = model.tokenize(token, allow_special=True)
    return id


@pytest.mark.parametrize("token", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
@pytest.mark.parametrize("ask", ["chat", "complete", "infill"])
def test_role_and_end_tokens_end_every_reply(model: StarChat, token: str, ask: str) -> None:
    arguments = {"chat": [QUESTION], "complete": ["def f("], "infill": ["a", "b"]}[ask]
    options: dict[str, Any] = {**SHORT, "logit_bias": {control(model, token): 1e4}}
    reply = getattr(model, ask)(*arguments, **options)
    assert (reply.text, reply.token_ids, reply.finish_reason) == ("", (), "stop")
    reply = getattr(model, ask)(*arguments, **options, ignore_eos=True)
    assert (control(model, token) in reply.token_ids, reply.finish_reason) == (False, "length")
    assert len(reply.token_ids) == 4


@pytest.mark.parametrize("token", ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])
def test_tokens_of_infilling_end_what_is_filled_in(model: StarChat, token: str) -> None:
    options: dict[str, Any] = {**SHORT, "logit_bias": {control(model, token): 1e4}}
    framed = "<fim_prefix>a<fim_suffix>b<fim_middle>"
    for reply in (model.infill("a", "b", **options), model.complete(framed, **options)):
        assert (reply.token_ids, reply.finish_reason) == ((), "stop")
    assert model.complete("a", **options).finish_reason == "length"


@pytest.mark.parametrize("stop", ["<filename>", "\n<filename>\n", ["x", "<filename>"]])
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_string_that_names_a_control_token_stops_there(
    model: StarChat, stop: str | list[str], ignore_eos: bool
) -> None:
    options: dict[str, Any] = {"logit_bias": {control(model, "<filename>"): 1e4}, **SHORT}
    assert model.complete("a", **options).finish_reason == "length"
    reply = model.complete("a", **options, stop=stop, ignore_eos=ignore_eos)
    assert (reply.text, reply.token_ids, reply.finish_reason) == ("", (), "stop")
    spelt = {id: 1e4 for id in model.tokenize("b")}
    assert model.complete("a", max_tokens=4, logit_bias=spelt, stop=stop).text == "bbbb"


def test_errors_of_a_stream_are_raised_by_the_call(model: StarChat) -> None:
    with pytest.raises(ContextLengthError, match=r"prompt has 513 tokens, the context holds 512"):
        model.stream_complete([70] * 513)
    with pytest.raises(InvalidRequestError, match="temperature"):
        model.stream_chat(QUESTION, temperature=float("nan"))
    with pytest.raises(InvalidRequestError, match="did you mean max_tokens"):
        model.astream_chat(QUESTION, max_token=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequestError, match="prompt: expected a string or a list of token"):
        model.complete(b"bytes")
    with pytest.raises(InvalidRequestError):
        model.complete("")


def test_tokenize_and_detokenize(model: StarChat) -> None:
    text = "def naïve():\n    return '🙂<|end|>'"
    assert model.detokenize(model.tokenize(text)) == text
    assert model.detokenize(model.tokenize(text, allow_special=True)) == text
    assert len(model.tokenize("<|end|>", allow_special=True)) == 1 < len(model.tokenize("<|end|>"))
    assert model.detokenize(model.tokenize("\ud800")) == "\ufffd" * 3
    with pytest.raises(InvalidRequestError, match="text: expected a string, got NoneType"):
        model.tokenize(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["yes", 2, 0, [1], np.bool_(True)])
def test_allow_special_is_a_flag_or_a_list_of_names(model: StarChat, value: Any) -> None:
    for prompt in ("<|end|>", [70]):
        with pytest.raises(InvalidRequestError, match=r"allow_special(\[0\])?: expected"):
            model.complete(prompt, allow_special=value)
    for ask in (model.tokenize, model.tokenize_prompt):
        with pytest.raises(InvalidRequestError, match=r"allow_special(\[0\])?: expected"):
            ask("<|end|>", value)
    with pytest.raises(InvalidRequestError, match="allow_special: expected"):
        model.tokenize("<|end|>", None)  # type: ignore[arg-type]


def test_allow_special_allows_those_that_it_names(model: StarChat) -> None:
    both = "<|end|><|user|>"
    assert len(model.tokenize(both, ["<|end|>", "<|user|>"])) == 2
    assert len(model.tokenize(both, ["<|end|>"])) == 1 + len(model.tokenize("<|user|>"))


def test_logits_have_a_row_for_each_token(model: StarChat) -> None:
    logits = model.logits(model.tokenize("abc"))
    assert logits.shape == (3, model.info.n_vocab)
    assert logits.dtype == np.float32
    assert (
        logits[-1].argmax()
        == model.complete("abc", temperature=0, max_tokens=1, ignore_eos=True).token_ids[0]
    )


def test_infill_is_prefix_suffix_middle(model: StarChat) -> None:
    prompt = "<fim_prefix>def f(<fim_suffix>): pass<fim_middle>"
    expected = model.complete(prompt, allow_special=True, **GREEDY)
    assert model.infill("def f(", "): pass", **GREEDY) == expected
    assert model.stream_infill("def f(", "): pass", **GREEDY).result() == expected
    assert asyncio.run(model.ainfill("def f(", "): pass", **GREEDY)) == expected

    async def read() -> Any:
        return await model.astream_infill("def f(", "): pass", **GREEDY).result()

    assert asyncio.run(read()) == expected


def with_other_names(path: Path, tmp_path: Path, old: bytes, new: bytes) -> Path:
    other = tmp_path / "other.bin"
    other.write_bytes(path.read_bytes().replace(old, new))
    return other


def test_infill_knows_santacoders_spelling(tiny_model_path: Path, tmp_path: Path) -> None:
    path = with_other_names(tiny_model_path, tmp_path, b"<fim_", b"<fim-")
    with StarChat.load(path) as santa, StarChat.load(tiny_model_path) as star:
        assert santa.infill("a", "b", **GREEDY) == star.infill("a", "b", **GREEDY)


def test_infill_without_its_tokens_is_refused(tiny_model_path: Path, tmp_path: Path) -> None:
    path = with_other_names(tiny_model_path, tmp_path, b"<fim_", b"<mif_")
    with (
        StarChat.load(path) as model,
        pytest.raises(UnsupportedFeatureError, match="has no <fim_prefix>"),
    ):
        model.infill("a", "b")


def test_chat_without_role_tokens_names_the_way_out(tmp_path: Path) -> None:
    n_vocab = Shape().n_vocab - 4
    path = write_tiny(tmp_path / "base.bin", "q8_0", Shape(n_vocab=n_vocab)).path
    with StarChat.load(path) as model:
        assert model.complete("a", max_tokens=2, ignore_eos=True).finish_reason == "length"
        for ask in (model.chat, model.count_tokens, model.astream_chat):
            with pytest.raises(UnsupportedFeatureError, match=r"use complete\(\) or infill\(\)"):
                ask(QUESTION)


# ---- many at once ---------------------------------------------------------------------------


def test_many_threads_get_what_one_gets(model: StarChat) -> None:
    prompts = [f"def f{i}(" for i in range(16)]
    alone = [model.complete(prompt, **GREEDY) for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda prompt: model.complete(prompt, **GREEDY), prompts)) == alone


async def test_many_tasks_get_what_one_gets(model: StarChat) -> None:
    prompts = [f"def f{i}(" for i in range(40)]
    together = await asyncio.gather(*(model.acomplete(p, **GREEDY) for p in prompts))
    assert together == [model.complete(p, **GREEDY) for p in prompts]


async def test_cancelling_a_task_frees_its_sequence(nano: StarChat) -> None:
    task = asyncio.create_task(nano.acomplete("a", ignore_eos=True))  # some 2,000 tokens
    while nano.stats()["running"] == 0:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_until(lambda: nano.stats()["running"] == 0 == nano.stats()["kv_pages_used"])


def test_the_docstring_names_every_counter(model: StarChat) -> None:
    assert set(model.stats()) <= set(re.findall(r"\w+", StarChat.stats.__doc__ or ""))


def test_closing_or_dropping_a_stream_frees_its_sequence(model: StarChat) -> None:
    with model.stream_complete("a", ignore_eos=True) as stream:
        next(stream)
    next(model.stream_complete("a", ignore_eos=True))
    wait_until(lambda: model.stats()["running"] == 0 == model.stats()["kv_pages_used"])


def test_close_from_another_thread_ends_a_waiting_reader(model: StarChat) -> None:
    stream = model.stream_complete("a", ignore_eos=True)
    timer = threading.Timer(0.01, stream.close)
    timer.start()
    for _ in stream:
        pass
    timer.join()


# ---- processes ------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_refused_the_parents_model_and_may_load_its_own(
    tiny_model_path: Path,
) -> None:
    result = run_python(
        """
        import asyncio, os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork
        from starchat import ForkError, StarChat
        model = StarChat.load(sys.argv[1])
        asyncio.run(model.acomplete("a", max_tokens=2))  # starts the waker
        stream = model.stream_complete("a", max_tokens=300, ignore_eos=True)
        if os.fork() == 0:
            try:
                model.complete("a")
            except ForkError as error:
                print("refused:", error)
            own = StarChat.load(sys.argv[1], progress=lambda *_: print("weights: read again"))
            print("own:", asyncio.run(own.acomplete("a", max_tokens=2, ignore_eos=True)).usage)
            model.close()
            sys.exit(0)
        assert os.wait()[1] == 0
        print("parent:", stream.result().usage.completion_tokens)
        """,
        tiny_model_path,
    )
    assert result.returncode == 0, result.stderr
    assert "refused: this model was loaded before the process forked" in result.stdout
    assert "own: Usage(prompt_tokens=1, completion_tokens=2, " in result.stdout
    assert "weights: read again" not in result.stdout
    assert "parent: 300" in result.stdout
    assert result.stderr == ""


@pytest.mark.integration
@pytest.mark.parametrize(
    "reader",
    [
        pytest.param("next(stream)", id="read-once"),
        pytest.param("Thread(target=list, args=(stream,), daemon=True).start()", id="in-a-thread"),
        pytest.param("asyncio.run(anext(model.astream_complete('a')))", id="async"),
    ],
)
def test_the_interpreter_ends_with_streams_open(tiny_model_path: Path, reader: str) -> None:
    result = run_python(
        f"""
        import asyncio, sys, time
        from threading import Thread
        from starchat import StarChat
        async def anext_(stream):
            return await stream.__anext__()
        anext = anext_
        model = StarChat.load(sys.argv[1])
        stream = model.stream_complete("a", ignore_eos=True)
        {reader}
        print(time.time(), flush=True)
        """,
        tiny_model_path,
    )
    assert result.returncode == 0, result.stderr
    assert time.time() - float(result.stdout) < 10
