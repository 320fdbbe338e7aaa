"""The completion model: raw text in, its continuation out, without the dialogue's template.

A prompt that is framed by control tokens is read with them (docs/prompts.md of starchat). The
prompts of a batch are computed together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from itertools import islice
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseLLM
from langchain_core.language_models.base import LangSmithParams
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from langchain_starchat.errors import langchain_errors
from langchain_starchat.messages import logprob_entries
from langchain_starchat.prompt_progress import events_of_run
from langchain_starchat.settings import (
    CONSTRAINTS,
    N_TOGETHER,
    OF_REQUESTS,
    SAMPLING,
    StarChatSettings,
    WideBatches,
)
from starchat import AsyncStream, Chunk, Completion, ReplyOptions, Stream, Usage


class StarChatLLM(StarChatSettings, WideBatches, BaseLLM):
    """A StarChat or StarCoder model that continues text, in this process and on the CPU.

    Setup:
        Install both packages from the repository. Without a file, the small demonstration model
        inside the `starchat` package continues the text.

        ```bash
        pip install . ./integrations/langchain
        ```

    Key init args:
        Those of `ChatStarChat`: `model_path`, `n_ctx`, `n_threads`, and all sampling parameters
        (`temperature`, `top_k`, `top_p`, `max_tokens`, `stop`, `seed` …), which may be given to
        a call as well, where they win; and one of `json_schema`, `regex`, `grammar` and
        `choice`, which the continuation then follows.

        `allow_special`: whether control tokens in a prompt count. By default they do where the
        prompt is framed by them, as a dialogue (`<|system|>` … `<|assistant|>`) or for infilling.

    Instantiate:
        ```python
        from langchain_starchat import StarChatLLM

        llm = StarChatLLM(temperature=0, max_tokens=64)
        ```

    Invoke:
        ```python
        llm.invoke("def fibonacci(n):")
        llm.batch(["def fibonacci(n):", "import "])  # computed together
        ```

    Stream:
        ```python
        for text in llm.stream("def fibonacci(n):"):
            print(text, end="", flush=True)
        ```

    Async:
        ```python
        await llm.ainvoke("def fibonacci(n):")
        async for text in llm.astream("def fibonacci(n):"):
            print(text, end="", flush=True)
        ```

    Usage metadata:
        ```python
        llm.generate(["def fibonacci(n):"]).llm_output
        # {'model_name': 'starchat-nano',
        #  'token_usage': {'prompt_tokens': 6, 'completion_tokens': 42, 'total_tokens': 48}}
        ```

    Response metadata:
        ```python
        llm.generate(["def fibonacci(n):"]).generations[0][0].generation_info
        # {'finish_reason': 'stop'}
        ```
    """

    allow_special: bool | list[str] | None = None
    """Control tokens in a prompt that count: all, none, those named; None: the frame decides."""

    @property
    def _llm_type(self) -> str:
        return "starchat"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return super()._get_ls_params(stop=self.stop if stop is None else stop, **kwargs)

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Complete every prompt, as `BaseLLM.generate` does, caching by the call's arguments."""
        model, kwargs = self._with_call_arguments(kwargs)
        return BaseLLM.generate(model, prompts, stop, callbacks, **kwargs)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Complete every prompt, as `BaseLLM.agenerate` does, caching by the call's arguments."""
        model, kwargs = self._with_call_arguments(kwargs)
        return await BaseLLM.agenerate(model, prompts, stop, callbacks, **kwargs)

    def _with_call_arguments(self, kwargs: dict[str, Any]) -> tuple[StarChatLLM, dict[str, Any]]:
        """Return a copy that holds a call's options: BaseLLM's cache key is made of the model."""
        with langchain_errors():
            self._check_options(kwargs)
        names = {*SAMPLING, *CONSTRAINTS, *OF_REQUESTS, "allow_special"}
        fields = {name: value for name, value in kwargs.items() if name in names}
        rest = {name: value for name, value in kwargs.items() if name not in names}
        if any(fields.get(name) is not None for name in CONSTRAINTS):
            fields = dict.fromkeys(CONSTRAINTS) | fields  # of which a reply follows one
        return self.model_copy(update=fields), rest

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return super()._identifying_params | {"allow_special": self.allow_special}

    def _sampling(self, stop: list[str] | None, call: dict[str, Any]) -> ReplyOptions:
        return super()._sampling(stop, {"allow_special": self.allow_special, **call})

    @langchain_errors()
    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        model, sampling = self._model(), self._sampling(stop, kwargs)
        if len(prompts) == 1:
            sampling.setdefault("prompt_progress", events_of_run(run_manager))
        with ExitStack() as streams:
            begun: list[Stream] = []
            unread: list[Stream] = []
            waiting = iter(prompts)
            while True:  # round robin: a stream that is not read pauses once its queue is full
                for prompt in islice(waiting, N_TOGETHER - len(unread)):
                    begun.append(streams.enter_context(model.stream_complete(prompt, **sampling)))
                    unread.append(begun[-1])
                if not unread:
                    return self._result([stream.result() for stream in begun])
                unread = [stream for stream in unread if next(stream, None)]

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with langchain_errors():
            model, sampling = await self._amodel(), self._sampling(stop, kwargs)
            if len(prompts) == 1:
                sampling.setdefault("prompt_progress", events_of_run(run_manager))
            async with AsyncExitStack() as streams:
                begun: list[AsyncStream] = []
                unread: list[AsyncStream] = []
                waiting = iter(prompts)
                while True:
                    for prompt in islice(waiting, N_TOGETHER - len(unread)):
                        stream = model.astream_complete(prompt, **sampling)
                        begun.append(await streams.enter_async_context(stream))
                        unread.append(stream)
                    if not unread:
                        return self._result([await stream.result() for stream in begun])
                    unread = [stream for stream in unread if await anext(stream, None)]

    def _result(self, replies: list[Completion]) -> LLMResult:
        total = sum((reply.total_usage for reply in replies), Usage(0, 0))
        usage = {
            "prompt_tokens": total.prompt_tokens,
            "completion_tokens": total.completion_tokens,
            "total_tokens": total.total_tokens,
        }
        return LLMResult(
            generations=[
                [Generation(text=r.text, generation_info=_info(r)) for r in reply.choices]
                for reply in replies
            ],
            llm_output={"model_name": self.model_name, "token_usage": usage},
        )

    # Unlike a chat model, a BaseLLM has to call on_llm_new_token itself.

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        sampling = self._sampling(stop, kwargs) | {"n": 1}  # a stream has one reply
        sampling.setdefault("prompt_progress", events_of_run(run_manager))
        with langchain_errors(), self._model().stream_complete(prompt, **sampling) as stream:
            for chunk in stream:
                generation = GenerationChunk(text=chunk.text, generation_info=_info(chunk))
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=generation)
                yield generation

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        with langchain_errors():
            model, sampling = await self._amodel(), self._sampling(stop, kwargs) | {"n": 1}
            sampling.setdefault("prompt_progress", events_of_run(run_manager))
            async with model.astream_complete(prompt, **sampling) as stream:
                async for chunk in stream:
                    generation = GenerationChunk(text=chunk.text, generation_info=_info(chunk))
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=generation)
                    yield generation


def _info(reply: Completion | Chunk) -> dict[str, Any] | None:
    """Return why a text ended, in the last chunk only: LangChain concatenates strings."""
    info: dict[str, Any] = {}
    if reply.finish_reason is not None:
        info["finish_reason"] = reply.finish_reason
    if reply.logprobs:
        info["logprobs"] = {"content": logprob_entries(reply)}
    return info or None
