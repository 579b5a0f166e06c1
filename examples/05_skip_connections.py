"""What skip connections and smooth activations do to the shape of the loss: Li et al. 2018, sections 5 and 6.

    python examples/05_skip_connections.py                                   # digits, depth 32
    python examples/05_skip_connections.py --depth 56 --activations relu     # deeper
    python examples/05_skip_connections.py --data-file cifar10.npz --depth 20 --stem-stride 2 --epochs 8

Trains networks of one depth with and without skip connections, each with several activation functions: the same
parameters (the way around a block has none), the same first weights, the same order of the data, the same random
directions. Draws the filter-normalised plane around each one's trained weights, all in one scale, and prints accuracy,
sharpness, and how far from convex the loss is over the plane. One seed is one draw of everything: try several.

Mind when comparing: a network that has hardly been trained lies on a plain, which is flat and nearly convex too; and
the Hessian of a ReLU network does not know of its kinks, so that |λmin / λmax| compares it badly with smooth ones.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import logs
import numpy as np
import torch
import torch.nn.functional as F
from common import parser, trainer
from data import load
from nets import AlongACosine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import LandscapeCallback, LandscapeResult, landscape
from lightning_dynamics.figures import contour_map, surface_plot
from lightning_dynamics.panels import Page, Panel, Panels, Picture, Table
from lightning_dynamics.publishing import publish_panels

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "mish": nn.Mish}
basis, common_limits, wide = landscape.wording.basis, landscape.wording.common_limits, landscape.wording.wide
CLEARLY = 0.1  # |λmin / λmax| from which on a point is counted as not convex
LABEL = "skip_connections"


class Block(nn.Module):
    """Two convolutions, with or without a way around them that has no parameters (He et al. 2015, option A)."""

    def __init__(self, width_in: int, width: int, stride: int, activation: type[nn.Module], skip: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = activation()
        self.stride, self.skip = stride, skip

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        if self.skip:
            more = out.shape[1] - x.shape[1]
            out = out + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, more))
        return self.act2(out)


def network(
    shape: torch.Size, classes: int, depth: int, width: int, activation: type[nn.Module], skip: bool, stem_stride: int
) -> nn.Module:
    """A convolution, three stages of ``(depth - 2) / 6`` blocks at one, two and four times the width, a head."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    width_in = width
    for stage in range(3):
        for number in range((depth - 2) // 6):
            stride = 2 if stage and not number else 1
            block = Block(width_in, width * 2**stage, stride, activation, skip)
            blocks[f"stage{stage + 1}_{number + 1}"], width_in = block, width * 2**stage
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(shape[0], width, 3, stem_stride, 1, bias=False),
            norm=nn.BatchNorm2d(width),
            act=activation(),
            **blocks,
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(width_in, classes),
        )
    )


@dataclass(frozen=True)
class Trained:
    """A network and its landscape.

    Args:
        name: activation, and whether it has skip connections.
        train_accuracy: over all training examples.
        test_accuracy: over all validation examples.
        plane: the loss around the trained weights.
        ratios: ``(C, C)`` |λmin / λmax| over the same plane; empty if it was not measured.
        ratio_xs: ``(C,)``, along both axes.
        ratio_basis: what ``ratios`` rest on, in words.
    """

    name: str
    train_accuracy: float
    test_accuracy: float
    plane: LandscapeResult
    ratios: Tensor
    ratio_xs: Tensor
    ratio_basis: str

    @property
    def row(self) -> dict[str, float]:
        """What the table says of it."""
        loss, ratios = self.plane.loss, self.ratios
        middle = loss[loss.shape[0] // 2, loss.shape[1] // 2]
        numbers = {
            "train accuracy": 100 * self.train_accuracy,
            "test accuracy": 100 * self.test_accuracy,
            "loss": float(middle),
            "sharpness": self.plane.sharpness,
            "worst loss": float(loss.max()),
        }
        if ratios.numel():
            numbers |= {"mean ratio": float(ratios.nanmean()), "max ratio": float(ratios.max())}
            numbers[f"% > {CLEARLY:g}"] = 100 * float((ratios > CLEARLY).double().mean())
        return numbers


def train(
    arguments: argparse.Namespace, data: TensorDataset, validation: TensorDataset, activation: str, skip: bool
) -> Trained:
    """One network, from the same seed as all others, and the plane around its trained weights."""
    pl.seed_everything(arguments.seed, verbose=False)
    shape, classes = data.tensors[0].shape[1:], int(data.tensors[1].max()) + 1
    kind = ACTIVATIONS[activation]
    net = network(shape, classes, arguments.depth, arguments.width, kind, skip, arguments.stem_stride)
    on = {"span": arguments.span, "radius": arguments.radius, "channels_last": True, "seed": arguments.seed}
    points, coarse = arguments.resolution, arguments.curvature_resolution
    callbacks = [LandscapeCallback("random", resolution=points, num_examples=arguments.num_examples, **on)]
    if coarse:  # on fewer examples: a point takes up to 60 Hessian-vector products
        on |= {"resolution": coarse, "curvature_resolution": coarse, "num_examples": arguments.curvature_examples}
        callbacks.append(LandscapeCallback("random", name="curvature", **on))
    order = torch.Generator().manual_seed(arguments.seed)
    model = AlongACosine(net, arguments.lr)
    with redirect_stdout(None):  # callbacks without a logger say so
        run = trainer(arguments, callbacks=callbacks, enable_progress_bar=False)
        run.fit(model, DataLoader(data, arguments.batch_size, shuffle=True, drop_last=True, generator=order))
    plane, last = callbacks[0].last_result, callbacks[-1].last_result
    return Trained(
        name=f"{kind.__name__}, {'with' if skip else 'no'} skip connections",
        train_accuracy=accuracy(model, data),
        test_accuracy=accuracy(model, validation),
        plane=plane,
        ratios=last.non_convexity,
        ratio_xs=last.curvature_xs,
        ratio_basis=basis(last),
    )


@torch.inference_mode()
def accuracy(model: pl.LightningModule, data: TensorDataset) -> float:
    """Share of the examples that the trained network gets right."""
    model.eval()
    right = [model(images.to(model.device)).argmax(1).cpu() == labels for images, labels in DataLoader(data, 500)]
    return float(torch.cat(right).double().mean())


def side_by_side(draw: Callable[[Trained], np.ndarray], nets: Sequence[Trained], columns: int) -> np.ndarray:
    """A picture of each network: those with skip connections above, those without below."""
    pictures = [draw(one) for one in nets]
    return np.concatenate([np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)])


def panels(nets: Sequence[Trained], columns: int, about: str) -> Panels:
    """Everything that there is to look at, each kind of picture in one scale for all networks."""
    limits = common_limits([one.plane.loss for one in nets])
    log = wide(torch.cat([one.plane.loss.flatten() for one in nets]))

    def axes(one: Trained) -> dict[str, Any]:
        directions = one.plane.directions
        return {"x_title": directions["x"], "y_title": directions["y"], "marks": [("trained weights", 0.0, 0.0)]}

    def title(one: Trained) -> str:
        return f"{one.name} · test accuracy {100 * one.test_accuracy:.1f} %"

    def contour(one: Trained) -> np.ndarray:
        place = (one.plane.loss.numpy(), one.plane.xs.numpy(), one.plane.ys.numpy())
        footer = f"{about}; {basis(one.plane)} One scale for all networks."
        look = {"colorbar_label": "loss", "limits": limits, "log": log}
        return contour_map(*place, title=title(one), footer=footer, **look, **axes(one))

    def surface(one: Trained) -> np.ndarray:
        place = (one.plane.loss.numpy(), one.plane.xs.numpy(), one.plane.ys.numpy())
        footer = f"{about}; {basis(one.plane)} One scale for all networks."
        return surface_plot(
            *place, title=title(one), footer=footer, z_title="loss", limits=limits, log=log, **axes(one)
        )

    def non_convexity(one: Trained) -> np.ndarray:
        place = (one.ratios.numpy(), one.ratio_xs.numpy(), one.ratio_xs.numpy())
        footer = f"{about}; {one.ratio_basis} One scale for all networks."
        look = {"colorbar_label": "|λmin / λmax|: 0 is convex", "limits": common_limits([n.ratios for n in nets])}
        return contour_map(*place, title=f"|λmin / λmax|, {one.name}", footer=footer, **look, **axes(one))

    last = nets[-1].plane
    explorer = landscape.explorer.explorer_page(
        [
            landscape.explorer.Surface(
                label=one.name,
                xs=one.plane.xs.numpy(),
                ys=one.plane.ys.numpy(),
                values={name: values.numpy() for name, values in one.plane.quantities.items()},
                marks=[("trained weights", 0.0, 0.0)],
            )
            for one in nets
        ],
        title="Loss around trained networks, with and without skip connections",
        footer=f"{about}; the slider goes through the networks. Of the last one: {basis(last)}",
        x_title=last.directions["x"],
        y_title=last.directions["y"],
    )
    shown: dict[str, Panel] = {
        "contours": Picture(side_by_side(contour, nets, columns), f"loss around trained weights; {about}"),
        "surfaces": Picture(side_by_side(surface, nets, columns), f"the same in 3-D; {about}"),
    }
    if all(one.ratios.isfinite().any() for one in nets):
        picture = side_by_side(non_convexity, nets, columns)
        shown["non_convexity"] = Picture(picture, f"|λmin / λmax| of the Hessian over the planes; {about}")
    rows = [(one.name, *one.row.values()) for one in nets]
    shown["networks"] = Table(("network", *nets[0].row), rows, about)
    caption = f"go through the networks with the slider; {about}"
    shown["explorer"] = Page(explorer, caption, landscape.explorer.EXPLORER_HEIGHT)
    return shown


def main() -> None:
    """Train them all, draw them side by side, print the table."""
    made = parser(__doc__)
    made.add_argument("--depth", type=int, default=32, help="layers with weights: 6 n + 2")
    made.add_argument("--width", type=int, default=8, help="channels of the first stage")
    made.add_argument("--stem-stride", type=int, default=1, help="2 halves the images first: four times as fast")
    made.add_argument("--activations", nargs="+", choices=list(ACTIVATIONS), default=list(ACTIVATIONS))
    made.add_argument("--epochs", type=int, default=15)
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--lr", type=float, default=0.1)
    made.add_argument("--resolution", type=int, default=17, help="points along each axis of the planes, odd")
    made.add_argument("--span", type=float, default=1.0, help="how far, in units of each filter's norm")
    made.add_argument("--radius", type=float, default=0.25, help="of the sharpness, in the same units")
    made.add_argument("--num-examples", type=int, default=256, help="training examples that the loss is measured on")
    made.add_argument("--curvature-resolution", type=int, default=5, help="likewise, of |λmin / λmax|; 0 for none")
    made.add_argument("--curvature-examples", type=int, default=128, help="that |λmin / λmax| is measured on")
    arguments = made.parse_args()
    if arguments.depth < 8 or arguments.depth % 6 != 2:
        made.error(f"--depth {arguments.depth}: 8, 14, 20, 26, 32, …: three stages of blocks of two layers")
    if arguments.resolution % 2 == 0:
        made.error(f"--resolution {arguments.resolution}: an odd one has the trained weights among its points")
    if arguments.radius < 2 * arguments.span / (arguments.resolution - 1):
        made.error(f"--radius {arguments.radius:g}: no other point of the plane is as near; raise it or --resolution")
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
    logging.disable(logging.INFO)  # what Lightning says of every run

    data, validation = load(arguments.data_file)
    wandb_logger, report = logs.loggers(arguments, run=LABEL, report=LABEL)
    nets = []
    for skip in (True, False):
        for activation in arguments.activations:
            began = time.perf_counter()
            one = train(arguments, data, validation, activation, skip)
            nets.append(one)
            took = time.perf_counter() - began
            print(f"{one.name}: test accuracy {100 * one.test_accuracy:.1f} %, took {took:.0f} s", flush=True)
    about = (
        f"depth {arguments.depth}, width {arguments.width}, {len(data)} training examples, {arguments.epochs} epochs, "
        f"seed {arguments.seed}"
    )
    shown = panels(nets, len(arguments.activations), about)
    moment = {"epoch": arguments.epochs - 1, "step": nets[-1].plane.step}
    publish_panels([wandb_logger, report], shown, LABEL, **moment)

    print(f"\n{about}\n{'':28}" + "".join(f"{name:>16}" for name in nets[0].row))
    for one in nets:
        print(f"{one.name:28}" + "".join(f"{number:16.4g}" for number in one.row.values()))
    if len(nets[0].ratios):
        print(f"ratio: |λmin / λmax| over the plane, {nets[0].ratios.numel()} points; ReLU's kinks have no part in it")
    logs.say_where(arguments, wandb_logger, report)


if __name__ == "__main__":
    main()
