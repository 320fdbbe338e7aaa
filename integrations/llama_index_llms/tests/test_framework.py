"""What the README says of LlamaIndex itself; where a test fails, LlamaIndex has changed."""

from __future__ import annotations

from importlib.metadata import requires, version
from typing import Any

import pytest
from llama_index.core import PromptTemplate, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.schema import TextNode
from llama_index.core.workflow import Context
from llama_index.llms.starchat import StarChat
from pydantic import BaseModel

from calling_contract import NOW

# LlamaIndex's workflows look at deprecated attributes of pydantic's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
QUESTION = "How do I sort a list?"


@pytest.fixture
def llm(settings: Any) -> StarChat:
    llm = StarChat(temperature=0, max_tokens=8, system_prompt="Be brief.")
    settings.tokenizer = llm.tokenizer
    return llm


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The roles of every dialogue that reaches the LLM."""
    seen: list[list[str]] = []
    ask = StarChat._chat

    def spy(self: StarChat, messages: Any, kwargs: Any) -> Any:
        seen.append([message.role.value for message in messages])
        return ask(self, messages, kwargs)

    monkeypatch.setattr(StarChat, "_chat", spy)
    return seen


def test_the_memory_of_a_default_chat_engine_leaves_256_tokens(llm: StarChat) -> None:
    engine = SummaryIndex([TextNode(text="x")]).as_chat_engine("context", llm=llm)
    assert engine._memory.token_limit == llm.metadata.context_window - 256


async def test_the_system_prompt_is_not_for_chat_engines(
    llm: StarChat, asked: list[list[str]]
) -> None:
    SimpleChatEngine.from_defaults(llm=llm).chat(QUESTION)
    SimpleChatEngine.from_defaults(llm=llm, system_prompt="Be brief.").chat(QUESTION)
    await FunctionAgent(tools=[NOW], llm=llm).run(QUESTION)
    await FunctionAgent(tools=[NOW], llm=llm, system_prompt="Be brief.").run(QUESTION)
    llm.predict(PromptTemplate(QUESTION))
    SummaryIndex([TextNode(text="x")]).as_query_engine(llm=llm).query(QUESTION)
    assert [roles[0] for roles in asked] == ["user", "system", "user", "system", "system", "system"]


class Flag(BaseModel):
    is_set: bool


async def test_a_programs_acall_leaves_the_system_prompt_out(
    llm: StarChat, asked: list[list[str]]
) -> None:
    llm.max_tokens = 64
    program = FunctionCallingProgram.from_defaults(Flag, prompt_template_str="Set it.", llm=llm)
    program()
    await program.acall()
    await llm.astructured_predict(Flag, PromptTemplate("Set it."))
    assert asked == [["system", "user"], ["user"], ["system", "user"]]


IS_NEW_PYDANTIC = tuple(map(int, version("pydantic").split(".")[:2])) >= (2, 14)


async def test_a_context_keeps_what_its_first_run_set(llm: StarChat) -> None:
    agents = [
        FunctionAgent(name=name, description="Talks", tools=[NOW], llm=llm) for name in ("a", "b")
    ]
    team = AgentWorkflow(agents, root_agent="a")
    ctx = Context(team)
    await team.run(QUESTION, ctx=ctx, max_iterations=3)
    await ctx.store.set("current_agent_name", "b")
    output = await team.run(QUESTION, ctx=ctx, max_iterations=7)
    assert await ctx.store.get("max_iterations") == 3
    assert output.current_agent_name == "b"
    memory = await ctx.store.get("memory")
    assert len(memory.get_all()) == (2 if IS_NEW_PYDANTIC else 4)


def test_memories_are_saved_with_the_pydantic_that_is_asked_for(tmp_path: Any) -> None:
    assert "pydantic<2.14,>=2.10" in [
        line.replace(" ", "") for line in requires("llama-index-llms-starchat") or []
    ]
    memory = ChatMemoryBuffer.from_defaults([ChatMessage(QUESTION)], token_limit=100)
    if IS_NEW_PYDANTIC:
        with pytest.raises(Exception, match="chat_message_serialization"):
            memory.to_string()
    else:
        assert ChatMemoryBuffer.from_string(memory.to_string()) == memory
