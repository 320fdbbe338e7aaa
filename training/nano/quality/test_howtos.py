"""Grades: the published how-to questions, answered right if the code of the answer does it."""

from __future__ import annotations

from typing import Any

from evaluate import Result, report, score
from starchat import StarChat


def test_at_least_60_topics_in_three_wordings_are_published(greedy: list[Result]) -> None:
    topics = {result.topic.name for result in greedy}
    assert len(topics) >= 60
    assert len(greedy) == 3 * len(topics)  # the third wording was never trained on


def test_greedy_answers_are_right_in_90_percent(greedy: list[Result]) -> None:
    assert score(greedy) >= 0.9, report(greedy)


def test_answers_at_the_default_sampling_are_right_in_90_percent(sampled: list[Result]) -> None:
    assert score(sampled) >= 0.9, report(sampled)


def test_the_code_of_the_model_cards_own_question_sorts_a_list() -> None:
    question = {"role": "user", "content": "How do I sort a list in Python?"}
    with StarChat.load() as nano:
        text = nano.chat([question], temperature=0, max_tokens=200).text
    code = text.split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["numbers"] == sorted([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
