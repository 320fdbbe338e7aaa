r"""Messages → token ids by StarChat's dialogue template.

<|system|>\n…<|end|>\n<|user|>\n…<|end|>\n<|assistant|>: the roles are inserted as ids, so what a
message says can never end its own turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import UnsupportedFeatureError
from .call_reader import restated
from .messages import Turn

_ROLES = ("system", "user", "assistant")  # that have a token


class Tokenizer(Protocol):
    """What the template needs of `_core.Tokenizer`."""

    def encode(self, text: str, /) -> list[int]:
        """Return the ids of plain text."""

    def decode(self, ids: Sequence[int], /, skip_special: bool = False) -> bytes:
        """Return the bytes of ids."""

    def find(self, token: str, /) -> int | None:
        """Return the id of a whole token."""


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
            if restated(text.removeprefix("\n")) == turn.content:
                return turn.token_ids
        return tokenizer.encode("\n" + turn.content)
