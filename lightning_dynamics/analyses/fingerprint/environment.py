"""Where a fingerprint is written, and what its header tells of the training around it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_dynamics.analyses.fingerprint.contents import ModuleTensors
from lightning_dynamics.analyses.fingerprint.digest import shape_of
from lightning_dynamics.core.lightning import PACKAGES

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def folder_of(trainer: Trainer, path: str | None, name: str | None) -> Path:
    """The folder asked for; else one beside the first logger's files, or the Trainer's own. Rank zero's counts."""
    if path is not None:
        return Path(path).absolute()
    own = "fingerprint" if name is None else f"fingerprint-{name}"
    logger = trainer.loggers[0] if trainer.loggers else None
    base = trainer.default_root_dir if logger is None or logger.save_dir is None else logger.save_dir
    if logger is None or trainer.fast_dev_run:  # type: ignore[attr-defined]  # its loggers are dummies
        return Path(base).absolute() / own
    # As ModelCheckpoint finds its folder.
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(base).absolute() / str(logger.name) / version / own


def header_of(trainer: Trainer, held: ModuleTensors, every_n_train_steps: int) -> dict[str, Any]:
    """What a reader must know to compare, and what may explain a difference: plain values."""
    device = trainer.strategy.root_device
    return {
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
        "every_n_train_steps": every_n_train_steps,
        "model": {
            kind: {name: shape_of(tensor) for name, tensor in held.tensors(kind)} for kind in ("parameters", "buffers")
        },
        "environment": {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "Lightning": PACKAGES[0].__version__,
            "NumPy": np.__version__,
            "machine": platform.machine(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "CUDA": str(torch.version.cuda),
            "seed": os.environ.get("PL_GLOBAL_SEED", "none by seed_everything"),
            "precision": str(trainer.precision),
            "accumulated batches": trainer.accumulate_grad_batches,
            "threads": torch.get_num_threads(),
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "cuDNN benchmark": torch.backends.cudnn.benchmark,
        },
    }
