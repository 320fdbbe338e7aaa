"""Markdown at a terminal while it is written: whole blocks stay, the last one is drawn anew.

Only the block that is being written moves, so nothing flickers and the work does not grow with
the reply. Nothing of a text is lost.
"""

from __future__ import annotations

import time

from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import CodeBlock, Markdown
from rich.segment import Segment
from rich.syntax import Syntax

from ..markdown import parse
from .terminal import printable

_FRAME_S = 1 / 12


class MarkdownView:
    """Shows a reply on a console, piece by piece."""

    def __init__(self, console: Console) -> None:
        """Begin with an empty reply."""
        self._console = console
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="visible",  # _Tail is never too high
        )
        self._live.start()
        self._open = ""  # the text from the first block on that may still change
        self._drawn_at = 0.0
        self._has_printed = False

    def feed(self, text: str) -> None:
        """Show more of the reply."""
        self._open += printable(text)
        if "\n" in text:
            self._print_whole_blocks()
        if time.monotonic() - self._drawn_at >= _FRAME_S:
            self._live.update(_Tail(self._rendered(self._open)), refresh=True)
            self._drawn_at = time.monotonic()

    def _print_whole_blocks(self) -> None:
        """Print all blocks but the last, which more lines may continue."""
        lines = self._open.split("\n")
        starts = [block[0].map[0] for block in _parsed("\n".join(lines[:-1])) if block[0].map]
        if len(starts) > 1:
            self._print("\n".join(lines[: starts[-1]]))
            self._open = "\n".join(lines[starts[-1] :])

    def _print(self, text: str) -> None:
        with self._console:  # one write to the terminal
            self._live.update("", refresh=True)
            self._console.print(Group(*self._rendered(text)), end="")
        self._has_printed = True

    def _rendered(self, text: str) -> list[RenderableType]:
        """Return the blocks of a text, each behind an empty line, the reply's first without."""
        rendered: list[RenderableType] = []
        for block in _parsed(text):
            if rendered or self._has_printed:
                rendered.append("")
            rendered.append(_Block(block))
        return rendered

    def close(self) -> None:
        """Show what is left, and end the line."""
        self._print(self._open)
        self._live.stop()


class _Tail:
    """The last lines of blocks: as many as the screen has."""

    def __init__(self, blocks: list[RenderableType]) -> None:
        self._blocks = Group(*blocks)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._blocks, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - 1) :]:
            yield from line
            yield Segment.line()


class _Code(CodeBlock):
    """Code in the terminal's own colours, without a frame: what is copied is the code."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        syntax = Syntax("", self.lexer_name, theme="ansi_dark", background_color="default")
        code = syntax.highlight(str(self.text))
        code.rstrip()
        code.overflow = "fold"
        yield code


class _Block(Markdown):
    elements = Markdown.elements | {"fence": _Code, "code_block": _Code}

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = tokens


def _parsed(text: str) -> list[list[Token]]:
    """Return the tokens of each block that stands in no other one."""
    blocks: list[list[Token]] = []
    for token in parse(text):
        if token.level == 0 and token.nesting >= 0:
            blocks.append([])
        blocks[-1].append(token)
    return blocks
