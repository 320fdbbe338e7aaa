"""A process that fetches a model is killed again and again: what came is never fetched twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.loopback_hub import loopback_hub

pytestmark = pytest.mark.nightly

MB = 1 << 20
REPO = "o/r"


def part_size(cache: Path) -> int:
    return sum(part.stat().st_size for part in cache.rglob("*.incomplete"))


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_download_survives_a_kill_at_every_mb(tmp_path: Path, n_processes: int) -> None:
    data = os.urandom(8 * MB + 123)
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("HF_")}
    command = [sys.executable, "-m", "starchat", "pull", REPO]
    with loopback_hub() as hub:
        hub.put(REPO, {"a.q4_0.gguf": data})
        hub.faults.piece_s = 0.002
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path)}
        for n in range(1, 9):
            running = [subprocess.Popen(command, env=environment) for _ in range(n_processes)]
            while part_size(tmp_path) < n * MB and running[0].poll() is None:
                time.sleep(0.002)
            for process in running:
                process.kill()
                process.wait()
            assert not [*tmp_path.rglob("snapshots/*/*")]
        hub.faults.piece_s = 0
        last = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(n_processes)
        ]
        for process in last:
            path, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            assert Path(path.strip()).read_bytes() == data
        first = [int(h["Range"][6:-1]) for h in hub.contents() if "Range" in h]
        assert first == sorted(first)
        assert len({*first}) >= 4  # each went on where the one before it had been killed
        assert part_size(tmp_path) == 0
