"""Extracts data from a text into a pydantic model (structured output).

python examples/langchain_extract.py "name: Grace Hopper, city: New York, age: 85"

The result is always a Person. The embedded model only copies values that stand beside their
names: give ChatStarChat a model_path for other texts.
"""

import sys

from pydantic import BaseModel, Field

from langchain_starchat import ChatStarChat


class Person(BaseModel):
    """A person that a text tells of."""

    name: str
    city: str = Field(description="where the person lives")
    age: int = Field(ge=0, le=150)


text = sys.argv[1] if len(sys.argv) > 1 else "The name is Alan Turing, the city London, the age 41"
llm = ChatStarChat(temperature=0, max_tokens=200)
person = llm.with_structured_output(Person).invoke(text)
print(repr(person))
