"""A LangChain chain (prompt → model → text) that streams its answer.

python examples/langchain_chain.py "How do I reverse a string in Python?"
"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_starchat import ChatStarChat

question = sys.argv[1] if len(sys.argv) > 1 else "How do I sort a list in Python?"
prompt = ChatPromptTemplate.from_template("{question}")
chain = prompt | ChatStarChat(temperature=0, max_tokens=200) | StrOutputParser()

for text in chain.stream({"question": question}):
    print(text, end="", flush=True)
print()
