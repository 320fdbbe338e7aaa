"""huggingface_hub's InferenceClient: texts and chats, whole and streamed, sync and async."""

from __future__ import annotations

import asyncio
import sys
import warnings

import huggingface_hub
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import ValidationError

warnings.simplefilter("error", UserWarning)  # "… is not served via TGI"
URL = sys.argv[1]
QUESTION = "How do I sort a list in Python?"
PROMPT = f"<|system|>\n<|end|>\n<|user|>\n{QUESTION}<|end|>\n<|assistant|>"
MESSAGES = [{"role": "user", "content": QUESTION}]

for path in ("", "/generate", "/models/HuggingFaceH4/starchat-beta"):
    client = InferenceClient(f"{URL}{path}")
    how = {"max_new_tokens": 200, "return_full_text": False}
    text = client.text_generation(PROMPT, **how)
    assert text.startswith("\nYou can")
    whole = client.text_generation(PROMPT, details=True, **how)
    assert whole.generated_text == text and whole.details.finish_reason == "eos_token"
    if path != "/generate":  # that path never streams
        pieces = [*client.text_generation(PROMPT, stream=True, **how)]
        assert "".join(pieces) == text and len(pieces) > 5
        *_, last = client.text_generation(PROMPT, stream=True, details=True, **how)
        assert last.generated_text == text and last.token.special
        assert last.details.input_length > 10
    echoed = client.text_generation(PROMPT, max_new_tokens=200)
    assert echoed == (text if path == "/generate" else PROMPT + text)
    try:
        client.text_generation("x" * 100_000)
        raise SystemExit("a prompt that does not fit was answered")
    except ValidationError as error:
        assert "2,048" in str(error)

client = InferenceClient(f"{URL}/generate_stream")
pieces = [*client.text_generation(PROMPT, stream=True, max_new_tokens=200)]
assert "".join(pieces) == text
info = InferenceClient(URL, provider="hf-inference").get_endpoint_info()
assert info["max_total_tokens"] == 2_048

client = InferenceClient(URL)
of_model = InferenceClient(f"{URL}/models/HuggingFaceH4/starchat-beta")
reply = of_model.chat_completion(MESSAGES, max_tokens=200, temperature=0)
assert "\n" + reply.choices[0].message.content == text
reply = client.chat_completion(MESSAGES, max_tokens=200, temperature=0)
assert "\n" + reply.choices[0].message.content == text
assert reply.choices[0].finish_reason == "stop"
stream = client.chat_completion(MESSAGES, max_tokens=200, temperature=0, stream=True)
assert "\n" + "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
form = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema, "strict": True}}
reply = client.chat_completion(MESSAGES, max_tokens=64, response_format=form)
assert '"a": 1' in reply.choices[0].message.content, reply


async def ask() -> None:
    client = AsyncInferenceClient(URL)
    stream = await client.text_generation(PROMPT, stream=True, return_full_text=False)
    assert "".join([piece async for piece in stream]) == text
    reply = await client.chat_completion(MESSAGES, temperature=0)
    assert "\n" + reply.choices[0].message.content == text


asyncio.run(ask())
print("fine", huggingface_hub.__version__)
