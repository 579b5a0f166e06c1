"""The one place that knows Lightning: two packages, private attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler

from lightning_dynamics.core.lightning import (
    Callback,
    ConfigurationError,
    Logger,
    both,
    sampled_indices,
    steps_taken,
    to_device,
    validation_loaders,
)
from tests.house.training import trainer

PACKAGES = [lightning.pytorch, pytorch_lightning]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


@pytest.fixture(params=PACKAGES, ids=lambda package: package.__name__)
def package(request: pytest.FixtureRequest) -> Any:
    return request.param


def model(package: Any, *, manual: bool = False) -> Any:
    class Model(package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not manual
            self.layers = nn.ModuleList(nn.Linear(2, 1) for _ in range(2))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
            loss = sum(layer(batch).mean() for layer in self.layers)
            if not manual:
                return loss  # type: ignore[return-value]
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(loss, retain_graph=True)
                optimizer.step()
            return None

        def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

        def configure_optimizers(self) -> Any:
            optimizers = [torch.optim.SGD(layer.parameters(), 0.1) for layer in self.layers]
            return optimizers if manual else optimizers[0]

    return Model()


def fit(package: Any, module: Any, callback: Any, *, val: Any = None, batches: int = 5, **options: Any) -> Any:
    run = trainer(Path("unused"), [callback], package=package, **options)
    run.fit(module, DataLoader(torch.randn(4 * batches, 2), batch_size=4), val)  # type: ignore[arg-type]
    return run


class Steps(Callback):
    def __init__(self) -> None:
        self.start: list[int] = []
        self.batch: list[int] = []
        self.epoch: list[int] = []
        self.end: list[int] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start.append(steps_taken(trainer))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batch.append(steps_taken(trainer, in_batch=True))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epoch.append(steps_taken(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.end.append(steps_taken(trainer))


def test_steps_taken(package: Any) -> None:
    fit(package, model(package), steps := Steps())
    assert steps.start == [0]
    assert steps.batch == list(range(1, 11))
    assert steps.epoch == [5, 10]
    assert steps.end == [10]


def test_steps_taken_with_accumulation(package: Any) -> None:
    """Two batches a step, and a step at each epoch's end for the fifth."""
    fit(package, model(package), steps := Steps(), accumulate_grad_batches=2)
    assert steps.batch == [0, 1, 1, 2, 3, 3, 4, 4, 5, 6]
    assert steps.epoch == [3, 6]


def test_steps_taken_with_two_optimizers(package: Any) -> None:
    """``trainer.global_step`` counts each optimizer; we count batches, as Lightning's own rows do."""
    trainer = fit(package, model(package, manual=True), steps := Steps())
    assert trainer.global_step == 20
    assert steps.batch == list(range(1, 11))
    assert (steps.start, steps.epoch, steps.end) == ([0], [5, 10], [10])


@pytest.mark.parametrize("manual", [False, True])
def test_steps_taken_go_on_after_resuming(package: Any, manual: bool, tmp_path: Any) -> None:
    first = fit(package, model(package, manual=manual), Steps(), max_epochs=1)
    first.save_checkpoint(tmp_path / "x.ckpt")
    steps = Steps()
    resumed = trainer(Path("unused"), [steps], package=package)
    loader = DataLoader(torch.randn(20, 2), batch_size=4)  # type: ignore[arg-type, var-annotated]
    resumed.fit(model(package, manual=manual), loader, ckpt_path=tmp_path / "x.ckpt")
    assert steps.start == [5]
    assert steps.batch == [6, 7, 8, 9, 10]


def test_both_trainers_take_our_bases() -> None:
    for name, ours in (("Callback", Callback), ("loggers.logger.Logger", Logger)):
        assert len(both(name)) == 2 and all(issubclass(ours, theirs) for theirs in both(name))
    assert both("Trainer") == tuple(package.Trainer for package in PACKAGES)
    with pytest.raises(AttributeError):
        both("loggers.NoSuchLogger")


def test_our_error_is_caught_as_either_packages_and_as_a_value_error() -> None:
    for expected in (*both("utilities.exceptions.MisconfigurationException"), ValueError):
        with pytest.raises(expected, match="text"):
            raise ConfigurationError("text")


class See(Callback):
    def __init__(self, look: Any) -> None:
        self.look, self.seen = look, None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen = self.look(trainer, pl_module)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("sanity", [0, 2])
def test_validation_loaders_are_there_before_the_first_validation(package: Any, every: int, sanity: int) -> None:
    val = DataLoader(torch.randn(4, 2))  # type: ignore[arg-type, var-annotated]
    see = See(lambda trainer, module: validation_loaders(trainer))
    fit(package, model(package), see, val=val, check_val_every_n_epoch=every, num_sanity_val_steps=sanity)
    assert see.seen is val


def test_validation_loaders_of_the_modules_own_hook(package: Any) -> None:
    module, val = model(package), DataLoader(torch.randn(4, 2))  # type: ignore[arg-type, var-annotated]
    module.val_dataloader = lambda: [val]
    see = See(lambda trainer, module: validation_loaders(trainer))
    fit(package, module, see, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    assert see.seen == [val]


def test_no_validation_loaders(package: Any) -> None:
    see = See(lambda trainer, module: validation_loaders(trainer))
    see.seen = "never called"
    fit(package, model(package), see)
    assert see.seen is None


def test_batches_go_through_precision_and_transfer_hooks(package: Any) -> None:
    module = model(package)
    calls: list[Any] = []

    def hook(name: str, factor: float) -> Any:
        def apply(batch: Any, *rest: Any) -> Any:
            calls.append((name, batch["x"].dtype, rest[-1]))
            return {"x": batch["x"] * factor}

        return apply

    module.on_before_batch_transfer = hook("before", 2)
    module.transfer_batch_to_device = hook("move", 3)
    module.on_after_batch_transfer = hook("after", 5)
    see = See(lambda trainer, module: (calls.clear(), to_device(trainer, module, {"x": torch.ones(1)}), list(calls)))
    # training itself needs tensors: look at the hooks before it starts, then stop
    with pytest.raises((TypeError, IndexError, KeyError)):
        fit(package, module, see, precision="64-true")
    _, batch, seen = see.seen  # type: ignore[misc]
    assert seen == [(name, torch.float64, 0) for name in ("before", "move", "after")]
    assert batch == {"x": torch.tensor([30.0], dtype=torch.float64)}


def test_sampled_indices() -> None:
    data: Any = torch.arange(10)
    subset = SubsetRandomSampler([3, 1, 4])
    assert sampled_indices(DataLoader(data)) is None
    assert sampled_indices(DataLoader(data, sampler=subset, batch_size=2)) == (3, 1, 4)
    nested = torch.utils.data.BatchSampler(SubsetRandomSampler(torch.tensor([5, 6])), 2, False)  # type: ignore[arg-type]
    assert sampled_indices(DataLoader(data, batch_sampler=nested)) == (5, 6)
    wrapped = DistributedSamplerWrapper(subset, num_replicas=2, rank=0)
    assert sampled_indices(DataLoader(data, sampler=wrapped, batch_size=2)) == (3, 1, 4)
