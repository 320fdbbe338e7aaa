"""LlamaIndex's HuggingFaceInferenceAPI: chat by default, texts with a task."""

from __future__ import annotations

import asyncio
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.huggingface_api import HuggingFaceInferenceAPI

URL = sys.argv[1]
QUESTION = "How do I sort a list in Python?"
PROMPT = f"<|system|>\n<|end|>\n<|user|>\n{QUESTION}<|end|>\n<|assistant|>"

chat = HuggingFaceInferenceAPI(model_name=URL, provider="hf-inference", temperature=0.01)
assert chat.context_window == 2_047  # of /info
messages = [ChatMessage(role="user", content=QUESTION)]
text = chat.chat(messages).message.content
assert text.startswith("You can") and "<|" not in text
*_, last = chat.stream_chat(messages)
assert last.message.content == text
assert asyncio.run(chat.achat(messages)).message.content == text
assert chat.complete(QUESTION).text == text

raw = HuggingFaceInferenceAPI(
    model_name=f"{URL}/generate", task="text-generation", temperature=0.01, context_window=2_048
)
assert raw.complete(PROMPT).text == "\n" + text
streamed = HuggingFaceInferenceAPI(
    model_name=f"{URL}/generate_stream", task="text-generation", temperature=0.01
)
*_, last = streamed.stream_complete(PROMPT)
assert last.text == "\n" + text
print("fine")
