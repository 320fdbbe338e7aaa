"""What the LlamaIndex tests share: no network, and observers that leave no trace."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("llama_index.core", reason="pip install ./integrations/llama_index_embeddings")

from llama_index.core import Settings
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection: nothing may be downloaded at run time."""

    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a test wants to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """LlamaIndex's global settings, put back afterwards."""
    monkeypatch.setattr("llama_index.core.global_tokenizer", None)
    for name, value in vars(Settings).items():
        monkeypatch.setattr(Settings, name, value)
    yield Settings


class EventLog(BaseEventHandler):
    """Keeps every instrumentation event."""

    events: list[Any]

    @classmethod
    def class_name(cls) -> str:
        return "EventLog"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.class_name() for event in self.events]


@pytest.fixture
def events() -> Iterator[EventLog]:
    """The events of the root dispatcher while the test runs."""
    dispatcher, log = get_dispatcher(), EventLog(events=[])
    dispatcher.add_event_handler(log)
    yield log
    dispatcher.event_handlers.remove(log)
