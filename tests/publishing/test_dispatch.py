from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_dynamics.core.lightning import both
from lightning_dynamics.figures.result import Result, tables
from lightning_dynamics.panels import Download, Picture, Scalar, Table
from lightning_dynamics.publishing.dispatch import Event, publish, publish_panels, publish_result, scalars, show

EVENT = Event(
    "cka",
    epoch=3,
    step=17,
    panels={
        "cka/mean": Scalar(0.25),
        "cka/nan": Scalar(float("nan")),
        "cka/inf": Scalar(float("inf")),
        "cka/picture": Picture(np.zeros((2, 2, 3), np.uint8)),
        "cka/files": Download({"scores.csv": b"1"}),
    },
)


class Recorder:
    """A logger of no known kind."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        if self.failure:
            raise self.failure
        self.calls.append((metrics, step))


def test_scalars_are_finite_and_carry_the_epoch() -> None:
    assert scalars(EVENT) == {"epoch": 3, "cka/mean": 0.25}


def test_an_unknown_logger_gets_the_scalars_in_one_call() -> None:
    logger = Recorder()
    publish([logger], EVENT)
    assert logger.calls == [({"epoch": 3, "cka/mean": 0.25}, 17)]


@pytest.mark.parametrize("logger_class", both("loggers.CSVLogger"))
def test_csv_files_get_the_scalars(tmp_path: Path, logger_class: type) -> None:
    logger: Any = logger_class(tmp_path)
    publish([logger], EVENT)
    logger.save()
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"epoch": "3", "cka/mean": "0.25", "step": "17"}]


@pytest.mark.parametrize("logger_class", both("loggers.logger.DummyLogger"))
def test_dummies_get_nothing(logger_class: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_class, "log_metrics", lambda *args, **kwargs: pytest.fail("called"))
    publish([logger_class()], EVENT)


def test_a_rule_of_the_users_own_wins_also_for_subclasses() -> None:
    class Mine(Recorder):
        pass

    class Child(Mine):
        pass

    seen: list[Event] = []

    @show.register(Mine)
    def _show_mine(logger: Mine, event: Event) -> None:
        seen.append(event)

    publish([Mine(), Child()], EVENT)
    assert seen == [EVENT, EVENT]


def test_one_failing_logger_does_not_silence_the_others() -> None:
    before, after = Recorder(), Recorder()
    first, second = OSError("disk full"), OSError("later")
    with pytest.raises(OSError, match="disk full"):
        publish([before, Recorder(first), Recorder(second), after], EVENT)
    assert len(before.calls) == len(after.calls) == 1


@dataclass(frozen=True, eq=False)
class Found(Result):
    """A result that no callback made."""

    answer: float

    def scalars(self) -> dict[str, float]:
        """Its number."""
        return {"answer": self.answer}


@tables.register
def _(result: Found) -> dict[str, Table]:
    return {"all": Table(["answer"], [[result.answer]])}


class Keeper(Recorder):
    """A logger that keeps whole events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []


@show.register
def _(logger: Keeper, event: Event) -> None:
    logger.events.append(event)


def test_a_result_is_published_as_one_event_with_its_numbers_and_panels() -> None:
    one, other, found = Keeper(), Keeper(), Found(42.0)
    publish_result([one, other], found, "study/a", epoch=2, step=7)
    (event,) = one.events
    assert other.events == [event]
    assert (event.group, event.epoch, event.step, event.result) == ("study/a", 2, 7, found)
    assert sorted(event.panels) == ["study/a/all", "study/a/answer"]
    assert scalars(event) == {"epoch": 2, "study/a/answer": 42.0}


def test_a_single_logger_may_be_given_alone() -> None:
    logger = Recorder()
    publish_panels(logger, {"x": Scalar(1.0)}, "study")
    publish_result(logger, Found(2.0), "study")
    assert logger.calls == [({"epoch": 0, "study/x": 1.0}, 0), ({"epoch": 0, "study/answer": 2.0}, 0)]
