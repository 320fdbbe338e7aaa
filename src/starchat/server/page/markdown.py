"""Pieces of Markdown → the HTML of the page: a fixed set of elements, code with classes.

What a reply says is text, whatever it spells. The page has the list of these elements once more
(static/html.js), and drops all others.
"""

from __future__ import annotations

import re
import time
from collections.abc import MutableMapping, Sequence
from html import escape
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
from pygments.token import (  # type: ignore[import-untyped]
    Comment,
    Generic,
    Keyword,
    Literal,
    Name,
    Number,
    String,
)
from pygments.util import ClassNotFound  # type: ignore[import-untyped]

from ...markdown import new_parser, parse
from .blocks import BlockSplitter

_LONGEST_CODE = 16_384  # characters that are highlighted
_LONGEST_LINE = 1_000  # in them: some patterns take the square of its length
_HIGHLIGHT_S = 0.5  # of one piece of code, else it stays plain
_NAME = re.compile(r"[a-z0-9+#-]{1,20}$")
_LINK = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
#: kinds of tokens → classes of style.css; the nearest parent of a kind counts
_CLASSES = {
    Comment: "c",
    Keyword: "k",
    Literal: "s",
    String: "s",
    Number: "n",
    Name.Function: "f",
    Name.Class: "f",
    Name.Builtin: "b",
    Name.Exception: "b",
    Name.Decorator: "a",
    Name.Attribute: "a",
    Name.Tag: "k",
    Generic.Inserted: "i",
    Generic.Deleted: "d",
    Generic.Heading: "k",
    Generic.Subheading: "k",
}


class Block(NamedTuple):
    """A rendered piece; continues: its first list goes on with the last one before it."""

    html: str
    continues: bool = False


class BlockRenderer:
    """Renders the pieces of one text, in order."""

    def __init__(self) -> None:
        """Begin before the first piece."""
        self._list: str | None = None  # with which the last piece ended

    def whole(self, piece: str) -> Block:
        """Render a piece that will not change any more."""
        block, self._list = self._rendered(piece, highlighted=True)
        return block

    def open(self, piece: str) -> Block:
        """Render the piece that is being written; its code is plain."""
        return self._rendered(piece, highlighted=False)[0]

    def open_code(self, language: str, code: str) -> Block:
        """Render code as far as it is written; more text can be added within its element."""
        return Block(_code(escape(code), language))

    def _rendered(self, piece: str, *, highlighted: bool) -> tuple[Block, str | None]:
        tokens = parse(piece, _PARSER)
        if not tokens:
            return Block(""), self._list
        for token in tokens:  # paragraphs in tight lists: whether one is loose shows at its end
            token.hidden = False
        html = _PARSER.renderer.render(tokens, _PARSER.options, {"highlighted": highlighted})
        first, last = _list_of(tokens[0]), _list_of(tokens[-1])
        return Block(html, first is not None and first == self._list), last


def pieces(text: str) -> list[str]:
    """Return the pieces of a whole text."""
    splitter = BlockSplitter()
    splitter.feed(text)
    splitter.finish()
    return splitter.take_whole()


def render(text: str) -> list[Block]:
    """Render a whole text."""
    renderer = BlockRenderer()
    return [renderer.whole(piece) for piece in pieces(text)]


def _list_of(token: Token) -> str | None:
    """Return the marker of the list that a token begins or ends; of bullets it is one of -+*."""
    return token.markup if token.type.startswith(("bullet_list", "ordered_list")) else None


class _Renderer(RendererHTML):
    """Each method writes the token of its name, where that differs from markdown-it's way."""

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        token = tokens[idx]
        language = (token.info.split() or [""])[0].lower()
        code = token.content
        html = highlighted(code, language) if env.get("highlighted") else escape(code)
        return _code(html, language)

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return _code(escape(tokens[idx].content))

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        token = tokens[idx]  # a link: the page asks no other host for anything
        text = self.renderInlineAsText(token.children or [], options, env) or "image"
        return f'<a href="{escape(str(token.attrs["src"]))}">{escape(text)}</a>'

    def heading_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any
    ) -> str:
        return f"<{_below_titles(tokens[idx].tag)}>"

    def heading_close(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any
    ) -> str:
        return f"</{_below_titles(tokens[idx].tag)}>\n"

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return f'<a href="{escape(str(tokens[idx].attrs["href"]))}">'  # without a title

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return _cell("th", tokens[idx].attrs)

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return _cell("td", tokens[idx].attrs)


def _code(html: str, language: str = "") -> str:
    named = f' class="language-{language.lower()}"' if _NAME.match(language.lower()) else ""
    return f"<pre><code{named}>{html}</code></pre>\n"


def _below_titles(tag: str) -> str:
    """Return a heading's element: those of a reply stand below the page's h1 and h2."""
    return f"h{min(int(tag[1]) + 2, 6)}"


def _cell(tag: str, attributes: MutableMapping[str, Any]) -> str:
    align = str(attributes.get("style", "")).removeprefix("text-align:")
    return f'<{tag} class="{align}">' if align in ("right", "center") else f"<{tag}>"


def highlighted(code: str, language: str) -> str:
    """Return the HTML of code, coloured where the language is known and the code not too long."""
    plain = escape(code)
    if not language or language not in _LANGUAGES or len(code) > _LONGEST_CODE:
        return plain
    if max(map(len, code.split("\n"))) > _LONGEST_LINE:
        return plain
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:  # an older Pygments
        return plain
    html, end = [], time.thread_time() + _HIGHLIGHT_S
    for kind, text in lexer.get_tokens(code):
        if time.thread_time() > end:
            return plain
        while kind not in _CLASSES and kind.parent is not None:
            kind = kind.parent
        name = _CLASSES.get(kind)
        html.append(f'<span class="{name}">{escape(text)}</span>' if name else escape(text))
    return "".join(html)


# Those whose patterns do not take the square of the text's length, for 120 repeated texts each:
# those of awk, graphql, hcl, matlab, ocaml and octave do, and hold the GIL meanwhile.
_NAMES = (
    "asm bash bat c c# c++ clojure cmake cpp cs csharp css cuda cxx dart diff docker "
    "dockerfile elixir erlang f# fish fortran fsharp go golang groovy haskell hs html http ini "
    "java javascript jl js json jsx julia kotlin latex less lisp lua make makefile nasm nginx "
    "nim nix objc perl php pl powershell ps1 py py3 pycon python python3 r rb rs ruby rust "
    "sass scala scss sh shell sql swift tex toml ts tsx typescript udiff xml yaml yml zig zsh"
)
_LANGUAGES = frozenset(_NAMES.split())
_PARSER: MarkdownIt = new_parser(_Renderer)
_PARSER.validateLink = lambda url: _LINK.match(url) is not None  # type: ignore[method-assign]
