"""n replies of one prompt, and the progress of a long prompt, as handlers see it."""

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.llms.starchat import PromptProgressEvent, StarChat

import starchat

LLM = StarChat(temperature=1.2, seed=5, max_tokens=9, min_tokens=2)
QUESTION = "How do I sort a list?"


def test_a_response_has_the_first_reply_and_raw_has_all() -> None:
    singles = [LLM.complete(QUESTION, seed=seed) for seed in (5, 6, 7)]
    dialogue = [ChatMessage(QUESTION)]
    asked: list[Any] = [
        LLM.complete(QUESTION, n=3),
        LLM.chat(dialogue, n=3).model_copy(update={"text": singles[0].text}),
        asyncio.run(LLM.acomplete(QUESTION, n=3)),
    ]
    assert asked[0].text == asked[2].text == singles[0].text
    assert LLM.chat(dialogue, n=3).message.content == singles[0].text
    for response in asked:
        choices = response.raw["choices"]
        assert [choice["text"] for choice in choices] == [single.text for single in singles]
        assert choices[0]["token_ids"] == response.raw["token_ids"]
        counts = response.additional_kwargs
        alone = [single.additional_kwargs for single in singles]
        assert counts["prompt_tokens"] == alone[0]["prompt_tokens"]
        assert counts["completion_tokens"] == sum(each["completion_tokens"] for each in alone)
    raw: Any = singles[0].raw
    assert "choices" not in raw


def test_a_salt_keeps_cached_tokens_within_a_guest() -> None:
    def found(llm: StarChat, **call: Any) -> bool:
        response = llm.complete("How do I sort a list of lists of lists? " * 5, **call)
        return bool(response.raw["usage"]["cached_tokens"])

    ann = StarChat(max_tokens=1, cache_salt="ann")
    asked = [found(ann), found(ann), found(LLM), found(ann, cache_salt="bob"), found(ann)]
    assert asked == [False, True, False, False, True]


def test_a_stream_of_n_is_refused_at_the_call() -> None:
    with pytest.raises(starchat.InvalidRequestError, match="n: expected 1, got 2: a stream"):
        LLM.stream_complete(QUESTION, n=2)
    with pytest.raises(starchat.InvalidRequestError, match="n: expected 1, got 2: a stream"):
        asyncio.run(LLM.astream_chat([ChatMessage(QUESTION)], n=2))
    assert "".join(r.delta or "" for r in LLM.stream_complete(QUESTION, n=1))


def test_handlers_get_the_progress_of_a_long_prompt(events: Any) -> None:
    def progress() -> list[PromptProgressEvent]:
        return [event for event in events.events if isinstance(event, PromptProgressEvent)]

    LLM.complete(QUESTION)
    assert progress() == []  # one step
    asks: list[Any] = [
        lambda text: list(LLM.stream_complete(text)),
        lambda text: asyncio.run(LLM.acomplete(text)),
    ]
    for i, ask in enumerate(asks):
        events.events.clear()
        ask(f"{i}" + " one two three" * 200)
        done, total = [event.done for event in progress()], progress()[-1].total
        assert total > 512
        assert len(done) > 1
        assert done == sorted(set(done))
        assert done[-1] == total
