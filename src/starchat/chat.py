r"""Messages → token ids by StarChat's dialogue template.

<|system|>\n…<|end|>\n<|user|>\n…<|end|>\n<|assistant|>: the roles are inserted as ids, so what a
message says can never end its own turn. Refuses roles and contents that the template cannot hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import InvalidRequestError, UnsupportedFeatureError
from .types import Messages, check_token_ids, shown

_ROLES = ("system", "user", "assistant")
_KEYS = ("role", "content", "token_ids")


class Tokenizer(Protocol):
    """What the template needs of `_core.Tokenizer`."""

    def encode(self, text: str, /) -> list[int]:
        """Return the ids of plain text."""

    def decode(self, ids: Sequence[int], /, skip_special: bool = False) -> bytes:
        """Return the bytes of ids."""

    def find(self, token: str, /) -> int | None:
        """Return the id of a whole token."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One checked message; `token_ids` are those generated for it, where the caller kept them."""

    role: str
    content: str
    token_ids: tuple[int, ...] = ()


def check_messages(messages: Messages) -> list[Turn]:
    """Return the turns of a dialogue, with the one system turn first, empty where none is given.

    Several system messages at the start are joined by a blank line. Turns of the same role may
    follow each other. The messages themselves are left as they are.

    Raises InvalidRequestError.

    >>> [turn.role for turn in check_messages([{"role": "user", "content": "Hi"}])]
    ['system', 'user']
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidRequestError(
            "messages: expected a list of {'role': …, 'content': …}, "
            f"got {type(messages).__name__}"
        )
    if not messages:
        raise InvalidRequestError("messages: the list is empty, expected at least one message")
    turns = [_check_message(f"messages[{i}]", message) for i, message in enumerate(messages)]
    n_system = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    for index, turn in enumerate(turns[n_system:], n_system):
        if turn.role == "system":
            raise InvalidRequestError(
                f"messages[{index}]: a system message must stand before all others"
            )
    system = "\n\n".join(turn.content for turn in turns[:n_system])
    return [Turn("system", system), *turns[n_system:]]


def _check_message(where: str, message: Any) -> Turn:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(
            f"{where}: expected a mapping with role and content, got {type(message).__name__}"
        )
    for key in ("role", "content"):
        if key not in message:
            raise InvalidRequestError(f"{where}: {key} is missing")
    role, content = message["role"], message["content"]
    if isinstance(role, str) and role == "tool":
        raise InvalidRequestError(f"{where}: the role 'tool' is not supported by this version")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequestError(
            f"{where}: unknown role {shown(role)}, expected one of {', '.join(_ROLES)}"
        )
    if not isinstance(content, str):
        raise InvalidRequestError(f"{where}: content must be a string, got {shown(content)}")
    for key in message:
        if key not in _KEYS or (key == "token_ids" and role != "assistant"):
            raise InvalidRequestError(
                f"{where}: unknown key {shown(key)} in a message of the role {role}, "
                f"expected {', '.join(_KEYS[: 3 if role == 'assistant' else 2])}"
            )
    return Turn(role, content, check_token_ids(f"{where}.token_ids", message.get("token_ids", ())))


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The ids that frame the turns, looked up in a vocabulary by name."""

    roles: Mapping[str, int]
    end: int

    @classmethod
    def find(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """Return the template's ids; UnsupportedFeatureError where the vocabulary has none."""
        ids = {name: tokenizer.find(f"<|{name}|>") for name in (*_ROLES, "end")}
        missing = [f"<|{name}|>" for name, id in ids.items() if id is None]
        if missing:
            raise UnsupportedFeatureError(
                f"this vocabulary has no {', '.join(missing)}: the file is a code model, not a "
                "StarChat; use complete() or infill()"
            )
        found = {name: id for name, id in ids.items() if id is not None}
        return cls(found, found.pop("end"))

    def render(self, turns: Sequence[Turn], tokenizer: Tokenizer) -> list[int]:
        """Return the prompt of a dialogue; it ends where the assistant's next reply begins."""
        newline = tokenizer.encode("\n")
        prompt: list[int] = []
        for turn in turns:
            prompt.append(self.roles[turn.role])
            prompt += self._body(turn, tokenizer)
            if prompt[-1] != self.end:  # ids kept from a reply may hold it already
                prompt.append(self.end)
            prompt += newline
        prompt.append(self.roles["assistant"])
        return prompt

    def _body(self, turn: Turn, tokenizer: Tokenizer) -> Sequence[int]:
        """Return generated ids as they were, if they still say what the message says.

        They do not where the caller edited the content, or a stop string was cut off.
        """
        if turn.token_ids:
            text = tokenizer.decode(turn.token_ids, skip_special=True).decode("utf-8", "replace")
            if text.removeprefix("\n") == turn.content:
                return turn.token_ids
        return tokenizer.encode("\n" + turn.content)
