"""A chat with history, trimmed to the context. An empty line ends it.

python examples/langchain_history.py
"""

from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage, trim_messages

from langchain_starchat import ChatStarChat

llm = ChatStarChat(temperature=0, max_tokens=200)
# Drops the oldest messages of a prompt that would be longer; the model itself counts its tokens.
trim = trim_messages(max_tokens=1000, token_counter=llm, start_on="human")
history: list[BaseMessage] = []

while question := input("\n> ").strip():
    history.append(HumanMessage(question))
    reply = AIMessageChunk(content="")
    for chunk in llm.stream(trim.invoke(history)):
        print(chunk.text, end="", flush=True)
        reply += chunk
    history.append(reply)
    print(f"\n{reply.usage_metadata}")
