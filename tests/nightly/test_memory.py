"""Each allocation fails once, in every way of calling; and whole processes run out of memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.failing_memory import ALL, CORE, RUST, outcomes
from support.processes import run_python

pytestmark = pytest.mark.nightly

# Faults of other libraries, which nothing here can catch; how often they may be met.
# glibc: the first exception of a thread needs memory. Python: Thread.start() waits for a thread
# that had no memory to begin. Rust: it ends the process by design.
KNOWN = {"glibc aborts": 2, "Python waits": 2, "Rust aborts": 10_000}
CALLS = ["load", "ask", "stream", "replies", "async", "achat", "embed", "aembed", "tokenize"]


ADAPTERS = [f"langchain {name}" for name in ("invoke", "stream", "ainvoke")]
ADAPTERS += [f"llama_index {name}" for name in ("chat", "stream", "achat", "embed")]


def check(found: Counter[str]) -> None:
    """Only MemoryErrors, and faults that are known."""
    print(dict(found))
    for outcome, n in found.items():
        if outcome not in ("unreached", "fine", "MemoryError"):
            assert n <= KNOWN.get(outcome, 0), found


@pytest.mark.parametrize("call", [*CALLS, "logits"])
def test_each_allocation_of_the_core_fails_once(failing_memory: Path, call: str) -> None:
    check(outcomes(failing_memory, CORE, call, range(1, 301)))


@pytest.mark.parametrize("call", CALLS)
def test_each_second_allocation_of_all_libraries_fails_once(
    failing_memory: Path, call: str
) -> None:
    check(outcomes(failing_memory, ALL, call, range(1, 401, 2)))


@pytest.mark.parametrize("call", CALLS)
def test_all_allocations_of_the_core_fail_for_a_while(failing_memory: Path, call: str) -> None:
    check(outcomes(failing_memory, CORE, call, range(1, 301, 5), count=100_000))


def test_constraints_fail_with_a_memory_error_or_in_rust(failing_memory: Path) -> None:
    check(outcomes(failing_memory, CORE, "json", range(1, 301, 2)))
    found = outcomes(failing_memory, RUST, "json", range(1, 301, 10))
    assert found["Rust aborts"] > 0, f"known to abort, and if it does not any more, say so: {found}"
    check(found)


@pytest.mark.parametrize("call", ADAPTERS)
def test_allocations_fail_below_the_adapters(failing_memory: Path, call: str) -> None:
    check(outcomes(failing_memory, CORE, call, range(1, 301, 6)))
    check(outcomes(failing_memory, CORE, call, range(1, 301, 30), count=100_000))


LIMITED = """
    import resource, sys
    from starchat import StarChat

    model = StarChat.load(n_threads=2)
    question = [{"role": "user", "content": "hi"}]
    before = model.chat(question, temperature=0, max_tokens=3).text
    name, limit = sys.argv[1], getattr(resource, "RLIMIT_" + sys.argv[1])
    field = {"DATA": "VmData:", "AS": "VmSize:"}[name]
    kib = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)]
    more = int(float(sys.argv[2]) * 2**20)
    resource.setrlimit(limit, (kib[0] * 1024 + more, resource.RLIM_INFINITY))
    n, failures, strange = 0, 0, []
    try:
        streams = [
            model.stream_chat(
                [{"role": "user", "content": f"{i} " * 150}], ignore_eos=True, seed=i, logprobs=5
            )
            for i in range(40)
        ]
        for stream in streams:
            try:
                stream.result()
                n += 1
            except MemoryError:
                failures += 1
            except BaseException as error:
                strange.append(error)
    except MemoryError:
        failures += 1
    streams = stream = None
    resource.setrlimit(limit, (resource.RLIM_INFINITY,) * 2)
    assert not strange, strange
    assert model.chat(question, temperature=0, max_tokens=3).text == before
    print(n, failures)
"""


@pytest.mark.parametrize("mib", [0.1, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
@pytest.mark.parametrize("limit", ["DATA", "AS"])
def test_a_process_at_its_limit_raises_memory_errors(limit: str, mib: float) -> None:
    done = run_python(LIMITED, limit, mib, timeout_s=300)
    assert done.returncode == 0, (done.returncode, done.stderr[-1500:])
    n, failures = map(int, done.stdout.split())
    assert n + failures > 0
