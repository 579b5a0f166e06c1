"""The networks that several examples train."""

from __future__ import annotations

from collections import OrderedDict

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


def resnet(shape: torch.Size, classes: int, width: int = 16) -> nn.Module:
    """A small residual network: a stem, three stages of one block, a head."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(shape[0], width, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
            stage1=Block(width, width, 1),
            stage2=Block(width, 2 * width, 2),
            stage3=Block(2 * width, 4 * width, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(4 * width, classes),
        )
    )


class Classifier(pl.LightningModule):
    """Any network that tells classes apart; how it is optimised, an example says itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val/loss", F.cross_entropy(logits, batch[1]), prog_bar=True)
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)


def along_a_cosine(module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """What ``configure_optimizers`` returns for a rate that falls to zero along a cosine."""
    steps = int(module.trainer.estimated_stepping_batches)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Sgd(Classifier):
    """Any network, trained by SGD."""

    def __init__(self, net: nn.Module, lr: float, momentum: float = 0.0) -> None:
        super().__init__(net)
        self.lr = lr
        self.momentum = momentum

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)


class AlongACosine(Classifier):
    """Any network, trained by SGD with a rate that falls to zero along a cosine."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__(net)
        self.lr = lr

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)
        return along_a_cosine(self, optimizer)
