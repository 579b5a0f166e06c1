"""The base of every analysis: what is measured is not always shown; a second data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.result import AnalysisResult
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.schedule import Never, Schedule
from lightning_dynamics.figures.result import tables
from lightning_dynamics.panels import Table
from tests.house.training import Recorder, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`.*"),
]


@dataclass(frozen=True, eq=False)
class Sizes(AnalysisResult):
    second: int

    def scalars(self) -> dict[str, float]:
        return {"step": float(self.step)}


SHOWN: list[int] = []


@tables.register
def _tables(result: Sizes) -> dict[str, Table]:
    SHOWN.append(result.step)
    return {"panel": Table(("step",), [(result.step,)])}


class Counter(AnalysisCallback[Sizes]):
    """Measures nothing, and counts what is asked of it."""

    group = "counter"
    result_type = Sizes

    def __init__(self, **options: Any) -> None:
        settings: dict[str, Any] = {
            "data": "train",
            "num_examples": 6,
            "batch_size": 4,
            "every_n_epochs": None,
            "every_n_train_steps": 1,
            "at_start": False,
            "at_end": False,
            "mode": "eval",
            "seed": 0,
            "name": None,
            "on_error": "raise",
        }
        super().__init__({}, identity={}, **settings | options)
        self.measured: list[int] = []
        self.shown = SHOWN
        SHOWN.clear()

    def prepare(self, context: Context) -> None:
        self.prepared = context

    def measure(self, context: Context) -> int:
        self.measured.append(context.moment.step)
        return 0 if context.second_probe is None else len(context.second_probe)

    def combine(self, part: int, context: Context) -> Sizes:
        moment = context.moment
        return Sizes(epoch=moment.epoch, step=moment.step, num_examples=len(context.probe), second=part)


class Task(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path: Path, callback: Counter, *, val: int = 5, **options: Any) -> list[tuple[int, list[str]]]:
    """Eight steps in two epochs; what was logged at which step."""
    recorder = Recorder()
    loaders = [DataLoader(TensorDataset(torch.randn(size, 2)), batch_size=4) for size in (16, val)]
    trainer(tmp_path, [callback], **{"logger": recorder} | options).fit(Task(), *loaders)
    rows = [(step, sorted(key.removeprefix("counter/") for key in row)) for step, row in recorder.rows]
    return [(step or 0, [key for key in keys if key == "step"]) for step, keys in rows if "step" in keys]


def test_by_default_every_event_is_shown(tmp_path: Path) -> None:
    callback = Counter()
    rows = fit(tmp_path, callback, log_every_n_steps=50)
    assert callback.measured == callback.shown == list(range(1, 9))
    assert rows == [(step, ["step"]) for step in range(1, 9)]


def test_an_event_at_the_same_step_is_neither_measured_nor_shown_twice(tmp_path: Path) -> None:
    callback = Counter(every_n_epochs=1, at_end=True)
    fit(tmp_path, callback)
    assert callback.measured == callback.shown == list(range(1, 9))


@pytest.mark.parametrize(("every", "numbers"), [(1, range(1, 9)), (3, [3, 4, 6, 8]), (50, [4, 8]), (0, [4, 8])])
def test_shown_at_times_and_logged_as_the_trainer_says(tmp_path: Path, every: int, numbers: Any) -> None:
    callback = Counter(shows=Schedule(1, None, False, True), every_n_epochs=1, at_end=True)
    rows = fit(tmp_path, callback, log_every_n_steps=every)
    assert callback.measured == list(range(1, 9)), "each step once"
    assert callback.shown == [4, 8], "each epoch once"
    steps = sorted({step for step, _ in rows})
    assert steps == list(numbers)


def test_never_shown(tmp_path: Path) -> None:
    callback = Counter(shows=Never())
    rows = fit(tmp_path, callback, log_every_n_steps=2)
    assert callback.shown == [] and callback.measured == list(range(1, 9))
    assert rows == [(step, ["step"]) for step in (2, 4, 6, 8)]


def test_measured_results_are_kept_whether_shown_or_not(tmp_path: Path) -> None:
    callback = Counter(shows=Never())
    fit(tmp_path, callback, logger=False)
    assert [result.step for result in callback.results] == list(range(1, 9))


@pytest.mark.parametrize(("data", "size"), [("val", 5), ("train", 6), (TensorDataset(torch.zeros(3, 2)), 3)])
def test_second_data(tmp_path: Path, data: Any, size: int) -> None:
    callback = Counter(second_data=data)
    fit(tmp_path, callback)
    assert (callback.last_result.num_examples, callback.last_result.second) == (6, size)
    assert callback.prepared.probe.name == "train"
    assert (callback.prepared.second_probe is callback.prepared.probe) == (data == "train"), "one probe is shared"


def test_without_second_data_there_is_none(tmp_path: Path) -> None:
    callback = Counter()
    fit(tmp_path, callback)
    assert callback.last_result.second == 0


def test_second_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be 'train', 'val', a Dataset or a DataLoader; got 'nothing'"):
        fit(tmp_path, Counter(second_data="nothing"))


def test_second_data_tells_callbacks_apart() -> None:
    keys = {Counter(second_data=data).state_key for data in (None, "train", "val", TensorDataset(torch.zeros(1)))}
    assert len(keys) == 4


def test_a_complaint_about_second_data_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`second_data` must be"):
        fit(tmp_path, Counter(second_data="nothing"))
