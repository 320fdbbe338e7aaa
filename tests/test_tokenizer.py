"""The native tokenizer against Hugging Face's, a slow readable twin, and its own promises."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from starchat._core import Tokenizer
from starchat.errors import InvalidRequestError
from support.tokenizer_oracle import (
    ADDED,
    NEEDS_DATA,
    REFERENCE,
    TOKENIZER_JSON,
    Oracle,
    added_oracle,
    edges_oracle,
    learned_oracle,
    starchat_oracle,
)
from support.vocabularies import BYTES, CONTROL_LAST, documents, learned

# --- Oracles -------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        pytest.param("starchat", marks=NEEDS_DATA),
        pytest.param("learned, all bytes"),
        pytest.param("learned, few bytes"),
    ]
)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    if request.param == "starchat":
        return starchat_oracle()
    return learned_oracle(all_bytes=request.param.endswith("all bytes"))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def slow_merge(parts: list[bytes], ranks: dict[tuple[bytes, bytes], int]) -> list[bytes]:
    """Merge the leftmost pair of the lowest rank until none is left: the definition of BPE."""
    while mergeable := [(ranks[p], i) for i, p in enumerate(pairwise(parts)) if p in ranks]:
        _, i = min(mergeable)
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]
    return parts


def slow_encode(vocabulary: Sequence[bytes], piece: bytes) -> list[int]:
    """Encode one piece of letters with merges rebuilt from the vocabulary: the twin."""
    ranks: dict[tuple[bytes, bytes], int] = {}
    for rank, token in enumerate(vocabulary):
        known = all(bytes([byte]) in vocabulary for byte in token)
        if known and len(token) > 1 and vocabulary.index(token) == rank:
            parts = slow_merge([bytes([byte]) for byte in token], ranks)
            if len(parts) == 2:
                ranks[parts[0], parts[1]] = rank
    parts = [bytes([byte]) for byte in piece if bytes([byte]) in vocabulary]
    return [vocabulary.index(part) for part in slow_merge(parts, ranks)]


# --- Equality with Hugging Face ------------------------------------------------------------------

SPACES = [" ", "  ", "\t", "\n", "\r\n", "\x0b", "\x85", "\xa0", "\u1680", "\u2003", "\u3000"]
DIGITS = list("0123456789٣߄௧๓²½Ⅷ㊈一\u3007\U0001d7d8𐄇")
SIGNS = ["'s", "'S", "'ll", "'l", "'", "_", "==", "!", "😀", "\u0301", "\u200d", "\ufeff", "\0"]
LETTERS = ["def", "I", "it", "é", "ﬁ", "数", "кот", "\u0627", "ª", "\U0001d49c", "\U00040000"]
LOOK_ALIKES = ["<|end|>", "<|end|", "|>", "<|", "<fim_prefix>", "<fim_", "[PAD]", "<|endoftext|>"]
characters = st.characters(codec="utf-8")  # no lone surrogates, which are no text
mixtures = st.lists(
    st.one_of(*map(st.sampled_from, (SPACES, DIGITS, SIGNS, LETTERS, LOOK_ALIKES)), characters)
).map("".join)
code_lines = "\n".join(documents(10, "lines")).splitlines(keepends=True)
code = st.lists(st.one_of(st.sampled_from(code_lines), mixtures), max_size=8).map("".join)
thorough = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@NEEDS_DATA
def test_reference_strings_get_the_published_ids() -> None:
    ours = starchat_oracle().ours
    cases = [json.loads(line) for line in REFERENCE.read_text(encoding="utf-8").splitlines()]
    assert len(cases) == 50
    assert [ours.encode(case["text"]) for case in cases] == [case["ids"] for case in cases]


def test_merges_are_rebuilt_from_the_tokens_alone_over_a_large_text(oracle: Oracle) -> None:
    """Hugging Face's tokenizer is given the merges; ours has the tokens, in their order."""
    for text in documents(100, "large"):
        oracle.check(text)


def test_generated_texts_get_the_same_ids_on_every_machine() -> None:
    tokens = learned(3000).tokens
    assert digest(b"\0".join(tokens)) == "bd1adb8e1d105e71"
    tokenizer = Tokenizer(tokens)
    ids = [id for text in documents(100, "large") for id in tokenizer.encode(text)]
    assert digest(np.array(ids, "<i4").tobytes()) == "c0ba5cc883a7c187"


@given(text=st.one_of(st.text(characters), mixtures, code), allow_special=st.booleans())
@example(text="x  1 \u00a02\n\n 3 ", allow_special=False)
@example(text="we'll've'd 'S's  's", allow_special=False)
@example(text="\U00040000 \U0007fffd\U00040000", allow_special=False)  # F1 has no token
@example(text="<<|end|>|end|><|end|>  <|end|>\n", allow_special=True)
@thorough
def test_every_string_gets_the_ids_of_hugging_face(
    oracle: Oracle, text: str, allow_special: bool
) -> None:
    oracle.check(text, allow_special)


@given(st.lists(st.sampled_from(SPACES + DIGITS[:2] + ["a", "'s", "."]), max_size=30).map("".join))
@thorough
def test_white_space_is_split_as_hugging_face_splits_it(oracle: Oracle, text: str) -> None:
    oracle.check(text)


@pytest.mark.parametrize("plane", range(17), ids=lambda plane: f"plane {plane}")
def test_every_code_point_has_the_class_that_hugging_face_gives_it(plane: int) -> None:
    oracle = edges_oracle()
    for start in range(plane << 16, (plane + 1) << 16, 0x1000):
        chars = [chr(c) for c in range(start, start + 0x1000) if not 0xD800 <= c < 0xE000]
        text = "".join(f" {c}={c}{c}" for c in chars)
        same = oracle.ours.encode(text) == oracle.theirs(text)
        assert same, f"U+{start:04X} or one of the next: run cpp/text/make_unicode_classes.py"


@pytest.mark.parametrize("length", [1, 2, 3, 47, 48, 49, 1000])
def test_long_pieces_merge_as_hugging_face_merges_them(oracle: Oracle, length: int) -> None:
    chance = random.Random(length)
    for letters in ("a", "ab", "etaoinshrdlu", " ", "\n ", "=-", "数字", "😀"):
        oracle.check("".join(chance.choices(letters, k=length)))


# --- Added tokens --------------------------------------------------------------------------------

added_mixtures = st.lists(
    st.one_of(*map(st.sampled_from, (ADDED, SPACES, LOOK_ALIKES, list("abcdefx<>|\n"))), characters)
).map("".join)


@given(text=added_mixtures, allow_special=st.booleans())
@example(text="xabcab<tool>x<|end|>x def defx\n\n\n\n the théabcbc", allow_special=False)
@example(text="x<|end|>x<|end|", allow_special=True)
@thorough
def test_added_tokens_are_cut_out_as_hugging_face_cuts_them(text: str, allow_special: bool) -> None:
    added_oracle().check(text, allow_special)
    ours = added_oracle().ours
    assert ours.decode(ours.encode(text, allow_special)) == text.encode()


def test_added_tokens_leave_ordinary_texts_as_they_are() -> None:
    for text in documents(20, "added"):
        added_oracle().check(text)


def ids_as_bytes(*ids: int) -> bytes:
    return np.array(ids, "=i4").tobytes()


def test_control_tokens_are_no_added_tokens() -> None:
    tokenizer = Tokenizer([*BYTES, b"<|end|>", b"aa", b""], added_ids=ids_as_bytes(256, 257, 258))
    assert [id for id in range(259) if tokenizer.is_added(id)] == [257]
    assert tokenizer.encode("<|end|>aaa") == [*b"<|end|>", 257, 97]
    assert tokenizer.encode("<|end|>aaa", True) == [256, 257, 97]


def test_many_added_tokens_cost_little() -> None:
    tokens = [*BYTES, *(b"a" * n + b"b" for n in range(1, 200))]
    tokenizer = Tokenizer(tokens, added_ids=ids_as_bytes(*range(256, len(tokens))))
    start = time.perf_counter()
    assert tokenizer.encode("a" * 50_000 + "b") == [97] * (50_000 - 199) + [len(tokens) - 1]
    assert tokenizer.encode("aab" * 50_000) == [257] * 50_000
    assert time.perf_counter() - start < 30  # takes 0.1 s


@pytest.mark.parametrize("name", ["control_ids", "added_ids", "merges"])
def test_ids_that_name_no_token_are_refused(name: str) -> None:
    for id in -1, 256:
        with pytest.raises(IndexError):
            Tokenizer(BYTES, **{name: ids_as_bytes(97, 98, id)})


# --- Merges rebuilt from a vocabulary ------------------------------------------------------------


@given(
    tokens=st.lists(st.text("abc", min_size=2, max_size=6).map(str.encode), max_size=30),
    piece=st.text("abcd", max_size=60).map(str.encode),
)
@settings(deadline=None)
def test_any_vocabulary_encodes_as_the_slow_twin_does(tokens: list[bytes], piece: bytes) -> None:
    vocabulary = [b"a", b"b", b"c", *tokens]  # d has no token
    assert Tokenizer(vocabulary).encode(piece) == slow_encode(vocabulary, piece)


def test_token_that_no_earlier_merges_form_is_never_merged_into() -> None:
    tokenizer = Tokenizer([b"a", b"b", b"c", b"abc", b"ab"])
    assert tokenizer.encode("abc") == [4, 2]  # "ab" + "c" spells token 3, but did not make it


def test_merges_go_by_rank_and_not_by_length() -> None:
    tokenizer = Tokenizer([b"a", b"b", b"c", b"bc", b"ab", b"abc"])
    assert tokenizer.encode("abab") == [4, 4]
    assert tokenizer.encode("abc") == [5]
    assert tokenizer.encode("abbc") == [4, 3]
    assert tokenizer.encode("aabc") == [0, 5]


def test_token_ids_of_bytes_may_come_in_any_order() -> None:
    assert Tokenizer([b"ab", b"b", b"a"]).encode("bab") == [1, 0]


def test_padding_repeats_the_last_token_and_lookups_give_the_lowest_id() -> None:
    tokenizer = Tokenizer([b"a", b"b", b"ab", b"ab", b"ab"])
    assert len(tokenizer) == 5
    assert tokenizer.find(b"ab") == 2
    assert tokenizer.encode("abab") == [2, 2]
    assert tokenizer.decode([4, 3]) == b"abab"


def test_padding_with_a_control_token_is_a_control_token_too() -> None:
    tokenizer = Tokenizer([b"a", b"<|end|>", b"<|end|>"])
    assert [tokenizer.is_special(id) for id in range(3)] == [False, True, True]
    assert tokenizer.special_tokens() == {"<|end|>": 1}
    assert tokenizer.encode("<|end|>", True) == [1]
    assert tokenizer.decode([0, 1, 2], skip_special=True) == b"a"


def test_empty_vocabulary_encodes_to_nothing() -> None:
    tokenizer = Tokenizer([])
    assert (len(tokenizer), tokenizer.encode("abc"), tokenizer.find("a")) == (0, [], None)


# --- Bytes in, bytes out -------------------------------------------------------------------------


@given(st.one_of(st.binary(), mixtures.map(str.encode)))
@thorough
def test_decode_returns_what_was_encoded(oracle: Oracle, data: bytes) -> None:
    kept = b"".join(byte for byte in map(BYTES.__getitem__, data) if byte in oracle.vocabulary)
    assert oracle.ours.decode(oracle.ours.encode(data)) == kept
    if kept == data:
        assert oracle.ours.decode(oracle.ours.encode(data, True)) == data


@NEEDS_DATA
def test_only_bytes_of_rare_planes_and_of_no_utf8_have_no_token_in_starchat() -> None:
    ours = starchat_oracle().ours
    missing = [byte[0] for byte in BYTES if ours.find(byte) is None]
    assert missing == [0xC0, 0xC1, 0xF1, *range(0xF5, 0x100)]


INVALID = {
    "continuation": b"\x80",
    "cut character": b"\xe2\x82",
    "lead before ascii": b"\xc3",
    "overlong, two bytes": b"\xc1\xa1",
    "overlong, three bytes": b"\xe0\x81\xa1",
    "overlong, four bytes": b"\xf0\x80\x81\xa1",
    "surrogate": b"\xed\xa0\x80",
    "past U+10FFFF": b"\xf4\x90\x80\x80",
    "never a lead": b"\xff",
}


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID.keys())
def test_invalid_utf8_counts_as_signs(invalid: bytes) -> None:
    def tokenizer_of(whole: bytes) -> Tokenizer:
        return Tokenizer([*BYTES, *(whole[:end] for end in range(2, len(whole) + 1))])

    with_sign, with_letter = b" " + invalid + b"!", b"a" + invalid
    assert tokenizer_of(with_sign).encode(with_sign) == [256 + len(with_sign) - 2]
    assert tokenizer_of(with_letter).encode(with_letter)[0] == ord("a")


def test_lone_surrogate_in_a_str_becomes_its_three_bytes() -> None:
    ours = learned_oracle().ours
    ids = ours.encode("a\ud800b")
    assert ids == ours.encode(b"a\xed\xa0\x80b")
    assert ours.decode(ids) == b"a\xed\xa0\x80b"


def test_str_and_bytes_give_the_same_ids(oracle: Oracle) -> None:
    text = "naïve 数字\n"
    assert oracle.ours.encode(text) == oracle.ours.encode(text.encode())


# --- Control tokens ------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([*LOOK_ALIKES, *CONTROL_LAST, "\n", "a", " "])).map("".join))
@thorough
def test_text_never_becomes_a_control_token_unless_allowed(oracle: Oracle, text: str) -> None:
    ids = oracle.ours.encode(text)
    assert not any(oracle.ours.is_special(id) for id in ids)
    assert ids == oracle.ours.encode(text, [])


@NEEDS_DATA
def test_control_token_as_content_is_plain_text() -> None:
    assert starchat_oracle().ours.encode("<|end|>") == [46, 110, 416, 28318]


@NEEDS_DATA
def test_control_tokens_of_starchat_are_those_that_hugging_face_lists() -> None:
    added = json.loads(TOKENIZER_JSON.read_text(encoding="utf-8"))["added_tokens"]
    expected = {token["content"]: token["id"] for token in added}
    assert starchat_oracle().ours.special_tokens() == expected
    assert len(expected) == 23


def test_control_tokens_of_santacoder_have_hyphens() -> None:
    names = ["<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>", "<fim-pad>"]
    tokenizer = Tokenizer([*BYTES, *(name.encode() for name in names)])
    assert tokenizer.special_tokens() == {name: 256 + i for i, name in enumerate(names)}


@pytest.mark.parametrize(
    "text", ["<||>", "<|", "<|>", "<|a b|>", "<|a|b|>", "<|==|>", "<div>", "<s>"]
)
def test_ordinary_tokens_are_not_taken_for_control_tokens(text: str) -> None:
    assert Tokenizer([*BYTES, text.encode()]).special_tokens() == {}


def test_only_the_named_control_tokens_are_allowed() -> None:
    tokenizer = Tokenizer([*BYTES, b"<|user|>", b"<|end|>"])
    plain = list(b"<|user|>")
    assert tokenizer.encode("<|user|><|end|>", ["<|end|>"]) == [*plain, 257]
    assert tokenizer.encode("<|user|><|end|>", True) == [256, 257]
    assert tokenizer.encode("<|user|><|end|>") == [*plain, *b"<|end|>"]


def test_allowing_what_is_no_control_token_is_refused() -> None:
    tokenizer = Tokenizer([*BYTES, b"ab", b"<|end|>"])
    for name in ("<|user|>", "ab", "a"):
        with pytest.raises(InvalidRequestError) as error:
            tokenizer.encode("text", [name])
        expected = f"allowed control token '{name}': this vocabulary has only <|end|>"
        assert str(error.value) == expected


def test_skip_special_leaves_control_tokens_out() -> None:
    tokenizer = Tokenizer([*BYTES, b"<|end|>"])
    assert tokenizer.decode([97, 256, 98]) == b"a<|end|>b"
    assert tokenizer.decode([97, 256, 98], skip_special=True) == b"ab"


# --- Lookups and refusals ------------------------------------------------------------------------


def test_lookups_go_both_ways() -> None:
    tokenizer = Tokenizer([b"a", b"\xff", b"\xc3\xa9"])
    assert [tokenizer.token_bytes(id) for id in range(3)] == [b"a", b"\xff", b"\xc3\xa9"]
    assert (tokenizer.find(b"\xff"), tokenizer.find("é"), tokenizer.find("b")) == (1, 2, None)


@pytest.mark.parametrize("id", [-1, 3, 2**31, 2**40])
def test_id_outside_the_vocabulary_is_refused(id: int) -> None:
    tokenizer = Tokenizer([b"a", b"b", b"c"])
    with pytest.raises(InvalidRequestError, match=f"token id {id}: this vocabulary has 3 tokens"):
        tokenizer.decode([0, id])
    if id < 2**31:
        for lookup in (tokenizer.token_bytes, tokenizer.is_special, tokenizer.is_added):
            with pytest.raises(InvalidRequestError, match="3 tokens, ids 0 to 2"):
                lookup(id)


@pytest.mark.parametrize("text", [None, 3, bytearray(b"a"), ["a"]], ids=repr)
def test_only_str_and_bytes_can_be_encoded(text: Any) -> None:
    with pytest.raises(TypeError):
        Tokenizer(BYTES).encode(text)


# --- Time and threads ----------------------------------------------------------------------------

LINES = {
    "one letter": "a",
    "random letters": "abcdefghijklmnopqrstuvwxyz",
    "spaces": " ",
    "newlines": "\n",
    "digits": "0123456789",
    "signs": "<|>=-_*",
    "emoji": "😀😃👍",
    "ideographs": "数字文本中国人",
}


@pytest.mark.parametrize("letters", LINES.values(), ids=LINES.keys())
def test_line_of_one_megabyte_takes_linear_time(oracle: Oracle, letters: str) -> None:
    line = "".join(random.Random(1).choices(letters, k=1_000_000 // len(letters[0].encode())))
    start = time.perf_counter()
    oracle.ours.encode(line, allow_special=True)
    # Takes 0.3 s at most; quadratic work would take hours. The bound leaves room for slow machines.
    assert time.perf_counter() - start < 100


def test_threads_share_one_tokenizer(oracle: Oracle) -> None:
    texts = ["".join(code_lines[i:]) for i in range(0, len(code_lines), 20)]
    expected = [oracle.ours.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(oracle.ours.encode, texts)) == expected


def only_bytes() -> Tokenizer:
    return Tokenizer([bytes([byte]) for byte in range(256)])


@given(st.text(st.characters(), max_size=40))
def test_a_str_is_encoded_as_python_encodes_it(text: str) -> None:
    ids = only_bytes().encode(text)
    assert bytes(ids) == text.encode("utf-8", "surrogatepass")
    assert only_bytes().count(text) == len(ids)


@given(st.text(st.characters(), max_size=40))
def test_no_text_has_fewer_ids_than_its_length_allows(text: str) -> None:
    tokenizer = learned_oracle(all_bytes=True).ours
    assert tokenizer.least_ids(len(text)) <= len(tokenizer.encode(text))
    spelt_out = "<|end|>" * 3
    assert tokenizer.least_ids(len(spelt_out)) <= len(tokenizer.encode(spelt_out, True))


def test_a_vocabulary_that_drops_characters_promises_no_length() -> None:
    assert Tokenizer([b"a"]).least_ids(1000) == 0
    assert only_bytes().least_ids(1000) == 1000


@pytest.mark.parametrize("work", ["encode", "count"])
def test_other_threads_run_while_a_text_is_encoded(work: str) -> None:
    tokenizer, text = Tokenizer([b"a"]), "b " * 10_000_000  # no ids: no list of them
    method = getattr(tokenizer, work)
    passes, done = 0, threading.Event()

    def run() -> None:
        nonlocal passes
        while not done.is_set():
            passes += 1
            time.sleep(0)  # lets the other thread run

    interval = sys.getswitchinterval()
    other = threading.Thread(target=run)
    other.start()
    sys.setswitchinterval(100)  # so that only a call that releases the GIL lets others run
    try:
        before = passes
        method(text)
        assert passes > before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        other.join()


@pytest.mark.parametrize(("letters", "n"), [("ab ", 20_000_000), ("a", 10_000_000)])
def test_ctrl_c_ends_the_encoding_of_a_long_text(letters: str, n: int) -> None:
    tokenizer = Tokenizer([*(bytes([byte]) for byte in range(256)), b"aa", b"aaaa", b"ab"])
    text = letters * n
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    start = time.thread_time()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            tokenizer.count(text)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.thread_time() - start < 0.7  # of the 1.2 s and more that the whole text takes
