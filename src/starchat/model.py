"""StarChat: a loaded model, and everything that can be asked of it.

Checks what the caller says, turns it into token ids, submits them to the engine, and hands out
streams; every other way of asking reads such a stream to its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from . import _core
from .chat import ChatTemplate, check_messages
from .engines import Lease, Settings, lease
from .errors import FileAccessError, InvalidRequestError, UnsupportedFeatureError
from .progress import LoadingBar
from .pump import shared_pump
from .stream import AsyncStream, Request, Stream
from .text_stream import TextStream
from .types import (
    Completion,
    Messages,
    ModelInfo,
    SamplingOptions,
    SamplingParams,
    check_token_ids,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

_EMBEDDED = os.path.join(os.path.dirname(__file__), "models", "starchat-nano.q8_0.bin")
_END_TOKENS = ("<|end|>", "<|endoftext|>")


class StarChat:
    """A model in memory. Any number of threads and tasks may ask it at the same time.

    Keywords of the asking methods are the fields of SamplingParams. They raise
    InvalidRequestError for a message, token or parameter that cannot be served,
    ContextLengthError for a prompt that does not fit, EngineClosedError after close(), ForkError
    in a forked child, and NumericalError where the file's weights are broken.

    Lone surrogates in a text, which have no UTF-8, are encoded as their three bytes.

    >>> with StarChat.load() as model:
    ...     model.complete("def add(a, b):", max_tokens=16, temperature=0).finish_reason
    'length'
    """

    def __init__(self, share: Lease) -> None:
        """Use StarChat.load() instead."""
        self._lease = share
        engine = share.engine
        self.info: ModelInfo = ModelInfo(**{f.name: engine.info[f.name] for f in fields(ModelInfo)})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        n_threads: int | None = None,
        n_ctx: int | None = None,
        prefix_cache_bytes: int | None = None,
        progress: Callable[[int, int], None] | Literal[False] | None = None,
    ) -> StarChat:
        """Return the model in a ggml `starcoder` file, or the embedded one without a path.

        n_threads: of the computation, by default one for each physical core.
        n_ctx: tokens that prompt and reply may have together, by default what the file says.
        prefix_cache_bytes: kept of finished prompts and replies, so that what begins alike is not
        computed again; by default as much as one whole context takes, 0 keeps nothing.
        progress: None shows a bar on stderr when loading takes long and stderr is a terminal;
        False shows nothing; a function is called with done and total bytes.
        The same file with the same settings is in memory once for the whole process.

        Raises FileAccessError, UnsupportedFormatError or CorruptFileError for a file that cannot
        be used, OutOfMemoryError, and InvalidRequestError for wrong settings.

        >>> StarChat.load(n_ctx=512).info.n_ctx
        512
        """
        file = _EMBEDDED if path is None else os.fsdecode(path)
        if path is None and not os.path.exists(file):
            raise FileAccessError(
                f"{file}: this installation lacks the embedded model; give a path"
            )
        settings = Settings(
            _setting("n_threads", n_threads),
            _setting("n_ctx", n_ctx),
            _setting("prefix_cache_bytes", prefix_cache_bytes, default=-1, least=0),
        )
        bar = LoadingBar(file) if progress is None else None
        try:
            return cls(lease(file, settings, bar or progress or None))
        finally:
            if bar:
                bar.close()

    # ---- dialogue ---------------------------------------------------------------------------

    def chat(self, messages: Messages, **sampling: Unpack[SamplingOptions]) -> Completion:
        """Return the assistant's next reply in a dialogue.

        Raises UnsupportedFeatureError where the vocabulary has no role tokens.

        >>> model = StarChat.load()
        >>> reply = model.chat([{"role": "user", "content": "How do I sort a list in Python?"}])
        >>> "sort" in reply.text
        True
        """
        return self.stream_chat(messages, **sampling).result()

    def stream_chat(self, messages: Messages, **sampling: Unpack[SamplingOptions]) -> Stream:
        """Return the assistant's next reply as it is written; errors are raised by this call.

        >>> for chunk in StarChat.load().stream_chat([{"role": "user", "content": "Hello"}]):
        ...     print(chunk.text, end="", flush=True)
        """
        return self._stream(self._chat_prompt(messages), sampling, is_chat=True)

    async def achat(self, messages: Messages, **sampling: Unpack[SamplingOptions]) -> Completion:
        """Return the assistant's next reply; cancelling the task ends it.

        >>> asyncio.run(StarChat.load().achat([{"role": "user", "content": "Hello"}]))
        """
        return await self.astream_chat(messages, **sampling).result()

    def astream_chat(self, messages: Messages, **sampling: Unpack[SamplingOptions]) -> AsyncStream:
        """Return the assistant's next reply as it is written, for `async for`; not a coroutine.

        >>> async for chunk in model.astream_chat([{"role": "user", "content": "Hello"}]):
        ...     print(chunk.text, end="", flush=True)
        """
        return self._astream(self._chat_prompt(messages), sampling, is_chat=True)

    def count_tokens(self, messages: Messages) -> int:
        """Return how many tokens a dialogue takes as a prompt, its frame included.

        >>> StarChat.load().count_tokens([{"role": "user", "content": "Hello"}]) > 8
        True
        """
        return len(self._chat_prompt(messages))

    # ---- raw text ---------------------------------------------------------------------------

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        allow_special: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> Completion:
        """Return how a text, or a list of token ids, goes on.

        Control tokens that are spelt out in the text are plain text unless `allow_special`.

        >>> StarChat.load().complete("def add(a, b):", max_tokens=16).usage.completion_tokens
        16
        """
        return self.stream_complete(prompt, allow_special=allow_special, **sampling).result()

    def stream_complete(
        self,
        prompt: str | Sequence[int],
        *,
        allow_special: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> Stream:
        """Return how a text goes on, as it is written; errors are raised by this call.

        >>> for chunk in StarChat.load().stream_complete("def add(a, b):", max_tokens=16):
        ...     print(chunk.text, end="", flush=True)
        """
        return self._stream(self._prompt(prompt, allow_special), sampling)

    async def acomplete(
        self,
        prompt: str | Sequence[int],
        *,
        allow_special: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> Completion:
        """Return how a text goes on; cancelling the task ends it.

        >>> asyncio.run(StarChat.load().acomplete("def add(a, b):", max_tokens=16))
        """
        stream = self.astream_complete(prompt, allow_special=allow_special, **sampling)
        return await stream.result()

    def astream_complete(
        self,
        prompt: str | Sequence[int],
        *,
        allow_special: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncStream:
        """Return how a text goes on, as it is written, for `async for`; not a coroutine.

        >>> async for chunk in model.astream_complete("def add(a, b):", max_tokens=16):
        ...     print(chunk.text, end="", flush=True)
        """
        return self._astream(self._prompt(prompt, allow_special), sampling)

    def infill(self, prefix: str, suffix: str, **sampling: Unpack[SamplingOptions]) -> Completion:
        r"""Return what belongs between two texts (Bavarian et al. 2022, prefix-suffix-middle).

        Raises UnsupportedFeatureError where the vocabulary has no tokens for it.

        >>> starcoder = StarChat.load("starcoder-q4_0.bin")
        >>> starcoder.infill("def add(a, b):\n    return ", "\n\nprint(add(1, 2))").text
        'a + b'
        """
        tokenizer = self._engine.tokenizer
        start, middle, end = self._fim_tokens
        prompt = [start, *tokenizer.encode(_text("prefix", prefix))]
        prompt += [middle, *tokenizer.encode(_text("suffix", suffix)), end]
        return self._stream(prompt, sampling).result()

    # ---- tokens -----------------------------------------------------------------------------

    def tokenize(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the token ids of a text; control tokens in it only count if `allow_special`.

        >>> model = StarChat.load()
        >>> model.detokenize(model.tokenize("naïve 🙂"))
        'naïve 🙂'
        """
        return self._engine.tokenizer.encode(_text("text", text), allow_special)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens spelt out; U+FFFD for what is no UTF-8.

        >>> StarChat.load().detokenize([])
        ''
        """
        ids = check_token_ids("token_ids", token_ids)
        return self._engine.tokenizer.decode(ids).decode("utf-8", "replace")

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits after each token, float32 (n_tokens, n_vocab), for evaluation.

        >>> model = StarChat.load()
        >>> model.logits(model.tokenize("import os")).shape[1] == model.info.n_vocab
        True
        """
        return self._engine.logits(check_token_ids("token_ids", token_ids))

    # ---- life -------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Return the engine's counters: steps, tokens, columns, running, waiting,
        kv_pages_used, prefix_pages, cached_tokens, guessed_tokens, accepted_tokens.

        They are of all who share the engine.

        >>> StarChat.load().stats()["waiting"]
        0
        """
        return self._engine.stats()

    def close(self) -> None:
        """Give the engine back; the last to do so ends its streams and frees its memory.

        >>> StarChat.load().close()
        """
        self._lease.release()

    def __enter__(self) -> StarChat:
        """Return the model."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the model."""
        self.close()

    def __repr__(self) -> str:
        """Return one line with what the model is."""
        return f"<StarChat {self.info}>"

    # ---- within -----------------------------------------------------------------------------

    @property
    def _engine(self) -> _core.Engine:
        return self._lease.engine

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate.find(self._engine.tokenizer)

    @cached_property
    def _end_ids(self) -> list[int]:
        found = [self._engine.tokenizer.find(token) for token in _END_TOKENS]
        return [id for id in found if id is not None]

    @cached_property
    def _fim_tokens(self) -> tuple[int, int, int]:
        find = self._engine.tokenizer.find
        for sign in "_-":  # StarCoder's and SantaCoder's spelling
            ids = [find(f"<fim{sign}{part}>") for part in ("prefix", "suffix", "middle")]
            found = [id for id in ids if id is not None]
            if len(found) == 3:
                return found[0], found[1], found[2]
        raise UnsupportedFeatureError(
            f"{self.info.file}: this vocabulary has no <fim_prefix>, <fim_suffix> and "
            "<fim_middle>: infill needs a StarCoder or SantaCoder file"
        )

    def _chat_prompt(self, messages: Messages) -> list[int]:
        tokenizer = self._engine.tokenizer
        return self._template.render(check_messages(messages), tokenizer)

    def _prompt(self, prompt: str | Sequence[int], allow_special: bool) -> Sequence[int]:
        if isinstance(prompt, str):
            return self._engine.tokenizer.encode(prompt, allow_special)
        return check_token_ids("prompt", prompt, "a string or a list of token ids")

    def _stream(
        self, prompt: Sequence[int], options: SamplingOptions, is_chat: bool = False
    ) -> Stream:
        params = SamplingParams.from_options(options)
        tokens = self._engine.submit(prompt, self._core_params(params, len(prompt)))
        return Stream(self._request(tokens, params, len(prompt), is_chat))

    def _astream(
        self, prompt: Sequence[int], options: SamplingOptions, is_chat: bool = False
    ) -> AsyncStream:
        params = SamplingParams.from_options(options)
        pump = shared_pump()
        key = pump.new_key()
        core_params = self._core_params(params, len(prompt))
        tokens = self._engine.submit(prompt, core_params, pump.queue, key)
        stream = AsyncStream(self._request(tokens, params, len(prompt), is_chat))
        pump.attach(key, stream)
        return stream

    def _request(
        self, tokens: _core.TokenStream, params: SamplingParams, n_prompt: int, is_chat: bool
    ) -> Request:
        text = TextStream(params.stop, drop_newline=is_chat)
        return Request(tokens, text, self._engine.tokenizer, n_prompt, owner=self._lease)

    def _core_params(self, params: SamplingParams, n_prompt: int) -> _core.SamplingParams:
        room = max(1, self.info.n_ctx - n_prompt)
        ends = [] if params.ignore_eos else self._end_ids
        return _core.SamplingParams(
            max_tokens=room if params.max_tokens is None else params.max_tokens,
            min_tokens=params.min_tokens,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            logit_bias=params.logit_bias,
            seed=_fresh_seed() if params.seed is None else params.seed,
            stop_token_ids=[*ends, *params.stop_token_ids],
            speculation=params.speculation,
            n_logprobs=-1 if params.logprobs is None else params.logprobs,
        )


def _fresh_seed() -> int:
    return int.from_bytes(os.urandom(8), "little") >> 1  # 63 bits


def _setting(name: str, value: Any, default: int = 0, least: int = 1) -> int:
    """Return a count for the engine, or `default`, which stands for its own choice."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequestError(
            f"{name}: expected an integer of at least {least}, or None, got {value!r}"
        )
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name}: expected a string, got {type(value).__name__}")
    return value
