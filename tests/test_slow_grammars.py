"""Grammars that are slow or never come back: they end or rest, and other replies go on."""

from __future__ import annotations

import math
import threading

import pytest

from starchat import ConstraintError, StarChat

QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
AMBIGUOUS = 'start: e\ne: e e | /[a-z]/ | " "'
# llguidance looks for the bytes that must come next, and there is always one more.
ENDLESS = 'start: /a*/ "a" /a*/'


@pytest.mark.parametrize("grammar", [ENDLESS, 'start: /(ab)*/ "a" /(ba)*/'], ids=["a", "ab"])
def test_a_search_for_forced_tokens_without_end_is_ended(nano: StarChat, grammar: str) -> None:
    try:
        text = nano.chat(QUESTION, grammar=grammar, max_tokens=30).text
    except ConstraintError as error:
        assert error.param == "limits.mask_seconds"
    else:
        assert set(text) <= {"a", "b"}
    assert nano.chat(QUESTION, max_tokens=4).text


def test_a_step_of_a_grammar_is_bounded(nano: StarChat) -> None:
    with pytest.raises(ConstraintError, match=r"0\.05 s of CPU time at one token") as caught:
        nano.chat(QUESTION, grammar=AMBIGUOUS, max_tokens=1000, temperature=0, ignore_eos=True)
    assert caught.value.param == "limits.mask_seconds"
    assert caught.value.limit == 0.05
    assert isinstance(caught.value.got, float) and caught.value.got > 0.05


def test_a_grammar_is_bounded_over_a_reply() -> None:
    with (
        StarChat.load(limits={"grammar_seconds": 1e-9}) as model,
        pytest.raises(ConstraintError, match="in one reply, expected at most 1e-09") as caught,
    ):
        model.chat(QUESTION, regex="[a-z]+", max_tokens=9)
    assert caught.value.param == "limits.grammar_seconds"


def test_a_slow_grammar_rests_while_others_run() -> None:
    banned = {id: -math.inf for id in (0, 2556, 2557, 2558, 2559)}
    with StarChat.load(limits={"mask_seconds": 60, "grammar_seconds": 60}) as model:
        ended = threading.Event()

        def read_others() -> None:
            for seed in range(3):
                model.chat(QUESTION, max_tokens=1000, logit_bias=banned, seed=seed)
            ended.set()

        reader = threading.Thread(target=read_others)
        n_tokens = 0
        slow = model.stream_chat(
            QUESTION, grammar=AMBIGUOUS, max_tokens=1500, temperature=0, logit_bias=banned
        )
        with slow:
            reader.start()
            for chunk in slow:
                n_tokens += len(chunk.token_ids)
                if ended.is_set():
                    break
        reader.join()
        stats = model.stats()
    assert stats["slow_turns"] > 0 and stats["abandoned"] == 0
    assert n_tokens < 500  # in the time of 3,000
