"""openai's client: every endpoint, its helpers for streams and for parsing, sync and async."""

from __future__ import annotations

import asyncio
import json
import sys

import openai
from pydantic import BaseModel, Field

URL, FILLING = sys.argv[1:3]
ask = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=2)
QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
GREEDY = {"model": "starchat", "temperature": 0, "max_tokens": 200}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
PARAMETERS = {
    "type": "object",
    "properties": {"a": NUMBER, "b": NUMBER},
    "required": ["a", "b"],
    "additionalProperties": False,
}
ADD = {"name": "add", "description": "Add.", "parameters": PARAMETERS, "strict": True}
TOOLS = [{"type": "function", "function": ADD}]
FORCED = {**GREEDY, "tools": TOOLS, "tool_choice": "required"}


class Answer(BaseModel):
    """What a reply is parsed into."""

    number: int = Field(ge=0, le=99)
    word: str = Field(max_length=8)


def main() -> None:
    """Ask in every way."""
    (model,) = ask.models.list().data
    assert ask.models.retrieve(model.id).id == model.id

    whole = ask.chat.completions.create(messages=QUESTION, **GREEDY)
    text = whole.choices[0].message.content
    assert text and whole.usage.total_tokens > 20
    stream = ask.chat.completions.create(
        messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    *pieces, last = stream
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    with ask.chat.completions.stream(messages=QUESTION, **GREEDY) as events:
        assert events.get_final_completion().choices[0].message.content == text

    parsed = ask.chat.completions.parse(messages=QUESTION, response_format=Answer, **GREEDY)
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    with ask.chat.completions.stream(messages=QUESTION, **FORCED) as events:
        done = [e for e in events if e.type == "tool_calls.function.arguments.done"]
        calls = events.get_final_completion().choices[0].message.tool_calls
    assert done and set(json.loads(calls[0].function.arguments)) == {"a", "b"}
    call = {"role": "assistant", "content": None, "tool_calls": [c.to_dict() for c in calls]}
    results = [{"role": "tool", "tool_call_id": c.id, "content": "3"} for c in calls]
    again = ask.chat.completions.create(
        messages=[*QUESTION, call, *results], tools=TOOLS, tool_choice="none", **GREEDY
    )
    assert again.choices[0].finish_reason in ("stop", "length")

    scored = ask.chat.completions.create(
        messages=QUESTION, logprobs=True, top_logprobs=2, n=2, seed=1, **GREEDY
    )
    for choice in scored.choices:
        tokens = choice.logprobs.content
        assert b"".join(bytes(t.bytes) for t in tokens).decode() == choice.message.content

    prompt = "import os\n"
    echoed = ask.completions.create(prompt=prompt, echo=True, logprobs=2, **GREEDY)
    logprobs = echoed.choices[0].logprobs
    assert echoed.choices[0].text.startswith(prompt) and logprobs.token_logprobs[0] is None
    assert "".join(logprobs.tokens).startswith(prompt)
    best = ask.completions.create(prompt=[prompt, "a ="], best_of=3, **GREEDY)
    assert [choice.index for choice in best.choices] == [0, 1]
    try:
        ask.completions.create(prompt="a", suffix="b", **GREEDY)
        raise SystemExit("a model without tokens for it filled a gap")
    except openai.BadRequestError as error:
        assert error.code == "unsupported_feature" and error.param == "suffix"
    filling = openai.OpenAI(base_url=f"{FILLING}/v1", api_key="none")
    filled = filling.completions.create(prompt="def ", suffix="(a):", model="m", max_tokens=8)
    assert filled.usage.completion_tokens == 8

    texts = ["sort a list", "open a socket"]
    by_default = ask.embeddings.create(model="m", input=texts)
    floats = ask.embeddings.create(model="m", input=texts, encoding_format="float")
    assert [d.embedding for d in by_default.data] == [d.embedding for d in floats.data]

    given = {"model": "m", "input": QUESTION, "temperature": 0, "max_output_tokens": 200}
    assert ask.responses.create(**given).output_text == text
    with ask.responses.stream(**given) as events:
        for _ in events:
            pass
        assert events.get_final_response().output_text == text
    flat = [{"type": "function", **ADD}]
    with ask.responses.stream(**given, tools=flat, tool_choice="required") as events:
        for _ in events:
            pass
        (call, *_) = events.get_final_response().output
    assert call.type == "function_call" and set(json.loads(call.arguments)) == {"a", "b"}
    answer = ask.responses.parse(**given, text_format=Answer)
    assert isinstance(answer.output_parsed, Answer)

    asyncio.run(in_a_loop(text))
    try:
        ask.chat.completions.create(messages=QUESTION, model="m", top_p=7)
        raise SystemExit("top_p of 7 was taken")
    except openai.BadRequestError as error:
        assert error.param == "top_p" and "top_p" in str(error)
    print("fine", openai.__version__)


async def in_a_loop(text: str) -> None:
    """Ask by the client for event loops, and leave a stream early."""
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as ask:
        replies = [ask.chat.completions.create(messages=QUESTION, **GREEDY) for _ in range(8)]
        for reply in await asyncio.gather(*replies):
            assert reply.choices[0].message.content == text
        stream = await ask.chat.completions.create(messages=QUESTION, stream=True, **GREEDY)
        async for _ in stream:
            break
        await stream.close()


main()
