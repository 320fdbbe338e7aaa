"""Grammars tried with llguidance itself over single bytes: what they accept, and random replies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import compress

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

_END = 256
_CLOSING = ({*b'"}]', _END}, {*b","})  # the second end a number, where nothing else may


class _Bytes:
    """What llguidance's wrapper asks of a tokenizer: the 256 bytes and an end."""

    eos_token_id = _END
    bos_token_id = None
    tokens: Sequence[bytes] = [bytes([value]) for value in range(256)] + [b"<|end|>"]
    special_token_ids = (_END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


_TOKENIZER = LLTokenizer(TokenizerWrapper(_Bytes()))


@lru_cache(maxsize=8)  # a test asks a grammar many times
def _compiled(lark: str) -> LLMatcher:
    matcher = LLMatcher(_TOKENIZER, LLMatcher.grammar_from_lark(lark), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def _matcher(lark: str) -> LLMatcher:
    return _compiled(lark).deep_copy()


def accepts(lark: str, text: str) -> bool:
    """Return whether a text is one of the grammar's."""
    matcher, data = _matcher(lark), text.encode()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


def random_text(lark: str, seed: int, prefix: str = "", soft_limit: int = 60) -> str:
    """Return a random text of the grammar: any allowed byte, closing what is open from a length on.

    The matcher alone decides what is allowed.
    """
    choose, matcher = random.Random(seed), _matcher(lark)
    text = bytearray(prefix.encode())
    assert matcher.consume_tokens(list(text)), matcher.get_error()
    while True:
        mask = matcher.compute_logit_bias()
        allowed = [*compress(range(_END + 1), mask)]
        assert allowed, (bytes(text), matcher.get_error())
        if len(text) > soft_limit:
            closing = [[id for id in allowed if id in ids] for ids in _CLOSING]
            allowed = next(filter(None, closing), allowed)
        id = choose.choice(allowed)
        if id == _END:
            return text.decode()
        text.append(id)
        assert len(text) < 10_000, bytes(text)
        assert matcher.consume_token(id)
