"""What the LlamaIndex tests share: no network, and observers that leave no trace."""

import importlib.util
import json
import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("llama_index.core", reason="pip install ./integrations/llama_index_llms")

from llama_index.core import Settings
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler

from starchat.chat.tools import Toolbox
from starchat.grammar.constraint import Constraint


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection: nothing may be downloaded at run time."""

    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a test wants to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def example(request: pytest.FixtureRequest) -> ModuleType:
    """The example that the test module names EXAMPLE, as a module."""
    path = request.module.EXAMPLE
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.fixture
def spans() -> Iterator[SimpleSpanHandler]:
    """The spans of the root dispatcher while the test runs."""
    dispatcher, handler = get_dispatcher(), SimpleSpanHandler()
    dispatcher.add_span_handler(handler)
    yield handler
    dispatcher.span_handlers.remove(handler)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the next replies these texts: the grammars of the requests allow nothing else."""
    replies: list[str] = []

    def compile_next(toolbox: Toolbox, engine: Any, *_: Any) -> Any:
        return Constraint("choice", "lark", f"start: {json.dumps(replies.pop(0))}").compile(engine)

    monkeypatch.setattr(Toolbox, "compile", compile_next)
    return lambda *texts: replies.extend(texts)
