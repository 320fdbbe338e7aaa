"""PyPI text-generation: whole, streamed, refused. Run with the server's address."""

from __future__ import annotations

import asyncio
import sys

from text_generation import AsyncClient, Client
from text_generation.errors import NotFoundError, ValidationError

URL = sys.argv[1]
PROMPT = "<|system|>\n<|end|>\n<|user|>\nHow do I sort a list in Python?<|end|>\n<|assistant|>"

for client in (Client(URL), Client(f"{URL}/models/HuggingFaceH4/starchat-beta")):
    whole = client.generate(PROMPT, max_new_tokens=200, decoder_input_details=True, top_n_tokens=3)
    details = whole.details
    assert details.finish_reason == "eos_token" and details.seed is None
    assert details.generated_tokens == len(details.tokens) == len(details.top_tokens or [])
    assert len(details.prefill) > 10 and all(token.logprob <= 0 for token in details.prefill)
    text = ""
    for response in client.generate_stream(PROMPT, max_new_tokens=200):
        if not response.token.special:
            text += response.token.text
    assert text == whole.generated_text == response.generated_text
    assert response.token.text == "<|end|>" and response.token.special
    assert response.details.generated_tokens == details.generated_tokens

    sampled = client.generate(PROMPT, do_sample=True, max_new_tokens=16, best_of=2)
    assert len(sampled.details.best_of_sequences) == 1
    seed = sampled.details.seed
    again = client.generate(PROMPT, do_sample=True, max_new_tokens=16, seed=seed)
    assert again.generated_text == sampled.generated_text

    stopped = client.generate(PROMPT, stop_sequences=[" sort", "x"], max_new_tokens=200)
    assert stopped.details.finish_reason == "stop_sequence"
    assert stopped.generated_text.endswith(" sort")
    grammar = {"type": "json", "value": {"const": {"a": 1}}}
    assert client.generate(PROMPT, grammar=grammar).generated_text == '{"a": 1}'
    try:
        client.generate("x" * 100_000)
        raise SystemExit("a prompt that does not fit was answered")
    except ValidationError as error:
        assert "Input validation error: " in str(error)
try:
    Client(f"{URL}/nowhere").generate("x")
    raise SystemExit("an unknown path was answered")
except NotFoundError:
    pass


async def stream() -> str:
    text = ""
    async for response in AsyncClient(URL).generate_stream(PROMPT, max_new_tokens=200):
        text += "" if response.token.special else response.token.text
    return text


assert asyncio.run(stream()) == text
print("fine")
