"""Errors in the command's own words: options and commands for Python's arguments and methods."""

from __future__ import annotations

import re

from ..errors import StarChatError
from ..limits import without_loading
from ..server.settings import OPTIONS
from .options import REPLY_OPTIONS

_OPTIONS = {name: f"--{name.replace('_', '-')}" for name in (*REPLY_OPTIONS, *OPTIONS)}
_OPTIONS |= {"n_threads": "--threads", "n_ctx": "--ctx", "model_path": "--model"}
_OPTIONS |= {"prefix_cache_bytes": "--prefix-cache"}
_PHRASES = {
    r"\bcheck_memory=False\b": "--no-check-memory",
    r"\bn_ctx=(\d+)": r"--ctx \1",
    r"\ballow_special=True\b": "--allow-special",
    r"\ballow_special=False\b": "--no-allow-special",
    r"\b(chat|complete|infill)\(\)": r"starchat \1",
    r", or None( for a fresh one)?(?=,|;|$)": "",
}
_PLACE = re.compile(r"(\w+)(?=\[|:| and )")  # what the beginning of a text names
_IDENTIFIER = re.compile(r"(?<![\w./'\"-])(\w+_\w+)(?![\w/=]|\.\w)")  # no word of English


def in_command_words(error: Exception) -> str:
    """Return the text of an error, or of a warning, as the command's user knows its names.

    >>> in_command_words(StarChatError("top_p: expected 0 to 1", param="top_p"))
    '--top-p: expected 0 to 1'
    """
    text = without_loading(str(error))
    if isinstance(error, StarChatError) and (error.param or "").split("[")[0] in _OPTIONS:
        head, colon, rest = text.partition(": ")
        text = _PLACE.sub(_option, head + colon) + rest
    for pattern, words in _PHRASES.items():
        text = re.sub(pattern, words, text)
    return _IDENTIFIER.sub(_option, text)


def _option(name: re.Match[str]) -> str:
    return _OPTIONS.get(name[1], name[1])
