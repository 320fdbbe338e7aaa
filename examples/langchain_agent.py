"""An agent with three tools: a calculator, a file reader and a search over this repository.

    pip install -U langchain
    python examples/langchain_agent.py "What is 12 * 34?" "Read the file pyproject.toml"

It remembers the dialogue. A grammar makes every call fit its tool's signature; the model decides
which tool to call. The embedded model understands plain requests like these: give ChatStarChat a
model_path for more.
"""

import ast
import operator
import sys
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_starchat import ChatStarChat

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}
QUESTIONS = [
    "What is 12 * 34?",
    "Read the file pyproject.toml",
    "Search for 'class Toolbox'",
]


@tool
def calculate(expression: str) -> str:
    """Calculate the value of an arithmetic expression."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](value(left), value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
        raise ValueError(f"{ast.unparse(node)} is no arithmetic")

    try:
        return str(value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ArithmeticError, RecursionError) as error:
        return f"Error: {error}"


@tool
def read_file(path: str) -> str:
    """Read the beginning of a file of this repository."""
    file = (ROOT / path).resolve()
    if not file.is_relative_to(ROOT) or not file.is_file():
        return f"Error: there is no file {path}"
    return file.read_text(encoding="utf-8", errors="replace").strip()[:200]


@tool
def search(text: str) -> str:
    """Search this repository for a text."""
    hits = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted((ROOT / "src").rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if text in line
    ]
    return "\n".join(hits[:5]) or "nothing found"


def main() -> None:
    """Print questions, calls, their results and answers, while they are written."""
    tools = [calculate, read_file, search]
    llm = ChatStarChat(temperature=0, max_tokens=200)
    agent = create_agent(llm, tools, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    for question in sys.argv[1:] or QUESTIONS:
        print(f"\n\n> {question}")
        asked = {"messages": [HumanMessage(question)]}
        for message, _ in agent.stream(asked, thread, stream_mode="messages"):
            if not isinstance(message, AIMessageChunk):  # what a tool returned
                print(f"\n= {message.text}")
                continue
            for call in message.tool_call_chunks:
                print(f"\n{call['name']} " if call["name"] else call["args"], end="", flush=True)
            print(message.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
