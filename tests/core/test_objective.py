"""Losses of modules of every kind, and functions by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_dynamics.core import objective
from lightning_dynamics.core.lightning import ConfigurationError

PACKAGES = [lightning.pytorch, pytorch_lightning]
X = torch.arange(6.0).view(3, 2)
Y = torch.tensor([0, 1, 0])


# ---- functions by name --------------------------------------------------------------------------------------


def test_functions_are_found_by_name() -> None:
    assert objective.resolve_function(None, "loss_fn") is None
    assert objective.resolve_function(len, "loss_fn") is len
    assert objective.resolve_function("torch.nn.functional.cross_entropy", "loss_fn") is nn.functional.cross_entropy


@pytest.mark.parametrize("name", ["", "loss", "no.such.module", "torch.no_such_function", ".relative.name", "a..b", 5])
def test_a_name_of_nothing_is_told_with_its_argument(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"`loss_fn={name!r}` names no function")):
        objective.resolve_function(name, "loss_fn")


def test_a_name_of_something_else() -> None:
    with pytest.raises(ConfigurationError, match="`predict_fn='torch.nn'` is not a function but a module"):
        objective.resolve_function("torch.nn", "predict_fn")


# ---- losses -------------------------------------------------------------------------------------------------


@pytest.fixture(params=PACKAGES, ids=lambda package: package.__name__)
def package(request: pytest.FixtureRequest) -> Any:
    return request.param


def attached(package: Any, training_step: Callable[..., Any], folder: Path, **attributes: Any) -> Any:
    """A LightningModule with this ``training_step``, attached to a Trainer that has a logger."""
    body = {"training_step": training_step, "__init__": lambda self: package.LightningModule.__init__(self)}
    module = type("Model", (package.LightningModule,), body)()
    module.layer = nn.Linear(2, 1)
    for name, value in attributes.items():
        setattr(module, name, value)
    logger = package.loggers.CSVLogger(folder)
    trainer = package.Trainer(logger=logger, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.trainer = trainer
    return module


STEPS: dict[str, Callable[..., Any]] = {
    "batch and index": lambda self, batch, batch_idx: batch[0].mean() + batch_idx,
    "batch alone": lambda self, batch: batch[0].mean(),
    "dataloader index": lambda self, batch, batch_idx, dataloader_idx=0: batch[0].mean() + batch_idx,
    "anything": lambda self, *args: args[0][0].mean() + args[1],
    "anything, by a decorator": lambda self, *args, **kwargs: args[0][0].mean() + args[1],
    "iterator": lambda self, dataloader_iter: next(dataloader_iter)[0][0].mean(),
    "dict": lambda self, batch, batch_idx: {"loss": batch[0].mean(), "logits": batch[0]},
    "one-element tensor": lambda self, batch, batch_idx: batch[0].mean().view(1),
}


@pytest.mark.parametrize("step", STEPS)
def test_training_step_is_the_default_loss(package: Any, step: str, tmp_path: Path) -> None:
    value = objective.loss(attached(package, STEPS[step], tmp_path), (X, Y))
    assert value.shape == () and value == X.mean()


@pytest.mark.parametrize("returned", [None, 0.5, X, {"logits": X}, {"loss": None}])
def test_a_training_step_without_a_loss(package: Any, returned: Any, tmp_path: Path) -> None:
    module = attached(package, lambda self, batch, batch_idx: returned, tmp_path)
    with pytest.raises(ConfigurationError, match="Model.training_step must return a scalar loss tensor"):
        objective.loss(module, (X, Y))


def test_loss_fn_comes_first() -> None:
    assert objective.loss(nn.Linear(1, 1), (X, Y), lambda module, batch: batch[0].sum()) == X.sum()
    with pytest.raises(ConfigurationError, match="`loss_fn` must return a scalar loss tensor, got int"):
        objective.loss(nn.Linear(1, 1), X, lambda module, batch: 1)  # type: ignore[arg-type, return-value]


def test_manual_optimisation_asks_for_loss_fn(package: Any, tmp_path: Path) -> None:
    module = attached(package, STEPS["batch and index"], tmp_path, automatic_optimization=False)
    with pytest.raises(ConfigurationError, match="Model optimises manually.*give the loss, as `loss_fn="):
        objective.loss(module, (X, Y))
    assert objective.loss(module, (X, Y), lambda module, batch: module.layer(batch[0]).mean()).requires_grad


def test_experiments_get_what_goes_backward_first_in_manual_optimisation(package: Any, tmp_path: Path) -> None:
    """Nothing after it has run: no optimizer steps, and the module is as before."""
    reached: list[str] = []

    def step(self: Any, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.layer(batch[0]).mean().view(1))
        reached.append("the optimizer's step")

    module = attached(package, step, tmp_path, automatic_optimization=False)
    value = objective.loss(module, (X, Y), manual=True)
    assert value.shape == () and value.requires_grad and torch.equal(value, module.layer(X).mean())
    assert reached == [] and "manual_backward" not in vars(module) and module.layer.weight.grad is None
    loss_fn = lambda module, batch: batch[0].sum()  # noqa: E731
    assert objective.loss(module, (X, Y), loss_fn, manual=True) == X.sum()


def test_experiments_on_a_manual_step_that_never_says_its_loss(package: Any, tmp_path: Path) -> None:
    module = attached(package, lambda self, batch, batch_idx: None, tmp_path, automatic_optimization=False)
    with pytest.raises(ConfigurationError, match="Model.training_step goes backward without `manual_backward`"):
        objective.loss(module, (X, Y), manual=True)
    assert "manual_backward" not in vars(module)


def test_lightnings_own_forward_is_nobodys(package: Any) -> None:
    assert not objective.has_forward(package.LightningModule())
    assert not objective.has_forward(nn.ModuleList())
    assert objective.has_forward(nn.Linear(1, 1))
    module = package.LightningModule()
    module.forward = len
    assert objective.has_forward(module)


def _talkative(self: Any, batch: Any, batch_idx: int) -> Tensor:
    self.log("loss", 1.0, on_step=True, prog_bar=True, sync_dist=True)
    self.log_dict({"a": 1.0})
    self.print("noise")
    self.logger.log_metrics({"b": 1.0}, step=0)
    self.logger.experiment.log_metrics({"c": 1.0})
    self.logger.log_image("picture", [])
    for logger in self.trainer.loggers:
        logger.experiment.add_scalar("d", 1.0)
    if hasattr(self, "part"):
        self.part.log("part", 1.0)
    return self.layer(batch[0]).mean()


@pytest.mark.parametrize("fails", [False, True])
def test_training_step_is_silent(package: Any, fails: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = _talkative(self, batch, batch_idx)
        if fails:
            raise ZeroDivisionError
        return loss

    module = attached(package, step, tmp_path, part=package.LightningModule())
    own_log = lambda *args, **kwargs: None  # noqa: E731
    module.log = own_log
    loggers = module.trainer.loggers
    held = {name: set(vars(sub)) for name, sub in module.named_modules()}
    try:
        assert objective.loss(module, (X, Y)).requires_grad
        assert not fails
    except ZeroDivisionError:
        assert fails
    assert capsys.readouterr().out == ""
    assert module.trainer.loggers == loggers and module.logger is loggers[0]
    assert module.logger.experiment.metrics == []
    assert dict(module.trainer.callback_metrics) == {}
    assert {name: set(vars(sub)) for name, sub in module.named_modules()} == held
    assert module.log is own_log


def test_a_module_without_a_trainer(package: Any) -> None:
    module = type("Model", (package.LightningModule,), {"training_step": lambda self, batch: batch.mean()})()
    assert objective.loss(module, X) == X.mean()


def test_inside_a_real_fit(package: Any, tmp_path: Path) -> None:
    """From a callback hook, where ``self.log`` would raise or add to the run's metrics."""
    losses = []

    class Model(package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return _talkative_in_fit(self, batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    def _talkative_in_fit(self: Any, batch: Tensor) -> Tensor:
        loss = self.layer(batch).mean()
        self.log("loss", loss)
        self.logger.log_metrics({"direct": 1.0}, step=0)
        return loss

    class Probe(package.Callback):  # type: ignore[misc, name-defined]
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            before = len(trainer.logger.experiment.metrics), dict(trainer.callback_metrics)
            losses.append(objective.loss(pl_module, X))  # `self.log` is forbidden in this hook
            assert (len(trainer.logger.experiment.metrics), dict(trainer.callback_metrics)) == before

    trainer = package.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=package.loggers.CSVLogger(tmp_path),
        callbacks=Probe(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Model(), DataLoader(X, batch_size=3))  # type: ignore[arg-type]
    assert len(losses) == 1 and losses[0].requires_grad


def test_an_iterator_step_sees_one_batch() -> None:
    """As Lightning gives it: ``(batch, batch_idx, dataloader_idx)``."""

    def step(self: Any, dataloader_iter: Iterator[Any]) -> Tensor:
        batch, batch_idx, dataloader_idx = next(dataloader_iter)
        assert (batch_idx, dataloader_idx) == (0, 0) and not list(dataloader_iter)
        return batch.sum()

    module = type("Model", (lightning.pytorch.LightningModule,), {"training_step": step})()
    assert objective.loss(module, X) == X.sum()
