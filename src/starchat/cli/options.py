"""The options that commands share, each declared once: sampling's are those of SamplingParams."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields
from typing import Annotated, Any, TypeAlias, cast

import typer

from ..errors import FileAccessError, InvalidRequestError
from ..model import StarChat
from ..sampling import ReplyOptions as Keywords
from ..sampling import SamplingParams
from .terminal import note, read_stdin

Threads: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="CPU threads; by default one for each core.")
]
CheckMemory: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--check-memory/--no-check-memory",
        help="Refuse a model that does not fit into the memory that is free.",
    ),
]
GpuLayers: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Last layers that a GPU computes; auto: as many as fit, -1: all.",
    ),
]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which GPU, as of starchat devices; by default the best."),
]

Prefix: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        parser=os.path.expanduser,
        help="A file of StarChat.save_prefix: prompts that begin like it begin at once. Give it "
        "once for each.",
    ),
]

#: type of a sampling parameter → its type and place holder as an option
_KINDS = {
    "int": (int, "N"),
    "float": (float, "X"),
    "bool": (bool, None),
    "str": (list[str], "TEXT"),
}
# They name no words, or belong into the file of a schema.
_NOT_OFFERED = ("logit_bias", "logprobs", "schema_limits", "speculation", "stop_token_ids")
SAMPLING: dict[str, Field[Any]] = {
    field.name: field for field in fields(SamplingParams) if field.name not in _NOT_OFFERED
}


def kind_of(parameter: Field[Any]) -> tuple[Any, str | None]:
    """Return the type of a sampling parameter as an option, and the place holder of its value."""
    return _KINDS[re.split(r"\W", str(parameter.type))[0]]


@dataclass(slots=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FILE",
            parser=os.path.expanduser,
            help="A model file or folder, or a name as of starchat pull; by default the embedded "
            "one.",
        ),
    ] = None
    threads: Threads = None
    ctx: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens that prompt and answer may have together; by default the file's.",
        ),
    ] = None
    check_memory: CheckMemory = True
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            parser=os.path.expanduser,
            help="A smaller model of the same family, which guesses ahead: the same answers, "
            "sooner.",
        ),
    ] = None
    gpu_layers: GpuLayers = None
    device: Device = None

    def load(self, prefix_cache_bytes: int | None = None) -> StarChat:
        """Return the model; print a note where `auto` places no layer on a GPU."""
        model = StarChat.load(
            self.model,
            n_threads=self.threads,
            n_ctx=self.ctx,
            prefix_cache_bytes=prefix_cache_bytes,
            check_memory=self.check_memory,
            draft=self.draft,
            gpu_layers=self.gpu_layers,  # type: ignore[arg-type]  # text, which load() reads
            device=self.device,
        )
        if self.gpu_layers == "auto" and model.info.gpu_layers == 0:
            note("no layer is on a GPU: `starchat devices` lists them")
        return model


@contextmanager
def loaded(options: ModelOptions, prefixes: Sequence[str] | None) -> Iterator[StarChat]:
    """Return the model, with files of prefixes in its cache; close it at the end."""
    with options.load() as model:
        for path in prefixes or ():
            model.load_prefix(path, pin=True)
        yield model


def _sampling_option(parameter: Field[Any]) -> inspect.Parameter:
    type, metavar = kind_of(parameter)
    help = parameter.metadata["meaning"]
    if type in (int, float) and parameter.default is not None:
        help = f"{help} (default: {parameter.default:g})"
    return _option(parameter.name, type, metavar, help)


def _option(name: str, type: Any, metavar: str | None, help: str) -> inspect.Parameter:
    names = [f"--{name.replace('_', '-')}"]  # without a --no- for flags
    if type == list[str]:
        help = f"{help} Give it once for each."
    option = typer.Option(*names, metavar=metavar, help=help)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[type | None, option],
    )


_CONSTRAINTS = {
    "json_schema": (str, "FILE", "Answer in JSON of the schema in this file."),
    "regex": (str, "PATTERN", "Answer in text that this matches as a whole."),
    "choice": (list[str], "TEXT", "Answer one of these texts."),
    "grammar": (str, "FILE", "Answer by the grammar in this file (Lark or GBNF)."),
}


class ReplyOptions(ModelOptions):
    """Which model, and how it chooses its words."""

    __slots__ = ("keywords",)
    __signature__ = inspect.Signature(
        [
            *inspect.signature(ModelOptions, eval_str=True).parameters.values(),
            *map(_sampling_option, SAMPLING.values()),
            *(_option(name, *rest) for name, rest in _CONSTRAINTS.items()),
        ]
    )

    def __init__(self, **given: Any) -> None:
        """Read the files that the options name."""
        own = {f.name: given.pop(f.name) for f in fields(ModelOptions) if f.name in given}
        super().__init__(**own)
        keywords = {name: value for name, value in given.items() if value not in (None, [])}
        if schema := keywords.get("json_schema"):
            keywords["json_schema"] = read_json(schema, "--json-schema", "a JSON Schema")
        if grammar := keywords.get("grammar"):
            keywords["grammar"] = read_text(grammar, "--grammar")
        #: Of StarChat's methods.
        self.keywords = cast(Keywords, keywords)

    @property
    def constrained(self) -> bool:
        """Whether a constraint says what the answer looks like."""
        return not self.keywords.keys().isdisjoint(_CONSTRAINTS)


REPLY_OPTIONS = tuple(inspect.signature(ReplyOptions).parameters)


def read_text(path: str, place: str) -> str:
    """Return the text of the file that an option names; - is standard input."""
    if path == "-":
        return read_stdin()
    try:
        with open(os.path.expanduser(path), encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise FileAccessError.of(place, f"{path}: {error.strerror}") from None
    except ValueError as error:  # bytes that are no UTF-8, or a NUL in the name
        raise FileAccessError.of(place, f"{path}: expected text in UTF-8: {error}") from None


def read_json(path: str, place: str, expected: str) -> Any:
    """Return the value in a file of JSON; - is standard input."""
    try:
        return json.loads(read_text(path, place))
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError.of(place, f"{path}: expected {expected}: {error}") from None


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
