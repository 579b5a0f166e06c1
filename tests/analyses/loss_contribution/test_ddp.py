"""Two processes find what one finds while the parameters really move; a failure in one of them harms nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from tests.analyses.loss_contribution import reference as R
from tests.house.training import assert_alike, assert_identical

TWO = {"strategy": "ddp_fork", "devices": 2}

# Gloo and Lightning have advice of their own about processes, samplers and thread counts.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.timeout(120),
]


class Same(R.Task):
    """Trains on one fixed batch, the same in every process, so that one process and two take the same path."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
        self.fixed = R.images(8, seed=3).tensors

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(self.fixed if self.training else batch, batch_idx)


class OwnStatistics(Callback):
    """Rank one's running statistics are its own, as with other data."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_rank:
            for buffer in pl_module.buffers():
                buffer.add_(1)
            self.own = [buffer.clone() for buffer in pl_module.buffers()]


class Checks(Callback):
    """What the analysis must leave alone."""

    def __init__(self, statistics: OwnStatistics) -> None:
        self.statistics = statistics

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_rank:
            for buffer, own in zip(pl_module.buffers(), self.statistics.own, strict=True):
                assert torch.equal(buffer, own)


class Saves(Callback):
    """Brings results out of processes that end with the training."""

    def __init__(self, watched: Any, folder: Path) -> None:
        self.watched, self.folder = watched, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        found = {
            "results": [result.to_state() for result in self.watched.results] if self.watched else [],
            "weights": {name: value.clone() for name, value in pl_module.state_dict().items()},
        }
        torch.save(found, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def fit(folder: Path, watched: Any, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    statistics = OwnStatistics()
    callbacks = [statistics, *([watched] if watched else []), Checks(statistics), Saves(watched, folder)]
    module = Same(R.normed())
    R.fit(folder, module, R.images(64), *callbacks, batch_size=8, epochs=1, max_steps=4, **options)


CASES: dict[str, dict[str, Any]] = {
    "batch": {"batchnorm": "batch", "per_class": True, "second_data": "train"},
    "frozen": {"batchnorm": "frozen", "every_n_train_steps": 2},
    "attributed, adaptive, by class": {
        "batchnorm": "attributed",
        "rule": "adaptive",
        "tolerance": 1e-6,
        "per_class": True,
    },
    "a rank without work": {"batchnorm": "attributed", "num_examples": 8, "per_class": True},
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(tmp_path: Path, case: str) -> None:
    for options in ({}, TWO):
        fit(tmp_path, R.callback(**({"num_examples": 23} | CASES[case])), **options)
    one, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert_identical(one["weights"], first["weights"])
    assert [r["step"] for r in one["results"]] == ([0, 2, 4] if case == "frozen" else [0, 1, 2, 3, 4])
    assert abs(one["results"][-1]["losses"][-1] - one["results"][-1]["initial_loss"]) > 1e-3, "nothing moved"
    assert_alike(one["results"], first["results"])
    assert_identical(first["results"], second["results"])


class FailsInTheMidst:
    """A loss that one process cannot compute: at the midpoint of the second step."""

    def __init__(self, rank: int) -> None:
        self.rank, self.calls = rank, 0

    def __call__(self, module: Any, batch: Any) -> Tensor:
        trainer = module.trainer
        if trainer.global_step == 2 and trainer.global_rank == self.rank:
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("broken in one process")
        return F.cross_entropy(module(batch[0]), batch[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_in_the_midst_of_a_measurement(tmp_path: Path, rank: int) -> None:
    """Nobody hangs, training is what it would be, and the next event spans what was missed."""
    fit(tmp_path / "without", None, **TWO)
    fit(tmp_path / "with", R.callback(loss_fn=FailsInTheMidst(rank), on_error="warn", num_examples=32), **TWO)
    for name in ("2-0.pt", "2-1.pt"):
        without, found = (torch.load(tmp_path / folder / name) for folder in ("without", "with"))
        assert_identical(without["weights"], found["weights"])
        assert [r["step"] for r in found["results"]] == [0, 1, 3, 4]
        last = found["results"][-1]
        total = sum(last["totals"].values()) + last["total_residual"]
        assert total == pytest.approx(float(last["losses"][-1]) - last["initial_loss"], abs=1e-12)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_that_is_to_end_training_does(tmp_path: Path, rank: int) -> None:
    with pytest.raises(Exception, match="broken in one process|another process"):
        fit(tmp_path, R.callback(loss_fn=FailsInTheMidst(rank), num_examples=32), **TWO)


def _examples_fail(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    if module.trainer.global_step == 2 and module.trainer.global_rank == 1:
        raise RuntimeError("broken in one process")
    return F.cross_entropy(module(batch[0]), batch[1], reduction="none"), batch[1]


def test_a_failure_among_the_examples_losses(tmp_path: Path) -> None:
    fit(tmp_path, R.callback(per_class=True, example_loss_fn=_examples_fail, on_error="warn", num_examples=32), **TWO)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"2-{rank}.pt")["results"]
        assert [r["step"] for r in found] == [0, 1, 3, 4]
        assert sum(found[-1]["per_class"].values()) == pytest.approx(sum(found[-1]["totals"].values()), abs=1e-12)


@pytest.mark.parametrize("count", [17, 25], ids=["rank zero has the rest", "rank one has the rest"])
def test_a_minibatch_that_one_process_refuses(tmp_path: Path, count: int) -> None:
    """Only one process can see that it is too small."""

    class Flat(Same):
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(50, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double())

    with pytest.raises(Exception, match="batch_size|another process"):
        R.fit(tmp_path, Flat(), R.images(64), R.callback(num_examples=count, on_error="warn"), max_steps=2, **TWO)
