"""What every example needs: the arguments they share, and a Trainer without decoration."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import logs
from lightning.pytorch.loggers import Logger


def parser(description: str | None, *, data_file: bool = True, seed: bool = True) -> argparse.ArgumentParser:
    """A parser with ``--data-file``, ``--seed``, ``--out`` and ``--wandb``.

    Args:
        description: the example's ``__doc__``, shown as it is.
        data_file: whether the user may choose the images; an example with data of its own says False.
        seed: whether there is one seed; an example with several says False.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data_file:
        made.add_argument("--data-file", type=Path, help="an .npz file of images; see examples/data.py")
    if seed:
        made.add_argument("--seed", type=int, default=0)
    logs.add_arguments(made)
    return made


def trainer(
    arguments: argparse.Namespace, loggers: Iterable[Logger] = (), callbacks: Iterable[pl.Callback] = (), **options: Any
) -> pl.Trainer:
    """A Trainer on one device, for ``arguments.epochs`` epochs, that writes into ``arguments.out``.

    Args:
        arguments: of the command line.
        loggers: none by default.
        callbacks: likewise.
        options: further arguments of the Trainer; they win over the ones given here.
    """
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own, in the middle of a progress bar
    defaults: dict[str, Any] = {
        "max_epochs": arguments.epochs,
        "accelerator": "auto",
        "devices": 1,
        "default_root_dir": arguments.out,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "log_every_n_steps": 5,
    }
    # A list, also an empty one: None would mean Lightning's own logger.
    return pl.Trainer(logger=list(loggers), callbacks=list(callbacks), **(defaults | options))
