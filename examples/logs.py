"""Where the examples write: a W&B run and a local report in one folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger

from lightning_dynamics import LocalReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--out`` and ``--wandb``."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything that is written")
    parser.add_argument(
        "--wandb",
        choices=["online", "offline", "disabled"],
        default="online" if os.environ.get("WANDB_API_KEY") else "offline",
    )


def loggers(arguments: argparse.Namespace, run: str, report: str) -> tuple[WandbLogger, LocalReport]:
    """A W&B run and a report of these names in ``arguments.out``."""
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    # W&B stages the tables of an offline run elsewhere by default; beside it, the folder can be moved and synced.
    os.environ.setdefault("WANDB_DATA_DIR", str(out))
    os.environ.setdefault("WANDB_SILENT", "true")
    wandb_logger = WandbLogger(project="lightning-dynamics", name=run, save_dir=out, mode=arguments.wandb)
    return wandb_logger, LocalReport(save_dir=str(out), name=report)


def say_where(arguments: argparse.Namespace, wandb_logger: WandbLogger, report: LocalReport) -> None:
    """End the run, and print where to look."""
    report.finalize("success")  # again, where a Trainer has done so: what was published since belongs to it
    run = wandb_logger.experiment
    folder = Path(run.dir).parent
    run.finish()
    print(f"\nLocal report:  {report.index}")
    if arguments.wandb == "offline":
        print(f"W&B run:       {folder}\n  to upload:   WANDB_DATA_DIR={arguments.out.resolve()} wandb sync {folder}")
    elif arguments.wandb == "online":
        print(f"W&B run:       {run.url}")
