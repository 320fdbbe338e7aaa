"""Replies as far as they are written: the engine's tokens → chunks, and at the end a Completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

from . import _core
from .chat.call_reader import CallReader
from .errors import InvalidRequestError
from .text_stream import TextStream
from .types import Chunk, Completion, FinishReason, TokenLogprob, ToolCallChunk, Usage


class PartialReply:
    """The reply of one submitted sequence, as far as it is written."""

    def __init__(
        self,
        tokens: _core.TokenStream,
        text: TextStream,
        vocabulary: _core.Tokenizer,
        n_prompt_tokens: int,
        owner: object = None,
        calls: CallReader | None = None,
        index: int = 0,
    ) -> None:
        """Turn `tokens` into chunks; `owner` keeps the engine open and is kept as long as this.

        calls: the reader that `text` gives the reply to, where it may call tools.
        index: of the reply among those of its request.
        """
        self.tokens = tokens
        self.n_prompt_tokens = n_prompt_tokens
        self.closed = False
        self.finish_reason: FinishReason | None = None
        self._text = text
        self._vocabulary = vocabulary
        self._owner = owner
        self._calls = calls
        self._index = index
        self._chunks: list[Chunk] = []
        self._names: dict[int, tuple[int, str, bytes]] = {}
        self._pending: list[_core.Token] = []  # in no chunk yet, as their text is held back

    @property
    def ended(self) -> bool:
        """Whether no chunk will follow."""
        return self.closed or self.finish_reason is not None

    def advance(self, tokens: Sequence[_core.Token]) -> Chunk | None:
        """Take the tokens that came; return a chunk, or None if it needs more of them."""
        if self.ended:
            return None
        text = ""
        for token in tokens:
            self._pending.append(token)
            if not self._vocabulary.is_special(token.id):
                text += self._text.feed(self._vocabulary.token_bytes(token.id))
            if self._text.stopped:
                self.tokens.cancel()
                return self._chunk(text, self._finish_reason("stop"))
        reason = self.tokens.finish_reason
        if reason is None:
            return self._chunk(text) if text or (self._calls and self._calls.has_fresh) else None
        if reason == "cancelled":
            self.closed = True
            return None
        text += self._text.finish()
        return self._chunk(text, self._finish_reason(reason))

    def _finish_reason(self, of_tokens: str) -> FinishReason:
        """Return why the reply ended, from why its tokens did: "stop" or "length"."""
        calls = self._calls
        reasons: tuple[tuple[FinishReason, object], ...] = (  # the first that holds
            ("stop", self._text.stopped),  # a stop string
            ("length", calls and calls.unfinished),  # an end within a call
            ("tool_calls", calls and calls.calls),
            ("length", of_tokens == "length"),  # max_tokens, or the context is full
        )
        return next((reason for reason, holds in reasons if holds), "stop")  # an end token

    def _chunk(self, text: str, finish_reason: FinishReason | None = None) -> Chunk:
        token_ids = tuple([token.id for token in self._pending])
        logprobs = tuple(
            [self._logprob(t, t.logprob) for t in self._pending if t.logprob is not None]
        )
        self._pending.clear()
        usage = None
        if finish_reason:
            n_tokens = sum(len(chunk.token_ids) for chunk in self._chunks) + len(token_ids)
            spared = self.tokens.counts
            usage = Usage(
                self.n_prompt_tokens,
                n_tokens,
                cached_tokens=spared.cached_tokens,
                guessed_tokens=spared.guessed_tokens,
                accepted_tokens=spared.accepted_tokens,
                forced_tokens=spared.forced_tokens,
                queue_seconds=spared.queue_seconds,
                prompt_seconds=spared.prompt_seconds,
                decode_seconds=spared.decode_seconds,
            )
        self.finish_reason = finish_reason
        calls = None if self._text.stopped else self._calls  # a stop string ends text before calls
        pieces = calls.take() if calls else ()
        finished = tuple(calls.calls) if calls and finish_reason else ()
        index = self._index
        end = self.tokens.stop_token if finish_reason and not self._text.stopped else None
        stop_token = None if end is None or end.logprob is None else self._logprob(end, end.logprob)
        chunk = Chunk(
            text,
            token_ids,
            logprobs,
            finish_reason,
            usage,
            pieces,
            finished,
            index,
            self._text.found,
            stop_token,
        )
        self._chunks.append(chunk)
        return chunk

    def _logprob(self, token: _core.Token, logprob: float) -> TokenLogprob:
        best = [(*self._named(id), value) for id, value in token.top_logprobs]
        top = tuple([(id, text, value) for id, text, _, value in best])
        pieces = tuple([piece for _, _, piece, _ in best])
        id, text, piece = self._named(token.id)
        return TokenLogprob(id, text, logprob, top, piece, pieces)

    def _named(self, id: int) -> tuple[int, str, bytes]:
        """Return an id, its text and its bytes, the same objects each time: tokens come again."""
        if id not in self._names:
            piece = self._vocabulary.token_bytes(id)
            self._names[id] = id, piece.decode("utf-8", "replace"), piece
        return self._names[id]

    def completion(self) -> Completion:
        """Return the whole reply, once ended."""
        last = self._chunks[-1] if self._chunks else None
        if last is None or last.finish_reason is None or last.usage is None:
            raise _closed()
        return Completion(
            "".join([chunk.text for chunk in self._chunks]),
            tuple([id for chunk in self._chunks for id in chunk.token_ids]),
            last.finish_reason,
            last.usage,
            tuple([logprob for chunk in self._chunks for logprob in chunk.logprobs]),
            last.finished_calls,
            self._cut_call(len(last.finished_calls)),
            stop_string=last.stop_string,
            stop_token=last.stop_token,
        )

    def _cut_call(self, index: int) -> ToolCallChunk | None:
        """Return what was written of the call behind the whole ones, None where there is none."""
        pieces = [p for chunk in self._chunks for p in chunk.tool_calls if p.index == index]
        written = "".join([piece.arguments for piece in pieces])
        return replace(pieces[0], arguments=written) if pieces else None

    def close(self) -> None:
        """End the sequence, if it has not ended, and free what was read of it."""
        if not self.ended:
            self.closed = True
            self._chunks.clear()
            self._pending.clear()
        self.tokens.cancel()

    def __del__(self) -> None:
        """Cancel what nobody can read any more."""
        self.tokens.cancel()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled, before a copy is half made."""
        raise TypeError("a stream cannot be copied or pickled: keep its result()")


class PartialReplies:
    """The replies of one request, and how far their prompt is; none before they are submitted."""

    def __init__(
        self,
        replies: Sequence[PartialReply],
        report: Callable[[int, int], object] | None = None,
    ) -> None:
        """Read `replies`; `report` is for progress() to call."""
        self.all = tuple(replies)
        self._report = report
        self._n_reported = 0

    @property
    def ended(self) -> bool:
        """Whether no chunk will follow."""
        return False not in [reply.ended for reply in self.all]  # quick: for every chunk

    @property
    def prompt_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that are done, and all of them."""
        if not self.all:
            return 0, 0
        done = max(reply.tokens.counts.prompt_done for reply in self.all)  # one computes for all
        return done, self.all[0].n_prompt_tokens

    def progress(self) -> object:
        """Report progress, if there is any, and return what the function returns.

        An error of the function ends the replies.
        """
        if self._report is None:
            return None
        done, total = self.prompt_progress
        if done == self._n_reported:
            return None
        self._n_reported = done
        try:
            return self._report(done, total)
        except BaseException:
            self.close()
            raise

    def completion(self) -> Completion:
        """Return the whole replies, once ended."""
        if not self.all:
            raise _closed()
        first, *others = [reply.completion() for reply in self.all]
        return replace(first, others=tuple(others)) if others else first

    def close(self) -> None:
        """End the sequences that have not ended."""
        for reply in self.all:
            reply.close()


def _closed() -> InvalidRequestError:
    problem = "this stream was closed before its end: it has no result"
    return InvalidRequestError(problem, code="stream_closed")
