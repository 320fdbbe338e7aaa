"""LiteLLM in four modes: OpenAI's chat, its old completions, vLLM's, and embeddings."""

from __future__ import annotations

import asyncio
import sys

import litellm

URL, FILLING = sys.argv[1:3]
QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
SERVER = {"api_base": f"{URL}/v1", "api_key": "none"}
GREEDY = {"temperature": 0, "max_tokens": 40}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "maximum": 99}},
            "required": ["a"],
        },
    },
}

texts = []
for model in ("openai/starchat", "hosted_vllm/starchat"):
    reply = litellm.completion(model, QUESTION, **SERVER, **GREEDY)
    texts.append(reply.choices[0].message.content)
    stream = litellm.completion(
        model, QUESTION, stream=True, stream_options={"include_usage": True}, **SERVER, **GREEDY
    )
    pieces = [*stream]
    streamed = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert streamed == texts[-1], (model, streamed)
    called = litellm.completion(
        model, QUESTION, tools=[TOOL], tool_choice="required", **SERVER, **GREEDY
    )
    assert called.choices[0].message.tool_calls[0].function.name == "add"
    assert called.choices[0].finish_reason == "tool_calls"
    reply = asyncio.run(litellm.acompletion(model, QUESTION, **SERVER, **GREEDY))
    assert reply.choices[0].message.content == texts[-1]
assert texts[0] == texts[1] and texts[0]

model = "text-completion-openai/starchat"
whole = litellm.text_completion(model=model, prompt="import os\n", **SERVER, **GREEDY)
stream = litellm.text_completion(model=model, prompt="import os\n", stream=True, **SERVER, **GREEDY)
assert "".join(p.choices[0].text or "" for p in stream) == whole.choices[0].text
filling = {"api_base": f"{FILLING}/v1", "api_key": "none", "max_tokens": 8}
filled = litellm.text_completion(model=model, prompt="def ", suffix="(a):", **filling)
assert filled.usage.completion_tokens == 8

vectors = litellm.embedding("openai/starchat", ["a", "b"], **SERVER)
assert len(vectors.data) == 2
try:
    litellm.completion("openai/starchat", QUESTION, top_p=7, **SERVER)
    raise SystemExit("top_p of 7 was taken")
except litellm.BadRequestError as error:
    assert "top_p" in str(error)
print("fine")
