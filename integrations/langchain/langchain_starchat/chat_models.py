"""The chat model: messages in, a message or a stream of its pieces out.

Callbacks, caching and batching are LangChain's; every call goes through starchat's one scheduler,
so that `batch`, threads and tasks share the steps of the engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list

from langchain_starchat.errors import context_overflow
from langchain_starchat.messages import to_ai_message, to_generation_chunks, to_starchat
from langchain_starchat.settings import StarChatSettings
from starchat import Completion, InvalidRequestError, Message, StarChat

_MOST_AT_ONCE = 64  # as many as the engine computes together


class ChatStarChat(StarChatSettings, BaseChatModel):
    """A StarChat model that runs in this process, on the CPU.

    Setup:
        Install both packages from the repository. No server, no key. Without a file, the small
        demonstration model inside the `starchat` package answers.

        ```bash
        pip install . ./integrations/langchain
        ```

    Key init args — the file:
        model_path: str | None
            A StarChat or StarCoder file in ggml's format; None: the embedded model.
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

    @property
    def _llm_type(self) -> str:
        return "starchat-chat"

    def _resolve_model_profile(self) -> ModelProfile:
        profile = ModelProfile(
            name=self.model_name,
            open_weights=True,
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            text_outputs=True,
            reasoning_output=False,
            tool_calling=False,
            tool_choice=False,
            structured_output=False,
            temperature=True,
        )
        if self.n_ctx is not None:
            profile["max_input_tokens"] = self.n_ctx
        return profile

    def _noted(self, model: StarChat) -> StarChat:
        if self.profile is not None and "max_input_tokens" not in self.profile:
            self.profile = {**self.profile, "max_input_tokens": model.info.n_ctx}
        return model

    def _dialogue(self, messages: list[BaseMessage]) -> list[Message]:
        return to_starchat(messages, self.model_name)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return super()._get_ls_params(stop=self.stop if stop is None else stop, **kwargs)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many tokens the prompt of these messages has, the template's included."""
        if tools:
            raise InvalidRequestError("tools cannot be counted: this model does not call any")
        return self._model().count_tokens(self._dialogue(messages)) if messages else 0

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs together, as `Runnable.batch` does.

        Its default of a few more threads than cores would leave columns of a step empty, so
        `max_concurrency` is 64 unless the config says otherwise.
        """
        default = RunnableConfig(max_concurrency=_MOST_AT_ONCE)
        configs = [
            default | own if own.get("max_concurrency") is None else own
            for own in get_config_list(config, len(inputs))
        ]
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with context_overflow():
            reply = self._model().chat(self._dialogue(messages), **self._sampling(stop, kwargs))
        return self._result(reply)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = await self._amodel()
        with context_overflow():
            reply = await model.achat(self._dialogue(messages), **self._sampling(stop, kwargs))
        return self._result(reply)

    def _result(self, reply: Completion) -> ChatResult:
        message = to_ai_message(reply, self.model_name)
        return ChatResult(generations=[ChatGeneration(message=message)])

    # LangChain itself tells the callbacks of every chunk of a chat model: not here, or twice.

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        model, sampling = self._model(), self._sampling(stop, kwargs)
        with context_overflow(), model.stream_chat(self._dialogue(messages), **sampling) as stream:
            for chunk in stream:
                yield from to_generation_chunks(chunk, self.model_name)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        model, sampling = await self._amodel(), self._sampling(stop, kwargs)
        with context_overflow():
            async with model.astream_chat(self._dialogue(messages), **sampling) as stream:
                async for chunk in stream:
                    for generation in to_generation_chunks(chunk, self.model_name):
                        yield generation
