"""The options that commands share, each declared once."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from ..model import StarChat
from ..sampling import SamplingOptions


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FILE",
            parser=os.path.expanduser,
            help="A ggml .bin file. (default: the embedded model)",
        ),
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="CPU threads to compute with. (default: one for each core)")
    ] = None
    ctx: Annotated[
        int | None,
        typer.Option(help="Tokens that prompt and answer may have together. (default: the file's)"),
    ] = None

    def load(self, prefix_cache_bytes: int | None = None) -> StarChat:
        """Return the model."""
        return StarChat.load(
            self.model,
            n_threads=self.threads,
            n_ctx=self.ctx,
            prefix_cache_bytes=prefix_cache_bytes,
        )


@dataclass(frozen=True, slots=True)
class ReplyOptions(ModelOptions):
    """Which model, and how it chooses its words."""

    max_tokens: Annotated[
        int | None,
        typer.Option(help="End the answer after so many tokens. (default: context full)"),
    ] = None
    temperature: Annotated[
        float | None, typer.Option(help="Randomness; 0: always the likeliest token. (default: 0.2)")
    ] = None
    top_k: Annotated[
        int | None, typer.Option(help="Choose among the k likeliest tokens; 0: all. (default: 50)")
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(help="Choose among the likeliest tokens of this total share. (default: 0.95)"),
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same answer. (default: a new one)")
    ] = None

    @property
    def sampling(self) -> SamplingOptions:
        """The keywords of StarChat's methods."""
        values = {name: getattr(self, name) for name in ReplyOptions.__annotations__}
        return cast(SamplingOptions, values)


def taking(options: type[ModelOptions]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that turns the fields of `options` into options of a command.

    The command gets them as one instance, its first parameter; typer sees the fields, behind the
    command's own parameters.
    """
    fields = inspect.signature(options, eval_str=True).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [*own, *fields.values()]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            taken = {name: given.pop(name) for name in fields if name in given}
            command(options(**taken), **given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate
