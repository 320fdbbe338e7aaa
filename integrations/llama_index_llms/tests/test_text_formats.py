"""The README's table of formats: each component's own parser reads whatever the model says."""
# ruff: noqa: F401  # the table names what is imported

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import KeywordTableIndex, KnowledgeGraphIndex, SummaryIndex, TreeIndex
from llama_index.core.agent.react.output_parser import ReActOutputParser
from llama_index.core.agent.workflow import AgentOutput, CodeActAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.evaluation import (
    AnswerRelevancyEvaluator,
    ContextRelevancyEvaluator,
    CorrectnessEvaluator,
    DatasetGenerator,
    FaithfulnessEvaluator,
    PairwiseComparisonEvaluator,
    RelevancyEvaluator,
)
from llama_index.core.graph_stores import SimplePropertyGraphStore
from llama_index.core.indices.property_graph import (
    DynamicLLMPathExtractor,
    LLMSynonymRetriever,
    SimpleLLMPathExtractor,
)
from llama_index.core.memory import FactExtractionMemoryBlock
from llama_index.core.postprocessor import (
    AutoPrevNextNodePostprocessor,
    LLMRerank,
    PIINodePostprocessor,
)
from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
from llama_index.core.query_engine import FLAREInstructQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import FunctionTool
from llama_index.llms.starchat import StarChat, text_formats
from llguidance import LLMatcher, LLTokenizer

import starchat
from calling_contract import ADD, add
from starchat.grammar.constraint import Constraint

# LlamaIndex has deprecated what its documentation still shows.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
README = Path(__file__).resolve().parents[1] / "README.md"
TABLE = README.read_text("utf-8").split("## Text formats\n")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| `(\w+_format\(.*?\))` \| `(.+?)` \|", TABLE, re.MULTILINE)
SEEDS = (1,)
QUERY = "How do I sort a list of 3 numbers?"
NODES = [
    TextNode(text=text)
    for text in ("sorted() sorts a list.", "json.loads() decodes JSON.", "re.match() matches.")
]
SCORED = [NodeWithScore(node=node, score=0.5) for node in NODES]


async def execute(code: str) -> str:
    return f"ran {len(code)} characters"


def no_words(text: str) -> list[int]:
    return []


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the table's expressions name."""
    plain = StarChat(temperature=0, max_tokens=12)
    docstore = SimpleDocumentStore()
    docstore.add_documents(NODES)
    index = SummaryIndex(NODES)
    formats = {k: v for k, v in vars(text_formats).items() if k.endswith("_format")}
    return (
        globals()
        | formats
        | {
            "tools": [ADD],
            "nodes": NODES,
            "docstore": docstore,
            "graph_store": SimplePropertyGraphStore(),
            "retriever": index.as_retriever(),
            "query_engine": index.as_query_engine(llm=plain),
            "tree": TreeIndex(NODES, llm=plain, num_children=2),
        }
    )


# ---- what each component makes of a reply -----------------------------------------------------


async def act(agent: ReActAgent) -> None:
    run = agent.run("What is 17 + 25?", max_iterations=3, early_stopping_method="generate")
    async for event in run.stream_events():
        if isinstance(event, AgentOutput):
            assert not event.retry_messages
            assert {call.tool_name for call in event.tool_calls} <= {"add"}
        if isinstance(event, ToolCallResult):
            assert event.tool_output.raw_output == add(**event.tool_kwargs)
    await run


async def run_code(agent: CodeActAgent) -> None:
    text = str(await agent.run(QUERY, max_iterations=2, early_stopping_method="generate"))
    assert ("<execute>" in text) == bool(agent._extract_code_from_response(text))


def judge(evaluator: FaithfulnessEvaluator | RelevancyEvaluator) -> None:
    result = evaluator.evaluate(query=QUERY, response="So.", contexts=["So."])
    assert result.feedback in ("YES", "NO")


def grade(evaluator: Any) -> None:
    result = evaluator.evaluate(query=QUERY, response="So.", contexts=["So."], reference="So.")
    assert result.score is not None and 0 <= result.score <= 5
    assert result.feedback and not result.invalid_result


def compare(evaluator: PairwiseComparisonEvaluator) -> None:
    result = evaluator.evaluate(query=QUERY, response="a", second_response="b", reference="c")
    assert result.score in (0, 0.5, 1) and not result.invalid_result


def rerank(postprocessor: Any) -> None:
    nodes = postprocessor.postprocess_nodes(SCORED, query_str=QUERY)
    ids = [scored.node.node_id for scored in nodes]
    assert len(set(ids)) == len(ids) and set(ids) <= {node.node_id for node in NODES}
    assert len(ids) == 3 or isinstance(postprocessor, LLMRerank)


def retrieve(retriever: Any) -> None:
    nodes = retriever.retrieve(QUERY)
    assert {scored.node.node_id for scored in nodes} <= {node.node_id for node in NODES}
    assert nodes or not isinstance(retriever._index, TreeIndex)


async def extract(extractor: Any) -> None:
    (node,) = await extractor.acall([NODES[0].model_copy(deep=True)])
    assert "relations" in node.metadata


def have_triplets(index: KnowledgeGraphIndex) -> None:
    assert index.index_struct.table


def have_keywords(index: KeywordTableIndex) -> None:
    keywords = set(index.index_struct.table)
    assert keywords and not any("keywords:" in keyword for keyword in keywords)


def expand(retriever: LLMSynonymRetriever) -> None:
    reply = retriever._llm.predict(retriever._synonym_prompt, query_str=QUERY, max_keywords=10)
    assert 1 <= len(retriever._parse_llm_output(reply)) <= 10
    assert retriever.retrieve(QUERY) == []  # of an empty graph


def fuse(retriever: QueryFusionRetriever) -> None:
    assert len(retriever._get_queries(QUERY)) == 3


async def ask(generator: DatasetGenerator) -> None:
    assert len(await generator.agenerate_questions_from_nodes()) == 2 * len(NODES)


async def remember(block: FactExtractionMemoryBlock) -> None:
    await block.aput([ChatMessage("I live in Oslo and like tea.")])
    assert all(block.facts)


def look_around(postprocessor: AutoPrevNextNodePostprocessor) -> None:
    assert postprocessor.postprocess_nodes(SCORED[:1], query_str=QUERY)


def look_ahead(engine: FLAREInstructQueryEngine) -> None:
    engine._max_iterations = 2
    engine._llm.max_tokens = 48
    assert engine.query(QUERY)


def mask(postprocessor: PIINodePostprocessor) -> None:
    (scored,) = postprocessor.postprocess_nodes(SCORED[:1])
    assert isinstance(scored.node.metadata["__pii_node_info__"], dict)


RUN: dict[str, Callable[[Any], Any]] = {
    "ReActAgent": act,
    "CodeActAgent": run_code,
    "FaithfulnessEvaluator": judge,
    "RelevancyEvaluator": judge,
    "CorrectnessEvaluator": grade,
    "AnswerRelevancyEvaluator": grade,
    "ContextRelevancyEvaluator": grade,
    "PairwiseComparisonEvaluator": compare,
    "LLMRerank": rerank,
    "RankGPTRerank": rerank,
    "SummaryIndex": retrieve,
    "TreeIndex": retrieve,
    "KnowledgeGraphIndex": have_triplets,
    "SimpleLLMPathExtractor": extract,
    "DynamicLLMPathExtractor": extract,
    "KeywordTableIndex": have_keywords,
    "LLMSynonymRetriever": expand,
    "QueryFusionRetriever": fuse,
    "DatasetGenerator": ask,
    "FactExtractionMemoryBlock": remember,
    "AutoPrevNextNodePostprocessor": look_around,
    "FLAREInstructQueryEngine": look_ahead,
    "PIINodePostprocessor": mask,
}


def test_the_table_has_every_format() -> None:
    formats = {name for name in vars(text_formats) if name.endswith("_format")}
    assert {form.split("(")[0] for form, _ in ROWS} == formats
    assert {component.split("(")[0] for _, component in ROWS} == set(RUN)


@pytest.mark.parametrize(("form", "component"), ROWS, ids=[f"{r[0]}-{r[1][:24]}" for r in ROWS])
async def test_a_component_reads_every_reply(
    settings: Any, names: dict[str, Any], form: str, component: str
) -> None:
    for seed in SEEDS:
        settings.llm = llm = StarChat(
            grammar=eval(form.replace("2000", "50"), names),
            temperature=1.5,
            seed=seed,
            max_tokens=200,
        )
        settings.embed_model = MockEmbedding(embed_dim=4)
        settings.tokenizer = no_words  # LlamaIndex's own counts need the network
        outcome = RUN[component.split("(")[0]](eval(component, names, {"llm": llm}))
        if outcome is not None:
            await outcome


# ---- what a format allows ---------------------------------------------------------------------


def allows(grammar: str, text: str) -> bool:
    """Whether a text is a whole reply."""
    constraint = Constraint.from_options({"grammar": grammar})
    assert constraint is not None
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(constraint.text))
    ids = list(text.encode())
    return matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())


def say(text: str) -> str:
    """Say."""
    return text


SAY = 'Thought: I say so.\nAction: say\nAction Input: {"text": "So."}'
CALL = 'Thought: I need a tool.\nAction: add\nAction Input: {"a": 17, "b": 25}'


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        pytest.param("react_format([ADD])", CALL, id="call"),
        pytest.param("react_format([say])", SAY, id="callable"),
        pytest.param("react_format([])", "Thought: Easy.\nAnswer: Action: none.\n42", id="answer"),
        pytest.param("code_format()", "So:\n<execute>\nimport os\nx = 1\n</execute>", id="code"),
        pytest.param("score_format()", "4.0\nThe same metrics, but not as concise.", id="score"),
        pytest.param("result_format(4, in_halves=True)", "Good.\n[RESULT] 3.5", id="result"),
        pytest.param("comparison_format()", "A is short.\n[[A]]", id="comparison"),
        pytest.param(
            "relevance_format()", "Doc: 9, Relevance: 7\nDoc: 3, Relevance: 4", id="rerank"
        ),
        pytest.param("ranking_format(3)", "[2] > [1] > [3]", id="ranking"),
        pytest.param("number_format(2)", "ANSWER: 2", id="number"),
        pytest.param("number_format(10, most=3)", "ANSWER: 3, 10", id="numbers"),
        pytest.param(
            "triplets_format()", "(Philz, is, coffee shop)\n(Philz, founded in, 1982)", id="3"
        ),
        pytest.param("lines_format(1)", "Why?", id="one line"),
        pytest.param("triplets_format(1)", "(Philz, is, coffee shop)", id="one triplet"),
        pytest.param("relevance_format(1)", "Doc: 1, Relevance: 10", id="one document"),
        pytest.param("ranking_format(1)", "[1]", id="one passage"),
        pytest.param("keywords_format()", "KEYWORDS: sort, list of numbers", id="keywords"),
        pytest.param("synonyms_format()", "sort^order", id="synonyms"),
        pytest.param("facts_format()", "<facts>\n  <fact>Oslo</fact>\n</facts>", id="facts"),
        pytest.param("facts_format()", "<facts>\n</facts>", id="no facts"),
        pytest.param(
            "lookahead_format()", "Red is for [Search(the red?)], green too.", id="search"
        ),
        pytest.param(
            "masked_format()", 'I am [NAME1].\nOutput Mapping:\n{"NAME1": "Ann"}', id="mask"
        ),
    ],
)
def test_the_prompts_own_example_is_allowed(form: str, reply: str) -> None:
    assert allows(eval(form, globals() | vars(text_formats)), reply)


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        pytest.param("react_format([ADD])", CALL.replace("add", "sub"), id="no such tool"),
        pytest.param("react_format([ADD])", CALL.replace("17", '"x"'), id="wrong argument"),
        pytest.param("react_format([ADD])", "Thought: My Action: add\nAnswer: 1", id="two in one"),
        pytest.param("react_format([ADD])", CALL[:-1] + ', "c": 1}', id="unknown argument"),
        pytest.param("react_format([ADD])", CALL.replace("17", "1" * 14), id="endless number"),
        pytest.param("react_format([say])", SAY.replace("So.", "So." * 67), id="endless text"),
        pytest.param("react_format([])", CALL, id="no tools"),
        pytest.param("lines_format(1)", "1. Why?", id="number in front"),
        pytest.param("code_format()", "So:\n<execute>\nx = 1", id="open tag"),
        pytest.param("score_format(1, 5)", "5.5\nBad.", id="score too high"),
        pytest.param("result_format(2)", "Good.\n[RESULT] 1.5", id="points are whole"),
        pytest.param("relevance_format()", "Doc: 11, Relevance: 7", id="no such document"),
        pytest.param(
            "relevance_format()", "Doc: 1, Relevance: 7\nDoc: 1, Relevance: 6", id="twice"
        ),
        pytest.param("ranking_format(3)", "[2] > [1]", id="one is missing"),
        pytest.param("ranking_format(3)", "[2] > [1] > [2]", id="named twice"),
        pytest.param("number_format(10)", "ANSWER: 1, 2", id="two for one"),
        pytest.param("number_format(10, most=3)", "ANSWER: 1, 2, 3, 4", id="four for three"),
        pytest.param("number_format(2)", "ANSWER: 3", id="no such choice"),
        pytest.param("triplets_format()", "(a, b, c, d)", id="four"),
        pytest.param(
            "typed_triplets_format(1, ['X'])", '[{"head": "a", "head_type": "Y"', id="type"
        ),
        pytest.param("lookahead_format()", "Red is [Search(done?)].", id="read as the end"),
        pytest.param("lookahead_format()", "See a[0].", id="brackets"),
    ],
)
def test_what_a_parser_misreads_is_not_allowed(form: str, reply: str) -> None:
    assert not allows(eval(form, globals() | vars(text_formats)), reply)


@pytest.mark.parametrize("text", ['"', "\\", "// no comment", "/* none */", "é\U0001f600", "a\nb"])
def test_react_agent_reads_arguments_as_they_are(text: str) -> None:
    reply = (
        f"Thought: So.\nAction: say\nAction Input: {json.dumps({'text': text}, ensure_ascii=False)}"
    )
    assert allows(text_formats.react_format([say]), reply)
    assert ReActOutputParser().parse(reply).action_input == {"text": text}


@pytest.mark.parametrize(
    "form",
    [
        "lines_format(0)",
        "triplets_format(0)",
        "score_format(5, 1)",
        "result_format(-1)",
        "facts_format(0)",
        "masked_format(0)",
    ],
)
def test_formats_of_nothing_are_refused(form: str) -> None:
    with pytest.raises(starchat.InvalidRequestError, match="expected at least"):
        eval(form, vars(text_formats))


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(starchat.InvalidRequestError, match=r"tools\[0\]: the name 'a b': ReAct"):
        text_formats.react_format([FunctionTool.from_defaults(add, name="a b")])
    with pytest.raises(starchat.InvalidRequestError, match="expected 1 to 63, got 64: ask about"):
        text_formats.relevance_format(64)
