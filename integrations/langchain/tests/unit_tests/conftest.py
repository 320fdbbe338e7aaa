"""What the unit tests share: a scripted model, and no network and no trained weights for them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from langchain_starchat import ChatStarChat
from scripted_model import ScriptedModel
from starchat import Chunk, StarChat


@pytest.fixture(autouse=True)
def only_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections, and the model that is embedded in starchat."""
    load = StarChat.load

    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a unit test wants to connect to {address}")

    def load_file(path: Any = None, **options: Any) -> StarChat:
        assert path is not None, "a unit test wants to load the trained weights"
        return load(path, **options)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(StarChat, "load", load_file)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedModel]:
    """A function that makes every ChatStarChat say these replies, and returns what it is asked."""

    def use(*replies: list[Chunk]) -> ScriptedModel:
        model = ScriptedModel(*replies)

        async def loaded(_: Any) -> ScriptedModel:
            return model

        monkeypatch.setattr(ChatStarChat, "_model", lambda _: model)
        monkeypatch.setattr(ChatStarChat, "_amodel", loaded)
        return model

    return use
