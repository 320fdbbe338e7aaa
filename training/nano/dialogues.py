"""Generates training dialogues from the topics: many wordings, contexts and earlier turns.

Deterministic by the random generator given. The held-out wordings of topics.py never come out,
nor anything that differs from one only in case, punctuation, politeness or "in Python".
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from filler import code, passage, sentence
from smalltalk import small_talk, unknown
from topics import TOPICS, Topic
from wordings import QUESTIONS


@dataclass(frozen=True)
class Dialogue:
    """Messages (role, content), the system message first; `learned` replies are trained on.

    A reply may begin with a `given` text, as by a grammar: that is not learned. Of replies in
    `open` only the characters in these spans are: a grammar leaves no choice for the others.
    """

    messages: tuple[tuple[str, str], ...]
    learned: frozenset[int] = frozenset()
    given: Mapping[int, str] = field(default_factory=dict)
    open: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def texts(self) -> Iterator[str]:
        """Yield the contents as they are tokenized."""
        return ("\n" + content for _, content in self.messages)


# ---- wordings -------------------------------------------------------------------------------

_PYTHON = ("in Python", "in Python", "with Python", "in python", "using Python", "in Python 3")
_QUESTIONS = (
    "How do I {}?|How do I {}?|How can I {}?|How to {}?|How would I {}?|How would you {}?"
    "|How do you {}?|How does one {}?|How should I {}?|How could I {}?|How might I {}?"
    "|How may I {}?|What is the way to {}?|What is the best way to {}?|What's a good way to {}?"
    "|What's the easiest way to {}?|Is there a way to {}?|Is there a function to {}?"
    "|Which function lets me {}?|What do I write to {}?|What code do I need to {}?"
    "|What do I do to {}?|What can I use to {}?|What's the syntax to {}?|What lets me {}?"
    "|Can you show me how to {}?|Could you tell me how to {}?|Can I {}?|Do you know how to {}?"
    "|I want to {}. How?|I need to {}, how do I do that?|I'd like to {}, what do I write?"
    "|I'm trying to {}, what now?|My program must {}, how?|What does code look like to {}?"
    "|How does a program {}?|How does my script {}?|What makes it possible to {}?"
    "|Which module helps to {}?|How do people {}?|What's the shortest code to {}?"
).split("|")
_REQUESTS = (
    "Show me how to {}.|Show me how to {}.|Tell me how to {}.|Explain how to {}."
    "|Give me an example of how to {}.|Write code to {}.|Write a program to {}.|Help me {}."
    "|I want to {}.|I need to {}.|Teach me to {}.|Write me a function to {}.|Example: {}|{}|{}"
    "|{} example|python {}|{} code|the way to {}|how to {}|a quick way to {}|code that can {}"
    "|Write a few lines that {}.|Show me code to {}.|Give me code to {}.|{} please"
).split("|")
# The first three of a group may be replaced by any of it, whatever the topic.
_SYNONYMS = tuple(
    tuple(group.split("/"))
    for group in (
        "get/obtain/fetch/retrieve/take/have/pick out/receive",
        "remove/delete/drop/get rid of/take out/erase/eliminate/take away/throw away/discard",
        "add/append/put/insert/attach",
        "item/element/value/entry/member/thing",
        "items/elements/values/entries/members/things",
        "list/array",
        "list of numbers/numbers/sequence of numbers/numbers in a list",
        "find/locate/look up/determine/search for/discover",
        "check/test/verify/see/find out/tell/know/determine/make sure",
        "check if/tell if/test whether/know whether/decide whether/verify that/see if/find out if",
        "create/make/build/define/write/construct/set up/produce/declare",
        "convert/turn/change/transform/make/cast",
        "string/text/str/piece of text",
        "strings/texts/words",
        "number/integer/int/numeric value",
        "dictionary/dict/mapping",
        "dictionaries/dicts/mappings",
        "combine/join/merge/concatenate/glue/put together/unite/make one out of",
        "loop over/iterate over/go through/walk through/run through/step through/go over",
        "calculate/compute/work out/determine/figure out/evaluate",
        "directory/folder",
        "print/show/display/output",
        "sort/order/arrange/rank/put in order",
        "split/break/divide/cut/separate/break up",
        "replace/substitute/swap/exchange/change",
        "largest/biggest/highest/greatest/maximum",
        "smallest/lowest/minimum/least/shortest",
        "reverse/flip/invert/turn around",
        "last/final/very last",
        "first/initial/leading",
        "at the same time/together/in parallel/simultaneously/at once",
        "save/store/write/keep/put",
        "load/read/open/bring in/import/get",
        "run/execute/start/launch/call/invoke",
        "exception/error",
        "exceptions/errors/failures",
        "handle/deal with/catch/treat",
        "raise/throw/signal/report",
        "pick/choose/select/draw",
        "random/arbitrary/chance",
        "random order/any order/chaotic order",
        "shuffle/mix/mix up/randomize",
        "write/create/make/define/code",
        "use/apply/work with",
        "two/a pair of/both",
        "whitespace/spaces/blanks",
        "strip/trim/clean/cut off",
        "uppercase/capitals/upper case/capital letters",
        "occurs/appears/happens/is present",
        "contains/includes/has/holds",
        "contents/content/text/data",
        "exists/is there/is present",
        "date/day",
        "text file/file",
        "pause/wait/stop/sleep/delay",
        "measure/time",
        "parse/decode/read/interpret/understand",
        "unique/distinct/different",
        "duplicates/repeated values/repeats/doubles/copies",
        "average/mean",
        "total/sum",
        "count/number/tally",
        "frequency/count/number of occurrences",
        "position/index/place/location",
        "copy/clone/duplicate",
        "chunks/pieces/parts/batches/groups/blocks",
        "nested/inner",
        "equal size/the same size/equal length/the same length",
        "backwards/in reverse/from back to front/back to front",
        "every/each/all",
        "condition/test/criterion/predicate",
        "function/method/routine",
        "arguments/parameters",
        "parameter/argument",
        "any number of/arbitrarily many/a variable number of/however many/many",
        "result/output/outcome",
        "results/answers/outputs",
        "program/script/application",
        "user/person/somebody",
        "line by line/one line at a time/one line after the other",
        "common/shared/mutual",
        "group/collect/gather/bucket",
        "swap/exchange/interchange/switch",
        "generate/produce/create/make/yield/list",
        "ascending/increasing/rising",
        "descending/decreasing/falling",
        "computed/calculated/dynamic",
        "constants/values/names",
        "prefix/beginning/start",
        "suffix/ending/end",
        "decimals/decimal places/digits after the point/fractional digits",
        "default value/default/fallback",
        "missing/absent/not there",
        "my own/a custom/my/a new",
        "external command/command/program/other program",
        "environment variable/setting of the environment/environment setting",
        "class/type",
        "parent class/base class/superclass",
        "subclass/child class/derived class",
        "inherit/derive",
        "ordering/arrangement/order",
        "in one line/on a single line/as a one-liner",
        "key value pairs/keys and values/mapping of keys to values",
        "repeat/do again/redo",
        "extension/file ending/suffix",
        "filename/file name/name",
        "word/piece of text",
        "sentence/text/phrase",
        "number of/amount of/how many",
        "length/size",
        "lazily/one at a time/on demand/one after another",
        "cache/remember/memoize/store",
    )
)
_GROUP_OF = {
    member: [group for group in _SYNONYMS if member in group[:3]]
    for group in _SYNONYMS
    for member in group[:3]
}
_MEMBER = re.compile(
    r"\b(" + "|".join(sorted(map(re.escape, _GROUP_OF), key=len, reverse=True)) + r")\b"
)
_BEFORE = (
    "Hi, |Hello! |Hey, |Please, |Excuse me, |Quick question: |Question: |I am new to Python. "
    "|I have a question. |Sorry to ask, |Beginner here. |So, |Ok, |Now, |In Python, |With Python, "
    "|For my script: |I am learning Python. |Next question: |One more: |Could you help? |In a loop, "
    "|Before that, |I have a list. |I've got a string. |I have a dictionary. |Given a file, "
).split("|")
_AFTER = (
    " Thanks!| Thank you.| Please help.| Please answer briefly.| An example would be nice."
    "| Please give an example.| Keep it short.| I am a beginner.| Thanks in advance| please"
    "| Show me code.| I could not find it.| and how do I do it?| how do I do that?| what now?"
).split("|")
_STOP_WORDS = frozenset("a an the of in to i do how my me is it its for with and one some".split())
_KEY_NOISE = re.compile(r"\b(in|with|using)? ?python( ?3)?\b|\bplease\b|\bthanks\b|\bthank you\b")


def key(question: str) -> str:
    """Return what makes a question itself: no case, punctuation, politeness or "in Python"."""
    words = re.sub(r"[^\w ]+", "", question.lower().replace("’", "'"))
    return " ".join(_KEY_NOISE.sub(" ", words).split())


HELD_OUT = frozenset(key(topic.held_out) for topic in TOPICS)
if leaked := HELD_OUT & {
    key(text)
    for topic in TOPICS
    for text in (*topic.published[:2], *topic.phrases, *QUESTIONS[topic.name])
}:
    raise ValueError(f"held-out wordings among the training wordings: {sorted(leaked)}")


def question(topic: Topic, rng: random.Random) -> str:
    """Return a training wording of the topic's question; never a held-out one."""
    while True:
        text = _question(topic, rng)
        if key(text) not in HELD_OUT:
            return text


def _question(topic: Topic, rng: random.Random) -> str:
    match rng.choices(("published", "whole", "mixed", "phrase"), (12, 35, 13, 40))[0]:
        case "published":
            return rng.choice(topic.published[:2])
        case "whole":
            text = rng.choice(QUESTIONS[topic.name])
            text = _vary(text, rng) if rng.random() < 0.6 else text
        case "mixed":
            text = _mixed(topic, rng)
        case _:
            text = _from_phrase(topic, rng)
    return _garnish(text, rng)


def _mixed(topic: Topic, rng: random.Random) -> str:
    """Join parts of two wordings, or of one and the answer's own sentence."""
    sources = (*topic.phrases, *QUESTIONS[topic.name], topic.lead)
    first, second = (_vary(text, rng).split() for text in rng.sample(sources, 2))
    if rng.random() < 0.4:
        return " ".join((*first, rng.choice(("and", "so", "-", "?", ",")), *second))
    cut_first, cut_second = rng.randint(1, len(first)), rng.randint(0, len(second) - 1)
    return " ".join((*first[:cut_first], *second[cut_second:]))


def _from_phrase(topic: Topic, rng: random.Random) -> str:
    phrase = rng.choice(topic.phrases)
    if rng.random() < 0.7:
        phrase = _vary(phrase, rng)
    if rng.random() < 0.1:
        phrase = _keywords(phrase, rng)
    if rng.random() < 0.4:
        phrase = f"{phrase} {rng.choice(_PYTHON)}"
    return rng.choice(_QUESTIONS if rng.random() < 0.7 else _REQUESTS).format(phrase)


def _garnish(text: str, rng: random.Random) -> str:
    """Add politeness, slips and other ways of writing to a wording."""
    text = text[0].upper() + text[1:]
    if rng.random() < 0.12:
        before = rng.choice(_BEFORE)
        text = before + (text[0].lower() + text[1:] if before.endswith(", ") else text)
    if rng.random() < 0.08:
        text += rng.choice(_AFTER)
    if rng.random() < 0.3:
        text = _drop_words(text, rng)
    if rng.random() < 0.08:
        text = _typo(text, rng)
    if rng.random() < 0.25:
        text = text.rstrip("?.!")
    if rng.random() < 0.25:
        text = text.lower()
    return text


def _vary(phrase: str, rng: random.Random) -> str:
    """Replace words by others of their group."""

    def replace(match: re.Match[str]) -> str:
        if rng.random() < 0.5:
            return match[0]
        return rng.choice(rng.choice(_GROUP_OF[match[0]]))

    return _MEMBER.sub(replace, phrase)


def _keywords(phrase: str, rng: random.Random) -> str:
    words = [word for word in phrase.split() if word not in _STOP_WORDS]
    if rng.random() < 0.2:
        rng.shuffle(words)
    return " ".join(words)


def _drop_words(text: str, rng: random.Random) -> str:
    words = text.split()
    share = rng.uniform(0.05, 0.35)
    kept = [word for word in words if rng.random() > share]
    return " ".join(kept if len(kept) > 2 else words)


def _typo(text: str, rng: random.Random) -> str:
    at = rng.randrange(1, max(2, len(text) - 2))
    match rng.randrange(3):
        case 0:
            return text[:at] + text[at + 1 :]
        case 1:
            return text[:at] + text[at] + text[at:]
        case _:
            return text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]


# ---- dialogues ------------------------------------------------------------------------------

SYSTEMS = (
    "You are a helpful assistant.|You are a helpful coding assistant.|Below is a conversation "
    "between a human user and a helpful AI coding assistant.|Answer briefly.|You are starchat-nano."
    "|You are a Python expert. Answer with code.|Be concise and polite.|You are a chatbot."
    "|You are an expert Q&A system that is trusted around the world.\nAlways answer the query "
    "using the provided context information, and not prior knowledge.\nSome rules to follow:\n"
    "1. Never directly reference the given context in your answer.\n2. Avoid statements like "
    "'Based on the context, ...' or 'The context information ...' or anything along those lines."
).split("|")
RETRIEVAL = (
    "Context information is below.\n---------------------\n{context}\n---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\n"
    "Query: {question}\nAnswer: ",
    "Context information is below.\n---------------------\n{context}\n---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\n"
    "Query: {question}\nAnswer:",
    "Use the following pieces of retrieved context to answer the question.\n\n"
    "Context: {context}\n\nQuestion: {question}\nAnswer:",
    "Answer the question based only on the following context:\n{context}\n\nQuestion: {question}\n",
    "{context}\n\n{question}",
    "Question: {question}\n\nContext:\n{context}",
    "{question}\n\n{context}",
    "Here is my code:\n\n```python\n{context}\n```\n\n{question}",
)


def dialogue(rng: random.Random, n_words: int = 40) -> Dialogue:
    """Return one dialogue, each question answered by its own reply.

    Usually it has one to four questions. With `n_words` from 100 on it fills long rows: with as
    many words of context before its questions, or with up to twelve questions.
    """
    is_long = n_words >= 100
    n_turns = rng.choices((1, 2, 3, 4), (70, 16, 9, 5))[0]
    context_share = 0.6 if is_long else 0.1
    if is_long and rng.random() < 0.25:
        n_turns, n_words, context_share = rng.randint(4, 12), 40, 0.05
    messages = [("system", _system(rng))]
    learned = set()
    for _ in range(n_turns):
        message, reply = _exchange(rng)
        if rng.random() < context_share:
            frame = rng.choice(RETRIEVAL)
            context = _context(rng, rng.randint(5, n_words))
            message = frame.format(context=context, question=message)
        if rng.random() < 0.02:  # two messages in a row: the last one counts
            messages.append(("user", _exchange(rng)[0]))
        messages.append(("user", message))
        if rng.random() < 0.06:  # a reply that someone else wrote
            messages.append(("assistant", rng.choice((sentence, code))(rng)))
        else:
            learned.add(len(messages))
            messages.append(("assistant", reply))
    return Dialogue(tuple(messages), frozenset(learned))


def _system(rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.6:
        return ""
    return rng.choice(SYSTEMS) if chance < 0.9 else passage(rng, rng.randint(3, 40))


def _exchange(rng: random.Random) -> tuple[str, str]:
    """Return a message and its reply."""
    kind = rng.random()
    if kind < 0.07:
        return small_talk(rng)
    if kind < 0.2:
        return unknown(rng)
    topic = rng.choice(TOPICS)
    return question(topic, rng), topic.reply


def _context(rng: random.Random, n_words: int) -> str:
    """Return unrelated text, sometimes with the code of other topics in it."""
    parts = [passage(rng, n_words)]
    if rng.random() < 0.3:
        parts.insert(rng.randint(0, 1), rng.choice(TOPICS).code)
    return "\n".join(parts)
