"""Typed face of the native module. Only starchat itself imports it."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

class Tokenizer:
    def __init__(
        self,
        vocabulary: Sequence[bytes],
        control_ids: bytes = b"",
        added_ids: bytes = b"",
        merges: bytes = b"",
    ) -> None: ...
    def encode(
        self, text: str | bytes, allow_special: bool | Sequence[str] = False
    ) -> list[int]: ...
    def count(self, text: str | bytes) -> int: ...
    def least_ids(self, n_characters: int) -> int: ...
    def decode(self, ids: Sequence[int], skip_special: bool = False) -> bytes: ...
    def token_bytes(self, id: int) -> bytes: ...
    def find(self, token: str | bytes) -> int | None: ...
    def is_special(self, id: int) -> bool: ...
    def is_added(self, id: int) -> bool: ...
    def special_tokens(self) -> dict[str, int]: ...
    def __len__(self) -> int: ...

#: The fields of SamplingParams and their types in Python.
SAMPLING_PARAMETERS: dict[str, str]
SUMS_VERSION: int

class SamplingParams:
    """How one sequence is continued; every field is checked on submit."""

    # Sampling parameters, written by scripts/sampling_parameters.py
    max_tokens: int | None  # None: what the context still holds.
    min_tokens: int  # Stop ids are masked before.
    temperature: float  # 0: greedy.
    top_k: int  # 0: off.
    top_p: float  # 1: off.
    min_p: float  # Relative to the best token's; 0: off.
    repetition_penalty: float  # Divides positive logits, multiplies negative ones; 1: off.
    frequency_penalty: float  # Subtracted for each time in the reply.
    presence_penalty: float  # Subtracted once for what is in the reply.
    repetition_window: int  # Penalties see only so many last tokens of both; 0: all.
    logit_bias: Mapping[int, float]  # Added to single logits; -inf bans the token.
    seed: int  # 64 bits.
    stop_token_ids: Sequence[int]  # End the reply and are not part of it.
    speculation: bool  # Guess ahead; the tokens are the same.
    logprobs: int  # -1: none; n: the chosen token's and the n best.
    # End of sampling parameters
    def __init__(self, **fields: Any) -> None: ...

class Token(NamedTuple):
    id: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...]

class ReadyQueue:
    """A queue of the keys of streams with new tokens: one thread serves every async stream."""

    def __init__(self) -> None: ...
    def wait(self) -> list[int]:
        """Wait for and return the keys of streams with new tokens; [] after close()."""
    def close(self) -> None: ...

class StreamCounts(NamedTuple):
    """What a sequence did and was spared so far, in tokens."""

    cached_tokens: int  # of the prompt, computed before
    guessed_tokens: int  # by prompt look-up or a draft model
    accepted_tokens: int  # guesses that were right
    forced_tokens: int  # of the reply: a constraint left no choice
    prompt_done: int  # of the prompt, computed by now
    queue_seconds: float  # until the first step with a part of the prompt
    prompt_seconds: float  # from there until the prompt was computed
    decode_seconds: float  # from there to the last token

class TokenStream:
    def next(self) -> Token | None:
        """Wait for the next token without the GIL (Ctrl-C works); None at the end."""
    def drain(self) -> list[Token]:
        """Whatever is there, without waiting."""
    @property
    def finish_reason(self) -> str | None:
        """None while tokens may come; "stop", "length" or "cancelled" once drained."""
    @property
    def stop_token(self) -> Token | None:
        """The stop id that ended the sequence, once drained, or None."""
    @property
    def counts(self) -> StreamCounts: ...
    def cancel(self) -> None:
        """End the sequence within one step; harmless when it has ended."""

class Embedding:
    """The vector that an engine is computing."""

    @property
    def vector(self) -> npt.NDArray[np.float64]:
        """Of length 1, (n_embd); complete once the stream that came with it has ended."""

def serve_grammar_trials(socket: int) -> NoReturn: ...

class Grammar:
    """A compiled constraint of one engine's vocabulary."""

class Weights:
    """The constant part of a loaded model, which engines on one file share."""

    @property
    def identity(self) -> tuple[tuple[int, int, int, int], ...]:
        """Of each file: device, inode, size in bytes, mtime in ns."""
    def sample(self) -> bytes:
        """What tells models apart: shapes, types and values at fixed places."""

class Prefix:
    """Whole pages of a prompt's keys and values, on the way to a file or from one."""

    def make_room(self) -> None:
        """Drop what the prefix cache must drop for it."""
    def read(self, first: int, n_pages: int) -> bytes: ...
    def write(self, pages: bytes) -> None:
        """Append pages to those that were written before."""
    def add(self, cache_salt: bytes | None) -> None:
        """Add the pages to the prefix cache; None: for all prompts, and pinned."""

class Checkpoint:
    """A model whose files Python has read; loaded or inspected once."""

    def __init__(
        self,
        folder: bytes,
        files: Sequence[tuple[bytes, int]],
        config: Mapping[str, float],
        vocabulary: Sequence[bytes],
        control_ids: bytes,
        added_ids: bytes,
        merges: bytes,
        tensors: Sequence[
            tuple[
                str,
                str,
                tuple[int, ...],
                Sequence[tuple[int, int, int]] | Callable[[int, int], npt.NDArray[np.uint8]],
                bytes,
            ]
        ],
    ) -> None: ...
    def tokenizer(self) -> Tokenizer: ...

class Engine:
    def __init__(
        self,
        path: str,
        *,
        n_threads: int = 0,
        n_ctx: int = 0,
        prefix_cache_bytes: int = -1,
        gpu_layers: int = 0,
        device: str = "",
        unread_bytes: int = 1073741824,
        progress: Callable[[int, int], None] | None = None,
        weights: Weights | None = None,
        share_weights: bool = False,
        memory_root: str | None = None,
        checkpoint: Checkpoint | None = None,
        draft: Weights | None = None,
    ) -> None: ...
    @property
    def info(self) -> dict[str, Any]: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def weights(self) -> Weights: ...
    def submit_replies(
        self,
        token_ids: Sequence[int],
        params: SamplingParams,
        ready: ReadyQueue | None,
        keys: Sequence[int],
        grammar: Grammar | None = None,
        lead: Sequence[int] = (),
        otherwise: Grammar | None = None,
        cache_salt: bytes = b"",
        mask_seconds: float = 0.05,
        grammar_seconds: float = 5,
    ) -> list[TokenStream]:
        """A stream for each key, with the seeds seed, seed + 1 …; the prompt is computed once."""
    def compile(
        self,
        library: str,
        kind: str,
        text: str,
        *,
        helper: Sequence[str] = ...,
        seconds: float = 5.0,
        bytes: int = 268435456,
        cache_bytes: int = 268435456,
        copy_bytes: int = 268435456,
    ) -> Grammar: ...
    def logits(self, token_ids: Sequence[int], first: int = 0) -> npt.NDArray[np.float32]: ...
    def embed(
        self, token_ids: Sequence[int], ready: ReadyQueue | None = None, key: int = 0
    ) -> tuple[TokenStream, Embedding]:
        """A stream without tokens, and what is complete when it has ended."""
    def score(
        self,
        token_ids: Sequence[int],
        n_best: int,
        ready: ReadyQueue | None = None,
        key: int = 0,
        cache_salt: bytes = b"",
    ) -> TokenStream:
        """A stream of the ids behind the first, with their log probabilities."""
    def compute_prefix(
        self,
        token_ids: Sequence[int],
        ready: ReadyQueue | None = None,
        key: int = 0,
        cache_salt: bytes = b"",
    ) -> tuple[TokenStream, Prefix]:
        """A stream of one token that means nothing, and what holds whole pages at its end."""
    def new_prefix(self, token_ids: Sequence[int]) -> Prefix: ...
    def stats(self) -> dict[str, int]:
        """Return the counters of cpp/engine/counters.hpp, which the docstring explains."""
    def close(self) -> None:
        """Cancel every stream and join the engine's thread; harmless when closed."""

class TensorType:
    """A type of tensors and the layout of its blocks: a row of cpp/quant/types.def."""

    @property
    def name(self) -> str: ...
    @property
    def ggml_id(self) -> int: ...
    @property
    def ftype(self) -> int:
        """What names it in the header of a ggml file, without the version; -1: nothing."""
    @property
    def block_weights(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def bits(self) -> int:
        """Of a weight, without its block's scale and minimum."""
    @property
    def halves(self) -> list[int]:
        """Where in a block its scale is, and its minimum or the scale of its minima."""
    def row_bytes(self, n_cols: int) -> int:
        """Return the size of a row of `n_cols` weights."""

def tensor_types() -> list[TensorType]: ...
def quantize(
    rows: npt.NDArray[np.floating],
    type: str,
    n_threads: int = 0,
    importance: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.uint8]: ...
def dequantize(rows: npt.NDArray[np.uint8], type: str) -> npt.NDArray[np.float32]: ...
def inspect(
    path: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
    *,
    compare: bool = True,
    n_ctx: int = 0,
    n_threads: int = 0,
    prefix_cache_bytes: int = -1,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Return what is in a model file, and under "memory" what an engine needs, by part."""

def context_size(path: bytes) -> int: ...
def read_tokenizer(path: bytes) -> Tokenizer: ...
def read_merges(path: bytes) -> list[tuple[bytes, bytes]]: ...
def file_state(path: bytes) -> tuple[bytes, bool, tuple[tuple[int, int, int, int], ...]]: ...
def read_file(path: bytes, most_bytes: int) -> bytes: ...
def wait_until_writes_show(path: bytes) -> None: ...
