"""Asks the embedded model to call tools it has never seen, to state results, to read code.

    python training/nano/evaluate_agents.py             # the embedded model, greedy
    python training/nano/evaluate_agents.py --file other.bin
    python training/nano/evaluate_agents.py --real-code    # functions of json, textwrap, shutil …

The words of the made-up tools are held out of training, the themes below too; every value is new.
A call is right if all names and all values are, a statement or an answer if it is equal. Tools are
given as a user gives them, so the grammar of their calls is enforced.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import real_code
from agents import Agent, agent_dialogue
from code_contexts import code_dialogue
from themes import parse
from tools import Call, call_lines, system_text
from values import HeldOut

HELD_OUT = parse("""
measure_rainfall
Measure how much rain fell at a station.
station:place
How much rain fell at {0}?|Measure the rainfall at {0}.|Rainfall at {0}, please|What is the rainfall at {0}?

lend_tent
Lend a tent to a camper for some nights.
camper:person nights:integer
Lend a tent to {0} for {1} nights.|{0} needs a tent for {1} nights.|Please lend {0} a tent, {1} nights|Lend tent: camper {0}, nights {1}

modulo
The remainder of one integer divided by another.
dividend:integer divisor:integer
What is {0} modulo {1}?|Modulo of {0} and {1}|Give me the remainder of {0} divided by {1}.|modulo({0}, {1})

tide_table
Return the tides of a harbour on a date.
harbour:place date:date
What does the tide table of {0} say for {1}?|Tides at {0} on {1}|Show me the tide table for {0} on {1}.|When is the tide in {0} on {1}?

feed_cat
Feed a cat.
cat_name:person grams:integer
Feed the cat {0} {1} grams.|Please feed {0}, {1} grams|Give {1} grams to the cat {0}.|Feed cat: {0}, {1}

moon_phase
Tell the phase of the moon on a day.
day:date
What is the moon phase on {0}?|Phase of the moon on {0}?|Tell me the moon phase for {0}.|Which phase does the moon have on {0}?

ring_bell
Ring the bell.
-
Ring the bell.|Please ring the bell!|Can you ring the bell?|ring_bell()

deposit_coins
Deposit coins in a chest.
n_coins:integer chest:word
Deposit {0} coins in the chest {1}.|Put {0} coins into chest {1}|Please deposit {0} coins, chest {1}.|deposit_coins(n_coins={0}, chest='{1}')

translate_morse
Translate Morse code.
message:sentence
Translate to Morse: {0}|Translate the message {0} to Morse.|Morse for {0}|What is {0} in Morse code?

rename_ship
Give a ship another name.
old_name:script new_name:script
Rename the ship {0} to {1}.|Please rename ship {0} to {1}|The ship {0} shall be named {1}.|rename_ship(old_name="{0}", new_name="{1}")

tail_log
Show the last lines of a log file.
log_path:path n_lines:integer
Show the last {1} lines of {0}.|Tail {0}, {1} lines|Tail the log {0} with {1} lines.|Last {1} lines of the log {0}, please

hire_clown
Hire a clown for a party.
email:email party_date:date
Hire a clown for {1}, contact {0}.|Hire a clown: {0}, {1}|Please hire the clown {0} for the party on {1}.|I want to hire a clown on {1}, my email is {0}

check_visa
Check whether a visa number is valid.
visa_number:code
Is the visa {0} valid?|Check the visa {0}.|check visa number {0}|Please check whether {0} is a valid visa.

Recipe
A recipe with its time.
dish:phrase minutes:integer
The recipe {0} takes {1} minutes.|{0}: {1} minutes|Extract the recipe: {0} needs {1} minutes.|A recipe for {0} in {1} minutes

Runner
A runner of a race.
runner_name:person rank:integer club:place
{0} of {2} came in at rank {1}.|Extract the runner: {0}, rank {1}, club {2}.|Runner {0} runs for {2} and has rank {1}.|{0}, {2}, rank {1}
""")
N_CASES = 480  # of a kind
N_ROUNDS = 6  # with every request for an everyday tool


@dataclass(frozen=True)
class Case:
    """A dialogue that ends with a user turn, and the reply that is right."""

    kind: str  # call, natural call, no call, result or code
    turns: tuple[tuple[str, str], ...]
    expected: str

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The definitions that its first turn shows."""
        _, _, shown = self.turns[0][1].partition("Tools:\n")
        return [json.loads(row) for row in shown.split("\n")[:-2]]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Its turns as a caller would give them."""
        (_, system), *turns = self.turns
        own = (
            system.removesuffix(system_text("", self.tools)).removesuffix("\n\n")
            if self.tools
            else system
        )
        messages: list[dict[str, Any]] = [{"role": "system", "content": own}]
        ids: list[str] = []
        for n, (role, text) in enumerate(turns):
            if text.startswith("<tool_call>"):
                calls = [json.loads(row.removeprefix("<tool_call>")) for row in text.split("\n")]
                ids = [f"{n} {i}" for i in range(len(calls))]
                asked = [{"id": id, **call} for id, call in zip(ids, calls, strict=True)]
                messages.append({"role": role, "content": "", "tool_calls": asked})
            elif text.startswith("<tool_result>"):
                for id, row in zip(ids, text.split("\n"), strict=True):
                    result = json.loads(row.removeprefix("<tool_result>"))["result"]
                    messages.append({"role": "tool", "content": result, "tool_call_id": id})
            else:
                messages.append({"role": role, "content": text})
        return messages


def cases(n: int = N_CASES) -> list[Case]:
    """Return the held-out cases, the same in every run."""
    found = [*_calls(n), *_natural(N_ROUNDS), *_no_calls(n), *_results(n), *_code(n)]
    if len(found) != 4 * n + N_ROUNDS * sum(len(theme.requests) for theme in HELD_OUT):
        raise RuntimeError(f"{len(found)} cases were made")
    return found


def _calls(n: int) -> Iterator[Case]:
    rng = HeldOut("calls")
    kinds = ("call", "call", "call", "parallel", "same")
    for i in range(n):
        yield _case("call", agent_dialogue(rng, 1, kinds[i % len(kinds)]), "call")


def _natural(n_rounds: int) -> Iterator[Case]:
    rng = HeldOut("natural")
    for theme in HELD_OUT * n_rounds:
        for i, frame in enumerate(theme.requests):
            others = [t for t in rng.sample(HELD_OUT, i % 4) if t is not theme]
            tool = theme.tool(rng)
            tools = [tool, *(other.tool(rng) for other in others)]
            rng.shuffle(tools)
            text, arguments = type(theme)(
                theme.names, theme.descriptions, theme.parameters, (frame,)
            ).request(tool, rng)
            definitions = [t.definition(rng, i) for t in tools]
            messages = (("system", system_text("", definitions)), ("user", text))
            yield Case("natural call", messages, call_lines([(tool.name, arguments)]))


def _no_calls(n: int) -> Iterator[Case]:
    rng = HeldOut("no calls")
    kinds = ("how-to", "talk", "unknown", "how-to", "talk", "unknown", "how-to", "missing")
    done = 0
    while done < n:
        agent = agent_dialogue(rng, 1, kinds[done % len(kinds)])
        if agent.kinds[2] == "answer":
            done += 1
            yield _case("no call", agent, "answer")


def _results(n: int) -> Iterator[Case]:
    rng = HeldOut("results")
    kinds = ("call", "call", "parallel", "chain")
    for i in range(n):
        yield _case("result", agent_dialogue(rng, 1, kinds[i % len(kinds)]), "result")


def _code(n: int) -> Iterator[Case]:
    rng = HeldOut("code")
    done = 0
    while done < n:
        agent = code_dialogue(rng)
        if agent.kinds[2] == "code":
            done += 1
            yield _case("code", agent, "code")


def real_code_cases(n: int = 120) -> list[Case]:
    """Return questions about held-out modules of this Python, the same in every run of it."""
    rng = random.Random("real code")
    found: list[Case] = []
    while len(found) < n:
        agent = code_dialogue(rng, given=real_code.page(rng, real_code.HELD_OUT))
        if agent.kinds[2] == "code":
            found.append(_case("code", agent, "code"))
    return found


def _case(kind: str, agent: Agent, last: str) -> Case:
    """Return the case of an agent's first reply of a kind."""
    index = min(i for i, of in agent.kinds.items() if of == last)
    return Case(kind, tuple(agent.messages[:index]), agent.messages[index][1])


@dataclass(frozen=True)
class Outcome:
    """A case and the reply to it."""

    case: Case
    reply: str

    @property
    def is_right(self) -> bool:
        """Tell whether the reply says what is expected; calls are compared as data."""
        if self.case.kind.endswith("call"):
            return _parsed(self.reply) == _parsed(self.case.expected)
        return self.reply == self.case.expected

    @property
    def is_decided_right(self) -> bool:
        """Tell whether it calls where it should and only there."""
        return ("<tool_call>" in self.reply) == ("<tool_call>" in self.case.expected)


def _parsed(reply: str) -> list[Call] | str:
    try:
        calls = [json.loads(row.removeprefix("<tool_call>")) for row in reply.split("\n")]
        return [(call["name"], call["arguments"]) for call in calls]
    except (ValueError, TypeError, KeyError):
        return reply


Scores = dict[str, tuple[int, int]]


def scores(outcomes: Sequence[Outcome]) -> Scores:
    """Return (right, all) by kind, and for the decision whether to call."""
    table: Scores = {}
    for kind in ("call", "natural call", "no call", "result", "code"):
        chosen = [outcome for outcome in outcomes if outcome.case.kind == kind]
        table[kind] = sum(o.is_right for o in chosen), len(chosen)
    chosen = [o for o in outcomes if o.case.kind.endswith("call")]
    table["decision"] = sum(o.is_decided_right for o in chosen), len(chosen)
    return table


def evaluate(
    ask: Callable[[Sequence[Case]], Sequence[str]], asked: Sequence[Case] | None = None
) -> list[Outcome]:
    """Return an outcome for every case; `ask` answers them all."""
    found = cases() if asked is None else asked
    return [Outcome(case, reply) for case, reply in zip(found, ask(found), strict=True)]


def evaluate_engine(file: str | None = None, asked: Sequence[Case] | None = None) -> list[Outcome]:
    """Evaluate a file, or the embedded model, through starchat's public interface."""
    from starchat import StarChat

    model = StarChat.load(file) if file else StarChat.load()

    def ask_one(case: Case) -> str:
        reply = model.chat(case.messages, tools=case.tools, max_tokens=400, temperature=0)
        return call_lines([(c.name, c.arguments) for c in reply.tool_calls]) or reply.text

    def ask(found: Sequence[Case]) -> list[str]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(ask_one, found))

    return evaluate(ask, asked)


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the wrong replies and the scores as text."""
    lines = [
        f"[{o.case.kind}] {o.case.turns[-1][1][-300:]}\n  expected {o.case.expected}\n  reply    {o.reply}"
        for o in outcomes
        if not o.is_right
    ]
    lines += [
        f"{kind:13} {n_right / n:6.1%} of {n}"
        for kind, (n_right, n) in scores(outcomes).items()
        if n
    ]
    return "\n".join(lines)


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", help="a starcoder .bin; default: the embedded model")
    parser.add_argument("--real-code", action="store_true", help="about real functions alone")
    arguments = parser.parse_args()
    asked = real_code_cases() if arguments.real_code else None
    print(report(evaluate_engine(arguments.file, asked)))


if __name__ == "__main__":
    main()
