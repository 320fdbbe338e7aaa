"""Texts → vectors: the mean of the hidden states of a text's tokens, of length 1.

A few texts are on their way through the engine at a time, so that its steps are full and a reply
that somebody asks for meanwhile has no long list before it. Refuses what has no vector: a text
that is empty, or longer than the context.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

from .engines import Lease
from .errors import ContextLengthError, InvalidRequestError
from .pump import Pump, shared_pump
from .stream import AsyncStream, Request, Stream
from .text_stream import TextStream
from .types import ModelInfo, shown

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Progress: TypeAlias = Callable[[int, int], None]

_MOST_TEXTS = 16  # at once; the engine has places for as many others
_MOST_TOKENS = 512  # at once, if that is more than one text: two of the largest steps


class EmbeddingJob:
    """What one call has to do: its texts, and the vectors that are there by now."""

    def __init__(
        self, texts: Any, lease: Lease, info: ModelInfo, progress: Progress | None
    ) -> None:
        """Check the texts; `lease` stays open while they are computed."""
        import numpy as np  # here, because `import starchat` has no use for it

        self._texts = _named_texts(texts)
        if not (progress is None or callable(progress)):
            raise InvalidRequestError(
                f"progress: expected a function or None, got {shown(progress)}"
            )
        self._progress = progress
        self._lease = lease
        self._n_ctx = info.n_ctx
        self._vectors = np.empty((len(self._texts), info.n_embd), np.float32)

    def run(self) -> npt.NDArray[np.float32]:
        """Return the vectors, (n_texts, n_embd), once they are computed."""
        prompts = [self._prompt(name, text) for name, text in self._texts]
        with closing(self._requests(prompts)) as requests:
            for _, request in requests:
                Stream(request).result()
        return self._vectors

    async def arun(self) -> npt.NDArray[np.float32]:
        """Do the same without holding up the event loop."""
        from asyncio import sleep

        prompts = []
        for name, text in self._texts:
            prompts.append(self._prompt(name, text))
            await sleep(0)
        pump = shared_pump()
        with closing(self._requests(prompts, pump)) as requests:
            for key, request in requests:
                stream = AsyncStream(request)
                pump.attach(key, stream)
                await stream.result()
        return self._vectors

    def _prompt(self, name: str, text: str) -> list[int]:
        ids = self._lease.engine.tokenizer.encode(text)
        if (excess := len(ids) - self._n_ctx) > 0:
            raise ContextLengthError(
                f"{name} has {len(ids):,} tokens, the context holds {self._n_ctx:,}: "
                f"shorten it by {excess:,}, or split it"
            )
        return ids

    def _requests(
        self, prompts: Sequence[list[int]], pump: Pump | None = None
    ) -> Generator[tuple[int, Request], None, None]:
        """Yield the texts' requests in order; each is read to its end before the next is taken."""
        engine = self._lease.engine
        flying = deque[tuple[int, Request, Any]]()
        n_sent = 0
        try:
            for row in range(len(prompts)):
                ahead = sum(map(len, prompts[row:n_sent]))
                while n_sent < len(prompts) and (
                    not flying
                    or (len(flying) < _MOST_TEXTS and ahead + len(prompts[n_sent]) <= _MOST_TOKENS)
                ):
                    ids = prompts[n_sent]
                    key = pump.new_key() if pump else 0
                    tokens, embedding = engine.embed(ids, pump.queue if pump else None, key)
                    request = Request(
                        tokens, TextStream(()), engine.tokenizer, len(ids), self._lease
                    )
                    flying.append((key, request, embedding))
                    n_sent, ahead = n_sent + 1, ahead + len(ids)
                key, request, embedding = flying[0]
                yield key, request
                self._vectors[row] = embedding.vector
                flying.popleft()
                if self._progress:
                    self._progress(row + 1, len(prompts))
        finally:
            for _, request, _ in flying:
                request.close()


def _named_texts(texts: Any) -> list[tuple[str, str]]:
    """Return each text with what errors call it."""
    if isinstance(texts, str):
        named = [("texts", texts)]
    elif isinstance(texts, Sequence) and not isinstance(texts, bytes):
        named = [(f"texts[{index}]", text) for index, text in enumerate(texts)]
    else:
        raise InvalidRequestError(f"texts: expected a string or a list of them, got {shown(texts)}")
    for name, text in named:
        if not isinstance(text, str):
            raise InvalidRequestError(f"{name}: expected a string, got {shown(text)}")
        if not text:
            raise InvalidRequestError(
                f"{name} is empty, and nothing has no direction: leave it out"
            )
    return named
