"""Refuses prompts that cannot fit before they are read: by the lengths of their texts alone.

A token has so many bytes at most, so a text of so many characters has so many tokens at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized

from . import _core
from .errors import ContextLengthError


class PromptRoom:
    """What a context still holds, as parts of a prompt are taken.

    >>> from starchat import StarChat
    >>> model = StarChat.load()
    >>> room = PromptRoom(model._engine.tokenizer, model.info.n_ctx, "prompt")
    >>> room.take(1_000_000)
    Traceback (most recent call last):
    starchat.errors.ContextLengthError: prompt has at least 47,620 tokens, the context ...
    """

    def __init__(self, tokenizer: _core.Tokenizer, n_ctx: int, name: str, param: str = "") -> None:
        """Begin an empty prompt; `name` and `param` are its in errors."""
        self._least_ids = tokenizer.least_ids
        self._n_ctx = n_ctx
        self._name = name
        self._param = param or name
        self._n_characters = self._n_ids = 0

    def take(self, n_characters: int, n_ids: int = 0) -> None:
        """Take a part; raise ContextLengthError where the parts cannot fit together."""
        self._n_characters += n_characters
        self._n_ids += n_ids
        least = self._n_ids + self._least_ids(self._n_characters)
        if least > self._n_ctx:
            raise self._too_long(least, "at least ")

    def take_json(self, value: object) -> None:
        """Take a value that is written as JSON: a character each, and those of its texts."""
        left = [value]
        while left:
            value = left.pop()
            self.take(1 + (len(value) if isinstance(value, str) else 0))
            if isinstance(value, Mapping):
                self.take(len(value))
                left += [*value, *value.values()]
            elif isinstance(value, (list, tuple)):
                self.take(len(value))
                left += value

    def check_list(self, ids: object) -> None:
        """Raise ContextLengthError for a list of token ids that is too long, whatever is in it."""
        if isinstance(ids, Sized) and not isinstance(ids, (str, bytes, Mapping)):
            n_ids = len(ids)
            if n_ids > self._n_ctx:
                raise self._too_long(n_ids)

    def _too_long(self, n_ids: int, least: str = "") -> ContextLengthError:
        problem = f"{self._name} has {least}{n_ids:,} tokens, the context holds {self._n_ctx:,}"
        text = f"{problem}: shorten it by {least}{n_ids - self._n_ctx:,}"
        return ContextLengthError(text, param=self._param, limit=self._n_ctx, got=n_ids)
