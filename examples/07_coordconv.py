"""Can a convolution tell where it is? The coordinate transform problem of Liu et al. 2018, section 4.

    python examples/07_coordconv.py                                     # place -> its pixel: four trainings
    python examples/07_coordconv.py --nets coordconv --splits quadrant  # one of them
    python examples/07_coordconv.py --task rendering                    # place -> the image of a square
    python examples/07_coordconv.py --task regression                   # image of a pixel -> its place
    python examples/07_coordconv.py --nets conv --width 3 --epochs 200  # nearer to the paper's deconvolutions

A network gets a place (x, y) and paints the pixel there, one of 4,096; or the other way round. 3,136 places, 80 % of
them for training, either at random (uniform) or all but the lower right quadrant. The paper: CoordConv is perfect on
both splits with 7,553 parameters and seconds of training on a GPU; deconvolutions of up to 1.6 million reach 86 % on
the uniform split in an hour, and nothing on the quadrant.

The networks are those of the authors' code, but for rendering: their CoordConv has five small convolutions more there,
behind a softmax; ours is the one for classification. The learning rate rises and falls once (one cycle), with which
CoordConv needs few epochs; the paper's is constant, or falls in steps.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import lightning.pytorch as pl
import logs
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_dynamics.data import NotSoClevr
from lightning_dynamics.data.not_so_clevr import CANVAS, Squares, to_pixels
from lightning_dynamics.data.pictures import position_map
from lightning_dynamics.figures import Tile, gallery, line_chart
from lightning_dynamics.nn import CoordConv2d
from lightning_dynamics.panels import Film, Panels, Picture, Scalar, Table
from lightning_dynamics.publishing import Event, publish

LABEL = "coordconv"
NAMES = {"coordconv": "CoordConv", "conv": "Convolution"}
EPOCHS = {"coordconv": 4, "conv": 20}
RIGHT = {
    "classification": "right: the likeliest pixel is the right one",
    "rendering": "right: IoU with the square is at least 0.9",
    "regression": "right: rounded, it is the right pixel",
}


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


def network(kind: str, task: str, width: int) -> nn.Sequential:
    """The network of this kind for a task."""
    if task == "regression":
        return he_initialised(coordconv_regressor() if kind == "coordconv" else conv_regressor(width))
    return coordconv_painter() if kind == "coordconv" else deconv_painter(width)


class Learner(pl.LightningModule):
    """A network that learns one of the three tasks."""

    def __init__(self, net: nn.Module, task: str, lr: float, name: str) -> None:
        super().__init__()
        self.net = net
        self.task = task
        self.lr = lr
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        out = self(x)
        if self.task == "classification":
            loss = F.cross_entropy(out.flatten(1), target)
        elif self.task == "rendering":
            loss = F.binary_cross_entropy_with_logits(out, target)
        else:
            loss = F.mse_loss(out, target)
        self.log(f"{self.name}/loss", loss, prog_bar=True)
        return loss

    def scores(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of each example whether it is right, and how good it is: probability, IoU, or distance in pixels."""
        out = self(x)
        if self.task == "classification":
            chance = out.flatten(1).softmax(1)
            return chance.argmax(1) == target, chance.gather(1, target[:, None])[:, 0]
        if self.task == "rendering":
            painted, square = out > 0, target > 0
            iou = (painted & square).sum((1, 2, 3)) / (painted | square).sum((1, 2, 3))
            return iou >= 0.9, iou
        found, place = to_pixels(out), to_pixels(target)
        return (found.round() == place.round()).all(1), (found - place).norm(dim=1)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


SCORE = {"classification": "probability", "rendering": "IoU", "regression": "distance"}


@dataclass
class Look:
    """What a network does at the places looked at, at one step: whether it is right, how good, on which of them."""

    step: int
    right: Tensor
    score: Tensor
    for_training: Tensor

    def mean(self, values: Tensor, training: bool) -> float:
        """Mean of ``right`` or ``score`` over training or over test places."""
        return float(values[self.for_training == training].double().mean())


@dataclass
class Watch(pl.Callback):
    """Looks at a network now and then over its training, and shows what it has learned where."""

    data: NotSoClevr
    title: str
    about: str
    looks: int
    places: Tensor
    due: set[int] = field(default_factory=set)
    history: list[Look] = field(default_factory=list)
    frames: list[NDArray[np.uint8]] = field(default_factory=list)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Learner) -> None:
        steps = int(trainer.estimated_stepping_batches)
        self.due = {-(-steps * look // self.looks) for look in range(1, self.looks + 1)}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Learner, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step in self.due:
            self.look(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Learner) -> None:
        panels: Panels = {
            f"{LABEL}/{pl_module.name}/positions_film": Film(
                self.frames, f"{self.title}: places it gets right; {self.about}", fps=2
            ),
            f"{LABEL}/{pl_module.name}/examples": self.examples(pl_module),
        }
        publish(trainer.loggers, Event(LABEL, trainer.current_epoch - 1, trainer.global_step, panels))

    @torch.no_grad()
    def look(self, trainer: pl.Trainer, module: Learner) -> None:
        """Score the places, draw them on the canvas, publish."""
        module.eval()  # in training, a BatchNorm would learn from the test places
        centres, train = self.data.centres[self.places], self.data.for_training[self.places]
        batches = DataLoader(Squares(self.data.task, centres), 32)
        parts = [module.scores(x.to(module.device), y.to(module.device)) for x, y in batches]
        module.train()
        right, score = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        look = Look(trainer.global_step, right, score, train)
        self.history.append(look)
        footer = (
            f"{self.about}; step {trainer.global_step:,}, epoch {trainer.current_epoch + 1}. "
            f"{len(centres):,} places looked at, x to the right, y downwards. {RIGHT[self.data.task]}."
        )
        self.frames.append(
            position_map(centres, train, right, title=f"{self.title}: places it gets right", footer=footer)
        )
        panels: dict[str, Picture | Scalar] = {"positions": Picture(self.frames[-1], footer)}
        for part in ("train", "test"):
            panels[f"{part}_accuracy"] = Scalar(look.mean(right, part == "train"))
            panels[f"{part}_{SCORE[self.data.task]}"] = Scalar(look.mean(score, part == "train"))
        named = {f"{LABEL}/{module.name}/{key}": panel for key, panel in panels.items()}
        publish(trainer.loggers, Event(LABEL, trainer.current_epoch, trainer.global_step, named))

    @torch.no_grad()
    def examples(self, module: Learner) -> Picture:
        """A few training and test places, what was wanted and what the network gives."""
        module.eval()
        rows = []
        for part in (self.data.train_set, self.data.test_set):
            order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:4].tolist()
            x, target = (
                torch.stack(column).to(module.device) for column in zip(*(part[i] for i in order), strict=True)
            )
            places = part.centres[order]
            wanted, given = drawn(module, x, target, places)
            _, scores = module.scores(x, target)
            unit = {"classification": "p = {:.2g}", "rendering": "IoU {:.2f}", "regression": "{:.2f} px off"}
            below = [unit[module.task].format(float(score)) for score in scores]
            rows.append(
                [
                    [Tile(image, (f"({x}, {y})",)) for image, (x, y) in zip(wanted, places.tolist(), strict=True)],
                    [Tile(image, (text,)) for image, text in zip(given, below, strict=True)],
                ]
            )
        module.train()
        shown = {
            "classification": "Softmax, black where each map is largest, pixels drawn as 3 × 3; p of the right pixel",
            "rendering": "Probability that a pixel is painted, black is 1",
            "regression": "The network's place as a black pixel, drawn as 3 × 3; off the canvas: nothing",
        }
        footer = f"{self.about}. {shown[module.task]}. The same places for every network, drawn by lot."
        names = {"row_names": ["train places", "test places"], "column_names": ["wanted, at (x, y)", "given"]}
        return Picture(
            gallery(rows, title=f"{self.title}: what it makes of a few places", footer=footer, **names), footer
        )


def drawn(
    module: Learner, x: Tensor, target: Tensor, places: Tensor
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Images of what was wanted and what is given, dark on white; single pixels as 3 x 3, or nobody sees them."""
    out = module(x)
    if module.task == "classification":
        chance = out.flatten(1).softmax(1).view(-1, CANVAS, CANVAS)
        return dots(places), [grey(spread(one)) for one in chance / chance.amax((1, 2), keepdim=True)]
    if module.task == "rendering":
        return [grey(one[0]) for one in target], [grey(one[0]) for one in out.sigmoid()]
    return dots(places), dots(to_pixels(out).round().long().cpu())


def dots(places: Tensor) -> list[NDArray[np.uint8]]:
    """One image per place (x, y)."""
    canvas = torch.zeros(len(places), CANVAS, CANVAS)
    for image, (x, y) in zip(canvas, places.tolist(), strict=True):
        if 0 <= x < CANVAS and 0 <= y < CANVAS:
            image[y, x] = 1
    return [grey(spread(image)) for image in canvas]


def spread(image: Tensor) -> Tensor:
    """The largest value around each pixel."""
    return F.max_pool2d(image[None], 3, 1, 1)[0]


def grey(values: Tensor) -> NDArray[np.uint8]:
    """``(H, W)`` in [0, 1] -> an image, 1 is black."""
    return (255 * (1 - values.clamp(0, 1))).round().byte().cpu().numpy()[:, :, None].repeat(3, axis=2)


@dataclass(frozen=True)
class Run:
    """One training: how it went."""

    kind: str
    split: str
    parameters: int
    seconds: float
    history: Sequence[Look]

    @property
    def row(self) -> tuple[str | float, ...]:
        """What the table says of it."""
        last = self.history[-1]
        means = [last.mean(values, part) for values in (last.right, last.score) for part in (True, False)]
        shares = [round(100 * share, 2) for share in means[:2]]
        return (NAMES[self.kind], self.split, self.parameters, last.step, round(self.seconds), *shares, *means[2:])


def train(arguments: argparse.Namespace, kind: str, split: str, loggers: list[pl.loggers.Logger]) -> Run:
    """One network on one split, from the same seed as all others."""
    pl.seed_everything(arguments.seed, verbose=False)
    data = NotSoClevr(arguments.task, split, arguments.batch_size, seed=arguments.seed)
    net = network(kind, arguments.task, arguments.width)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    epochs = arguments.epochs or EPOCHS[kind]
    counts = int(data.for_training.sum()), int((~data.for_training).sum())
    about = (
        f"{arguments.task}, {split} split: {counts[0]:,} train and {counts[1]:,} test places; {parameters:,} "
        f"parameters, {epochs} epochs, seed {arguments.seed}"
    )
    by_lot = torch.randperm(len(data.centres), generator=torch.Generator().manual_seed(arguments.seed))
    places = by_lot[: arguments.places].sort().values
    watch = Watch(data, f"{NAMES[kind]}, {split} split", about, arguments.looks, places)
    trainer = pl.Trainer(
        max_epochs=epochs,
        max_steps=arguments.max_steps,
        accelerator="auto",
        devices=1,
        logger=loggers,
        callbacks=[watch],
        default_root_dir=arguments.out,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=20,
    )
    began = time.process_time()
    trainer.fit(
        Learner(net, arguments.task, arguments.lr, f"{kind}_{split}"), train_dataloaders=data.train_dataloader()
    )
    return Run(kind, split, parameters, time.process_time() - began, watch.history)


def curves(runs: Sequence[Run], split: str, about: str) -> Picture:
    """Places right over training, of all networks on one split."""
    times = np.arange(1, len(runs[0].history) + 1) * 100 / len(runs[0].history)
    lines = {
        f"{NAMES[run.kind]}, {'train' if training else 'test'}": [
            100 * look.mean(look.right, training) for look in run.history
        ]
        for run in runs
        for training in (True, False)
    }
    took = "; ".join(f"{NAMES[run.kind]}: {run.history[-1].step:,} steps" for run in runs)
    look = {"x_title": "% of each network's training", "y_title": "% of places right", "limits": (0, 100)}
    return Picture(
        line_chart(times, lines, title=f"Places right over training, {split} split", footer=f"{about}; {took}", **look),
        about,
    )


def main() -> None:
    """Train them all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(RIGHT), default="classification")
    parser.add_argument("--nets", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--splits", nargs="+", choices=["uniform", "quadrant"], default=["uniform", "quadrant"])
    parser.add_argument(
        "--epochs", type=int, help=f"by default {EPOCHS['coordconv']}, of convolutions {EPOCHS['conv']}"
    )
    parser.add_argument("--max-steps", type=int, default=-1, help="end each training after so many steps")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.01, help="at its highest")
    parser.add_argument("--width", type=int, default=1, help="of the convolutions; the paper's are 1 to 3")
    parser.add_argument("--looks", type=int, default=8, help="pictures over each training")
    parser.add_argument("--places", type=int, default=3136, help="that each picture looks at, drawn by lot")
    parser.add_argument("--seed", type=int, default=0)
    logs.add_arguments(parser)
    arguments = parser.parse_args()
    for name in ("looks", "places", "width"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: from 1 up")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    logging.disable(logging.INFO)  # what Lightning says of every run

    wandb_logger, report = logs.loggers(arguments, run=f"{LABEL}_{arguments.task}", report=f"{LABEL}_{arguments.task}")
    runs = [
        train(arguments, kind, split, [wandb_logger, report]) for kind in arguments.nets for split in arguments.splits
    ]
    score = SCORE[arguments.task]
    columns = (
        "network",
        "split",
        "parameters",
        "steps",
        "CPU s",
        "train %",
        "test %",
        f"train {score}",
        f"test {score}",
    )
    about = f"{arguments.task}, batches of {arguments.batch_size}, seed {arguments.seed}; {RIGHT[arguments.task]}"
    rows = [run.row for run in runs]
    summary: dict[str, Picture | Table] = {
        f"{LABEL}/accuracy_{split}": curves([run for run in runs if run.split == split], split, about)
        for split in arguments.splits
    }
    summary[f"{LABEL}/networks"] = Table(columns, rows, f"{about}; CPU s with the looks")
    publish(
        [wandb_logger, report],
        Event(LABEL, max(EPOCHS.values()) - 1, max(run.history[-1].step for run in runs), summary),
    )

    print(f"\n{about}\n" + "".join(f"{column:>18}" for column in columns))
    for row in rows:
        print("".join(f"{cell:18.4g}" if isinstance(cell, float) else f"{cell:>18}" for cell in row))
    logs.say_where(arguments, wandb_logger, report)


if __name__ == "__main__":
    main()
