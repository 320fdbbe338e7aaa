"""A vocabulary of single bytes, and a token stream and ready queue that a test plays by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

CONTROL = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


class ByteVocabulary:
    """Control tokens first, then the 256 bytes."""

    def __init__(self, control: Sequence[str] = CONTROL) -> None:
        self.control = list(control)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        return [len(self.control) + byte for byte in text.encode("utf-8", "surrogatepass")]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> bytes:
        return b"".join(
            self.token_bytes(id) for id in ids if not (skip_special and self.is_special(id))
        )

    def token_bytes(self, id: int) -> bytes:
        n_control = len(self.control)
        return self.control[id].encode() if id < n_control else bytes([id - n_control])

    def find(self, token: str) -> int | None:
        return self.control.index(token) if token in self.control else None

    def is_special(self, id: int) -> bool:
        return id < len(self.control)


@dataclass
class FakeToken:
    id: int
    logprob: float | None = None
    top_logprobs: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class FakeCounts:
    cached_tokens: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0
    forced_tokens: int = 0
    prompt_done: int = 0
    queue_seconds: float = 0.0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0


class FakeQueue:
    """Hands on the keys that streams name, until closed."""

    def __init__(self) -> None:
        self._keys: SimpleQueue[list[int]] = SimpleQueue()

    def push(self, key: int) -> None:
        self._keys.put([key])

    def wait(self) -> list[int]:
        return self._keys.get()

    def close(self) -> None:
        self._keys.put([])


class FakeTokens:
    """A token stream; next() gives what was pushed, and ends where it would wait."""

    def __init__(self, ids: Iterable[int] = (), finish_reason: str | None = None) -> None:
        self._tokens = deque(FakeToken(id) for id in ids)
        self._finish_reason = finish_reason
        self.stop_token: FakeToken | None = None
        self.cancelled = False
        self._error: Exception | None = None
        self.on_news: Callable[[], None] = lambda: None

    def push(self, *tokens: int | FakeToken, finish_reason: str | None = None) -> None:
        self._tokens.extend(t if isinstance(t, FakeToken) else FakeToken(t) for t in tokens)
        self._finish_reason = self._finish_reason or finish_reason
        self.on_news()

    def fail(self, error: Exception) -> None:
        self._error = error
        self.on_news()

    def next(self) -> FakeToken | None:
        self._raise_at_the_end()
        return self._tokens.popleft() if self._tokens else None

    def drain(self) -> list[FakeToken]:
        self._raise_at_the_end()
        tokens = list(self._tokens)
        self._tokens.clear()
        return tokens

    def _raise_at_the_end(self) -> None:
        if self._error and not self._tokens:
            raise self._error

    @property
    def finish_reason(self) -> str | None:
        return None if self._tokens else self._finish_reason

    counts = FakeCounts()

    def cancel(self) -> None:
        self.cancelled = True
        self.push(finish_reason="cancelled")
