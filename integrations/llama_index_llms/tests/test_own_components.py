"""LlamaIndex's own components get what they can use, without anything from the user.

The replies are sampled at a high temperature: only what a grammar holds can be relied upon.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator
from typing import Any, Literal

import pytest
from llama_index.core import ChatPromptTemplate, PromptTemplate, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.postprocessor import StructuredLLMRerank
from llama_index.core.postprocessor.structured_llm_rerank import DocumentRelevanceList
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.retrievers import VectorIndexAutoRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import PydanticMultiSelector, PydanticSingleSelector
from llama_index.core.tools import FunctionTool, QueryEngineTool, ToolMetadata
from llama_index.core.vector_stores import MetadataInfo, VectorStoreInfo
from llama_index.core.vector_stores.types import FilterOperator
from llama_index.llms.starchat import CutCallError, StarChat
from llama_index.llms.starchat.choices import bounded, with_agents
from llama_index.llms.starchat.parsers import schema_shown_in
from pydantic import BaseModel, Field

from calling_contract import NOW

# LlamaIndex's workflows look at deprecated attributes of pydantic's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SEEDS = range(2)
QUERY = "How do I sort 3 of (1 to 99) numbers (no more than 7)?"
CHOICES = [ToolMetadata(f"About {name}.", name) for name in ("json", "re", "os")]
NODES = [TextNode(text=text, metadata={"year": 2000}) for text in ("sorted()", "re.match()")]


class Verdict(BaseModel):
    grade: Literal["good", "bad"]
    points: int = Field(ge=0, le=9)


def sampled(seed: int, **settings: Any) -> StarChat:
    """Return an LLM that says anything that it may."""
    return StarChat(**{"temperature": 1.5, "seed": seed, "max_tokens": 1500} | settings)


# ---- programs ---------------------------------------------------------------------------------

WAYS = ("__call__", "acall", "stream_call", "astream_call")


async def last_of(program: Any, way: str) -> Any:
    result = getattr(program, way)(x="tea")
    result = await result if inspect.isawaitable(result) else result
    if isinstance(result, AsyncGenerator):
        return [item async for item in result][-1]
    return [*result][-1] if isinstance(result, Generator) else result


PROMPTS = {
    "text": PromptTemplate("Rate {x}."),
    "messages": ChatPromptTemplate([ChatMessage("Rate {x}.")]),
    "system": ChatPromptTemplate([ChatMessage("Rate.", role="system"), ChatMessage("{x}")]),
}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_text_completion_program_gets_its_model(way: str, kind: str) -> None:
    for settings in ({}, {"system_prompt": "Be brief."}, {"choice": ["north"]}):
        program = LLMTextCompletionProgram.from_defaults(
            output_cls=Verdict, prompt=PROMPTS[kind].model_copy(), llm=sampled(0, **settings)
        )
        assert isinstance(await last_of(program, way), Verdict)


@pytest.mark.parametrize("way", WAYS)
async def test_a_function_calling_program_gets_its_model(way: str) -> None:
    question = "How do I sort a list in Python, {x}?"  # which a text would answer
    program = FunctionCallingProgram.from_defaults(
        output_cls=Verdict, prompt_template_str=question, llm=sampled(0, temperature=0)
    )
    assert isinstance(await last_of(program, way), Verdict)


@pytest.mark.parametrize("program", [LLMTextCompletionProgram, FunctionCallingProgram])
@pytest.mark.parametrize("way", WAYS)
async def test_a_program_whose_reply_is_cut_tells(way: str, program: Any) -> None:
    made = program.from_defaults(
        output_cls=Verdict, prompt_template_str="Rate {x}.", llm=sampled(0, max_tokens=5)
    )
    with pytest.raises(CutCallError, match="at 5 tokens: raise max_tokens"):
        await last_of(made, way)


def test_a_prompt_is_parsed_only_where_a_parser_wrote_it() -> None:
    shown = PydanticOutputParser(Verdict).format("Rate tea.")
    assert schema_shown_in([ChatMessage(shown)])
    for text in (shown + "So?", shown.replace("Output a", "Give a"), "", shown.replace("{{", "[")):
        assert schema_shown_in([ChatMessage(text)]) is None
    llm = StarChat(temperature=0, max_tokens=8)  # what a human writes is not parsed
    assert not llm.chat([ChatMessage(shown)]).message.content.startswith('{"grade')
    assert not llm.complete(shown).text.startswith('{"grade')


# ---- selectors, questions, rerankers ----------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
async def test_pydantic_selectors_choose_what_exists(seed: int) -> None:
    llm, query = sampled(seed), QueryBundle(QUERY)
    selector = PydanticSingleSelector.from_defaults(llm=llm)
    assert selector.select(CHOICES, query).ind in range(3)
    assert (await selector.aselect(CHOICES[:1], query)).ind == 0
    for most in (None, 2):
        several = PydanticMultiSelector.from_defaults(llm=llm, max_outputs=most)
        chosen = several.select(CHOICES, query)
        assert 1 <= len(chosen.inds) <= (most or 3)
        assert set(chosen.inds) <= set(range(3))


@pytest.mark.parametrize("way", ["structured_predict", "astructured_predict"])
async def test_documents_are_those_that_are_listed(way: str) -> None:
    scored = [NodeWithScore(node=node, score=0) for node in NODES]
    for seed in SEEDS:
        reranker = StructuredLLMRerank(llm=sampled(seed))
        if way == "structured_predict":
            nodes = reranker.postprocess_nodes(scored, query_str=QUERY)
        else:
            nodes = await reranker.apostprocess_nodes(scored, query_str=QUERY)
        assert len(nodes) <= 2
        assert all(1 <= scored.score <= 10 for scored in nodes)


def test_the_documents_of_a_prompt_are_counted() -> None:
    listed = "Document 1:\na\n\nDocument 2:\nb, as in Document 9:\n\nQuestion: c"
    schema = DocumentRelevanceList.model_json_schema()
    for text, most in ((listed, {"maximum": 2}), ("Question: c", {})):
        held = bounded(schema, DocumentRelevanceList, [ChatMessage(text)])
        number = held["$defs"]["DocumentWithRelevance"]["properties"]["document_number"]
        assert {"minimum": 1} | most == {k: v for k, v in number.items() if k.endswith("imum")}


@pytest.mark.parametrize("several", [False, True])
def test_a_router_finds_its_engines(settings: Any, several: bool) -> None:
    settings.llm = plain = StarChat(temperature=0, max_tokens=4)
    settings.tokenizer = plain.tokenizer
    engine = SummaryIndex(NODES).as_query_engine(llm=plain)
    tools = [QueryEngineTool(engine, about) for about in CHOICES]
    for seed in SEEDS:
        router = RouterQueryEngine.from_defaults(tools, llm=sampled(seed), select_multi=several)
        assert router.query(QUERY).metadata["selector_result"].inds


async def test_sub_questions_go_to_engines_that_exist(settings: Any) -> None:
    settings.llm = plain = StarChat(temperature=0, max_tokens=4)
    settings.tokenizer = plain.tokenizer
    engine = SummaryIndex(NODES).as_query_engine(llm=plain)
    tools = [QueryEngineTool(engine, about) for about in CHOICES]
    questions = LLMQuestionGenerator.from_defaults(llm=sampled(1))
    sub = SubQuestionQueryEngine.from_defaults(
        tools, question_gen=questions, use_async=False, verbose=False
    )
    assert sub.query(QUERY).source_nodes


INFO = VectorStoreInfo(
    content_info="Functions",
    metadata_info=[
        MetadataInfo(name="year", type="int", description="Since when."),
        MetadataInfo(name="module", type="str", description="Where."),
    ],
)


@pytest.mark.parametrize("info", [INFO, INFO.model_copy(update={"metadata_info": []})])
async def test_a_vector_store_is_queried_by_metadata_that_exists(info: Any) -> None:
    index = VectorStoreIndex(NODES, embed_model=MockEmbedding(4))
    names = {field.name: int if field.type == "int" else str for field in info.metadata_info}
    for seed in SEEDS:
        retriever = VectorIndexAutoRetriever(index, vector_store_info=info, llm=sampled(seed))
        asked = QueryBundle(QUERY)
        specs = (
            retriever.generate_retrieval_spec(asked),
            await retriever.agenerate_retrieval_spec(asked),
        )
        for spec in specs:
            assert spec.query and spec.query != QUERY  # which would be LlamaIndex's fallback
            assert spec.top_k is None or spec.top_k >= 1
            for filter in spec.filters:
                values = filter.value if isinstance(filter.value, list) else [filter.value]
                assert {type(value) for value in values} == {names[filter.key]}
                assert isinstance(filter.operator, FilterOperator)


# ---- hand-off ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [None, "Agents: {agent_info}. Or {not} one."])
async def test_agents_hand_off_to_one_that_exists(prompt: str | None) -> None:
    for seed in SEEDS:
        llm = sampled(seed, max_tokens=200)
        greeter = FunctionAgent(
            name="greeter",
            description="Greets",
            tools=[NOW],
            llm=llm,
            can_handoff_to=["o'hara", "b}"],
            initial_tool_choice="handoff",
        )
        others = [
            FunctionAgent(name=name, description="{Counts}", tools=[NOW], llm=llm)
            for name in ("o'hara", "b}", "hidden")
        ]
        team = AgentWorkflow([greeter, *others], root_agent="greeter", handoff_prompt=prompt)
        run = team.run("What is 17 + 25?")
        async for event in run.stream_events():
            if isinstance(event, ToolCallResult) and event.tool_name == "handoff":
                assert event.tool_kwargs["to_agent"] in ("o'hara", "b}")
                assert "now handling" in event.tool_output.content
                break
        await run.cancel_run()


def test_a_users_own_tool_named_handoff_is_left_alone() -> None:
    def handoff(to_agent: str) -> str:
        """Hand off to {'a': 'b'}."""
        return to_agent

    schema = FunctionTool.from_defaults(handoff).metadata.get_parameters_dict()
    assert with_agents(schema, handoff, "{'a': 'b'}") == schema
