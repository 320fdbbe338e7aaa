"""`starchat infill`: what belongs at a place in a file, or between two files."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from ..errors import InvalidRequestError
from .options import ReplyOptions, read_text, taking
from .reply import print_reply, say_if_cut


@taking(ReplyOptions)
def infill(
    options: ReplyOptions,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="The text with a gap; - is standard input."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="LINE[:COLUMN]",
            help="Where in FILE the gap is: at the end of this line, or before its column. "
            "Both count from 1.",
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="FILE", help="Instead: the text before the gap.")
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(metavar="FILE", help="The text behind it; by default none.")
    ] = None,
) -> None:
    """Write what belongs in the gap of a text; needs a StarCoder or SantaCoder file."""
    if file is not None and at is not None and prefix is None and suffix is None:
        before, after = split_at(read_text(file, "FILE"), at)
    elif file is None and at is None and prefix is not None:
        before = read_text(prefix, "--prefix")
        after = "" if suffix is None else read_text(suffix, "--suffix")
    else:
        raise InvalidRequestError("expected FILE --at LINE, or --prefix FILE --suffix FILE")
    with options.load() as model:
        reply = print_reply(lambda: model.stream_infill(before, after, **options.keywords))
        say_if_cut(reply, model.info.n_ctx)


def split_at(text: str, place: str) -> tuple[str, str]:
    r"""Return what is before and behind a place, such as "2" or "2:5".

    >>> split_at("a = 1\nb =\n", "2"), split_at("a = 1\n", "1:5")
    (('a = 1\nb =', '\n'), ('a = ', '1\n'))
    """
    if not (numbers := re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", place)):
        raise InvalidRequestError.of("--at", f"expected LINE or LINE:COLUMN, got {place!r}")
    lines = text.split("\n")
    line = int(numbers[1])
    if line > len(lines):
        raise InvalidRequestError.of("--at", f"expected line 1 to {len(lines):,}, got {line:,}")
    content = lines[line - 1].removesuffix("\r")
    column = int(numbers[2] or len(content) + 1)
    if column > len(content) + 1:
        expected = f"expected column 1 to {len(content) + 1:,} of line {line:,}"
        raise InvalidRequestError.of("--at", f"{expected}, got {column:,}")
    position = sum(len(each) + 1 for each in lines[: line - 1]) + column - 1
    return text[:position], text[position:]
