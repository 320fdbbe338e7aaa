"""ctransformers, an older reader of the same files, chooses the same tokens for the same ids."""

from __future__ import annotations

import json

import numpy as np
import pytest

from starchat import StarChat
from support.processes import run_python

pytest.importorskip("ctransformers", reason="a wheel for Linux on x86-64")
pytestmark = pytest.mark.integration

QUESTIONS = [
    "How do I sort a list in Python?",
    "How do I read a file line by line?",
    "How do I merge two dictionaries?",
    "Hello",
]
N_TOKENS = 40

# In a process of its own: its library would bring its own thread settings and signal handling.
GREEDY = """
import json, sys
from ctransformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], model_type="starcoder", context_length=256, threads=1)
replies = []
for prompt in json.loads(sys.argv[2]):
    model.reset()
    ids = list(prompt)
    model.eval(ids)
    reply = []
    for _ in range(int(sys.argv[3])):
        reply.append(max(range(len(model.logits)), key=model.logits.__getitem__))
        if reply[-1] == int(sys.argv[4]):
            break
        model.eval(reply[-1:])
    replies.append(reply)
print(json.dumps(replies))
"""


def test_greedy_tokens_are_the_same_but_where_two_nearly_tie(nano: StarChat) -> None:
    """Both read the same ids at each step, so one other choice does not change the next.

    Both round activations to 8 bits, in other blocks. That moves logits, whose deviation is 2.4,
    by up to 0.24 on the embedded weights with noise; their own weights leave no tie that close.
    """
    end = nano.tokenize("<|end|>", allow_special=True)[0]
    prompts = [
        nano.tokenize(
            f"<|system|>\n<|end|>\n<|user|>\n{question}<|end|>\n<|assistant|>", allow_special=True
        )
        for question in QUESTIONS
    ]
    arguments = [nano.info.file, json.dumps(prompts), str(N_TOKENS), str(end)]
    result = run_python(GREEDY, *arguments)
    assert result.returncode == 0, result.stderr
    same = []
    for question, prompt, chosen in zip(QUESTIONS, prompts, json.loads(result.stdout), strict=True):
        logits = nano.logits([*prompt, *chosen])[len(prompt) - 1 : -1]
        gaps = logits.max(axis=1) - logits[np.arange(len(chosen)), chosen]
        assert gaps.max() <= 0.5, question
        if not gaps.any():
            reply = nano.complete(prompt, temperature=0, max_tokens=N_TOKENS, stop_token_ids=[end])
            stop = [end] if reply.finish_reason == "stop" else []
            assert [*reply.token_ids, *stop] == chosen, question
        same += [*(gaps == 0)]
    assert np.mean(same) >= 0.95
