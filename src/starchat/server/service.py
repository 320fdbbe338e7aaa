"""What faces ask: replies, vectors, tokens. The only file of the server that knows the engine.

Each method checks what a request may have, waits for a place, and raises ApiError for whatever is
wrong. Cancelling the task ends the work within one step.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request

from ..async_waker import in_own_thread, in_worker
from ..chat.framed_prompt import escape
from ..chat.tools import Toolbox
from ..errors import InvalidRequestError, StarChatError, unexpected
from ..generation import Generation
from ..limits import Limits
from ..model import EMBEDDED, StarChat
from ..request_size import is_small
from ..stream import AsyncStream
from ..types import Chunk, Completion, Messages, ModelInfo, TokenLogprob, Usage
from .admission import Admission, Ticket, shutting_down
from .errors import ApiError, api_error
from .metrics import Metrics
from .request import current_request
from .settings import (
    MOST_BIASES,
    MOST_CANDIDATES,
    MOST_COMPILING,
    MOST_LOGPROBS,
    MOST_SCHEMA_BYTES,
    MOST_STOPS,
    MOST_TEXTS,
    MOST_TO_COMPILE,
    MOST_TOOLS,
    ServerSettings,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")

_EMBEDDED_AT_ONCE = 512  # tokens of texts that the engine has at the same time


@dataclass(frozen=True)
class Prompt:
    """What a reply is asked for: exactly one of messages, text and gap.

    text: a raw prompt, or token ids. allow_special is that of StarChat.complete; by default, a
    frame of control tokens counts, also where text stands before its first role token.
    gap: prefix and suffix of an infilling.
    """

    messages: Messages | None = None
    text: str | Sequence[int] | None = None
    gap: tuple[str, str] | None = None
    allow_special: bool | Sequence[str] | None = None


#: What an empty prompt is: the beginning of a document.
EMPTY_PROMPT = Prompt(text="<|endoftext|>", allow_special=True)


class Replies(AsyncIterator[Chunk]):
    """The chunks of a request's replies. Leaving it, or dropping it, ends them at once.

    >>> async def text(service, prompt):
    ...     async with await service.stream(prompt, {"max_tokens": 8}) as replies:
    ...         return "".join([chunk.text async for chunk in replies])
    """

    def __init__(self, stream: AsyncStream, ticket: Ticket, service: Service) -> None:
        """Read a submitted stream, whose end gives the ticket back."""
        self._stream = stream
        self._ticket = ticket
        self._metrics = service.metrics
        self._usages: list[Usage] = []  # of the replies that ended
        self._first_s = 0.0

    @property
    def prompt_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that are done, cached ones included, and all of them."""
        return self._stream.prompt_progress

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were computed before, known once it has begun."""
        replies = self._stream._replies.all
        return replies[0].tokens.counts.cached_tokens if replies else 0

    @property
    def waited_s(self) -> float:
        """Seconds that the request waited for its place."""
        return self._ticket.waited_s

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk; raise ApiError where the replies ended before their time."""
        try:
            chunk = await self._stream.__anext__()
        except StopAsyncIteration:
            self._ticket.check()
            self._end()
            raise
        except (StarChatError, MemoryError) as error:
            self._ticket.check()
            raise api_error(error) from error
        if not self._first_s:
            self._first_s = time.monotonic() - self._ticket.came
        if chunk.finish_reason is not None and chunk.usage is not None:
            self._usages.append(chunk.usage)
            self._metrics.ended(chunk.finish_reason, chunk.usage)
            current_request().log["finish"] = chunk.finish_reason
        return chunk

    def _end(self) -> None:
        """Count the request, and give its place back."""
        ticket = self._ticket
        if self._usages and not ticket.has_left:
            first, whole_s = self._usages[0], time.monotonic() - ticket.came
            n_tokens = sum(usage.completion_tokens for usage in self._usages)
            n_gaps = n_tokens // len(self._usages) - 1
            self._metrics.answered(first, ticket.waited_s, self._first_s, whole_s, n_gaps)
            current_request().log.update(
                prompt_tokens=first.prompt_tokens,
                cached_tokens=first.cached_tokens,
                completion_tokens=n_tokens,
                queue_s=round(ticket.waited_s, 4),
                first_s=round(self._first_s, 4),
            )
        ticket.leave()

    async def result(self) -> Completion:
        """Wait for the end; return the whole reply, or n, with what was already read."""
        async for _ in self:
            pass
        return await self._stream.result()

    async def aclose(self) -> None:
        """End the replies here; harmless when they have ended."""
        self._stream.close()
        self._ticket.leave()

    async def __aenter__(self) -> Replies:
        """Return the replies."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close them."""
        await self.aclose()


class Service:
    """One model, and who may ask it now."""

    def __init__(self, settings: ServerSettings, model: StarChat | None = None) -> None:
        """Serve a loaded model, or none before load()."""
        self.settings = settings
        self.admission = Admission(settings.max_running, settings.max_queue)
        self.metrics = Metrics(self._gauges)
        self._compiling = Admission(MOST_COMPILING, MOST_TO_COMPILE - MOST_COMPILING)
        self._model: StarChat | None = None
        self._owns_model = model is None
        self.failure: BaseException | None = None  # of loading
        if model is not None:
            self._serve(model)

    # ---- the model --------------------------------------------------------------------------

    async def load(self) -> None:
        """Load model and prefixes in a thread, and serve it; `failure` has what went wrong."""
        settings = self.settings
        limits = Limits(logprobs=MOST_LOGPROBS, schema_bytes=MOST_SCHEMA_BYTES)
        load = partial(
            StarChat.load,
            settings.model,
            n_threads=settings.threads,
            n_ctx=settings.ctx,
            prefix_cache_bytes=settings.prefix_cache,
            limits=limits,
            check_memory=settings.check_memory,
            draft=settings.draft,
            gpu_layers=settings.gpu_layers,  # type: ignore[arg-type]  # text, which load() reads
            device=settings.device,
        )

        def prepared() -> StarChat:
            model = load()
            try:
                for path in settings.prefix:
                    model.load_prefix(path, pin=True)
            except BaseException:
                model.close()
                raise
            return model

        try:
            self._serve(await in_own_thread(lambda is_wanted: prepared()))
        except Exception as error:
            self.failure = error

    def _serve(self, model: StarChat) -> None:
        self._memory = memory = model.memory()
        budget = self.settings.kv_budget
        if budget is None and memory.available_bytes is not None:
            # One whole context at least: a lone request is the engine's to refuse.
            budget = max(memory.available_bytes // 2, memory.bytes_of(model.info.n_ctx))
        self.admission.kv_budget = budget
        self.metrics.stats = model.stats
        self._model = model

    def close(self) -> None:
        """Release the model, if it was loaded here."""
        self.admission.end_all()
        if self._model is not None and self._owns_model:
            self._model.close()

    @property
    def status(self) -> str:
        """ "loading", "ready", "draining" or "failed"."""
        if self.admission.is_draining:
            return "draining"
        if self.failure is not None:
            return "failed"
        return "ready" if self._model is not None else "loading"

    @property
    def model(self) -> StarChat:
        """The model; ApiError 503 before it is loaded. For this package's service alone."""
        if self.failure is not None:
            raise ApiError.unavailable("the model could not be loaded", "load_failed")
        if self._model is None:
            raise ApiError.unavailable("Loading model", "loading")
        return self._model

    @property
    def info(self) -> ModelInfo:
        """What the model is; ApiError 503 before it is loaded."""
        return self.model.info

    @property
    def name(self) -> str:
        """What the model is called on the wire."""
        file = self.settings.model or EMBEDDED
        return self.settings.served_name or os.path.basename(os.path.normpath(file))

    @property
    def special_tokens(self) -> dict[str, int]:
        """The control tokens of the vocabulary, and their ids."""
        return self.model._engine.tokenizer.special_tokens()

    def stats(self) -> dict[str, int]:
        """Return the engine's counters (StarChat.stats)."""
        return self.model.stats()

    async def probe(self) -> None:
        """Compute one token, whoever waits for a place; raise where that fails."""
        await self.model.acomplete([0], max_tokens=1)

    def _gauges(self) -> dict[str, tuple[str, float]]:
        admission = self.admission
        budget = admission.kv_budget or 0
        share = admission.kv_bytes / budget if budget else 0.0
        return {
            "num_requests_running": ("Requests that are computed.", admission.running),
            "num_requests_waiting": ("Requests that wait for a place.", admission.waiting),
            "kv_cache_usage_perc": ("Share of the KV budget that is reserved, 0 to 1.", share),
        }

    # ---- replies ----------------------------------------------------------------------------

    async def stream(self, prompt: Prompt, options: Mapping[str, Any]) -> Replies:
        """Return the replies to a prompt once the engine has it; `async with` it.

        options: the keywords of StarChat's methods in starchat's own names (n, seed, stop, tools,
        json_schema …), where None is the default; max_tokens is the server's own by default.

        Raises ApiError for what is wrong with the request, for no place, and before the model is
        loaded; nothing was sent then.
        """
        return await self._submitted(prompt, options, is_stream=True)

    async def result(self, prompt: Prompt, options: Mapping[str, Any]) -> Completion:
        """Return the whole reply, or n; errors as those of stream()."""
        async with await self._submitted(prompt, options, is_stream=False) as replies:
            return await replies.result()

    async def _submitted(
        self, prompt: Prompt, options: Mapping[str, Any], *, is_stream: bool
    ) -> Replies:
        model = self.model
        ticket = self._ticket()
        try:
            generation = await self._generation(model, prompt, self._options(options), ticket)
            if generation.has_grammar:
                began = time.monotonic()
                await self._compiled(generation, ticket)
                self.metrics.compiling.observe(time.monotonic() - began)
            await ticket.admitted(self._reserved(generation))
            stream = AsyncStream(report=generation.report)
            stream.read(generation.submit())
            ticket.on_end = stream.close
            if is_stream:  # from here on the client sees that it is served
                self._limit_to_own_time(ticket)
            return Replies(stream, ticket, self)
        except BaseException as error:
            ticket.leave()
            if isinstance(error, (StarChatError, MemoryError)):
                raise api_error(ticket.error or error) from error
            raise

    def _options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's options within the server's bounds, with its defaults."""
        given = {name: value for name, value in options.items() if value is not None}
        for name, most in _MOST.items():
            value = given.get(name)
            count = len(value) if isinstance(value, (list, tuple, dict)) else value
            if isinstance(count, (int, float)) and count > most:
                raise _beyond(name, most, count)
        if given.get("max_tokens") is None:
            given["max_tokens"] = self.settings.default_max_tokens
        salts = [salt for salt in (current_request().salt, given.get("cache_salt")) if salt]
        if salts:
            given["cache_salt"] = "\0".join(map(str, salts))
        return given

    async def _generation(
        self, model: StarChat, prompt: Prompt, options: dict[str, Any], ticket: Ticket
    ) -> Generation:
        """Check a request and read its prompt; in a worker where that takes long."""
        make: Callable[[], Generation]
        if prompt.messages is not None:
            given: tuple[Any, ...] = (prompt.messages,)
            make = partial(model._chat, prompt.messages, options)
        elif prompt.gap is not None:
            given = prompt.gap
            make = partial(model._infill, *prompt.gap, options)
        elif prompt.text is not None:
            given = (prompt.text,)
            allowed = self._allowed(prompt.text, prompt.allow_special)
            make = partial(model._complete, prompt.text, allowed, True, options)
        else:
            raise InvalidRequestError("expected messages, a text, or prefix and suffix")
        if is_small(options, *given):
            return make()
        return await self._until_end(ticket, in_worker(make))

    async def _compiled(self, generation: Generation, ticket: Ticket) -> None:
        """Compile a request's grammar in a thread of its own.

        Its place is taken until the thread ends, also where nobody waits for it any more.
        """
        loop = asyncio.get_running_loop()
        place = self._entered(self._compiling, "grammars")
        try:
            await self._until_end(ticket, place.admitted(0))
        except BaseException:
            place.leave()
            raise

        def compile() -> None:
            try:
                generation.compile()
            finally:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(place.leave)

        await self._until_end(ticket, in_own_thread(lambda is_wanted: compile()))

    async def _until_end(self, ticket: Ticket, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns; the end of the ticket cancels it."""
        task = asyncio.ensure_future(work)
        ticket.on_end = task.cancel
        try:
            ticket.check()
            return await task
        except asyncio.CancelledError:
            ticket.check()
            raise
        finally:
            task.cancel()  # of no effect where it has ended
            ticket.on_end = None

    def _allowed(
        self, text: object, allow_special: bool | Sequence[str] | None
    ) -> bool | Sequence[str] | None:
        """Return which control tokens of a raw prompt count; None: the core's rule."""
        if allow_special is not None or not isinstance(text, str):
            return allow_special
        return False if self.settings.plain_prompts else None

    def _reserved(self, generation: Generation) -> int:
        """Return the bytes of the KV cache that a request may come to hold."""
        n_prompt, n_ctx = len(generation.prompt), self.info.n_ctx
        if n_prompt >= n_ctx:
            return 0  # the engine refuses it
        n_reply = min(generation.params.max_tokens or n_ctx, n_ctx - n_prompt)
        memory, n_others = self._memory, generation.n - 1  # they share the prompt's full pages
        of_another = memory.bytes_of(n_reply + memory.kv_page_tokens)
        return memory.bytes_of(n_prompt + n_reply) + n_others * of_another

    # ---- vectors and tokens -----------------------------------------------------------------

    async def embed(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], int]:
        """Return a vector for each text, float32 (n_texts, n_embd), and the tokens of all."""
        model = self.model
        if len(texts) > MOST_TEXTS:
            raise _beyond("input", MOST_TEXTS, len(texts))
        longest = max([len(text) for text in texts if isinstance(text, str)], default=0)
        n_tokens = min(self.info.n_ctx, max(_EMBEDDED_AT_ONCE, longest))

        async def computed() -> tuple[npt.NDArray[np.float32], int]:
            job = await model._embedding(texts)
            return await job.arun(), job.n_tokens

        return await self._with_place(n_tokens, computed)

    async def score(
        self,
        prompt: str | Sequence[int],
        n_top: int = 0,
        allow_special: bool | Sequence[str] | None = None,
    ) -> list[TokenLogprob]:
        """Return the log probability of each token of a prompt but the first (StarChat.score)."""
        model = self.model
        if n_top > MOST_LOGPROBS:
            raise _beyond("logprobs", MOST_LOGPROBS, n_top)
        score = partial(
            model.ascore,
            prompt,
            logprobs=n_top,
            allow_special=self._allowed(prompt, allow_special),
            leading_text=True,
            cache_salt=current_request().salt,
        )
        n_bytes = len(prompt) * (4 if isinstance(prompt, str) else 1)  # of UTF-8, at most
        return [*await self._with_place(min(self.info.n_ctx, n_bytes), score)]

    async def tokenize(
        self, text: str, allow_special: bool | Sequence[str] | None = False
    ) -> list[int]:
        """Return the token ids of a text; allow_special None: as a raw prompt is read."""
        model = self.model
        if allow_special is not None:
            return await self._quick(partial(model.tokenize, text, allow_special), text)
        read = partial(model.tokenize_prompt, leading_text=True)
        return await self._quick(partial(read, text, self._allowed(text, None)), text)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens spelt out."""
        return await self._quick(partial(self.model.detokenize, token_ids), token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token, a control token spelt out."""
        return self.model._engine.tokenizer.token_bytes(token_id)

    async def render(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """Return a dialogue as a raw prompt, which reads as the same tokens again.

        What messages spell is escaped, so that it cannot become a control token on the way.
        """
        model = self.model
        tokenizer = model._engine.tokenizer

        def raw() -> str:
            toolbox = Toolbox.check(tools, bounds=model._handle.limits)
            pieces = []
            ids = model._chat_prompt(messages, toolbox)
            for is_control, run in groupby(ids, tokenizer.is_special):
                text = model.detokenize([*run])
                pieces.append(text if is_control else escape(text))
            return "".join(pieces)

        return await self._quick(raw, messages, tools)

    async def count(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> int:
        """Return how many tokens a dialogue takes as a prompt."""
        return await self._quick(partial(self.model.count_tokens, messages, tools), messages, tools)

    async def _quick(self, call: Callable[[], T], *given: object) -> T:
        """Make a call that needs no place; in a worker where what was given is long."""
        if self.admission.is_draining:
            raise shutting_down()
        try:
            return call() if is_small(*given) else await in_worker(call)
        except (StarChatError, MemoryError) as error:
            raise api_error(error) from error

    async def _with_place(self, n_tokens: int, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what a coroutine returns that computes so many tokens at a time."""
        with self._ticket() as ticket:
            await ticket.admitted(self._memory.bytes_of(n_tokens))
            try:
                return await self._until_end(ticket, begin())
            except (StarChatError, MemoryError) as error:
                raise api_error(error) from error

    def _ticket(self) -> Ticket:
        ticket = self._entered(self.admission, "overloaded")
        self._limit_to_own_time(ticket)
        ticket.deadline(current_request().read_timeout_s)
        return ticket

    def _entered(self, admission: Admission, reason: str) -> Ticket:
        try:
            return admission.enter()
        except ApiError as error:
            self.metrics.rejected.labels(reason if error.code == "overloaded" else error.code).inc()
            raise

    def _limit_to_own_time(self, ticket: Ticket) -> None:
        ticket.no_deadline()
        ticket.deadline(self.settings.request_timeout)


#: option of a request → how large its number, or how many its items, may be
_MOST = {
    "n": MOST_CANDIDATES,  # the candidates of best_of too; faces have MOST_REPLIES
    "stop": MOST_STOPS,
    "stop_token_ids": MOST_STOPS,
    "logit_bias": MOST_BIASES,
    "logprobs": MOST_LOGPROBS,
    "tools": MOST_TOOLS,
}


def _beyond(name: str, most: int, got: float) -> ApiError:
    error = unexpected(name, f"at most {most:,}", got, limit=most)
    return api_error(error)


async def service(request: Request) -> Service:
    """Return the service of the application that a request came to; for FastAPI's Depends."""
    of_app: Service = request.app.state.service
    return of_app
