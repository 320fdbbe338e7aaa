"""Loader: once for all who ask, cheap to copy, and fresh in a forked child."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from starchat import FileAccessError, Loader
from support.processes import run_python


def test_a_model_is_loaded_once(tiny_model_path: Path) -> None:
    loader, path = Loader(), str(tiny_model_path)
    assert loader.loaded(path) is None
    with ThreadPoolExecutor(8) as pool:
        models = set(pool.map(lambda _: loader.load(path), range(8)))
    assert models == {loader.loaded(path)} == {asyncio.run(loader.aload(path))}
    assert loader.load(path, n_ctx=64) not in models


def test_a_failed_load_is_tried_again(tmp_path: Path, tiny_model_path: Path) -> None:
    loader, path = Loader(), tmp_path / "later.bin"
    with pytest.raises(FileAccessError):
        loader.load(str(path))
    path.symlink_to(tiny_model_path)
    assert loader.load(str(path)).info.n_ctx == 512


def test_copies_are_empty_and_work(tiny_model_path: Path) -> None:
    loader, path = Loader(), str(tiny_model_path)
    loader.load(path)
    for twin in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert twin.loaded(path) is None
        assert twin.load(path)._engine is loader.load(path)._engine


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_starts_afresh_though_a_thread_was_loading(tiny_model_path: Path) -> None:
    code = """
        import os, sys, threading
        from starchat import Loader, StarChat
        loader, path = Loader(), sys.argv[1]
        loader.load(path)
        loading, forked = threading.Event(), threading.Event()
        load = StarChat.load

        def slowly(path, **settings):
            loading.set()
            forked.wait()
            return load(path, **settings)

        StarChat.load = slowly
        thread = threading.Thread(target=loader.load, args=(path,), kwargs={"n_ctx": 64})
        thread.start()
        loading.wait()
        child = os.fork()
        forked.set()
        if child == 0:
            assert loader.loaded(path) is None
            print(loader.load(path).complete("a", max_tokens=3, ignore_eos=True).usage, flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        assert loader.loaded(path) and loader.loaded(path, n_ctx=64)
    """
    result = run_python(code, tiny_model_path, timeout_s=20)
    assert result.returncode == 0, result.stderr
    assert "completion_tokens=3" in result.stdout
