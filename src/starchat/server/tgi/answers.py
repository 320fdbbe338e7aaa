"""The model's replies → bodies of answers, token by token.

A text of this API keeps the stop string that ended it, and has no control tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from ...types import Chunk, Completion, TokenLogprob, Usage
from ..json_response import finite
from .forms import Asked

Finish = Literal["length", "eos_token", "stop_sequence"]


class InputToken(BaseModel):
    """A token of the prompt. Nothing predicts the first one: its log probability is 0."""

    id: int
    text: str
    logprob: float


class Token(InputToken):
    """A token of the reply; control tokens are special."""

    special: bool


class Written(BaseModel):
    """How a reply came about."""

    finish_reason: Finish
    generated_tokens: int
    seed: int | None
    prefill: list[InputToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | None = None


class OtherSequence(Written):
    """A reply that was not the best one."""

    generated_text: str


class Details(Written):
    """How a reply came about, and the others of best_of."""

    best_of_sequences: list[OtherSequence] | None = None


class Generated(BaseModel):
    """The answer of /generate."""

    generated_text: str
    details: Details | None = None


class StreamDetails(BaseModel):
    """How a streamed reply ended."""

    finish_reason: Finish
    generated_tokens: int
    input_length: int
    seed: int | None


class StreamEvent(BaseModel):
    """An event of a stream: a token, and with the last one the whole text."""

    index: int
    token: Token
    top_tokens: list[Token] | None = None
    generated_text: str | None
    details: StreamDetails | None


class Info(BaseModel):
    """What is served, and its bounds."""

    model_id: str
    model_sha: str | None = None
    model_pipeline_tag: str = "text-generation"
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int = 1
    max_client_batch_size: int = 1
    router: str = "starchat"
    version: str
    sha: str | None = None
    docker_label: str | None = None


class Error(BaseModel):
    """What is wrong."""

    error: str
    error_type: str


class Reply:
    """A reply of the model, as far as it is written: its tokens, each with its text.

    The texts together are that of the reply, without its control token. A token whose text is not
    certain yet waits: it may be a part of a stop string, or of a character.
    """

    def __init__(self, asked: Asked, control: Mapping[int, str], n_most: int | None = None) -> None:
        """Begin with nothing.

        control: the control tokens of the vocabulary by their ids.
        n_most: tokens with which the reply is cut.
        """
        self.text = ""
        self.finish: Finish | None = None
        self.usage = Usage(0, 0)
        self.n_tokens = 0
        self.sum_logprob = 0.0
        self._asked = asked
        self._control = control
        self._n_most = n_most
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._n_decoded = 0  # characters
        self._n_given = 0  # characters of tokens that do not wait any more
        self._waiting: list[tuple[TokenLogprob, int, int]] = []  # and the characters below

    def feed(self, piece: Chunk | Completion) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        """Add a piece, or a whole reply; yield what is certain: tokens, the best beside each."""
        self.text += piece.text
        for token in piece.logprobs:
            self.n_tokens += 1
            self.sum_logprob += token.logprob
            self._n_decoded += len(self._decoder.decode(token.bytes))
            is_cut = bool(self._decoder.getstate()[0])  # within a character
            # Its text ends at the first number, once the text has as many as the second.
            self._waiting.append((token, self._n_decoded, self._n_decoded + is_cut))
        if piece.finish_reason is None:
            while self._waiting and self._is_certain(self._waiting[0][2]):
                token, end, _ = self._waiting.pop(0)
                yield self._given(token, end)
            return
        n_written = len(self.text)
        self.text += piece.stop_string
        self._end(piece)
        for i, (token, end, _) in enumerate(self._waiting, 1):
            # A stop string is one piece: clients look for it in each event by itself.
            is_last = i == len(self._waiting)
            yield self._given(token, len(self.text) if is_last else min(end, n_written))
        self._waiting.clear()
        if piece.finish_reason == "stop" and not piece.stop_string:
            yield self._end_token(piece.stop_token)

    def _is_certain(self, n_needed: int) -> bool:
        # The last token's event has the whole text, which may come a moment later.
        is_last = self.n_tokens == self._n_most and len(self._waiting) == 1
        return n_needed <= len(self.text) and not is_last

    def _given(self, token: TokenLogprob, end: int) -> tuple[dict[str, Any], list[Any]]:
        begin, self._n_given = self._n_given, max(self._n_given, end)
        text = self.text[begin : self._n_given]
        return _token(token.token_id, text, token.logprob), self._best(token)

    def _best(self, token: TokenLogprob) -> list[dict[str, Any]]:
        return [_token(id, text, value, id in self._control) for id, text, value in token.top]

    def _end(self, piece: Chunk | Completion) -> None:
        if piece.usage is not None:
            self.usage = piece.usage
        if piece.finish_reason == "length":
            self.finish = "length"
            return
        end = piece.stop_token
        names = [stop.strip() for stop in self._asked.parameters.stop]
        is_named = end is not None and self._control.get(end.token_id) in names
        self.finish = "stop_sequence" if piece.stop_string or is_named else "eos_token"

    def _end_token(self, token: TokenLogprob | None) -> tuple[dict[str, Any], list[Any]]:
        """Return the control token that ends a reply; a constraint that is complete writes none."""
        self.n_tokens += 1
        if token is None:
            names = {name: id for id, name in self._control.items()}
            name = next((name for name in ("<|end|>", "<|endoftext|>") if name in names), "")
            return _token(names.get(name, 0), name, 0.0, special=True), []
        self.sum_logprob += token.logprob
        text = self._control.get(token.token_id, token.token)
        return _token(token.token_id, text, token.logprob, special=True), self._best(token)


def _token(id: int, text: str, logprob: float, special: bool = False) -> dict[str, Any]:
    return {"id": id, "text": text, "logprob": finite(logprob), "special": special}


def prefill(first: tuple[int, str], scores: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Return the tokens of a prompt with their log probabilities; nothing predicts the first."""
    texts = [(*first, 0.0), *[(score.token_id, score.token, score.logprob) for score in scores]]
    return [{"id": id, "text": text, "logprob": finite(value)} for id, text, value in texts]


def generated(
    completion: Completion,
    asked: Asked,
    control: Mapping[int, str],
    prompt: str,
    prompt_tokens: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the body of an answer: the best reply, and the details that were asked for.

    prompt: what each text begins with.
    """
    sequences: list[tuple[float, str, dict[str, Any]]] = []
    for index, choice in enumerate(completion.choices):
        reply = Reply(asked, control)
        tokens = [*reply.feed(choice)]
        sequence: dict[str, Any] = {
            "finish_reason": reply.finish,
            "generated_tokens": reply.n_tokens,
            "seed": None if asked.seed is None else (asked.seed + index) % (1 << 64),
            "prefill": prompt_tokens,
            "tokens": [token for token, _ in tokens],
        }
        if asked.n_best:
            sequence["top_tokens"] = [best for _, best in tokens]
        mean = reply.sum_logprob / max(reply.n_tokens, 1)
        sequences.append((mean, prompt + reply.text, sequence))
    sequences.sort(key=lambda item: -item[0])  # stable: of equal ones, the first
    (_, text, details), *others = sequences
    if not asked.parameters.details:
        return {"generated_text": text}
    if others:
        listed = [{"generated_text": text, **sequence} for _, text, sequence in others]
        details = {**details, "best_of_sequences": listed}
    return {"generated_text": text, "details": details}


class StreamWriter:
    """Writes the events of a stream."""

    def __init__(self, reply: Reply, asked: Asked, prompt: str) -> None:
        """Write a reply; its whole text begins with the prompt."""
        self._reply = reply
        self._asked = asked
        self._prompt = prompt
        self._n_events = 0

    def events(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """Yield an event for each token that a chunk makes certain."""
        reply, parameters = self._reply, self._asked.parameters
        tokens = [*reply.feed(chunk)]
        is_end = reply.finish is not None
        if is_end and not tokens:  # the last token had its event before it was known to be that
            tokens = [(_token(chunk.token_ids[-1] if chunk.token_ids else 0, "", 0.0, True), [])]
        for i, (token, best) in enumerate(tokens, 1):
            self._n_events += 1
            is_last = is_end and i == len(tokens)
            if token["special"] and not parameters.details:
                token = {**token, "text": ""}  # clients that read no details join all texts
            event: dict[str, Any] = {"index": self._n_events, "token": token}
            if self._asked.n_best:
                event["top_tokens"] = best
            event["generated_text"] = self._prompt + reply.text if is_last else None
            event["details"] = self._details() if is_last and parameters.details else None
            yield event

    def _details(self) -> dict[str, Any]:
        return {
            "finish_reason": self._reply.finish,
            "generated_tokens": self._reply.n_tokens,
            "input_length": self._reply.usage.prompt_tokens,
            "seed": self._asked.seed,
        }
