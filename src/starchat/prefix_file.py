"""Files of computed prefixes, which StarChat.save_prefix writes and load_prefix reads.

header | token ids, int32 | pages of the KV cache | BLAKE2b of all before, 32 bytes

Little-endian. The header says which model and which arithmetic made the pages, and ends with a
checksum of its own. Refuses files that were altered or cut, and those of other models.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from . import _core
from .async_waker import in_own_thread
from .atomic_file import atomic_file, check_target
from .engine_registry import EngineHandle
from .errors import (
    ContextLengthError,
    CorruptFileError,
    FileAccessError,
    InvalidRequestError,
    UnsupportedFormatError,
    unexpected,
)
from .generation import Generation
from .partial_reply import PartialReply
from .progress import Report, check_progress, shown_progress
from .stream import AsyncStream
from .text_stream import TextStream

_MAGIC = b"starkv\r\n"
_VERSION = 1  # of this format
_HEADER = Struct("<8s4IQ32s")  # magic, then the fields of _Header
_SUM = 16  # bytes of the header's checksum
_DIGEST = 32
_AT_ONCE = 8 << 20  # bytes: the engine copies them in 2 ms, between two steps
_SAVE_AGAIN = "save it again with this model"
_MAKE_ROOM = "make room"


def _always() -> bool:
    return True


def check_path(path: object) -> str:
    """Return a path as text; raise InvalidRequestError for what is none."""
    try:
        return os.fsdecode(path)  # type: ignore[arg-type]
    except TypeError:
        raise unexpected("path", "a path", path) from None


class _Header(NamedTuple):
    """What a file says of its contents."""

    version: int
    sums: int  # the version of the order of sums, SUMS_VERSION
    page_tokens: int
    n_tokens: int
    page_bytes: int
    model: bytes  # the digest of its sample

    @property
    def n_pages(self) -> int:
        return self.n_tokens // self.page_tokens

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        head = _HEADER.size + _SUM
        return head + 4 * self.n_tokens + self.n_pages * self.page_bytes + _DIGEST

    def pack(self) -> bytes:
        packed = _HEADER.pack(_MAGIC, *self)
        return packed + _sum(packed)


def _sum(header: bytes) -> bytes:
    return blake2b(header, digest_size=_SUM).digest()


def _header(handle: EngineHandle, n_tokens: int) -> _Header:
    """Return the header of a prefix of so many tokens that this engine computes."""
    engine = handle.engine
    page_tokens, page_bytes = engine.info["kv_page_tokens"], engine.info["kv_page_bytes"]
    model = blake2b(engine.weights.sample(), digest_size=_DIGEST).digest()
    return _Header(_VERSION, _core.SUMS_VERSION, page_tokens, n_tokens, page_bytes, model)


class PrefixSaving(Generation):
    """One call of save_prefix(): a prompt without a reply, whose pages go to a file."""

    _prefix: _core.Prefix

    def __init__(
        self,
        handle: EngineHandle,
        prompt: Sequence[int],
        path: object,
        cache_salt: str | None,
        progress: object,
    ) -> None:
        """Look whether the file can be written, before the prefix is computed."""
        super().__init__(handle, prompt, {"cache_salt": cache_salt})
        self._path = check_path(path)
        self._progress = check_progress(progress)
        page_tokens = handle.engine.info["kv_page_tokens"]
        n_ids = len(prompt)
        n_tokens = n_ids // page_tokens * page_tokens
        if not n_tokens:
            problem = f"has {n_ids} tokens, expected at least {page_tokens}: only whole pages are "
            problem += "saved"
            raise InvalidRequestError.of("prefix", problem, limit=page_tokens, got=n_ids)
        self._header = _header(handle, n_tokens)
        check_target(self._path, self._header.size_bytes, param="path", remedy=_MAKE_ROOM)

    def run(self) -> int:
        """Compute and save the prefix; return the number of tokens that are saved."""
        with self._shown("computing") as self.report:
            self.stream().result()
        with self._shown("saving") as report:
            self._write(report)
        return self._header.n_tokens

    async def arun(self) -> int:
        """Do the same without blocking the event loop; cancelling the task leaves no file."""
        with self._shown("computing") as self.report:
            stream = AsyncStream()
            stream.read(self.submit())
            await stream.result()
        with self._shown("saving") as report:
            await in_own_thread(partial(self._write, report))
        return self._header.n_tokens

    def _shown(self, action: str) -> AbstractContextManager[Report | None]:
        return shown_progress(self._progress, self._path, action, "tokens")

    def _submit(
        self, ready: _core.ReadyQueue | None, keys: Sequence[int]
    ) -> Iterator[PartialReply]:
        engine, prompt = self.handle.engine, self.prompt
        tokens, self._prefix = engine.compute_prefix(prompt, ready, keys[0], self.cache_salt)
        yield PartialReply(tokens, TextStream(()), engine.tokenizer, len(prompt), self.handle)

    def _write(self, report: Report | None, is_wanted: Callable[[], bool] = _always) -> None:
        header = self._header
        digest = blake2b(digest_size=_DIGEST)
        n_bytes = header.size_bytes
        with atomic_file(self._path, n_bytes, param="path", remedy=_MAKE_ROOM) as out:

            def put(data: bytes) -> None:
                digest.update(data)
                out.write(data)

            put(header.pack())
            put(array("i", self.prompt[: header.n_tokens]).tobytes())
            for first, n_pages in _parts(header, report, is_wanted):
                put(self._prefix.read(first, n_pages))
            out.write(digest.digest())


def load_prefix(
    handle: EngineHandle,
    path: object,
    cache_salt: bytes | None,
    progress: object,
    is_wanted: Callable[[], bool] = _always,
) -> int:
    """Put a file's pages into the prefix cache; return the number of their tokens.

    cache_salt: of the prompts that find them; None pins them, for all prompts. They are there at
    the end, when all of the file was read and is as it was written.
    """
    path = check_path(path)
    report_to = shown_progress(check_progress(progress), path, "loading", "tokens")
    with _opened(path) as file, report_to as report:
        header = _read_header(file, path, handle)
        digest = blake2b(header.pack(), digest_size=_DIGEST)

        def take(n_bytes: int) -> bytes:
            data = file.read(n_bytes)
            if len(data) < n_bytes:
                raise _damaged(path, "it became shorter while it was read")
            digest.update(data)
            return data

        ids = array("i", take(4 * header.n_tokens))
        if min(ids) < 0 or max(ids) >= handle.engine.info["n_vocab"]:
            raise _damaged(path, "it has ids that the vocabulary lacks")
        prefix = handle.engine.new_prefix(ids)
        prefix.make_room()
        for _, n_pages in _parts(header, report, is_wanted):
            prefix.write(take(n_pages * header.page_bytes))
        if file.read(_DIGEST) != digest.digest():
            raise _damaged(path, "its contents were altered")
        prefix.add(cache_salt)
    return header.n_tokens


def _parts(
    header: _Header, report: Report | None, is_wanted: Callable[[], bool]
) -> Iterator[tuple[int, int]]:
    """Yield the first of some pages and their number, and report when they are done."""
    most = max(1, _AT_ONCE // header.page_bytes)
    for first in range(0, header.n_pages, most):
        if not is_wanted():
            raise _UnwantedError
        n_pages = min(most, header.n_pages - first)
        yield first, n_pages
        if report:
            report((first + n_pages) * header.page_tokens, header.n_tokens)


class _UnwantedError(Exception):
    """The task that waited for this was cancelled: nobody sees it."""


class _File:
    """An open file, whose errors name it."""

    def __init__(self, path: str, fd: int) -> None:
        self._path, self.fd = path, fd

    def read(self, n_bytes: int) -> bytes:
        """Return so many bytes, or all that are left."""
        try:
            pieces = []
            while n_bytes and (piece := os.read(self.fd, n_bytes)):
                pieces.append(piece)
                n_bytes -= len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except OSError as error:
            raise _unreadable(self._path, error) from None


@contextmanager
def _opened(path: str) -> Iterator[_File]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # a NUL in the name
        raise _unreadable(path, error) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileAccessError(f"{path}: expected a file of save_prefix()", param="path")
        yield _File(path, fd)
    finally:
        os.close(fd)


def _read_header(file: _File, path: str, handle: EngineHandle) -> _Header:
    """Return the header of a file that this engine can use."""
    start = file.read(_HEADER.size + _SUM)
    if not start.startswith(_MAGIC):
        problem = f"{path}: no file of save_prefix()"
        raise UnsupportedFormatError(problem, param="path")
    if len(start) < _HEADER.size + _SUM:
        raise _damaged(path, f"it is cut: {len(start)} bytes")
    packed, check = start[: _HEADER.size], start[_HEADER.size :]
    header = _Header(*_HEADER.unpack(packed)[1:])
    if header.version != _VERSION:
        raise _other(path, f"of format {header.version}, this version reads {_VERSION}")
    if check != _sum(packed):
        raise _damaged(path, "its header was altered")
    expected = _header(handle, header.n_tokens)
    if header.sums != expected.sums:
        problem = f"of arithmetic {header.sums}, this version has {expected.sums}"
        raise _other(path, f"{problem}, and would compute other bits")
    if header != expected:
        raise _other(path, "of another model, or of the same in another quantization")
    size = os.fstat(file.fd).st_size
    if not header.n_tokens or header.n_tokens % header.page_tokens:
        raise _damaged(path, f"it has {header.n_tokens:,} tokens, expected whole pages")
    if size != header.size_bytes:
        raise _damaged(path, f"it has {size:,} bytes, expected {header.size_bytes:,}")
    n_ctx = handle.engine.info["n_ctx"]
    if header.n_tokens > n_ctx:
        problem = f"{path}: has {header.n_tokens:,} tokens, the context holds {n_ctx:,}: load the "
        problem += "model with a larger n_ctx"
        raise ContextLengthError(problem, param="path", limit=n_ctx, got=header.n_tokens)
    return header


def _unreadable(path: str, error: Exception) -> FileAccessError:
    problem = getattr(error, "strerror", None) or error
    return FileAccessError(f"{path}: cannot be read: {problem}", param="path")


def _damaged(path: str, problem: str) -> CorruptFileError:
    return CorruptFileError(f"{path}: {problem}; {_SAVE_AGAIN}", param="path")


def _other(path: str, problem: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(f"{path}: {problem}; {_SAVE_AGAIN}", param="path")
