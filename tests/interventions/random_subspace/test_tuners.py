"""Lightning's tuners before, within and beside a training in a subspace."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import ConfigurationError, RandomSubspaceCallback
from tests.house.training import assert_identical, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Net(pl.LightningModule):
    """Batch normalisation, Adam and a schedule: much that a tuner has to put back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.lr, self.batch_size = 0.05, 8
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        self.images, self.labels = torch.randn(64, 5), torch.randint(3, (64,))
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.images, self.labels), self.batch_size)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def learning_rate(**options: Any) -> Any:
    return LearningRateFinder(**{"num_training_steps": 8, "max_lr": 0.5, "update_attr": False} | options)


def batch_size(**options: Any) -> Any:
    return BatchSizeFinder(**{"max_trials": 1, "steps_per_trial": 2, "init_val": 8} | options)


TUNERS: dict[str, list[Any]] = {
    "learning rate": [learning_rate],
    "batch size": [batch_size],
    "both": [learning_rate, batch_size],
}


def ends(net: Net, callback: RandomSubspaceCallback, run: Any) -> dict[str, Any]:
    return {
        "weights": dict(net.state_dict()),
        "subspace": callback.state_dict(),
        "optimizer": run.optimizers[0].state_dict(),
        "losses": net.losses[-16:],
        "steps": run.global_step,
    }


def trained(folder: Path, *tuners: Any, checkpoint: Path | None = None, epochs: int = 2) -> tuple[Net, Any, Any]:
    net, callback = Net(), RandomSubspaceCallback(4, announce=False)
    run = trainer(folder, [callback, *tuners], max_epochs=epochs)
    run.fit(net, ckpt_path=checkpoint)
    return net, callback, run


@pytest.mark.parametrize("case", TUNERS)
def test_a_training_after_a_tuner_is_that_without_it(case: str, tmp_path: Path) -> None:
    with_it = trained(tmp_path, *(make() for make in TUNERS[case]))
    assert len(with_it[0].losses) > 16, "the tuner trained nothing"
    without = ends(*trained(tmp_path))
    assert_identical(without, ends(*with_it))
    assert float(without["subspace"]["theta_d"].norm()) > 0.05


def test_the_learning_rate_found_is_the_only_difference(tmp_path: Path) -> None:
    finder = learning_rate(update_attr=True, num_training_steps=40, early_stop_threshold=None)
    net, callback, run = trained(tmp_path, finder)
    found = finder.optimal_lr.suggestion()
    assert net.lr == found != 0.05

    class AtOnce(pl.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.optimizers[0].param_groups[0]["lr"] = found

    assert_identical(ends(*trained(tmp_path, AtOnce()))["weights"], dict(net.state_dict()))


@pytest.mark.parametrize("method", ["lr_find", "scale_batch_size"])
def test_the_tuner_object_before_training(method: str, tmp_path: Path) -> None:
    net, callback = Net(), RandomSubspaceCallback(4, announce=False)
    run = trainer(tmp_path, [callback], max_epochs=2)
    if method == "lr_find":
        Tuner(run).lr_find(net, num_training=8, update_attr=False)
    else:
        Tuner(run).scale_batch_size(net, max_trials=1, steps_per_trial=2, init_val=8)
    assert callback.state_dict() == {}
    run.fit(net)
    assert_identical(ends(*trained(tmp_path)), ends(net, callback, run))


@pytest.mark.parametrize("case", TUNERS)
def test_a_second_fit_with_a_tuner(case: str, tmp_path: Path) -> None:
    """Of the same weights it goes on in the subspace; of others it begins anew, as without a tuner."""
    found = []
    for tuners in ([], TUNERS[case]):
        net, callback, _ = trained(tmp_path)
        start, reached = callback.theta_0.clone(), callback.theta_d.clone()
        again = trainer(tmp_path, [callback, *(make() for make in tuners)], max_epochs=1)
        again.fit(net)
        assert torch.equal(callback.theta_0, start) and not torch.equal(callback.theta_d, reached)
        found.append(dict(net.state_dict()))
        other = Net()
        trainer(tmp_path, [callback, *(make() for make in tuners)], max_epochs=1).fit(other)
        found[-1] |= {f"other.{name}": value for name, value in other.state_dict().items()}
    assert_identical(*found)


@pytest.mark.parametrize("make", [learning_rate, batch_size])
def test_a_resumed_run_with_a_tuner_is_refused(make: Any, tmp_path: Path) -> None:
    """Lightning forgets the epoch and the optimizer of `ckpt_path` when a tuner has run."""
    path = tmp_path / "a.ckpt"
    trained(tmp_path, epochs=1)[2].save_checkpoint(path)
    with pytest.raises(ConfigurationError, match="^RandomSubspaceCallback: `ckpt_path` with a LearningRateFinder or"):
        trained(tmp_path, make(), checkpoint=path)
    assert_identical(ends(*trained(tmp_path))["weights"], ends(*trained(tmp_path, checkpoint=path))["weights"])


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_checkpoint_of_another_training_is_refused_with_a_tuner_too(weights_only: bool, tmp_path: Path) -> None:
    run = trainer(tmp_path, [], max_epochs=1)
    run.fit(Net())
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=weights_only)
    for tuners in ((), (learning_rate(),), (batch_size(),)):
        with pytest.raises(ConfigurationError, match="^RandomSubspaceCallback: `ckpt_path`"):
            trained(tmp_path, *tuners, checkpoint=tmp_path / "a.ckpt")


def test_a_checkpoint_saved_before_the_subspace_begins_is_none_of_it(tmp_path: Path) -> None:
    class Saves(pl.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "early.ckpt")

    net, callback, _ = trained(tmp_path)
    run = trainer(tmp_path, [Saves(), callback], max_epochs=1)
    run.fit(net)
    with pytest.raises(ConfigurationError, match="without this RandomSubspaceCallback"):
        trained(tmp_path, checkpoint=tmp_path / "early.ckpt")


class LaterBatchSize(BatchSizeFinder):
    """As in Lightning's documentation: tunes when an epoch begins."""

    def on_fit_start(self, *_: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            self.scale_batch_size(trainer, pl_module)


class LaterLearningRate(LearningRateFinder):
    """The same."""

    def on_fit_start(self, *_: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


def test_a_checkpoint_put_back_in_the_middle_of_training(tmp_path: Path) -> None:
    """θ_d goes back too, and no gradient stays: the next step is the one that would have come."""
    net, callback = Net(), RandomSubspaceCallback(4, announce=False)
    seen: dict[str, Any] = {}

    class GoesBack(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "a.ckpt")
                seen["theta_d"], seen["weights"] = callback.theta_d.clone(), net.net[0].weight.detach().clone()
            if trainer.global_step == 6:
                checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=False)
                net.load_state_dict(checkpoint["state_dict"])
                net.net[0].weight.grad = torch.ones_like(net.net[0].weight)
                callback.load_state_dict(checkpoint["callbacks"][callback.state_key])
                assert torch.equal(callback.theta_d, seen["theta_d"]) and net.net[0].weight.grad is None
                trainer.should_stop = True

    trainer(tmp_path, [callback, GoesBack()], max_epochs=1, min_epochs=1, limit_train_batches=6).fit(net)
    assert torch.equal(net.net[0].weight, seen["weights"])
    assert torch.equal(callback.theta_d, seen["theta_d"])


def test_a_batch_size_found_in_the_middle_leaves_no_gradients(tmp_path: Path) -> None:
    """The weights have gradients from what the tuner ran; the first step must not add to them."""
    tuner = LaterBatchSize(max_trials=1, steps_per_trial=2, init_val=8)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(all(parameter.grad is None for parameter in pl_module.parameters()))

    with_it = trained(tmp_path, tuner, Watch())
    assert len(with_it[0].losses) > 16 and len(seen) == 16 and all(seen)
    assert_identical(dict(trained(tmp_path)[0].net[3].state_dict()), dict(with_it[0].net[3].state_dict()))


def test_a_learning_rate_sought_in_the_middle_is_refused(tmp_path: Path) -> None:
    tuner = LaterLearningRate(num_training_steps=4, update_attr=False)
    with pytest.raises(ConfigurationError, match="RandomSubspaceCallback: LearningRateFinder.*in the middle"):
        trained(tmp_path, tuner)


def test_of_a_learning_rate_finder_it_is_said_what_it_measures(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="^RandomSubspaceCallback: LearningRateFinder trains in the whole space"):
        trained(tmp_path, learning_rate())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(tmp_path, batch_size())
    assert not any("RandomSubspaceCallback" in str(one.message) for one in caught)


def test_a_batch_size_found_for_validation_after_training(tmp_path: Path) -> None:
    """It restores this callback's state, too: the next `fit` is no resumed run."""

    class Validates(Net):
        def val_dataloader(self) -> Any:
            return self.train_dataloader()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0])

    net, callback = Validates(), RandomSubspaceCallback(4, announce=False)
    run = trainer(tmp_path, [callback], max_epochs=1)
    run.fit(net)
    Tuner(run).scale_batch_size(net, method="validate", max_trials=1, init_val=8)
    start, other = callback.theta_0.clone(), Validates()
    other.net[0].weight.data.mul_(2)
    trainer(tmp_path, [callback], max_epochs=1).fit(other)
    assert not torch.equal(callback.theta_0, start)
