"""Parts of the core one by one, for tests and benchmarks; absent from a build without them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import Embedding, Engine, Grammar, SamplingParams, Token, Tokenizer, TokenStream

Floats = npt.NDArray[np.float32]
_AnyFloats = npt.NDArray[np.floating]

# ---- kernels and forward pass ---------------------------------------------------------------

class Forward:
    """The forward pass of one sequence, without an engine."""

    max_columns: int
    weight_bytes: int
    def __init__(
        self,
        path: str,
        n_threads: int = 0,
        n_ctx: int = 0,
        paths: Mapping[str, str] = ...,
        gpu_layers: int = 0,
        device: str = "",
    ) -> None: ...
    def run(self, token_ids: Sequence[int], last_only: bool = False) -> Floats: ...
    def rewind(self, position: int) -> None: ...

def fitting_layers(memory_bytes: int, n_embd: int, n_layer: int, n_ctx: int) -> int: ...

class Matrix:
    """A packed matrix and the threads that multiply it."""

    size_bytes: int
    def __init__(
        self, isa: str, type: str, rows: npt.NDArray[np.uint8], n_threads: int = 1
    ) -> None: ...
    def product(self, x: _AnyFloats, prepared_for: Matrix | None = None) -> Floats: ...
    def row(self, index: int) -> Floats: ...

class ThreadPool:
    def __init__(self, n_threads: int) -> None: ...
    def use(self, n: int) -> None: ...
    def loop(self) -> set[int]:
        """Return which threads took part in a loop of 4 pieces for each of them."""

class CoreShare:
    """One engine's part of the cores, among all that compute in this process."""

    def __init__(self, n_threads: int, n_cores: int) -> None: ...
    def begin(self) -> int: ...
    def end(self) -> None: ...

def to_half(values: _AnyFloats) -> npt.NDArray[np.uint16]: ...
def layer_norm(
    isa: str, x: _AnyFloats, gain: _AnyFloats, bias: _AnyFloats, eps: float = 1e-5
) -> Floats: ...
def gelu(isa: str, x: _AnyFloats) -> Floats: ...
def attention(isa: str, q: _AnyFloats, keys: _AnyFloats, values: _AnyFloats) -> Floats: ...

# ---- GPU --------------------------------------------------------------------------------------

class Gpu:
    """A device by Vulkan, and the pipelines that it has compiled."""

    index: int
    free_bytes: int
    n_shares: int
    def __init__(self, device: str) -> None: ...
    def run(
        self,
        shader: bytes,
        buffers: Sequence[bytes | npt.NDArray[Any]],
        groups: tuple[int, int, int],
        constants: Sequence[int] = (),
        push: bytes | npt.NDArray[Any] = b"",
        subgroup_size: int = 0,
        n_times: int = 1,
        n_runs: int = 1,
        in_host_memory: bool = False,
    ) -> list[bytes]:
        """Dispatch a shader n_times, each a piece of a list that runs n_runs times.

        Returns the buffers. Push constants are the addresses of the buffers, then `push`.
        """

class ShaderTest:
    """Shaders against the scalar kernels; a difference is an UnsupportedFeatureError."""

    def __init__(self, device: str, native_fma: bool = False) -> None: ...
    def arithmetic(self) -> None: ...
    def product(
        self, type: str, n_strips: int, n_blocks: int, n_columns: int, accumulates: bool = True
    ) -> None: ...
    def activations(
        self, source: str, quantizes: bool, n: int, n_columns: int, reorders: bool
    ) -> None: ...
    def attention(
        self, n_heads: int, n_kv_heads: int, head_dim: int, n_positions: int, n_columns: int
    ) -> None: ...

def test_shaders(device: str, types: Sequence[str], wrong_constant: int = 0) -> bool:
    """Run what a load runs, and return whether the device's own fma is used.

    wrong_constant: a word of shaders that the driver takes for one more; 0: none.
    """

def gpu_faults(fault: str = "", heap_bytes: int = 0) -> None:
    """Let Vulkan fail or pretend from now on, in this process, until the next call.

    "lost": submissions lose their device; "stuck": they never end; "slow": each takes 60 ms more;
    "memory": the driver gives none; "discrete": devices that are opened say that their memory is
    their own. heap_bytes: what every heap has at most; 0: what it has.
    """

def gpu_submissions() -> int:
    """Return how many there were since the last call of gpu_faults."""

# ---- files ----------------------------------------------------------------------------------

def gguf_tensors(path: str) -> list[dict[str, Any]]: ...

# ---- seconds of one call --------------------------------------------------------------------

class MatmulTimer:
    matrix_bytes: int
    def __init__(
        self, isa: str, type: str, n_rows: int, n_cols: int, n_matrices: int, n_threads: int
    ) -> None: ...
    def seconds(self, n_columns: int) -> float: ...

def attention_seconds(
    isa: str, n_heads: int, head_dim: int, n_positions: int, n_columns: int
) -> float: ...
def quantize_seconds(isa: str, n: int) -> float: ...
def layer_norm_seconds(isa: str, n: int) -> float: ...
def gelu_seconds(isa: str, n: int) -> float: ...

# ---- sampler, constraint, and an engine over a fake model -----------------------------------

def sample(
    logits: Sequence[float],
    params: SamplingParams,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
    control_ids: Sequence[int] = (),
) -> Token: ...
def candidates(
    logits: Sequence[float],
    params: SamplingParams,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
) -> list[tuple[int, float]]: ...

class GrammarCompiler:
    def __init__(
        self,
        library: str,
        tokenizer: Tokenizer,
        *,
        helper: Sequence[str] = ...,
        seconds: float = 5.0,
        bytes: int = 268435456,
        cache_bytes: int = 268435456,
        copy_bytes: int = 268435456,
    ) -> None: ...
    def compile(self, kind: str, text: str) -> Grammar: ...
    def counts(self) -> tuple[int, int, int, int]:
        """Return how many were compiled, are kept in how many bytes, and were begun."""
    def close(self) -> None: ...

class Constraint:
    def __init__(self, tokenizer: Tokenizer, grammar: Grammar) -> None: ...
    def fill_mask(self) -> bool: ...
    def allows(self, id: int) -> bool: ...
    def accept(self, id: int) -> None: ...
    def forced(self) -> list[int]: ...
    def n_allowed(self, ids: Sequence[int]) -> int: ...
    def ending(
        self,
        next: Sequence[int] = ...,
        known: Sequence[int] = ...,
        n_most: int = 1000,
        n_steps: int = 2000,
    ) -> list[int] | None: ...

class Draft:
    """The settings of a fake draft model; `differs`: one in so many contexts gets other logits."""

    def __init__(
        self,
        *,
        n_vocab: int = 64,
        n_ctx: int = 256,
        max_columns: int = 256,
        nan_id: int = -1,
        differs: int = 0,
    ) -> None: ...

class GuessPolicy:
    """What one stream after the other may guess, where a test says what steps take."""

    def __init__(self) -> None: ...
    def choose(self, n_streams: int = 1, n_found: int = 0, n_most: int = 15) -> tuple[int, int]:
        """Return how many ids the draft guesses for each stream, and look-up."""
    def may_catch_up(self, n_columns: int, gain_s: float, n_left: int) -> bool: ...
    def read_prompt(self, seconds: float) -> None: ...
    def begin_step(self, n_columns: int, n_decoding: int, drafted_s: float) -> None: ...
    def end_step(self, is_draft: bool, n_guessed: int, n_right: int) -> None: ...
    def step_took(self, n_columns: int, seconds: float) -> None: ...
    def draft_took(self, n_columns: int, seconds: float) -> None: ...
    def begin_stream(self) -> None: ...

class Scheduler:
    """The scheduler over a fake model, step by step."""

    runs: list[tuple[int, int]]  # of the last batch: first position, columns
    draft_runs: list[tuple[int, int]]  # of the draft model's last batch
    n_prefix_pages: int
    page_bytes: int
    n_signals: int
    def __init__(
        self,
        *,
        n_vocab: int = 64,
        n_ctx: int = 256,
        max_columns: int = 16,
        max_sequences: int = 64,
        nan_id: int = -1,
        head_dim: int = 2,
        period: int = 0,
        prefix_cache_bytes: int = -1,
        unread_bytes: int = 1073741824,
        draft: Draft | None = None,
    ) -> None: ...
    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        grammar: Grammar | None = None,
        lead: Sequence[int] = (),
        cache_salt: str = "",
    ) -> TokenStream: ...
    def add_replies(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        n: int,
        grammar: Grammar | None = None,
        lead: Sequence[int] = (),
    ) -> list[TokenStream]: ...
    def embed(self, prompt: Sequence[int]) -> tuple[TokenStream, Embedding]: ...
    def score(self, prompt: Sequence[int], n_best: int) -> TokenStream: ...
    def step(self) -> bool: ...
    def took(self, seconds: float) -> None: ...
    def fail_next(self, error: str) -> None: ...
    def fail_draft(self, error: str) -> None: ...
    def draft_stats(self) -> dict[str, int]: ...
    def stats(self) -> dict[str, int]: ...

def engine(
    *,
    n_vocab: int = 64,
    n_ctx: int = 256,
    max_columns: int = 16,
    step_s: float = 0.0,
    nan_id: int = -1,
) -> Engine: ...
