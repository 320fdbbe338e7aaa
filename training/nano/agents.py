"""Generates dialogues with tools: calls, their results, answers, and requests that need no call.

Calls may be parallel, or one may need another's result. Greetings, how-tos and requests that no
tool fits get the replies of a dialogue without tools.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import values
from asks import request, same_tool
from dialogues import SYSTEMS, Dialogue, question
from filler import code, passage
from smalltalk import FALLBACK, small_talk, unknown
from themes import THEMES, Theme, disguised
from tools import (
    Call,
    Parameter,
    Tool,
    call_lines,
    line,
    made_up,
    mention,
    open_spans,
    result_lines,
    system_text,
)
from topics import TOPICS

_SYSTEMS = (
    *SYSTEMS,
    "You are a helpful assistant with tools.",
    "You are an agent. Use the tools where they help.",
    "Use the tools to answer. Answer with the result of the tool.",
    "You are a helpful assistant that has access to several tools. Be brief.",
)
# Tools whose requests could be taken for a question about anything: refusals are not for them.
_CLOSED = [
    theme
    for theme in THEMES
    if theme.names[0] in ("list_directory", "get_user", "get_order", "run_sql", "book_table")
    or theme.names[0]
    in ("set_timer", "turn_on_light", "convert_units", "create_user", "write_file")
]
# Requests for sums may hold no word of a tool's: "What is 2 + 3?" is for none without parameters.
_SUMS = [theme for theme in THEMES if theme.names[0] in ("add", "multiply", "calculator")]
_BARE = [theme for theme in THEMES if not theme.parameters]
_TURNS = {
    **{"call": 44, "parallel": 13, "same": 6, "chain": 5, "how-to": 7, "talk": 4, "unknown": 7},
    **{"missing": 5, "forced": 9},
}


@dataclass
class Agent:
    """A dialogue under construction: the tools that it may call, and the turns so far."""

    rng: random.Random
    tools: list[tuple[Tool, Theme | None]]
    messages: list[tuple[str, str]] = field(default_factory=list)
    learned: set[int] = field(default_factory=set)
    given: dict[int, str] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)  # of replies, for evaluation
    open: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def user(self, text: str) -> None:
        """Add a user turn."""
        self.messages.append(("user", text))

    def reply(self, text: str, kind: str, given: str = "") -> None:
        """Add a reply to learn; its beginning may be given."""
        index = len(self.messages)
        self.learned.add(index)
        self.kinds[index] = kind
        if given:
            self.given[index] = given
        if text.startswith("<tool_call>"):
            self.open[index] = open_spans(text, [tool for tool, _ in self.tools])
        self.messages.append(("assistant", text))


def agent_dialogue(rng: random.Random, n_turns: int = 0, kind: str = "") -> Agent:
    """Return a dialogue of one to five exchanges with one to six tools."""
    n_tools = rng.choices((1, 2, 3, 4), (38, 28, 24, 10))[0]
    agent = Agent(rng, _tools(rng, n_tools))
    style = rng.randrange(4)
    definitions = [tool.definition(rng, style) for tool, _ in agent.tools]
    system = rng.choice(_SYSTEMS) if rng.random() < 0.35 else ""
    if rng.random() < 0.06:
        system = passage(rng, rng.randint(3, 30))
    agent.messages.append(("system", system_text(system, definitions)))
    for _ in range(n_turns or rng.choices((1, 2, 3, 4, 5), (28, 28, 20, 14, 10))[0]):
        _turn(agent, kind or rng.choices(list(_TURNS), list(_TURNS.values()))[0])
    return agent


def _tools(rng: random.Random, n_tools: int) -> list[tuple[Tool, Theme | None]]:
    """Return tools with different names; a made-up one may resemble the one before it."""
    tools: list[tuple[Tool, Theme | None]] = []
    share = 0.0 if isinstance(rng, values.HeldOut) else rng.choice((0.0, 0.5, 0.5, 1.0))
    given = []
    if share and rng.random() < 0.15:
        given = rng.sample((rng.choice(_SUMS), rng.choice(_BARE)), 2)
    while len(tools) < n_tools or given:
        theme = rng.choice(THEMES) if rng.random() < share else None
        if given:
            theme = given.pop()
        elif theme and rng.random() < 0.4:
            theme = disguised(theme, rng)
        like = tools[-1][0] if tools and rng.random() < 0.15 else None
        tool = theme.tool(rng) if theme else made_up(rng, like)
        is_new = theme is None or all(theme is not other for _, other in tools)
        is_new &= not tool.noun or tool.noun not in [other.noun for other, _ in tools]
        if is_new and tool.name not in [other.name for other, _ in tools]:
            tools.append((tool, theme))
    return tools


def _turn(agent: Agent, kind: str) -> None:
    rng = agent.rng
    match kind:
        case "how-to":
            topic = rng.choice(TOPICS)
            agent.user(question(topic, rng))
            agent.reply(topic.reply, "answer")
        case "talk":
            message, reply = small_talk(rng)
            agent.user(message)
            agent.reply(reply, "answer")
        case "unknown" | "missing":
            message = _unfit(agent, kind)
            if message:
                agent.user(message)
                agent.reply(FALLBACK, "answer")
            else:
                _turn(agent, "call")
        case "forced":
            tool, _ = rng.choice(agent.tools)
            if tool.parameters and rng.random() < 0.8:
                arguments = tool.arguments(rng)
                message = stated(tool.parameters, arguments, rng)
            else:
                message = (small_talk(rng) if rng.random() < 0.6 else unknown(rng))[0]
                arguments = fill(tool.parameters, message)
            reply = call_lines([(tool.name, arguments)])
            agent.user(message)
            agent.reply(reply, "forced", reply[: reply.index('"arguments":') + 12])
        case "chain":
            if not _chain(agent):
                _turn(agent, "call")
        case _:
            text, calls = _request(agent, kind)
            agent.user(text)
            agent.reply(call_lines(calls), "call")
            _results(agent, calls)


def _request(agent: Agent, kind: str) -> tuple[str, list[Call]]:
    """Return a request and the calls that it asks for."""
    rng = agent.rng
    tool, theme = rng.choice(agent.tools)
    if kind == "same" and (asked := same_tool(tool, theme, rng)):
        text, all_arguments = asked
        return text, [(tool.name, arguments) for arguments in all_arguments]
    text, arguments = request(tool, theme, rng)
    calls = [(tool.name, arguments)]
    if kind != "parallel":
        return text, calls
    joint = rng.choice((" and ", ", and ", ". ", "; ", " and also ", ". Then ", ". Also, ", "\n"))
    for _ in range(rng.choices((1, 2), (6, 1))[0]):
        tool, theme = rng.choice(agent.tools)
        if not tool.parameters and tool.name in [name for name, _ in calls]:
            continue  # nobody asks twice for the same
        more, arguments = request(tool, theme, rng)
        if joint[0] != "." and tool.name not in more:
            more = more[0].lower() + more[1:]
        text = text.rstrip("." if joint != "\n" else "") + joint + more
        calls.append((tool.name, arguments))
    return text, calls


def _unfit(agent: Agent, kind: str) -> str:
    """Return a message that none of the tools is for, or nothing if that is not certain."""
    rng = agent.rng
    if any(theme and theme not in _CLOSED for _, theme in agent.tools):
        return ""
    if kind == "unknown":
        return unknown(rng)[0]
    words = {word for tool, _ in agent.tools for word in (tool.verb, tool.noun)}
    if rng.random() < 0.4:
        theme = rng.choice(THEMES)
        themes = [other for _, other in agent.tools]
        return "" if theme in themes else request(theme.tool(rng), theme, rng)[0]
    tool = made_up(rng)
    if {tool.verb, tool.noun} & words or tool.name in [other.name for other, _ in agent.tools]:
        return ""
    return request(tool, None, rng)[0]


def _chain(agent: Agent) -> bool:
    """Add a request whose second call takes the result of the first; tell whether one fits."""
    rng = agent.rng
    targets = [
        (tool, theme, parameter)
        for tool, theme in agent.tools
        for parameter in tool.parameters
        if parameter.required and parameter.kind in ("integer", "number", "word", "person", "code")
    ]
    if not targets:
        return False
    tool, theme, parameter = rng.choice(targets)
    said = rng.choice(("the result", "that", "the result", "its result", "the answer", "it"))
    second, arguments = request(tool, theme, rng, {parameter.name: said})
    if parameter.name not in arguments or said not in second:
        return False
    first_tool, first_theme = rng.choice(agent.tools)
    first, first_arguments = request(first_tool, first_theme, rng)
    joint = rng.choice((", then ", ". Then ", " and then ", ", and then "))
    if joint[0] != "." and tool.name not in second:
        second = second[0].lower() + second[1:]
    value = parameter.value(rng)
    agent.user(first.rstrip(".?!") + joint + second)
    agent.reply(call_lines([(first_tool.name, first_arguments)]), "call")
    agent.user(result_lines([(first_tool.name, str(value))]))
    calls = [(tool.name, arguments | {parameter.name: value})]
    agent.reply(call_lines(calls), "call")
    _results(agent, calls)
    return True


# ---- results and answers --------------------------------------------------------------------


def _results(agent: Agent, calls: Sequence[Call]) -> None:
    """Add the results of calls and the answer that states them; at times the dialogue moves on."""
    if agent.rng.random() < 0.3 and not isinstance(agent.rng, values.HeldOut):
        return
    results = [(name, result(agent.rng)) for name, _ in calls]
    agent.user(result_lines(results))
    agent.reply(answer(results), "result")


def listing(rng: random.Random) -> str:
    """Return lines as a search in files, or a file of settings, has them."""
    if rng.random() < 0.5:
        rows = [
            f"{values.path(rng)}:{rng.randint(1, 999)}: {rng.choice(code(rng).strip().splitlines())}"
            for _ in range(rng.choice((1, 1, 2, 3)))
        ]
    else:
        rows = [f"[{values.identifier(rng)}{rng.choice(('', '-' + values.noun(rng)))}]"]
        for _ in range(rng.randint(1, 3)):
            value = rng.choice((values.word, values.phrase, values.path, values.integer_text))(rng)
            rows.append(
                rng.choice(('{} = "{}"', '{} = ["{}"]', "{}: {}")).format(values.noun(rng), value)
            )
    return "\n".join(rows)


def result(rng: random.Random) -> str:
    """Return what a tool may return."""
    if not isinstance(rng, values.HeldOut) and rng.random() < 0.15:
        return listing(rng)
    match rng.choices(range(9), (28, 8, 14, 20, 7, 8, 9, 5, 2))[0]:
        case 0:
            return str(values.integer(rng))
        case 1:
            return str(values.number(rng))
        case 2:
            return values.STRINGS[
                rng.choice(("word", "person", "place", "script", "date", "path"))
            ](rng)
        case 3:
            return values.sentence(rng)
        case 4:
            names = [values.identifier(rng) for _ in range(rng.randint(1, 3))]
            return line({name: rng.choice((values.integer, values.word))(rng) for name in names})
        case 5:
            return values.phrase(rng)
        case 6:
            if rng.random() < 0.4:
                words = passage(rng, rng.randint(30, 110)).split(" ")
                width = rng.randint(4, 12)
                rows = [words[i : i + width] for i in range(0, len(words), width)]
                return "\n".join(map(" ".join, rows))
            make = code if rng.random() < 0.5 else values.sentence
            return "\n".join(make(rng).strip() for _ in range(rng.randint(2, 4)))
        case 7:
            what = values.phrase(rng) if rng.random() < 0.6 else values.sentence(rng)
            return f"Error: {what}"
        case _:
            return ""


def answer(results: Sequence[tuple[str, str]]) -> str:
    """Return the sentences that state results: (name, result) each."""
    if len(results) == 1:
        return _stated(*results[0], "The result")
    return " ".join(_stated(name, text, f"The result of {name}") for name, text in results)


def _stated(name: str, text: str, subject: str) -> str:
    first, *more = text.split("\n")
    if not text:
        return f"{name} gave no result."
    if text.startswith("Error"):
        return f"{name} failed: {first}"
    if more:
        return f"{subject} begins with: {first}"
    return text if text[-1] in ".!?" else f"{subject} is {text}."


# ---- replies in JSON, and values for what a request does not say ----------------------------


def fill(parameters: Sequence[Parameter], message: str) -> dict[str, Any]:
    """Return arguments for a message that names none: its text, and the plainest other values."""
    plain = {"integer": 1, "number": 1, "boolean": True, "strings": [message], "integers": [1]}
    arguments: dict[str, Any] = {}
    for p in parameters:
        if not p.required:
            continue
        arguments[p.name] = message
        if p.kind in plain:
            arguments[p.name] = plain[p.kind]
        elif p.kind == "enum":
            arguments[p.name] = p.choices[0]
        elif p.kind == "object":
            arguments[p.name] = fill(p.fields, message)
    return arguments


def stated(parameters: Sequence[Parameter], arguments: dict[str, Any], rng: random.Random) -> str:
    """Return a text that tells what each argument is: "the name is Ada, the age 36"."""
    shown = [p for p in parameters if p.name in arguments]
    frames = ("{p} {x}", "{p}: {x}", "{p} = {x}", "the {p} is {x}", "the {p} {x}", "the {p} {x}")
    frame = rng.choice(frames)
    parts = []
    for p in shown if rng.random() < 0.6 else rng.sample(shown, len(shown)):
        first = "the {p} is {x}" if frame == "the {p} {x}" and not parts else frame
        name = p.name.replace("_", " ")
        parts.append(first.replace("{p}", name).replace("{x}", mention(p, arguments[p.name], rng)))
    text = rng.choice((", ", ", ", "; ", " and ", "\n")).join(parts)
    return text[:1].upper() + text[1:] if rng.random() < 0.5 else text


_ASK_JSON = (
    "Answer with a JSON object with the keys {k}.|Return the result as JSON with {k} keys. Return only JSON.|Return JSON with {k}.|Reply only with JSON: {k}"
    "|Give me the {k} as JSON.|Extract {k} as a JSON object.|Respond in JSON with {k} and nothing else."
    "|Extract the {k}.|Output a JSON object that has {k}.|As JSON with the keys {k}, please."
    "|Write {k} as JSON. Do not write anything else.|Use JSON with the fields {k}."
).split("|")
_TOPICS = (
    "Tell me a {t} about {x}.|Make a {t} about {x}.|Write a {t} about {x}|Give me a {t} on {x}."
    "|I want a {t} about {x}.|Create a {t} about {x}.|Think of a {t} about {x}.|A {t} about {x}"
).split("|")


def json_dialogue(rng: random.Random) -> Agent:
    """Return a dialogue whose replies are JSON objects, by their keys or by a schema."""
    agent = Agent(rng, [])
    tool = made_up(rng)
    while not tool.parameters:
        tool = made_up(rng)
    theme = rng.choice(THEMES)
    agent.messages.append(("system", rng.choice(_SYSTEMS) if rng.random() < 0.3 else ""))
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.3 and theme.parameters:
            tool = theme.tool(rng)
            text, arguments = theme.request(tool, rng)
        else:
            arguments = tool.arguments(rng)
            text = stated(tool.parameters, arguments, rng)
        if not arguments or rng.random() < 0.35:  # nothing given: something about a topic
            tool = Tool(
                "", "", tuple(Parameter(values.noun(rng), "word") for _ in range(rng.randint(1, 3)))
            )
            topic, thing = values.noun(rng) + rng.choice(("", "s")), values.noun(rng)
            arguments = invent(tool.parameters, topic)
            text = rng.choice(_TOPICS).replace("{t}", thing).replace("{x}", topic)
        reply = line(arguments)
        mark = rng.choice(("", "", "'", "`", '"'))
        keys = [f"{mark}{key}{mark}" for key in arguments]
        joined = keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + " and " + keys[-1]
        asked = rng.choice(_ASK_JSON).replace("{k}", joined)
        if rng.random() < 0.25:
            schema = tool.definition(rng, rng.randrange(4))["parameters"]
            asked = f"Answer with JSON by this schema: {json.dumps(schema, ensure_ascii=False)}"
        given = ""
        if rng.random() < 0.2:  # a grammar made it begin
            asked, given = "", reply[: reply.index(":") + 1]
        parts = [part for part in (text, asked) if part]
        agent.user(
            rng.choice((" ", "\n", "\n\n")).join(parts if rng.random() < 0.8 else parts[::-1])
        )
        agent.reply(reply, "json", given)
    return agent


def invention(rng: random.Random) -> Agent:
    """Return a dialogue that asks for a tool's texts about a topic, as of a story or a joke."""
    named = ("Story|Fable|Quote|Slogan|Headline|Poem|Lesson|Answer|Summary|Idea|Fact|Essay").split(
        "|"
    )
    name = rng.choice(named) if rng.random() < 0.6 else values.word(rng).capitalize()
    parameters = tuple(
        Parameter(values.noun(rng), "word", True, rng.choice(("", f"the {values.noun(rng)} of it")))
        for _ in range(rng.randint(1, 3))
    )
    agent = Agent(rng, [(Tool(name, f"{name} to tell the user.", parameters), None)])
    definition = agent.tools[0][0].definition(rng, rng.randrange(4))
    agent.messages.append(("system", system_text("", [definition])))
    topic = values.noun(rng) + rng.choice(("", "s"))
    agent.user(rng.choice(_TOPICS).replace("{t}", name.lower()).replace("{x}", topic))
    agent.reply(call_lines([(name, invent(parameters, topic))]), "call")
    return agent


def invent(parameters: Sequence[Parameter], topic: str) -> dict[str, str]:
    """Return a text about a topic for each parameter."""
    return {p.name: f"The {p.name.replace('_', ' ')} of {topic}." for p in parameters}


def as_dialogue(agent: Agent) -> Dialogue:
    """Return the messages with what is to be learned of them."""
    return Dialogue(
        tuple(agent.messages), frozenset(agent.learned), dict(agent.given), dict(agent.open)
    )
