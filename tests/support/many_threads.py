"""What threads, tasks and forks can do with one engine at once, for `make tsan-python`.

As a program: `SECONDS` → how often each was done, and errors that nobody expects.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from starchat import ConstraintError, EngineClosedError, StarChat
from starchat.errors import InvalidRequestError

QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
AMBIGUOUS = 'start: e\ne: e e | /[a-z]/ | " "'


def stream(model: StarChat, rng: random.Random) -> None:
    for n, _ in enumerate(model.stream_chat(QUESTION, max_tokens=40, seed=rng.randrange(99))):
        if n == rng.randrange(60):
            break  # dropped


def close_from_another_thread(model: StarChat, rng: random.Random) -> None:
    reply = model.stream_chat(QUESTION, max_tokens=200, ignore_eos=True)
    threading.Timer(rng.random() / 20, reply.close).start()
    for _ in reply:
        pass


def constrain(model: StarChat, rng: random.Random) -> None:
    model.complete("a", regex=f"[a-z]{{1,{rng.randrange(1, 50)}}}", max_tokens=20)
    model.chat(QUESTION, json_schema=SCHEMA, max_tokens=20)


def constrain_slowly(model: StarChat, rng: random.Random) -> None:
    model.complete("a", grammar=AMBIGUOUS, max_tokens=150, temperature=0, ignore_eos=True)


def embed(model: StarChat, rng: random.Random) -> None:
    model.embed([f"text {rng.randrange(9)}", "open a socket"])


def several(model: StarChat, rng: random.Random) -> None:
    model.complete("def f(", n=3, max_tokens=9, logprobs=2)


def tokenize(model: StarChat, rng: random.Random) -> None:
    model.detokenize(model.tokenize("def f(x): return " * 500))
    model.stats()


def tasks(model: StarChat, rng: random.Random) -> None:
    async def read() -> None:
        async for _ in model.astream_chat(QUESTION, max_tokens=30):
            pass

    async def run() -> None:
        every = [asyncio.ensure_future(read()) for _ in range(6)]
        every.append(asyncio.ensure_future(model.aembed(["a", "b"])))
        every.append(asyncio.ensure_future(model.achat(QUESTION, regex="[a-z]*", max_tokens=9)))
        await asyncio.sleep(rng.random() / 10)
        rng.choice(every).cancel()
        await asyncio.gather(*every, return_exceptions=True)

    asyncio.run(run())


def load_and_close(model: StarChat, rng: random.Random) -> None:
    other = StarChat.load(n_ctx=128 + rng.randrange(2))
    reply = other.stream_complete("a", max_tokens=90)
    threading.Timer(rng.random() / 10, other.close).start()
    for _ in reply:
        pass


CALLS = [
    *(stream, close_from_another_thread, constrain, constrain_slowly, embed),
    *(several, tokenize, tasks, load_and_close),
]


def main(seconds: float) -> None:
    model, done, end = StarChat.load(), Counter[str](), time.monotonic() + seconds
    problems: list[BaseException] = []

    def repeat(call: Callable[[StarChat, random.Random], None], seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            try:
                call(model, rng)
            except (ConstraintError, EngineClosedError):
                pass
            except InvalidRequestError as error:
                if error.code != "stream_closed":
                    problems.append(error)
            except BaseException as error:
                problems.append(error)
            done[call.__name__] += 1

    threads = [threading.Thread(target=repeat, args=(c, i)) for i, c in enumerate(CALLS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.close()
    print(dict(done), problems)
    assert not problems


if __name__ == "__main__":
    main(float(sys.argv[1]))
