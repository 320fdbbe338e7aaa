"""The commands, and how their help is written."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from . import (
    bench,
    chat,
    complete,
    convert,
    devices,
    infill,
    inspect,
    perplexity,
    pull,
    render,
    serve,
)


class Command(TyperCommand):
    """A command whose help is whole on a narrow screen: names there stand on lines of their own."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write what the command takes."""
        for title, kind in ("Arguments", "argument"), ("Options", "option"):
            parameters = [each for each in self.get_params(ctx) if each.param_type_name == kind]
            records = [record for each in parameters if (record := each.get_help_record(ctx))]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=4 if formatter.width < 76 else 30)


class Group(TyperGroup):
    """The list of commands, with whole sentences."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each command does: the first paragraph of its help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, ((each and each.help) or "").split("\n\n")[0]) for name, each in commands]
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(help.split())) for name, help in rows])


app = typer.Typer(
    cls=Group,
    name="starchat",
    help="Runs StarChat and StarCoder files on the CPU.",
    epilog="Exit codes: 0 success, 1 an error that stderr tells, 2 a wrong option, 130 Ctrl-C.",
    subcommand_metavar="COMMAND [ARGS]",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    *(chat.chat, complete.complete, infill.infill, render.render, inspect.inspect, bench.bench),
    *(convert.convert, perplexity.perplexity, pull.pull, serve.serve, devices.devices),
):
    app.command(cls=Command)(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"starchat {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run StarChat and StarCoder files on the CPU."""
