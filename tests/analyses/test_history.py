"""Bounded memory for results."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from lightning_dynamics.analyses.history import History
from lightning_dynamics.analyses.result import AnalysisResult


@dataclass(frozen=True, eq=False)
class Found(AnalysisResult):
    def scalars(self) -> dict[str, float]:
        return {}


def history(count: int, limit: int = 8) -> History[Found]:
    kept: History[Found] = History(limit)
    for step in range(count):
        kept.add(Found(epoch=0, step=step, num_examples=1), step)
    return kept


def test_empty() -> None:
    assert history(0).last is None and history(0).results() == []


@pytest.mark.parametrize("count", [1, 7, 8, 9, 10, 100, 1001])
def test_first_and_last_are_kept_and_the_rest_is_even(count: int) -> None:
    steps = [result.step for result in history(count).results()]
    assert steps[0] == 0 and steps[-1] == count - 1
    assert len(steps) <= 9
    gaps = {b - a for a, b in zip(steps[:-2], steps[1:-1], strict=False)}
    assert len(gaps) <= 1
    if count <= 8:
        assert steps == list(range(count))
    assert len(steps) >= min(count, 5)


@pytest.mark.parametrize("cut", [0, 1, 8, 9, 12, 40])
def test_a_history_from_its_state_goes_on_as_if_never_cut(cut: int) -> None:
    whole, first = history(50), history(cut)
    resumed: History[Found] = History(8)
    resumed.load_state(first.to_state(), Found)
    for step in range(cut, 50):
        resumed.add(Found(epoch=0, step=step, num_examples=1), step)
    assert [r.step for r in resumed.results()] == [r.step for r in whole.results()]
    assert resumed.last is not None and resumed.last.step == 49


@dataclass(frozen=True, eq=False)
class Heavy(Found):
    load: list[int]

    def condensed(self) -> Heavy:
        return replace(self, load=[])


def heavy(count: int, start: History[Heavy] | None = None) -> History[Heavy]:
    kept: History[Heavy] = History(8) if start is None else start
    for step in range(0 if kept.last is None else kept.last.step + 1, count):
        kept.add(Heavy(epoch=0, step=step, num_examples=1, load=[step]), step)
    return kept


@pytest.mark.parametrize("count", [1, 2, 8, 9, 10, 33])
def test_only_the_latest_is_kept_whole(count: int) -> None:
    results = heavy(count).results()
    assert [result.load for result in results] == [[]] * (len(results) - 1) + [[count - 1]]
    assert results[0].step == 0


@pytest.mark.parametrize("cut", [1, 8, 9, 20])
def test_condensed_results_in_a_state(cut: int) -> None:
    state = heavy(cut).to_state()
    assert sum(len(result["load"]) for result in state["results"]) == 1
    resumed: History[Heavy] = History(8)
    resumed.load_state(state, Heavy)
    assert resumed.last is not None and resumed.last.load == [cut - 1]
    found, truth = heavy(40, resumed), heavy(40)
    assert [(r.step, r.load) for r in found.results()] == [(r.step, r.load) for r in truth.results()]


def test_results_that_are_made_when_somebody_asks() -> None:
    """Each from what it was made of at its time, and none that nobody needs."""
    books: list[int] = []
    made: list[int] = []

    def make() -> Heavy:
        made.append(len(books) - 1)
        return Heavy(epoch=0, step=len(books) - 1, num_examples=1, load=list(books))

    kept: History[Heavy] = History(8)
    for step in range(100):
        kept.settle()
        books.append(step)
        kept.add(make, step)
        assert kept.step == step
    assert len(made) < 40, "most are never made"
    results = kept.results()
    assert results == kept.results() and len(made) == len(set(made)), "none is made twice"
    truth = heavy(100).results()
    assert [(r.step, r.load) for r in results[:-1]] == [(r.step, []) for r in truth[:-1]]
    assert results[-1].load == list(range(100))
    assert History[Heavy]().last is None and History[Heavy]().step is None
