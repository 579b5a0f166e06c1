"""Short trainings for the house rules, and everything about one that can be compared."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytorch_lightning
import torch
from lightning.pytorch.loggers.logger import Logger

from lightning_dynamics.core.random_state import seed_all


class Recorder(Logger):
    """Keeps every row that Lightning logs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def trainer(folder: Path, callbacks: Sequence[Any], *, package: Any = lightning, **options: Any) -> Any:
    """A quiet CPU Trainer of either Lightning package."""
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    return package.Trainer(callbacks=list(callbacks), **defaults | options)


def train(
    folder: Path,
    model: Any,
    data: dict[str, Any],
    callbacks: Sequence[Any],
    *,
    told: list[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train from one fixed seed and return all that training left behind; warnings go to ``told``."""
    seed_all(0)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    recorder = Recorder()
    run = trainer(folder, callbacks, **{"logger": recorder} | options)
    with warnings.catch_warnings(record=True) as caught:  # Lightning's advice about workers and the like
        warnings.simplefilter("always")
        run.fit(model, **data)
    if told is not None:
        told += [str(warning.message) for warning in caught]
    return {
        "parameters and buffers": model.state_dict(),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "training flags": [module.training for module in model.modules()],
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "losses kept": model.losses,
        "metric": model.accuracy.metric_state,
        "module's generator": model.noise.get_state(),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "data's generator": str(data["train_dataloaders"].dataset.own.bit_generator.state),
        "rows": [row for row in recorder.rows if any(key.startswith(("train/", "val/")) for key in row[1])],
        "callback metrics": dict(run.callback_metrics),
        "steps": run.global_step,
    }


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor byte by byte."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor).view(-1).view(torch.uint8)


def assert_identical(a: Any, b: Any, path: str = "") -> None:
    """Equal in structure and in every bit."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape, path
        assert torch.equal(bits(a), bits(b)), path
    elif isinstance(a, np.ndarray):
        assert a.tobytes() == b.tobytes(), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), (path, a.keys() ^ b.keys())
        for key in a:
            assert_identical(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{path}/{i}")
    else:
        assert a == b or (a != a and b != b), (path, a, b)


def assert_alike(a: Any, b: Any, path: str = "") -> None:
    """Alike to 1e-9; counts and words exactly."""
    if isinstance(a, torch.Tensor) and a.is_floating_point() or isinstance(a, float):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12, equal_nan=True, msg=lambda m: f"{path}: {m}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_alike(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_alike(x, y, f"{path}/{i}")
    else:
        assert_identical(a, b, path)


PACKAGES = {"lightning": lightning, "pytorch_lightning": pytorch_lightning}
