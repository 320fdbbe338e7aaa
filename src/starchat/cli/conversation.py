"""A dialogue at the terminal: questions, and commands that begin with a slash.

Reads no keyboard: chat.py gives it one input after the other.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, cast

from ..argument_names import near_name
from ..errors import FileAccessError, InvalidRequestError, StarChatError
from ..model import StarChat
from ..openai import read_messages
from ..sampling import ReplyOptions as Keywords
from .options import SAMPLING, kind_of, read_json
from .reply import print_reply, say_if_cut
from .terminal import note, report
from .wording import in_command_words

_COMMAND = re.compile(r"/(\w+)(?:\s+|$)(.*)", re.DOTALL)
_Turn = Mapping[str, object]


class Conversation:
    """The turns so far, and how they are answered.

    Turns keep the ids of replies, so that nothing is tokenized twice.
    """

    def __init__(
        self, model: StarChat, system: str, keywords: Keywords, markdown: bool = True
    ) -> None:
        """Begin with an empty history."""
        self.model = model
        self.system = system
        self.turns: list[_Turn] = []
        self.keywords = cast(dict[str, Any], dict(keywords))
        self._markdown = markdown
        self._n_left_out = 0  # of the oldest turns, where the context does not hold all
        self._file = ""  # of the last /save or /load

    def read(self, text: str) -> bool:
        """Answer a question or do a command; return whether the conversation goes on."""
        try:
            if not (command := _COMMAND.fullmatch(text.rstrip())):
                if text.strip():
                    self.ask(text.strip("\n").rstrip())
                return True
            name, argument = command.groups()
            if name in ("exit", "quit"):
                return False
            if not (run := COMMANDS.get(name)):
                near = near_name(name, COMMANDS)
                hint = f"did you mean /{near}?" if near else "see /help."
                problem = f"no such command; {hint} A question begins with another character"
                raise InvalidRequestError(f"/{name}: {problem}")
            run(self, argument.strip())
        except StarChatError as error:
            report(in_command_words(error))
        return True

    # ---- questions --------------------------------------------------------------------------

    def ask(self, question: str) -> None:
        """Print the answer and remember it, or what there is of it when Ctrl-C ends it early."""
        turns = [*self.turns, {"role": "user", "content": question}]
        n_ctx = self.model.info.n_ctx
        self._leave_out_oldest(turns)
        prompt = [*self._system_turns(), *turns[self._n_left_out :]]
        reply = print_reply(
            lambda: self.model.stream_chat(prompt, **cast(Keywords, self.keywords)),
            markdown=self._markdown,
            interruptible=True,
        )
        say_if_cut(reply, n_ctx, "; /reset begins again, --ctx sets it at the start")
        if reply.token_ids:
            answer = {"role": "assistant", "content": reply.text, "token_ids": reply.token_ids}
            self.turns = [*turns, answer]

    def _system_turns(self) -> list[_Turn]:
        return [{"role": "system", "content": self.system}]

    def _leave_out_oldest(self, turns: list[_Turn]) -> None:
        """Leave out as many turns as needed for a quarter of the context to be free."""
        n_ctx = self.model.info.n_ctx
        room = min(self.keywords.get("max_tokens") or n_ctx, n_ctx // 4)
        questions = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
        for start in [self._n_left_out, *(i for i in questions if i > self._n_left_out)]:
            n_tokens = self.model.count_tokens([*self._system_turns(), *turns[start:]])
            if n_tokens + room <= n_ctx or (start == questions[-1] and n_tokens < n_ctx):
                break
        else:  # even the question alone is too long, which the model says
            return
        if start > self._n_left_out:
            self._n_left_out = start
            n = sum(i < start for i in questions)
            note(
                f"the context of {n_ctx:,} tokens is full: the first {n} of {len(questions)} "
                "questions and their answers are left out from now on; /reset begins again"
            )

    # ---- commands: the first line of each docstring is its help ---------------------------------

    def help(self, argument: str = "") -> None:
        """/help: Show this list."""
        lines = [(run.__doc__ or "").partition("\n")[0].split(": ", 1) for run in COMMANDS.values()]
        lines += [["/exit", "Leave, as Ctrl-D does. Ctrl-C stops an answer."]]
        note("\n".join([f"{usage:<20}{meaning}" for usage, meaning in lines]))
        note(
            "Enter sends. Alt-Enter, or Enter behind a backslash, begins another line; so does "
            'Enter between """ and """. A paste is one question.'
        )

    def reset(self, argument: str = "") -> None:
        """/reset: Forget all questions and answers."""
        self._begin([])
        note("forgotten")

    def _begin(self, turns: list[_Turn]) -> None:
        self.turns = turns
        self._n_left_out = 0

    def set_system(self, text: str) -> None:
        """/system [TEXT]: Show or set the system message; "" is none."""
        if text:
            self.system = "" if text == '""' else text
        note(self.system or "no system message")

    def undo(self, argument: str = "") -> None:
        """/undo: Take back the last question and its answer."""
        note(f"taken back: {_first_line(self._take_back())}")

    def retry(self, argument: str = "") -> None:
        """/retry: Answer the last question again."""
        before, left_out = self.turns, self._n_left_out
        question = self._take_back()
        note(f"again: {_first_line(question)}")
        if self.keywords.get("seed") is not None or self.keywords.get("temperature") == 0:
            note("the same seed, or a temperature of 0, gives the same answer: see /set")
        rest = self.turns
        try:
            self.ask(question)
        finally:
            if self.turns is rest:  # no answer: the old one stays
                self.turns, self._n_left_out = before, left_out

    def _take_back(self) -> str:
        """Remove the last question and what follows it; return it."""
        questions = [i for i, turn in enumerate(self.turns) if turn["role"] == "user"]
        if not questions:
            raise InvalidRequestError("there is no question yet")
        question = str(self.turns[questions[-1]]["content"])
        self.turns = self.turns[: questions[-1]]
        self._n_left_out = min(self._n_left_out, len(self.turns))
        return question

    def save(self, path: str) -> None:
        """/save [FILE]: Write the dialogue, as a JSON list of messages."""
        file = os.path.expanduser(path) or self._file
        if not file:
            raise InvalidRequestError("/save FILE: expected the name of a file")
        turns = [turn for turn in self._system_turns() if turn["content"]] + self.turns
        messages = [{k: v for k, v in turn.items() if k != "token_ids"} for turn in turns]
        text = json.dumps(messages, ensure_ascii=False, indent=1, default=asdict) + "\n"
        mode = "w" if file == self._file else "x"
        try:
            with open(file, mode, encoding="utf-8", opener=_for_the_owner) as out:
                out.write(text)
        except FileExistsError:
            problem = f"{file}: exists: choose another name, or remove it"
            raise FileAccessError(problem) from None
        except (OSError, ValueError) as error:
            raise FileAccessError(f"{file}: {getattr(error, 'strerror', error)}") from None
        self._file = file
        note(f"saved: {len(messages)} messages in {file}")

    def load(self, path: str) -> None:
        """/load FILE: Go on with a dialogue that was saved."""
        if not path:
            raise InvalidRequestError("/load FILE: expected the name of a file")
        messages = read_messages(read_json(path, "/load", "a JSON list of messages"))
        self.model.render(messages)  # refuses what is no dialogue
        systems = [str(message["content"]) for message in messages if message["role"] == "system"]
        self.system = "\n\n".join(systems)
        self._begin([message for message in messages if message["role"] != "system"])
        self._file = os.path.expanduser(path)
        note(f"loaded: {len(messages)} messages of {self._file}")

    def set(self, argument: str) -> None:
        """/set [NAME VALUE]: Show the settings, or change one: /set temperature 0.7"""
        given, *values = _words(argument) or [""]
        name = given.lstrip("-").replace("-", "_")
        if name and values:
            self._set(name, values)
        for parameter in SAMPLING.values():
            value = self.keywords.get(parameter.name, parameter.default)
            if not name or parameter.name == name:
                note(f"{parameter.name:<20}{'default' if value in (None, ()) else value}")

    def _set(self, name: str, values: list[str]) -> None:
        if name not in SAMPLING:
            near = near_name(name, SAMPLING)
            problem = f"/set {name}: no such setting"
            raise InvalidRequestError(f"{problem}: did you mean {near}?" if near else problem)
        changed = {key: value for key, value in self.keywords.items() if key != name}
        if values != ["default"]:
            changed[name] = _value(name, values)
        # Submits a request, so that what it refuses is never a setting.
        self.model.stream_complete([0], **cast(Keywords, changed)).close()
        self.keywords = changed


COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "help": Conversation.help,
    "reset": Conversation.reset,
    "system": Conversation.set_system,
    "undo": Conversation.undo,
    "retry": Conversation.retry,
    "save": Conversation.save,
    "load": Conversation.load,
    "set": Conversation.set,
}


def _first_line(text: str) -> str:
    first, newline, _ = text.partition("\n")
    return first + (" …" if newline else "")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidRequestError(f"/set {text}: {error}") from None


def _value(name: str, values: list[str]) -> Any:
    type, _ = kind_of(SAMPLING[name])
    if type not in (int, float, bool):
        return values
    expected = {int: "an integer", float: "a number", bool: "on or off"}[type]
    try:
        [value] = values
        return {"on": True, "off": False}[value] if type is bool else type(value)
    except (ValueError, KeyError):
        problem = f"expected {expected}, or default; got {' '.join(values)!r}"
        raise InvalidRequestError.of(name, problem) from None


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
