"""Processes of one user map the weights of a file together, and only what is safe to map."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from starchat import CorruptFileError, InvalidRequestError, StarChat
from starchat._core import Engine
from support.processes import run_python
from support.scheduling import wait_until
from support.tiny_model import Shape, write_tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

IDS = [5, 6, 7]
SEALS = 0x0E  # F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK
F_ADD_SEALS, F_GET_SEALS = 1033, 1034


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 21 MiB: smaller ones are not shared."""
    path = tmp_path_factory.mktemp("shared") / "model.bin"
    return write_tiny(path, "f16", Shape(n_embd=960, n_head=4, n_layer=1)).path


@pytest.fixture(scope="module")
def expected(path: Path) -> bytes:
    """The logits of IDS, by weights that are not shared."""
    return Engine(str(path)).logits(IDS).tobytes()


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    engine = Engine(str(path), share_weights=True)
    yield engine
    engine.close()


def memory_files(process: int | str = "self") -> dict[int, str]:
    """Return the memory files of weights that a process has open: descriptor → name."""
    gc.collect()
    files = {}
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # the folder's own descriptor
            continue
        if target.startswith("/memfd:starchat-"):
            files[int(entry.name)] = target.removeprefix("/memfd:").removesuffix(" (deleted)")
    return files


def name_of(path: Path) -> str:
    """Return the name of the memory of a file's weights, without its maker's process."""
    engine = Engine(str(path), share_weights=True)
    (name,) = memory_files().values()
    engine.close()
    return name.rpartition(":")[0]


def forge(name: str, size_bytes: int, *, seal: bool) -> int:
    """Make a memory file of zeros and return its descriptor."""
    file = os.memfd_create(name, os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size_bytes)
    if seal:
        fcntl.fcntl(file, F_ADD_SEALS, SEALS)
    return file


# ---- mapping --------------------------------------------------------------------------------


def test_engines_map_one_sealed_file(engine: Engine, path: Path, expected: bytes) -> None:
    other = Engine(str(path), share_weights=True)
    one, two = memory_files()
    assert os.fstat(one).st_ino == os.fstat(two).st_ino
    assert fcntl.fcntl(one, F_GET_SEALS) & SEALS == SEALS
    assert os.fstat(one).st_size == engine.info["weight_bytes"]
    assert engine.logits(IDS).tobytes() == other.logits(IDS).tobytes() == expected
    del other
    assert len(memory_files()) == 1


def memory_bytes() -> dict[str, int]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {key: int(value.split()[0]) << 10 for key, value in (line.split(":") for line in lines)}


def work(path: str, connection: Connection) -> None:
    before = memory_bytes()["Anonymous"]
    with StarChat.load(path, n_threads=1, progress=False) as model:
        logits = model.logits(IDS).tobytes()
        connection.send(logits)
        connection.recv()  # all have loaded
        memory = memory_bytes()
        connection.send((memory["Pss_Shmem"], memory["Anonymous"] - before))
        connection.recv()


@pytest.mark.integration
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_hold_the_weights_once(method: Any, path: Path, expected: bytes) -> None:
    weight_bytes = path.stat().st_size
    context = multiprocessing.get_context(method)
    workers, ends = [], []
    for _ in range(2):
        end, theirs = context.Pipe()
        workers.append(context.Process(target=work, args=(str(path), theirs)))
        ends.append(end)
    for worker in workers:  # at once: one of them fills
        worker.start()
    assert [end.recv() for end in ends] == [expected] * 2
    for end in ends:
        end.send(None)
    shared, private = zip(*(end.recv() for end in ends), strict=True)
    assert sum(shared) < 1.1 * weight_bytes
    assert max(private) < weight_bytes / 2
    filled_by = int(next(iter(memory_files(workers[0].pid or 0).values())).rpartition(":")[2])
    for worker in workers:
        if worker.pid == filled_by:
            worker.kill()
            worker.join()
    engine = Engine(str(path), share_weights=True)  # from those that live on
    assert next(iter(memory_files().values())).endswith(f":{filled_by}")
    assert engine.logits(IDS).tobytes() == expected
    for worker, end in zip(workers, ends, strict=True):
        if worker.is_alive():
            end.send(None)
            worker.join()


def test_private_weights_are_a_setting(path: Path) -> None:
    with StarChat.load(path, share_weights=False):
        assert memory_files() == {}
    with StarChat.load(path):
        assert len(memory_files()) == 1
    wrong: Any = "yes"
    with pytest.raises(InvalidRequestError, match="share_weights: expected"):
        StarChat.load(path, share_weights=wrong)


def test_small_weights_are_not_shared(tiny_model_path: Path) -> None:
    with StarChat.load(tiny_model_path):
        assert memory_files() == {}


def test_a_changed_file_has_memory_of_its_own(engine: Engine, path: Path, tmp_path: Path) -> None:
    copy = shutil.copy(path, tmp_path / "copy.bin")
    other = Engine(str(copy), share_weights=True)
    assert len(set(memory_files().values())) == 2
    del other


def test_a_file_that_is_written_to_while_memory_is_mapped_is_refused(
    engine: Engine, path: Path
) -> None:
    with pytest.raises(CorruptFileError, match=r"was written to while it was being read"):
        Engine(str(path), share_weights=True, progress=lambda *_: os.utime(path))


# ---- what is not mapped ---------------------------------------------------------------------


def test_memory_that_may_change_is_not_mapped(path: Path, expected: bytes) -> None:
    size = Engine(str(path)).info["weight_bytes"]
    file = forge(name_of(path) + ":1", size, seal=False)
    assert Engine(str(path), share_weights=True).logits(IDS).tobytes() == expected
    os.close(file)


def test_memory_of_another_size_is_not_mapped(path: Path, expected: bytes) -> None:
    file = forge(name_of(path) + ":1", 1 << 20, seal=True)
    assert Engine(str(path), share_weights=True).logits(IDS).tobytes() == expected
    os.close(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the files of other users")
def test_memory_of_another_user_is_not_mapped(path: Path, expected: bytes) -> None:
    name, size = name_of(path) + ":1", Engine(str(path)).info["weight_bytes"]
    ready, done = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        os.close(done[1])  # so that it ends with its parent
        try:
            os.setuid(65534)
            forge(name, size, seal=True)
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    assert name in memory_files(child).values()
    assert Engine(str(path), share_weights=True).logits(IDS).tobytes() == expected
    os.write(done[1], b"x")
    os.waitpid(child, 0)
    for end in (*ready, *done):
        os.close(end)


# ---- while another process fills ------------------------------------------------------------


def test_a_load_waits_for_the_process_that_fills(path: Path, expected: bytes) -> None:
    file = forge(f"{name_of(path)}:{os.getpid()}", 1 << 20, seal=False)  # as if it were filling
    calls: list[tuple[int, int]] = []
    engines = []

    def load() -> None:
        progress = lambda *done_of_total: calls.append(done_of_total)  # noqa: E731
        engines.append(Engine(str(path), share_weights=True, progress=progress))

    thread = threading.Thread(target=load)
    thread.start()
    wait_until(
        lambda: len(calls) > 2 and calls[-3:] == calls[-1:] * 3
    )  # it waits, and lets its caller end that
    assert not engines
    os.close(file)  # it ended without weights
    thread.join(30)
    assert engines[0].logits(IDS).tobytes() == expected


def test_waiting_can_be_interrupted(path: Path) -> None:
    file = forge(f"{name_of(path)}:{os.getpid()}", 1 << 20, seal=False)

    calls: list[int] = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if calls[-3:] == [done] * 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine(str(path), share_weights=True, progress=stop)
    os.close(file)


def test_making_the_memory_can_be_interrupted(path: Path) -> None:
    """Clearing it takes a second for each few GB, before the first weight is written."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 1):
        pytest.skip("this Linux makes no huge pages beforehand")
    told: list[int] = []
    report = lambda done, _: told.append(done)  # noqa: E731
    engine = Engine(str(path), n_threads=1, share_weights=True, progress=report)
    same = max(len([*group]) for _, group in groupby(told))
    assert same >= engine.info["weight_bytes"] // (2 << 20)  # pages of 2 MiB, made with no progress


def test_a_lock_that_nobody_fills_under_delays_a_load_by_a_second(
    path: Path, expected: bytes
) -> None:
    name = name_of(path)
    with path.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        file = forge(name + ":1", 1 << 20, seal=False)  # of a process that has ended
        assert Engine(str(path), share_weights=True).logits(IDS).tobytes() == expected
        os.close(file)


def test_a_fork_while_memory_is_filled_does_not_keep_it_writable(path: Path) -> None:
    children: list[int] = []
    done = os.pipe()

    def fork(*_: int) -> None:
        if not children and memory_files():
            if (child := os.fork()) == 0:
                os.close(done[1])  # so that it ends with its parent
                os.read(done[0], 1)
                os._exit(0)
            children.append(child)

    engine = Engine(str(path), share_weights=True, progress=fork)
    (file,) = memory_files()
    assert fcntl.fcntl(file, F_GET_SEALS) & SEALS == SEALS
    os.write(done[1], b"x")
    os.waitpid(children[0], 0)
    os.close(done[0])
    os.close(done[1])
    engine.close()


def test_a_failed_load_leaves_no_memory_file(path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        Engine(str(path), share_weights=True, progress=stop)
    assert memory_files() == {}


# ---- life -----------------------------------------------------------------------------------


def test_a_descriptor_that_is_another_file_by_now_stays_open(path: Path) -> None:
    engine = Engine(str(path), share_weights=True)
    (file,) = memory_files()
    with path.open() as other:
        os.dup2(other.fileno(), file)  # a program that closes every file, and opens its own
        del engine
        gc.collect()
        assert os.fstat(file).st_ino == path.stat().st_ino
    os.close(file)


@pytest.mark.integration
def test_limits_of_a_process_do_not_end_it(path: Path) -> None:
    result = run_python(
        """
        import resource, sys
        from starchat import OutOfMemoryError, StarChat
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        with StarChat.load(sys.argv[1], n_threads=1) as model:
            print("tokens:", model.complete("a", max_tokens=2, ignore_eos=True).usage)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), used + (8 << 20)))
        for check in (True, False):
            try:
                StarChat.load(sys.argv[1], n_threads=1, check_memory=check)
            except OutOfMemoryError as error:
                print(error)
        """,
        path,
    )
    assert result.returncode == 0, result.stderr
    assert "tokens: Usage(prompt_tokens=1, completion_tokens=2" in result.stdout
    assert " are free (ulimit -v or -d)" in result.stdout
    assert "cannot allocate" in result.stdout
