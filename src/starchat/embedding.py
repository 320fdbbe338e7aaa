"""Texts → vectors: the mean of the hidden states of a text's tokens, of length 1.

Only some texts are in the engine at a time: enough to fill its steps, and so few that a reply
that somebody asks for meanwhile does not wait long. Refuses a text that is empty or longer than
the context.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core
from .async_waker import AsyncWaker, shared_waker
from .engine_registry import EngineHandle, Progress
from .errors import ContextLengthError, InvalidRequestError, unexpected
from .partial_reply import PartialReply
from .prompt_room import PromptRoom
from .stream import AsyncStream, Stream
from .text_stream import TextStream
from .types import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MAX_TEXTS = 16  # in the engine at once; it runs as many other sequences beside
_MAX_TOKENS = 512  # in the engine at once, or one text: two of the largest steps


class _PendingText(NamedTuple):
    """A text that the engine computes: a reply without tokens, and the vector at its end."""

    n_tokens: int
    key: int  # of the waker
    reply: PartialReply
    embedding: _core.Embedding


class EmbeddingJob:
    """One call of embed(): its texts, and the vectors that are computed so far."""

    def __init__(
        self, texts: Any, handle: EngineHandle, info: ModelInfo, progress: Progress | None
    ) -> None:
        """Check and read the texts; `handle` keeps the engine open while they are computed."""
        import numpy as np  # here, because `import starchat` has no use for it

        named = _named_texts(texts)
        if not (progress is None or callable(progress)):
            raise unexpected("progress", "a function or None", progress)
        self._progress = progress
        self._handle = handle
        self._n_ctx = info.n_ctx
        self._prompts = [self._prompt(name, text) for name, text in named]
        self._vectors = np.empty((len(named), info.n_embd), np.float32)

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self._prompts))

    def run(self) -> npt.NDArray[np.float32]:
        """Return the vectors, (n_texts, n_embd), once they are computed."""
        with closing(self._submitted()) as computing:
            for pending in computing:
                Stream(pending.reply).result()
        return self._vectors

    async def arun(self) -> npt.NDArray[np.float32]:
        """Return what run() returns, without blocking the event loop."""
        waker = shared_waker()
        with closing(self._submitted(waker)) as computing:
            for pending in computing:
                stream = AsyncStream(pending.reply)
                waker.attach(pending.key, stream)
                await stream.result()
        return self._vectors

    def _prompt(self, name: str, text: str) -> list[int]:
        tokenizer = self._handle.engine.tokenizer
        PromptRoom(name, self._handle.limits, tokenizer, self._n_ctx).take(len(text))
        ids = tokenizer.encode(text)
        if (excess := len(ids) - self._n_ctx) > 0:
            problem = f"{name} has {len(ids):,} tokens, the context holds {self._n_ctx:,}"
            remedy = f"shorten it by {excess:,}, or split it"
            text = f"{problem}: {remedy}"
            raise ContextLengthError(text, param=name, limit=self._n_ctx, got=len(ids))
        return ids

    def _submitted(self, waker: AsyncWaker | None = None) -> Generator[_PendingText, None, None]:
        """Yield the texts in order; the caller waits for each before it asks for the next."""
        prompts = self._prompts
        waiting, submitted = deque(prompts), deque[_PendingText]()
        try:
            for row in range(len(prompts)):
                while waiting and _has_room(submitted, len(waiting[0])):
                    submitted.append(self._send(waiting.popleft(), waker))
                yield submitted[0]
                self._vectors[row] = submitted.popleft().embedding.vector
                if self._progress:
                    self._progress(row + 1, len(prompts))
        finally:  # of an error, or a task that was cancelled
            for pending in submitted:
                pending.reply.close()

    def _send(self, ids: list[int], waker: AsyncWaker | None) -> _PendingText:
        engine = self._handle.engine
        key, queue = (waker.new_key(), waker.queue) if waker else (0, None)
        tokens, embedding = engine.embed(ids, queue, key)
        reply = PartialReply(tokens, TextStream(()), engine.tokenizer, len(ids), self._handle)
        return _PendingText(len(ids), key, reply, embedding)


def _has_room(submitted: Sequence[_PendingText], n_tokens: int) -> bool:
    if not submitted:
        return True
    n_ahead = sum(pending.n_tokens for pending in submitted)
    return len(submitted) < _MAX_TEXTS and n_ahead + n_tokens <= _MAX_TOKENS


def _named_texts(texts: Any) -> list[tuple[str, str]]:
    """Return each text with its name in errors."""
    if isinstance(texts, str):
        return [("texts", _checked("texts", texts))]
    if isinstance(texts, Sequence) and not isinstance(texts, bytes):
        return [(f"texts[{i}]", _checked(f"texts[{i}]", text)) for i, text in enumerate(texts)]
    raise unexpected("texts", "a string or a list of them", texts)


def _checked(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise unexpected(name, "a string", text)
    if not text:
        problem = f"{name} is empty: an empty text has no embedding; leave it out"
        raise InvalidRequestError(problem, param=name, limit=1, got=0)
    return text
