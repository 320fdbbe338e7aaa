"""Files of computed prefixes: the same bits as computing them, or one clear error."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import starchat.cli
from starchat import (
    ContextLengthError,
    CorruptFileError,
    EngineClosedError,
    FileAccessError,
    InvalidRequestError,
    ModelFileError,
    StarChat,
    UnsupportedFormatError,
    _core,
    prefix_file,
)
from starchat.server.service import Service
from starchat.server.settings import ServerSettings
from support.processes import run_python
from support.tiny_model import Shape, write_tiny

PAGE = 32  # tokens
IDS = [(7 * i) % 250 + 20 for i in range(400)]
SYSTEM = [{"role": "system", "content": "Answer in one line, and be kind. " * 6}]
TOOLS = [{"name": "now", "description": "The time."}]

Load = Callable[..., StarChat]


@pytest.fixture
def fresh(tiny_model_path: Path) -> Iterator[Load]:
    """Return what loads the tiny model into an engine of its own, with an empty cache."""
    models: list[StarChat] = []
    budget = 1 << 30

    def load(path: Path = tiny_model_path, **options: Any) -> StarChat:
        nonlocal budget
        budget += 1  # engines are shared by their settings
        models.append(
            StarChat.load(path, **{"n_threads": 1, "prefix_cache_bytes": budget} | options)
        )
        return models[-1]

    yield load
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def saved(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 10 pages."""
    path = tmp_path_factory.mktemp("saved") / "ids.kv"
    with StarChat.load(tiny_model_path, n_threads=1) as model:
        assert model.save_prefix(IDS[:330], path) == 320
    return path


def cached(model: StarChat, ids: list[int] = IDS, **options: Any) -> int:
    usage = model.complete(ids, max_tokens=1, **options).usage
    assert usage
    return usage.cached_tokens


# ---- the same bits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "shape", "kv"),
    [
        ("q4_0", Shape(n_ctx=400), {}),
        ("f16", Shape(n_embd=64, n_head=2, n_layer=3, n_ctx=400), {"multi_query": False}),
        ("q8_0", Shape(n_embd=96, n_head=8, n_ctx=400), {}),  # 12 dimensions: padded values
    ],
    ids=["multi-query", "multi-head", "padded"],
)
@settings(max_examples=8)
@given(st.data())
def test_a_loaded_prefix_has_the_bits_of_a_computed_one(
    tmp_path_factory: pytest.TempPathFactory,
    type: str,
    shape: Shape,
    kv: dict[str, Any],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("bits")
    model = write_tiny(folder / "tiny.bin", type, shape, **kv).path
    ids = data.draw(st.lists(st.integers(0, 280), min_size=PAGE, max_size=300))
    tail = data.draw(st.lists(st.integers(0, 280), min_size=1, max_size=90))
    n_before = data.draw(st.integers(0, len(ids)))  # tokens that are cached already
    with StarChat.load(model, n_threads=2) as first:
        if n_before:
            first.complete(ids[:n_before], max_tokens=1)
        n = first.save_prefix(ids, folder / "file.kv")
        assert n == len(ids) // PAGE * PAGE
    prompt = [*ids[:n], *tail]
    with StarChat.load(model, n_threads=1, prefix_cache_bytes=0) as plain:
        expected = plain.logits(prompt)[n - 1 :]
    with StarChat.load(model, n_threads=1, prefix_cache_bytes=1 << 20) as second:
        assert second.load_prefix(folder / "file.kv", progress=False) == n
        before = second.stats()["columns"]
        logits = second._engine.logits(prompt, n)
        assert second.stats()["columns"] - before == len(tail), "the prefix was computed again"
        np.testing.assert_array_equal(logits, expected[1:])
        second.save_prefix(prompt[:n], folder / "again.kv")
    assert (folder / "again.kv").read_bytes() == (folder / "file.kv").read_bytes()


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
def test_dialogues_that_begin_with_the_messages_find_them(
    fresh: Load, tmp_path: Path, tools: Any
) -> None:
    options: dict[str, Any] = {"max_tokens": 4} | ({"tools": tools} if tools else {})
    dialogue = [*SYSTEM, {"role": "user", "content": "Hello"}]
    n = fresh().save_prefix(SYSTEM, tmp_path / "system.kv", tools=tools)
    model = fresh()
    assert n >= PAGE and model.load_prefix(tmp_path / "system.kv") == n
    assert model.chat(dialogue, **options).usage.cached_tokens == n
    if tools:
        assert model.chat(dialogue, max_tokens=1).usage.cached_tokens < n


def test_the_role_of_a_reply_is_no_part_of_the_messages(fresh: Load, tmp_path: Path) -> None:
    model = fresh()
    texts = ["a" * n for n in range(60, 60 + PAGE)]
    system = [{"role": "system", "content": text} for text in texts]
    (whole,) = [message for message in system if model.count_tokens([message]) % PAGE == 0]
    n = model.save_prefix([whole], tmp_path / "a.kv")
    assert n == model.count_tokens([whole]) - PAGE


def test_async_twins_do_the_same(fresh: Load, saved: Path, tmp_path: Path) -> None:
    async def both(path: Path) -> tuple[int, int]:
        n_saved = await fresh().asave_prefix(IDS[:330], path)
        return n_saved, await fresh().aload_prefix(path)

    assert asyncio.run(both(tmp_path / "a.kv")) == (320, 320)
    assert (tmp_path / "a.kv").read_bytes() == saved.read_bytes()


def test_a_changed_order_of_sums_must_raise_its_version(nano: StarChat) -> None:
    stream, prefix = nano._engine.compute_prefix(IDS[:64])
    while stream.next():
        pass
    digest = blake2b(prefix.read(0, 2), digest_size=8).hexdigest()
    assert {_core.SUMS_VERSION: digest} == {1: "11c89f1ab40b4a72"}, (
        "other bits: raise kSumsVersion, which refuses old files"
    )


# ---- what is refused ------------------------------------------------------------------------


@settings(max_examples=40)
@given(data=st.data())
def test_altered_and_cut_files_are_refused_and_leave_no_page(
    tiny_model_path: Path, saved: Path, data: st.DataObject
) -> None:
    content = bytearray(saved.read_bytes())
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, 64) | st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        n = data.draw(st.integers(0, 128) | st.integers(0, 2 * len(content)))
        content = (content + bytes(len(content)))[: n + (n == len(content))]
    path = saved.with_name("altered.kv")
    path.write_bytes(content)
    with StarChat.load(tiny_model_path, n_threads=1) as model:
        with pytest.raises(ModelFileError, match=r"altered\.kv: ") as caught:
            model.load_prefix(path)
        assert caught.value.param == "path"
        assert model.stats()["prefix_pages"] == 0
        assert cached(model) == 0


@pytest.mark.parametrize(
    ("at", "problem"),
    [(12, "its header was altered"), (40, "its header was altered"), (None, "bytes, expected")],
    ids=["sums", "model", "longer"],
)
def test_what_was_altered_is_said(
    fresh: Load, saved: Path, tmp_path: Path, at: int | None, problem: str
) -> None:
    content = bytearray(saved.read_bytes())
    if at is None:
        content += b"x"
    else:
        content[at] ^= 1
    (tmp_path / "a.kv").write_bytes(content)
    with pytest.raises(CorruptFileError, match=problem):
        fresh().load_prefix(tmp_path / "a.kv")


def test_one_flipped_bit_of_the_pages_is_found(fresh: Load, saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1
    (tmp_path / "bit.kv").write_bytes(content)
    with pytest.raises(CorruptFileError, match="its contents were altered; save it again with"):
        fresh().load_prefix(tmp_path / "bit.kv")


def test_files_of_other_models_are_refused(fresh: Load, saved: Path, tmp_path: Path) -> None:
    shape = Shape(n_ctx=512)
    others = {
        "seed": write_tiny(tmp_path / "seed.bin", "q8_0", shape, seed=1).path,
        "type": write_tiny(tmp_path / "type.bin", "q4_0", shape).path,
        "layers": write_tiny(tmp_path / "layers.bin", "q8_0", Shape(n_ctx=512, n_layer=3)).path,
    }
    for name, path in others.items():
        with pytest.raises(UnsupportedFormatError, match="of another model, or of the same in"):
            fresh(path).load_prefix(saved)
            pytest.fail(name)


def test_one_changed_row_makes_another_model(fresh: Load, saved: Path, tmp_path: Path) -> None:
    tiny = write_tiny(tmp_path / "tiny.bin", "q8_0", Shape(n_ctx=512))
    content = bytearray(tiny.path.read_bytes())
    assert fresh(tiny.path).load_prefix(saved) == 320
    name = b"model/h1/mlp/c_fc/w"
    row = content.index(name) + len(name) + 34 * 2 * 21  # 64 weights a row
    content[row : row + 68] = content[row + 68 : row + 136]
    tiny.path.write_bytes(content)
    with pytest.raises(UnsupportedFormatError, match="of another model"):
        fresh(tiny.path).load_prefix(saved)


def test_a_copied_model_keeps_its_files(
    fresh: Load, saved: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    copy = shutil.copyfile(tiny_model_path, tmp_path / "copy.bin")
    os.utime(copy, ns=(1, 1))
    model = fresh(copy)
    assert model.load_prefix(saved) == 320 == cached(model)


def test_files_of_other_versions_are_refused(
    fresh: Load, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh()
    with monkeypatch.context() as later:
        later.setattr(_core, "SUMS_VERSION", _core.SUMS_VERSION + 1)
        with pytest.raises(UnsupportedFormatError, match=r"of arithmetic \d+, this version has \d"):
            model.load_prefix(saved)
    monkeypatch.setattr(prefix_file, "_VERSION", 2)
    with pytest.raises(UnsupportedFormatError, match="of format 1, this version reads 2; save it"):
        model.load_prefix(saved)


def test_another_context_is_no_other_model(fresh: Load, saved: Path) -> None:
    model = fresh(n_ctx=322)
    assert model.load_prefix(saved) == 320 == cached(model, [*IDS[:320], 5])
    with pytest.raises(ContextLengthError, match="has 320 tokens, the context holds 319: load"):
        fresh(n_ctx=319).load_prefix(saved)


def test_files_that_cannot_be_read_or_written_are_named(
    fresh: Load, saved: Path, tmp_path: Path
) -> None:
    model = fresh()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.kv", tmp_path, tmp_path / "pipe", "a\0b"):
        with pytest.raises(FileAccessError) as caught:
            model.load_prefix(path)
        assert caught.value.param == "path" and str(path) in str(caught.value)
    columns = model.stats()["columns"]
    for path in (tmp_path / "none" / "a.kv", tmp_path, tmp_path / "pipe", "a\0b"):
        with pytest.raises(FileAccessError, match="cannot be written: ") as caught:
            model.save_prefix(IDS, path)
        assert caught.value.param == "path"
    assert model.stats()["columns"] == columns, "refused before anything was computed"
    for wrong in (1, None):
        with pytest.raises(InvalidRequestError, match="path: expected a path, got "):
            model.load_prefix(wrong)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedFormatError, match="no file of save_prefix"):
        model.load_prefix(__file__)


@pytest.mark.parametrize(
    ("prefix", "options", "problem"),
    [
        (IDS[:31], {}, "prefix: has 31 tokens, expected at least 32: only whole pages are saved"),
        (IDS * 2, {}, "the context holds 512"),
        ([], {}, "messages"),
        ("text " * 50, {"tools": TOOLS}, "tools: expected messages beside them, got a text"),
        (IDS, {"progress": 1}, "progress: expected a function, False or None, got 1"),
        (IDS, {"cache_salt": ""}, "cache_salt: expected a text that is not empty"),
    ],
)
def test_wrong_prefixes_are_refused(
    fresh: Load, tmp_path: Path, prefix: Any, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        fresh().save_prefix(prefix, tmp_path / "a.kv", **options)
    assert not [*tmp_path.iterdir()]


# ---- the prefix cache -----------------------------------------------------------------------


def test_a_salt_keeps_others_from_a_prefix(fresh: Load, saved: Path) -> None:
    model = fresh()
    model.load_prefix(saved, cache_salt="a")
    assert cached(model) == cached(model, cache_salt="b") == 0
    assert cached(model, cache_salt="a") == 320


def test_a_pinned_prefix_is_for_every_salt(fresh: Load, saved: Path) -> None:
    model = fresh()
    cached(model, cache_salt="old")  # this tree is behind the pinned pages from then on
    model.load_prefix(saved, pin=True)
    for salt in (None, "a", "old"):
        assert cached(model, cache_salt=salt) == 320
        assert cached(model, cache_salt=salt) == 384, "what follows has the salt's own tree"
    assert cached(model, cache_salt="b") == 320
    with pytest.raises(InvalidRequestError, match="cache_salt: expected None beside pin=True"):
        model.load_prefix(saved, cache_salt="a", pin=True)


def test_a_pinned_prefix_stays_and_counts(fresh: Load, saved: Path) -> None:
    page = fresh().memory().kv_page_bytes
    others = [[i % 250 + 20] * 200 for i in range(4)]
    for pin in (True, False):
        model = fresh(prefix_cache_bytes=12 * page + pin)
        assert model.load_prefix(saved, pin=pin) == 320
        assert model.memory().prefix_bytes == 10 * page
        for ids in others:
            cached(model, ids)
            assert model.stats()["prefix_pages"] <= 12
        assert cached(model) == (320 if pin else 0)


def test_a_cache_that_is_too_small_is_named(fresh: Load, saved: Path) -> None:
    page = fresh().memory().kv_page_bytes
    model = fresh(prefix_cache_bytes=9 * page)
    cached(model, [50] * 200)
    for pin in (True, False):
        with pytest.raises(InvalidRequestError, match=f"of at least {10 * page:,}$") as caught:
            model.load_prefix(saved, pin=pin)
        assert (caught.value.limit, caught.value.got) == (9 * page, 10 * page)
    assert cached(model, [50] * 200) > 0, "nothing was dropped for it"


def test_loading_twice_takes_no_more(fresh: Load, saved: Path) -> None:
    model = fresh(prefix_cache_bytes=11 * fresh().memory().kv_page_bytes)
    for pin in (False, True, True, False):
        assert model.load_prefix(saved, pin=pin) == 320
        assert 10 <= model.stats()["prefix_pages"] <= 11
    before = model.memory()
    assert before.kv_bytes == before.prefix_bytes, "nothing else holds a page"
    assert cached(model) == 320


# ---- interruptions --------------------------------------------------------------------------


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    path.write_bytes(b"before")
    yield
    assert path.read_bytes() == b"before"
    assert [*path.parent.iterdir()] == [path], "a part was left"


@pytest.fixture
def one_page_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_file, "_AT_ONCE", 1)


@pytest.mark.usefixtures("one_page_a_part")
@pytest.mark.parametrize("n_told", [1, 2, 5], ids=["computing", "computed", "writing"])
def test_ctrl_c_leaves_no_file(fresh: Load, tmp_path: Path, n_told: int) -> None:
    model, told = fresh(), list[tuple[int, int]]()

    def interrupt(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == n_told:
            raise KeyboardInterrupt

    with unchanged(tmp_path / "a.kv"), pytest.raises(KeyboardInterrupt):
        model.save_prefix(IDS, tmp_path / "a.kv", progress=interrupt)
    assert cached(model, [9] * 40) == 0, "the engine goes on"


@pytest.mark.usefixtures("one_page_a_part")
def test_a_full_disk_is_an_error_of_the_file(
    fresh: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, write, n_left = fresh(), os.write, 5

    def fail(fd: int, data: Any) -> int:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    with unchanged(tmp_path / "a.kv"):
        with monkeypatch.context() as full, pytest.raises(FileAccessError, match="No space left"):
            full.setattr(os, "write", fail)
            model.save_prefix(IDS, tmp_path / "a.kv")
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(FileAccessError, match=r"the disk has 1,000 free: make room$"):
            model.save_prefix(IDS, tmp_path / "a.kv")


@pytest.mark.usefixtures("one_page_a_part")
@pytest.mark.parametrize("n_told", [1, 5], ids=["computing", "writing"])
def test_a_cancelled_task_leaves_no_file(fresh: Load, tmp_path: Path, n_told: int) -> None:
    model = fresh()

    async def cancelled() -> None:
        loop, n_calls = asyncio.get_running_loop(), 0
        reached, goes_on = asyncio.Event(), threading.Event()

        def told(done: int, total: int) -> None:
            nonlocal n_calls
            n_calls += 1
            if n_calls == n_told:
                loop.call_soon_threadsafe(reached.set)
                if threading.current_thread() is not threading.main_thread():
                    assert goes_on.wait(10)

        task = asyncio.create_task(model.asave_prefix(IDS, tmp_path / "a.kv", progress=told))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()
        while len([*tmp_path.iterdir()]) > 1:
            await asyncio.sleep(0.002)

    with unchanged(tmp_path / "a.kv"):
        asyncio.run(cancelled())


@pytest.mark.usefixtures("one_page_a_part")
def test_closing_the_engine_ends_it(fresh: Load, saved: Path, tmp_path: Path) -> None:
    for name in ("load", "save"):
        model = fresh()
        engine = model._engine

        def close(done: int, total: int, engine: _core.Engine = engine) -> None:
            engine.close()

        with pytest.raises(EngineClosedError):
            if name == "load":
                model.load_prefix(saved, progress=close)
            else:
                model.save_prefix(IDS, tmp_path / "a.kv", progress=close)
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("one_page_a_part")
def test_other_streams_compute_a_step_between_two_parts(fresh: Load, saved: Path) -> None:
    model, steps = fresh(), list[int]()
    with model.stream_complete([40] * 8, max_tokens=250, ignore_eos=True) as stream:
        next(stream)
        model.load_prefix(saved, progress=lambda *_: steps.append(model.stats()["steps"]))
        assert len(steps) == 10
        assert model.stats()["running"] == 0 or all(b > a for a, b in pairwise(steps))
        assert len(stream.result().token_ids) == 250


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_neither_engine_nor_prefix(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    code = """
        import os, sys
        from starchat import ForkError, StarChat
        model = StarChat.load(sys.argv[1])
        stream, prefix = model._engine.compute_prefix([*range(40)])
        while stream.next(): pass
        if (child := os.fork()) == 0:
            for use in (lambda: model.save_prefix([*range(40)], sys.argv[2]),
                        lambda: prefix.read(0, 1)):
                try:
                    use()
                except ForkError:
                    print("refused", flush=True)
            del prefix
            os._exit(0)
        os.waitpid(child, 0)
        print(len(prefix.read(0, 1)) > 0)
    """
    result = run_python(code, tiny_model_path, tmp_path / "a.kv")
    assert result.stdout == "refused\nrefused\nTrue\n", result.stderr


# ---- commands and the server ----------------------------------------------------------------


def test_serve_loads_prefixes_before_it_is_ready(
    tiny_model_path: Path, saved: Path, tmp_path: Path
) -> None:
    async def service_of(file: Path) -> Service:
        service = Service(ServerSettings(model=str(tiny_model_path), prefix=(str(file),)))
        await service.load()
        return service

    service = asyncio.run(service_of(saved))
    assert service.status == "ready" and service.stats()["prefix_pages"] == 10
    assert cached(service.model, cache_salt="a user's") == 320
    service.close()
    failed = asyncio.run(service_of(tmp_path / "none.kv"))
    assert failed.status == "failed" and isinstance(failed.failure, FileAccessError)


@pytest.mark.parametrize("command", ["chat", "complete"])
def test_commands_take_prefixes(
    command: str,
    saved: Path,
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = ["starchat", command, "Hello", "--model", str(tiny_model_path), "--max-tokens", "1"]
    with open(os.devnull) as nothing, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", nothing)
        for ctx, code in (("400", 0), ("300", 1)):
            patch.setattr("sys.argv", [*run, "--prefix", str(saved), "--ctx", ctx])
            with pytest.raises(SystemExit) as exit:
                starchat.cli.main()
            assert exit.value.code == code
    assert "has 320 tokens, the context holds 300: load" in capfd.readouterr().err
