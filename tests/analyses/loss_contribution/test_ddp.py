"""Two processes find what one finds while the parameters really move; a failure in one of them harms nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from lightning_dynamics.analyses.loss_contribution import Adaptive
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

    def __init__(self, watched: Sequence[Any], folder: Path) -> None:
        self.watched, self.folder = watched, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        found = {
            "results": {one.name: [result.to_state() for result in one.results] for one in self.watched},
            "weights": {name: value.clone() for name, value in pl_module.state_dict().items()},
        }
        torch.save(found, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def fit(folder: Path, *watched: Any, **options: Any) -> list[Any]:
    """What each process has found and learned."""
    folder.mkdir(exist_ok=True)
    statistics = OwnStatistics()
    callbacks = [statistics, *watched, Checks(statistics), Saves(watched, folder)]
    module = Same(R.normed())
    R.fit(folder, module, R.images(64), *callbacks, batch_size=8, epochs=1, max_steps=4, **options)
    processes = options.get("devices", 1)
    return [torch.load(folder / f"{processes}-{rank}.pt") for rank in range(processes)]


CASES: dict[str, dict[str, Any]] = {
    "batch": {"batchnorm": "batch", "per_class": True, "second_data": "train"},
    "frozen": {"batchnorm": "frozen", "every_n_train_steps": 2},
    "attributed, adaptive, by class": {
        "batchnorm": "attributed",
        "rule": Adaptive(tolerance=1e-6),
        "per_class": True,
    },
    "a rank without work": {"batchnorm": "attributed", "num_examples": 8, "per_class": True},
}


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Two processes without the analysis."""
    return fit(tmp_path_factory.mktemp("without"), **TWO)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """All cases together in one process, and in two."""
    folder, found = tmp_path_factory.mktemp("runs"), []
    for options in ({}, TWO):
        watched = [R.callback(**({"num_examples": 23, "name": name} | own)) for name, own in CASES.items()]
        found += fit(folder, *watched, **options)
    one, first, second = found
    return one, first, second


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(runs: Any, without: Any, case: str) -> None:
    weights = [run["weights"] for run in (*runs, *without)]
    assert_identical(weights[0], weights[1])
    assert_identical(weights[1:3], weights[3:])
    one, first, second = (run["results"][case] for run in runs)
    assert [r["step"] for r in one] == ([0, 2, 4] if case == "frozen" else [0, 1, 2, 3, 4])
    assert abs(one[-1]["losses"][-1] - one[-1]["initial_loss"]) > 1e-3, "nothing moved"
    assert_alike(one, first)
    assert_identical(first, second)


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
def test_a_failure_in_the_midst_of_a_measurement(tmp_path: Path, without: Any, rank: int) -> None:
    """Nobody hangs, training is what it would be, and the next event spans what was missed."""
    watched = R.callback(loss_fn=FailsInTheMidst(rank), on_error="warn", num_examples=32)
    for undisturbed, found in zip(without, fit(tmp_path, watched, **TWO), strict=True):
        assert_identical(undisturbed["weights"], found["weights"])
        results = found["results"][None]
        assert [r["step"] for r in results] == [0, 1, 3, 4]
        last = results[-1]
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
    watched = R.callback(per_class=True, example_loss_fn=_examples_fail, on_error="warn", num_examples=32)
    for process in fit(tmp_path, watched, **TWO):
        found = process["results"][None]
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
        R.fit(tmp_path, Flat(), R.images(64), R.callback(num_examples=count, on_error="raise"), max_steps=2, **TWO)
