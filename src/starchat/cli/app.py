"""The `starchat` command: chat, complete, inspect, bench.

Answers go to stdout as they are written, everything else to stderr; what goes wrong is one line
there, with exit code 1.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import statistics
import sys
from typing import Annotated, Any, NoReturn

import typer

from .. import __version__, _core
from ..bench import Speed, measure
from ..errors import InvalidRequestError, StarChatError
from ..model import StarChat
from ..stream import Stream
from ..types import SamplingOptions

app = typer.Typer(
    name="starchat",
    help="Runs StarChat and StarCoder files on the CPU.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ModelFile = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FILE",
        parser=os.path.expanduser,
        help="A ggml .bin file. (default: the embedded model)",
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(help="End the answer after so many tokens. (default: context full)")
]
Temperature = Annotated[
    float | None, typer.Option(help="Randomness; 0: always the likeliest token. (default: 0.2)")
]
TopK = Annotated[
    int | None, typer.Option(help="Choose among the k likeliest tokens; 0: all. (default: 50)")
]
TopP = Annotated[
    float | None,
    typer.Option(help="Choose among the likeliest tokens of this total share. (default: 0.95)"),
]
Seed = Annotated[
    int | None, typer.Option(help="The same seed gives the same answer. (default: a new one)")
]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads to compute with. (default: one for each core)")
]
Context = Annotated[
    int | None,
    typer.Option(help="Tokens that prompt and answer may have together. (default: the file's)"),
]


# ---- chat -----------------------------------------------------------------------------------


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


@app.command()
def chat(
    question: Annotated[
        str | None, typer.Argument(help="Answer this and exit; - takes it from standard input.")
    ] = None,
    model: ModelFile = None,
    system: Annotated[
        str, typer.Option(help="System message: who the assistant is, how it should answer.")
    ] = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    threads: Threads = None,
    ctx: Context = None,
) -> None:
    """Talk to a model; with a QUESTION, or one on standard input, only answer that."""
    sampling = SamplingOptions(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    if question == "-" or (question is None and not (sys.stdin and sys.stdin.isatty())):
        question = _read_stdin().strip()
        if not question:
            raise InvalidRequestError("no question: neither as an argument nor on standard input")
    with StarChat.load(model, n_threads=threads, n_ctx=ctx) as loaded:
        dialogue = Dialogue(loaded, system, sampling)
        if question is None:
            _converse(dialogue)
        else:
            dialogue.ask(question)


class Dialogue:
    """The turns so far; keeps the ids of replies, so that nothing is tokenized twice."""

    def __init__(self, model: StarChat, system: str, sampling: SamplingOptions) -> None:
        """Begin with an empty history."""
        self.model = model
        self._sampling = sampling
        self._system: list[dict[str, object]] = [{"role": "system", "content": system}]
        self._turns: list[dict[str, object]] = []

    def ask(self, question: str, interruptible: bool = False) -> None:
        """Print the answer and remember it, or what there is of it when Ctrl-C ends it early."""
        asked: list[dict[str, object]] = [*self._turns, {"role": "user", "content": question}]
        answer: dict[str, object] = {"role": "assistant", "content": "", "token_ids": ()}
        with self.model.stream_chat([*self._system, *asked], **self._sampling) as stream:
            answer["content"], answer["token_ids"] = _print_stream(stream, interruptible)
        self._turns = [*asked, answer]

    def forget(self) -> None:
        """Begin again."""
        self._turns = []


def _converse(dialogue: Dialogue) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (its import gives input() line editing and a history)
    info = dialogue.model.info
    _note(
        f"{os.path.basename(info.file)} · context {info.n_ctx:,} tokens\n"
        "Ctrl-C stops an answer · /reset forgets the dialogue · /exit or Ctrl-D leaves"
    )
    while True:
        try:
            question = input("\n> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            print()
            return
        if question == "/exit":
            return
        if question == "/reset":
            dialogue.forget()
            _note("forgotten")
        elif question.startswith("/"):
            _note(f"{question}: no such command; there are /reset and /exit")
        elif question:
            try:
                dialogue.ask(question, interruptible=True)
            except StarChatError as error:
                _report(str(error))


# ---- complete -------------------------------------------------------------------------------


@app.command()
def complete(
    prompt: Annotated[
        str | None, typer.Argument(help="The text; - or nothing takes it from standard input.")
    ] = None,
    model: ModelFile = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    threads: Threads = None,
    ctx: Context = None,
) -> None:
    """Continue a text: the prompt as it is, no roles around it."""
    sampling = SamplingOptions(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    text = _read_stdin() if prompt is None or prompt == "-" else prompt
    with (
        StarChat.load(model, n_threads=threads, n_ctx=ctx) as loaded,
        loaded.stream_complete(text, **sampling) as stream,
    ):
        _print_stream(stream)


# ---- inspect --------------------------------------------------------------------------------


@app.command()
def inspect(
    file: Annotated[
        str, typer.Argument(metavar="FILE", parser=os.path.expanduser, help="A model file.")
    ],
    ctx: Annotated[
        int | None, typer.Option(help="Show the memory for a context of so many tokens.")
    ] = None,
) -> None:
    """Show what is in a file, and what is wrong with it, without loading its weights."""
    from rich.console import Console

    content = _core.inspect(file)
    n_ctx = content["n_ctx"]
    if ctx is not None and not 2 <= ctx <= n_ctx:
        problem = f"expected 2 to {n_ctx:,}, the file's own; got {ctx:,}"
        raise InvalidRequestError.of("--ctx", problem, limit=n_ctx, got=ctx)
    console = Console(highlight=False)
    console.print(_overview(content, n_ctx if ctx is None else ctx))
    console.print()
    console.print(_tensor_table(content["tensors"]))


def _overview(content: dict[str, Any], n_ctx: int) -> Any:
    from rich.table import Table

    head_dim = content["n_embd"] // content["n_head"]
    # keys and values, two bytes each
    kv_bytes = 4 * content["n_layer"] * content["n_kv_head"] * head_dim * n_ctx
    vocabulary = content["vocabulary"]
    heads = (
        "one head of keys and values" if content["multi_query"] else "as many of keys and values"
    )
    output = (
        "the input matrix" if not content["has_lm_head"] or content["lm_head_is_wte"] else "its own"
    )
    rows = {
        "file": content["path"],
        "format": f"{content['format']}, {content['weight_type']} (ftype {content['ftype']})",
        "size": _size(content["size_bytes"]),
        "parameters": f"{content['n_params']:,}",
        "layers": f"{content['n_layer']} of width {content['n_embd']:,}",
        "attention": f"{content['n_head']} heads of width {head_dim}, {heads}",
        "output matrix": output,
        "context": f"{content['n_ctx']:,} tokens",
        "vocabulary": f"{vocabulary['n_tokens']:,} tokens, {vocabulary['n_distinct']:,} distinct",
        "weights": f"{_size(content['weight_bytes'])} without repetitions",
        "memory": f"about {_size(content['weight_bytes'] + kv_bytes)} with {n_ctx:,} tokens "
        f"of context ({_size(kv_bytes)})",
    }
    if names := vocabulary.get("control_tokens"):
        rows["control tokens"] = " ".join(names)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, _plain(value))
    return table


def _tensor_table(tensors: list[dict[str, Any]]) -> Any:
    """Return one row for each kind of tensor, layers together."""
    from rich.table import Table

    kinds: dict[tuple[str, str, str], list[int]] = {}
    for tensor in tensors:
        name = re.sub(r"/h\d+/", "/h*/", tensor["name"])
        shape = " x ".join(f"{n:,}" for n in tensor["shape"])
        kinds.setdefault((name, tensor["type"], shape), []).append(tensor["size_bytes"])
    table = Table("tensor", "type", "shape", box=None, pad_edge=False, header_style="bold")
    table.add_column("count", justify="right")
    table.add_column("size", justify="right")
    for (name, type, shape), sizes in kinds.items():
        table.add_row(_plain(name), type, shape, str(len(sizes)), _size(sum(sizes)))
    return table


def _size(n_bytes: int) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= power:
            return f"{n_bytes / power:,.2f} {unit}"
    return f"{n_bytes / 1e3:,.2f} KB"


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(_printable(text))  # what a file says is no markup


# ---- bench ----------------------------------------------------------------------------------


@app.command()
def bench(
    model: ModelFile = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 256,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the answer.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Measurements; the median is shown.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print every measurement as JSON.")] = False,
    threads: Threads = None,
    ctx: Context = None,
) -> None:
    """Measure how fast a model reads and writes, and how near that is to this machine's limits."""
    from rich.console import Console
    from rich.progress import Progress

    # Nothing is spared: neither what was computed before nor what can be guessed.
    with StarChat.load(model, n_threads=threads, n_ctx=ctx, prefix_cache_bytes=0) as loaded:
        info = loaded.info
        for option, n_tokens in ("--prompt-tokens", prompt_tokens), ("--tokens", tokens):
            if n_tokens >= info.n_ctx:
                raise InvalidRequestError(
                    f"{option}: expected less than the context of {info.n_ctx:,} tokens, "
                    f"got {n_tokens:,}"
                )
        stderr = Console(stderr=True)
        with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
            task = bar.add_task("measuring", total=3 * repeat)
            measured = measure(loaded, prompt_tokens, tokens, repeat, lambda: bar.advance(task))
    if json:
        print(measured.to_json())
    else:
        _note(str(info))
        Console(highlight=False).print(_speed_table(measured))


def _speed_table(measured: Speed) -> Any:
    from rich.table import Table

    table = Table("", box=None, pad_edge=False, header_style="bold")
    for title in ("tokens", "tok/s", "spread", "rate", "limit", "share"):
        table.add_column(title, justify="right")
    for name, phase in ("read the prompt", measured.prefill), ("write the reply", measured.decode):
        limit, share, speeds = phase.limit, phase.share, phase.tokens_per_s
        table.add_row(
            name,
            f"{phase.n_tokens:,}",
            _short(statistics.median(speeds)),
            f"{_short(min(speeds))}-{_short(max(speeds))}",
            f"{_short(phase.rate / 1e9)} {phase.unit}",
            "" if limit is None else f"{_short(limit / 1e9)} {phase.unit}",
            "" if share is None else f"{share:.0%}",
        )
    return table


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


# ---- the two ends ---------------------------------------------------------------------------

_NOT_SHOWN = {code: "\ufffd" for code in (*range(9), *range(11, 32), *range(127, 160))}


def _printable(text: str) -> str:
    """Return text that cannot command a terminal: no control characters but tab and newline."""
    return text.translate(_NOT_SHOWN)


def _print_stream(stream: Stream, interruptible: bool = False) -> tuple[str, tuple[int, ...]]:
    """Print a reply as it comes; return its text and ids, also where Ctrl-C may end it."""
    is_terminal = sys.stdout.isatty()
    text = ""
    token_ids: tuple[int, ...] = ()
    with contextlib.suppress(*[KeyboardInterrupt] if interruptible else ()):
        for chunk in stream:
            text += chunk.text
            token_ids += chunk.token_ids
            sys.stdout.write(_printable(chunk.text) if is_terminal else chunk.text)
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return text, token_ids


def _read_stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8", "replace") if sys.stdin else ""


def _note(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, markup=False).print(_printable(text), style="dim")


def _report(error: str) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"error: {_printable(error)}", style="red")


def _fail(error: str) -> NoReturn:
    _report(error)
    sys.exit(1)


def main() -> NoReturn:
    """Run the command and exit with its code."""
    if sys.stdout is None:
        _fail("standard output is closed: there is nowhere to print to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold what the terminal cannot
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told
    except StarChatError as error:
        _fail(str(error))
    except OSError as error:
        # What could not be written is still in the buffer, and would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has seen enough
            sys.exit(1)
        _fail(f"standard input or output: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
