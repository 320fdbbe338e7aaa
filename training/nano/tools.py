"""Makes tools that no model has seen, arguments for them, and the lines of the dialogue form.

A tool has a name, a description and a JSON schema in one of the shapes that frameworks write.
`system_text`, `call_line` and `result_line` are the form of docs/tools.md.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from json.decoder import scanstring
from typing import Any

import values
from values import ATOMIC, STRINGS, identifier, noun, verb

Call = tuple[str, dict[str, Any]]
_DECODER = json.JSONDecoder()
_KINDS = {  # of made-up parameters
    **dict.fromkeys(("word", "phrase", "integer"), 14),
    **dict.fromkeys(("person", "place", "script", "number", "sentence", "code", "path"), 6),
    **dict.fromkeys(("email", "url", "date", "clock", "boolean", "enum"), 4),
    **dict.fromkeys(("strings", "integers", "object", "expression", "identifier"), 3),
}

_TYPES = {"integer": "int", "number": "float", "boolean": "bool", "object": "dict"}
_TYPES |= {"strings": "list[str]", "integers": "list[int]"}


@dataclass(frozen=True)
class Parameter:
    """A parameter: what kind of value it takes, and what its schema says beside the type."""

    name: str
    kind: str
    required: bool = True
    description: str = ""
    choices: tuple[str, ...] = ()  # of an enum
    fields: tuple[Parameter, ...] = ()  # of an object

    def value(self, rng: random.Random) -> Any:
        """Return a value for it."""
        match self.kind:
            case "integer":
                return values.integer(rng)
            case "number":
                return values.number(rng)
            case "boolean":
                return rng.random() < 0.5
            case "enum":
                return rng.choice(self.choices)
            case "strings":
                make = rng.choice((values.word, values.person, values.place))
                return [make(rng) for _ in range(rng.randint(1, 3))]
            case "integers":
                return [values.integer(rng) for _ in range(rng.randint(1, 4))]
            case "object":
                return {field.name: field.value(rng) for field in self.fields}
            case _:
                return STRINGS[self.kind](rng)

    def schema(self, rng: random.Random, style: int) -> dict[str, Any]:
        """Return its JSON schema, written in one of the frameworks' styles."""
        match self.kind:
            case "integer" | "number" | "boolean":
                schema: dict[str, Any] = {"type": self.kind}
            case "enum":
                schema = {"enum": list(self.choices), "type": "string"}
            case "strings":
                schema = {"items": {"type": "string"}, "type": "array"}
            case "integers":
                schema = {"items": {"type": "integer"}, "type": "array"}
            case "object":
                schema = object_schema(self.fields, rng, style)
            case _:
                schema = {"type": "string"}
        if self.kind in ("integer", "number") and rng.random() < 0.06:
            low, high = -abs(values.integer(rng)) - 10**7, abs(values.integer(rng)) + 10**7
            schema |= {"minimum": low} if rng.random() < 0.5 else {"exclusiveMaximum": high}
        if not self.required and self.kind != "object":
            form = rng.random()
            if form < 0.45:
                schema = {"anyOf": [schema, {"type": "null"}], "default": None}
            elif form < 0.75:
                schema |= {"default": self.value(rng)}
        if self.description:
            schema |= {"description": self.description}
        return schema if style % 2 else dict(sorted(schema.items()))


@dataclass(frozen=True)
class Tool:
    """A tool with its parameters in schema order; `style` is how its schema is written."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    verb: str = ""  # what it does, in words that a request may use
    noun: str = ""

    def arguments(self, rng: random.Random) -> dict[str, Any]:
        """Return arguments: all the required ones and some of the others, in schema order."""
        return {
            parameter.name: parameter.value(rng)
            for parameter in self.parameters
            if parameter.required or rng.random() < 0.4
        }

    def definition(self, rng: random.Random, style: int) -> dict[str, Any]:
        """Return its definition as a framework would write it."""
        definition: dict[str, Any] = {"name": self.name}
        description = self.description
        if rng.random() < 0.12:  # as LlamaIndex begins it
            shown = ", ".join(f"{p.name}: {_TYPES.get(p.kind, 'str')}" for p in self.parameters)
            description = f"{self.name}({shown}) -> {rng.choice(('str', 'int'))}\n{description}"
        if description:
            definition["description"] = description
        return definition | {"parameters": object_schema(self.parameters, rng, style)}


def object_schema(
    parameters: Sequence[Parameter], rng: random.Random, style: int
) -> dict[str, Any]:
    """Return the schema of an object with these properties; styles 0 to 3 differ in order."""
    properties = {p.name: p.schema(rng, style) for p in parameters}
    required = [p.name for p in parameters if p.required]
    if style % 2:
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        return schema | ({"required": required} if required else {})
    schema = {"properties": properties} | ({"required": required} if required else {})
    extra = {"additionalProperties": False} if style == 2 else {}
    return extra | schema | {"type": "object"}


def made_up(rng: random.Random, like: Tool | None = None) -> Tool:
    """Return a tool with made-up words in its names; its verb is that of the tool `like`."""
    act, thing = verb(rng), noun(rng)
    if like:
        act = like.verb or act
    name = rng.choice(
        (f"{act}_{thing}",) * 6
        + (f"{thing}_{act}", f"{thing}_tool", f"{act}", f"{thing}", f"{act}{thing.capitalize()}")
        + (f"{act}_{thing}_{noun(rng)}", f"{act.capitalize()}{thing.capitalize()}")
        + (f"{thing}_{noun(rng)}",)
    )
    n_parameters = rng.choices((0, 1, 2, 3, 4), (6, 42, 32, 14, 6))[0]
    parameters = _parameters(rng, n_parameters)
    return Tool(name, _description(rng, act, thing, parameters), parameters, act, thing)


def _parameters(rng: random.Random, n: int, depth: int = 0) -> tuple[Parameter, ...]:
    names: list[str] = []
    while len(names) < n:
        short = rng.random() < 0.12
        name = rng.choice("abcdknqrstxyz") if short else identifier(rng)
        if name not in names:
            names.append(name)
    n_required = n if rng.random() < 0.8 else rng.randint(0, n)
    described = rng.random() < 0.3
    made = []
    for i, name in enumerate(names):
        kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        if depth and kind in ("object", "strings", "integers"):
            kind = "word"
        choices: tuple[str, ...] = ()
        fields: tuple[Parameter, ...] = ()
        if kind == "enum":
            choices = tuple({noun(rng): 0 for _ in range(rng.randint(2, 4))})
        if kind == "object":
            fields = _parameters(rng, rng.randint(1, 2), 1)
            fields = tuple(replace(inner, required=True) for inner in fields)
        description = _about(rng, name) if described and rng.random() < 0.8 else ""
        made.append(Parameter(name, kind, i < n_required, description, choices, fields))
    return tuple(made)


def _about(rng: random.Random, name: str) -> str:
    words = name.replace("_", " ")
    frame = "The {w}|The {w} of the {n}.|{w} to {v}|A {w}|which {w} to use|Name of the {w}"
    text = rng.choice(frame.split("|"))
    return text.format(w=words, n=noun(rng), v=verb(rng))


def _description(rng: random.Random, act: str, thing: str, parameters: Sequence[Parameter]) -> str:
    frames = (
        "{V} the {n}.|{V} a {n}.|{V} {n}s.|{V} a {n}|Tool that can {v} a {n}.|Use it to {v} the {n}."
        "|{V} the {n} of something.|Returns the {n}.|The {n} tool.|{V} one {n} by its {p}.|"
    )
    first = parameters[0].name.replace("_", " ") if parameters else "name"
    frame = rng.choice(frames.split("|"))
    text = frame.format(V=act.capitalize(), v=act, n=thing, p=first)
    if text and parameters and rng.random() < 0.06:
        lines = [f"    {p.name}: {_about(rng, p.name)}" for p in parameters]
        text += "\n\nArgs:\n" + "\n".join(lines)
        if rng.random() < 0.5:
            text += f"\n\nReturns:\n    The {thing}."
    return text


# ---- the dialogue form ----------------------------------------------------------------------


def line(value: Mapping[str, Any]) -> str:
    """Return JSON on one line, as the dialogue form writes it."""
    return json.dumps(value, ensure_ascii=False)


def system_text(system: str, definitions: Sequence[Mapping[str, Any]]) -> str:
    """Return the system turn: the caller's text, then the tools."""
    text = "Tools:\n" + "\n".join(map(line, definitions))
    text += "\nTo call tools, reply with one line for each call:\n"
    text += '<tool_call>{"name": "…", "arguments": {…}}'
    return f"{system}\n\n{text}" if system else text


def call_lines(calls: Sequence[Call]) -> str:
    """Return the reply that makes these calls."""
    return "\n".join(f"<tool_call>{line({'name': n, 'arguments': a})}" for n, a in calls)


def open_spans(text: str, tools: Sequence[Tool]) -> list[tuple[int, int]]:
    """Return where the grammar of calls leaves a choice in the lines of calls: spans of `text`.

    That is whether to call, the tool, what optional parameters there are, and the values.
    """
    spans, start = [], 0
    for row in text.split("\n"):
        spans.append((max(0, start - 1), start + len("<tool_call>")))
        begin = row.index('"name": "') + 9
        name, _ = scanstring(row, begin)
        shared = [_n_shared(name, tool.name) for tool in tools if tool.name != name]
        if shared:
            spans.append((start + begin, start + begin + max(shared) + 1))
        chosen = next(tool for tool in tools if tool.name == name)
        is_free = not all(parameter.required for parameter in chosen.parameters)
        _, found = _open_in_object(row, row.index('"arguments": ') + 13, is_free)
        spans += [(start + first, start + end) for first, end in found]
        start += len(row) + 1
    return spans


def _n_shared(a: str, b: str) -> int:
    """Return how many characters two names have in common at their beginning."""
    differs = (i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1])
    return next(differs, min(len(a), len(b)))


def _open_in_object(row: str, at: int, is_free: bool) -> tuple[int, list[tuple[int, int]]]:
    """Return the end of the object at `at`, and the spans in it; `is_free`: some keys may miss."""
    spans = []
    at += 1
    while row[at] != "}":
        at += 2 * (row[at] == ",")
        begin = at
        _, at = scanstring(row, at + 1)
        if is_free:
            spans.append((begin, at))
        begin = at = at + 2
        if row[at] == "{":
            at, inner = _open_in_object(row, at, False)
            spans += inner
        else:
            _, at = _DECODER.raw_decode(row, at)
            spans.append((begin - 1, at + 1))  # " -" is one token; what follows says that it ends
    if is_free:
        spans.append((at, at + 1))
    return at + 1, spans


def result_lines(results: Sequence[tuple[str, str]]) -> str:
    """Return the user turn that gives the results of calls, (name, result) each."""
    return "\n".join(f"<tool_result>{line({'name': n, 'result': r})}" for n, r in results)


# ---- how a request may say a value ----------------------------------------------------------


def mention(parameter: Parameter, value: Any, rng: random.Random, last: bool = False) -> str:
    """Return how a request says a value; `last`: nothing follows that could be taken for it."""
    match value:
        case bool():
            return rng.choice(
                ("true", "true", "on", "yes") if value else ("false", "false", "off", "no")
            )
        case int() | float():
            return str(value)
        case list():
            shown = [str(item) for item in value]
            if rng.random() < 0.35:
                return line(value)  # type: ignore[arg-type]
            if len(shown) > 1 and rng.random() < 0.7:
                return ", ".join(shown[:-1]) + rng.choice((" and ", ", and ")) + shown[-1]
            return ", ".join(shown)
        case dict():
            if rng.random() < 0.4:
                return line(value)
            pairs = [f"{k.replace('_', ' ')} {quoted(v, rng)}" for k, v in value.items()]
            return ", ".join(pairs[:-1]) + (" and " if pairs[1:] else "") + pairs[-1]
    free = parameter.kind in ATOMIC or parameter.kind == "enum" or last
    return value if free and rng.random() < 0.65 else quoted(value, rng)


def quoted(value: Any, rng: random.Random) -> str:
    """Return a string in some quotation marks, anything else as JSON."""
    if not isinstance(value, str):
        return line(value)
    left, right = rng.choice(('""', "''"))
    if left in value or right in value:
        left = right = '"'
    return f"{left}{value}{right}"
