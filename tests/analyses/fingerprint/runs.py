"""Short trainings with a fingerprint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from lightning_dynamics.analyses.fingerprint import FingerprintCallback
from lightning_dynamics.analyses.fingerprint.journal import Reading, Record, file_in
from lightning_dynamics.core.random_state import seed_all
from tests.house.models import Convnet, loaders
from tests.house.training import trainer


def fingerprint(folder: Path, **options: Any) -> FingerprintCallback:
    return FingerprintCallback(str(folder), **{"on_error": "raise"} | options)


def fit(
    folder: Path, model: Any = None, data: Any = None, more: Any = (), seed: int = 0, fit: Any = None, **options: Any
) -> FingerprintCallback:
    """Train the house's network from a seed; ``fit`` is for ``trainer.fit``, the rest for callback or Trainer."""
    own = {"every_n_train_steps", "parameters", "gradients", "optimizer_state", "name", "on_error"}
    callback = fingerprint(folder, **{key: value for key, value in options.items() if key in own})
    seed_all(seed)
    torch.set_num_threads(1)
    model = Convnet() if model is None else model()
    run = trainer(folder, [callback, *more], **{key: value for key, value in options.items() if key not in own})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers and the like
        run.fit(model, **(loaders() if data is None else data), **(fit or {}))
    return callback


def records(folder: Path, rank: int = 0) -> list[Record]:
    return list(Reading(file_in(folder, rank)).records())
