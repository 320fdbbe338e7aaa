r"""Turns → token ids: the form of a dialogue, and how a reply in it begins and ends.

StarChat's form is <|system|>\n…<|end|>\n<|user|>\n…<|end|>\n<|assistant|>. Control tokens are
inserted as ids: no message can end its own turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import _core
from ..checks import token_id_slices
from ..errors import InvalidRequestError, UnsupportedFeatureError
from ..prompt_room import PromptRoom
from ..types import Messages
from .call_reader import restated
from .messages import Turn, check_messages
from .tools import Toolbox


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The control tokens of a dialogue, and the text between them.

    A turn is the token of its role, `lead`, the content, `end` and a line break. A prompt stops
    behind the token of the assistant: the reply itself begins with `lead`, and readers of its
    text leave that out.
    """

    roles: Mapping[str, str]  # role → the token before its turns
    lead: str  # at most one character
    end: str  # the token behind a turn
    reply_ends: tuple[str, ...]  # tokens that end a reply, in any prompt, beside the roles

    def render(
        self, turns: Sequence[Turn], tokenizer: _core.Tokenizer, *, goes_on: bool = False
    ) -> list[int]:
        """Return the prompt of a dialogue; it ends where the assistant's next reply begins.

        goes_on: it ends within the last turn instead, behind the content.

        Raises UnsupportedFeatureError where the vocabulary lacks a control token.
        """
        roles, end = self._control_ids(tokenizer)
        newline = tokenizer.encode("\n")
        prompt: list[int] = []
        for turn in turns:
            prompt.append(roles[turn.role])
            prompt += self._content_ids(turn, tokenizer)
            prompt.append(end)
            prompt += newline
        if goes_on:
            return prompt[: -1 - len(newline)]
        prompt.append(roles["assistant"])
        return prompt

    def count_tokens(
        self, messages: Messages, tools: Toolbox, tokenizer: _core.Tokenizer, room: PromptRoom
    ) -> int:
        """Return the tokens of a dialogue, or of a part of one, as a prompt."""
        turns = check_messages(messages, tools, part=True, room=room)
        self._control_ids(tokenizer)
        n_content = sum([self._n_content(turn, tokenizer) for turn in turns])
        n_around = 2 + tokenizer.count("\n")  # of a turn: its role, its end and a line break
        return n_content + n_around * len(turns) + 1

    def _n_content(self, turn: Turn, tokenizer: _core.Tokenizer) -> int:
        """Return the number of _content_ids(), without a list where the text is long."""
        if turn.token_ids:
            return len(self._content_ids(turn, tokenizer))
        return tokenizer.count(self.lead + turn.content)

    def marked(self, ids: Sequence[int], tokenizer: _core.Tokenizer) -> str:
        """Return the text of ids, every control token as «token»."""
        text = b""
        for id in ids:
            token = tokenizer.token_bytes(id)
            text += "«".encode() + token + "»".encode() if tokenizer.is_special(id) else token
        return text.decode("utf-8", "replace")

    def reply_end_ids(self, tokenizer: _core.Tokenizer) -> list[int]:
        """Return the ids that end a reply, as far as the vocabulary has them."""
        ends = (*self.reply_ends, *self.roles.values())
        found = [tokenizer.find(token) for token in ends]
        return [id for id in found if id is not None]

    def _control_ids(self, tokenizer: _core.Tokenizer) -> tuple[dict[str, int], int]:
        """Return the ids of the roles, and of the end of a turn."""
        tokens = (*self.roles.values(), self.end)
        found = {token: id for token in tokens if (id := tokenizer.find(token)) is not None}
        if missing := [token for token in tokens if token not in found]:
            raise UnsupportedFeatureError(
                f"this vocabulary has no {', '.join(missing)}: the file is a code model, not a "
                "StarChat; use complete() or infill()"
            )
        return {role: found[token] for role, token in self.roles.items()}, found[self.end]

    def _content_ids(self, turn: Turn, tokenizer: _core.Tokenizer) -> Sequence[int]:
        """Return the ids of a turn's lead and content: those generated for it, if they still fit.

        They do not where the caller edited the content, or a stop string was cut off. Ids of
        another vocabulary are not used, nor any with a control token before their end: they could
        begin a turn of another role.
        """
        ids = turn.token_ids
        if ids and ids[-1] in [tokenizer.find(token) for token in self.reply_ends]:
            ids = ids[:-1]
        if ids:
            written = _plain_bytes(ids, tokenizer)
            if written is not None:
                text = written.decode("utf-8", "replace").removeprefix(self.lead)
                if restated(text) == turn.content:
                    return ids
        return tokenizer.encode(self.lead + turn.content)


def _plain_bytes(ids: Sequence[int], tokenizer: _core.Tokenizer) -> bytes | None:
    """Return the bytes of ids; None with control tokens, or ids that the vocabulary lacks."""
    pieces = []
    for some in token_id_slices("token_ids", ids):
        try:
            pieces.append(tokenizer.decode(some))
        except InvalidRequestError:
            return None
        if pieces[-1] != tokenizer.decode(some, skip_special=True):
            return None
    return b"".join(pieces)


STARCHAT = ChatTemplate(
    roles={role: f"<|{role}|>" for role in ("system", "user", "assistant")},
    lead="\n",
    end="<|end|>",
    reply_ends=("<|end|>", "<|endoftext|>"),
)
