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
from collections.abc import Sequence
from dataclasses import dataclass, field

import lightning.pytorch as pl
import logs
import numpy as np
import torch
from common import parser, trainer
from not_so_clevr import TASKS, Learner, network
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_dynamics.data import NotSoClevr, Squares, position_map
from lightning_dynamics.figures import Tile, gallery, line_chart
from lightning_dynamics.panels import Film, Panel, Picture, Scalar, Table
from lightning_dynamics.publishing import publish_panels

LABEL = "coordconv"
NAMES = {"coordconv": "CoordConv", "conv": "Convolution"}
EPOCHS = {"coordconv": 4, "conv": 20}


def grey(values: Tensor) -> NDArray[np.uint8]:
    """``(H, W)`` in [0, 1] -> an image, 1 is black."""
    return (255 * (1 - values.clamp(0, 1))).round().byte().cpu().numpy()[:, :, None].repeat(3, axis=2)


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
        film = Film(self.frames, f"{self.title}: places it gets right; {self.about}", fps=2)
        self.show(trainer, pl_module, {"positions_film": film, "examples": self.examples(pl_module)}, 1)

    def show(self, trainer: pl.Trainer, module: Learner, panels: dict[str, Panel], ended: int = 0) -> None:
        """Publish; Lightning counts an epoch more once training has ended."""
        label, epoch = f"{LABEL}/{module.name}", trainer.current_epoch - ended
        publish_panels(trainer.loggers, panels, label, epoch=epoch, step=trainer.global_step)

    @torch.no_grad()
    def look(self, trainer: pl.Trainer, module: Learner) -> None:
        """Score the places, draw them on the canvas, publish."""
        module.eval()  # in training, a BatchNorm would learn from the test places
        centres, train = self.data.centres[self.places], self.data.for_training[self.places]
        batches = DataLoader(Squares(self.data.task, centres), 32)
        parts = [module.scores(module(x.to(module.device)), y.to(module.device)) for x, y in batches]
        module.train()
        right, score = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        look = Look(trainer.global_step, right, score, train)
        self.history.append(look)
        footer = (
            f"{self.about}; step {trainer.global_step:,}, epoch {trainer.current_epoch + 1}. "
            f"{len(centres):,} places looked at, x to the right, y downwards. {module.right}."
        )
        title = f"{self.title}: places it gets right"
        self.frames.append(position_map(centres, train, right, title=title, footer=footer))
        panels: dict[str, Panel] = {"positions": Picture(self.frames[-1], footer)}
        for part in ("train", "test"):
            panels[f"{part}_accuracy"] = Scalar(look.mean(right, part == "train"))
            panels[f"{part}_{module.score}"] = Scalar(look.mean(score, part == "train"))
        self.show(trainer, module, panels)

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
            places, out = part.centres[order], module(x)
            wanted, given = module.images(out, target, places)
            above = [f"({x}, {y})" for x, y in places.tolist()]
            below = [module.unit.format(float(score)) for score in module.scores(out, target)[1]]
            pairs = zip(wanted, above, strict=True), zip(given, below, strict=True)
            rows.append([[Tile(grey(image), (text,)) for image, text in pair] for pair in pairs])
        module.train()
        footer = f"{self.about}. {module.shown}. The same places for every network, drawn by lot."
        names = {"row_names": ["train places", "test places"], "column_names": ["wanted, at (x, y)", "given"]}
        title = f"{self.title}: what it makes of a few places"
        return Picture(gallery(rows, title=title, footer=footer, **names), footer)


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
    fit = trainer(
        arguments, loggers, [watch], max_epochs=epochs, max_steps=arguments.max_steps, log_every_n_steps=20
    ).fit
    learner = TASKS[arguments.task](net, arguments.lr, f"{kind}_{split}")
    began = time.process_time()
    fit(learner, data.train_dataloader())
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


def parse() -> argparse.Namespace:
    """What to train, and how."""
    made = parser(__doc__, data_file=False)
    made.add_argument("--task", choices=list(TASKS), default="classification")
    made.add_argument("--nets", nargs="+", choices=list(NAMES), default=list(NAMES))
    made.add_argument("--splits", nargs="+", choices=["uniform", "quadrant"], default=["uniform", "quadrant"])
    made.add_argument("--epochs", type=int, help=f"by default {EPOCHS['coordconv']}, of convolutions {EPOCHS['conv']}")
    made.add_argument("--max-steps", type=int, default=-1, help="end each training after so many steps")
    made.add_argument("--batch-size", type=int, default=16)
    made.add_argument("--lr", type=float, default=0.01, help="at its highest")
    made.add_argument("--width", type=int, default=1, help="of the convolutions; the paper's are 1 to 3")
    made.add_argument("--looks", type=int, default=8, help="pictures over each training")
    made.add_argument("--places", type=int, default=3136, help="that each picture looks at, drawn by lot")
    arguments = made.parse_args()
    for name in ("looks", "places", "width"):
        if getattr(arguments, name) < 1:
            made.error(f"--{name} {getattr(arguments, name)}: from 1 up")
    return arguments


def main() -> None:
    """Train them all, print the table."""
    arguments = parse()
    logging.disable(logging.INFO)  # what Lightning says of every run
    name = f"{LABEL}_{arguments.task}"
    loggers = logs.loggers(arguments, run=name, report=name)
    runs = [train(arguments, kind, split, list(loggers)) for kind in arguments.nets for split in arguments.splits]

    task = TASKS[arguments.task]
    columns = ("network", "split", "parameters", "steps", "CPU s", "train %", "test %")
    columns += (f"train {task.score}", f"test {task.score}")
    about = f"{arguments.task}, batches of {arguments.batch_size}, seed {arguments.seed}; {task.right}"
    rows = [run.row for run in runs]
    summary: dict[str, Panel] = {
        f"accuracy_{split}": curves([run for run in runs if run.split == split], split, about)
        for split in arguments.splits
    }
    summary["networks"] = Table(columns, rows, f"{about}; CPU s with the looks")
    last = max(run.history[-1].step for run in runs)
    publish_panels(loggers, summary, LABEL, epoch=max(EPOCHS.values()) - 1, step=last)

    print(f"\n{about}\n" + "".join(f"{column:>18}" for column in columns))
    for row in rows:
        print("".join(f"{cell:18.4g}" if isinstance(cell, float) else f"{cell:>18}" for cell in row))
    logs.say_where(arguments, *loggers)


if __name__ == "__main__":
    main()
