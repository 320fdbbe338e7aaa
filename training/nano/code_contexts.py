"""Generates questions about retrieved code: which function does something, what it takes and does.

The code is made up, in the frames that retrieval engines write. Questions about what the code
does not hold get the refusal; how-tos keep their answers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import values
from agents import Agent
from dialogues import RETRIEVAL, SYSTEMS, question
from filler import code, passage
from smalltalk import FALLBACK, unknown
from topics import TOPICS

_VERBS = (  # as a docstring begins, and as a question asks
    "Return:returns Read:reads Write:writes Compute:computes Load:loads Save:saves Find:finds "
    "Remove:removes Add:adds Check:checks Parse:parses Convert:converts Create:creates "
    "Build:builds Open:opens Close:closes Send:sends Count:counts Merge:merges Sort:sorts "
    "Print:prints Update:updates Validate:validates Encode:encodes Decode:decodes Split:splits "
    "Yield:yields Measure:measures Start:starts Stop:stops Format:formats Copy:copies "
    "Raise:raises Draw:draws Fetch:fetches Register:registers Rename:renames Collect:collects"
).split()
_THINGS = (
    "the {a} {n}|the {n} of a {m}|a {n} from the {m}|every {n} of the {m}|all {n}s|the {n}s in a {m}"
    "|a {a} {n}|the {n} and its {m}|{n}s for the {a} {m}|one {n} by its {m}|the {n} with a {a} {m}"
    "|a {n} that a {m} needs|the number of {n}s|the {n} as text|whether the {n} is {a}|the {n}"
).split("|")
_TAILS = (
    "|||||| at once| for the {n}| without a {n}| if it is {a}| or None| in order| by {n}".split("|")
)
_WHICH = (
    "Which function {d}?|Which function {d}?|What function {d}?|Which method {d}?|Which one {d}?"
    "|What is the name of the function that {d}?|Name the function that {d}.|What {d}?"
    "|Find the function that {d}.|Tell me which function {d}.|I need the function that {d}."
    "|Which function in this code {d}?|What do I call that {d}?|Is there a function that {d}?"
    "|Where is the code that {d}?|which function {d}|function that {d}|Which part {d}?"
).split("|")
_TAKES = (
    "What arguments does {f} take?|Which arguments does {f} take?|What parameters does {f} have?"
    "|What are the arguments of {f}?|What are the parameters of {f}?|Arguments of {f}?"
    "|List the arguments of {f}.|What does {f} take?|Which parameters does {f} accept?"
    "|How is {f} called?|What do I pass to {f}?|What can I pass to {f}?|parameters of {f}"
    "|Show the signature of {f}.|What is the signature of {f}?|Name the parameters of {f}."
).split("|")
_DOES = (
    "What does {f} do?|What does {f} do?|What is {f} for?|Explain {f}.|Describe {f}.|{f}?"
    "|What does the function {f} do?|Tell me what {f} does.|What is the purpose of {f}?"
    "|What does the docstring of {f} say?|Document {f}.|Explain what {f} does.|what is {f}"
    "|Explain the function {f}.|What happens in {f}?|How is {f} documented?"
).split("|")
_BODIES = (
    "return {n}|return {n}.{m}({x})|if {x} is None:\n    raise ValueError('{n}')\nreturn {x}"
    "|{n} = {x}.{m}()\nreturn {n}|for {n} in {x}:\n    yield {n}|with open({x}) as {n}:\n    return {n}"
    "|pass|...|{n} = [{x}, {d}]\n{n}.{m}({d})\nreturn {n}|return len({x}) > {d}|return None"
    "|try:\n    return {x}[{d}]\nexcept KeyError:\n    return {n}|{n} = {x} * {d}\nreturn {n}"
).split("|")
_TYPES = "int str bool float bytes Path list[str] dict[str,int] Any Sequence[int]".split()


@dataclass(frozen=True)
class Function:
    """A made-up function: its name, parameters and what it does."""

    name: str
    named: tuple[str, ...]
    does: str  # the docstring's first line, without the full stop
    asked: str  # as a question's words
    source: str


def function(rng: random.Random, is_method: bool = False) -> Function:
    """Return a made-up function with its source."""
    begins, asks = rng.choice(_VERBS).split(":")
    thing, other = values.noun(rng), values.noun(rng)
    words = {"n": thing, "m": other, "a": values.adjective(rng)}
    rest = (rng.choice(_THINGS) + rng.choice(_TAILS)).format(**words)
    act = begins.lower()
    name = rng.choice(
        (
            *(f"{act}_{thing}", f"{act}_{thing}", f"{thing}_{other}", f"_{act}_{thing}", thing),
            *(f"{act}{thing.capitalize()}", f"{thing}_to_{other}"),
            *(values.pseudo_word(rng), values.identifier(rng)),
        )
    )
    names = list({values.identifier(rng): 0 for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4)))})
    if rng.random() < 0.08:
        names.append(rng.choice(("*args", "**kwargs", "*" + values.noun(rng))))
    typed = rng.random() < 0.6
    n_plain = len(names) if rng.random() < 0.6 else rng.randint(0, len(names))
    written = [_parameter(rng, text, typed, i >= n_plain) for i, text in enumerate(names)]
    shown = ["self", *written] if is_method else list(written)
    mark = f" -> {rng.choice(_TYPES)}" if typed else ""
    body = rng.choice(_BODIES).format(
        **words, x=names[0].strip("*") if names else thing, d=rng.randrange(100)
    )
    does = f"{begins} {rest}"
    more = ""
    if rng.random() < 0.3:
        more = f"\n\n{values.sentence(rng)}\n"
    quotes = '"""' if rng.random() < 0.9 else "'''"
    head = "async def" if rng.random() < 0.05 else "def"
    joined = ", ".join(shown)
    if len(shown) > 2 and rng.random() < 0.2:
        joined = "\n    " + ",\n    ".join(shown) + ",\n"
    text = f"{quotes}{does}.{more}{quotes}\n{body}"
    indented = "\n".join(f"    {part}" if part else "" for part in text.split("\n"))
    source = f"{head} {name}({joined}){mark}:\n{indented}\n"
    return Function(name, tuple(names), does, f"{asks} {rest}", source)


def _parameter(rng: random.Random, name: str, typed: bool, has_default: bool) -> str:
    if name.startswith("*"):
        return name
    text = f"{name}: {rng.choice(_TYPES)}" if typed else name
    if has_default:
        value = rng.choice(("None", "0", "1", "True", "''", str(rng.randrange(500))))
        text += f" = {value}" if typed else f"={value}"
    return text


_REAL_VERBS = (  # of docstrings that people wrote
    "Returns:returns Get:gets Gets:gets Set:sets Test:tests Call:calls Make:makes Give:gives "
    "Serialize:serializes Deserialize:deserializes Initialize:initializes Iterate:iterates "
    "Generate:generates Determine:determines Handle:handles Process:processes Wait:waits "
    "Delete:deletes List:lists Append:appends Insert:inserts Replace:replaces Extract:extracts "
    "Run:runs Execute:executes Flush:flushes Join:joins Locate:locates Move:moves Scan:scans "
    "Search:searches Unpack:unpacks Wrap:wraps Escape:escapes Expand:expands Match:matches "
    "Produce:produces Prepare:prepares Display:displays Dump:dumps Compile:compiles Show:shows"
).split()
_ASKED = dict(pair.split(":") for pair in (*_VERBS, *_REAL_VERBS))


def third_person(does: str) -> str:
    """Return what a function does as a question says it, nothing if its verb is not known."""
    begins, _, rest = does.partition(" ")
    return f"{_ASKED[begins]} {rest}" if begins in _ASKED else ""


def page(rng: random.Random, n_functions: int, n_words: int = 0) -> tuple[str, list[Function]]:
    """Return a page of code and the functions in it; some stand in a class."""
    functions: list[Function] = []
    parts: list[str] = []
    while len(functions) < n_functions:
        n = min(rng.randint(1, 4), n_functions - len(functions))
        in_class = rng.random() < 0.3
        made = [function(rng, in_class) for _ in range(n)]
        known = {f.name for f in functions}
        if len({f.name for f in made} | known) < len(made) + len(known):
            continue
        functions += made
        if not in_class:
            parts += [f.source for f in made]
            continue
        owner = values.pseudo_word(rng).capitalize()
        sources = "\n".join(f.source for f in made)
        methods = "\n".join(f"    {row}" if row else "" for row in sources.split("\n"))
        parts.append(f'class {owner}:\n    """A {values.noun(rng)}."""\n\n{methods}')
    if rng.random() < 0.2:
        parts.insert(
            0, f"import {values.noun(rng)}\nfrom {values.noun(rng)} import {values.noun(rng)}\n"
        )
    if rng.random() < 0.15:
        parts.insert(rng.randint(0, len(parts)), code(rng))
    if n_words:
        parts.insert(rng.randint(0, len(parts)), passage(rng, rng.randint(5, n_words)))
    text = rng.choice(("\n", "\n\n", "\n")).join(parts)
    if rng.random() < 0.3:
        text = f"file_path: {values.path(rng)}\n\n{text}"
    return text.strip("\n") if rng.random() < 0.5 else text, functions


def ask(rng: random.Random, f: Function) -> tuple[str, str]:
    """Return a question about a function, and its answer."""
    kind = rng.randrange(3)
    if (kind == 0 and not f.asked) or (kind == 2 and not f.does):
        kind = 1
    match kind:
        case 0:
            return rng.choice(_WHICH).replace("{d}", f.asked), f"That is `{f.name}`."
        case 1:
            shown = [f"`{name}`" for name in f.named]
            listed = "no arguments"
            if shown:
                listed = (
                    shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}"
                )
            return rng.choice(_TAKES).format(f=_spelled(rng, f)), f"`{f.name}` takes {listed}."
        case _:
            return rng.choice(_DOES).format(f=_spelled(rng, f)), f"`{f.name}`: {f.does}."


def _spelled(rng: random.Random, f: Function) -> str:
    return rng.choice(("{}", "{}", "`{}`", "{}()", "`{}()`", "'{}'")).format(f.name)


def code_dialogue(
    rng: random.Random,
    n_functions: int = 0,
    n_words: int = 0,
    given: tuple[str, list[Function]] | None = None,
) -> Agent:
    """Return a dialogue about a page of code, made up or given, with one to five questions."""
    agent = Agent(rng, [])
    agent.messages.append(("system", rng.choice(SYSTEMS) if rng.random() < 0.35 else ""))
    n = n_functions or rng.choices((1, 2, 3, 4, 6), (20, 26, 26, 20, 8))[0]
    text, functions = given or page(rng, n, n_words)
    frame = rng.choice(RETRIEVAL)
    for i in range(rng.choices((1, 2, 3, 4, 5), (20, 15, 20, 25, 20))[0]):
        chance = rng.random()
        if chance < 0.84:
            asked, reply = ask(rng, rng.choice(functions))
        elif chance < 0.9:
            topic = rng.choice(TOPICS)
            asked, reply = question(topic, rng), topic.reply
        elif chance < 0.95:
            asked, reply = ask(rng, function(rng))[0], FALLBACK
        else:
            asked, reply = unknown(rng)[0], FALLBACK
        if i == 0 or rng.random() < 0.1:
            asked = frame.replace("{question}", asked).replace("{context}", text)
        agent.user(asked)
        agent.reply(reply, "code" if chance < 0.84 else "answer")
    return agent
