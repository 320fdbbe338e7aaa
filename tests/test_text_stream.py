"""Bytes → text → stop strings: the same text whatever the borders of the tokens."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from starchat.text_stream import StopStrings, TextStream, UntilStop


def run(pieces: list[bytes], stop: list[str], drop_newline: bool = False) -> list[str]:
    """Return what each piece, and the end, gave out."""
    stream = TextStream(stop, lead="\n" if drop_newline else "")
    return [*(stream.feed(piece) for piece in pieces), stream.finish()]


def at_once(data: bytes, stop: list[str], drop_newline: bool = False) -> str:
    """Return the whole text by the plain definition: character by character, all looked at."""
    text = data.decode("utf-8", "replace")
    if drop_newline:
        text = text.removeprefix("\n")
    for end in range(1, len(text) + 1):
        matches = [s for s in stop if text[:end].endswith(s)]
        if matches:
            return text[: end - len(max(matches, key=len))]
    return text


texts = st.text(alphabet="ab\n€🙂\ufffd", max_size=12)


@st.composite
def split_bytes(draw: st.DrawFn) -> list[bytes]:
    data = draw(st.one_of(st.binary(max_size=24), texts.map(str.encode)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=24)))
    borders = [0, *cuts, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(borders)]


@given(split_bytes(), st.lists(texts.filter(bool), max_size=3), st.booleans())
@example([b"a", b"b\xe2", b"\x82\xac"], ["b€", "€"], False)
@example([b"\n", b"\n\n"], ["\n\n"], True)
@example([b"a\xf0\x9f"], ["\ufffd"], False)
def test_any_split_of_any_bytes_gives_the_same_text(
    pieces: list[bytes], stop: list[str], drop_newline: bool
) -> None:
    given_out = "".join(run(pieces, stop, drop_newline))
    assert given_out == at_once(b"".join(pieces), stop, drop_newline)


@given(split_bytes(), st.lists(texts.filter(bool), min_size=1, max_size=3))
def test_no_more_is_held_back_than_what_may_become_a_stop_string(
    pieces: list[bytes], stop: list[str]
) -> None:
    stream = TextStream(stop)
    given_out, seen = "", b""
    for piece in pieces:
        seen += piece
        given_out += stream.feed(piece)
        if stream.stopped:
            return
        # Decoded without its end: a character of which bytes are missing is not text yet.
        whole = TextStream([]).feed(seen)
        held = whole[len(given_out) :]
        assert given_out + held == whole
        assert not held or any(s.startswith(held) for s in stop)


def test_half_a_character_waits_for_its_other_half() -> None:
    assert run(["🙂".encode()[:2], "🙂".encode()[2:]], []) == ["", "🙂", ""]


def test_half_a_character_at_the_end_is_replaced_not_lost() -> None:
    assert run([b"a" + "🙂".encode()[:3]], []) == ["a", "\ufffd"]


def test_stop_string_split_across_two_tokens() -> None:
    assert run([b"x\n", b"\ny"], ["\n\n"]) == ["x", "", ""]


def test_held_text_comes_out_when_it_becomes_no_stop_string() -> None:
    assert run([b"x\n", b"y"], ["\n\n"]) == ["x", "\ny", ""]


def test_held_text_comes_out_at_the_end() -> None:
    assert run([b"x\n"], ["\n\n"]) == ["x", "\n"]


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert "".join(run([b"abcd"], ["abcd", "bc"])) == "a"


def test_of_two_that_end_together_the_longer_wins() -> None:
    assert "".join(run([b"xabc"], ["c", "abc"])) == "x"


def test_nothing_follows_a_stop_string() -> None:
    stream = TextStream(["."])
    assert [stream.feed(b"a."), stream.feed(b"b"), stream.finish()] == ["a", "", ""]
    assert stream.stopped


def test_replacement_at_the_very_end_may_complete_a_stop_string() -> None:
    stream = TextStream(["\ufffd"])
    assert stream.feed(b"a\xe2") == "a"
    assert stream.finish() == ""
    assert stream.stopped


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        pytest.param([b"\nhi"], "hi", id="one"),
        pytest.param([b"", b"\n", b"\nhi"], "\nhi", id="only-one-of-two"),
        pytest.param([b"hi\n"], "hi\n", id="only-at-the-start"),
    ],
)
def test_leading_newline_of_a_reply_is_dropped(pieces: list[bytes], text: str) -> None:
    assert "".join(run(pieces, [], drop_newline=True)) == text


def test_a_stop_string_of_a_newline_does_not_match_the_dropped_one() -> None:
    assert "".join(run([b"\n", b"a\n", b"b"], ["\n"], drop_newline=True)) == "a"


def test_a_long_stop_string_costs_no_more_than_its_length() -> None:
    stop = "a" * 2000 + "b"
    assert "".join(run([b"a"] * 3000 + [b"b"], [stop])) == "a" * 1000


class OneByOne:
    """The definition of UntilStop: each stop string by itself, in all that is held back."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop, self.held, self.stopped, self.rest = stop, "", False, ""
        self.found = ""

    def feed(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self.held + text
        ends = [(at + len(s), at) for s in self.stop if (at := text.find(s)) >= 0]
        if ends:
            end, start = min(ends)
            self.stopped, self.held, self.rest = True, "", text[end:]
            self.found = text[start:end]
            return text[:start]
        n_held = max(
            (
                n
                for n in range(len(text) + 1)
                for s in self.stop
                if s.startswith(text[len(text) - n :])
            ),
            default=0,
        )
        self.held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


words = st.text(alphabet="ab^]-\n🙂", max_size=9)


@given(st.lists(words, max_size=20), st.lists(words.filter(bool), max_size=9))
@example(["aaab", "aab"], ["aaaa", "aab", "ab"])
@example(["abab", "abc"], ["ababc", "babd", "b"])
def test_every_piece_is_held_back_as_each_stop_string_by_itself_asks(
    pieces: list[str], stop: list[str]
) -> None:
    text, plain = UntilStop(StopStrings(stop)), OneByOne(stop)
    for piece in pieces:
        assert text.feed(piece) == plain.feed(piece)
        seen = [(one.stopped, one.found, one.rest) for one in (text, plain)]
        assert seen[0] == seen[1]
    assert text.finish() == plain.held


def n_python_calls(work: Callable[[], object]) -> int:
    n = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal n
        n += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return n


@pytest.mark.parametrize(
    "many",
    [
        pytest.param([f"zq{i}" for i in range(3000)], id="many"),
        pytest.param(["a" * 300 + str(i) for i in range(100)], id="long-and-held"),
    ],
)
def test_a_character_costs_the_same_for_any_number_of_stop_strings(many: list[str]) -> None:
    pieces = ["azq", "aaaa", "zqz"] * 200
    few, all_of_them = UntilStop(StopStrings(many[:1])), UntilStop(StopStrings(many))
    n_few = n_python_calls(lambda: [few.feed(piece) for piece in pieces])
    assert n_python_calls(lambda: [all_of_them.feed(piece) for piece in pieces]) < 2 * n_few
