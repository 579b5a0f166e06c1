"""Which critical points lie near the path of training? Index against loss for a small network on digits.

    python examples/10_critical_points.py                               # Newton-MR from 8 points of the training
    python examples/10_critical_points.py --method gradient_norm        # the other method
    python examples/10_critical_points.py --hidden 16 --iterations 200  # a larger network
    python examples/10_critical_points.py --data-file mnist.npz         # any .npz; see examples/data.py

Dauphin et al. (2014) found critical points whose index rises with the loss, and took it as a sign that networks have
no bad local minima. Frye et al. (2021) found that many of these points are not critical but gradient-flat. The images
are averaged to 4 × 4 pixels, and the network is small: a search takes thousands of Hessian-vector products.
"""

from __future__ import annotations

import argparse
import warnings
from collections import OrderedDict
from pathlib import Path

import lightning.pytorch as pl
import logs
import torch
from data import load
from nets import Classifier
from torch import nn
from torch.utils.data import DataLoader

from lightning_dynamics import CriticalPointsCallback


class Small(Classifier):
    """One hidden layer of smooth units: kinks, such as those of ReLU, would stop the searches."""

    def __init__(self, channels: int, hidden: int, classes: int, lr: float) -> None:
        layers = OrderedDict(
            pool=nn.AdaptiveAvgPool2d(4),
            flat=nn.Flatten(),
            fc1=nn.Linear(16 * channels, hidden),
            tanh=nn.Tanh(),
            fc2=nn.Linear(hidden, classes),
        )
        super().__init__(nn.Sequential(layers))
        self.lr = lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def main() -> None:
    """Train, search, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["newton_mr", "gradient_norm"], default="newton_mr")
    parser.add_argument("--data-file", type=Path, help="an .npz file of images; see examples/data.py")
    parser.add_argument("--hidden", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--probe", type=int, default=256, help="training examples that make up the loss")
    parser.add_argument("--iterations", type=int, help="of each search; 100, or 2,000 for gradient_norm")
    parser.add_argument("--snapshots", type=int, default=8, help="points of the training to begin from; 4 or more")
    parser.add_argument("--seed", type=int, default=0)
    logs.add_arguments(parser)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")

    pl.seed_everything(arguments.seed, verbose=False)
    train, validation = load(arguments.data_file)
    channels, classes = train.tensors[0].shape[1], int(train.tensors[1].max()) + 1
    callback = CriticalPointsCallback(
        method=arguments.method,
        max_iterations=arguments.iterations,
        max_snapshots=arguments.snapshots,
        num_examples=arguments.probe,
        batch_size=arguments.probe,
        index_of_starts=True,
    )
    wandb_logger, report = logs.loggers(arguments, run="critical_points", report="critical_points")
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        devices=1,
        logger=[wandb_logger, report],
        callbacks=[callback],
        default_root_dir=arguments.out,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=5,
    )
    model = Small(channels, arguments.hidden, classes, arguments.lr)
    trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(validation, 1000))

    result = callback.last_result
    print(f"\n{'start':12}{'loss':>8} ->{'loss':>8}{'|g|^2':>10}{'index':>8}   status")
    for i, start in enumerate(result.starts):
        print(
            f"{start:12}{float(result.losses[i, 0]):8.4f} ->{float(result.loss[i]):8.4f}"
            f"{float(result.squared_gradient_norm[i]):10.1e}{float(result.index[i]):8.3f}   "
            f"{result.status[i]} ({result.stopped[i]}, {int(result.iterations[i])} iterations, "
            f"{int(result.products[i])} products)"
        )
    logs.say_where(arguments, wandb_logger, report)


if __name__ == "__main__":
    main()
