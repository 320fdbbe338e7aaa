"""Refuses texts that cannot fit before they are read: by their lengths alone.

A token has so many bytes at most, so a text of so many characters has so many tokens at least.
Where no context bounds a text, as it is only counted, `Limits.text_characters` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized

from . import _core
from .errors import ContextLengthError, InvalidRequestError
from .limits import Limits


class PromptRoom:
    """What a context, or a bound alone, still holds, as parts of a prompt are taken.

    >>> import starchat
    >>> model = starchat.StarChat.load()
    >>> room = PromptRoom("prompt", starchat.Limits(), model._engine.tokenizer, model.info.n_ctx)
    >>> room.take(1_000_000)
    Traceback (most recent call last):
    starchat.errors.ContextLengthError: prompt has at least 47,620 tokens, the context ...
    """

    def __init__(
        self,
        param: str,
        limits: Limits,
        tokenizer: _core.Tokenizer | None = None,
        n_ctx: int = 0,
        name: str = "",
    ) -> None:
        """Begin an empty prompt of a context, or one that is only counted, without `tokenizer`.

        `param` and `name` are its in errors.
        """
        self._least_ids = tokenizer.least_ids if tokenizer else None
        self._n_ctx = n_ctx
        self._limits = limits
        self._name = name or param
        self._param = param
        self._n_characters = self._n_ids = 0

    def take(self, n_characters: int, n_ids: int = 0) -> None:
        """Take a part; raise InvalidRequestError where the parts cannot fit together."""
        self._n_characters += n_characters
        self._n_ids += n_ids
        if self._least_ids:
            least = self._n_ids + self._least_ids(self._n_characters)
            if least > self._n_ctx:
                raise self._too_long(least, "at least ")
        if self._n_characters + self._n_ids > self._limits.text_characters:
            raise self._too_large()

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
            if self._least_ids and n_ids > self._n_ctx:
                raise self._too_long(n_ids)
            if n_ids > self._limits.text_characters:
                raise self._too_large()

    def _too_large(self) -> InvalidRequestError:
        remedy = "give it in parts"
        unit = " characters"
        most: InvalidRequestError = self._limits.beyond(
            "text_characters", self._param, None, unit=unit, remedy=remedy
        )
        return most

    def _too_long(self, n_ids: int, least: str = "") -> ContextLengthError:
        problem = f"{self._name} has {least}{n_ids:,} tokens, the context holds {self._n_ctx:,}"
        text = f"{problem}: shorten it by {least}{n_ids - self._n_ctx:,}"
        return ContextLengthError(text, param=self._param, limit=self._n_ctx, got=n_ids)
