"""Requests that hypothesis draws, for the scheduler over its fake model."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def draw_request(data: st.DataObject, known: list[list[int]]) -> tuple[list[int], dict[str, Any]]:
    """Return a prompt that begins as one of `known` does, and how its reply is sampled."""
    base = data.draw(st.sampled_from(known))
    prompt = [*base[: data.draw(st.integers(1, len(base)))], data.draw(st.integers(0, 9))]
    return prompt, {
        "max_tokens": data.draw(st.integers(1, 50)),
        "temperature": data.draw(st.sampled_from([0.0, 0.5, 2.0])),
        "seed": data.draw(st.integers(0, 5)),
        "repetition_penalty": data.draw(st.sampled_from([1.0, 1.2])),
    }
