"""A small residual network learns digits, and the analyses of lightning-dynamics show how.

Run ``python examples/00_demo.py``. It takes about a minute on two CPU cores. At the end it prints what each callback
cost, and where to look at the pictures.

One analysis is missing: the search for critical points needs smooth activations and at most some hundred parameters.
See ``examples/10_critical_points.py``.
"""

from __future__ import annotations

import time

import common
import costs
import lightning.pytorch as pl
import logs
import torch
import torch.nn.functional as F
from data import load
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_dynamics import (
    CKACallback,
    CurvatureCallback,
    FingerprintCallback,
    LandscapeCallback,
    LossContributionCallback,
    VoGCallback,
    landscape,
)


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.norm1(self.conv1(x)))
        return self.relu2(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResidualNet(pl.LightningModule):
    """An ordinary LightningModule: it needs no change to be analysed."""

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.stage1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.stage2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val/loss", F.cross_entropy(logits, batch[1]), prog_bar=True)
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def main() -> None:
    """Train, analyse, and print the costs and where to look."""
    parser = common.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--probe", type=int, default=64, help="training examples of the landscape and the curvature")
    parser.add_argument("--resolution", type=int, default=11, help="points along each side of the landscape")
    arguments = parser.parse_args()
    pl.seed_everything(arguments.seed, verbose=False)
    torch.set_num_threads(1)  # so small a network gains nothing from more, and loses where other programs run
    train, validation = load(arguments.data_file)
    model = ResidualNet(channels=train.tensors[0].shape[1], classes=int(train.tensors[1].max()) + 1)
    wandb_logger, report = logs.loggers(arguments, run="demo", report="report")
    # Small probes, few events, coarse planes: for a first look within a minute.
    trainer = common.trainer(
        arguments,
        [wandb_logger, report],
        [
            CKACallback(layers="*", data="val", at_start=True),
            CKACallback(
                layers=["stem", "Block", "head"],
                compare_to="initialization",
                data="val",
                every_n_epochs=2,
                name="change",
            ),
            LossContributionCallback(num_examples=300, batch_size=300, every_n_train_steps=6, every_n_epochs=2),
            VoGCallback(data="val"),
            LandscapeCallback(
                landscape.TrajectoryPlane(snapshot_every_n_steps=4),
                resolution=arguments.resolution,
                num_examples=arguments.probe,
                second_data="val",
                every_n_epochs=2,
            ),
            CurvatureCallback(num_examples=arguments.probe, every_n_epochs=None, at_start=True),  # before and after
            FingerprintCallback(),
        ],
        num_sanity_val_steps=0,
        profiler=costs.profiler(arguments.out),
    )
    start = time.perf_counter()
    trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(validation, 256))
    print(f"\nWhat each callback cost:\n\n{costs.table(trainer, time.perf_counter() - start)}")
    logs.say_where(arguments, wandb_logger, report)


if __name__ == "__main__":
    main()
