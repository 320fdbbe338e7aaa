"""The bytes of one file by HTTP: resumed in a later process, and checked before they get a name.

Reads kept bytes again for their checksum, asks for the rest (Range), and follows redirects without
the token. Raises where the server refuses, the disk is full, or other bytes came than announced.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..errors import CorruptFileError, DownloadError, FileAccessError, UnsupportedFormatError
from .files import RepoFile
from .names import HubName
from .remote import refusal
from .retries import Retries, asked_wait

CHUNK_BYTES = 1 << 20
STALL_S = 30.0  # without a byte, before the connection is made anew
HEAD_BYTES = 1 << 16  # enough to see which architecture a GGUF file has
SYNC_BYTES = 256 << 20  # so that the last sync is short

# In a GGUF file: the key, 8 for a string, its length and its bytes.
_ARCHITECTURE = re.compile(
    rb"^GGUF.*?general\.architecture\x08\0\0\0([\x01-\x40])\0{7}([ -~]{1,64})", re.DOTALL
)


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Restart(Exception):
    """The kept bytes are not the beginning of what the server has."""


def download(
    file: RepoFile,
    url: str,
    headers: Mapping[str, str],
    part: Path,
    name: HubName,
    retries: Retries,
    report: Callable[[int], None],
) -> None:
    """Make `part` the whole file; what it has already is kept. `report` is told its bytes."""
    try:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _Download(fd, file, url, headers, name, retries, report).run()
            os.fsync(fd)
        except (CorruptFileError, UnsupportedFormatError):
            part.unlink()
            raise
        finally:
            os.close(fd)
    except OSError as error:
        if isinstance(error, (FileAccessError, DownloadError)):
            raise
        remedy = "cannot be written"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full; what came is kept: make room, and pull again"
        raise FileAccessError(
            f"{part}: {remedy}: {error.strerror or error}", param="path"
        ) from None


class _Download:
    def __init__(
        self,
        fd: int,
        file: RepoFile,
        url: str,
        headers: Mapping[str, str],
        name: HubName,
        retries: Retries,
        report: Callable[[int], None],
    ) -> None:
        assert file.size is not None
        self._fd = fd
        self._file = file
        self._size = file.size
        self._url = url
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._name = name
        self._where = f"{name.repo}/{file.path}"
        self._retries = retries
        self._report = report
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=_trust()), _Redirects()
        )
        self._hash = self._new_hash()
        self._n_bytes = 0
        self._furthest = 0
        self._is_resumed = False
        self._is_recognized = not file.path.lower().endswith(".gguf")

    def run(self) -> None:
        self._read_kept()
        while True:
            try:
                while self._n_bytes < self._size:
                    self._request()
                self._recognize()
                if self._is_whole():
                    return
                if not self._is_resumed:
                    raise CorruptFileError(
                        f"{self._where}: the checksum of its {self._size:,} bytes is not the one "
                        "that the hub names; they were removed: pull again, or tell its owner",
                        param="path",
                    )
                raise _Restart
            except _Restart:
                self._start_again()

    def _new_hash(self) -> _Hash | None:
        if self._file.sha256:
            return hashlib.sha256()
        if self._file.git_oid:  # of a small file, as git names it
            return hashlib.sha1(b"blob %d\0" % self._size, usedforsecurity=False)
        return None

    def _is_whole(self) -> bool:
        expected = self._file.sha256 or self._file.git_oid
        return self._hash is None or self._hash.hexdigest() == expected

    def _start_again(self) -> None:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._n_bytes = 0
        self._hash = self._new_hash()
        self._is_resumed = False
        self._report(0)

    def _read_kept(self) -> None:
        """Take over what an earlier process left."""
        kept = os.fstat(self._fd).st_size
        if kept > self._size or self._hash is None:  # what cannot be checked is not trusted
            return self._start_again()
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while count := os.readv(self._fd, [buffer]):
            self._retries.check_wanted()
            self._hash.update(buffer[:count])
            self._n_bytes += count
            self._report(self._n_bytes)
        self._furthest = self._n_bytes
        self._is_resumed = self._n_bytes > 0

    def _request(self) -> None:
        """Ask for the rest once, and take what comes; wait where that was not all."""
        headers = dict(self._headers)
        if self._n_bytes:
            headers["Range"] = f"bytes={self._n_bytes}-"
        try:
            request = urllib.request.Request(self._url, headers=headers)
            with self._opener.open(request, timeout=STALL_S) as answer:
                self._check(answer)
                self._is_resumed = self._n_bytes > 0
                self._take(answer)
            problem = f"{self._where}: the connection was cut"
            after_s = None
        except urllib.error.HTTPError as error:
            with error:
                if error.code // 100 == 3:
                    text = str(error.reason).partition("\n")[0]
                    raise DownloadError(f"{self._where}: {text}", param="path") from None
                if error.code == 416 and self._n_bytes:
                    raise _Restart from None
                if refused := refusal(error.code, error.headers, self._name, self._file.path):
                    raise refused from None
                problem = f"{self._where}: the server answers {error.code}"
                after_s = asked_wait(error.headers)
        except _Written:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, (FileAccessError, DownloadError)):
                raise
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                text = f"{self._where}: the server's certificate is not trusted: {reason}; "
                text += "SSL_CERT_FILE can name the certificates of your proxy"
                raise DownloadError(text, param="path") from None
            problem = f"{self._where}: the connection failed: {reason or type(error).__name__}"
            after_s = None
        if self._n_bytes < self._size:
            kept = f"{self._n_bytes:,} of {self._size:,} bytes are kept"
            self._retries.wait(problem, kept, after_s)

    def _recognize(self) -> None:
        """Refuse a GGUF file of another architecture by its beginning, not after gigabytes."""
        if self._is_recognized:
            return
        self._is_recognized = True
        match = _ARCHITECTURE.search(os.pread(self._fd, HEAD_BYTES, 0))
        name = match[2][: match[1][0]].decode("ascii") if match else "starcoder"
        if name != "starcoder":
            raise UnsupportedFormatError(
                f"{self._where}: a model of the architecture {name}; starchat runs starcoder, as "
                "StarChat, StarCoder and SantaCoder have it",
                param="path",
            )

    def _check(self, answer: Any) -> None:
        """Raise where an answer is not the rest of the file."""
        length = answer.headers.get("Content-Length")
        n_bytes = int(length) if length and length.isdigit() else None
        if answer.status == 206:
            given = answer.headers.get("Content-Range") or ""
            if given not in (
                f"bytes {self._n_bytes}-{self._size - 1}/{total}" for total in (self._size, "*")
            ):
                raise (
                    _Restart
                    if self._n_bytes
                    else DownloadError(
                        f"{self._where}: the server sends {given!r:.80} of {self._size:,} bytes"
                    )
                )
            return
        if n_bytes not in (None, self._size) or "text/html" in answer.headers.get(
            "Content-Type", ""
        ):
            kind = answer.headers.get("Content-Type", "no type")
            size = "unknown size" if n_bytes is None else f"{n_bytes:,} bytes"
            raise DownloadError(
                f"{self._where}: expected {self._size:,} bytes, the server sends {size} of "
                f"{kind:.80}: a proxy or a page to log in may answer in its place, or the file "
                "was changed meanwhile; check by a browser, and pull again",
                param="path",
                limit=self._size,
                got=n_bytes,
            )
        if self._n_bytes:  # this server sends files whole only
            self._start_again()

    def _take(self, answer: Any) -> None:
        synced = self._n_bytes
        while self._n_bytes < self._size:
            self._retries.check_wanted()
            data = answer.read1(min(CHUNK_BYTES, self._size - self._n_bytes))
            if not data:
                return
            _write(self._fd, data)
            if self._hash:
                self._hash.update(data)
            self._n_bytes += len(data)
            if self._n_bytes >= HEAD_BYTES:
                self._recognize()
            if self._n_bytes > self._furthest:
                self._furthest = self._n_bytes
                self._retries.progressed()
            if self._n_bytes - synced >= SYNC_BYTES:
                os.fdatasync(self._fd)
                synced = self._n_bytes
            self._report(self._n_bytes)


class _Written(OSError):
    """Not the network but the disk failed."""


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise _Written(error.errno, error.strerror) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; what a token protects goes to no other host, and never unencrypted."""

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # since Python 3.11

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in ("http", "https") or before.scheme > after.scheme:
            raise DownloadError(
                f"{req.full_url}: leads to {newurl[:200]}, which is not encrypted, or no HTTP",
                param="path",
            )
        code = 307 if code == 308 else code
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            for kept in (new.headers, new.unredirected_hdrs):
                for header in [*kept]:
                    if header.lower() in ("authorization", "cookie"):
                        del kept[header]
        return new


@functools.lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    """Return the certificates that this system trusts, and those that huggingface_hub does."""
    context = ssl.create_default_context()
    with suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if (path := os.environ.get(variable)) and os.path.isfile(path):
            context.load_verify_locations(path)
    return context
