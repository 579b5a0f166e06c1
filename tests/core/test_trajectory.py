"""Snapshots: evenly spaced, bounded, the same after an interruption."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.schedule import Moment
from lightning_dynamics.core.trajectory import Recorder, Trajectory


def run(recorder: Recorder, trajectory: Trajectory, first: int, last: int) -> None:
    for step in range(first, last + 1):
        if trajectory.due(Moment("step" if step else "start", 0, step)):
            recorder.record(step, {"w": torch.full((2, 3), float(step))})


@pytest.mark.parametrize(("every", "most"), [(1, 4), (3, 8), (1, 64)])
@pytest.mark.parametrize("last", [1, 5, 63, 64, 65, 200, 1000])
def test_evenly_spaced_and_bounded(every: int, most: int, last: int) -> None:
    trajectory, memory = Trajectory(most, every), {}
    recorder = Recorder(memory, trajectory)
    run(recorder, trajectory, 0, last)
    assert recorder.steps[0] == 0 and len(recorder.steps) <= most + 2
    gaps = {b - a for a, b in zip(recorder.steps, recorder.steps[1:], strict=False)}
    assert len(gaps) <= 1
    if last >= every:
        (gap,) = gaps
        assert gap % every == 0 and recorder.steps[-1] > last - 2 * gap
    assert last < most * every or len(recorder.steps) > most // 2
    assert [int(s[0]) for s in recorder.snapshots] == recorder.steps


def test_an_interrupted_run_has_the_same_snapshots() -> None:
    trajectory, memory, other = Trajectory(8, 2), {}, {}
    run(Recorder(memory, trajectory), trajectory, 0, 101)
    run(Recorder(other, trajectory), trajectory, 0, 47)
    resumed = Recorder(dict(other), trajectory)
    resumed.resume()
    resumed.record(47, {"w": torch.full((2, 3), 47.0)})  # as at the start of the second fit
    run(resumed, trajectory, 48, 101)
    assert resumed.steps == memory["steps"]
    assert all(map(torch.equal, resumed.snapshots, memory["snapshots"]))


def test_the_same_step_is_recorded_once() -> None:
    recorder = Recorder({}, Trajectory())
    for _ in range(2):
        recorder.record(0, {"w": torch.ones(2)})
    assert recorder.steps == [0]


def test_large_snapshots_lie_in_files(tmp_path: Any) -> None:
    recorder = Recorder({}, Trajectory(memory_limit=8 * 66, memory_folder=str(tmp_path)))
    weights = torch.randn(100, dtype=torch.float64)
    recorder.record(0, {"w": weights})
    (snapshot,) = recorder.snapshots
    assert snapshot.dtype is torch.float32 and torch.equal(snapshot, weights.float())
    weights.zero_()
    assert snapshot.any()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((64, 0), "snapshot_every"), ((3, 1), "max_snap"), ((64, 1.5), "snapshot"), ((64, 1, -1), "memory_limit")],
)
def test_complaints(arguments: tuple[Any, ...], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Trajectory(*arguments)
