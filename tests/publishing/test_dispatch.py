from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_dynamics.core.lightning import both
from lightning_dynamics.panels import Download, Picture, Scalar
from lightning_dynamics.publishing.dispatch import Event, publish, scalars, show

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
