"""What people are told while they wait, and who is told nothing."""

from __future__ import annotations

import pytest

from starchat import progress


@pytest.mark.parametrize(
    ("is_terminal", "waited_s", "shows"),
    [
        pytest.param(True, 3.0, True, id="waiting-at-a-terminal"),
        pytest.param(True, 0.0, False, id="loaded-soon"),
        pytest.param(False, 3.0, False, id="no-terminal"),
    ],
)
def test_who_sees_a_bar(
    is_terminal: bool,
    waited_s: float,
    shows: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    bar = progress.LoadingBar("/models/starchat-beta.bin")
    monkeypatch.setattr("time.monotonic", lambda: 100.0 + waited_s)
    bar(1_000_000, 4_000_000)
    bar(4_000_000, 4_000_000)
    bar.close()
    captured = capsys.readouterr()
    assert ("loading starchat-beta.bin" in captured.err) is shows
    assert captured.out == ""


@pytest.mark.parametrize(
    ("total", "waited_s", "told"),
    [(512, 0.0, [64, 512]), (500, 0.0, []), (500, 3.0, [64, 500]), (64, 3.0, [])],
    ids=["long", "short", "slow", "one step"],
)
def test_only_long_prompts_are_told(
    total: int, waited_s: float, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    report = progress.long_prompts_only(lambda done, total: seen.append(done))
    monkeypatch.setattr("time.monotonic", lambda: 100.0 + waited_s)
    for done in sorted({64, total}):
        report(done, total)
    assert seen == told
