"""Which replica gets a request: the one that has computed the beginning of its prompt before.

Runs in Ray's proxies, but imports nothing of Ray: a key for each request, by which all proxies
prefer the same replica, and errors of Ray's in the form that clients read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from .errors import ApiError
from .face import Faces
from .json_response import Json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY_HEADER = b"x-session-id"  # Ray's; its proxies hand it to the router
#: Headers by which a client could make Ray's proxies go on computing when it has gone, or give up.
UNWANTED = (b"x-request-disconnect-disabled", b"x-request-timeout-seconds")
PREFIX_CHARS = 512  # of a prompt that make its key
_READ_BYTES = 1 << 18  # of a body, which is parsed on the proxy's event loop: 2 ms
_READ_S = 5.0
_OF_RAY = {
    408: ("the request took too long", "deadline_exceeded", 504),
    429: ("all replicas are busy: come again later", "overloaded", 503),
    503: ("all replicas are busy or gone: come again later", "overloaded", 503),
}


def affinity_key(body: bytes, credentials: bytes = b"") -> str | None:
    """Return a key that the requests of one conversation share; None where a body tells nothing.

    It is a hash of the client's key and of prompt_cache_key, of user, or of how the prompt begins:
    a dialogue's first 512 characters up to its first question, as later turns repeat that.

    >>> turn = b'{"messages": [{"role": "user", "content": "Hi"}'
    >>> later = turn + b', {"role": "assistant", "content": "Hello."}]}'
    >>> affinity_key(turn + b"]}") == affinity_key(later)
    True
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(request, dict):
        return None
    for name in ("prompt_cache_key", "user"):
        if isinstance(given := request.get(name), str) and given:
            return _hash(credentials, name, given)
    begin = request.get("instructions") if isinstance(request.get("instructions"), str) else ""
    for name in ("messages", "prompt", "inputs", "input", "input_prefix"):
        if text := _beginning(request.get(name)):
            return _hash(credentials, "prompt", f"{begin}{text}"[:PREFIX_CHARS])
    return None


def _beginning(prompt: Any) -> str:
    """Return the text of a prompt in any form, of a dialogue up to its first question."""
    if isinstance(prompt, str):
        return prompt[:PREFIX_CHARS]
    if not isinstance(prompt, list) or not prompt:
        return ""
    if not isinstance(prompt[0], dict):  # of texts or token ids
        return str(prompt[0] if isinstance(prompt[0], str) else prompt[:PREFIX_CHARS])
    text = ""
    for message in prompt:
        content = message.get("content") if isinstance(message, dict) else None
        text += content if isinstance(content, str) else json.dumps(content)[:PREFIX_CHARS]
        if len(text) >= PREFIX_CHARS or not content or message.get("role") == "user":
            break
    return text


def _hash(*parts: bytes | str) -> str:
    joined = b"\0".join(p if isinstance(p, bytes) else p.encode("utf-8", "replace") for p in parts)
    return blake2b(joined, digest_size=16).hexdigest()


def preferred(key: str, loads: Mapping[str, int], slack: int) -> list[str]:
    """Return the two replicas to ask for a key, the better one first.

    Each replica has a score for each key (rendezvous hashing), so that all proxies prefer the same,
    and a replica that comes or goes moves only the keys that it takes or leaves. Where the first
    has `slack` requests more than the second, the second is asked: one popular prompt must not
    keep one replica busy alone.
    """
    best = nlargest(2, loads, key=lambda name: blake2b(f"{key}\0{name}".encode()).digest())
    if len(best) == 2 and loads[best[0]] > loads[best[1]] + slack:
        best.reverse()
    return best


class AtProxy:
    """Middleware of Ray's proxies: gives each request its key, and makes Ray's errors JSON."""

    def __init__(self, app: ASGIApp, faces: Faces) -> None:
        """Wrap a proxy, whose errors the faces write."""
        self._app = app
        self._faces = faces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the replica that Ray's router chooses."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name not in UNWANTED]
        if scope["method"] == "POST" and all(name != KEY_HEADER for name, _ in headers):
            read = await _read(receive)
            body = b"".join(message.get("body", b"") for message in read)
            if key := affinity_key(body, _credentials(headers)):
                headers.append((KEY_HEADER, key.encode()))
            receive = _again(read, receive)
        is_begun = False
        of_ray: tuple[str, str, int] | None = None

        async def answered(message: Message) -> None:
            nonlocal is_begun, of_ray
            if message["type"] == "http.response.start":
                kinds = [v for name, v in message.get("headers", ()) if name == b"content-type"]
                if kinds and kinds[0].startswith(b"text/plain"):
                    of_ray = _OF_RAY.get(message["status"])
                is_begun = of_ray is None
            if of_ray is None:
                await send(message)

        await self._app({**scope, "headers": headers}, receive, answered)
        if not is_begun:
            # Ray answers nothing where the replica of a request died.
            problem, code, status = of_ray or ("the replica ended: ask again", "replica_lost", 503)
            error = ApiError(status, problem, code=code, headers={"Retry-After": "1"})
            body_of_error = self._faces.error_body(scope["path"], error)
            response = Json(body_of_error, status, headers=error.headers)
            await response({**scope, "headers": headers}, receive, send)


def _credentials(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return what a client is known by: replicas keep the prompts of different keys apart."""
    return b"\0".join(value for name, value in headers if name in (b"authorization", b"x-api-key"))


async def _read(receive: Receive) -> list[Message]:
    """Return the first messages of a body: all, if it comes soon and is no larger than we parse."""
    read: list[Message] = []
    n_bytes, end = 0, asyncio.get_running_loop().time() + _READ_S
    while n_bytes <= _READ_BYTES:
        left_s = end - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(receive(), left_s)
        except asyncio.TimeoutError:
            break
        read.append(message)
        n_bytes += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    return read


def _again(read: Iterable[Message], receive: Receive) -> Receive:
    """Return what receives messages that were read before, and then new ones."""
    left = iter([*read])

    async def received() -> Message:
        for message in left:
            return message
        return await receive()

    return received
