"""The outer wall: which hosts, origins and keys may ask, and how large a request may be.

Plain ASGI around the application, so that no route can be forgotten: a path is public only where it
is named as such. docs/serving.md has the rules and what each is against.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import socket
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.routing import compile_path

from .errors import ApiError, api_error
from .face import Faces
from .json_response import Json
from .request import current_request
from .settings import HEAD_BYTES, MOST_HEADERS, MOST_VALUES, ServerSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_S = 60.0  # that a client has to send a body
_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
_ANY = "*"
_log = logging.getLogger("starchat.server")


class Security:
    """Refuses requests before any handler sees them, as the face of their path writes errors."""

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, faces: Faces, public: Iterable[str]
    ) -> None:
        """Guard an application.

        public: templates of paths that are read without a key.
        """
        self._app = app
        self._settings = settings
        self._faces = faces
        templates = [*public, *(path for face in faces.all for path in face.public)]
        self._public = [compile_path(template)[0] for template in templates]
        self._keys = [key.encode() for key in settings.api_key]
        self._salts = [sha256(key).hexdigest() for key in self._keys]
        self._hosts = {name.lower().rstrip(".") for name in settings.allowed_host}
        # A page that a browser loaded from elsewhere may reach a server without keys by a name
        # that changes its address (DNS rebinding): the names are then known ones.
        self._checks_host = bool(self._hosts or settings.is_loopback or not self._keys)
        if not settings.is_loopback:
            self._hosts.add(socket.gethostname().lower())
        self._origins = {origin.lower().rstrip("/") for origin in settings.cors}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its whole body, or answer what is wrong with it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_begun = False
        headers = _first_of_each(scope["headers"])
        cors = self._cors(headers.get("origin"))

        async def answered(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                message = {**message, "headers": [*message.get("headers", ()), *cors, _NOSNIFF]}
            await send(message)

        try:
            self._check(scope, headers)
            if _is_preflight(scope, headers):
                await _preflight(headers)(scope, receive, answered)
                return
            self._check_key(scope, headers)
            scope = {**scope, "headers": _as_json(scope, headers)}
            body = await self._body(receive, headers)
            await self._app(scope, _first(body, receive), answered)
        except _ClientGone:
            current_request().log["gone"] = True
        except Exception as problem:
            error = api_error(problem)
            if not isinstance(problem, ApiError):
                _log.error("%s %s failed", scope["method"], shown(scope["path"]), exc_info=problem)
            if is_begun:
                raise
            await self._refuse(error)(scope, receive, answered)

    def _refuse(self, error: ApiError) -> Any:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            current_request().log["error"] = error.code
            body = self._faces.error_body(scope["path"], error)
            await Json(body, error.status, headers=error.headers)(scope, receive, send)

        return answer

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        n_headers = len(scope["headers"])
        n_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
        if n_headers > MOST_HEADERS or n_bytes > HEAD_BYTES:
            problem = f"expected at most {MOST_HEADERS} headers of {HEAD_BYTES:,} bytes, got "
            problem += f"{n_headers:,} of {n_bytes:,}"
            raise ApiError(431, problem, code="request_too_large")
        if self._checks_host and not self._settings.uds and not self._is_allowed(host):
            problem = f"this server does not answer to the host {shown(host)!r}: start it with "
            problem += "--allowed-host NAME for another name than localhost"
            raise ApiError(403, problem, code="host_not_allowed")
        if origin is not None and not self._is_origin_allowed(origin, host):
            problem = f"pages of {shown(origin)!r} may not ask this server: start it with "
            problem += "--cors ORIGIN to let them"
            raise ApiError(403, problem, code="origin_not_allowed")

    def _is_allowed(self, host: str) -> bool:
        name = _name_of(host)
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts or name == "localhost" or name.endswith(".localhost")
        return True

    def _is_origin_allowed(self, origin: str, host: str) -> bool:
        origin = origin.lower().rstrip("/")
        if _ANY in self._origins or origin in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or parts.path:
            return False
        own = _with_port(parts.netloc)  # a proxy may have put another Host before an allowed name
        return own in self._hosts or own == _with_port(host.lower())

    def _cors(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        """Return the headers by which a browser lets another origin's page read the answer."""
        if not self._origins:
            return []
        headers = [(b"vary", b"Origin")]
        if origin is not None and (_ANY in self._origins or origin.lower() in self._origins):
            allowed = b"*" if _ANY in self._origins else origin.encode("latin-1")
            headers.append((b"access-control-allow-origin", allowed))
            headers.append((b"access-control-expose-headers", b"Retry-After, X-Request-Id"))
        return headers

    def _check_key(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Find the key of a request, whose prompts it keeps apart from those of other keys."""
        request = current_request()
        request.read_timeout_s = _seconds(headers.get("x-stainless-read-timeout"))
        if not self._keys:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # All of them, whichever fits: the time of an answer must not tell.
        fits = [hmac.compare_digest(given.encode("latin-1"), key) for key in self._keys]
        if any(fits):
            request.log["key"] = fits.index(True) + 1
            if len(self._keys) > 1:
                request.salt = self._salts[fits.index(True)]
        elif not self._is_public(scope):
            problem = "expected the header Authorization: Bearer KEY, got "
            problem += "another key" if given else "none"
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, problem, code="invalid_api_key", headers=headers)

    def _is_public(self, scope: Scope) -> bool:
        """Return whether everybody may read a path; who sends anything needs a key there, too."""
        is_read = scope["method"] in ("GET", "HEAD")
        return is_read and any(pattern.match(scope["path"]) for pattern in self._public)

    async def _body(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """Return the whole body; raise ApiError for one that is too long or too slow."""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._settings.max_body:
            raise self._too_large()
        reading = self._read(receive)
        if length in ("", "0") and "transfer-encoding" not in headers:
            return await reading
        try:
            return await asyncio.wait_for(reading, BODY_S)
        except asyncio.TimeoutError:
            problem = f"the body did not come within {BODY_S:g} s"
            headers = {"Connection": "close"}
            raise ApiError(408, problem, code="request_timeout", headers=headers) from None

    async def _read(self, receive: Receive) -> bytes:
        body, has_more = bytearray(), True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            piece = message.get("body", b"")
            body += piece
            has_more = message.get("more_body", False)
            if len(body) > self._settings.max_body:
                raise self._too_large()
        # What wrong values cost, an error for each of them, holds up all streams.
        if body.count(b",") > MOST_VALUES and _has_too_many_values(bytes(body)):
            problem = f"expected at most {MOST_VALUES:,} values in a body"
            raise ApiError(413, problem, code="request_too_large")
        return bytes(body)

    def _too_large(self) -> ApiError:
        problem = f"expected a body of at most {self._settings.max_body:,} bytes"
        return ApiError(413, problem, code="request_too_large")


class _ClientGone(Exception):
    """The client went before its request was whole."""


def _first(body: bytes, receive: Receive) -> Receive:
    """Return what receives a whole body, and then what is left: the client's going."""
    is_given = False

    async def received() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


_NOSNIFF = (b"x-content-type-options", b"nosniff")


def _has_too_many_values(body: bytes) -> bool:
    """Return whether JSON has too many commas outside of strings; linear, and quick."""
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 4 * MOST_VALUES:  # two for each key, and two for its value
        return True
    outside = plain.split(b'"')[::2]
    return sum(piece.count(b",") for piece in outside) > MOST_VALUES


def shown(text: str) -> str:
    """Return the beginning of a text of a client's for a log or an error: no control characters."""
    return text[:200].encode("unicode_escape").decode("ascii")


def _first_of_each(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in raw:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return headers


def _name_of(host: str) -> str | None:
    """Return the name or address in a Host header, in lower case; None where it is none."""
    host = host.lower()
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return None
        port = port[1:]
    else:
        name, _, port = host.partition(":")
    if port and not port.isdecimal():
        return None
    return name.rstrip(".") or None


def _with_port(host: str) -> str:
    """Return a host without the ports that may be left out."""
    return host.removesuffix(":80").removesuffix(":443")


def _is_preflight(scope: Scope, headers: Mapping[str, str]) -> bool:
    asks = "access-control-request-method" in headers and "origin" in headers
    return asks and scope["method"] == "OPTIONS"


def _preflight(headers: Mapping[str, str]) -> Response:
    """Answer what a browser asks before a page's request; the origin was checked."""
    allowed = {
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": headers.get(
            "access-control-request-headers", "Authorization, Content-Type"
        ),
        "Access-Control-Max-Age": "600",
    }
    if "access-control-request-private-network" in headers:
        allowed["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=allowed)


def _as_json(scope: Scope, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request whose body is JSON; raise ApiError 415 for another one.

    A page of another origin can send other types without a preflight. Programs that name no type,
    as the examples for Hugging Face's API do, mean JSON.
    """
    given: list[tuple[bytes, bytes]] = scope["headers"]
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if scope["method"] not in _METHODS_WITH_BODY or not has_body:
        return given
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind:
        others = [(name, value) for name, value in given if name.lower() != b"content-type"]
        return [*others, (b"content-type", b"application/json")]
    if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
        problem = f"expected the header Content-Type: application/json, got {shown(kind)!r}"
        raise ApiError(415, problem, code="unsupported_media_type")
    return given


def _seconds(text: str | None) -> float:
    """Return the seconds of a header, 0 where it has none."""
    try:
        seconds = float(text or 0)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0
