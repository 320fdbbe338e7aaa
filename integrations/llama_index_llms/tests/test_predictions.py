"""The prompt's own output parser can read every reply, at a high temperature too."""

import inspect
from collections.abc import AsyncGenerator
from typing import Any, Literal

import pytest
from llama_index.core import ChatPromptTemplate, PromptTemplate
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.evaluation import GuidelineEvaluator
from llama_index.core.output_parsers import PydanticOutputParser, SelectionOutputParser
from llama_index.core.prompts import RichPromptTemplate, SelectorPromptTemplate
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.schema import QueryBundle
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from llama_index.core.tools import ToolMetadata
from llama_index.core.types import BaseOutputParser, PydanticProgramMode
from llama_index.llms.starchat import CutCallError, StarChat
from pydantic import BaseModel, Field, RootModel

from llm_contract import eventually
from starchat import InvalidRequestError, json_so_far

PREDICTIONS = ("predict", "apredict", "stream", "astream")
SEEDS = range(3)
QUERY = QueryBundle("How do I match a pattern?")
CHOICES = [ToolMetadata(f"About {name}.", name) for name in ("json", "re", "os")]


class Verdict(BaseModel):
    grade: Literal["good", "bad"]
    points: int = Field(ge=0, le=9)


PARSER: Any = PydanticOutputParser(Verdict)
TEMPLATES = {
    "text": PromptTemplate("Rate {x}.", output_parser=PARSER),
    "messages": ChatPromptTemplate([ChatMessage("Rate {x}.")], output_parser=PARSER),
    "selected": SelectorPromptTemplate(PromptTemplate("Rate {x}.", output_parser=PARSER)),
    "rich": RichPromptTemplate("Rate {{ x }}.", output_parser=PARSER),
}


def sampled(seed: int, **settings: Any) -> StarChat:
    """Return an LLM that says anything that it may."""
    return StarChat(**{"temperature": 1.5, "seed": seed, "max_tokens": 1500} | settings)


async def text_of(llm: StarChat, way: str, prompt: Any, **prompt_args: Any) -> str:
    result = getattr(llm, way)(prompt, **prompt_args)
    result = await result if inspect.isawaitable(result) else result
    if isinstance(result, AsyncGenerator):
        return "".join([piece async for piece in result])
    return "".join(result)


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("way", PREDICTIONS)
async def test_a_pydantic_parser_reads_every_reply(way: str, kind: str) -> None:
    for seed in SEEDS:
        text = await text_of(sampled(seed), way, TEMPLATES[kind], x="tea")
        assert isinstance(PARSER.parse(text), Verdict)


@pytest.mark.parametrize("way", PREDICTIONS)
async def test_a_selection_is_in_range(way: str) -> None:
    prompt = PromptTemplate("Choose: {x}", output_parser=SelectionOutputParser())
    for seed in SEEDS:
        text = await text_of(sampled(seed), way, prompt, x="tea", num_choices=2)
        (answer,) = prompt.output_parser.parse(text).parsed_output
        assert answer.choice in (1, 2)


@pytest.mark.parametrize("seed", SEEDS)
async def test_selectors_choose_what_exists(seed: int) -> None:
    llm = sampled(seed)
    selector = LLMSingleSelector.from_defaults(llm=llm)
    assert selector.select(CHOICES, QUERY).ind in range(3)
    assert (await selector.aselect(CHOICES[:1], QUERY)).ind == 0
    for most in (None, 2):
        chosen = LLMMultiSelector.from_defaults(llm=llm, max_outputs=most).select(CHOICES, QUERY)
        assert 1 <= len(chosen.inds) <= (most or 3)
        assert set(chosen.inds) <= set(range(3))


@pytest.mark.parametrize("seed", SEEDS)
async def test_questions_are_for_tools_that_exist(seed: int) -> None:
    generator = LLMQuestionGenerator.from_defaults(llm=sampled(seed))
    names = {"json", "re", "os"}
    questions = [*generator.generate(CHOICES, QUERY), *await generator.agenerate(CHOICES, QUERY)]
    assert questions
    assert {question.tool_name for question in questions} <= names


@pytest.mark.parametrize("seed", SEEDS)
async def test_guidelines_are_evaluated(seed: int) -> None:
    evaluator = GuidelineEvaluator(llm=sampled(seed, temperature=0))
    result = await evaluator.aevaluate(query="Why?", response="So.", contexts=[])
    assert isinstance(result.passing, bool)


async def test_the_parser_replaces_a_constraint_of_the_llm() -> None:
    llm = sampled(0, choice=["north"])
    assert PARSER.parse(llm.predict(TEMPLATES["text"], x="tea"))
    assert llm.predict(PromptTemplate("Where?")) == "north"


@pytest.mark.parametrize("way", PREDICTIONS)
async def test_a_cut_reply_is_told(way: str) -> None:
    llm = sampled(0, max_tokens=5)
    with pytest.raises(
        CutCallError, match="before the end of its JSON, at 5 tokens: raise max_"
    ) as cut:
        await text_of(llm, way, TEMPLATES["text"], x="tea")
    assert cut.value.partial == json_so_far(cut.value.text) and cut.value.text[0] == "{"
    assert await text_of(llm, way, PromptTemplate("Why?"))  # a text that is cut is an answer


class Upper(BaseOutputParser):
    """A parser of the user's own."""

    def parse(self, output: str) -> str:
        return output.upper()


@pytest.mark.parametrize("way", PREDICTIONS)
async def test_a_parser_that_is_not_known_reads_a_free_reply(way: str) -> None:
    llm = StarChat(temperature=0, max_tokens=8)
    free = llm.predict(PromptTemplate("Why?"))
    assert await text_of(llm, way, PromptTemplate("Why?", output_parser=Upper())) == free


@pytest.mark.parametrize("way", PREDICTIONS)
async def test_the_llms_own_parser_reads_whole_replies_only(way: str) -> None:
    llm = StarChat(temperature=0, max_tokens=64, output_parser=PARSER)
    if "stream" in way:
        with pytest.raises(NotImplementedError, match="not supported for streaming"):
            await text_of(llm, way, PromptTemplate("Why?"))
        assert await eventually(lambda: llm.engine.stats()["running"] == 0)
    else:
        assert (await text_of(llm, way, PromptTemplate("Why?"))).startswith("grade='")


@pytest.mark.parametrize("way", ["structured_predict", "stream_structured_predict"])
def test_a_list_of_its_own_is_refused_as_a_text(way: str) -> None:
    llm = StarChat(pydantic_program_mode=PydanticProgramMode.LLM)
    with pytest.raises(InvalidRequestError, match="is of the type 'array': make it a field"):
        list(getattr(llm, way)(RootModel[list[Verdict]], PromptTemplate("Rate {x}."), x="it"))
