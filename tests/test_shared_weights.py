"""Weights are in memory once for each file, and engines on them divide the cores."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat import CorruptFileError, InvalidRequestError, StarChat, Stream, _core, engine_registry
from support.scheduling import wait_until

testing: Any = importlib.import_module("starchat._core.testing")


@pytest.fixture
def path(tmp_path: Path, tiny_model_path: Path) -> Path:
    """A file that no other test has loaded."""
    return shutil.copy(tiny_model_path, tmp_path / "model.bin")


@pytest.fixture
def model(path: Path) -> Iterator[StarChat]:
    with StarChat.load(path) as model:
        yield model


def weights(model: StarChat) -> _core.Weights:
    return model._engine.weights


# ---- once for each file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"n_ctx": 512}, {"n_ctx": 64}, {"n_threads": 3}, {"prefix_cache_bytes": 0}],
    ids=["default", "n_ctx", "n_threads", "prefix_cache_bytes"],
)
def test_settings_share_the_weights(model: StarChat, path: Path, settings: Any) -> None:
    calls: list[int] = []
    with StarChat.load(path, **settings, progress=lambda *_: calls.append(1)) as other:
        assert weights(other) is weights(model)
        assert not calls, "nothing was read"
        assert other.info.weight_bytes == model.info.weight_bytes
        assert np.array_equal(other.logits([5, 6, 7]), model.logits([5, 6, 7]))


def test_an_engine_with_a_longer_context_finds_its_positions(path: Path) -> None:
    with StarChat.load(path, n_ctx=8) as short, StarChat.load(path) as long:
        assert weights(short) is weights(long)
        ids = [k % 250 for k in range(512)]
        logits = long.logits(ids)
    with StarChat.load(path) as alone:
        assert np.array_equal(alone.logits(ids), logits)


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard", "symbolic"])
def test_links_are_the_same_file(model: StarChat, path: Path, link: Any) -> None:
    name = path.with_name("link.bin")
    link(path, name)
    with StarChat.load(name, n_ctx=64) as other:
        assert weights(other) is weights(model)
        assert other.info.file == str(name)


def test_a_file_that_took_the_place_of_another_is_read(model: StarChat, path: Path) -> None:
    new, status = path.with_name("new.bin"), path.stat()
    shutil.copy(path, new)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)  # the same name, size and time
    with StarChat.load(path) as other:
        assert weights(other) is not weights(model)


def test_a_file_that_is_replaced_before_it_is_opened_is_not_taken_for_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = engine_registry.key_of(str(path))
    os.utime(path, (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(engine_registry, "key_of", lambda _: old)
        model = StarChat.load(path)
    with model:
        assert engine_registry._files[old].weights is None


def test_threads_with_different_settings_read_a_file_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    engine = _core.Engine

    def load(*args: Any, **kwargs: Any) -> _core.Engine:
        if kwargs["weights"] is None:
            reads.append(args)
            time.sleep(0.05)
        return engine(*args, **kwargs)

    monkeypatch.setattr(_core, "Engine", load)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda i: StarChat.load(path, n_ctx=100 + i), range(4)))
    assert len(reads) == 1
    assert len({id(weights(model)) for model in models}) == 1
    for model in models:
        model.close()


def test_the_last_engine_takes_the_weights_with_it(path: Path) -> None:
    one, two = StarChat.load(path), StarChat.load(path, n_ctx=64)
    alive = weakref.ref(weights(one))
    one.close()
    assert alive() is not None
    assert two.complete("a", max_tokens=2, ignore_eos=True).finish_reason == "length"
    two.close()
    gc.collect()
    assert alive() is None
    assert engine_registry.key_of(str(path)) not in engine_registry._files


def test_wrong_settings_leave_the_weights_to_others(model: StarChat, path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="n_ctx: expected 2 to 512"):
        StarChat.load(path, n_ctx=513)
    with StarChat.load(path, n_ctx=64) as other:
        assert weights(other) is weights(model)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))


def overwrite_and_set_the_time_back(path: Path) -> None:
    status = path.stat()
    overwrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("write", [os.utime, overwrite, overwrite_and_set_the_time_back])
def test_a_file_that_is_written_to_while_it_is_read_is_refused(
    write: Callable[[Path], None], path: Path
) -> None:
    with pytest.raises(CorruptFileError, match=r"model\.bin: was written to while it was being"):
        StarChat.load(path, progress=lambda *_: write(path))


def test_a_file_that_was_touched_is_loaded(path: Path) -> None:
    os.utime(path)
    with StarChat.load(path) as model:
        assert model.complete("a", max_tokens=1, ignore_eos=True).usage.completion_tokens == 1


def test_a_file_is_read_after_the_tick_of_the_clock_in_which_it_was_written(path: Path) -> None:
    """A second write in that tick would not change the file's time: as of a download that ends."""
    ages_ns: list[int] = []
    os.utime(path)
    StarChat.load(
        path, progress=lambda *_: ages_ns.append(time.time_ns() - path.stat().st_mtime_ns)
    ).close()
    assert ages_ns[0] > 10_000_000


def test_a_file_that_is_cut_while_it_is_read_is_refused(path: Path) -> None:
    with pytest.raises(CorruptFileError, match=r"model\.bin: (ends at byte|was written to)"):
        StarChat.load(path, progress=lambda *_: os.truncate(path, 1000))


# ---- the cores ------------------------------------------------------------------------------


def test_a_pool_uses_as_many_threads_as_it_is_told() -> None:
    pool = testing.ThreadPool(4)
    for n in (4, 2, 1, 3, 4, 1):
        pool.use(n)
        wait_until(lambda n=n: pool.loop() == set(range(n)))
        for _ in range(3):
            assert pool.loop() <= set(range(n))
    # The destructor joins threads that sleep.


def test_engines_that_compute_divide_the_cores() -> None:
    all_of_16, also_all, one = (testing.CoreShare(n, 16) for n in (16, 16, 1))
    assert [all_of_16.begin(), all_of_16.begin()] == [16, 16]
    assert [also_all.begin(), all_of_16.begin()] == [8, 8]
    all_of_16.end()
    all_of_16.end()
    assert [also_all.begin(), one.begin(), also_all.begin()] == [16, 1, 15]
    del also_all
    assert one.begin() == 1


def test_engines_with_threads_of_their_own_keep_them() -> None:
    four, also_four, crowd = testing.CoreShare(4, 16), testing.CoreShare(4, 16), []
    assert [four.begin(), also_four.begin(), four.begin()] == [4, 4, 4]
    for _ in range(30):
        crowd.append(testing.CoreShare(4, 16))
        assert crowd[-1].begin() >= 1
    more_than_cores = testing.CoreShare(4, 2)
    assert more_than_cores.begin() == 1
    crowd.clear()
    del four, also_four
    assert more_than_cores.begin() == 4, "alone, an engine uses what its user says"


def test_an_engine_counts_while_it_computes(model: StarChat) -> None:
    share = testing.CoreShare(64, 64)
    wait_until(lambda: share.begin() == 64)  # others of this process are idle

    def reply() -> Stream:
        return model.stream_complete("a", max_tokens=400, ignore_eos=True)

    wait_until(lambda: min(share.begin() for _ in reply()) < 64)
    wait_until(lambda: share.begin() == 64)
    next(iter(reply()))
    model.close()
    assert share.begin() == 64
