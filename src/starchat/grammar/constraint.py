r"""Constraints on a reply: a JSON Schema, regular expression, grammar or list → a compiled grammar.

llguidance (the extra `starchat[grammar]`) compiles it; the core follows it (cpp/grammar). JSON
comes out on one line as json.dumps writes it: ", " and ": ", and no other white space.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Literal

from .. import _core
from ..checks import check_limits, json_size
from ..errors import ConstraintError, InvalidRequestError, UnsupportedFeatureError, unexpected
from ..json_text import write_json
from ..limits import Limits
from ..sampling import CONSTRAINTS
from .enforcement import enforced_schema
from .helper import helper_command
from .limits import limited_schema
from .schema_problems import problem_in
from .schemas import check_exact

# Closing marks may be missing: the search shall not begin again within what they would close.
# Literals, comments and expressions are matched too: what looks like a schema in them is none.
_SCHEMA_IN_LARK = re.compile(
    r""""[^"\\\n]*(?:\\.[^"\\\n]*)*"?|(?://|\#)[^\n]*|/[^/\\\n]*(?:\\.[^/\\\n]*)*/?"""
    r"|(?P<json>%json\s*\{)"
)
_MOST_GBNF = 1 << 18  # bytes: of objects of its parser, Python's garbage collector holds the GIL
_MOST_WRITTEN = 1 << 22  # bytes that the core compiles
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A checked constraint; `keyword` is what the caller gave it as.

    >>> Constraint.from_options({"choice": ["yes", "no"]}).text
    'start: "yes" | "no"'
    """

    keyword: str
    kind: Literal["json_schema", "regex", "lark"]
    text: str

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], bounds: Limits | None = None
    ) -> Constraint | None:
        """Return the one constraint among a call's keywords, None where there is none.

        Raises InvalidRequestError for more than one and for a wrong type, ConstraintError for
        what cannot be a constraint.
        """
        given = [name for name in CONSTRAINTS if options.get(name) is not None]
        if not given:
            return None
        if len(given) > 1:
            problem = f"{' and '.join(given)}: expected at most one constraint"
            raise InvalidRequestError(problem, param=given[1], limit=1, got=len(given))
        name = given[0]
        value = options[name]
        bounds = bounds or Limits()
        if name == "json_schema":
            limits = check_limits("schema_limits", options.get("schema_limits") or {})
            return cls(name, "json_schema", json_text(value, name, limits, bounds))
        if name == "choice":
            return cls(name, "lark", _choice(value, bounds))
        text = _text(name, value, bounds)
        if name == "regex":
            return cls(name, "regex", text)
        return cls(name, "lark", _lark(text))

    def compile(self, engine: _core.Engine, bounds: Limits | None = None) -> _core.Grammar:
        """Return the grammar for an engine's vocabulary; the latest ones are kept.

        Raises ConstraintError where it is wrong, unsatisfiable, unsupported or beyond `bounds`,
        OutOfMemoryError, and UnsupportedFeatureError without llguidance.
        """
        bounds = bounds or Limits()
        try:
            return engine.compile(
                library(),
                self.kind,
                self.text,
                helper=helper_command(),
                seconds=bounds.compile_seconds,
                bytes=bounds.compile_bytes,
                cache_bytes=bounds.grammar_cache_bytes,
                copy_bytes=bounds.grammar_copy_bytes,
            )
        except ConstraintError as error:
            problem = str(error)
            if self.kind == "json_schema" and error.limit is None:
                problem = problem_in(json.loads(self.text), problem) or problem
            raise ConstraintError.of(
                self.keyword, problem, limit=error.limit, got=error.got
            ) from None


def json_text(
    schema: object,
    where: str = "json_schema",
    limits: Mapping[str, int] | None = None,
    bounds: Limits | None = None,
) -> str:
    """Return a schema as the JSON that llguidance compiles, also behind `%json` in a grammar.

    True stands for any object; `limits` bound what the schema leaves open, `bounds` the schema.

    >>> json.loads(json_text({"type": "integer"}))["type"]
    'integer'
    """
    if schema is True:
        schema = {"type": "object"}
    if not isinstance(schema, Mapping):
        raise unexpected(where, "a JSON Schema as a dict, or True for any object", schema)
    bounds = bounds or Limits()
    bounds.check_schema(where, schema)
    try:
        # As it is compiled: tuples are lists, enums are numbers.
        plain = json.loads(write_json({**schema, "x-guidance": _JSON}, allow_nan=False))
        check_exact(plain, where)
        plain = limited_schema(plain, limits or {})
        enforced = enforced_schema(plain, _MOST_WRITTEN)
        if enforced is None:
            problem = f"what a grammar enforces of it has more than {_MOST_WRITTEN:,} bytes: "
            problem += "use shorter lists of distinct values, and fewer formats"
            raise ConstraintError.of(where, problem, limit=_MOST_WRITTEN)
        return write_json(enforced)
    except ConstraintError:
        raise
    except RecursionError:
        raise ConstraintError.of(where, "the schema is no JSON: nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise ConstraintError.of(where, f"the schema is no JSON: {error}") from error


def _choice(value: object, bounds: Limits) -> str:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        raise unexpected("choice", "a list of at least one string", value)
    most = bounds.schema_bytes
    if len(value) > most or json_size(list(value), most) > most:
        raise bounds.too_large("choice", remedy="give fewer or shorter texts")
    texts = [_text(f"choice[{index}]", text, bounds) for index, text in enumerate(value)]
    listed = " | ".join(map(json.dumps, texts))  # in ASCII: Lark takes no raw U+007F
    # llguidance's parser follows at most 2,000 alternatives at a time, its lexer any number.
    return f"start: {listed}" if len(texts) <= 1000 else f"start: TEXT\nTEXT: {listed}"


def _lark(text: str) -> str:
    """Return Lark as it is, and GBNF, which has rules of the form `name ::= …`, as Lark."""
    if "::=" not in text:
        return _SCHEMA_IN_LARK.sub(_without_white_space, text) if "%json" in text else text
    if (got := len(text)) > _MOST_GBNF:
        problem = f"expected at most {_MOST_GBNF:,} characters of GBNF, got {got:,}: write it as "
        raise ConstraintError.of("grammar", f"{problem}Lark", limit=_MOST_GBNF, got=got)
    to_lark = _gbnf_converter()
    try:
        return str(to_lark(text))
    except Exception as error:  # its parser raises many classes
        raise ConstraintError.of("grammar", f"this GBNF cannot be read: {error!s:.400}") from error


def _without_white_space(match: re.Match[str]) -> str:
    """Return `%json` and what opens its schema, which says how it is written if it did not."""
    if not match["json"]:
        return match[0]
    try:
        schema, _ = json.JSONDecoder().raw_decode(match.string, match.end() - 1)
    except (ValueError, RecursionError):  # llguidance says what is wrong
        return match[0]
    if "x-guidance" in schema:
        return match[0]
    return f'{match[0]}"x-guidance": {json.dumps(_JSON)}{", " if schema else ""}'


def _text(where: str, value: object, bounds: Limits) -> str:
    if not isinstance(value, str):
        raise unexpected(where, "a string", value)
    n_bytes = len(value)
    try:
        if n_bytes <= bounds.schema_bytes:
            n_bytes = len(value.encode())
        if n_bytes > bounds.schema_bytes:
            raise bounds.too_large(where, n_bytes)
    except UnicodeEncodeError:
        problem = "has a lone surrogate, which no text can hold"
        raise ConstraintError.of(where, problem) from None
    if "\0" in value and not where.startswith("choice"):
        raise ConstraintError.of(where, "has a NUL character: write it as an escape")
    return value


def library() -> str:
    """Return the path of llguidance's shared object."""
    path = _module("_lib").origin
    assert path is not None  # it is an extension module
    return path


@functools.cache
def _gbnf_converter() -> Callable[[str], str]:
    spec = _module("gbnf_to_lark")
    assert spec.loader is not None  # it is a file
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    convert: Callable[[str], str] = converter.any_to_lark
    return convert


def _module(name: str) -> ModuleSpec:
    """Return where a module of llguidance is.

    Nothing is imported: the package reads files of its own, perhaps within an event loop.
    """
    package = importlib.util.find_spec("llguidance")
    folders = package.submodule_search_locations if package else None
    spec = PathFinder.find_spec(f"llguidance.{name}", folders) if folders else None
    if spec is None:
        raise UnsupportedFeatureError(
            'constraints need llguidance, which is missing: pip install "starchat[grammar]"'
        )
    return spec
