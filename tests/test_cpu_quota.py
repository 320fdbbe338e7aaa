"""The quota of the control groups, read from the files that Linux, Docker and Kubernetes have."""

from __future__ import annotations

from pathlib import Path

import pytest

from starchat._core.machine import cpu_quota

V2_MOUNT = "30 24 0:26 {group} {folder} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "36 32 0:31 {group} {folder} rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct\n"


def quota(root: Path, groups: str, mounts: str, files: dict[str, str]) -> float | None:
    """Return the quota on a machine with these files; those in /proc are given apart."""
    every = {"/proc/self/cgroup": groups, "/proc/self/mountinfo": mounts, **files}
    for name, text in every.items():
        path = root / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu_quota(str(root))


def test_a_machine_without_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(str(tmp_path)) is None


@pytest.mark.parametrize("period", ["100000", "5000"])
def test_a_container_of_its_own_namespace(tmp_path: Path, period: str) -> None:
    mount = V2_MOUNT.format(group="/", folder="/sys/fs/cgroup")
    files = {"/sys/fs/cgroup/cpu.max": f"{int(period) * 3 // 2} {period}\n"}
    assert quota(tmp_path, "0::/\n", mount, files) == 1.5


def test_max_is_no_quota(tmp_path: Path) -> None:
    mount = V2_MOUNT.format(group="/", folder="/sys/fs/cgroup")
    assert quota(tmp_path, "0::/\n", mount, {"/sys/fs/cgroup/cpu.max": "max 100000\n"}) is None


@pytest.mark.parametrize(("inner", "outer", "least"), [(4, 2, 2), (1, 2, 1), (None, 3, 3)])
def test_the_least_quota_on_the_path_counts(
    tmp_path: Path, inner: int | None, outer: int, least: int
) -> None:
    mount = V2_MOUNT.format(group="/", folder="/sys/fs/cgroup")
    files = {
        "/sys/fs/cgroup/user.slice/cpu.max": f"{outer}00000 100000\n",
        "/sys/fs/cgroup/user.slice/a.service/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/other.slice/cpu.max": "10000 100000\n",  # not on the path
    }
    if inner is not None:
        files["/sys/fs/cgroup/user.slice/a.service/job/cpu.max"] = f"{inner}00000 100000\n"
    assert quota(tmp_path, "0::/user.slice/a.service/job\n", mount, files) == least


def test_version_1_with_the_group_as_its_root(tmp_path: Path) -> None:
    """As in Docker without a namespace for groups: the path of the host, mounted at the folder."""
    groups = "5:memory:/docker/a1\n3:cpu,cpuacct:/docker/a1\n1:name=systemd:/docker/a1\n0::/x\n"
    mount = V1_MOUNT.format(group="/docker/a1", folder="/sys/fs/cgroup/cpu,cpuacct")
    files = {
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert quota(tmp_path, groups, mount, files) == 0.5


def test_version_1_nested_and_mounted_elsewhere(tmp_path: Path) -> None:
    mount = V1_MOUNT.format(group="/", folder="/groups/cpu")
    files = {
        "/groups/cpu/pod/cpu.cfs_quota_us": "200000\n",
        "/groups/cpu/pod/cpu.cfs_period_us": "100000\n",
        "/groups/cpu/pod/job/cpu.cfs_quota_us": "-1\n",
        "/groups/cpu/pod/job/cpu.cfs_period_us": "100000\n",
    }
    assert quota(tmp_path, "3:cpu,cpuacct:/pod/job\n", mount, files) == 2


def test_both_versions_at_once(tmp_path: Path) -> None:
    mounts = V1_MOUNT.format(group="/", folder="/sys/fs/cgroup/cpu") + V2_MOUNT.format(
        group="/", folder="/sys/fs/cgroup/unified"
    )
    files = {
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "/sys/fs/cgroup/unified/job/cpu.max": "200000 100000\n",
    }
    assert quota(tmp_path, "1:cpu:/\n0::/job\n", mounts, files) == 2


@pytest.mark.parametrize("text", ["", "max", "0 100000", "5 0", "-1 -1", "many 100000", "\0\xff"])
def test_files_that_say_nothing(tmp_path: Path, text: str) -> None:
    mount = V2_MOUNT.format(group="/", folder="/sys/fs/cgroup")
    assert quota(tmp_path, "0::/../..\nnoise\n", mount, {"/sys/fs/cgroup/cpu.max": text}) is None
