"""Makes text that has nothing to do with the topics: system prompts, pasted context, noise.

Retrieval prompts put pages of source or prose before the question; nano must learn to look past
them. Everything is put together from the parts below, deterministically by the generator given.
"""

from __future__ import annotations

import random

NOUNS = (
    "engine model river window report garden server market letter island bridge doctor planet "
    "teacher kernel thread buffer header tensor matrix sample battery camera station village "
    "customer ticket invoice project budget forest mountain weather kitchen recipe orange piano "
    "violin football museum castle holiday airport engineer student library chapter paragraph "
    "question answer network router socket packet cache block scheduler sequence token layer "
    "weight vocabulary prompt stream queue worker process memory page table column row index"
).split()
VERBS = (
    "reads writes builds holds moves opens closes finds keeps follows starts ends carries sends "
    "receives computes loads stores shares explains describes crosses visits repairs watches "
    "brings leaves meets helps changes supports contains returns measures copies schedules"
).split()
ADJECTIVES = (
    "small large quick slow old new quiet bright heavy light warm cold early late green blue "
    "simple complex local remote empty full shared private modern ancient useful honest famous"
).split()
SENTENCES = (
    "The {a} {n} {v} the {n} near the {n}.",
    "A {n} {v} every {a} {n}, and the {n} {v} it again.",
    "When the {n} is {a}, it {v} a {n} of {d} parts.",
    "There are {d} {a} reasons why the {n} {v} the {n}.",
    "In {d} the {n} was {a}; today it {v} the {n}.",
    "This section describes how the {n} {v} a {a} {n}.",
    "Each {n} has a {n}, a {n} and at most {d} {a} links.",
    "It is not known whether the {n} {v} the {a} {n}.",
    "According to the {n}, the {n} {v} {d} percent of the {n}.",
    "Our {n} {v} the {n} because a {a} {n} would be too {a}.",
)
CODE = (
    "def {n}_{n}({n}: int, {n}: str) -> {N}:\n"
    '    """Return the {a} {n} of a {n}."""\n'
    "    if {n} < {d}:\n"
    '        raise ValueError(f"{n}: {{{n}}} is not {a}, expected {d}")\n'
    "    return self._{n}[{n}] * {d}\n",
    "class {N}{N}({N}):\n"
    '    """A {a} {n} that {v} a {n}."""\n\n'
    "    def __init__(self, {n}, {n}=None):\n"
    "        self.{n} = {n}\n"
    "        self._{n} = {n} or []\n",
    "from {n}.{n} import {N}, {n}_{n}\nimport {n}\n",
    "for {n} in range({d}):\n    with {n}.{n}() as {n}:\n        {n}.append({n}[{d}:])\n",
    '#include <{n}>\n#include "{n}/{n}.hpp"\n\nnamespace {n} {{\n\n'
    "// {N} that {v} the {a} {n}.\nstruct {N} {{\n  int n_{n} = {d};\n"
    "  std::vector<float> {n};  // ({n}, {n})\n}};\n",
    "void {n}_{n}(const {N}& {n}, std::span<float> {n}) {{\n"
    "  for (size_t i = 0; i < {n}.size(); ++i) {{\n    {n}[i] += {n}.{n}[i] * {d}.0f;\n  }}\n"
    "  return std::move({n});\n}}\n",
    '@pytest.mark.parametrize("{n}", [{d}, {d}])\ndef test_{n}_{v}_{n}({n}):\n'
    '    assert {n}.{n}({n}) == {d}, "the {n} is {a}"\n',
    "| {n} | {n} | {n} |\n|---|---|---|\n| {a} | {d} | {d} |\n",
    '{{"{n}": {d}, "{n}": "{a} {n}", "{n}": [{d}, {d}]}}\n',
    "$ {n} --{n} {d} {n}.{n}\n{N}: {d} {n} in {d} s\n",
    "template <typename {N}>\nstatic inline auto {n}({N} {n}) noexcept {{ return {n} / {d}; }}\n",
    "async def {n}(self) -> None:\n    await self.{n}.{n}()\n    yield {N}({n}={n})\n",
    'if __name__ == "__main__":\n    sys.exit(main(sys.argv[{d}:]))\n',
    "    @property\n    def {n}(self) -> dict[str, {N}]:\n        return self._{n}.copy()\n\n"
    "    @staticmethod\n    def _{n}(*args: object, **kwargs: object) -> bool:\n"
    "        return isinstance({n}, (list, tuple, str)) and len({n}) >= {d} or None\n",
    "        while not self.{n} and {n} is not None:\n            try:\n"
    "                result = self._{n}({n}, key=lambda value: value.{n}, default=False)\n"
    "            except (KeyError, ValueError, TypeError, RuntimeError) as error:\n"
    '                raise {N}Error(f"{{{n}}}: expected {n}, got {{error}}") from error\n'
    "            finally:\n                {n}.close()\n                continue\n",
    "import os\nimport re\nimport json\nimport numpy as np\nfrom pathlib import Path\n"
    "from typing import Any, Optional\nfrom collections.abc import Iterator, Sequence\n",
    '        elif {n}.startswith("{n}") or {n} in ("{n}", "{n}"):\n'
    '            print("{n}", end="", flush=True)\n        else:\n'
    "            pass  # the {a} {n} {v} this\n        return None, True\n",
    "const std::string& {n}() const {{ return {n}_; }}\nstatic_assert(sizeof({N}) == {d});\n"
    "constexpr std::size_t {n} = static_cast<std::size_t>({d});\nconst auto& {n} = *{n};\n"
    'if ({n} == nullptr) throw std::runtime_error("{n} {n}");\nint64_t {n}[{d}];\n'
    "uint8_t* {n} = reinterpret_cast<uint8_t*>({n}.data());\nbool operator==(int, unsigned);\n",
    "try:\n    {n} = {n}.{n}({n})\nexcept {N}Error as error:\n    raise {N}Error from error\n",
)

# First and last code points: Latin, ASCII, Cyrillic, Greek, Han, Hiragana, Hebrew, Arabic, emoji …
_SCRIPTS = (
    *((0x61, 0x7A), (0x30, 0x7A), (0x410, 0x44F), (0x3B1, 0x3C9), (0x4E00, 0x4FFF)),
    *((0x3042, 0x3093), (0x5D0, 0x5EA), (0x627, 0x64A), (0x1F600, 0x1F640), (0xC0, 0xFF)),
)


_SYLLABLES = (
    "ba be bo ca ce co da de di do el em en er fa fi fo ga ge go ha he in is ka ke ki la le li lo "
    "ma me mi mo na ne no or pa pe po qu ra re ri ro sa se si so ta te ti to un us va ve vi wa we "
    "ction ment able ing est ight ock ast ist ure ate ex str pr tr cl x y z"
).split()
_KEYWORDS = (
    "if else for while return def class import from const auto int float void static struct "
    "template std self None True False null this in not and or is the a of to with as try raise "
    "throw lambda yield await async assert public private size_t uint8_t string vector list dict"
).split()
_MARKS = (
    *(" ", " ", " ", " ", ".", ", ", "(", ")", "()", "[", "]", "{", "}", " = ", " == ", " += "),
    *("::", "->", ": ", ";", " + ", " * ", " / ", "//", "# ", '"', "'", '""" ', " < ", ">", " && "),
    *("!", "?", "%", "|", "`", "@", "~", "^", "$", "\\", "\t", " - ", "...", "<<", "\n"),
)


def _fill(rng: random.Random, template: str) -> str:
    out: list[str] = []
    rest = template
    while "{" in rest or "}}" in rest:
        at = min(i for i in (rest.find("{"), rest.find("}}")) if i >= 0)
        out.append(rest[:at])
        if rest[at : at + 2] in ("{{", "}}"):
            out.append(rest[at])
            rest = rest[at + 2 :]
            continue
        out.append(_part(rng, rest[at + 1]))
        rest = rest[at + 3 :]
    return "".join([*out, rest])


def _part(rng: random.Random, kind: str) -> str:
    match kind:
        case "n":
            return rng.choice(NOUNS)
        case "N":
            return rng.choice(NOUNS).capitalize()
        case "v":
            return rng.choice(VERBS)
        case "a":
            return rng.choice(ADJECTIVES)
        case _:
            return str(rng.randrange(10 ** rng.randint(1, 4)))


def sentence(rng: random.Random) -> str:
    """Return one sentence of prose about nothing."""
    return _fill(rng, rng.choice(SENTENCES))


def code(rng: random.Random) -> str:
    """Return one snippet of code that does nothing sensible."""
    return _fill(rng, rng.choice(CODE))


def noise(rng: random.Random) -> str:
    """Return characters of some script, or made-up words."""
    first, last = rng.choice(_SCRIPTS)
    words = (
        "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8)))
        for _ in range(rng.randint(1, 8))
    )
    return " ".join(words)


def babble(rng: random.Random) -> str:
    """Return something that looks like source, of made-up names, keywords and punctuation."""
    lines = []
    for _ in range(rng.randint(1, 6)):
        tokens = []
        for _ in range(rng.randint(1, 12)):
            name = "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 4)))
            if rng.random() < 0.3:
                name = rng.choice((name.capitalize(), name.upper(), f"{name}_{rng.choice(NOUNS)}"))
            tokens.append(rng.choice((name, name, rng.choice(_KEYWORDS), str(rng.randrange(300)))))
            tokens.append(rng.choice(_MARKS))
        lines.append(" " * rng.choice((0, 0, 2, 4, 8)) + "".join(tokens))
    return "\n".join(lines)


def passage(rng: random.Random, n_words: int) -> str:
    """Return about `n_words` words of mixed prose, code and noise."""
    parts: list[str] = []
    kind = rng.random()
    left = n_words
    while left > 0:
        source = babble if rng.random() < 0.5 else code
        make = noise if rng.random() < 0.05 else sentence if rng.random() < kind else source
        parts.append(make(rng))
        left -= len(parts[-1].split())
    return rng.choice((" ", "\n", "\n\n")).join(parts)
