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

from collections import OrderedDict

import lightning.pytorch as pl
import logs
import torch
from common import parser, trainer
from data import load
from nets import Classifier
from torch import nn
from torch.utils.data import DataLoader

from lightning_dynamics import CriticalPointsCallback, critical_points

METHODS = {"newton_mr": critical_points.NewtonMR, "gradient_norm": critical_points.GradientNorm}


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
    made = parser(__doc__)
    made.add_argument("--method", choices=METHODS, default="newton_mr")
    made.add_argument("--hidden", type=int, default=8)
    made.add_argument("--epochs", type=int, default=8)
    made.add_argument("--lr", type=float, default=0.5)
    made.add_argument("--probe", type=int, default=256, help="training examples that make up the loss")
    made.add_argument("--iterations", type=int, help="of each search; 100, or 2,000 for gradient_norm")
    made.add_argument("--snapshots", type=int, default=8, help="points of the training to begin from; 4 or more")
    arguments = made.parse_args()

    pl.seed_everything(arguments.seed, verbose=False)
    train, validation = load(arguments.data_file)
    channels, classes = train.tensors[0].shape[1], int(train.tensors[1].max()) + 1
    method = METHODS[arguments.method]
    callback = CriticalPointsCallback(
        method=method() if arguments.iterations is None else method(max_iterations=arguments.iterations),
        trajectory=critical_points.Trajectory(max_snapshots=arguments.snapshots),
        num_examples=arguments.probe,
        batch_size=arguments.probe,
        index_of_starts=True,
    )
    wandb_logger, report = logs.loggers(arguments, run="critical_points", report="critical_points")
    model = Small(channels, arguments.hidden, classes, arguments.lr)
    run = trainer(arguments, [wandb_logger, report], [callback], accelerator="cpu")
    run.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(validation, 1000))

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
