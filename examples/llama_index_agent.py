"""An agent with three tools over a folder: a calculator, a file reader and a search (LlamaIndex).

    pip install -U llama-index-core
    python examples/llama_index_agent.py "What is 12.5 * 37?"
    python examples/llama_index_agent.py "Search for CorruptFileError"

It reads this repository unless --folder says otherwise. A grammar makes every call valid; the
model decides which tool to call. The embedded model understands plain requests like these: give
--model starchat-beta.ggmlv3.q4_0.bin for more.
"""

import argparse
import ast
import asyncio
import operator
from pathlib import Path

from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCall, ToolCallResult
from llama_index.llms.starchat import StarChat

REPOSITORY = Path(__file__).resolve().parents[1]
TEXTS = {".py", ".md", ".toml", ".cpp", ".hpp"}
N_LINES = 12  # of a file, or of what a search finds: the embedded model's context is small
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> str:
    """Compute an arithmetic expression, such as 2 * (3 + 4)."""
    return f"{_value(ast.parse(expression, mode='eval').body):.12g}"


def _value(node: ast.expr) -> float:
    """Evaluate numbers and operators, and nothing else that Python could do."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)  # floats overflow at once, where integers would grow for hours
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATORS:
            return OPERATORS[type(sign)](_value(left), _value(right))
    raise ValueError(f"{ast.unparse(node)} is no arithmetic")


class Folder:
    """The two tools that look into a folder, and nowhere else."""

    def __init__(self, path: Path) -> None:
        """Look into `path`."""
        self._path = path.resolve()

    def read_file(self, path: str, first_line: int = 1) -> str:
        """Read some lines of a text file."""
        file = (self._path / path).resolve()
        if not file.is_relative_to(self._path):
            raise PermissionError(f"{path} is outside of the folder")
        lines = file.read_text(encoding="utf-8").splitlines()
        return "\n".join(lines[max(first_line, 1) - 1 :][:N_LINES])

    def search(self, text: str) -> str:
        """Find the lines of all files that contain a text."""
        found = [
            f"{file.relative_to(self._path)}:{number}: {line.strip():.80}"
            for file in sorted(self._path.rglob("*"))
            if file.suffix in TEXTS
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
            if text.lower() in line.lower()
        ]
        return "\n".join(found[:N_LINES]) or "Nothing was found."


def agent_over(folder: Path, llm: StarChat) -> FunctionAgent:
    """Return an agent that computes, reads and searches."""
    tools = Folder(folder)
    return FunctionAgent(tools=[calculate, tools.read_file, tools.search], llm=llm)


async def answer(agent: FunctionAgent, question: str) -> None:
    """Print what the agent says and does, as it happens."""
    run = agent.run(question, max_iterations=8)
    async for event in run.stream_events():
        if isinstance(event, AgentStream):
            print(event.delta, end="", flush=True)
        elif isinstance(event, ToolCallResult):
            print(f"→ {event.tool_output.content}")
        elif isinstance(event, ToolCall):
            print(f"{event.tool_name} {event.tool_kwargs}")
    await run
    print()


def main() -> None:
    """Answer the question on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--folder", type=Path, default=REPOSITORY)
    parser.add_argument("--model", type=Path, help="a ggml file; without it the embedded model")
    arguments = parser.parse_args()

    llm = StarChat(model_path=arguments.model, temperature=0, max_tokens=256)
    asyncio.run(answer(agent_over(arguments.folder, llm), arguments.question))


if __name__ == "__main__":
    main()
