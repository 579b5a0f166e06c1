"""The coordinate transform problem of Liu et al. 2018, section 4: its three tasks, and the authors' networks."""

from __future__ import annotations

from typing import ClassVar

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.data import CANVAS, to_pixels
from lightning_dynamics.nn import CoordConv2d


class OnCanvas(nn.Module):
    """``(N, 2)`` -> the same two numbers at every pixel of ``side`` x ``side``."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, place: Tensor) -> Tensor:
        return place[:, :, None, None].expand(-1, -1, self.side, self.side)


def coordconv_painter() -> nn.Sequential:
    """The paper's CoordConv network, 7,553 parameters: each pixel compares its coordinates with the place."""
    return nn.Sequential(
        OnCanvas(CANVAS),
        CoordConv2d(2, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 1, 1),
    ).to(memory_format=torch.channels_last)  # faster on a CPU


def deconv_painter(width: int) -> nn.Sequential:
    """The paper's deconvolution: from one pixel to 64 x 64 by six doublings. Its widths are 1, 2 and 3."""
    channels = [2, 64 * width, 64 * width, 64 * width, 32 * width, 32 * width]
    layers: list[nn.Module] = [OnCanvas(1)]
    for before, after in zip(channels, channels[1:], strict=False):
        up = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
        layers += [up, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], 1, 3, stride=2, padding=1, output_padding=1))


def coordconv_regressor() -> nn.Sequential:
    """The paper's CoordConv network for the way back, 906 parameters: linear layers and one maximum per coordinate."""
    return nn.Sequential(
        CoordConv2d(1, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 2, 3, padding=1),
        nn.MaxPool2d(CANVAS),
        nn.Flatten(),
    )


def conv_regressor(width: int) -> nn.Sequential:
    """The paper's best convolution for the way back on the uniform split; it ends in two dense layers."""
    layers: list[nn.Module] = []
    for before in (1, 16 * width, 16 * width):
        layers += [nn.Conv2d(before, 16 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16 * width, 16 * width, 3, padding=1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * width * (CANVAS // 8) ** 2, 64), nn.ReLU(), nn.Linear(64, 2))


def he_initialised(net: nn.Sequential) -> nn.Sequential:
    """He et al.'s initial weights, as in the authors' code: with torch's smaller ones the maximum is hard to learn."""
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weights = [layer.weight]
            if isinstance(layer, CoordConv2d):
                weights.append(layer.coordinate_weight)
            fan_in = sum(weight[0].numel() for weight in weights)
            for weight in weights:
                nn.init.normal_(weight, std=(2 / fan_in) ** 0.5)
            nn.init.zeros_(layer.bias)
    return net


class Learner(pl.LightningModule):
    """A network that learns one of the three tasks; each task is a subclass."""

    right: ClassVar[str]
    """When an example counts as right."""
    score: ClassVar[str]
    """How good an output is, and ``unit``, how it is written."""
    unit: ClassVar[str]
    shown: ClassVar[str]
    """What the pictures of examples show."""

    def __init__(self, net: nn.Module, lr: float, name: str) -> None:
        super().__init__()
        self.net = net
        self.lr = lr
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def scores(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of each example whether it is right, and how good it is."""
        raise NotImplementedError

    def images(self, out: Tensor, target: Tensor, places: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What was wanted and what is given, ``(H, W)`` in [0, 1] each."""
        raise NotImplementedError

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        loss = self.loss(self(x), target)
        self.log(f"{self.name}/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Classification(Learner):
    """Place -> its pixel."""

    right, score, unit = "right: the likeliest pixel is the right one", "probability", "p = {:.2g}"
    shown = "Softmax, black where each map is largest, pixels drawn as 3 × 3; p of the right pixel"

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(out.flatten(1), target)

    def scores(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        chance = out.flatten(1).softmax(1)
        return chance.argmax(1) == target, chance.gather(1, target[:, None])[:, 0]

    def images(self, out: Tensor, target: Tensor, places: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        chance = out.flatten(1).softmax(1).view(-1, CANVAS, CANVAS)
        return dots(places), [spread(one) for one in chance / chance.amax((1, 2), keepdim=True)]


class Rendering(Learner):
    """Place -> the image of a square."""

    right, score, unit = "right: IoU with the square is at least 0.9", "IoU", "IoU {:.2f}"
    shown = "Probability that a pixel is painted, black is 1"

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(out, target)

    def scores(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        painted, square = out > 0, target > 0
        iou = (painted & square).sum((1, 2, 3)) / (painted | square).sum((1, 2, 3))
        return iou >= 0.9, iou

    def images(self, out: Tensor, target: Tensor, places: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return list(target[:, 0]), list(out.sigmoid()[:, 0])


class Regression(Learner):
    """Image of a pixel -> its place."""

    right, score, unit = "right: rounded, it is the right pixel", "distance", "{:.2f} px off"
    shown = "The network's place as a black pixel, drawn as 3 × 3; off the canvas: nothing"

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(out, target)

    def scores(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        found, place = to_pixels(out), to_pixels(target)
        return (found.round() == place.round()).all(1), (found - place).norm(dim=1)

    def images(self, out: Tensor, target: Tensor, places: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return dots(places), dots(to_pixels(out).round().long().cpu())


TASKS: dict[str, type[Learner]] = {
    "classification": Classification,
    "rendering": Rendering,
    "regression": Regression,
}


def network(kind: str, task: str, width: int) -> nn.Sequential:
    """The network of this kind for a task."""
    if task == "regression":
        return he_initialised(coordconv_regressor() if kind == "coordconv" else conv_regressor(width))
    return coordconv_painter() if kind == "coordconv" else deconv_painter(width)


def dots(places: Tensor) -> list[Tensor]:
    """One image per place (x, y); pixels as 3 × 3, or nobody sees them."""
    canvas = torch.zeros(len(places), CANVAS, CANVAS)
    for image, (x, y) in zip(canvas, places.tolist(), strict=True):
        if 0 <= x < CANVAS and 0 <= y < CANVAS:
            image[y, x] = 1
    return [spread(image) for image in canvas]


def spread(image: Tensor) -> Tensor:
    """The largest value around each pixel."""
    return F.max_pool2d(image[None], 3, 1, 1)[0]
