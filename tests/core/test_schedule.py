"""When: every combination of periods, start and end."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.schedule import Moment, Never, Schedule


@pytest.mark.parametrize(
    ("epochs", "steps", "start", "end"), list(product([None, 1, 3], [None, 1, 5], [False, True], [False, True]))
)
def test_due(epochs: int | None, steps: int | None, start: bool, end: bool) -> None:
    if not (epochs or steps or start or end):
        with pytest.raises(ConfigurationError, match="nothing would ever be analysed"):
            Schedule(epochs, steps, start, end)
        return
    schedule = Schedule(epochs, steps, start, end)
    due_epochs = [epoch for epoch in range(7) if schedule.due(Moment("epoch", epoch, 10 * epoch + 10))]
    due_steps = [step for step in range(1, 12) if schedule.due(Moment("step", 0, step))]
    assert due_epochs == {None: [], 1: list(range(7)), 3: [2, 5]}[epochs]
    assert due_steps == {None: [], 1: list(range(1, 12)), 5: [5, 10]}[steps]
    assert schedule.due(Moment("start", 0, 0)) is start
    assert schedule.due(Moment("end", 6, 70)) is end


@pytest.mark.parametrize("argument", ["every_n_epochs", "every_n_train_steps"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", float("nan")])
def test_a_bad_period_is_named(argument: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"`{argument}` must be a whole number"):
        Schedule(**{argument: value})


def test_the_defaults_are_every_epoch_and_the_end() -> None:
    assert Schedule() == Schedule(every_n_epochs=1, every_n_train_steps=None, at_start=False, at_end=True)
    assert {Schedule(): 1}[Schedule()] == 1, "a value: hashable, equal by content"


def test_every_kind_of_moment_is_answered_with_a_bool() -> None:
    kinds: tuple[Any, ...] = ("start", "step", "epoch", "end")
    for kind in kinds:
        assert isinstance(Schedule(1, 1, True, True).due(Moment(kind, 0, 1)), bool)


def test_never() -> None:
    kinds: tuple[Any, ...] = ("start", "step", "epoch", "end")
    assert [Never().due(Moment(kind, epoch, step)) for kind in kinds for epoch in (0, 7) for step in (0, 1)] == [
        False
    ] * 16
    assert Never() == Never() and {Never(): 1}[Never()] == 1
