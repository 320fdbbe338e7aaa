"""langchain-huggingface: HuggingFaceEndpoint and ChatHuggingFace at our address."""

from __future__ import annotations

import asyncio
import sys

from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

URL = sys.argv[1]
QUESTION = "How do I sort a list in Python?"
PROMPT = f"<|system|>\n<|end|>\n<|user|>\n{QUESTION}<|end|>\n<|assistant|>"

plain = HuggingFaceEndpoint(endpoint_url=URL, seed=3)  # its defaults: temperature 0.8, top_p 0.95 …
text = plain.invoke(PROMPT)
assert text.startswith("\nYou can") and "<|" not in text
assert asyncio.run(plain.ainvoke(PROMPT)) == text
assert "".join(plain.stream(PROMPT)) == text
streaming = HuggingFaceEndpoint(endpoint_url=URL, seed=3, streaming=True)
assert streaming.invoke(PROMPT) == text
assert asyncio.run(streaming.ainvoke(PROMPT)) == text
for llm in (plain, streaming):
    for stop in (["sort a"], ["<|end|>"], [" list in"]):
        expected = text.partition(stop[0])[0]
        assert llm.invoke(PROMPT, stop=stop) == expected, (stop, llm.streaming)
assert plain.generate([PROMPT, "import "]).generations[0][0].text == text

chat = ChatHuggingFace(llm=HuggingFaceEndpoint(endpoint_url=URL, temperature=0.01, seed=3))
reply = chat.invoke(QUESTION)
assert reply.content.startswith("You can") and "<|" not in reply.content
assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == reply.content
print("fine")
