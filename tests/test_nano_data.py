"""The training data of starchat-nano against oracles: schemas, grammars, Python itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import random
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NANO = Path(__file__).parent.parent / "training/nano"
N_DIALOGUES = 150


@pytest.fixture(scope="module", autouse=True)
def examples() -> Iterator[None]:
    sys.path.insert(0, str(NANO))
    yield
    sys.path.remove(str(NANO))


def agents(make: Any, n: int = N_DIALOGUES) -> Iterator[Any]:
    rng = random.Random("tests")
    for _ in range(n):
        yield make(rng)


def definitions(system: str) -> dict[str, Any]:
    lines = system.partition("Tools:\n")[2].split("\n")[:-2]
    return {tool["name"]: tool["parameters"] for tool in map(json.loads, lines)}


def calls_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("<tool_call>")) for line in text.split("\n")]


def test_calls_fit_their_schemas_in_schema_order() -> None:
    from jsonschema import validate

    from agents import agent_dialogue

    n_calls = 0
    for agent in agents(agent_dialogue):
        schemas = definitions(agent.messages[0][1])
        for index, kind in agent.kinds.items():
            if kind != "call":
                continue
            for call in calls_of(agent.messages[index][1]):
                schema = schemas[call["name"]]
                validate(call["arguments"], schema)
                order = list(schema["properties"])
                assert list(call["arguments"]) == sorted(call["arguments"], key=order.index)
                n_calls += 1
    assert n_calls > N_DIALOGUES / 2


def test_what_is_learned_of_calls_is_what_their_grammar_leaves_open() -> None:
    from tools import call_lines, made_up, open_spans

    for tool in agents(made_up):
        rng = random.Random(tool.name)
        tools = [tool, made_up(rng), made_up(rng)]
        closed = set()
        for _ in range(5):
            arguments = {p.name: p.value(rng) for p in tool.parameters}
            text = call_lines([(tool.name, arguments)])
            shut = list(text)
            for begin, end in open_spans(text, tools):
                shut[begin:end] = " " * (min(end, len(text)) - begin)
            closed.add("".join("".join(shut).split()))
            for value in arguments.values():
                if not isinstance(value, dict):
                    assert json.dumps(value, ensure_ascii=False) not in "".join(shut)
        assert len(closed) == 1  # nothing in it depends on what is asked for


def test_answers_state_every_result() -> None:
    from agents import agent_dialogue

    for agent in agents(agent_dialogue):
        for index, kind in agent.kinds.items():
            if kind == "result":
                lines = agent.messages[index - 1][1].split("\n")
                for line in lines:
                    result = json.loads(line.removeprefix("<tool_result>"))["result"]
                    assert result.split("\n")[0] in agent.messages[index][1]


def test_answers_about_code_are_what_python_parses() -> None:
    from code_contexts import function

    for f in agents(lambda rng: function(rng, rng.random() < 0.5)):
        (parsed,) = ast.parse(textwrap.dedent(f.source)).body
        assert isinstance(parsed, (ast.FunctionDef, ast.AsyncFunctionDef))
        spec = parsed.args
        names = [arg.arg for arg in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
        starred = [f"*{spec.vararg.arg}"] if spec.vararg else []
        starred += [f"**{spec.kwarg.arg}"] if spec.kwarg else []
        assert [name for name in names if name != "self"] == [
            name for name in f.named if not name.startswith("*")
        ]
        assert starred == [name for name in f.named if name.startswith("*")]
        assert (ast.get_docstring(parsed) or "").split("\n")[0] == f"{f.does}."
        assert parsed.name == f.name


def test_answers_about_real_code_are_what_python_inspects() -> None:
    from real_code import HELD_OUT, MODULES, modules

    assert not set(HELD_OUT) & set(MODULES)
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    n_functions = 0
    for module in modules(HELD_OUT):
        name = module.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        names = [f.name for f in module.functions]
        for f in module.functions:
            real = getattr(importlib.import_module(name), f.name, None)
            if not inspect.isfunction(real) or real.__module__ != name or names.count(f.name) > 1:
                continue  # a method, or replaced by one in C
            parameters = inspect.signature(real).parameters.values()
            assert f.named == tuple(stars.get(p.kind, "") + p.name for p in parameters)
            assert f.does in ("", (inspect.getdoc(real) or "").split("\n")[0].rstrip("."))
            assert f.source in textwrap.dedent(inspect.getsource(real)) + "\n"
            n_functions += 1
    assert n_functions > 50


def test_a_disguised_theme_is_told_by_its_words() -> None:
    from themes import THEMES, disguised

    rng = random.Random(0)
    for theme in THEMES:
        other = disguised(theme, rng)
        if other is theme:
            continue
        told = " ".join(
            (*other.names, *other.descriptions, *(n for p in other.parameters for n in p[0]))
        )
        words = set(re.findall("[a-z]+", told.lower()))
        for request in other.requests:
            assert words & set(re.findall("[a-z]+", request.lower()))
        tool = other.tool(rng)
        _, arguments = other.request(tool, rng)
        assert set(arguments) <= {parameter.name for parameter in tool.parameters}


def test_words_of_the_evaluation_are_held_out() -> None:
    from evaluate_agents import HELD_OUT, cases
    from filler import NOUNS
    from themes import THEMES
    from values import HELD_OUT_NOUNS, HELD_OUT_VERBS, HeldOut, noun, verb

    held_out = {*HELD_OUT_NOUNS, *HELD_OUT_VERBS}
    rng = random.Random(0)
    trained = {make(rng) for make in (noun, verb) for _ in range(5000)} | set(NOUNS)
    assert not held_out & trained
    assert {noun(HeldOut(i)) for i in range(100)} <= held_out
    names = {name for theme in THEMES for name in theme.names}
    assert not names & {name for theme in HELD_OUT for name in theme.names}
    assert cases(8) == cases(8)


def test_the_dialogue_form_is_that_of_the_core() -> None:
    core = pytest.importorskip("starchat.chat.tools", reason="tools came to the core later")
    from tools import call_lines, made_up, result_lines, system_text

    for tool in agents(made_up):
        rng = random.Random(1)
        definition, arguments = tool.definition(rng, 0), tool.arguments(rng)
        box = core.Toolbox.check([definition])
        assert box.system_text("Hi") == system_text("Hi", [definition])
        assert core.call_line("call", tool.name, arguments) == call_lines([(tool.name, arguments)])
        assert core.result_line("result", tool.name, "a\n") == result_lines([(tool.name, "a\n")])


def test_a_draft_has_the_vocabulary_of_its_model() -> None:
    """Merges follow from the ranks of tokens; the embedded model's own tokenizer is the oracle."""
    from starchat._core import read_tokenizer
    from starchat.model import EMBEDDED
    from tokenizer import tokenizer_of, vocabulary

    core = read_tokenizer(os.fsencode(EMBEDDED))
    own = tokenizer_of(EMBEDDED)
    assert vocabulary(own) == [core.token_bytes(i) for i in range(own.get_vocab_size())]
    for text in ("How do I sort a list?", "def f(x_y):\n\treturn 12345", " \n  größer 🐍 {}"):
        assert own.encode(text).ids == list(core.encode(text))
