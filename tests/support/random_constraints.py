"""Random constraints by seed, made to be hard: Lark grammars, regexes and JSON Schemas.

Each knows which texts it allows at most, by a recogniser of its own that takes polynomial time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jsonschema

ALPHABET = b'ab01 {}",\n'
CONTROL = ["<|end|>", "<|system|>", "<|endoftext|>", "<[2556]>", "<[0,2557-2559]>"]
LENGTHS = [2, 3, 7, 30, 1000, 40_000, 1_000_000]
PRIMES = [2, 3, 7, 97, 997, 9973, 99_991, 0.01, 0.3]
FORMATS = ["date", "date-time", "time", "duration", "email", "hostname", "uri", "ipv6", "uuid"]

Ends = Set[int]  # where a part of a text may end; len(text) + 1 behind a token that ends the reply


class Node:
    """A part of a grammar: what it is in Lark, and where it may end in a text."""

    def lark(self) -> str:
        raise NotImplementedError

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        raise NotImplementedError


class UndecidedError(Exception):
    """The recogniser has done its work for one text."""


class Rules:
    """The ends of each rule from each place of one text: the least fixed point."""

    def __init__(self, bodies: Mapping[str, Node], n_steps: int = 20_000) -> None:
        self.bodies = bodies
        self.n_steps = n_steps
        self.known: dict[tuple[str, int], Ends] = {}

    def ends(self, name: str, starts: Ends) -> Ends:
        return frozenset().union(*[self.known.setdefault((name, i), frozenset()) for i in starts])

    def step(self) -> None:
        self.n_steps -= 1
        if self.n_steps < 0:
            raise UndecidedError

    def allow(self, text: bytes) -> bool:
        """Return whether this is a text of `start`, or whether that takes too long to tell."""
        with suppress(UndecidedError):
            return self._allow(text)
        return True

    def _allow(self, text: bytes) -> bool:
        before = None
        self.ends("start", {0})
        while before != self.known:
            before = dict(self.known)
            for name, start in before:
                self.known[name, start] = self.bodies[name].ends(text, {start}, self)
        return not self.known["start", 0].isdisjoint({len(text), len(text) + 1})


@dataclass(frozen=True)
class Literal(Node):
    text: bytes

    def lark(self) -> str:
        return json.dumps(self.text.decode())

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        rules.step()
        found = {i + len(self.text) for i in starts if text.startswith(self.text, i)}
        return found | {i for i in starts if i > len(text)}


@dataclass(frozen=True)
class Control(Node):
    name: str

    def lark(self) -> str:
        return self.name

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        return {len(text) + 1 for i in starts if i >= len(text)}


@dataclass(frozen=True)
class Rule(Node):
    name: str

    def lark(self) -> str:
        return self.name

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        ended = {i for i in starts if i > len(text)}
        return ended | rules.ends(self.name, starts - ended)


@dataclass(frozen=True)
class Class(Node):
    """A character whose first byte is one of a set, or such a byte where UTF-8 is not asked for."""

    regex: str
    allowed: frozenset[int]

    def lark(self) -> str:
        return f"/{self.regex}/"

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        rules.step()
        found = {i for i in starts if i > len(text)}
        for i in starts:
            if i < len(text) and text[i] in self.allowed:
                n = (text[i] >= 0xC0) + (text[i] >= 0xE0) + (text[i] >= 0xF0)
                found |= {i + 1, min(i + 1 + n, len(text))}
        return found


@dataclass(frozen=True)
class Sequence(Node):
    parts: tuple[Node, ...]

    def lark(self) -> str:
        return "(" + " ".join(part.lark() for part in self.parts) + ")"

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        for part in self.parts:
            starts = part.ends(text, starts, rules)
        return starts


@dataclass(frozen=True)
class Choice(Node):
    parts: tuple[Node, ...]

    def lark(self) -> str:
        return "(" + " | ".join(part.lark() for part in self.parts) + ")"

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        rules.step()
        return frozenset().union(*[part.ends(text, starts, rules) for part in self.parts])


@dataclass(frozen=True)
class Repeat(Node):
    part: Node
    least: int
    most: int | None

    def lark(self) -> str:
        return f"({self.part.lark()}){self.times()}"

    def times(self) -> str:
        return f"{{{self.least},{'' if self.most is None else self.most}}}"

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        for _ in range(self.least):
            rules.step()
            before, starts = starts, self.part.ends(text, starts, rules)
            if starts == before:
                break
        found = starts = frozenset(starts)
        for _ in range(len(text) + 1 if self.most is None else self.most - self.least):
            rules.step()
            starts = self.part.ends(text, starts, rules) - found
            if not starts:
                break
            found |= starts
        return found


@dataclass(frozen=True)
class Regex(Node):
    """A whole lexeme; `body` has no rules and no control tokens."""

    body: Node

    def lark(self) -> str:
        return "/" + regex_of(self.body).replace("/", r"\/") + "/"

    def ends(self, text: bytes, starts: Ends, rules: Rules) -> Ends:
        return self.body.ends(text, starts, rules)


def regex_of(node: Node) -> str:
    """Return a regular expression."""
    if isinstance(node, Literal):
        return "".join(rf"\x{byte:02x}" if byte < 128 else chr(byte) for byte in node.text)
    if isinstance(node, Class):
        return node.regex
    if isinstance(node, Repeat):
        return f"({regex_of(node.part)}){node.times()}"
    assert isinstance(node, (Sequence, Choice))
    return "(" + ("|" if isinstance(node, Choice) else "").join(map(regex_of, node.parts)) + ")"


ANY = frozenset(range(256))
CLASSES = [
    Class("[ab]", frozenset(b"ab")),
    Class("[a-z]", frozenset(range(97, 123))),
    Class("[^a]", ANY - {97}),
    Class("(?s:.)", ANY),
    Class(".", ANY - {10}),
    Class(r"[\x00-\x7f]", frozenset(range(128))),
]
HIGH_BYTE = Class(r"(?-u:[\x80-\xff])", frozenset(range(128, 256)))


def random_lexeme(rng: random.Random, depth: int) -> Node:
    """Return what a regex can say."""
    kind = rng.randrange(5) if depth > 0 else rng.randrange(2)
    if kind == 0:
        return Literal(bytes(rng.choices(ALPHABET, k=rng.choice([0, 1, 1, 2, 5, 300]))))
    if kind == 1:
        return rng.choice(CLASSES)
    parts = tuple(random_lexeme(rng, depth - 1) for _ in range(rng.randint(1, 4)))
    if kind == 2:
        return Sequence(parts)
    if kind == 3:
        return Choice(parts)
    return random_repeat(rng, parts[0])


def random_repeat(rng: random.Random, part: Node) -> Node:
    """Return a part any number of times: often bounds that are zero, open or huge."""
    least = rng.choice([0, 0, 0, 1, 1, 2, *LENGTHS])
    return Repeat(part, least, rng.choice([None, None, least, least + 1, least + 1000]))


def random_rule(rng: random.Random, names: list[str], depth: int) -> Node:
    """Return a body: ambiguous, nullable and left-recursive as it comes."""
    kind = rng.randrange(8) if depth > 0 else rng.choice([0, 1, 1, 2])
    if kind == 0:
        return Literal(bytes(rng.choices(ALPHABET, k=rng.choice([0, 1, 1, 2, 5, 300]))))
    if kind == 1:
        return Rule(rng.choice(names))
    if kind == 2:
        return Regex(random_lexeme(rng, rng.randint(0, 2)))
    if kind == 3:
        return random_repeat(rng, random_rule(rng, names, depth - 1))
    if kind == 4 and rng.random() < 0.2:
        return Control(rng.choice(CONTROL))
    parts = tuple(random_rule(rng, names, depth - 1) for _ in range(rng.randint(1, 4)))
    return Sequence(parts) if kind % 2 else Choice(parts)


def random_schema(rng: random.Random, depth: int) -> Any:
    """Return a JSON Schema, which may refer to #/$defs/0 and #/$defs/1."""
    kind = rng.randrange(14) if depth > 0 else rng.randrange(6)
    if kind == 0:
        length = rng.choice(LENGTHS)
        least = rng.choice([0, 1, length])
        return {"type": "string", "minLength": least, "maxLength": least + length}
    if kind == 1:
        return {"type": "string", "pattern": f"^{regex_of(random_lexeme(rng, 2))}$"}
    if kind == 2:
        return {"type": "string", "format": rng.choice(FORMATS)}
    if kind == 3:
        schema = {"type": rng.choice(["integer", "number"]), "multipleOf": rng.choice(PRIMES)}
        return schema | ({"minimum": rng.randint(-9, 9)} if rng.random() < 0.5 else {})
    if kind == 4:
        values = [None, True, "a" * rng.choice([1, 500]), 0.5, [1, {"b": "\u00e9"}]]
        return {"enum": rng.sample(values, rng.randint(1, 4))}
    if kind == 5:
        return {"$ref": f"#/$defs/{rng.randrange(2)}"} if rng.random() < 0.7 else True
    inner = [random_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    if kind in (6, 7):
        return {rng.choice(["anyOf", "anyOf", "oneOf", "allOf"]): inner}
    if kind in (8, 9):
        least = rng.choice([0, 0, 1, *LENGTHS])
        most = rng.choice([{}, {"maxItems": least + rng.choice([1, 10_000])}])
        return {"type": "array", "items": inner[0], "minItems": least} | most
    if kind == 10:
        n = rng.choice([3, 100, 2000])
        properties: dict[str, Any] = {f"{i}": inner[i % len(inner)] for i in range(n)}
        return {
            "type": "object",
            "properties": properties,
            "required": [*properties][:: rng.randint(1, 9)],
        }
    properties = dict(zip(["a", "b", '"\n'], inner, strict=False))
    required = rng.sample([*properties], rng.randint(0, len(properties)))
    more = rng.choice([False, False, True, inner[0]])
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": more,
    }


@dataclass(frozen=True)
class RandomConstraint:
    """The keyword and value of a request, and whether a whole reply may be such a text."""

    keyword: str
    value: Any
    allows: Callable[[bytes], bool]


def random_constraint(seed: int) -> RandomConstraint:
    """Return the constraint of this seed; the lower seeds have the smaller ones."""
    rng = random.Random(seed)
    depth = rng.randint(1, 2 + min(seed // 50 % 20, 4))
    kind = rng.randrange(12)
    if kind < 3:
        body = random_lexeme(rng, depth)
        return RandomConstraint("regex", regex_of(body), Rules({"start": body}).allow)
    if kind < 7:
        names = ["start", "a", "b", "c"][: rng.randint(1, 4)]
        bodies = {name: random_rule(rng, names, depth) for name in names}
        invalid = rng.random() < 0.2
        if invalid:
            bodies["start"] = Choice((bodies["start"], Repeat(HIGH_BYTE, 1, rng.choice(LENGTHS))))
        lark = "".join(f"{name}: {body.lark()}\n" for name, body in bodies.items())
        lark = '%llguidance {"allow_invalid_utf8": true}\n' * invalid + lark
        if rng.random() < 0.1:  # anything a text may become
            return RandomConstraint("grammar", mutated(rng, lark), lambda text: True)
        return RandomConstraint("grammar", lark, lambda text: Rules(bodies).allow(text))
    if kind == 7:
        texts = [
            "".join(rng.choices("ab \u00e9\n", k=rng.choice([0, 1, 9, 400])))
            for _ in range(rng.choice([1, 3, 999]))
        ]
        return RandomConstraint("choice", texts, lambda text: text.decode() in texts)
    schema = random_schema(rng, depth)
    definitions = {str(i): random_schema(rng, depth) for i in range(2)}
    schema = {"$defs": definitions, **(schema if isinstance(schema, dict) else {})}
    return RandomConstraint("json_schema", schema, lambda text: validates(schema, text))


def mutated(rng: random.Random, text: str) -> str:
    """Return a text of which pieces are missing, doubled or replaced."""
    for _ in range(rng.randint(1, 4)):
        i, n = rng.randrange(len(text) + 1), rng.randrange(9)
        piece = rng.choice(
            ["", text[i : i + n] * 2, "\xff", "?", "~", "&", "{9,", "\0", "%json {}"]
        )
        text = text[:i] + piece + text[i + n :]
    return text


def validates(schema: Any, text: bytes) -> bool:
    """Return whether a text is JSON of a schema; patterns are not tried, as `re` backtracks."""
    try:
        return bool(_Validator(schema).is_valid(json.loads(text, parse_float=_fraction)))
    except (RecursionError, UndecidedError):  # references in a circle
        return True
    except ValueError:
        return False


def _fraction(text: str) -> Fraction:
    if len(text.lower().partition("e")[2]) > 4:  # seconds in which Python holds the GIL
        raise UndecidedError
    return Fraction(text)


def _multiple_of(validator: Any, divisor: Any, value: Any, schema: Any) -> Iterator[Any]:
    """Divide exactly: 0.07 is a multiple of 0.01."""
    if validator.is_type(value, "number") and value % Fraction(str(divisor)):
        yield jsonschema.ValidationError(f"{value} is no multiple of {divisor}")


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"pattern": lambda *_: iter(()), "multipleOf": _multiple_of}
)
