"""What structured output of any function calling LLM has to keep: a suite to subclass.

Where a value matters, the schema leaves no other: nothing here asks for understanding.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Generator
from datetime import date
from enum import Enum
from typing import Any, Literal

import pytest
from llama_index.core import ChatPromptTemplate, PromptTemplate
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, field_validator
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.output_parsers.base import OutputParserException
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.types import PydanticProgramMode
from pydantic import RootModel

from llm_contract import LLMUnderTest, close, eventually, step

PREDICTING = (
    "structured_predict",
    "astructured_predict",
    "stream_structured_predict",
    "astream_structured_predict",
)
STREAMS = tuple(way for way in PREDICTING if "stream" in way)
PROMPT = PromptTemplate("Tell me about {city}.")
MODES = ("DEFAULT", "FUNCTION", "LLM")
LONG = {"max_tokens": 1500}


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class District(BaseModel):
    name: Literal["Kreis 5 / 東京 👩‍👩‍👧"]
    size: Size


class City(BaseModel):
    """A city."""

    name: Literal["Zürich"] = Field(description="What it is called.")
    districts: list[District] = Field(min_length=2, max_length=2)
    lake: Literal[True]
    mayor: Literal["Ada", None] = None
    floors: int = Field(ge=1, le=9)


class Country(BaseModel):
    cities: list[City] = Field(min_length=6, max_length=6)


class Node(BaseModel):
    value: Literal["x"]
    children: list[Node] = Field(max_length=1)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)
    day: date = Field(alias="the day")
    sizes: tuple[Size, Size]


class Empty(BaseModel):
    pass


class Flat(BaseModel, extra="forbid"):
    x: Literal["y"]


class Box(BaseModel):
    city: City


Cities = RootModel[list[Literal["Oslo", "Rome"]]]
Either = RootModel[Empty | City]
MODELS = [City, Node, Strict, Empty, Box, RootModel[Literal["Oslo"]], RootModel[City], Either]


class Never(BaseModel):
    """Valid by its schema, never by its validator."""

    name: Literal["Ada"]

    @field_validator("name")
    @classmethod
    def refuse(cls, name: str) -> str:
        raise ValueError("nobody is good enough")


async def predict(llm: Any, way: str, *args: Any, **kwargs: Any) -> list[Any]:
    """Return all that a method returns or yields."""
    result = getattr(llm, way)(*args, **kwargs)
    result = await result if inspect.isawaitable(result) else result
    if isinstance(result, AsyncGenerator):
        return [model async for model in result]
    return list(result) if isinstance(result, Generator) else [result]


class StructuredContract(LLMUnderTest):
    """Laws of structured output. Subclass it as Test…, with the methods of LLMUnderTest."""

    fixed = {"temperature": 0, "max_tokens": 300}  # noqa: RUF012

    @pytest.mark.parametrize("way", PREDICTING)
    @pytest.mark.parametrize("output_cls", MODELS, ids=lambda cls: cls.__name__)
    async def test_any_model_is_valid(
        self, llm: Any, output_cls: type[BaseModel], way: str
    ) -> None:
        *_, model = await predict(llm, way, output_cls, PROMPT, city="Zürich")
        assert type(model) is output_cls
        assert output_cls.model_validate_json(model.model_dump_json(by_alias=True)) == model

    async def test_every_way_gives_the_same_model(self, llm: Any) -> None:
        models = [(await predict(llm, way, City, PROMPT, city="Rome"))[-1] for way in PREDICTING]
        assert models == models[:1] * 4

    async def test_hot_samples_are_valid_too(self, llm: Any) -> None:
        options = {"temperature": 2.0, "top_k": 0, "top_p": 1.0}
        models = await asyncio.gather(
            *(
                llm.astructured_predict(City, PROMPT, {**options, "seed": seed}, city="Rome")
                for seed in range(8)
            )
        )
        assert len({model.floors for model in models}) > 1

    @pytest.mark.parametrize("way", STREAMS)
    async def test_stream_grows_into_the_model(self, llm: Any, way: str) -> None:
        # Long: a reader who looks late gets many tokens in one chunk, and a short model whole.
        *before, model = await predict(llm, way, Country, PROMPT, LONG, city="Zürich")
        assert before
        assert type(model) is Country
        whole, sizes = model.model_dump(mode="json"), []
        for partial in before:
            so_far = partial.model_dump(mode="json", exclude_unset=True)
            sizes.append(len(json.dumps(so_far)))
            assert so_far.keys() <= whole.keys()
        assert sizes == sorted(sizes)
        assert sizes[0] < len(json.dumps(whole))

    @pytest.mark.parametrize("way", PREDICTING)
    async def test_cut_reply_is_a_parsing_error(self, llm: Any, way: str) -> None:
        for max_tokens in (1, 3, 12, 30):
            with pytest.raises(OutputParserException, match="max_tokens") as caught:
                await predict(llm, way, City, PROMPT, {"max_tokens": max_tokens}, city="Rome")
        error: Any = caught.value
        assert error.text.startswith('{"name": "Zürich"') and error.partial["name"] == "Zürich"
        with pytest.raises(ValueError, match="max_tokens"):
            await predict(llm, way, City, PROMPT, {"max_tokens": 20}, city="Rome")

    @pytest.mark.parametrize("way", PREDICTING)
    async def test_what_a_validator_refuses_is_an_error(self, llm: Any, way: str) -> None:
        with pytest.raises(ValueError, match="nobody is good enough"):
            await predict(llm, way, Never, PROMPT, city="Rome")

    @pytest.mark.parametrize("way", PREDICTING)
    async def test_mistakes_are_errors(self, llm: Any, way: str) -> None:
        for wrong in ({"temprature": 1}, {"tool_choice": "auto"}, {"max_tokens": "many"}):
            with pytest.raises(self.invalid_request):
                await predict(llm, way, City, PROMPT, wrong, city="Rome")
        assert await eventually(lambda: self.n_running(llm) == 0)

    @pytest.mark.parametrize("way", PREDICTING)
    async def test_system_prompt_and_dialogue_reach_the_model(self, llm: Any, way: str) -> None:
        counter, counts = TokenCountingHandler(tokenizer=lambda text: []), []
        llm.callback_manager = CallbackManager([counter])
        for system_prompt in (None, "You only speak Python."):
            llm.system_prompt = system_prompt
            template = ChatPromptTemplate.from_messages(
                [("user", "Hello {not_a_variable}"), ("assistant", "Hello!"), ("user", "{city}?")]
            )
            counter.reset_counts()
            await predict(llm, way, City, template, city="Rome")
            counts.append(counter.prompt_llm_token_count)
        added = len(llm.tokenizer("You only speak Python."))
        assert added <= counts[1] - counts[0] <= added + 4  # and a blank line

    @pytest.mark.parametrize("way", PREDICTING)
    async def test_observers_hear_of_it(self, llm: Any, way: str, events: Any, spans: Any) -> None:
        models = await predict(llm, way, City, PROMPT, city="Rome")
        names = [name for name in events.names() if name.startswith("LLMStructured")]
        assert names == [
            "LLMStructuredPredictStartEvent",
            *["LLMStructuredPredictInProgressEvent"] * (len(models) if way in STREAMS else 0),
            "LLMStructuredPredictEndEvent",
        ]
        assert events.names().count("LLMChatStartEvent") == 1
        assert events.events[-1].output == models[-1]
        assert not spans.open_spans

    # ---- through other interfaces of LlamaIndex ------------------------------------

    @pytest.mark.filterwarnings("ignore:The `json` method is deprecated")  # LlamaIndex's
    async def test_structured_llm_answers_in_json(self, llm: Any) -> None:
        structured = llm.as_structured_llm(City)
        messages = [ChatMessage("Be brief.", role="system"), ChatMessage("Zürich? {x}")]
        first = structured.chat(messages)
        second = await structured.achat(messages)
        *_, third = structured.stream_chat(messages)
        *_, fourth = [response async for response in await structured.astream_chat(messages)]
        assert type(first.raw) is City
        assert first.raw == second.raw == third.raw == fourth.raw
        assert City.model_validate_json(first.message.content) == first.raw
        assert structured.complete("Zürich?").text
        assert (await structured.acomplete("Zürich?")).text

    @pytest.mark.parametrize("way", PREDICTING)
    async def test_mode_llm_is_a_prompt_with_the_schema(self, llm: Any, way: str) -> None:
        llm.pydantic_program_mode = PydanticProgramMode.LLM
        prompt, options = PromptTemplate("{city}"), {"json_schema": Flat.model_json_schema()}
        assert (await predict(llm, way, Flat, prompt, options, city="Rome"))[-1] == Flat(x="y")

    @pytest.mark.parametrize("mode", [m for m in PydanticProgramMode if m.name in MODES])
    @pytest.mark.parametrize("way", PREDICTING)
    async def test_every_mode_gives_the_object_or_an_error(
        self, llm: Any, way: str, mode: PydanticProgramMode
    ) -> None:
        llm.pydantic_program_mode = mode
        model = (await predict(llm, way, City, PROMPT, LONG, city="Rome"))[-1]
        assert type(model) is City
        with pytest.raises(ValueError):  # the framework's, or ours
            await predict(llm, way, City, PROMPT, {"max_tokens": 9}, city="Rome")

    @pytest.mark.parametrize("way", PREDICTING)
    async def test_mode_function_is_a_call_too(self, llm: Any, way: str) -> None:
        llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
        assert (await predict(llm, way, Flat, PROMPT, city="Rome"))[-1] == Flat(x="y")

    async def test_function_calling_program_streams(self, llm: Any) -> None:
        program = FunctionCallingProgram.from_defaults(
            City, prompt=PROMPT, llm=llm, tool_choice="City"
        )
        models = [
            program(city="Rome"),
            await program.acall(city="Rome"),
            list(program.stream_call(city="Rome"))[-1],
            [model async for model in await program.astream_call(city="Rome")][-1],
        ]
        assert type(models[0]) is City
        assert models == models[:1] * 4

    # ---- many at a time, and the end of a call --------------------------------------------------

    async def test_sixteen_tasks_get_what_each_gets_alone(self, llm: Any) -> None:
        cities = [f"Rome {'again ' * i}" for i in range(16)]
        models = [City, Node, Box, Strict]
        alone = [
            llm.structured_predict(models[i % 4], PROMPT, city=c) for i, c in enumerate(cities)
        ]
        ways = [way for way in PREDICTING if way.startswith("a")]
        together = await asyncio.gather(
            *(
                predict(llm, ways[i // 4 % 2], models[i % 4], PROMPT, city=city)
                for i, city in enumerate(cities)
            )
        )
        assert [found[-1] for found in together] == alone

    @pytest.mark.parametrize("way", STREAMS)
    async def test_closing_a_stream_ends_its_sequence(self, way: str) -> None:
        class Endless(BaseModel):
            text: str = Field(pattern=r"^[a-z ]{100000}$")

        llm = self.make(**self.endless)
        n_before = self.n_generated(llm)
        stream = getattr(llm, way)(Endless, PROMPT, city="Rome")
        stream = await stream if inspect.isawaitable(stream) else stream
        await step(stream)
        await close(stream)
        await self.check_ended_early(llm, n_before)

    async def test_cancelling_a_task_ends_its_sequence(self) -> None:
        class Endless(BaseModel):
            text: str = Field(pattern=r"^[a-z ]{100000}$")

        llm = self.make(**self.endless)
        n_before = self.n_generated(llm)
        task = asyncio.create_task(llm.astructured_predict(Endless, PROMPT, city="Rome"))
        assert await eventually(lambda: self.n_running(llm) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.check_ended_early(llm, n_before)
