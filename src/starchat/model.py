"""StarChat: a loaded model, and everything that can be asked of it.

Checks what the caller says, turns it into token ids and returns the stream that generation.py
submits; chat, complete and infill read such a stream to its end.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from . import _core
from ._core.machine import free_memory
from .async_waker import in_own_thread, in_worker, running_loop
from .chat.framed_prompt import least_characters, read_prompt
from .chat.messages import check_begun, check_messages
from .chat.template import STARCHAT
from .chat.tools import Toolbox
from .checks import (
    check_allow_special,
    check_flag,
    check_salt,
    check_token_ids,
    token_id_slices,
)
from .embedding import EmbeddingJob
from .engine_registry import EngineHandle, EngineSettings, acquire_engine
from .errors import FileAccessError, InvalidRequestError
from .generation import Generation, Scoring, astream
from .infill import infill_prompt
from .limits import Limits
from .model_path import model_path
from .prefix_file import PrefixSaving, load_prefix
from .progress import check_progress, shown_progress
from .prompt_room import PromptRoom
from .request_size import is_small
from .sampling import ChatOptions, ReplyOptions
from .stream import AsyncStream, Stream
from .types import Completion, MemoryUse, Messages, ModelInfo, TokenLogprob

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

EMBEDDED = os.path.join(os.path.dirname(__file__), "models", "starchat-nano.q8_0.bin")


class StarChat:
    """A model in memory. Any number of threads and tasks may ask it at the same time.

    Keywords of the generating methods are the fields of SamplingParams, and at most one constraint:
    json_schema (a dict, or True for any object), regex, grammar (Lark or GBNF), or choice (a list
    of strings); docs/constraints.md has the details. n is a number of replies to one prompt, and
    prompt_progress a function that is told how far the prompt is (ReplyOptions). They raise
    InvalidRequestError for a message, token or parameter that cannot be served, ConstraintError for
    a constraint, UnsupportedFeatureError where llguidance is missing for it, ContextLengthError for
    a prompt that does not fit, EngineClosedError after close(), ForkError in a forked child, and
    NumericalError where the file's weights are broken.

    Lone surrogates in a text, which have no UTF-8, are encoded as their three bytes.

    >>> with StarChat.load() as model:
    ...     model.complete("def add(a, b):", max_tokens=8, ignore_eos=True).finish_reason
    'length'
    """

    info: ModelInfo
    _handle: EngineHandle

    def __init__(self, *path: object, **settings: object) -> None:
        """Use StarChat.load() instead."""
        raise InvalidRequestError("StarChat(...) loads nothing; use StarChat.load(path)")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        draft: str | os.PathLike[str] | None = None,
        n_threads: int | None = None,
        n_ctx: int | None = None,
        prefix_cache_bytes: int | None = None,
        share_weights: bool = True,
        limits: Limits | Mapping[str, Any] | None = None,
        check_memory: bool = True,
        gpu_layers: int | Literal["auto"] | None = None,
        device: str | None = None,
        progress: Callable[[int, int], None] | Literal[False] | None = None,
    ) -> StarChat:
        """Return the model in a file or folder, or the embedded one without a path.

        path: a ggml or GGUF file of the architecture `starcoder`; a folder of Hugging Face, with
        safetensors or PyTorch files, or GPTQ, whose tensors keep their values; or, where no such
        path exists, a name of Hugging Face, as "owner/repo:q4_0" (docs/models.md has the forms). A
        model that was never pulled is fetched first, which takes as long as its gigabytes do; with
        HF_HUB_OFFLINE=1 it is an error.
        draft: a smaller model of the same family, which guesses ahead, in the forms of `path`. No
        token changes; replies come sooner where it guesses well (docs/speculation.md).
        n_threads: of the computation, by default one for each physical core.
        n_ctx: tokens that prompt and reply may have together, by default what the file says.
        prefix_cache_bytes: of the cache of finished prompts and replies, which saves computing the
        same beginning again; by default as much as one whole context takes, 0 is no cache.
        share_weights: with the other processes of this user on Linux, so that a file's weights are
        in memory once for all (docs/architecture.md has the price). Within a process, they are in
        any case, whatever the settings.
        limits: what a request may take, where several people share the model (docs/sharing.md).
        check_memory: raise OutOfMemoryError before weights are read where they, one reply that
        fills the context and the prefix cache need more memory than is free. False loads the model
        nevertheless, and the system may end the process (docs/memory.md).
        gpu_layers: how many of the last layers a GPU computes, and the output with them: "auto" is
        as many as fit into its memory, none where no GPU is there; -1 is all. None is
        STARCHAT_GPU_LAYERS of the environment, or 0. A device gives the same bits as the CPU, or is
        refused (docs/gpu.md).
        device: which GPU, as `starchat devices` lists them: its number, as "vulkan:1", or a part of
        its name. None is STARCHAT_DEVICE of the environment, or the best one.
        progress: None shows a bar on stderr when loading takes long and stderr is a terminal;
        False shows nothing; a function is called with done and total bytes, of fetching and then
        of loading; of the draft first.

        Raises FileAccessError, UnsupportedFormatError or CorruptFileError for a file that cannot
        be used, DownloadError for one that cannot be fetched now, OutOfMemoryError,
        UnsupportedFeatureError where there is no such GPU, and InvalidRequestError for wrong
        settings and for a draft of another family.

        >>> StarChat.load(n_ctx=512).info.n_ctx
        512
        """
        file = EMBEDDED
        if path is None and not os.path.exists(file):
            problem = f"{file}: this installation lacks the embedded model; give a path"
            raise FileAccessError(problem, param="path")
        check_progress(progress)
        settings = EngineSettings.check(n_threads, n_ctx, prefix_cache_bytes, gpu_layers, device)
        share = check_flag("share_weights", share_weights)
        bounds = Limits.check(limits)
        check = check_flag("check_memory", check_memory)
        draft_file = None if draft is None else _draft_path(draft, progress)
        if path is not None:
            file = model_path(path, progress)
        with shown_progress(progress, file) as report:
            model = object.__new__(cls)
            model._handle = acquire_engine(file, settings, report, share, bounds, check, draft_file)
            about = model._handle.engine.info | {"draft": draft_file}
            model.info = ModelInfo(**{f.name: about[f.name] for f in fields(ModelInfo)})
            return model

    # ---- dialogue ---------------------------------------------------------------------------

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> Completion:
        """Return the assistant's next reply in a dialogue.

        tools, tool_choice and parallel_tool_calls let it call tools (docs/tools.md); a call and
        its result go back as messages. Of the constraints, only json_schema may stand beside
        tools: the reply is then calls, or JSON.

        With continue_final_message, the reply goes on with the assistant's message at the end, and
        has only what follows; by default, such a message is followed by another turn. A constraint
        holds for what follows.

        Raises UnsupportedFeatureError where the vocabulary has no role tokens.

        >>> model = StarChat.load()
        >>> question = {"role": "user", "content": "How do I sort a list in Python?"}
        >>> model.chat([question], temperature=0).text
        "You can sort a list in Python..."
        >>> model.chat([question], regex="Hello!{2}").text
        'Hello!!'
        >>> question = [{"role": "user", "content": "What time is it?"}]
        >>> reply = model.chat(question, tools=[{"name": "now"}], tool_choice="now", max_tokens=40)
        >>> reply.tool_calls[0].name, reply.tool_calls[0].arguments
        ('now', {})
        """
        return self.stream_chat(messages, **options).result()

    def stream_chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> Stream:
        """Return the assistant's next reply as it is written; errors are raised by this call.

        >>> dialogue = [{"role": "user", "content": "Hello"}]
        >>> for chunk in StarChat.load().stream_chat(dialogue, temperature=0):
        ...     print(chunk.text, end="", flush=True)
        Hello...
        """
        return self._chat(messages, options).stream()

    async def achat(self, messages: Messages, **options: Unpack[ChatOptions]) -> Completion:
        """Return the assistant's next reply; cancelling the task ends it. Raises what chat() does.

        >>> import asyncio
        >>> dialogue = [{"role": "user", "content": "Hello"}]
        >>> asyncio.run(StarChat.load().achat(dialogue, temperature=0)).text
        'Hello...'
        """
        return await self.astream_chat(messages, **options).result()

    def astream_chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> AsyncStream:
        """Return the assistant's next reply as it is written, for `async for`; not a coroutine.

        This call raises what is wrong with a short request without tools and constraints. Others
        are prepared in a thread, so that the event loop goes on: `await stream.submitted()` or the
        first chunk raises what is wrong with them, with the class and text that chat() raises.
        Leave what was given unchanged until then.

        >>> import asyncio
        >>> async def answer(dialogue):
        ...     async for chunk in StarChat.load().astream_chat(dialogue, temperature=0):
        ...         print(chunk.text, end="", flush=True)
        >>> asyncio.run(answer([{"role": "user", "content": "Hello"}]))
        Hello...
        """
        return astream(partial(self._chat, messages, options), options, messages)

    def count_tokens(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> int:
        """Return how many tokens a dialogue takes as a prompt, its frame and tools included.

        Counts parts of a dialogue too, in any order: results may lack their calls. Raises
        InvalidRequestError beyond `Limits.text_characters`.

        >>> StarChat.load().count_tokens([{"role": "user", "content": "Hello"}]) > 8
        True
        """
        limits = self._handle.limits
        toolbox = Toolbox.check(tools, bounds=limits)
        room = PromptRoom("messages", limits)
        return STARCHAT.count_tokens(messages, toolbox, self._engine.tokenizer, room)

    def render(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        continue_final_message: bool = False,
    ) -> str:
        r"""Return the prompt of a dialogue as text, for people: each control token as «token».

        The same name without these marks is text, which cannot act as the token.

        >>> StarChat.load().render([{"role": "user", "content": "Say <|end|>"}])
        '«<|system|>»\n«<|end|>»\n«<|user|>»\nSay <|end|>«<|end|>»\n«<|assistant|>»'
        """
        options = {"continue_final_message": continue_final_message}
        ids = self._chat_prompt(messages, Toolbox.check(tools, bounds=self._handle.limits), options)
        return STARCHAT.marked(ids, self._engine.tokenizer)

    # ---- raw text ---------------------------------------------------------------------------

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        allow_special: bool | Sequence[str] | None = None,
        leading_text: bool = False,
        **options: Unpack[ReplyOptions],
    ) -> Completion:
        """Return how a text, or a list of token ids, goes on.

        Control tokens that are spelt out in the text count where the text is framed by them, as a
        dialogue or for infilling; elsewhere they are plain text, and a ControlTokenWarning says
        so. `allow_special` decides it outright: all (True), none (False), or a list of names.
        With `leading_text`, a dialogue that ends with <|assistant|> may have text before its first
        token.
        Other people's text goes into such a prompt by `starchat.escape`. docs/prompts.md has the
        rules.

        >>> prompt = "You can sort a list in Python by"
        >>> StarChat.load().complete(prompt, max_tokens=8, temperature=0).text
        ' using the sort() method...'
        """
        return self.stream_complete(
            prompt, allow_special=allow_special, leading_text=leading_text, **options
        ).result()

    def stream_complete(
        self,
        prompt: str | Sequence[int],
        *,
        allow_special: bool | Sequence[str] | None = None,
        leading_text: bool = False,
        **options: Unpack[ReplyOptions],
    ) -> Stream:
        """Return how a text goes on, as it is written; errors are raised by this call.

        >>> stream = StarChat.load().stream_complete("a = ", max_tokens=8, ignore_eos=True)
        >>> sum(len(chunk.token_ids) for chunk in stream)
        8
        """
        return self._complete(prompt, allow_special, leading_text, options).stream()

    async def acomplete(
        self,
        prompt: str | Sequence[int],
        *,
        allow_special: bool | Sequence[str] | None = None,
        leading_text: bool = False,
        **options: Unpack[ReplyOptions],
    ) -> Completion:
        """Return how a text goes on; cancelling the task ends it.

        >>> import asyncio
        >>> model = StarChat.load()
        >>> prompt = "You can sort a list in Python by"
        >>> asyncio.run(model.acomplete(prompt, max_tokens=8, temperature=0)).text
        ' using the sort() method...'
        """
        stream = self.astream_complete(
            prompt, allow_special=allow_special, leading_text=leading_text, **options
        )
        return await stream.result()

    def astream_complete(
        self,
        prompt: str | Sequence[int],
        *,
        allow_special: bool | Sequence[str] | None = None,
        leading_text: bool = False,
        **options: Unpack[ReplyOptions],
    ) -> AsyncStream:
        """Return how a text goes on, as it is written, for `async for`; errors as astream_chat.

        >>> import asyncio
        >>> async def n_tokens(prompt):
        ...     stream = StarChat.load().astream_complete(prompt, max_tokens=8, ignore_eos=True)
        ...     return sum([len(chunk.token_ids) async for chunk in stream])
        >>> asyncio.run(n_tokens("def add(a, b):"))
        8
        """
        complete = partial(self._complete, prompt, allow_special, leading_text, options)
        return astream(complete, options, prompt, allow_special)

    # ---- the middle of a text ---------------------------------------------------------------

    def infill(self, prefix: str, suffix: str, **options: Unpack[ReplyOptions]) -> Completion:
        r"""Return what belongs between two texts (Bavarian et al. 2022, prefix-suffix-middle).

        Raises UnsupportedFeatureError where the vocabulary has no tokens for it, as the embedded
        model's.

        >>> starcoder = StarChat.load("starcoder-q4_0.bin")  # doctest: +SKIP
        >>> starcoder.infill("def add(a, b):\n    return ", "\n").text  # doctest: +SKIP
        'a + b'
        """
        return self.stream_infill(prefix, suffix, **options).result()

    def stream_infill(self, prefix: str, suffix: str, **options: Unpack[ReplyOptions]) -> Stream:
        r"""Return what belongs between two texts, as it is written; errors as those of infill.

        >>> for chunk in starcoder.stream_infill("def add(a, b):", "\n"):  # doctest: +SKIP
        ...     print(chunk.text, end="", flush=True)
        """
        return self._infill(prefix, suffix, options).stream()

    async def ainfill(
        self, prefix: str, suffix: str, **options: Unpack[ReplyOptions]
    ) -> Completion:
        r"""Return what belongs between two texts; cancelling the task ends it.

        >>> await starcoder.ainfill("def add(a, b):", "\n")  # doctest: +SKIP
        """
        return await self.astream_infill(prefix, suffix, **options).result()

    def astream_infill(
        self, prefix: str, suffix: str, **options: Unpack[ReplyOptions]
    ) -> AsyncStream:
        r"""Return what belongs between two texts, for `async for`; errors as astream_chat.

        >>> async for chunk in starcoder.astream_infill("def add(a, b):", "\n"):  # doctest: +SKIP
        ...     print(chunk.text, end="", flush=True)
        """
        return astream(partial(self._infill, prefix, suffix, options), options, prefix, suffix)

    # ---- tokens -----------------------------------------------------------------------------

    def tokenize(self, text: str, allow_special: bool | Sequence[str] = False) -> list[int]:
        """Return the token ids of a text; control tokens in it only count if `allow_special`.

        A list allows those that it names, and no others.

        >>> model = StarChat.load()
        >>> model.detokenize(model.tokenize("naïve 🙂"))
        'naïve 🙂'
        """
        allowed = check_allow_special(allow_special)
        return self._engine.tokenizer.encode(_text("text", text), allowed)

    def tokenize_prompt(
        self,
        prompt: str,
        allow_special: bool | Sequence[str] | None = None,
        *,
        leading_text: bool = False,
    ) -> list[int]:
        r"""Return the token ids that `complete` makes of a prompt: its frame decides, see there.

        Raises InvalidRequestError beyond `Limits.text_characters`.

        >>> model = StarChat.load()
        >>> prompt = "<|system|>\n<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>"
        >>> len(model.tokenize_prompt(prompt)) < len(model.tokenize(prompt))
        True
        """
        allowed = None if allow_special is None else check_allow_special(allow_special)
        may_lead = check_flag("leading_text", leading_text)
        PromptRoom("prompt", self._handle.limits).take(len(_text("prompt", prompt)))
        return read_prompt(prompt, allowed, self._engine.tokenizer, may_lead)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens spelt out; U+FFFD for what is no UTF-8.

        Raises InvalidRequestError for wrong ids, and beyond `Limits.text_characters`.

        >>> StarChat.load().detokenize([])
        ''
        """
        tokenizer = self._engine.tokenizer
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        room = PromptRoom("token_ids", self._handle.limits)
        pieces = []
        for some in token_id_slices("token_ids", token_ids):
            pieces.append(decoder.decode(tokenizer.decode(some)))
            room.take(len(pieces[-1]))
        return "".join([*pieces, decoder.decode(b"", final=True)])

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits after each token, float32 (n_tokens, n_vocab), for evaluation.

        >>> model = StarChat.load()
        >>> model.logits(model.tokenize("import os")).shape[1] == model.info.n_vocab
        True
        """
        self._room("token_ids").check_list(token_ids)
        ids = check_token_ids("token_ids", token_ids)
        try:
            return self._engine.logits(ids)
        except InvalidRequestError as error:  # the core knows them as a prompt
            error.param = (error.param or "").replace("prompt", "token_ids")
            raise

    def score(
        self,
        prompt: str | Sequence[int],
        *,
        logprobs: int = 0,
        allow_special: bool | Sequence[str] | None = None,
        leading_text: bool = False,
        prompt_progress: Callable[[int, int], object] | None = None,
        cache_salt: str | None = None,
    ) -> tuple[TokenLogprob, ...]:
        """Return how likely each token of a prompt is, behind those before it.

        There is an entry for each token but the first, which nothing predicts, and in each the best
        `logprobs` tokens of its place. The prompt is read as `complete` reads it, and computed as
        that of a reply, beside other requests; a reply to it then finds it in the prefix cache.
        prompt_progress and cache_salt as in ReplyOptions.

        >>> last = StarChat.load().score("You can sort a list in Python", logprobs=2)[-1]
        >>> last.token, round(last.logprob, 1), last.best[0].token
        (' Python', -0.1, ' Python')
        """
        how = {"logprobs": logprobs, "prompt_progress": prompt_progress, "cache_salt": cache_salt}
        return self._score(prompt, allow_special, leading_text, how).stream().result().logprobs

    async def ascore(
        self,
        prompt: str | Sequence[int],
        *,
        logprobs: int = 0,
        allow_special: bool | Sequence[str] | None = None,
        leading_text: bool = False,
        prompt_progress: Callable[[int, int], object] | None = None,
        cache_salt: str | None = None,
    ) -> tuple[TokenLogprob, ...]:
        """Return what score() returns, without blocking the event loop; cancelling ends it.

        >>> import asyncio
        >>> len(asyncio.run(StarChat.load().ascore([1, 2, 3])))
        2
        """
        how = {"logprobs": logprobs, "prompt_progress": prompt_progress, "cache_salt": cache_salt}
        score = partial(self._score, prompt, allow_special, leading_text, how)
        return (await astream(score, how, prompt, allow_special).result()).logprobs

    # ---- prefixes ---------------------------------------------------------------------------

    def save_prefix(
        self,
        prefix: Messages | str | Sequence[int],
        path: str | os.PathLike[str],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        allow_special: bool | Sequence[str] | None = None,
        leading_text: bool = False,
        cache_salt: str | None = None,
        progress: Callable[[int, int], object] | Literal[False] | None = None,
    ) -> int:
        """Compute the beginning of later prompts and save it; return the tokens that are saved.

        prefix: messages with which later dialogues begin, as they are given to `chat`; or the
        beginning of raw prompts, which is read as `complete` reads a prompt.
        path: of the file, which gets its name when it is complete. It has the prompt's tokens too.
        tools: of the dialogues, as they stand behind the system message.
        cache_salt: of the prefix cache, from which comes what is computed already.
        progress: None shows a bar on stderr when it takes long and stderr is a terminal; False
        shows nothing; a function is called with done and total tokens, of computing and then of
        writing.

        Only whole pages of 32 tokens are saved; the rest is computed again by each prompt. Raises
        FileAccessError for a file that cannot be written, InvalidRequestError for a prefix below
        one page, and what `chat` and `complete` raise. docs/prefixes.md has the details.

        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "prefix.kv")
        >>> rules = [{"role": "system", "content": "Answer in rhymes. " * 20}]
        >>> with StarChat.load() as model:
        ...     n_saved = model.save_prefix(rules, path)
        >>> with StarChat.load() as model:
        ...     n_loaded = model.load_prefix(path)
        ...     rules.append({"role": "user", "content": "Hello"})
        ...     usage = model.chat(rules, max_tokens=4).usage
        >>> n_saved == n_loaded == usage.cached_tokens
        True
        """
        return self._saving(
            prefix, path, tools, allow_special, leading_text, cache_salt, progress
        ).run()

    async def asave_prefix(
        self,
        prefix: Messages | str | Sequence[int],
        path: str | os.PathLike[str],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        allow_special: bool | Sequence[str] | None = None,
        leading_text: bool = False,
        cache_salt: str | None = None,
        progress: Callable[[int, int], object] | Literal[False] | None = None,
    ) -> int:
        """Do what save_prefix() does, without blocking the event loop.

        Cancelling the task ends it and leaves no file. `progress` is called in the event loop, and
        in a thread while the file is written.

        >>> await model.asave_prefix(rules, "rules.kv")  # doctest: +SKIP
        """
        running_loop()  # raises outside asyncio
        prepared = partial(
            self._saving, prefix, path, tools, allow_special, leading_text, cache_salt, progress
        )
        return await (await in_worker(prepared)).arun()

    def load_prefix(
        self,
        path: str | os.PathLike[str],
        *,
        cache_salt: str | None = None,
        pin: bool = False,
        progress: Callable[[int, int], object] | Literal[False] | None = None,
    ) -> int:
        """Put a file of save_prefix() into the prefix cache; return the number of its tokens.

        A prompt that begins with these tokens then has the same reply, bit for bit, as if they had
        been computed.

        cache_salt: of the prompts that find them, whatever salt they were saved with.
        pin: they stay until the engine is closed, for prompts of every salt; by default they are
        dropped when the cache is full and they were used least recently.
        progress: as that of save_prefix(), of loading.

        Raises FileAccessError for a file that cannot be read, CorruptFileError where it was cut or
        altered, UnsupportedFormatError for one of another model or version, ContextLengthError
        where the context is smaller, and InvalidRequestError where the prefix cache is.

        >>> model.load_prefix("rules.kv", pin=True)  # doctest: +SKIP
        """
        return load_prefix(self._handle, path, _tree(cache_salt, pin), progress)

    async def aload_prefix(
        self,
        path: str | os.PathLike[str],
        *,
        cache_salt: str | None = None,
        pin: bool = False,
        progress: Callable[[int, int], object] | Literal[False] | None = None,
    ) -> int:
        """Do what load_prefix() does, without blocking the event loop; cancelling ends it.

        `progress` is called in a thread.

        >>> await model.aload_prefix("rules.kv")  # doctest: +SKIP
        """
        running_loop()  # raises outside asyncio
        return await in_own_thread(
            partial(load_prefix, self._handle, path, _tree(cache_salt, pin), progress)
        )

    # ---- vectors ----------------------------------------------------------------------------

    def embed(
        self, texts: str | Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return a vector of length 1 for each text, float32 (n_texts, n_embd).

        It is the mean of the final hidden states of the text's tokens: every one of them, as
        control tokens are plain text here and nothing is added. A vector has the same bits whatever
        else is computed. progress is called with done and total texts. docs/embeddings.md says
        what these vectors are worth.

        Raises InvalidRequestError for a text that is empty or no string, ContextLengthError for
        one that is longer than the context; then nothing is computed.

        >>> model = StarChat.load()
        >>> model.embed(["sort a list", "open a socket"]).shape == (2, model.info.n_embd)
        True
        """
        return EmbeddingJob(texts, self._handle, self.info, progress).run()

    async def aembed(
        self, texts: str | Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return what embed() returns, without blocking the event loop; cancelling ends it.

        >>> import asyncio
        >>> asyncio.run(StarChat.load().aembed("sort a list")).shape[0]
        1
        """
        return await (await self._embedding(texts, progress)).arun()

    async def _embedding(
        self, texts: str | Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> EmbeddingJob:
        """Check and read texts to embed; in a worker where that takes long."""
        running_loop()  # raises outside asyncio
        prepared = partial(EmbeddingJob, texts, self._handle, self.info, progress)
        return prepared() if is_small(texts) else await in_worker(prepared)

    # ---- life -------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Return the counters of the engine, which every user of the same file shares.

        Since its start: steps (batches), columns (positions computed), tokens of replies,
        cached_tokens of prompts, guessed_tokens, accepted_tokens of these, drafted_tokens of the
        guessed ones and accepted_drafts, which are a draft model's, draft_columns that it computed,
        forced_tokens, for which a constraint left no choice, slow_turns of constraints, which went
        on beside the steps, and abandoned replies, whose constraint did not come back. Now: running
        and waiting sequences, kv_pages_used by them, and prefix_pages of the prefix cache. kv_pages
        is how many memory was ever taken for, kv_pages_spare those that nothing holds now;
        draft_pages, draft_pages_spare and draft_prefix_pages are those of a draft model.

        >>> StarChat.load().stats()["waiting"]
        0
        """
        return self._engine.stats()

    def memory(self) -> MemoryUse:
        """Return what the model takes of memory now, and what is left (docs/memory.md).

        Reads files of the system, which takes 0.1 ms or more.

        >>> memory = StarChat.load().memory()
        >>> memory.available_bytes is None or memory.available_bytes > memory.bytes_of(1000)
        True
        """
        about, stats, free = self._engine.info, self._engine.stats(), free_memory()
        page_bytes, draft_bytes = about["kv_page_bytes"], about["draft_page_bytes"]

        def of_both(pages: str, draft_pages: str) -> int:
            return int(stats[pages] * page_bytes + stats[draft_pages] * draft_bytes)

        spare_bytes = of_both("kv_pages_spare", "draft_pages_spare")
        return MemoryUse(
            weight_bytes=about["weight_bytes"] + about["draft_weight_bytes"],
            kv_page_bytes=page_bytes + draft_bytes,
            kv_page_tokens=about["kv_page_tokens"],
            kv_bytes=of_both("kv_pages", "draft_pages") - spare_bytes,
            prefix_bytes=of_both("prefix_pages", "draft_prefix_pages"),
            spare_bytes=spare_bytes,
            free_bytes=free[0] if free else None,
        )

    def close(self) -> None:
        """Release the engine; when its last user does so, its streams end and its memory is free.

        >>> StarChat.load().close()
        """
        self._handle.release()

    def __enter__(self) -> StarChat:
        """Return the model."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the model."""
        self.close()

    def __repr__(self) -> str:
        """Return one line with what the model is."""
        return f"<StarChat {self.info}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise TypeError(
            "a loaded model cannot be copied or pickled: keep a starchat.Loader, which can, and "
            "loads where it is used"
        )

    # ---- internals -----------------------------------------------------------------------------

    def _chat(self, messages: Messages, options: Mapping[str, Any]) -> Generation:
        tools = Toolbox.from_options(options, self._handle.limits)
        prompt = self._chat_prompt(messages, tools, options)
        # Here, as the core would take a copy before it looks at the length.
        self._room("messages", "prompt").check_list(prompt)
        return Generation(self._handle, prompt, options, tools)

    def _complete(
        self,
        prompt: str | Sequence[int],
        allow_special: bool | Sequence[str] | None,
        leading_text: bool,
        options: Mapping[str, Any],
    ) -> Generation:
        return Generation(self._handle, self._prompt(prompt, allow_special, leading_text), options)

    def _score(
        self,
        prompt: str | Sequence[int],
        allow_special: bool | Sequence[str] | None,
        leading_text: bool,
        options: Mapping[str, Any],
    ) -> Scoring:
        return Scoring(self._handle, self._prompt(prompt, allow_special, leading_text), options)

    def _saving(
        self,
        prefix: Messages | str | Sequence[int],
        path: object,
        tools: Sequence[Mapping[str, Any]] | None,
        allow_special: bool | Sequence[str] | None,
        leading_text: bool,
        cache_salt: str | None,
        progress: object,
    ) -> PrefixSaving:
        is_raw = isinstance(prefix, str) or (
            isinstance(prefix, Sequence) and prefix and not isinstance(prefix[0], Mapping)
        )
        ids: Sequence[int]
        if is_raw:
            if tools is not None:
                raise InvalidRequestError.of("tools", "expected messages beside them, got a text")
            raw = cast("str | Sequence[int]", prefix)
            ids = self._prompt(raw, allow_special, leading_text)
        else:
            toolbox = Toolbox.check(tools, bounds=self._handle.limits)
            # Without the role of a reply: other turns may follow.
            ids = self._chat_prompt(cast("Messages", prefix), toolbox)[:-1]
        return PrefixSaving(self._handle, ids, path, cache_salt, progress)

    def _infill(self, prefix: str, suffix: str, options: Mapping[str, Any]) -> Generation:
        texts = _text("prefix", prefix), _text("suffix", suffix)
        room = self._room("prompt")
        room.take(len(prefix) + len(suffix), 3)
        prompt = infill_prompt(*texts, self._engine.tokenizer, os.path.basename(self.info.file))
        room.check_list(prompt)
        return Generation(self._handle, prompt, options)

    @property
    def _engine(self) -> _core.Engine:
        return self._handle.engine

    def _room(self, param: str, name: str = "") -> PromptRoom:
        tokenizer, limits = self._engine.tokenizer, self._handle.limits
        return PromptRoom(param, limits, tokenizer, self.info.n_ctx, name)

    def _chat_prompt(
        self, messages: Messages, tools: Toolbox, options: Mapping[str, Any] | None = None
    ) -> list[int]:
        options = options or {}
        turns = check_messages(messages, tools, room=self._room("messages", "prompt"))
        begun = options.get("continue_final_message")
        goes_on = begun is not None and check_flag("continue_final_message", begun)
        if goes_on:
            check_begun(messages, tools, options.get("json_schema"))
        return STARCHAT.render(turns, self._engine.tokenizer, goes_on=goes_on)

    def _prompt(
        self,
        prompt: str | Sequence[int],
        allow_special: bool | Sequence[str] | None,
        leading_text: bool,
    ) -> Sequence[int]:
        room = self._room("prompt")
        if isinstance(prompt, str):
            room.take(least_characters(prompt))
            ids = self.tokenize_prompt(prompt, allow_special, leading_text=leading_text)
            room.check_list(ids)
            return ids
        if allow_special is not None:
            check_allow_special(allow_special)
        check_flag("leading_text", leading_text)
        room.check_list(prompt)
        return check_token_ids("prompt", prompt, "a string or a list of token ids")


def _draft_path(path: Any, progress: Callable[[int, int], None] | Literal[False] | None) -> str:
    try:
        return model_path(path, progress)
    except (FileAccessError, InvalidRequestError) as error:
        if error.param == "path":
            error.args, error.param = (f"draft: {error}",), "draft"
        raise


def _tree(cache_salt: object, pin: object) -> bytes | None:
    """Return the digest of a salt; None for what is pinned, which no salt separates."""
    salt = check_salt("cache_salt", cache_salt)
    if not check_flag("pin", pin):
        return salt
    if salt:
        problem = "expected None beside pin=True, which is for prompts of every salt"
        raise InvalidRequestError.of("cache_salt", problem)
    return None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        kind = type(value).__name__
        raise InvalidRequestError.of(name, f"expected a string, got {kind}", got=kind)
    return value
