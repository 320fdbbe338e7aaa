"""Whether a model fits into memory: what is free, what it needs, the error where it does not."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest

import starchat.model
from starchat import (
    InvalidRequestError,
    Loader,
    OutOfMemoryError,
    StarChat,
    _core,
    engine_registry,
)
from starchat._core.machine import free_memory
from starchat.cli.options import ModelOptions
from starchat.convert.conversion import convert
from starchat.model_settings import ModelSettings
from support.scheduling import wait_until
from support.sparse_model import write_sparse
from support.tiny_model import Shape, write_tiny

NO_LIMIT_V1 = 9223372036854771712  # of the root group


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., str]:
    """Write the files of a machine: meminfo in KiB, and others by their paths."""

    def write(available_kib: int | None = None, **files: str) -> str:
        root = tmp_path / "machine"
        if available_kib is not None:
            files["proc/meminfo"] = (
                f"MemTotal:  99 kB\nMemFree: 1 kB\nMemAvailable:  {available_kib} kB\nSwap: 7 kB"
            )
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(root)

    return write


Machine = Callable[..., str]


# ---- what is free ---------------------------------------------------------------------------


def test_free_is_what_the_kernel_says(machine: Machine) -> None:
    assert free_memory(machine(5000)) == (5000 * 1024, "MemAvailable in /proc/meminfo")


def test_nothing_is_known_without_files(tmp_path: Path) -> None:
    assert free_memory(str(tmp_path)) is None


def test_kernels_before_3_14_do_not_say_it(machine: Machine) -> None:
    root = machine(**{"proc/meminfo": "MemTotal: 99 kB\nMemFree: 50 kB\n"})
    assert free_memory(root) is None


def process_bytes() -> int:
    """Return what this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "36 32 0:31 {group} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def v2_group(path: str, **values: object) -> dict[str, str]:
    return {f"sys/fs/cgroup{path}/memory.{name}": f"{value}\n" for name, value in values.items()}


def test_a_group_of_version_2_leaves_its_limit_less_what_cannot_be_dropped(
    machine: Machine,
) -> None:
    stat = "anon 300\nfile 650\ninactive_file 400\nactive_file 200\nshmem 50\nfile_mapped 9"
    root = machine(
        1 << 20,
        **{"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": V2},
        **v2_group("/a", max=1000, current=950, stat=stat),
        **v2_group("/a/b", max="max", current=10),
        **v2_group("/other", max=1, current=1),
    )
    assert free_memory(root) == (
        1000 - (950 - 600),
        "the limit of the control group /sys/fs/cgroup/a",
    )


def test_the_least_limit_around_a_process_counts(machine: Machine) -> None:
    root = machine(
        1 << 20,
        **{"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": V2},
        **v2_group("/a", max=1000, current=400),
        **v2_group("/a/b", max=5000, high=700, current=200),
    )
    assert free_memory(root) == (500, "the limit of the control group /sys/fs/cgroup/a/b")


def test_a_group_that_is_beyond_its_limit_leaves_nothing(machine: Machine) -> None:
    root = machine(**{"proc/self/cgroup": "0::/\n"}, **v2_group("", max=1000, current=4000))
    assert free_memory(root) == (0, "the limit of the control group /sys/fs/cgroup")


@pytest.mark.parametrize("hierarchical", [NO_LIMIT_V1, 900])
def test_a_group_of_version_1(machine: Machine, hierarchical: int) -> None:
    """In a container: its group is the root of what it sees, and limits around it are in stat."""
    stat = "total_inactive_file 100\ntotal_active_file 50\nactive_file 7\n"
    folder = "sys/fs/cgroup/memory/memory"
    root = machine(
        1 << 20,
        **{
            "proc/self/cgroup": "4:memory:/docker/a1\n3:cpu:/docker/a1\n",
            "proc/self/mountinfo": V1.format(group="/docker/a1"),
            f"{folder}.limit_in_bytes": "1000",
            f"{folder}.usage_in_bytes": "450",
            f"{folder}.stat": stat + f"hierarchical_memory_limit {hierarchical}\n",
        },
    )
    left = min(1000, hierarchical) - (450 - 150)
    assert free_memory(root) == (left, "the limit of the control group /sys/fs/cgroup/memory")


def test_ulimit_counts_for_this_process(machine: Machine) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + (64 << 20), before[1]))
    try:
        free = free_memory(machine(1 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert free is not None and free[1] == "ulimit -v or -d"
    assert abs(free[0] - (64 << 20)) < 32 << 20


@pytest.mark.parametrize("lm_head", ["tied", "own", "absent"])
@pytest.mark.parametrize("multi_query", [True, False])
def test_likely_copies_are_those_that_are_found_by_comparing(
    tmp_path: Path, multi_query: bool, lm_head: Literal["tied", "own", "absent"]
) -> None:
    path = tmp_path / "model.bin"
    write_tiny(path, "q8_0", Shape(n_layer=5), multi_query=multi_query, lm_head=lm_head)
    assert _core.inspect(path, compare=False) == _core.inspect(path)


# ---- the need and the error -----------------------------------------------------------------

SHAPE = Shape(n_embd=256, n_head=4, n_layer=4, n_ctx=4096)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 4.7 MB in q8_0, with 4.2 MB of context."""
    return write_tiny(tmp_path_factory.mktemp("fit") / "model.bin", "q8_0", SHAPE).path


def need(path: Path, **settings: int) -> dict[str, int]:
    """Return what an engine with one thread needs, in bytes by part."""
    parts: dict[str, int] = _core.inspect(path, n_threads=1, **settings)["memory"]
    return parts


def kib(n_bytes: float) -> int:
    return int(n_bytes) // 1024 + 1


def refusal(path: Path, root: str, **settings: int) -> OutOfMemoryError:
    with pytest.raises(OutOfMemoryError) as caught:
        _core.Engine(str(path), memory_root=root, n_threads=1, **settings)
    return caught.value


@pytest.mark.parametrize("half", [False, True], ids=["f32-positions", "f16-positions"])
def test_the_need_is_what_is_allocated(file: Path, tmp_path: Path, half: bool) -> None:
    if half:
        file = tmp_path / "zeros.bin"
        write_sparse(file, "q8_0", SHAPE)
    parts = need(file)
    engine = _core.Engine(str(file), n_threads=1)
    weight_bytes = engine.info["weight_bytes"]
    vectors = 4 * (2 * 256 * 9 + 4 * (384 + 256 + 1024 + 256))  # norms, and biases of four layers
    assert parts["weights"] == weight_bytes + vectors
    page_bytes = 4 * 2 * 32 * 64 * 2  # layers, keys and values, positions, width, f16
    assert parts["context"] == parts["prefix_cache"] == 4096 // 32 * page_bytes
    assert parts["total"] == sum(parts.values()) - parts["total"]


def test_settings_change_the_need(file: Path) -> None:
    whole, half = need(file), need(file, n_ctx=2048)
    assert half["context"] == whole["context"] // 2 == half["prefix_cache"]
    assert half["weights"] == whole["weights"] and half["work"] < whole["work"]
    assert need(file, prefix_cache_bytes=0)["prefix_cache"] == 0


def test_what_fits_exactly_is_loaded_and_one_page_less_is_not(file: Path, machine: Machine) -> None:
    total = need(file)["total"]
    _core.Engine(str(file), memory_root=machine(kib(total)), n_threads=1)
    error = refusal(file, machine(kib(total) - 4))
    assert error.got == total and error.limit == (kib(total) - 4) * 1024


def test_the_error_says_both_numbers_and_the_remedies(file: Path, machine: Machine) -> None:
    parts = need(file)
    free = need(file, n_ctx=1024)["total"]
    error = refusal(file, machine(kib(free)))
    text = str(error)
    assert text.startswith(f"{file}: needs {parts['total'] / 1e6:.1f} MB of memory (weights ")
    assert f"context of 4,096 tokens {parts['context'] / 1e6:.1f} MB" in text
    assert f"but {kib(free) * 1024 / 1e6:.1f} MB are free (MemAvailable in /proc/meminfo)" in text
    assert "free memory, or load with n_ctx=1024" in text
    assert text.endswith("check_memory=False loads it nevertheless")
    assert (error.code, error.param) == ("out_of_memory", "path")
    _core.Engine(str(file), memory_root=machine(kib(free)), n_threads=1, n_ctx=1024)


@pytest.mark.parametrize(
    ("type", "next_types"),
    [("q8_0", ["q5_1", "q5_0", "q4_1", "q4_0"]), ("f32", ["q8_0"]), ("q5_1", ["q5_0"])],
)
def test_the_error_names_the_largest_type_that_fits(
    tmp_path: Path, machine: Machine, type: str, next_types: list[str]
) -> None:
    path = write_tiny(tmp_path / "model.bin", type, SHAPE).path
    for other in next_types:
        fits = need(write_tiny(tmp_path / "other.bin", other, SHAPE).path)["total"]
        text = str(refusal(path, machine(kib(fits))))
        assert f"or take the model in {other}, which needs {fits / 1e6:.1f} MB" in text


@pytest.mark.parametrize("lm_head", ["absent", "own"])
def test_the_error_names_presets_of_gguf_files(
    tmp_path: Path, machine: Machine, lm_head: Any
) -> None:
    """They are what convert makes and hubs have; a type alone, as q4_k, is neither."""
    shape = Shape(n_embd=256, n_head=4, n_layer=8, n_ctx=64, n_vocab=4096)
    source = write_tiny(tmp_path / "source.bin", "f16", shape, lm_head=lm_head).path
    path, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    convert(str(source), str(path))
    for preset in "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K":
        convert(str(source), str(other), preset, overwrite=True)
        fits = need(other)["total"]
        text = str(refusal(path, machine(kib(fits))))
        assert f"or take the model in {preset}, which needs {fits / 1e6:.1f} MB" in text


def test_the_error_says_where_nothing_fits(file: Path, machine: Machine) -> None:
    text = str(refusal(file, machine(100)))
    assert "n_ctx=" not in text and "; even in q4_0 the model needs " in text


def test_weights_in_memory_cost_nothing(file: Path, machine: Machine) -> None:
    engine = _core.Engine(str(file), n_threads=1)
    parts = need(file)
    cost = kib(parts["total"] - parts["weights"])
    root = machine(cost)
    _core.Engine(str(file), memory_root=root, n_threads=1, weights=engine.weights)
    refusal(file, root)
    text = str(refusal(file, machine(500), weights=engine.weights))  # type: ignore[arg-type]
    assert "needs" in text and "weights" not in text and " in q4_0" not in text


def test_weights_of_another_process_cost_nothing(tmp_path: Path, machine: Machine) -> None:
    """They are mapped from 16 MiB on; here the other process is this one."""
    path = tmp_path / "large.bin"
    write_sparse(path, "q8_0", Shape(n_embd=1024, n_head=16, n_layer=2, n_ctx=64))
    parts = need(path)
    root = machine(kib(parts["total"] - parts["weights"]))
    refusal(path, root, share_weights=True)
    first = _core.Engine(str(path), n_threads=1, share_weights=True)
    second = _core.Engine(str(path), n_threads=1, memory_root=root, share_weights=True)
    assert first.info["weight_bytes"] == second.info["weight_bytes"] > 16 << 20


def test_loads_at_the_same_time_do_not_count_on_the_same_memory(
    tmp_path: Path, machine: Machine
) -> None:
    """The second one is asked for in the middle of the first, which has taken little by then.

    Progress is also told before, while copies are compared: then there is room.
    """
    files = tmp_path / "first.bin", tmp_path / "second.bin"
    for path in files:
        write_sparse(path, "q8_0", Shape(n_embd=1024, n_head=16, n_layer=2, n_ctx=64))
    root = machine(kib(need(files[0])["total"]))
    errors: list[str] = []

    def load_another(*_: object) -> None:
        if not errors:
            try:
                _core.Engine(str(files[1]), memory_root=root, n_threads=1)
            except OutOfMemoryError as error:
                errors.append(str(error))

    _core.Engine(str(files[0]), memory_root=root, n_threads=1, progress=load_another)
    assert "(MemAvailable in /proc/meminfo, less what is being loaded)" in errors[0]
    _core.Engine(str(files[1]), memory_root=root, n_threads=1)


def test_nothing_is_refused_where_nothing_is_known(file: Path, tmp_path: Path) -> None:
    _core.Engine(str(file), memory_root=str(tmp_path), n_threads=1)


def test_load_checks_unless_told_not_to(
    file: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_registry, "MACHINE", machine(1000))
    with pytest.raises(OutOfMemoryError, match="check_memory=False"):
        StarChat.load(file)
    with pytest.raises(OutOfMemoryError):
        Loader().load(str(file))
    with StarChat.load(file, check_memory=False) as model:
        assert model.info.n_ctx == 4096
        with StarChat.load(file) as same:  # the engine is there: nothing is taken
            assert same.info == model.info
    with pytest.raises(InvalidRequestError, match="check_memory: expected True or False"):
        StarChat.load(file, check_memory=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "load",
    [
        lambda file, check: Loader().load(file, check_memory=check),
        lambda file, check: ModelSettings(model_path=file, check_memory=check).engine,
        lambda file, check: ModelOptions(model=file, check_memory=check).load(),
    ],
    ids=["Loader", "adapters", "command"],
)
def test_whoever_loads_can_leave_the_check_out(
    file: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[[str, bool], StarChat],
    check: bool,
) -> None:
    monkeypatch.setattr(engine_registry, "MACHINE", machine(1000))
    with pytest.raises(OutOfMemoryError) if check else nullcontext():
        load(str(file), check).close()


def test_memory_says_what_is_taken_now_and_what_is_left(
    file: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = free_memory(machine(1 << 20))
    monkeypatch.setattr(starchat.model, "free_memory", lambda: left)
    with StarChat.load(file, check_memory=False, prefix_cache_bytes=0) as model:
        info, before = model.info, model.memory()
        per_token = 4 * info.n_layer * info.n_kv_head * (info.n_embd // info.n_head)  # K, V, f16
        assert before.kv_page_bytes >= 32 * per_token  # rows of V are padded
        assert [before.bytes_of(n) // before.kv_page_bytes for n in (0, 1, 32, 33)] == [0, 1, 1, 2]
        assert before.weight_bytes == info.weight_bytes
        assert (before.kv_bytes, before.prefix_bytes, before.spare_bytes) == (0, 0, 0)
        assert before.available_bytes == before.free_bytes == 1 << 30
        with model.stream_complete([1] * 100, ignore_eos=True) as stream:
            next(stream)
            wait_until(lambda: model.memory().kv_bytes >= before.bytes_of(100))
            running = model.memory()
            assert running.prefix_bytes == 0
        wait_until(lambda: model.memory().kv_bytes == 0)
        after = model.memory()
        assert after.spare_bytes >= running.kv_bytes + running.spare_bytes > 0
        assert after.available_bytes == after.spare_bytes + (1 << 30)
        monkeypatch.setattr(starchat.model, "free_memory", lambda: None)
        assert model.memory().available_bytes is None


def test_memory_counts_the_prefix_cache(file: Path) -> None:
    with StarChat.load(file, check_memory=False) as model:
        model.complete([1] * 100, max_tokens=1)
        expected = model.memory().bytes_of(96)
        wait_until(lambda: model.memory().prefix_bytes == model.memory().kv_bytes == expected)


def test_a_file_larger_than_any_machine_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """3.5 TB of zeros, by the true files of the system; nothing has to be compared in it."""
    path = tmp_path / "huge.bin"
    shape = Shape(n_embd=1 << 18, n_head=1, n_layer=4, n_ctx=2)
    size = write_sparse(path, "q8_0", shape, lm_head=False)
    used = process_bytes()
    with pytest.raises(OutOfMemoryError, match=r"huge\.bin: needs 3,?[0-9.]+ GB") as caught:
        StarChat.load(path)
    assert isinstance(caught.value.got, int) and 0.95 < caught.value.got / size < 1.05
    assert process_bytes() - used < 200 << 20
