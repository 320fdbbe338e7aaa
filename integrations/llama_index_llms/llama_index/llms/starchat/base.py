"""StarChat as a LlamaIndex LLM: ChatMessages and prompts in, responses out.

The engine, the dialogue template and the tokenizer are `starchat`'s; its errors pass through.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    DocumentBlock,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field, field_validator
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection, default_completion_to_prompt
from llama_index.llms.starchat.messages import to_starchat
from llama_index.llms.starchat.parsers import ParsedDialogue
from llama_index.llms.starchat.predictions import ParsablePredictions
from llama_index.llms.starchat.prompt_progress import progress_events
from llama_index.llms.starchat.responses import (
    Part,
    Reply,
    chat_response,
    completion_response,
    responses,
    responses_async,
    whole,
    whole_async,
)
from llama_index.llms.starchat.stream_closing import aclosing_stream, closing_stream, opened
from llama_index.llms.starchat.structured import CONSTRAINTS
from llama_index.llms.starchat.tools import (
    check_whole,
    definition,
    made_of_class,
    resolved_choice,
    selections,
)

import starchat
from starchat.model_settings import ModelSettings, is_small

if TYPE_CHECKING:
    from llama_index.core.prompts import BasePromptTemplate
    from llama_index.core.tools.types import BaseTool

_SAMPLING = tuple(field.name for field in fields(starchat.SamplingParams))
_OF_CHATS = starchat.ChatOptions.__optional_keys__ - starchat.ReplyOptions.__optional_keys__
_FRAMED_BELOW_SYSTEM_PROMPT = (
    "the prompt is framed by control tokens, but because of system_prompt it is asked as a user "
    "turn, where they are plain text: write system_prompt into the frame and remove it here, or "
    "pass allow_special=True to leave it out, or allow_special=False to keep the text a user turn"
)
_MANY = 300  # messages, or parts of their contents, that take an event loop's time
_NUM_OUTPUT = 512  # tokens that LlamaIndex reserves for an answer without max_tokens
_LEAST_CONTEXT = 2048  # of SantaCoder; the others have 8,192


class StarChat(ModelSettings, ParsablePredictions):
    """Answers with a StarChat model in this process.

    Construction is cheap: the weights are loaded on first use, and shared by every instance of
    the same file and settings. Any number of threads and tasks may call at the same time; their
    sequences are computed together. Closing a stream or cancelling a task ends its sequence.

    `None` leaves a parameter to starchat's own default; an argument of a call wins over the
    field of the same name, and an unknown one raises `starchat.InvalidRequestError`. A constraint
    or the tools of a call replace the constraint that is a field.

    `complete` asks its prompt as one user turn, after `system_prompt`; with `formatted=True`, or
    a `completion_to_prompt` of your own, the text goes to the model as it is. So does a prompt
    that is framed by control tokens (`<|system|>` … `<|assistant|>`) where there is no
    `system_prompt`. `chat` takes the messages as they are, by StarChat's template or by a
    `messages_to_prompt` of your own.

    `chat_with_tools` and its variants call tools, `structured_predict` and its variants return
    pydantic models. A grammar makes both follow their schemas; `CutCallError` is raised where
    `max_tokens` is too small. `predict` and its variants hold the reply to what the prompt's output
    parser reads. A template of your own cannot show tools.

    Examples:
        `pip install llama-index-llms-starchat`

        ```python
        from llama_index.core.llms import ChatMessage
        from llama_index.llms.starchat import StarChat

        llm = StarChat(max_tokens=256)  # model_path="starchat-beta.ggmlv3.q4_0.bin"
        print(llm.complete("How do I sort a list in Python?"))
        for response in llm.stream_chat([ChatMessage("How do I reverse a string?")]):
            print(response.delta, end="", flush=True)
        ```
    """

    # Sampling parameters, written by scripts/sampling_parameters.py
    max_tokens: int | None = Field(
        default=None, description="Most tokens of a reply; by default what the context holds."
    )
    temperature: float | None = Field(
        default=None, description="Randomness; 0: always the likeliest token."
    )
    top_k: int | None = Field(
        default=None, description="Choose among the k likeliest tokens; 0: off."
    )
    top_p: float | None = Field(
        default=None, description="Choose among the likeliest tokens of this probability; 1: off."
    )
    min_p: float | None = Field(
        default=None, description="Drop tokens less likely than this share of the best; 0: off."
    )
    repetition_penalty: float | None = Field(
        default=None, description="Above 1: tokens of prompt and reply become less likely; 1: off."
    )
    frequency_penalty: float | None = Field(
        default=None, description="Subtracted from a logit for each time in the reply; 0: off."
    )
    presence_penalty: float | None = Field(
        default=None, description="Subtracted from the logits of what is in the reply; 0: off."
    )
    repetition_window: int | None = Field(
        default=None,
        description="Penalties see the last so many tokens of prompt and reply; 0: all.",
    )
    logit_bias: dict[int, float] | None = Field(
        default=None, description="Token id → what is added to its logit; -inf bans it."
    )
    seed: int | None = Field(
        default=None,
        description="The same seed gives the same reply; by default a fresh one each time.",
    )
    stop: str | list[str] | None = Field(
        default=None, description="Strings that end a reply and are not part of it."
    )
    stop_token_ids: list[int] | None = Field(default=None, description="Ids that end a reply.")
    min_tokens: int | None = Field(
        default=None, description="No end token before so many tokens; stop strings still count."
    )
    ignore_eos: bool | None = Field(
        default=None,
        description="End tokens are masked: only stop strings, stop ids and the limit end a reply.",
    )
    logprobs: int | None = Field(
        default=None, description="n: report log probabilities, and of the n likeliest tokens."
    )
    schema_limits: dict[str, int] | None = Field(
        default=None, description="Most characters (string), items (array), keys (object), digits."
    )
    speculation: bool | None = Field(
        default=None, description="Guess ahead by prompt look-up; the tokens are the same without."
    )
    # End of sampling parameters
    json_schema: dict[str, Any] | Literal[True] | None = Field(
        default=None, description="Replies are JSON of this schema; True: any JSON object."
    )
    regex: str | None = Field(default=None, description="Replies match this expression.")
    grammar: str | None = Field(default=None, description="Replies follow this Lark or GBNF.")
    choice: list[str] | None = Field(default=None, description="Replies are one of these texts.")
    cache_salt: str | None = Field(
        default=None,
        description="Only prompts with the same one share the prefix cache: one for each guest.",
    )
    allow_special: bool | list[str] | None = Field(
        default=None,
        description="Control tokens in a raw prompt that count: all (True), none (False), or those "
        "in a list; None: those of its frame, if it is a dialogue or a text with a gap.",
    )

    @field_validator("query_wrapper_prompt")
    @classmethod
    def _refuse_wrapper(cls, prompt: BasePromptTemplate | None) -> None:
        if prompt is not None:
            raise ValueError(
                "StarChat's own template frames a query: leave query_wrapper_prompt out, or pass a "
                "frame of your own as messages_to_prompt and completion_to_prompt"
            )

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex's serialization knows."""
        return "StarChat"

    @property
    def metadata(self) -> LLMMetadata:
        """What the model can do, by its file's header.

        LlamaIndex looks at this on the event loop too: nothing is loaded, unless to raise what is
        wrong with the file. Until a model is fetched from a hub, the context is the least of all.
        """
        n_ctx = self._context_size() or (self._is_absent and (self.n_ctx or _LEAST_CONTEXT))
        n_ctx = n_ctx or self.engine.info.n_ctx
        return LLMMetadata(
            context_window=n_ctx,
            # LlamaIndex fills the rest with a template and texts: they get half at least.
            num_output=min(self.max_tokens or min(_NUM_OUTPUT, n_ctx // 4), n_ctx // 2),
            is_chat_model=True,
            is_function_calling_model=not self.own_template,
            model_name=Path(self._file).stem,
        )

    def to_payload(self) -> dict[str, Any]:
        """Describe the model for callbacks; by its settings alone before it is loaded.

        LlamaIndex calls this before every call, on the event loop too: it must never load.
        """
        payload = {"class_name": self.class_name(), "model_path": self.model_path}
        if self._loaded:
            payload |= self.metadata.model_dump()
        return payload | self._sampling()

    @property
    def tokenizer(self) -> Callable[[str], list[int]]:
        """The model's own tokenizer, for `Settings.tokenizer` and `tokenizer=` arguments."""
        return partial(self._prompt_ids, allow_special=False)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the reply to a dialogue."""
        request = self._chat(messages, kwargs)
        return whole(request.response, request.reply, request.submit(self.engine))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the reply to a dialogue."""
        request = await self._achat(messages, kwargs)
        stream = request.submit(await self._aengine(), "a")
        return await whole_async(request.response, request.reply, stream)

    @closing_stream
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream the reply to a dialogue; a wrong request raises at the call, not in the stream."""
        request = self._chat(messages, kwargs)
        return responses(request.response, request.reply, request.submit_stream(self.engine))

    @aclosing_stream
    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Stream the reply to a dialogue; a wrong request raises at the call, not in the stream."""
        request = await self._achat(messages, kwargs)
        stream = await request.asubmit_stream(await self._aengine())
        return responses_async(request.response, request.reply, stream)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a prompt, or the continuation of a formatted one."""
        request = self._complete(prompt, formatted, kwargs)
        return whole(completion_response, request.reply, request.submit(self.engine))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Return the answer to a prompt, or the continuation of a formatted one."""
        request = await self._acomplete(prompt, formatted, kwargs)
        stream = request.submit(await self._aengine(), "a")
        return await whole_async(completion_response, request.reply, stream)

    @closing_stream
    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Stream the answer; a wrong request raises at the call, not in the stream."""
        request = self._complete(prompt, formatted, kwargs)
        stream = request.submit_stream(self.engine)
        return responses(completion_response, request.reply, stream)

    @aclosing_stream
    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Stream the answer; a wrong request raises at the call, not in the stream."""
        request = await self._acomplete(prompt, formatted, kwargs)
        stream = await request.asubmit_stream(await self._aengine())
        return responses_async(completion_response, request.reply, stream)

    # ---- tools ------------------------------------------------------------------------------

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return what the chat methods are called with."""
        asked = [ChatMessage(user_msg)] if isinstance(user_msg, str) else [user_msg]
        messages = [*(chat_history or []), *(asked if user_msg is not None else [])]
        is_of_program = any(map(made_of_class, tools))  # which does not say so where it streams
        return {
            "messages": ParsedDialogue(messages) if is_of_program else messages,
            "tools": [definition(tool, messages) for tool in tools],
            "tool_choice": resolved_choice(tool_choice, tool_required or is_of_program),
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """Return the response; raise CutCallError if it was cut. The grammar ensures the rest."""
        return check_whole(response)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the calls of a response; within a stream, with their arguments so far.

        Raises CutCallError at the end of a reply that was cut within a call, and ValueError
        where there is no call although `error_on_no_tool_call`.
        """
        return selections(response, error_on_no_tool_call)

    # ---- internals --------------------------------------------------------------------------

    async def _achat(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> _Request:
        """Return what _chat() returns; a thread makes it where that takes long."""
        if _is_long(messages):
            return await asyncio.to_thread(self._chat, messages, kwargs)
        return self._chat(messages, kwargs)

    def _chat(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> _Request:
        is_parsed = isinstance(messages, ParsedDialogue)
        schema = messages.json_schema if isinstance(messages, ParsedDialogue) else None
        if own := self.own_template:
            if unseen := sorted(kwargs.keys() & _OF_CHATS):
                problem = f"{', '.join(unseen)}: a template of your own cannot show it"
                remedy = "leave messages_to_prompt out, StarChat's template can"
                raise starchat.InvalidRequestError(f"{problem}: {remedy}", param=unseen[0])
            request = self._raw(own(list(messages)), kwargs, schema)
        else:
            request = _Request("chat", to_starchat(messages), self._options(kwargs, schema))
        return request._replace(is_parsed=is_parsed)

    async def _acomplete(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> _Request:
        """Return what _complete() returns; a thread makes it where that takes long."""
        if is_small(prompt):
            return self._complete(prompt, formatted, kwargs)
        return await asyncio.to_thread(self._complete, prompt, formatted, kwargs)

    def _complete(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> _Request:
        self._check_length(prompt)
        if unseen := sorted(kwargs.keys() & _OF_CHATS):
            shows = "go on with a message" if "continue_final_message" in unseen else "show calls"
            problem = f"{', '.join(unseen)}: a completion cannot {shows}, use the chat methods"
            raise starchat.InvalidRequestError(problem, param=unseen[0])
        if formatted:
            return self._raw(prompt, kwargs)
        own = self.completion_to_prompt
        if own and own is not default_completion_to_prompt:
            return self._raw(own(prompt), kwargs)
        allowed = kwargs.get("allow_special", self.allow_special)
        if allowed is not False and isinstance(prompt, str) and starchat.is_framed(prompt):
            if allowed is not None or not self.system_prompt:
                return self._raw(prompt, kwargs)
            warnings.warn(_FRAMED_BELOW_SYSTEM_PROMPT, starchat.ControlTokenWarning, stacklevel=1)
        options = {name: value for name, value in kwargs.items() if name != "allow_special"}
        if kwargs.get("allow_special"):
            raise starchat.InvalidRequestError.of(
                "allow_special",
                "this prompt is asked as a user turn, whose text has no control tokens; "
                "formatted=True gives it raw",
            )
        return self._chat(list(self._extend_messages([ChatMessage(prompt)])), options)

    def _raw(
        self, prompt: str, kwargs: dict[str, Any], schema: dict[str, Any] | None = None
    ) -> _Request:
        options = {"allow_special": self.allow_special, **self._options(kwargs, schema)}
        return _Request("complete", prompt, options)

    def _options(
        self, kwargs: dict[str, Any], schema: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return a call's keywords over the fields; a call has one constraint, or tools.

        The call's own counts, then the schema of a parser, then the field.
        """
        held = any(kwargs.get(name) is not None for name in CONSTRAINTS)
        fields = self._given((*_SAMPLING, "cache_salt"))
        if held or (kwargs.get("tools") and kwargs.get("tool_choice") != "none"):
            return fields | kwargs
        constraint = {"json_schema": schema} if schema else self._given(CONSTRAINTS)
        return constraint | fields | kwargs

    def _sampling(self) -> dict[str, Any]:
        return self._given(_SAMPLING)

    def _given(self, names: Iterable[str]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


def _is_long(messages: Sequence[ChatMessage]) -> bool:
    """Return whether messages take an event loop's time: many parts, or files."""
    if len(messages) > _MANY:
        return True
    blocks = [block for message in messages for block in getattr(message, "blocks", ())]
    return len(blocks) > _MANY or any(isinstance(block, DocumentBlock) for block in blocks)


class _Request(NamedTuple):
    """One call of `starchat.StarChat`, plain or async."""

    method: Literal["chat", "complete"]
    content: list[starchat.Message] | str
    options: dict[str, Any]
    is_parsed: bool = False

    def response(self, reply: Reply, part: Part, delta: str | None) -> ChatResponse:
        """Return the response so far; raise CutCallError where a parser cannot read the last."""
        response = chat_response(reply, part, delta)
        return check_whole(response, is_parsed=True) if self.is_parsed else response

    @property
    def reply(self) -> Reply:
        """An empty reply, to add chunks to."""
        return Reply(self.options.get("tool_choice") not in (None, "auto", "none"))

    def submit(self, engine: starchat.StarChat, way: Literal["", "a"] = "") -> Any:
        """Return the stream of the reply; methods without a stream read it to its end."""
        options = self.options
        if progress := progress_events():
            options = {"prompt_progress": progress, **options}
        return getattr(engine, f"{way}stream_{self.method}")(self.content, **options)

    async def asubmit_stream(self, engine: starchat.StarChat) -> Any:
        """Return the stream once its request is checked."""
        stream = self.submit_stream(engine, "a")
        await stream.submitted()
        return stream

    def submit_stream(self, engine: starchat.StarChat, way: Literal["", "a"] = "") -> Any:
        """Return the same for a stream of responses, which the call's decorator closes."""
        if (n := self.options.get("n")) not in (None, 1):
            problem = f"expected 1, got {starchat.shown(n)}: a stream has one reply; "
            problem += "chat() and complete() have n"
            raise starchat.InvalidRequestError.of("n", problem)
        return opened(self.submit(engine, way))
