"""The values that go in and out of a StarChat: plain, typed, immutable.

sampling.py has the parameters that say how a reply is chosen.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, TypedDict

from .errors import CutReplyError, shown
from .partial_json import json_so_far

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; `id` is unique, and the tool's result refers to it."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCallChunk:
    """A piece of a streamed call: first id and name, then pieces of the arguments' JSON."""

    index: int  # of the call in its reply
    id: str | None
    name: str | None
    arguments: str


class _RequiredKeys(TypedDict):
    role: Role
    content: str


class Message(_RequiredKeys, total=False):
    """One turn of a dialogue; an assistant's may carry the ids that were generated for it.

    The result of a tool has the role "tool" and the id of its call.
    """

    token_ids: Sequence[int]
    tool_calls: Sequence[ToolCall | Mapping[str, object]]  # an assistant's: id, name, arguments
    tool_call_id: str
    name: str  # of the tool


#: What chat methods accept: Messages, or any mappings with the same keys.
Messages: TypeAlias = Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probability (natural) of one token, and of the best ones beside it.

    token: the text of its bytes, U+FFFD for what is no UTF-8; bytes: themselves. A character may
    have several tokens, whose bytes together are its UTF-8.
    """

    token_id: int
    token: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    bytes: builtins.bytes = b""
    top_bytes: tuple[builtins.bytes, ...] = ()  # of each of `top`

    @property
    def best(self) -> tuple[TokenLogprob, ...]:
        """What `top` has, each as a TokenLogprob with its bytes.

        >>> TokenLogprob(7, "b", -1.5, ((5, "a", -0.5),), b"b", (b"a",)).best[0].bytes
        b'a'
        """
        pieces = self.top_bytes or (b"",) * len(self.top)
        return tuple([TokenLogprob(*t, bytes=b) for t, b in zip(self.top, pieces, strict=True)])


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of token ids, and the time that the engine took for them."""

    prompt_tokens: int
    completion_tokens: int
    # Work that was skipped: it depends on earlier requests, the reply does not.
    cached_tokens: int = field(default=0, compare=False)  # of the prompt, computed before
    guessed_tokens: int = field(default=0, compare=False)  # proposed by prompt look-up
    accepted_tokens: int = field(default=0, compare=False)  # of the guessed ones
    forced_tokens: int = field(default=0, compare=False)  # the only ones that a constraint allowed
    # Wall time, in the engine: until the prompt was begun, until it was computed, and from then to
    # the last token. 0 where there was no such part.
    queue_seconds: float = field(default=0.0, compare=False)
    prompt_seconds: float = field(default=0.0, compare=False)
    decode_seconds: float = field(default=0.0, compare=False)

    @property
    def total_tokens(self) -> int:
        """Tokens of the prompt and of the reply."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        """Return what two requests took together.

        >>> (Usage(7, 2) + Usage(9, 1)).total_tokens
        19
        """
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))

    @classmethod
    def of_replies(cls, usages: Sequence[Usage]) -> Usage:
        """Return what the replies to one prompt took together, which were written side by side.

        The prompt counts once.

        >>> Usage.of_replies([Usage(7, 2, cached_tokens=5), Usage(7, 3, cached_tokens=7)])
        Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=5, ...)
        """
        first = usages[0]
        return replace(
            sum(usages, Usage(0, 0)),
            prompt_tokens=first.prompt_tokens,
            cached_tokens=min(usage.cached_tokens for usage in usages),
            queue_seconds=first.queue_seconds,
            prompt_seconds=first.prompt_seconds,
            decode_seconds=max(usage.decode_seconds for usage in usages),
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed reply; its last one has finish_reason, usage and finished_calls."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    tool_calls: tuple[ToolCallChunk, ...] = ()  # pieces
    finished_calls: tuple[ToolCall, ...] = ()  # the reply's whole calls, without one that was cut
    index: int = 0  # of the reply, where a request has n
    stop_string: str = ""  # that ended the reply and is not part of its text, "" if none did
    stop_token: TokenLogprob | None = None  # that did so, where log probabilities are reported


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply."""

    text: str  # without the calls
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()  # the whole ones
    cut_call: ToolCallChunk | None = None  # the one in which the reply ends, with what it has
    others: tuple[Completion, ...] = ()  # the replies behind this one, where a request has n
    stop_string: str = ""  # that ended the reply and is not part of its text, "" if none did
    stop_token: TokenLogprob | None = None  # that did so, where log probabilities are reported

    @property
    def choices(self) -> tuple[Completion, ...]:
        """This reply and the others.

        >>> from starchat import StarChat
        >>> replies = StarChat.load().complete("def add(", n=3, seed=1, max_tokens=8).choices
        >>> len(replies), replies[0].usage.cached_tokens < replies[1].usage.cached_tokens
        (3, True)
        """
        return self, *self.others

    @property
    def total_usage(self) -> Usage:
        """What all replies took together; their prompt counts once."""
        return Usage.of_replies([reply.usage for reply in self.choices])

    def check_whole(self) -> Completion:
        """Return this reply; raise CutReplyError if max_tokens or the context cut it.

        >>> from starchat import StarChat
        >>> model = StarChat.load()
        >>> schema = {"const": ["a", "b"]}
        >>> try:
        ...     model.complete("List:", json_schema=schema, max_tokens=3).check_whole()
        ... except CutReplyError as error:
        ...     error.text, error.partial
        ('["a",', ['a'])
        """
        if self.finish_reason != "length":
            return self
        call = self.cut_call
        text = call.arguments if call else self.text
        where = f" in a call of {shown(call.name)}" if call else ""
        problem = (
            f"the reply was cut{where}, at {self.usage.completion_tokens} tokens: raise "
            "max_tokens, or shorten the prompt if the context was full"
        )
        raise CutReplyError(problem, text=text, partial=json_so_far(text))


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is, and how it runs here."""

    file: str
    quantization: str
    n_layer: int
    n_embd: int
    n_head: int
    n_kv_head: int
    n_ctx: int
    n_vocab: int
    n_params: int
    weight_bytes: int  # in memory, duplicate tensors once
    isa: str
    n_threads: int
    draft: str | None = None  # the file of the model that guesses ahead
    gpu_layers: int = 0  # of n_layer, the last ones
    device: str = "cpu"  # that computes them

    def __str__(self) -> str:
        """Return one line for people."""
        more = f"; {self.gpu_layers} layers on {self.device}" if self.gpu_layers else ""
        more += f"; {self.draft} guesses ahead" if self.draft else ""
        return (
            f"{self.file}: {self.n_params / 1e6:,.1f} M parameters in {self.quantization} "
            f"({self.weight_bytes / 1e6:,.1f} MB), {self.n_layer} layers of {self.n_embd}, "
            f"{self.n_head} heads on {self.n_kv_head} of keys and values, {self.n_vocab:,} tokens, "
            f"context {self.n_ctx:,}; {self.isa}, {self.n_threads} threads{more}"
        )


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a loaded model takes of memory now, its draft included, and what is left, in bytes."""

    weight_bytes: int
    kv_page_bytes: int  # of the KV cache, for each `kv_page_tokens` tokens of a sequence
    kv_page_tokens: int
    kv_bytes: int  # held by replies and by the prefix cache, shared pages once
    prefix_bytes: int  # of these, by the prefix cache
    spare_bytes: int  # taken for the KV cache before, and held by nothing now
    free_bytes: int | None  # what the system still gives; None where it does not say

    @property
    def available_bytes(self) -> int | None:
        """What the KV cache may still grow by; None where that is not known."""
        return None if self.free_bytes is None else self.spare_bytes + self.free_bytes

    def bytes_of(self, n_tokens: int) -> int:
        """Return what a prompt and its reply take of the KV cache, with so many tokens together.

        >>> from starchat import StarChat
        >>> memory = StarChat.load().memory()
        >>> memory.bytes_of(33) == 2 * memory.bytes_of(1)
        True
        """
        return -(-n_tokens // self.kv_page_tokens) * self.kv_page_bytes
