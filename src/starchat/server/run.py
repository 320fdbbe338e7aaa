"""Runs the application by uvicorn: the socket, signals, slow clients, and the end.

The first SIGTERM or Ctrl-C drains: no new request is taken, those that run go on for a while. The
second one ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import FileAccessError, InvalidRequestError
from .front import Front
from .settings import HEAD_BYTES, ServerSettings

if TYPE_CHECKING:
    from .service import Service

HEADERS_S = 30.0  # that a client has for the head of a request
STALLED_S = 60.0  # a client that takes nothing of its answer for so long is gone
_KEEP_ALIVE_S = 75  # longer than the usual 60 s of proxies, which must not meet a closed connection
_BACKLOG = 2_048
_LAST_BYTES_S = 5  # for what is still to be sent when all work has ended


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which has no limit on how slow a client may be."""

    _head: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take a piece; the time for the head of a request ends with the head."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop("_head")
        elif self._head is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop("_head")
        self._stop("_stalled")
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See that the client takes what waits for it."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on."""
        self._stop("_stalled")
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Wait for the next request; not long for one that has begun, or a body nobody reads."""
        super().on_response_complete()
        has_begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        if has_begun and self._head is None:
            self._await_head()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEADERS_S, self._abort)

    def _watch(self, n_bytes: int) -> None:
        self._stalled = self.loop.call_later(STALLED_S, self._look, n_bytes)

    def _look(self, n_bytes: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= n_bytes:
            self._abort()
        else:
            self._watch(left)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _stop(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


class Server(uvicorn.Server):
    """uvicorn's server, which drains before it closes its port: /health says 503 meanwhile."""

    def __init__(self, config: uvicorn.Config, service: Service | None = None) -> None:
        """Watch the service's admission for the end of its work, once there is one."""
        super().__init__(config)
        self.service = service
        self._drain_until: float | None = None
        self.signal: int | None = None  # the first that came

    def stop(self) -> None:
        """Drain, then end; from the event loop."""
        if self.service is None:
            self.should_exit = True
        elif self._drain_until is None:
            self._drain_until = time.monotonic() + self.service.settings.drain_timeout
            self.service.admission.drain()

    async def on_tick(self, counter: int) -> bool:
        """Look whether the work has ended, or its time has."""
        if self._drain_until is not None and self.service is not None:
            admission = self.service.admission
            is_idle = admission.running + admission.waiting == 0
            if is_idle or time.monotonic() >= self._drain_until:
                admission.end_all()
                self.should_exit = True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs; elsewhere than in the main thread, none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at once at the second."""
        if self.signal is not None:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.signal = sig
        asyncio.get_running_loop().call_soon_threadsafe(self.stop)


def config_of(app: Any, settings: ServerSettings) -> uvicorn.Config:
    """Return how uvicorn runs the application."""
    most = settings.max_running + settings.max_queue
    return uvicorn.Config(
        app,
        http=Protocol,  # h11: httptools has no limit on the size of headers
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        limit_concurrency=4 * most + 256,  # our own 503 comes first
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_BYTES_S,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
    )


def _loaded(config: uvicorn.Config) -> uvicorn.Config:
    """Return a configuration with its certificate; raise FileAccessError where it has none."""
    try:
        config.load()
    except OSError as error:  # of ssl, too
        files = f"{config.ssl_certfile}, {config.ssl_keyfile}"
        raise FileAccessError.of("ssl_certfile", f"{files}: {error.strerror or error}") from None
    return config


def listen(settings: ServerSettings) -> socket.socket:
    """Return the socket to listen at; raise InvalidRequestError where it is taken."""
    if settings.uds:
        return _listen_at_path(settings.uds)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidRequestError.of("host", f"{settings.host}: {error.strerror}") from None
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        taken = error.errno == errno.EADDRINUSE
        remedy = "another program listens there: take another --port, or 0 for a free one"
        where = f"{settings.host}:{settings.port}"
        problem = f"{where}: {remedy if taken else error.strerror}"
        raise InvalidRequestError.of("port", problem) from None
    return listening


def _listen_at_path(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        if _is_left(path):
            os.unlink(path)
        listening.bind(path)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise FileAccessError.of("uds", f"{path}: {error.strerror}") from None
    return listening


def _is_left(path: str) -> bool:
    """Return whether a path is the socket of a server that was killed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(path)
    except ConnectionRefusedError:
        return True
    except FileNotFoundError:
        return False
    return False


def keep_from_collections() -> None:
    """Spare all that is there now, mostly modules, each later garbage collection.

    A full one stops the event loop, and so all streams, for as long as it looks at every object.
    """
    gc.collect()
    gc.freeze()


def address_of(listening: socket.socket, settings: ServerSettings) -> str:
    """Return the URL of a socket, as a client on this machine writes it."""
    if settings.uds:
        return f"unix:{settings.uds}"
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.ssl_certfile else 'http'}://{shown}:{port}"


def run(
    settings: ServerSettings,
    on_listening: Callable[[str], object],
    on_loaded: Callable[[Service], object],
) -> int | None:
    """Serve until a signal comes, and return its number; raise what kept the model from loading.

    on_listening is told the address, before the model is there.
    """
    with contextlib.ExitStack() as ends:
        listening = ends.enter_context(contextlib.closing(listen(settings)))
        loaded: list[Service] = []

        def make() -> Any:
            from .app import create_app
            from .log import logging_to_stderr

            ends.enter_context(logging_to_stderr(as_json=settings.log_json))
            return create_app(settings)

        def made(app: Any) -> None:
            app.state.on_loaded = tell
            server.service = app.state.service

        def tell(service: Service) -> None:
            loaded.append(service)
            keep_from_collections()
            if service.failure is None:
                on_loaded(service)
            else:
                server.stop()

        front = Front(make, made, lambda: server.stop())
        server = Server(_loaded(config_of(front, settings)))
        on_listening(address_of(listening, settings))
        server.run(sockets=[listening])
        if settings.uds:
            with contextlib.suppress(OSError):
                os.unlink(settings.uds)
        for failure in (front.failure, *(service.failure for service in loaded)):
            if failure is not None:
                raise failure
        return server.signal
