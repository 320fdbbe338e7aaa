"""/v1/completions: how prompts go on, or what fills their gap; whole or as events."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from ...errors import InvalidRequestError, unexpected
from ...types import Completion, TokenLogprob, Usage
from ..errors import ApiError, errors_as
from ..events import DONE, EventStream, event
from ..json_response import Json, finite
from ..progress import PromptProgress, timings, with_progress
from ..service import EMPTY_PROMPT, Prompt, Replies, Service, service
from ..together import merged, together
from .answers import (
    TextChoice,
    TextCompletion,
    TextLogprobs,
    head,
    usage_object,
)
from .forms import MOST_PROMPTS, CompletionForm
from .options import Asked, check_model, constraint, log_ignored, reply_options
from .routes import documented

router = APIRouter(tags=["OpenAI"])


@router.post("/completions", **documented(TextCompletion, events=True))
async def create_completion(
    form: CompletionForm, request: Request, service: Annotated[Service, Depends(service)]
) -> Response:
    """Return how prompts go on."""
    check_model(form, service)
    log_ignored(form, request.url.path)
    asked = await read_completion(form, service)
    writer = _Writer(form, service)
    if not form.stream:
        return Json(await writer.whole(asked))
    for other in asked[1:]:  # their streams begin behind the answer: what can be wrong with them?
        await other.check()
    first = None if form.max_tokens == 0 else await writer.begun(asked[0])
    replies = first[1] if first else None
    ping_s = service.settings.sse_ping
    return EventStream(writer.events(asked, first), replies=replies, ping_s=ping_s)


async def read_completion(form: CompletionForm, service: Service) -> list[AskedText]:
    """Return a request for each prompt; raise InvalidRequestError or ApiError."""
    n = form.n or 1
    best_of = n if form.best_of is None else form.best_of
    if best_of < n:
        raise unexpected("best_of", f"at least n, {n}", best_of, limit=n)
    if best_of > n and form.stream:
        problem = "the best reply is known at the end only: leave out best_of or stream"
        raise InvalidRequestError.of("best_of", problem)
    if form.suffix and form.echo and form.logprobs is not None:
        problem = "an echoed prompt with a suffix has no log probabilities: leave out one of them"
        raise InvalidRequestError.of("logprobs", problem)
    held, names = constraint(form, form.response_format)
    is_scored = form.logprobs is not None or best_of > n
    options = {
        **reply_options(form),
        **held,
        "max_tokens": form.max_tokens,
        "n": best_of,
        "logprobs": (form.logprobs or 0) if is_scored else None,
    }
    allowed = form.parse_special if form.allow_special is None else form.allow_special
    limit = "n" if form.best_of is None else "best_of"
    asked = []
    for where, given in _prompts(form):
        text = given if isinstance(given, str) else ""
        if not isinstance(given, str) and (form.suffix or form.echo):
            with errors_as({"token_ids": where}):
                text = await service.detokenize(given)
        if form.suffix:
            prompt = Prompt(gap=(text, form.suffix))
        elif not given:
            prompt = EMPTY_PROMPT
        else:
            prompt = Prompt(text=given, allow_special=allowed)
        of_this = {"prompt": where, "prefix": where, "token_ids": where, "n": limit}
        asked.append(AskedText(service, where, text, Asked(prompt, options, names | of_this)))
    return asked


def _prompts(form: CompletionForm) -> list[tuple[str, str | list[int]]]:
    """Return each prompt and its name in errors."""
    given: Any = form.prompt
    if given is None or isinstance(given, str):
        return [("prompt", given or "")]
    if not given:
        raise InvalidRequestError.of("prompt", "the list is empty, expected at least one prompt")
    if isinstance(given[0], int):
        return [("prompt", given)]
    if len(given) > MOST_PROMPTS:
        expected = f"at most {MOST_PROMPTS} prompts"
        raise unexpected("prompt", expected, len(given), limit=MOST_PROMPTS)
    return [(f"prompt[{index}]", prompt) for index, prompt in enumerate(given)]


@dataclass
class AskedText:
    """One prompt of a request, its name in errors, and its text where it is to be echoed."""

    service: Service
    where: str
    text: str
    asked: Asked

    async def token_ids(self) -> list[int]:
        """Return the ids of the prompt."""
        text, allowed = self.asked.prompt.text, self.asked.prompt.allow_special
        if not isinstance(text, str):
            return [*(text or ())]
        return await self.service.tokenize(text, allowed)

    async def check(self) -> None:
        """Raise ApiError for a prompt that the context does not hold."""
        if self.asked.prompt.gap is not None:
            return
        n_tokens, n_ctx = len(await self.token_ids()), self.service.info.n_ctx
        if n_tokens >= n_ctx:
            problem = (
                f"{self.where} has {n_tokens:,} tokens, the context holds {n_ctx:,}: shorten it"
            )
            code = "context_length_exceeded"
            raise ApiError(400, problem, code=code, param=self.where)

    async def stream(self) -> Replies:
        """Return the replies as they are written."""
        with self.asked.errors():
            return await self.service.stream(self.asked.prompt, self.asked.options)

    async def result(self) -> Completion:
        """Return the whole replies."""
        with self.asked.errors():
            return await self.service.result(self.asked.prompt, self.asked.options)

    async def scored(self, n_best: int) -> list[TokenLogprob]:
        """Return the prompt's tokens; the log probability of the first one is NaN."""
        with self.asked.errors():
            ids = await self.token_ids()
            first = await self.service.detokenize(ids[:1])
            scores = await self.service.score(ids, n_best) if len(ids) > 1 else []
        return [TokenLogprob(ids[0], first, float("nan"), bytes=first.encode()), *scores]


_Begun = tuple[list[TokenLogprob], Replies]


class _Writer:
    """What one request is answered with."""

    def __init__(self, form: CompletionForm, service: Service) -> None:
        self._form = form
        self._n = form.n or 1
        self._max_running = service.settings.max_running  # a request must not wait for itself
        self._head = head("cmpl-", "text_completion", service.name)
        self._has_usage = bool(form.stream_options and form.stream_options.include_usage)
        self._has_timings = bool(form.timings or form.timings_per_token)

    async def whole(self, asked: Sequence[AskedText]) -> dict[str, Any]:
        """Return the answer of a request without a stream."""
        work = [partial(self._answer, one) for one in asked]
        answers = await together(work, self._max_running)
        choices = [choice for some, _ in answers for choice in some]
        usage = sum([usage for _, usage in answers], Usage(0, 0))
        for index, choice in enumerate(choices):
            choice["index"] = index
        answer = {**self._head, "choices": choices, "usage": usage_object(usage)}
        if self._has_timings:
            answer["timings"] = timings(usage)
        return answer

    async def _answer(self, asked: AskedText) -> tuple[list[TextChoice], Usage]:
        """Return the choices of one prompt, and what they took."""
        echoed = asked.text if self._form.echo else ""
        prompt = await self._scored(asked)
        if self._form.max_tokens == 0:
            usage = Usage(len(await asked.token_ids()), 0)
            logprobs = _TextLogprobs(self._form).of(prompt)
            return [_choice(0, echoed, logprobs, "length") for _ in range(self._n)], usage
        completion = await asked.result()
        choices = []
        for reply in _best(completion.choices, self._n):
            tokens = [*prompt, *reply.logprobs]
            logprobs = _TextLogprobs(self._form).of(tokens)
            choices.append(_choice(0, echoed + reply.text, logprobs, reply.finish_reason))
        return choices, completion.total_usage

    async def begun(self, asked: AskedText) -> _Begun:
        """Return the scored tokens of a prompt, where they are wanted, and then its replies.

        In this order: scores wait for a place, which replies hold until they are read.
        """
        prompt = await self._scored(asked)
        return prompt, await asked.stream()

    async def _scored(self, asked: AskedText) -> list[TokenLogprob]:
        """Return the tokens of a prompt whose log probabilities are part of the answer."""
        n_best = self._form.logprobs
        if not self._form.echo or n_best is None:
            return []
        return await asked.scored(n_best)

    async def events(
        self, asked: Sequence[AskedText], first: _Begun | None
    ) -> AsyncIterator[bytes]:
        """Yield the events of a stream; `first` is what begun() has of the first prompt."""
        usages: list[Usage] = []  # of each prompt
        work = [
            partial(self._events_of, one, place * self._n, None if place else first, usages)
            for place, one in enumerate(asked)
        ]
        async for piece in merged(work, self._max_running):
            yield piece
        if self._has_usage:
            usage = usage_object(sum(usages, Usage(0, 0)))
            yield event({**self._head, "choices": [], "usage": usage})
        yield DONE

    async def _events_of(
        self, asked: AskedText, start: int, begun: _Begun | None, total: list[Usage]
    ) -> AsyncIterator[bytes]:
        """Yield the events of one prompt, whose choices begin at `start`."""
        if self._form.max_tokens == 0:
            choices, usage = await self._answer(asked)
            for index, choice in enumerate(choices, start):
                choice["index"] = index
                yield self._event(choice)
        else:
            prompt, replies = begun or await self.begun(asked)
            echo = (asked.text, prompt) if self._form.echo else None
            usages: list[Usage] = []
            async with replies:
                async for piece in self._pieces(replies, start, echo, usages):
                    yield piece
            usage = Usage.of_replies(usages)
        total.append(usage)

    async def _pieces(
        self,
        replies: Replies,
        start: int,
        echo: tuple[str, list[TokenLogprob]] | None,
        usages: list[Usage],
    ) -> AsyncIterator[bytes]:
        """Yield the events of the replies to one prompt, behind its echo."""
        writers = [_TextLogprobs(self._form) for _ in range(self._n)]
        if echo is not None:
            text, prompt = echo
            for index in range(self._n):
                yield self._event(_choice(start + index, text, writers[index].of(prompt)))
        async for chunk in with_progress(replies, self._form.return_progress):
            if isinstance(chunk, PromptProgress):
                yield self._event(_choice(start, ""), prompt_progress=chunk.fields())
                continue
            logprobs = writers[chunk.index].of(chunk.logprobs)
            choice = _choice(start + chunk.index, chunk.text, logprobs, chunk.finish_reason)
            more = {}
            if chunk.usage is not None:
                usages.append(chunk.usage)
                if self._has_timings:
                    more["timings"] = timings(Usage.of_replies(usages))
            yield self._event(choice, **more)

    def _event(self, choice: TextChoice, **more: Any) -> bytes:
        no_usage = {"usage": None} if self._has_usage else {}
        return event({**self._head, "choices": [choice], **no_usage, **more})


def _choice(
    index: int, text: str, logprobs: TextLogprobs | None = None, reason: Any = None
) -> TextChoice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _best(replies: Sequence[Completion], n: int) -> Sequence[Completion]:
    """Return the n replies whose tokens are the likeliest on average."""
    if len(replies) <= n:
        return replies

    def mean(reply: Completion) -> float:
        values = [token.logprob for token in reply.logprobs]
        return sum(values) / len(values) if values else float("-inf")

    return sorted(replies, key=mean, reverse=True)[:n]


class _TextLogprobs:
    """The log probabilities of one choice, in pieces; offsets are characters of its text."""

    def __init__(self, form: CompletionForm) -> None:
        self._is_wanted = form.logprobs is not None
        self._n_characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Sequence[TokenLogprob]) -> TextLogprobs | None:
        """Return those of the next tokens, None where they are not wanted."""
        if not self._is_wanted:
            return None
        is_first = [isnan(token.logprob) for token in tokens]
        offsets = []
        for token in tokens:
            offsets.append(self._n_characters)
            self._n_characters += len(self._decoder.decode(token.bytes))
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [
                None if first else finite(token.logprob)
                for token, first in zip(tokens, is_first, strict=True)
            ],
            "top_logprobs": [
                None
                if first
                else {_name(best): finite(best.logprob) for best in (*token.best, token)}
                for token, first in zip(tokens, is_first, strict=True)
            ],
            "text_offset": offsets,
        }


def _name(token: TokenLogprob) -> str:
    r"""Return what OpenAI's API calls a token: its text, or its bytes where they are no text."""
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join([f"\\x{byte:02x}" for byte in token.bytes])
