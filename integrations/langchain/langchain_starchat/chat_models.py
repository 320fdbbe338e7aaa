"""The chat model: messages in, a message or a stream of chunks out.

Callbacks, caching and batching are LangChain's. Every call goes through starchat's scheduler, so
`batch`, threads and tasks are batched continuously.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast, get_origin

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_starchat.errors import langchain_errors
from langchain_starchat.messages import MessageChunks, to_ai_message, to_starchat
from langchain_starchat.prompt_progress import PromptProgress, events_of_config, events_of_run
from langchain_starchat.request_options import ChatRequest, chat_request
from langchain_starchat.schemas import definitions, json_schema, without_response_format
from langchain_starchat.settings import StarChatSettings, WideBatches, wide
from langchain_starchat.structured_output import StructuredOutputParser, beside_raw, is_pydantic
from starchat import Chunk, InvalidRequestError, StarChat, shown
from starchat.model_settings import is_small
from starchat.openai import read_tool_choice

_ABILITIES = (
    "open_weights",
    "text_inputs",
    "text_outputs",
    "tool_calling",
    "tool_choice",
    "tool_call_streaming",
    "structured_output",
    "temperature",
)
_NO_ABILITIES = (  # LangChain reads a missing key as an ability
    *[f"{kind}_inputs" for kind in ("image", "image_url", "pdf", "audio", "video")],
    *[f"{kind}_outputs" for kind in ("image", "audio", "video")],
    "image_tool_message",
    "pdf_tool_message",
    "reasoning_output",
    "mid_conversation_system_messages",
    "mid_conversation_tools",
    "attachment",
)


_MANY = 300  # messages, or parts of their contents: 2 ms


def _is_long(messages: Sequence[BaseMessage], call: dict[str, Any]) -> bool:
    """Return whether the request takes an event loop's time: many or long parts, or schemas."""
    if len(messages) > _MANY or call.get("tools") or call.get("response_format"):
        return True
    contents = [message.content for message in messages]
    if sum([len(c) if isinstance(c, list) else 1 for c in contents]) > _MANY:
        return True
    return not is_small(*[content for content in contents if isinstance(content, list)])


class ChatStarChat(StarChatSettings, WideBatches, BaseChatModel):
    """A StarChat model that runs in this process, on the CPU.

    Setup:
        Install both packages from the repository. No server, no key. Without a file, the small
        demonstration model inside the `starchat` package answers.

        ```bash
        pip install . ./integrations/langchain
        ```

    Key init args — the file:
        model_path: str | None
            A StarChat or StarCoder file, or a name of Hugging Face such as
            "TheBloke/starchat-beta-GGML:q4_0"; also as `model=`. None: the embedded model.
        n_ctx: int | None
            Tokens that prompt and reply may fill together.
        n_threads: int | None
            Threads that compute.

    Key init args — the reply:
        temperature: float | None
            0 is greedy. None, here and below: starchat's default (0.2, 50, 0.95).
        top_k: int | None
        top_p: float | None
        max_tokens: int | None
        stop: list[str] | None
        seed: int | None
            The same seed gives the same text on every machine.

        All sampling parameters of `starchat.SamplingParams` are fields, and may be given to a
        call as well, where they win.

    Instantiate:
        ```python
        from langchain_starchat import ChatStarChat

        llm = ChatStarChat(temperature=0, max_tokens=256)
        ```

    Invoke:
        ```python
        llm.invoke([("system", "Answer briefly."), ("human", "How do I sort a list in Python?")])
        ```

    Stream:
        ```python
        for chunk in llm.stream("How do I sort a list in Python?"):
            print(chunk.text, end="", flush=True)
        ```

        Leaving the loop stops the engine's work on this reply.

    Async:
        ```python
        await llm.ainvoke("How do I sort a list in Python?")
        async for chunk in llm.astream("How do I sort a list in Python?"):
            print(chunk.text, end="", flush=True)
        await llm.abatch(["How do I sort a list?", "How do I reverse a string?"])
        ```

    Tool calling:
        ```python
        from pydantic import BaseModel, Field

        class GetWeather(BaseModel):
            '''Get the current weather in a given location.'''

            location: str = Field(description="The city, e.g. Oslo")

        llm_with_tools = llm.bind_tools([GetWeather])
        llm_with_tools.invoke("What is the weather in Oslo?").tool_calls
        # [{'name': 'GetWeather', 'args': {'location': 'Oslo'}, 'id': 'call_…', …}]
        ```

        The model decides whether it calls; `tool_choice="any"` or a tool's name makes it. A call
        always follows its tool's schema. One that `max_tokens` cut is in `invalid_tool_calls`.

    Structured output:
        ```python
        class Person(BaseModel):
            '''A person.'''

            name: str
            age: int = Field(ge=0)

        llm.with_structured_output(Person).invoke("The name is Ada Lovelace, the age 36")
        # Person(name='Ada Lovelace', age=36)
        ```

        `method="json_schema"` (the default) shows the schema to the model and writes JSON of it,
        `"function_calling"` calls a tool of it, `"json_mode"` writes some JSON object. Calls also
        take `response_format=` in OpenAI's form. starchat's own `json_schema`, `regex`, `grammar`
        and `choice` are arguments of calls and fields.

    Begun answers:
        ```python
        begun = [("human", "How do I sort a list in Python?"), ("ai", "You can sort")]
        llm.invoke(begun, continue_final_message=True).text
        # ' a list in Python by using the sort() method. …'
        ```

    Usage metadata:
        ```python
        llm.invoke("How do I sort a list in Python?").usage_metadata
        # {'input_tokens': 18, 'output_tokens': 89, 'total_tokens': 107}
        ```

    Response metadata:
        ```python
        llm.invoke("How do I sort a list in Python?").response_metadata
        # {'model_name': 'starchat-nano', 'model_provider': 'starchat', 'finish_reason': 'stop'}
        ```
    """

    streaming: bool = False
    """Whether `invoke` streams inside, so that callbacks see every token."""
    tool_choice: str | dict[str, Any] | bool | None = None
    """Of requests with tools that name none: "auto", "any", "none" or a tool."""
    parallel_tool_calls: bool | None = None
    """False: one call in a reply at most."""
    continue_final_message: bool | None = None
    """True: go on with an AIMessage at the end of the dialogue; the reply has only what follows."""

    @property
    def _llm_type(self) -> str:
        return "starchat-chat"

    def _resolve_model_profile(self) -> ModelProfile:
        profile = {
            "name": self.model_name,
            **dict.fromkeys(_ABILITIES, True),
            **dict.fromkeys(_NO_ABILITIES, False),
            "reasoning_effort_levels": [],
            **self._limits(self._context_size()),
        }
        known = ModelProfile.__annotations__  # of this version of LangChain
        return cast(ModelProfile, {key: profile[key] for key in profile if key in known})

    def _limits(self, context: int | None) -> dict[str, int]:
        if context is None:
            return {}
        reply = context if self.max_tokens is None else min(self.max_tokens, context)
        return {"max_input_tokens": context, "max_output_tokens": reply}

    def _noted(self, model: StarChat) -> StarChat:
        if self.profile is not None and "max_input_tokens" not in self.profile:
            self.profile = cast(ModelProfile, self._limits(model.info.n_ctx) | self.profile)
        return model

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return super()._get_ls_params(stop=self.stop if stop is None else stop, **kwargs)

    @langchain_errors()
    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many tokens the prompt of these messages has, template and tools included.

        Counts any messages in any order, such as the parts that `trim_messages` tries.
        """
        if not messages:
            return 0
        dialogue = to_starchat(convert_to_messages(messages), self.model_name, part=True)
        return self._count_tokens(dialogue, definitions(tools or ()))

    @langchain_errors()
    def bind_tools(
        self,
        # A BaseTool is a Runnable; its own module would be imported for the name alone.
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Runnable[Any, Any]],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with tools that it may call.

        tool_choice: "auto" (the model decides), "any" or "required" or True (at least one call),
        "none", or the name of the one tool to call.
        strict: whether the schemas that the model sees forbid other arguments; calls follow their
        schema in either case.
        parallel_tool_calls: False allows one call in a reply.
        """
        arguments = {
            "tools": definitions(tools, strict),
            "tool_choice": read_tool_choice(tool_choice),
            "parallel_tool_calls": parallel_tool_calls,
        }
        given = {name: value for name, value in arguments.items() if value is not None}
        return self.bind(**given, **kwargs)

    @langchain_errors()
    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable whose result is what a schema describes.

        schema: a pydantic class, of which the result is a validated instance; or a TypedDict
        class, a JSON Schema, OpenAI's response format or an OpenAI function, for a dict.
        method: "json_schema" (the reply is JSON that follows the schema, which the prompt shows),
        "function_calling" (the reply calls a tool of this schema) or "json_mode" (the reply is
        any JSON object: the prompt must say which; the schema may be None).
        include_raw: whether to return {"raw": the message, "parsed": …, "parsing_error": …}.
        strict: as with `bind_tools`; JSON follows its schema in either case.
        tools, among the other arguments: what the reply may call instead of its JSON.

        The runnable raises OutputParserException where the reply was cut or does not validate,
        unless `include_raw`.
        """
        schema = without_response_format(schema)
        if get_origin(schema) is not None:
            problem = f"expected a class or a dict, got {schema!s:.80}: make it a field of a class"
            raise InvalidRequestError.of("schema", problem)
        tool: str | None = None
        arguments: dict[str, Any]
        if method == "json_mode":
            arguments = {"response_format": {"type": "json_object"}}
        elif schema is None:
            raise InvalidRequestError.of("schema", f"method {shown(method)} needs one, got None")
        elif method == "json_schema":
            named = {"schema": json_schema(schema)}
            arguments = {"response_format": {"type": "json_schema", "json_schema": named}}
        elif method == "function_calling":
            if isinstance(schema, dict) and not schema.keys() & {"title", "name", "function"}:
                schema = {"title": "answer", **schema}
            (defined,) = definitions([schema], strict)
            tool = defined.get("function", defined)["name"]
            arguments = {"tools": [defined], "tool_choice": tool, "parallel_tool_calls": False}
        else:
            problem = (
                f"expected 'json_schema', 'function_calling' or 'json_mode', got {shown(method)}"
            )
            raise InvalidRequestError.of("method", problem)
        if twice := arguments.keys() & kwargs.keys():
            problem = f"method {shown(method)} says it itself: leave it out"
            raise InvalidRequestError.of(", ".join(sorted(twice)), problem)
        if kwargs.get("tools"):
            kwargs["tools"] = definitions(kwargs["tools"], strict)
        traced = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        llm = self.bind(**arguments, **kwargs, ls_structured_output_format=traced)
        parser = StructuredOutputParser(target=schema if is_pydantic(schema) else None, tool=tool)
        return beside_raw(llm, parser) if include_raw else llm | parser

    def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        call: dict[str, Any],
        progress: PromptProgress | None,
    ) -> ChatRequest:
        call = {"prompt_progress": progress, **call}
        if call.get("tools"):
            fields = {name: getattr(self, name) for name in ("tool_choice", "parallel_tool_calls")}
            call = {name: value for name, value in fields.items() if value is not None} | call
        dialogue = to_starchat(messages, self.model_name)
        if self.continue_final_message and dialogue and dialogue[-1]["role"] == "assistant":
            call = {"continue_final_message": True} | call
        return chat_request(dialogue, self._sampling(stop, call), self.limits)

    async def _arequest(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        call: dict[str, Any],
        progress: PromptProgress | None,
    ) -> ChatRequest:
        """Return what _request() returns; a thread makes it where that takes long."""
        request = partial(self._request, messages, stop, call, progress)
        return await asyncio.to_thread(request) if _is_long(messages, call) else request()

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = ("tool_choice", "parallel_tool_calls", "continue_final_message")
        return super()._identifying_params | {name: getattr(self, name) for name in names}

    def _result(self, chunks: list[Chunk]) -> ChatResult:
        replies: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            if chunk.index > 0 and chunk.usage:  # the usages of all messages count the prompt once
                chunk = replace(chunk, usage=replace(chunk.usage, prompt_tokens=0, cached_tokens=0))
            replies.setdefault(chunk.index, []).append(chunk)
        messages = [to_ai_message(replies[index], self.model_name) for index in sorted(replies)]
        return ChatResult(generations=[ChatGeneration(message=message) for message in messages])

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs together, as `Runnable.batch` does.

        Here `max_concurrency` is 64 unless the config says otherwise.
        """
        configs = wide(config, len(inputs))
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    @langchain_errors()
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs, events_of_run(run_manager))
        return self._result(list(request.chunks(self._model())))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            request = await self._arequest(messages, stop, kwargs, events_of_run(run_manager))
            async with aclosing(request.achunks(await self._amodel())) as chunks:
                return self._result([chunk async for chunk in chunks])

    def _streaming_disabled(self, **kwargs: Any) -> bool:
        if not kwargs.get("stream") and kwargs.get("n", self.n) not in (None, 1):
            return True  # generate() of n replies streams none of them inside
        return super()._streaming_disabled(**kwargs)

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Yield the chunks of a reply, as `BaseChatModel.stream` does."""
        if progress := events_of_config(config, self.callbacks, is_async=False):
            kwargs.setdefault("prompt_progress", progress)
        return super().stream(input, config, stop=stop, **kwargs)

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Yield the chunks of a reply, as `BaseChatModel.astream` does."""
        if progress := events_of_config(config, self.callbacks, is_async=True):
            kwargs.setdefault("prompt_progress", progress)
        return super().astream(input, config, stop=stop, **kwargs)

    @langchain_errors()
    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        self._check_options(kwargs | {"stop": stop})
        return super()._get_llm_string(stop, **kwargs)

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        kwargs.pop("prompt_progress", None)  # traces show values
        return super()._get_invocation_params(stop, **kwargs)

    # For a chat model, LangChain itself calls on_llm_new_token; these methods must not. A stream
    # has one reply.

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        pieces = MessageChunks(self.model_name)
        with langchain_errors():
            progress = events_of_config(None, is_async=False)
            request = self._request(messages, stop, kwargs | {"n": 1}, progress)
            for chunk in request.chunks(self._model()):
                yield from pieces.feed(chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        pieces = MessageChunks(self.model_name)
        with langchain_errors():
            progress = events_of_config(None, is_async=True)
            request = await self._arequest(messages, stop, kwargs | {"n": 1}, progress)
            async with aclosing(request.achunks(await self._amodel())) as chunks:
                async for chunk in chunks:
                    for generation in pieces.feed(chunk):
                        yield generation
