"""Modules that put isolation to the test: everything an extra forward pass can disturb."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

CLASSES = 3


class NoisyImages(Dataset[tuple[Tensor, int]]):
    """Images whose augmentation draws from torch, NumPy, Python and a generator of its own."""

    def __init__(self, size: int = 32) -> None:
        generator = torch.Generator().manual_seed(7)
        self.labels = torch.arange(size) % CLASSES
        self.images = torch.randn(size, 1, 6, 6, generator=generator) + self.labels[:, None, None, None]
        self.own = np.random.default_rng(11)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import random

        shift = 0.1 * (torch.rand(()).item() + np.random.rand() + random.random() + self.own.random())
        return self.images[index] + shift, int(self.labels[index])


class Convnet(lightning.LightningModule):
    """BatchNorm, dropout, a metric, in-place ReLU, a list that grows, noise from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4 * 36, CLASSES)
        self.accuracy = MulticlassAccuracy(CLASSES)
        self.losses: list[Tensor] = []
        self.noise = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        if self._trainer is not None and self._trainer.training:
            self.log("train/input", x.mean(), on_step=False, on_epoch=True)  # people do log in `forward`
        x = x + 0.01 * torch.randn(x.shape, generator=self.noise)
        x = self.act(self.norm(self.conv(x)))
        x = self.act(self.conv2(x)) + x
        return self.head(self.drop(x.flatten(1)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log("train/accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Frozen(Convnet):
    """A part that its author keeps in eval mode and out of training."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self

    def configure_optimizers(self) -> Any:
        self.conv.requires_grad_(False)
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-2)


class TwoOptimizers(Convnet):
    """Manual optimisation."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # type: ignore[override]
        loss = F.cross_entropy(self(batch[0]), batch[1])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.conv.parameters(), lr=0.1), torch.optim.Adam(self.head.parameters(), lr=1e-2)]


def cross_entropy(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def doubled_loss(module: Any, batch: Any) -> Tensor:
    return 2 * cross_entropy(module, batch)


def detached_loss(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module, batch).detach()


def loaders(workers: int = 0, size: int = 32, batch_size: int = 8) -> dict[str, DataLoader[Any]]:
    """Arguments for ``trainer.fit``: shuffled training, validation."""
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    return {
        "train_dataloaders": DataLoader(NoisyImages(size), batch_size, shuffle=True, **options),
        "val_dataloaders": DataLoader(NoisyImages(16), batch_size, **options),
    }
