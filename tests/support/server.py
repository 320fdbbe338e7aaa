"""The server for tests: its application in this process, and behind a real port.

from support.server import app, client, served  # fixtures, one model for all of them
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from starchat import StarChat
from starchat.server.app import create_app
from starchat.server.run import Server, address_of, config_of, listen
from starchat.server.service import Service
from starchat.server.settings import ServerSettings

N_CTX = 2_048


@dataclass
class Served:
    """A server at a port, and the application and model behind it."""

    url: str
    app: FastAPI
    model: StarChat
    server: Server

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def is_idle(self) -> bool:
        """Whether nobody is here, and the engine has nothing to do."""
        admission, stats = self.service.admission, self.model.stats()
        here = admission.running + admission.waiting
        return here == 0 and stats["running"] == 0 and stats["waiting"] == 0

    def wait_until_idle(self, timeout_s: float = 5.0) -> None:
        """Fail unless all work is gone in time."""
        end = time.monotonic() + timeout_s
        while not self.is_idle():
            assert time.monotonic() < end, (self.service.admission.__dict__, self.model.stats())
            time.sleep(0.005)


@contextmanager
def serving(
    model: StarChat, prepare: Callable[[FastAPI], object] = lambda app: None, **settings: Any
) -> Iterator[Served]:
    """Serve a model at a free port of this machine, in a thread, as the command does.

    prepare: gets the application before it runs, to add routes of a test.
    """
    wanted = ServerSettings(port=0, **settings)
    app = create_app(wanted, model)
    prepare(app)
    server = Server(config_of(app, wanted), app.state.service)
    listening = listen(wanted)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Served(address_of(listening, wanted), app, model, server)
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="session")
def server_model() -> Iterator[StarChat]:
    """The embedded model with the context of the server's tests."""
    with StarChat.load(n_ctx=N_CTX) as model:
        yield model


@pytest.fixture(scope="module")
def app(server_model: StarChat) -> FastAPI:
    """The application with default settings, in this process."""
    return create_app(ServerSettings(), server_model)


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application in this process; it raises no error of a handler's."""
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def served(server_model: StarChat) -> Iterator[Served]:
    """A real server at a free port, for clients that need one."""
    with serving(server_model) as served:
        yield served
