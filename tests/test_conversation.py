"""A conversation at the terminal, part by part: commands, typed and pasted inputs, Markdown."""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from rich.console import Console

from starchat import ContextLengthError, InvalidRequestError, StarChat
from starchat.cli import line_editor
from starchat.cli.conversation import COMMANDS, Conversation
from starchat.cli.markdown import MarkdownView
from starchat.cli.terminal import Waiting, printable
from starchat.cli.wording import in_command_words


@pytest.fixture(scope="module")
def model(tiny_model_path: Path) -> Iterator[StarChat]:
    with StarChat.load(tiny_model_path, n_ctx=100) as model:
        yield model


@pytest.fixture
def conversation(model: StarChat) -> Conversation:
    return Conversation(model, "", {"temperature": 0, "max_tokens": 6})


def contents(conversation: Conversation) -> list[object]:
    return [turn["content"] for turn in conversation.turns]


# ---- questions ----------------------------------------------------------------------------------


def test_answers_are_remembered_with_their_ids(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conversation.read("Hi") and conversation.read("\n    indented\n")
    shown = capsys.readouterr()
    answers = contents(conversation)[1::2]
    assert contents(conversation)[::2] == ["Hi", "    indented"]
    assert shown.out == "".join(f"{answer}\n" for answer in answers)
    assert all(len(turn["token_ids"]) == 6 for turn in conversation.turns[1::2])  # type: ignore[arg-type]


def test_a_cut_answer_says_by_what(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation.read("Hi")
    assert capsys.readouterr().err == "cut here: 6 tokens, the limit of --max-tokens\n"
    del conversation.keywords["max_tokens"]
    conversation.read("Hi")
    assert "cut here: the context of 100 tokens is full; /reset" in capsys.readouterr().err


def test_a_full_context_leaves_out_the_oldest_turns_and_says_so(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [f"{n}. question of many tokens" for n in range(4)]
    for question in questions:
        conversation.read(question)
    notes = capsys.readouterr().err
    assert "error" not in notes
    assert (
        "the context of 100 tokens is full: the first 1 of 3 questions and their answers are left "
        "out from now on; /reset begins again"
    ) in notes.replace("\n", " ")
    assert contents(conversation)[::2] == questions  # for /save


def test_a_question_that_alone_is_too_long_is_an_error_and_forgets_nothing(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation.read("Hi")
    before = conversation.turns
    conversation.read("long " * 50)
    error = capsys.readouterr().err
    assert re.search(r"error: prompt has \d+ tokens, the context holds 100", error)
    assert "left out" not in error
    assert conversation.turns is before


def test_an_answer_that_was_stopped_before_it_began_is_no_turn(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation.read("Hi")
    before = conversation.turns

    def interrupt(*messages: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversation.model, "stream_chat", interrupt)
    for text in ("Hello", "/retry"):
        assert conversation.read(text)
        assert conversation.turns == before


# ---- commands -----------------------------------------------------------------------------------


def test_help_lists_every_command(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation.read("/help")
    listed = re.findall(r"^/(\w+)", capsys.readouterr().err, re.MULTILINE)
    assert listed == [*COMMANDS, "exit"]
    assert {"help", "reset", "system", "save", "load", "retry", "undo", "set"} == set(COMMANDS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("/sytem", "/sytem: no such command; did you mean /system?"),
        ("/xyz", "/xyz: no such command; see /help"),
        ("/undo", "there is no question yet"),
        ("/retry", "there is no question yet"),
        ("/save", "/save FILE: expected the name of a file"),
        ("/load", "/load FILE: expected the name of a file"),
        ("/load absent.json", "/load: absent.json: No such file"),
        ("/set temprature 1", "/set temprature: no such setting: did you mean temperature?"),
        ("/set top_k many", "--top-k: expected an integer, or default; got 'many'"),
        ("/set top_k 1 2", "--top-k: expected an integer, or default; got '1 2'"),
        ("/set top-p 3", "--top-p: expected above 0 and at most 1"),
        ("/set ignore_eos maybe", "--ignore-eos: expected on or off"),
        ("/set stop 'a", "/set stop 'a: No closing quotation"),
    ],
)
def test_a_wrong_command_says_what_it_expects_and_changes_nothing(
    conversation: Conversation, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    before = conversation.keywords
    assert conversation.read(text)
    assert sentence in capsys.readouterr().err.replace("\n", " ")
    assert conversation.keywords is before
    assert conversation.turns == []


@pytest.mark.parametrize("text", ["/etc/hosts is what?", " /reset", "/* a comment */"])
def test_a_question_may_begin_with_a_slash(conversation: Conversation, text: str) -> None:
    conversation.read(text)
    assert contents(conversation)[0] == text


def test_exit_ends(conversation: Conversation) -> None:
    assert not conversation.read("/exit") and not conversation.read("/quit ")


def test_reset_undo_and_retry(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation.read("one")
    conversation.read("two\nlines")
    before = conversation.turns
    capsys.readouterr()
    conversation.read("/retry")
    assert "again: two …\nthe same seed, or a temperature of 0" in capsys.readouterr().err
    assert conversation.turns == before  # greedy
    called = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
    conversation.turns = [*before[:3], called, {"role": "tool", "content": "1"}, before[3]]
    conversation.read("/retry")  # an answer, or more, behind the last question
    assert conversation.turns == before
    conversation.read("/undo")
    assert "taken back: two …" in capsys.readouterr().err
    assert conversation.turns == before[:2]
    conversation.read("/reset")
    assert conversation.turns == []


def test_system_shows_sets_and_removes(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, shown in (
        ("/system", "no system message"),
        ("/system Be brief.\nBe kind.", "Be brief.\nBe kind."),
        ("/system", "Be brief.\nBe kind."),
        ('/system ""', "no system message"),
    ):
        conversation.read(text)
        assert capsys.readouterr().err == f"{shown}\n"


def test_set_shows_and_changes(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("top-k 3", "--stop '#' 'a b'", "ignore_eos on", "max_tokens default", "seed 7"):
        conversation.read(f"/set {text}")
    assert conversation.keywords == {
        "temperature": 0,
        "top_k": 3,
        "stop": ["#", "a b"],
        "ignore_eos": True,
        "seed": 7,
    }
    capsys.readouterr()
    conversation.read("/set")
    shown = dict(line.split(None, 1) for line in capsys.readouterr().err.splitlines())
    assert (shown["top_k"], shown["top_p"], shown["max_tokens"]) == ("3", "0.95", "default")
    conversation.read("/set seed")
    assert capsys.readouterr().err.split() == ["seed", "7"]


def test_a_dialogue_is_saved_for_its_owner_and_loaded(
    conversation: Conversation, model: StarChat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dialogue.json"
    conversation.read("/system Be brief.")
    conversation.read("Grüße")
    conversation.read(f"/save {file}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    saved = json.loads(file.read_text("utf-8"))
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    assert all(message.keys() == {"role", "content"} for message in saved)

    other = Conversation(model, "", {"temperature": 0, "max_tokens": 6})
    other.read(f"/load {file}")
    assert (other.system, contents(other)) == ("Be brief.", contents(conversation))
    other.read("Hi")
    other.read("/save")  # where it came from
    assert len(json.loads(file.read_text("utf-8"))) == 5
    capsys.readouterr()
    conversation.read(f"/save {tmp_path}/nowhere/file")
    assert "nowhere/file: No such file" in capsys.readouterr().err.replace("\n", "")
    stranger = tmp_path / "stranger"
    stranger.write_text("kept")
    conversation.read(f"/save {stranger}")
    assert "exists: choose another name" in capsys.readouterr().err.replace("\n", " ")
    assert stranger.read_text() == "kept"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no JSON", "expected a JSON list of messages"),
        ('{"role": "user"}', "messages: expected a list"),
        ('[{"role": "user"}]', "messages[0]"),
        ('[{"role": "tool", "content": "4", "tool_call_id": "x"}]', "messages[0]"),
    ],
)
def test_what_is_no_dialogue_is_not_loaded(
    conversation: Conversation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    sentence: str,
) -> None:
    (tmp_path / "file").write_text(text)
    conversation.read("Hi")
    before = conversation.turns
    conversation.read(f"/load {tmp_path}/file")
    error = capsys.readouterr().err.replace("\n", " ")
    assert "error: " in error and sentence in error
    assert conversation.turns is before


# ---- inputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param("one\r", "one", id="a-line"),
        pytest.param("\x1b[200~a\nb\r\n    c\n\x1b[201~\r", "a\nb\n    c\n", id="a-paste"),
        pytest.param("see \x1b[200~a\\\nb\x1b[201~ now\r", "see a\\\nb now", id="within-a-line"),
        pytest.param("one\x1b\rtwo\r", "one\ntwo", id="alt-enter"),
        pytest.param("one\\\r  two\\\\\rx\r", "one\n  two\\\nx", id="backslash"),
        pytest.param('"""\rone\r\r"two"\r"""\r', 'one\n\n"two"', id="quotes"),
        pytest.param("\x1b[200~/help\nme\x1b[201~\r", "/help\nme", id="pasted-command"),
    ],
)
def test_an_input_may_have_several_lines(
    typed: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", screen)
    with create_pipe_input() as keyboard, create_app_session(input=keyboard):
        keyboard.send_text(typed + "\x04")
        read = line_editor.reader(COMMANDS)
        assert read() == expected
        with pytest.raises(EOFError):
            read()


@pytest.mark.parametrize(("term", "is_terminal"), [("dumb", True), ("xterm", False)])
def test_plain_lines_where_the_terminal_can_do_no_more(
    term: str, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", None)
    monkeypatch.setenv("TERM", term)
    pasted = ["\x1b[200~x\\", "y", "z\x1b[201~ and", "\x1b[200~x\x1b[201~"]
    lines = iter(["one\\", "two", '"""a', "", 'b"""', "c", *pasted])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    read = line_editor.reader([])
    expected = ["one\ntwo", "a\n\nb", "c", "x\\\ny\nz and", "x"]
    assert [read() for _ in expected] == expected


def test_the_history_is_a_file_that_only_its_owner_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = line_editor.history_file()
    assert file == tmp_path / "state/starchat/history"
    line_editor.history().store_string("one\ntwo")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    assert list(line_editor.history().load_history_strings()) == ["one\ntwo"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setenv("XDG_STATE_HOME", str(file))  # where no folder can be
    line_editor.history().store_string("kept for this session")
    assert "no history between sessions: " in capsys.readouterr().err
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert line_editor.history_file() == Path.home() / ".local/state/starchat/history"


# ---- Markdown -----------------------------------------------------------------------------------

REPLY = '''# Title

Some *soft* `code` with a <div> tag, _a and __init__ &#27;[2J,
and a second line.

1. one
2. two

   more of two
3. three

```python
def f(x):
    """Text."""

    return x  # a remark
```

| a | b |
|---|---|
| 1 | 2 |

The [end](http://x.y).'''


def screen(output: str, height: int) -> list[str]:
    """Return what a terminal shows, and what left its top, for the controls of a live display."""
    lines, row, column = [""], 0, 0
    for control, argument, sign, text in re.findall(
        r"(\x1b\[[?\d;]*?(\d*)([A-Za-z]))|([^\x1b\r\n]+|[\r\n])", output
    ):
        match sign or text:
            case "A":
                row = max(row - int(argument), len(lines) - height)
            case "K":
                lines[row] = ""
            case "\r":
                column = 0
            case "\n":
                row, column = row + 1, 0
                lines += [""] * (row == len(lines))
            case _ if not control:
                lines[row] = (
                    lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
                )
                column += len(text)
    return [line.rstrip() for line in lines]


def shown(text: str, n: int, height: int = 50) -> tuple[list[str], str]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=60, height=height, highlight=False)
    view = MarkdownView(console)
    for start in range(0, len(text), n):
        view.feed(text[start : start + n])
    view.close()
    return screen(output.getvalue(), height), output.getvalue()


def test_markdown_looks_the_same_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starchat.cli.markdown._FRAME_S", 0)
    whole, output = shown(REPLY, len(REPLY))
    for n in (1, 3, 40):
        assert shown(REPLY, n)[0] == whole
    text = "\n".join(whole)
    assert "Some soft code with a <div> tag, _a and __init__ \ufffd[2J,\nand a second line." in text
    assert '\n\ndef f(x):\n    """Text."""\n\n    return x  # a remark\n\n' in text
    assert "The end (http://x.y)." in text
    for mark in ("# T", "```", "*", "`"):
        assert mark not in text
    assert re.search(r"\x1b\[[\d;]+mdef", output)  # highlighted


def test_markdown_higher_than_the_screen_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starchat.cli.markdown._FRAME_S", 0)
    code = "\n".join([f"line_{n}" for n in range(30)])
    lines, _ = shown(f"```\n{code}", 4, height=6)
    assert [line for line in lines if line] == code.split("\n")


def test_an_empty_answer_shows_nothing() -> None:
    assert "".join(shown("", 1)[0]) == "".join(shown("\n", 1)[0]) == ""


def test_an_answers_control_characters_do_not_reach_a_terminal() -> None:
    assert printable("a\x1b[2J\tb\n\x9b") == "a\ufffd[2J\tb\n\ufffd"
    assert "\x1b[2J" not in shown("a\x1b[2J", 1)[1]


def test_a_long_wait_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", stderr)
    Waiting(lambda: "too early").close()
    assert stderr.getvalue() == ""
    monkeypatch.setattr("starchat.cli.terminal.DELAY_S", 0)
    waiting = Waiting(lambda: "1 of 2")
    waiting._timer.join()
    waiting.close()
    assert screen(stderr.getvalue(), 5)[0] == ""
    assert "1 of 2" in stderr.getvalue()


def test_a_prompt_that_is_read_is_counted(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Told(Waiting):
        def close(self) -> None:  # by the first chunk
            said.append(self.__rich__())

    monkeypatch.setattr("starchat.cli.reply.Waiting", Told)
    conversation.read("Hi")
    n = conversation.model.count_tokens([{"role": "user", "content": "Hi"}])
    assert said[0] == f"reading the prompt: {n} of {n} tokens"


# ---- the command's own names --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            InvalidRequestError(
                "min_tokens: expected 0 to max_tokens (3), got 9", param="min_tokens"
            ),
            "--min-tokens: expected 0 to --max-tokens (3), got 9",
        ),
        (
            InvalidRequestError("regex and choice: expected at most one", param="choice"),
            "--regex and --choice: expected at most one",
        ),
        (
            InvalidRequestError("stop[0]: an empty string", param="stop[0]"),
            "--stop[0]: an empty string",
        ),
        (
            InvalidRequestError(
                "n_threads: expected an integer, or None, got 'n_ctx'", param="n_threads"
            ),
            "--threads: expected an integer, got 'n_ctx'",
        ),
        (
            ContextLengthError("prompt has 9 tokens: load it with a larger n_ctx.", param="prompt"),
            "prompt has 9 tokens: load it with a larger --ctx.",
        ),
        (
            UserWarning("a code model; use complete() or infill(), or allow_special=True"),
            "a code model; use starchat complete or starchat infill, or --allow-special",
        ),
        (FileNotFoundError("n_ctx.bin: missing"), "n_ctx.bin: missing"),
    ],
)
def test_errors_name_options_and_commands(error: Exception, text: str) -> None:
    assert in_command_words(error) == text
