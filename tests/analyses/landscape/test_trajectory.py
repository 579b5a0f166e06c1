"""Snapshots: evenly spaced, bounded, the same after an interruption."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_dynamics.analyses.landscape.trajectory import Cadence, Recorder
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.schedule import Moment
from lightning_dynamics.core.storage import Storage


def run(recorder: Recorder, cadence: Cadence, first: int, last: int) -> None:
    for step in range(first, last + 1):
        if cadence.due(Moment("step" if step else "start", 0, step)):
            recorder.record(step, {"w": torch.full((2, 3), float(step))})


@pytest.mark.parametrize(("every", "most"), [(1, 4), (3, 8), (1, 64)])
@pytest.mark.parametrize("last", [1, 5, 63, 64, 65, 200, 1000])
def test_evenly_spaced_and_bounded(every: int, most: int, last: int) -> None:
    cadence, memory = Cadence(every, most), {}
    recorder = Recorder(memory, cadence, Storage())
    run(recorder, cadence, 0, last)
    assert recorder.steps[0] == 0 and len(recorder.steps) <= most + 2
    gaps = {b - a for a, b in zip(recorder.steps, recorder.steps[1:], strict=False)}
    assert len(gaps) <= 1
    if last >= every:
        (gap,) = gaps
        assert gap % every == 0 and recorder.steps[-1] > last - 2 * gap
    assert last < most * every or len(recorder.steps) > most // 2
    assert [int(s[0]) for s in recorder.snapshots] == recorder.steps


def test_an_interrupted_run_has_the_same_snapshots() -> None:
    cadence, memory, other = Cadence(2, 8), {}, {}
    run(Recorder(memory, cadence, Storage()), cadence, 0, 101)
    run(Recorder(other, cadence, Storage()), cadence, 0, 47)
    resumed = Recorder(dict(other), cadence, Storage())
    resumed.resume()
    resumed.record(47, {"w": torch.full((2, 3), 47.0)})  # as at the start of the second fit
    run(resumed, cadence, 48, 101)
    assert resumed.steps == memory["steps"]
    assert all(map(torch.equal, resumed.snapshots, memory["snapshots"]))


def test_the_same_step_is_recorded_once() -> None:
    recorder = Recorder({}, Cadence(), Storage())
    for _ in range(2):
        recorder.record(0, {"w": torch.ones(2)})
    assert recorder.steps == [0]


def test_large_snapshots_lie_in_files(tmp_path: Any) -> None:
    recorder = Recorder({}, Cadence(), Storage(in_memory=8, folder=str(tmp_path)))
    weights = torch.randn(100, dtype=torch.float64)
    recorder.record(0, {"w": weights})
    (snapshot,) = recorder.snapshots
    assert snapshot.dtype is torch.float32 and torch.equal(snapshot, weights.float())
    weights.zero_()
    assert snapshot.any()


@pytest.mark.parametrize(
    ("arguments", "word"), [((0, 64), "snapshot_every"), ((1, 3), "max_snap"), ((1.5, 64), "snapshot")]
)
def test_complaints(arguments: tuple[Any, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Cadence(*arguments)
