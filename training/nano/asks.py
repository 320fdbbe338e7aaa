"""Asks for calls: requests in many wordings for made-up tools, for themes, for several at once.

A request comes with the calls that answer it. Wordings name the tool or what it does, and its
arguments by name, by type or by order.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from themes import Theme
from tools import Parameter, Tool, mention, quoted
from values import ATOMIC

_NOTHING: Mapping[str, str] = MappingProxyType({})
_CARRIERS = (
    "What is {c}?|What is the value of {c}?|Call {c}.|Run {c}|Compute {c}.|{c}|Evaluate {c}."
    "|What does {c} return?|What does {c} give?|Give me {c}.|Please run {c}|I need {c}|Do {c}"
    "|What do you get for {c}?|Find out {c}.|Tell me {c}|What's {c}?|Get me the result of {c}."
).split("|")
_LEADS = (
    "Call {t}|Use {t}|Use the {t} tool|Run {t}|Invoke {t}|Please call {t}|Call the tool {t}|{t}"
    "|I want you to use {t}|Use the tool {t}|Execute {t}|Do a {t}|Start {t}|Make a call of {t}"
).split("|")
_DEEDS = (
    "{V} a {n}|{V} the {n}|{V} one {n}|Please {v} the {n}|Can you {v} the {n}|I want to {v} a {n}"
    "|Could you {v} a {n}|{V} {n}|I need to {v} the {n}|Let us {v} the {n}|Help me {v} a {n}"
    "|{V} my {n}|Would you {v} the {n}|{V} a new {n}|Now {v} the {n}|We have to {v} the {n}"
).split("|")
_ON = " on | for | with | of | in |: | about ".split("|")
_ASKED = (
    "What is the {n} of {x}?|What is the {n} for {x}?|{N} of {x}|Tell me the {n} of {x}"
    "|How is the {n} in {x}?|{N} for {x}?|What's the {n} in {x}?|Show me the {n} of {x}"
    "|Look up the {n} of {x}|I need the {n} for {x}|Give me the {n} of {x}|{n} {x}"
).split("|")
_PAIRS = (
    "{p} {x}|{p} {x}|{p} = {x}|{p}={x}|{p}: {x}|the {p} is {x}|{x} as {p}|{p} set to {x}|{p} is {x}"
).split("|")
_ENDS = "|||||||| please| please| with the tool|. Use the tool.|. Use the tool."
_ORDERS = "|||| Use the tool.| Use the tool.| Use a tool.| You must call the tool."
_STARTS = "||||||||||Please |Ok, |Now |Hi! |Hello, |And |Next: |Thanks. |Great. |First, |Hey, "


def request(
    tool: Tool, theme: Theme | None, rng: random.Random, said: Mapping[str, str] = _NOTHING
) -> tuple[str, dict[str, Any]]:
    """Return a request for one call, and its arguments; `said` overrides how values are put."""
    if theme and rng.random() < 0.75:
        text, arguments = theme.request(tool, rng, said)
    else:
        arguments = tool.arguments(rng)
        for name in said:
            parameter = next(p for p in tool.parameters if p.name == name)
            arguments.setdefault(name, parameter.value(rng))
        arguments = {p.name: arguments[p.name] for p in tool.parameters if p.name in arguments}
        text = _made_up_request(tool, arguments, rng, said)
    if rng.random() < 0.25:
        start = rng.choice(_STARTS.split("|"))
        text = start + (text[0].lower() + text[1:] if start and tool.name not in text else text)
    if rng.random() < 0.06 and text.isascii():
        lowered = text.lower()
        if all(str(value) in lowered for value in arguments.values()):
            text = lowered
    return text, arguments


def _made_up_request(
    tool: Tool, arguments: Mapping[str, Any], rng: random.Random, said: Mapping[str, str]
) -> str:
    chosen = [p for p in tool.parameters if p.name in arguments]
    simple = all(p.kind not in ("strings", "integers", "object") for p in chosen)
    in_order = all(p.required for p in tool.parameters) or chosen == list(tool.parameters)
    kinds = {p.kind for p in chosen}
    tellable = len(kinds) == len(chosen) <= 2 and kinds & {"integer", "number"} and kinds & ATOMIC
    styles = ["pairs"] * 3 + ["code"] * (2 if simple else 1)
    if not chosen and rng.random() < 0.5:
        return rng.choice(_CARRIERS).format(c=f"{tool.name}()") + _order(rng)
    if not chosen:
        return _lead(tool, rng) + rng.choice(("", "()", ".", ".", "?", "!", " now", " please"))
    if len(chosen) == 1:
        styles += ["single"] * 6 + (["asked"] * 6 if tool.noun else [])
    elif (in_order or tellable) and simple and len(chosen) < 4:
        styles += ["order"] * 2
    match rng.choice(styles):
        case "code":
            asked = _code(tool, chosen, arguments, in_order, rng, said)
            return rng.choice(_CARRIERS).format(c=asked) + _order(rng)
        case "single":
            shown = _shown(chosen[0], arguments, rng, said, True)
            lead, on = _lead(tool, rng), rng.choice(_ON)
            if rng.random() < 0.15 and chosen[0].kind != "integer":
                on = " "
            return f"{lead}{on}{shown}{_end(rng)}"
        case "asked":
            shown = _shown(chosen[0], arguments, rng, said, True)
            words = {"n": tool.noun, "N": tool.noun.capitalize(), "x": shown}
            return _format(rng.choice(_ASKED), words)
        case "order":
            if not tellable or (in_order and rng.random() < 0.5):
                ordered = chosen
            else:
                ordered = rng.sample(chosen, len(chosen))
            values = [_shown(p, arguments, rng, said, False) for p in ordered]
            middle = rng.choice((" and ", ", ", " and ", " to ", " by "))
            return f"{_lead(tool, rng)}{rng.choice(_ON)}{_joined(values, middle)}{_end(rng)}"
    ordered = rng.sample(chosen, len(chosen)) if rng.random() < 0.6 else chosen
    uniform = rng.choice(_PAIRS) if rng.random() < 0.5 else ""
    pairs = []
    for p in ordered:
        name = p.name if rng.random() < 0.5 else p.name.replace("_", " ")
        frame = uniform or rng.choice(_PAIRS)
        pairs.append(_format(frame, {"p": name, "x": _shown(p, arguments, rng, said, False)}))
    lead = _lead(tool, rng) + rng.choice((" with ", " with ", ": ", ", ", " where ", " using "))
    return lead + _joined(pairs, rng.choice((" and ", ", ", ", and ", "; "))) + _end(rng)


def _lead(tool: Tool, rng: random.Random) -> str:
    if tool.verb and tool.noun and rng.random() < 0.5:
        words = {"v": tool.verb, "V": tool.verb.capitalize(), "n": tool.noun}
        return _format(rng.choice(_DEEDS), words)
    name = tool.name if rng.random() < 0.8 else tool.name.replace("_", " ")
    return rng.choice(_LEADS).replace("{t}", name)


def _code(
    tool: Tool,
    chosen: Sequence[Parameter],
    arguments: Mapping[str, Any],
    in_order: bool,
    rng: random.Random,
    said: Mapping[str, str],
) -> str:
    mark = rng.choice(('""', "''"))

    def literal(p: Parameter) -> str:
        if p.name in said:
            return said[p.name]
        value = arguments[p.name]
        if isinstance(value, str):
            mark_of = '""' if "'" in value else mark
            return f"{mark_of[0]}{value}{mark_of[1]}"
        return quoted(value, rng)

    if in_order and rng.random() < 0.6:
        return f"{tool.name}({', '.join(literal(p) for p in chosen)})"
    ordered = rng.sample(chosen, len(chosen)) if rng.random() < 0.3 else chosen
    return f"{tool.name}({', '.join(f'{p.name}={literal(p)}' for p in ordered)})"


def _shown(
    p: Parameter,
    arguments: Mapping[str, Any],
    rng: random.Random,
    said: Mapping[str, str],
    last: bool,
) -> str:
    return said.get(p.name) or mention(p, arguments[p.name], rng, last)


def _joined(parts: Sequence[str], middle: str) -> str:
    if len(parts) > 2 and middle not in (", ", "; "):
        return ", ".join(parts[:-1]) + middle + parts[-1]
    return middle.join(parts)


def _end(rng: random.Random) -> str:
    return rng.choice(_ENDS.split("|"))


def _order(rng: random.Random) -> str:
    return rng.choice(_ORDERS.split("|"))


def _format(frame: str, words: Mapping[str, str]) -> str:
    """Fill a frame without looking into the values for braces."""
    parts = frame.split("{")
    return parts[0] + "".join(words[part[0]] + part[2:] for part in parts[1:])


def same_tool(
    tool: Tool, theme: Theme | None, rng: random.Random
) -> tuple[str, list[dict[str, Any]]] | None:
    """Return a request for several calls of one tool, as in "the weather in Oslo and Rome"."""
    if len(tool.parameters) != 1 or tool.parameters[0].kind not in ATOMIC | {"integer", "number"}:
        return None
    parameter = tool.parameters[0]
    drawn = [parameter.value(rng) for _ in range(rng.choices((2, 3), (4, 1))[0])]
    shown = [str(value) for value in drawn]
    if rng.random() < 0.3 and isinstance(drawn[0], str):
        shown = [f"'{value}'" for value in shown]
    joined = (
        ", ".join(shown[:-1]) + rng.choice((" and ", " and ", " and for ", ", and ")) + shown[-1]
    )
    text, _ = request(tool, theme, rng, {parameter.name: joined})
    return (text, [{parameter.name: value} for value in drawn]) if joined in text else None
