"""A device by Vulkan: choice, buffers, lists, and what happens when it fails or is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from starchat import DeviceLostError, OutOfMemoryError, UnsupportedFeatureError
from starchat._core.machine import gpu_devices
from starchat._core.testing import Gpu, gpu_faults, gpu_submissions
from starchat.cli.app import app
from support.gpu import ADD_SHADER, gpu_for_tests
from support.processes import run_python

N = 1000


@pytest.fixture(scope="module")
def name() -> str:
    return gpu_for_tests()


@pytest.fixture
def gpu(name: str) -> Gpu:
    return Gpu(name)


@pytest.fixture
def faults(name: str) -> Iterator[None]:
    yield
    gpu_faults()


def added(
    gpu: Gpu, n_times: int = 1, n_runs: int = 1, factor: int = 3, in_host_memory: bool = False
) -> bool:
    """Whether the shader's sums are right."""
    values = np.arange(2 * N, dtype=np.uint32).reshape(2, N)
    groups = (-(-N // 64), 1, 1)
    push = np.array([N, 7], np.uint32)
    source, result = gpu.run(
        ADD_SHADER, list(values), groups, [64, factor], push, 0, n_times, n_runs, in_host_memory
    )
    expected = values[1] + n_times * n_runs * (factor * values[0] + 7)
    same: bool = np.array_equal(np.frombuffer(result, np.uint32), expected)
    return same and source == values[0].tobytes()


def test_a_shader_computes_by_addresses_and_constants(gpu: Gpu) -> None:
    assert added(gpu)
    assert added(gpu, factor=5)
    assert added(gpu, in_host_memory=True)


def test_pieces_of_a_list_are_computed_in_order(gpu: Gpu) -> None:
    assert added(gpu, n_times=50)


@pytest.mark.usefixtures("faults")
def test_slow_pieces_are_submitted_one_by_one(gpu: Gpu) -> None:
    assert added(gpu)  # compiles the shader
    gpu_faults()
    assert added(gpu, n_times=12, n_runs=3)
    assert gpu_submissions() < 3 * 12  # all pieces at once, but in the first run
    gpu_faults("slow")
    assert added(gpu, n_times=6, n_runs=2)
    assert gpu_submissions() == 2 * 6


@pytest.mark.usefixtures("faults")
def test_memory_that_only_the_device_sees_is_copied_through_a_window(name: str) -> None:
    gpu_faults("discrete")
    gpu = Gpu("gpu")  # opened anew: no other test has it open
    assert added(gpu)
    assert gpu_submissions() == 2 + 1 + 2  # two buffers there and back


def test_threads_take_turns(name: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda _: added(Gpu(name), n_times=5), range(20)))


def test_users_of_one_device_share_it(name: str) -> None:
    first = Gpu(name)
    alone = first.n_shares
    second = Gpu(f"vulkan:{first.index}")
    assert first.n_shares > alone and second.index == first.index
    assert added(first) and added(second)


def test_a_name_is_a_part_in_any_case(name: str) -> None:
    assert added(Gpu(name.upper()))


@pytest.mark.parametrize("wrong", ["vulkan:99", "no such device", ""])
def test_an_unknown_name_is_refused_with_those_that_exist(name: str, wrong: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=re.escape(gpu_devices()[0]["name"])) as error:
        Gpu(wrong)
    assert error.value.param == "device"


def test_a_driver_that_computes_on_the_cpu_must_be_named(name: str) -> None:
    if any(device["kind"] != "cpu" for device in gpu_devices()):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnsupportedFeatureError, match="computes on the CPU and must be named"):
        Gpu("gpu")


@pytest.mark.usefixtures("faults")
def test_a_lost_device_is_an_error_and_can_be_opened_again(name: str, gpu: Gpu) -> None:
    gpu_faults("lost")
    with pytest.raises(DeviceLostError, match="close the model and load it again") as error:
        added(gpu)
    assert error.value.code == "device_lost"
    gpu_faults()
    with pytest.raises(DeviceLostError, match="lost before"):
        added(gpu)
    assert added(Gpu(name))


def test_a_device_that_does_not_answer_is_left_alone(name: str) -> None:
    script = """
        import sys
        from starchat import DeviceLostError
        from starchat._core.testing import Gpu, gpu_faults
        sys.path.append(sys.argv[2])
        from support.gpu import ADD_SHADER
        gpu = Gpu(sys.argv[1])
        gpu_faults("stuck")
        for _ in range(2):
            try:
                gpu.run(ADD_SHADER, [bytes(4000)] * 2, (16, 1, 1), [64, 1], bytes(8))
            except DeviceLostError as error:
                print(error)
    """
    result = run_python(script, name, Path(__file__).parent)
    assert (result.returncode, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()
    assert "was not done after 120 s" in first and "lost before" in second


@pytest.mark.usefixtures("faults")
def test_too_little_memory_is_an_error_before_the_driver_swaps(gpu: Gpu) -> None:
    gpu_faults(heap_bytes=4000)
    assert gpu.free_bytes <= 4000
    buffers = [np.zeros(N + 1, np.uint32)] * 2
    with pytest.raises(OutOfMemoryError, match=r"no memory for 4,004 bytes: [\d,]+ are free"):
        gpu.run(ADD_SHADER, buffers, (1, 1, 1), [64, 1], bytes(8))
    gpu_faults()
    assert added(gpu)


@pytest.mark.usefixtures("faults")
def test_a_driver_without_memory_is_an_error(gpu: Gpu) -> None:
    gpu_faults("memory")
    with pytest.raises(OutOfMemoryError, match=r"the driver has no more.*gpu_layers"):
        added(gpu)
    gpu_faults()
    assert added(gpu)


def test_a_forked_child_gets_an_error(name: str) -> None:
    script = """
        import os, sys
        import numpy as np
        from starchat import ForkError, StarChat
        from starchat._core.machine import gpu_devices
        from starchat._core.testing import Gpu
        gpu = Gpu(sys.argv[1])
        child = os.fork()
        run = lambda: gpu.run(b"", [bytes(4)], (1, 1, 1))
        for use in gpu_devices, lambda: Gpu(sys.argv[1]), run:
            try:
                if child == 0:
                    use()
            except ForkError as error:
                print(error)
        if child == 0:
            del gpu
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(gpu_devices()) > 0)
    """
    result = run_python(script, name)
    lines = result.stdout.splitlines()
    assert (result.returncode, result.stderr, lines[-1]) == (0, "", "3 True")
    assert len(lines) == 4 and all("start processes by spawn" in line for line in lines[:3])


def test_the_process_ends_with_a_device_open(name: str) -> None:
    script = """
        import sys, threading
        from starchat._core.testing import Gpu
        sys.path.append(sys.argv[2])
        from support.gpu import ADD_SHADER
        gpu = Gpu(sys.argv[1])
        def repeat():
            while True:
                gpu.run(ADD_SHADER, [bytes(4000)] * 2, (16, 1, 1), [64, 1], bytes(8))
        threading.Thread(target=repeat, daemon=True).start()
    """
    for _ in range(3):
        result = run_python(script, name, Path(__file__).parent)
        assert (result.returncode, result.stderr) == (0, "")


def test_devices_lists_them(name: str) -> None:
    result = CliRunner().invoke(app, ["devices", "--json"])
    devices = json.loads(result.stdout)
    assert devices and {"name", "driver", "kind", "refusal", "memory_bytes"} <= devices[0].keys()
    table = CliRunner().invoke(app, ["devices"], env={"COLUMNS": "300"}).stdout
    assert "vulkan:0" in table and devices[0]["name"] in table


def test_without_a_driver_the_error_says_what_to_install() -> None:
    script = """
        import os
        from starchat import UnsupportedFeatureError
        from starchat._core.machine import gpu_devices
        os.environ |= {"VK_ICD_FILENAMES": "/dev/null", "VK_DRIVER_FILES": "/dev/null"}
        try:
            gpu_devices()
        except UnsupportedFeatureError as error:
            print(error)
    """
    result = run_python(script)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search("install (it|libvulkan1)", result.stdout) and "use the CPU" in result.stdout


def test_nothing_opens_vulkan_before_it_is_asked_for() -> None:
    script = """
        from starchat import StarChat
        StarChat.load().complete("a", max_tokens=2)
        print("vulkan" in open("/proc/self/maps").read())
    """
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs Linux")
    assert run_python(script).stdout == "False\n"


def test_forks_before_vulkan_may_use_it(name: str) -> None:
    script = """
        import os, sys
        from starchat._core.machine import gpu_devices
        if child := os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        sys.exit(0 if gpu_devices() else 1)
    """
    result = run_python(script, name)
    assert (result.returncode, result.stderr) == (0, "")
