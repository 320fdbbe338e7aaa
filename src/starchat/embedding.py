"""Texts → vectors: the mean of the hidden states of a text's tokens, of length 1.

A few texts are on their way through the engine at a time, so that its steps are full and a reply
that somebody asks for meanwhile has no long list before it. Refuses what has no vector: a text
that is empty, or longer than the context.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from . import _core
from .async_waker import AsyncWaker, shared_waker
from .engine_registry import Lease
from .errors import ContextLengthError, InvalidRequestError, unexpected
from .stream import AsyncStream, Request, Stream
from .text_stream import TextStream
from .types import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Progress: TypeAlias = Callable[[int, int], None]

_MOST_TEXTS = 16  # at once; the engine has places for as many others
_MOST_TOKENS = 512  # at once, if that is more than one text: two of the largest steps


class _Flight(NamedTuple):
    """One text in the engine: a reply without tokens, and the vector that is there at its end."""

    n_tokens: int
    key: int  # of the waker
    request: Request
    embedding: _core.Embedding


class EmbeddingJob:
    """What one call has to do: its texts, and the vectors that are there by now."""

    def __init__(
        self, texts: Any, lease: Lease, info: ModelInfo, progress: Progress | None
    ) -> None:
        """Check the texts; `lease` stays open while they are computed."""
        import numpy as np  # here, because `import starchat` has no use for it

        self._texts = _named_texts(texts)
        if not (progress is None or callable(progress)):
            raise unexpected("progress", "a function or None", progress)
        self._progress = progress
        self._lease = lease
        self._n_ctx = info.n_ctx
        self._vectors = np.empty((len(self._texts), info.n_embd), np.float32)

    def run(self) -> npt.NDArray[np.float32]:
        """Return the vectors, (n_texts, n_embd), once they are computed."""
        prompts = [self._prompt(name, text) for name, text in self._texts]
        with closing(self._flights(prompts)) as flights:
            for flight in flights:
                Stream(flight.request).result()
        return self._vectors

    async def arun(self) -> npt.NDArray[np.float32]:
        """Do the same without holding up the event loop."""
        from asyncio import sleep

        prompts = []
        for name, text in self._texts:
            prompts.append(self._prompt(name, text))
            await sleep(0)
        waker = shared_waker()
        with closing(self._flights(prompts, waker)) as flights:
            for flight in flights:
                stream = AsyncStream(flight.request)
                waker.attach(flight.key, stream)
                await stream.result()
        return self._vectors

    def _prompt(self, name: str, text: str) -> list[int]:
        ids = self._lease.engine.tokenizer.encode(text)
        if (excess := len(ids) - self._n_ctx) > 0:
            raise ContextLengthError(
                f"{name} has {len(ids):,} tokens, the context holds {self._n_ctx:,}: "
                f"shorten it by {excess:,}, or split it",
                param=name,
                limit=self._n_ctx,
                got=len(ids),
            )
        return ids

    def _flights(
        self, prompts: Sequence[list[int]], waker: AsyncWaker | None = None
    ) -> Generator[_Flight, None, None]:
        """Yield the texts' flights in order; each is over before the next is asked for."""
        waiting, flying = deque(prompts), deque[_Flight]()
        try:
            for row in range(len(prompts)):
                while waiting and _has_room(flying, len(waiting[0])):
                    flying.append(self._send(waiting.popleft(), waker))
                yield flying[0]
                self._vectors[row] = flying.popleft().embedding.vector
                if self._progress:
                    self._progress(row + 1, len(prompts))
        finally:  # of an error, or a task that was cancelled
            for flight in flying:
                flight.request.close()

    def _send(self, ids: list[int], waker: AsyncWaker | None) -> _Flight:
        engine = self._lease.engine
        key, queue = (waker.new_key(), waker.queue) if waker else (0, None)
        tokens, embedding = engine.embed(ids, queue, key)
        request = Request(tokens, TextStream(()), engine.tokenizer, len(ids), self._lease)
        return _Flight(len(ids), key, request, embedding)


def _has_room(flying: Sequence[_Flight], n_tokens: int) -> bool:
    if not flying:
        return True
    n_ahead = sum(flight.n_tokens for flight in flying)
    return len(flying) < _MOST_TEXTS and n_ahead + n_tokens <= _MOST_TOKENS


def _named_texts(texts: Any) -> list[tuple[str, str]]:
    """Return each text with what errors call it."""
    if isinstance(texts, str):
        named = [("texts", texts)]
    elif isinstance(texts, Sequence) and not isinstance(texts, bytes):
        named = [(f"texts[{index}]", text) for index, text in enumerate(texts)]
    else:
        raise unexpected("texts", "a string or a list of them", texts)
    for name, text in named:
        if not isinstance(text, str):
            raise unexpected(name, "a string", text)
        if not text:
            problem = f"{name} is empty: an empty text has no embedding; leave it out"
            raise InvalidRequestError(problem, param=name, limit=1, got=0)
    return named
