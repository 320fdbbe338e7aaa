"""One call of a generating method: checked, submitted to the engine, and read as it comes.

Prompt and keywords → the core's parameters, a grammar and its lead → a PartialReply.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from . import _core
from .async_waker import shared_waker
from .chat.call_reader import CallReader
from .chat.template import STARCHAT
from .chat.tools import Toolbox
from .checks import check_integer, check_salt
from .engine_registry import EngineHandle
from .errors import ContextLengthError, InvalidRequestError, unexpected
from .grammar.constraint import Constraint
from .infill import infill_end_ids
from .partial_reply import PartialReplies, PartialReply
from .request_size import is_small
from .sampling import CONSTRAINTS, OF_CHATS, OF_REQUESTS, SamplingParams
from .stream import AsyncStream, Stream, Submitted
from .text_stream import StopStrings, TextStream
from .worker import Job, workers

MOST_REPLIES = 1024  # of one request
MOST_AT_ONCE = 64  # of them that an event loop submits by the way


class Generation:
    """A prompt, and how the reply to it is chosen; `tools` is None outside of a dialogue."""

    def __init__(
        self,
        handle: EngineHandle,
        prompt: Sequence[int],
        options: Mapping[str, Any],
        tools: Toolbox | None = None,
    ) -> None:
        """Check a call's keywords.

        With tools and a JSON Schema, the reply is calls or JSON. The model decides as it does
        without the schema: JSON takes the place of every reply that does not begin with a call.

        Raises InvalidRequestError, and ConstraintError for what cannot be a constraint.
        """
        others = (*CONSTRAINTS, *OF_REQUESTS, *(OF_CHATS if tools else ()))
        sampling = {name: value for name, value in options.items() if name not in others}
        self.handle, self.prompt, self.tools = handle, prompt, tools
        is_new_turn = tools and not options.get("continue_final_message")
        self.lead = STARCHAT.lead if is_new_turn else ""
        handle.limits.check_lengths(sampling, len(handle.engine.tokenizer))
        self.params = SamplingParams.from_options(sampling)
        handle.limits.check_values(self.params.stop, self.params.logprobs)
        n = options.get("n")
        expected = f"an integer from 1 to {MOST_REPLIES:,}"
        self.n = 1 if n is None else check_integer("n", n, expected, 1, MOST_REPLIES)
        self.report: Callable[[int, int], object] | None = options.get("prompt_progress")
        if not (self.report is None or callable(self.report)):
            raise unexpected("prompt_progress", "a function or None", self.report)
        self.cache_salt = check_salt("cache_salt", options.get("cache_salt"))
        constraint = Constraint.from_options(options, handle.limits)
        self._json: Constraint | None = None  # of replies that do not begin with a call
        if constraint and tools and tools.allowed:
            if constraint.keyword != "json_schema":
                name = constraint.keyword
                problem = f"{name} and tools: expected one of them, or tool_choice='none'"
                raise InvalidRequestError(f"{problem}, or json_schema beside tools", param=name)
            if tools.choice == "auto":
                self._json = constraint
                self.tools = replace(tools, choice="any")
            constraint = None
        self._form = constraint or self.tools
        self.grammar: _core.Grammar | None = None
        self.json: _core.Grammar | None = None

    @property
    def has_grammar(self) -> bool:
        """Whether compile() has something to do, which may take seconds."""
        form = self._form
        return form is not None and (not isinstance(form, Toolbox) or bool(form.tools))

    def compile(self) -> None:
        """Compile the constraint, or the form of calls, which may take seconds.

        Raises ConstraintError, and UnsupportedFeatureError without llguidance.
        """
        engine, limits = self.handle.engine, self.handle.limits
        self.json = self._json.compile(engine, limits) if self._json else None
        self.grammar = self._form.compile(engine, limits) if self._form else None

    def stream(self) -> Stream:
        """Start the replies and return what reads them."""
        self.compile()
        ready = _core.ReadyQueue() if self.n > 1 or self.report else None
        return Stream(*self._submit(ready, range(self.n)), ready=ready, report=self.report)

    def submit(self) -> Submitted:
        """Start the replies for an AsyncStream, once they are compiled."""
        waker = shared_waker()
        keys = [waker.new_key() for _ in range(self.n)]
        replies = PartialReplies([*self._submit(waker.queue, keys)], self.report)
        return Submitted(replies, keys)

    def _submit(
        self, ready: _core.ReadyQueue | None, keys: Sequence[int]
    ) -> Iterator[PartialReply]:
        """Start a reply for each key, which `ready` gets when there are new tokens."""
        engine, tools = self.handle.engine, self.tools
        tokenizer = engine.tokenizer
        lead = tokenizer.encode(self.lead) if self.grammar else []
        params = self._core_params(engine)
        try:
            streams = engine.submit_replies(
                self.prompt,
                params,
                ready,
                keys,
                self.grammar,
                lead,
                otherwise=self.json,
                cache_salt=self.cache_salt,
                mask_seconds=self.handle.limits.mask_seconds,
                grammar_seconds=self.handle.limits.grammar_seconds,
            )
        except ContextLengthError as error:
            error.param = "messages" if tools else error.param
            raise
        stop = StopStrings(self.params.stop)
        for index, tokens in enumerate(streams):
            calls = CallReader(tools.choice == "any") if tools and tools.allowed else None
            text = TextStream(stop, lead=self.lead, calls=calls)
            n_prompt = len(self.prompt)
            yield PartialReply(tokens, text, tokenizer, n_prompt, self.handle, calls, index)

    def _core_params(self, engine: _core.Engine) -> _core.SamplingParams:
        params = self.params
        values = {name: getattr(params, name) for name in _core.SAMPLING_PARAMETERS}
        values["stop_token_ids"] = [*self._end_ids(engine.tokenizer), *params.stop_token_ids]
        if params.seed is None:
            values["seed"] = _fresh_seed()
        return _core.SamplingParams(**{k: v for k, v in values.items() if v is not None})

    def _end_ids(self, tokenizer: _core.Tokenizer) -> list[int]:
        """Return the ids that end the reply unasked, and those that stop strings name."""
        named = [tokenizer.find(stop.strip()) for stop in self.params.stop]
        ids = [id for id in named if id is not None and tokenizer.is_special(id)]
        if not self.params.ignore_eos:
            ids += STARCHAT.reply_end_ids(tokenizer) + infill_end_ids(self.prompt, tokenizer)
        return ids


class Scoring(Generation):
    """A prompt whose own tokens are the result, with their log probabilities; there is no reply."""

    def _submit(
        self, ready: _core.ReadyQueue | None, keys: Sequence[int]
    ) -> Iterator[PartialReply]:
        engine, n_best = self.handle.engine, self.params.logprobs or 0
        tokens = engine.score(self.prompt, n_best, ready, keys[0], cache_salt=self.cache_salt)
        n_prompt = len(self.prompt)
        yield PartialReply(tokens, TextStream(()), engine.tokenizer, n_prompt, self.handle)


def astream(
    generation: Callable[[], Generation], options: Mapping[str, Any], *given: object
) -> AsyncStream:
    """Start what a call asks for, and return what reads it in an event loop.

    generation: checks the call. Where that may take long, by its options and what else was given to
    it, or where a grammar is compiled, a worker does it.
    """
    stream = AsyncStream()
    n = options.get("n")
    is_few = n is None or (isinstance(n, int) and n <= MOST_AT_ONCE)
    has_grammar = any(options.get(name) is not None for name in (*CONSTRAINTS, "tools"))
    if is_few and not has_grammar and is_small(options, *given):
        asked = generation()
        asked.compile()  # nothing, by what is small
        stream.read(asked.submit())
    else:
        stream.prepare(partial(_prepared, generation))
    return stream


def _prepared(generation: Callable[[], Generation], job: Job[Submitted]) -> Submitted:
    with workers.python:
        asked = generation()
    if job.is_wanted:
        asked.compile()
    if job.is_wanted:
        return asked.submit()
    return Submitted(PartialReplies(()), ())


def _fresh_seed() -> int:
    return int.from_bytes(os.urandom(8), "little") >> 1  # 63 bits
