"""Random constraints attack an engine for MINUTES=30, beside four plain streams of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import grammar_attack
from support.scheduling import wait_until

pytestmark = pytest.mark.nightly
MINUTES = float(os.environ.get("MINUTES") or 30)
FIRST_SEED = int(os.environ.get("FIRST_SEED") or time.time())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.timeout(60 * MINUTES * 2 + 1000)
def test_random_constraints_stop_no_stream_and_leave_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", grammar_attack.__name__, f"{60 * MINUTES}", f"{FIRST_SEED}"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(grammar_attack.__file__).parents[1]),
        "PYTHONFAULTHANDLER": "1",
    }
    journal = tmp_path / "journal"
    with journal.open("w") as file:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=file)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{journal.read_text()[-8000:]}"
    report = json.loads(done.stdout)
    findings, gaps = report.pop("findings"), report.pop("gaps")
    print(f"FIRST_SEED={FIRST_SEED}", report, *gaps, sep="\n")
    for finding in findings:
        print(finding)
    assert not findings, [finding["seed"] for finding in findings]
    assert report["ends"]["stop"] > 10 and report["n_tokens"] > 1000, "it attacked"
    # What a busy machine makes of a gap is not the engine's: the time that a thread waited for a
    # processor.
    long = [gap for gap in gaps if gap["seconds"] - gap["waited"] > grammar_attack.LONGEST_GAP_S]
    assert not long, long
    (warm, warm_resident), (end, end_resident) = report["warm_mib"], report["end_mib"]
    assert end - warm <= 50
    if MINUTES >= 10:  # before, what lies between free pages still grows
        assert end_resident - warm_resident <= 50
    assert report["more_threads"] <= 0
    assert 0 < len(report["children"]) <= 4, "helper processes"
    wait_until(lambda: not grammar_attack.running(report["children"]))
