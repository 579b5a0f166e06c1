"""What an analysis runs reaches no log, and training's own logging goes on as before."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from lightning_dynamics import LossContributionCallback
from lightning_dynamics.core.quiet import logging_disabled
from tests.wandb_file import read_history


class Talkative(lightning.LightningModule):
    """Logs by every way to W&B that people use."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        import wandb

        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        assert wandb.run is not None
        wandb.log({"raw": loss.item()})
        wandb.run.log({"run": loss.item()})
        self.logger.experiment.log({"experiment": loss.item()})  # type: ignore[union-attr]
        wandb.run.summary["calls"] = wandb.run.summary.get("calls", 0) + 1
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_step_s_own_wandb_calls_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``wandb.watch`` too, whose hooks count the passes that they see."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def logged(name: str, *callbacks: Any) -> Counter[str]:
        torch.manual_seed(0)
        logger = WandbLogger(project="test", save_dir=tmp_path / name, offline=True)
        (tmp_path / name).mkdir()
        module = Talkative()
        logger.watch(module, log="all", log_freq=2, log_graph=False)
        data = TensorDataset(torch.randn(32, 3), torch.arange(32) % 2)
        lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            log_every_n_steps=1,
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        ).fit(module, DataLoader(data, 8))
        calls = wandb.run.summary["calls"]
        wandb.finish()
        (folder,) = (tmp_path / name / "wandb").glob("offline-run-*")
        # From its second call on, `wandb.watch` numbers its keys.
        keys = Counter(re.sub(r"graph_\d+", "", key) for row in read_history(folder) for key in row)
        own = ("raw", "run", "experiment", "gradients/net.weight", "parameters/net.weight")
        return Counter({key: keys[key] for key in own} | {"calls": calls})

    alone = logged("alone")
    assert alone == {"raw": 4, "run": 4, "experiment": 4, "calls": 4} | dict.fromkeys(
        ("gradients/net.weight", "parameters/net.weight"), 2
    )
    quiet = LossContributionCallback(num_examples=32, batch_size=16, every_n_epochs=None, at_end=False)
    assert logged("beside", quiet) == alone


def test_a_writer_that_the_module_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SummaryWriter(str(tmp_path))
    written: list[Any] = []
    monkeypatch.setattr(writer._get_file_writer(), "add_summary", lambda summary, step, *_: written.append(step))
    module = nn.Linear(1, 1)
    module.writer = writer  # type: ignore[assignment]
    add_scalar = SummaryWriter.add_scalar
    writer.add_scalar("a", 1.0, 0)
    with pytest.raises(ZeroDivisionError), logging_disabled(module):
        writer.add_scalar("a", 1.0, 1)
        writer.add_histogram("b", torch.zeros(3), 2)
        raise ZeroDivisionError
    writer.add_scalar("a", 1.0, 3)
    writer.close()
    assert written == [0, 3] and SummaryWriter.add_scalar is add_scalar


def test_the_trainer_s_logger_that_the_module_keeps(tmp_path: Path) -> None:
    class Keeps(lightning.LightningModule): ...

    logger = CSVLogger(tmp_path)
    module = Keeps()
    module.mine = logger  # type: ignore[assignment]
    module.trainer = lightning.Trainer(logger=logger, enable_checkpointing=False, accelerator="cpu")
    with logging_disabled(module):
        module.mine.log_metrics({"a": 1.0}, step=0)  # type: ignore[union-attr, operator]
        assert module.logger is not logger
    assert logger.experiment.metrics == [] and "log_metrics" not in vars(logger)
    logger.log_metrics({"a": 1.0}, step=0)
    assert len(logger.experiment.metrics) == 1


class MlflowClient:
    """The part of MLflow's that all its functions come down to."""

    logged: list[Any]

    def log_metric(self, key: str, value: float) -> None:
        self.logged.append((key, value))

    log_batch = set_tag = log_metric

    def get_run(self) -> str:
        return "run"


def test_mlflow_is_silenced_where_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked with MLflow 3.17 itself, too, which is no dependency of the tests."""
    client_module, package = ModuleType("mlflow.tracking.client"), ModuleType("mlflow")
    client_module.MlflowClient = MlflowClient  # type: ignore[attr-defined]
    client = MlflowClient()
    client.logged = []
    package.log_metric, package.log_level = client.log_metric, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.tracking.client", client_module)
    kept = client.log_metric
    with logging_disabled(nn.Linear(1, 1)), logging_disabled(nn.Linear(1, 1)):
        client.log_metric("a", 1), client.log_batch("b", 2), client.set_tag("c", 3)
        package.log_metric("d", 4)
        assert client.get_run() == "run" and package.log_level == 3
    assert client.logged == []
    client.log_metric("a", 1), kept("b", 2), package.log_metric("d", 4)
    assert client.logged == [("a", 1), ("b", 2), ("d", 4)]


def test_nothing_is_imported() -> None:
    before = set(sys.modules)
    with logging_disabled(nn.Linear(1, 1)):
        assert set(sys.modules) == before
