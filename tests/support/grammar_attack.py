"""Random constraints beside four plain streams of one engine: what they do to it and to each other.

As a program: `SECONDS FIRST_SEED` → a JSON report. Each seed is written to stderr when it begins.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from starchat import ConstraintError, StarChat

from .random_constraints import random_constraint

N_STREAMS = 4
N_ATTACKERS = 3
LONGEST_GAP_S = 0.5
LONGEST_ATTACK_S = 150  # compiling, grammar_seconds, and rests of ten times as long
QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
# Small, so that the cache is full when the growth begins to count.
LIMITS = {"grammar_cache_bytes": 16 << 20}
TASKS = Path("/proc/self/task")


class _Malloc(ctypes.Structure):  # mallinfo2, glibc 2.33
    _fields_ = [(name, ctypes.c_size_t) for name in "abcd"]
    _fields_ += [("mapped", ctypes.c_size_t), ("e", ctypes.c_size_t), ("f", ctypes.c_size_t)]
    _fields_ += [("used", ctypes.c_size_t), ("free", ctypes.c_size_t), ("top", ctypes.c_size_t)]


def memory_mib() -> tuple[float, float]:
    """Return what is allocated, and what is resident and not shared.

    What malloc keeps of freed memory is given back first, as far as whole pages are free.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallinfo2.restype = _Malloc
    info = libc.mallinfo2()
    fields = Path("/proc/self/statm").read_text().split()
    resident = (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    return (info.used + info.mapped) / 2**20, resident / 2**20


def threads() -> set[int]:
    """Return the threads of this process."""
    return {int(task.name) for task in TASKS.iterdir()}


def waits(ids: Iterable[int]) -> dict[int, float]:
    """Return how long each of some threads has waited for a processor, in seconds."""
    found = {}
    for id in ids:
        with suppress(OSError):  # it ended
            found[id] = int((TASKS / str(id) / "schedstat").read_text().split()[1]) / 1e9
    return found


def adopt() -> None:
    """Become the parent of processes whose parents end, as helpers' do."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)


def running(pids: Iterable[int]) -> list[int]:
    """Return which processes have not ended."""
    found = []
    for pid in pids:
        with suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            if stat.rsplit(")", 1)[1].split()[0] != "Z":
                found.append(pid)
    return found


def children() -> list[int]:
    """Return the child processes that run."""
    texts = [(task / "children").read_text() for task in TASKS.iterdir()]
    return running(int(pid) for pid in " ".join(texts).split())


class Attack:
    """Streams that are timed, attackers, and what they found."""

    def __init__(self, model: StarChat, engine: set[int], first_seed: int) -> None:
        """Attack a model whose threads are `engine`."""
        self.model = model
        self.engine = engine
        self.history: deque[tuple[float, dict[int, float]]] = deque(maxlen=2000)  # of waits
        self.seeds = count(first_seed)
        self.running: dict[int, float] = {}  # seed: when it began
        self.ends: Counter[str] = Counter()
        self.findings: list[dict[str, Any]] = []
        self.gaps: list[dict[str, Any]] = []
        self.n_tokens = 0
        self.longest_gap_s = 0.0

    def run(self, seconds: float) -> None:
        """Attack for so long, and wait for what was begun."""
        end = time.monotonic() + seconds
        attackers = [threading.Thread(target=self._attack, args=[end]) for _ in range(N_ATTACKERS)]
        self.attacking = True
        threading.Thread(target=self._watch).start()
        readers = [threading.Thread(target=self._read, args=[i]) for i in range(N_STREAMS)]
        for thread in [*readers, *attackers]:
            thread.start()
        while any(thread.is_alive() for thread in attackers):
            time.sleep(0.2)
            now = time.monotonic()
            for seed, begun in [*self.running.items()]:
                if now - begun > LONGEST_ATTACK_S:
                    self._found(seed, f"still runs after {LONGEST_ATTACK_S} s")
                    return  # its thread may wait for ever
        self.attacking = False
        for thread in readers:
            thread.join()

    def _found(self, seed: int, what: str) -> None:
        constraint = random_constraint(seed)
        value = json.dumps(constraint.value)[:3000]
        self.findings.append(
            {"seed": seed, "what": what, "keyword": constraint.keyword, "value": value}
        )

    def _watch(self) -> None:
        while self.attacking:
            self.history.append((time.monotonic(), waits(self.engine)))
            time.sleep(0.01)

    def _read(self, i: int) -> None:
        for n in count():
            stream = self.model.stream_chat(QUESTION, ignore_eos=True, seed=10_000 * n + i)
            last = time.monotonic()
            for chunk in stream:
                self.n_tokens += len(chunk.token_ids)
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - last)
                if now - last > LONGEST_GAP_S / 2:
                    self._gap(last, now)
                last = time.monotonic()
                if not self.attacking:
                    stream.close()
                    return

    def _gap(self, begin: float, end: float) -> None:
        """Note a gap, and how long a thread of the engine waited for a processor in it."""
        before = [waited for when, waited in [*self.history] if when <= begin] or [{}]
        after = waits(self.engine)
        waited = max([after[id] - before[-1].get(id, 0) for id in after], default=0.0)
        self.gaps.append(
            {
                "seconds": round(end - begin, 3),
                "waited": round(waited, 3),
                "load": os.getloadavg()[0],
                "seeds": [*self.running],
            }
        )

    def _attack(self, end: float) -> None:
        while time.monotonic() < end and len(self.findings) < 20:
            seed = next(self.seeds)
            print("seed", seed, file=sys.stderr, flush=True)
            self.running[seed] = time.monotonic()
            try:
                self.ends[ask(self.model, seed)] += 1
            except BaseException:
                self._found(seed, traceback.format_exc()[-2000:])
            del self.running[seed]


def ask(model: StarChat, seed: int) -> str:
    """Return how a request with the constraint of a seed ends; its texts must be allowed."""
    constraint = random_constraint(seed)
    rng = random.Random(seed)
    options: dict[str, Any] = {
        constraint.keyword: constraint.value,
        "max_tokens": rng.choice([1, 20, 100, 400]),
        "temperature": rng.choice([0, 1, 2]),
        "ignore_eos": rng.random() < 0.3,
        "seed": seed,
        "n": rng.choice([1, 1, 1, 3]),
    }
    try:
        with model.stream_complete("def f(", **options) as reply:
            if rng.random() < 0.2:
                next(reply, None)
                return "closed"
            completion = reply.result()
    except ConstraintError as error:
        return f"ConstraintError {error.param}"
    for choice in completion.choices:
        text = b"".join(map(model._engine.tokenizer.token_bytes, choice.token_ids))
        if choice.finish_reason == "stop":
            assert constraint.allows(text), text
    return completion.finish_reason


def main(seconds: float, first_seed: int) -> None:
    adopt()
    with StarChat.load(limits=LIMITS) as model, suppress(ConstraintError):  # the process's threads
        model.complete("a", grammar="start: e\ne: e e | /[a-z]/", max_tokens=300, ignore_eos=True)
    before = len(threads())
    outside = threads()
    model = StarChat.load(limits=LIMITS)
    attack = Attack(model, threads() - outside, first_seed)
    attack.run(seconds / 2)
    warm_mib = memory_mib()
    if not attack.findings:
        attack.run(seconds / 2)
    end_mib = memory_mib()
    stats = model.stats()
    model.close()
    del model
    report = {
        "ends": attack.ends,
        "findings": attack.findings,
        "gaps": attack.gaps,
        "longest_gap_s": attack.longest_gap_s,
        "n_tokens": attack.n_tokens,
        "warm_mib": warm_mib,
        "end_mib": end_mib,
        "more_threads": len(threads()) - before,
        "children": children(),
        "stats": stats,
    }
    print(json.dumps(report), flush=True)
    if attack.running:  # a thread that waits would not let the process end
        os._exit(0)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
