"""Markdown as replies mean it: HTML and underscores are text, line breaks stay.

For the terminal and the chat page. Definitions of links (`[name]: url`) are text too: one at the
end of a reply would change what is above it.
"""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token


def new_parser(renderer: type[RendererHTML] = RendererHTML) -> MarkdownIt:
    """Return a parser whose results `renderer` can write."""
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=renderer)
    return parser.enable(["strikethrough", "table"]).disable("reference")


_PARSER = new_parser()


def parse(text: str, parser: MarkdownIt = _PARSER) -> list[Token]:
    """Return the tokens of a text, blocks with their lines in `children`.

    >>> [token.type for token in parse("Call `__init__`.")]
    ['paragraph_open', 'inline', 'paragraph_close']
    """
    tokens = parser.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type, child.tag = "hardbreak", "br"
            elif child.markup in ("_", "__"):  # __init__ is a name, not a strong "init"
                child.type, child.tag, child.nesting = "text", "", 0
                child.content = child.markup
    return tokens
