"""Structured output: a pydantic model is the arguments of a forced tool call.

The grammar makes every reply such a call. The prompt shows the pydantic model as a tool.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from typing import Any, Generic, TypeAlias

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_prompt
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.bridge.pydantic import ValidationError
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import MessagesToPromptType, dispatcher
from llama_index.core.program.utils import FlexibleModel, create_flexible_model
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import Model, PydanticProgramMode
from llama_index.llms.starchat.choices import bounded
from llama_index.llms.starchat.errors import CutCallError
from llama_index.llms.starchat.tools import arguments, calls, selections
from pydantic import RootModel

from starchat import (
    ConstraintOptions,
    InvalidRequestError,
    class_schema,
    closed_schema,
)

Options: TypeAlias = dict[str, Any]
CONSTRAINTS = ConstraintOptions.__optional_keys__
_BY_CALL = (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION)
_ROOT = "root"  # the argument that holds a RootModel, which need not be an object


class StructuredByCalls(FunctionCallingLLM):
    """A function calling LLM whose structured output is a forced tool call.

    In the mode LLM, and with a template of the caller's, which cannot show tools, LlamaIndex's own
    programs run, and a grammar makes replies follow the JSON Schema.
    """

    @property
    def own_template(self) -> MessagesToPromptType | None:
        """The caller's `messages_to_prompt`, if it is not LlamaIndex's default."""
        own = self.messages_to_prompt
        return None if own is generic_prompt else own

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return the answer as a pydantic model.

        Raises CutCallError where max_tokens was too small, and pydantic's ValidationError for
        rules that no grammar can express, such as validators.
        """
        if not self._is_by_call:
            options = self._text_options(output_cls, llm_kwargs)
            own: Model = super().structured_predict(output_cls, prompt, options, **prompt_args)
            return own
        reply = StructuredReply(output_cls)
        dispatcher.event(reply.start(prompt, prompt_args))
        response = self.chat(**self._call_options(reply, prompt, llm_kwargs, prompt_args))
        result = reply.read(response)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return the answer as a pydantic model; errors as those of `structured_predict`."""
        if not self._is_by_call:
            options = self._text_options(output_cls, llm_kwargs)
            own: Model = await super().astructured_predict(
                output_cls, prompt, options, **prompt_args
            )
            return own
        reply = StructuredReply(output_cls)
        dispatcher.event(reply.start(prompt, prompt_args))
        response = await self.achat(**self._call_options(reply, prompt, llm_kwargs, prompt_args))
        result = reply.read(response)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options | None = None,
        **prompt_args: Any,
    ) -> Generator[Model | list[Model] | FlexibleModel | list[FlexibleModel], None, None]:
        """Return what `stream_structured_predict` yields."""
        if not self._is_by_call:
            options = self._text_options(output_cls, llm_kwargs)
            own = super()._structured_stream_call(output_cls, prompt, options, **prompt_args)
            return _whole_at_the_end(own, output_cls)
        reply = StructuredReply(output_cls)
        options = self._call_options(reply, prompt, llm_kwargs, prompt_args)
        return reply.stream(self.stream_chat(**options))

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | list[Model] | FlexibleModel | list[FlexibleModel], None]:
        """Return what `astream_structured_predict` yields."""
        if not self._is_by_call:
            options = self._text_options(output_cls, llm_kwargs)
            own = await super()._structured_astream_call(output_cls, prompt, options, **prompt_args)
            return _awhole_at_the_end(own, output_cls)
        reply = StructuredReply(output_cls)
        options = self._call_options(reply, prompt, llm_kwargs, prompt_args)
        return reply.astream(await self.astream_chat(**options))

    @property
    def _is_by_call(self) -> bool:
        return self.pydantic_program_mode in _BY_CALL and not self.own_template

    def _text_options(self, output_cls: type[Model], llm_kwargs: Options | None) -> Options:
        """Return the keywords of LlamaIndex's own programs."""
        options = llm_kwargs or {}
        is_held = any(options.get(name) is not None for name in CONSTRAINTS)
        if is_held or self.pydantic_program_mode not in (*_BY_CALL, PydanticProgramMode.LLM):
            return options
        return options | {"json_schema": parsable_schema(output_cls)}

    def _call_options(
        self,
        reply: StructuredReply[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options | None,
        prompt_args: Options,
    ) -> Options:
        """Return what the chat methods are called with."""
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        options, own = reply.options(messages), llm_kwargs or {}
        if taken := options.keys() & own.keys():
            problem = f"{', '.join(sorted(taken))} are set by structured output itself"
            raise InvalidRequestError.of("llm_kwargs", problem)
        return {"messages": messages, **options, **own}


class StructuredReply(Generic[Model]):
    """Asks for one pydantic model, and reads it from the responses."""

    def __init__(self, output_cls: type[Model]) -> None:
        """Ask for an `output_cls`."""
        self._output_cls = output_cls
        self._is_root = issubclass(output_cls, RootModel)

    def start(self, prompt: PromptTemplate, prompt_args: Options) -> LLMStructuredPredictStartEvent:
        """Return the event of the start."""
        return LLMStructuredPredictStartEvent(
            output_cls=self._output_cls, template=prompt, template_args=prompt_args
        )

    def options(self, messages: Sequence[ChatMessage]) -> Options:
        """Return the arguments that make a chat method reply with one call, of this model."""
        schema = bounded(class_schema(self._output_cls), self._output_cls, messages)
        about = schema.pop("description", "")
        if self._is_root:
            definitions = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
            schema = {"type": "object", "properties": {_ROOT: schema}, "required": [_ROOT]}
            schema |= definitions
        name = self._output_cls.__name__
        tool = {"name": name, "description": about, "parameters": schema}
        return {"tools": [tool], "tool_choice": name, "parallel_tool_calls": False}

    def read(self, response: ChatResponse) -> Model:
        """Return the model of a whole reply; raise CutCallError or ValidationError."""
        (call,) = selections(response, at_least_one=True)
        value = call.tool_kwargs[_ROOT] if self._is_root else call.tool_kwargs
        # As JSON: a strict model accepts a string for a date only there.
        return self._output_cls.model_validate_json(json.dumps(value))

    def stream(
        self, responses: Generator[ChatResponse, None, None]
    ) -> Generator[Model | FlexibleModel, None, None]:
        """Yield the partial model after every response, and the whole one at the end."""
        flexible = create_flexible_model(self._output_cls)
        with closing(responses):
            for response in responses:
                yield self._so_far(response, flexible)

    async def astream(
        self, responses: AsyncGenerator[ChatResponse, None]
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """Yield the partial model after every response, and the whole one at the end."""
        flexible = create_flexible_model(self._output_cls)
        async with aclosing(responses):
            async for response in responses:
                yield self._so_far(response, flexible)

    def _so_far(
        self, response: ChatResponse, flexible: type[FlexibleModel]
    ) -> Model | FlexibleModel:
        if response.raw and "finish_reason" in response.raw:
            return self.read(response)
        blocks = calls(response)
        values = arguments(blocks[0]) if blocks else {}
        try:
            return self._output_cls.model_validate(values.get(_ROOT) if self._is_root else values)
        except ValidationError:
            return flexible.model_validate(values)


def _whole_at_the_end(
    models: Generator[Any, None, None], whole: type
) -> Generator[Any, None, None]:
    """Yield the models of a program, which logs errors; raise CutCallError without a whole one."""
    last = None
    for last in models:
        yield last
    _check_whole(last, whole)


async def _awhole_at_the_end(
    models: AsyncGenerator[Any, None], whole: type
) -> AsyncGenerator[Any, None]:
    last = None
    async for last in models:
        yield last
    _check_whole(last, whole)


def _check_whole(last: Any, whole: type) -> None:
    if not isinstance(last, whole):
        partial = last.model_dump(mode="json", exclude_unset=True) if last is not None else None
        raise CutCallError(
            f"the reply ended before a whole {whole.__name__}: raise max_tokens",
            text="" if partial is None else json.dumps(partial, ensure_ascii=False),
            partial=partial,
        )


def text_schema(model: type[Model]) -> dict[str, Any]:
    """Return the schema of a model's JSON where it is the text of a reply."""
    return closed_schema(class_schema(model))


def parsable_schema(model: type[Model]) -> dict[str, Any]:
    """Return the same for a reply that LlamaIndex reads: InvalidRequestError if not an object."""
    schema = text_schema(model)
    if schema.get("type", "object") != "object":
        problem = (
            f"LlamaIndex reads objects out of a text, but {model.__name__} is of the type "
            f"{schema['type']!r}: make it a field of a class, or call structured_predict in the "
            "pydantic_program_mode DEFAULT"
        )
        raise InvalidRequestError.of("output_cls", problem)
    return schema
