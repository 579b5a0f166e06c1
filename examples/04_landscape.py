"""The shape of the loss that a small CNN learns on: where training went through it, and how it curves.

    python examples/04_landscape.py                                     # digits
    python examples/04_landscape.py --resolution 41 --epochs 20         # finer, longer
    python examples/04_landscape.py --data-file mnist.npz --epochs 3    # any .npz; see examples/data.py

Three slices through the same loss: the plane of the trajectory's two main directions, as it is after every few epochs
(a film, and a page to walk on); a random plane around the trained weights, with a map of its curvature; the line from
the first weights to the trained ones. Beside them the Hessian's spectrum over training. Every slice is two dimensions
of many thousands: the example prints how far training was off the plane, and what the plane makes of it.
"""

from __future__ import annotations

from collections import OrderedDict

import lightning.pytorch as pl
import logs
import torch
from common import parser, trainer
from data import load
from nets import Sgd
from torch import nn
from torch.utils.data import DataLoader

from lightning_dynamics import CurvatureCallback, CurvatureResult, LandscapeCallback, LandscapeResult, landscape

CLEARLY = 0.1  # |λmin / λmax| from which on a point is counted as not convex


def cnn(shape: torch.Size, classes: int, width: int = 8) -> nn.Module:
    """Three convolutions with batch normalisation, and a head."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], width, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(width),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            norm2=nn.BatchNorm2d(2 * width),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False),
            norm3=nn.BatchNorm2d(4 * width),
            relu3=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(4 * width, classes),
        )
    )


def print_trajectory(result: LandscapeResult) -> None:
    """How far the plane of the trajectory speaks for the training."""
    first, second = result.explained_variance.tolist()
    walk = " + ".join(f"{100 * share:.0f}" for share in landscape.RANDOM_WALK)
    print(
        f"\nthe trajectory's plane holds {100 * first:.1f} + {100 * second:.1f} % of its variance "
        f"(a pure random walk: {walk} %)"
    )
    print(f"{'step':>8}{'true loss':>12}{'loss in plane':>16}{'off the plane':>16}{'from the end, in it':>22}")
    count = len(result.trajectory_steps)
    for i in sorted({0, count // 8, count // 4, count // 2, count - 1}):
        print(
            f"{result.trajectory_steps[i]:8d}{result.trajectory_loss[i]:12.4f}{result.trajectory_slice_loss[i]:16.4f}"
            f"{result.residual_distance[i]:16.3f}{result.trajectory[i].norm():22.3f}"
        )


def print_plane(result: LandscapeResult, radius: float) -> None:
    """The random plane around the trained weights in numbers."""
    ratio = result.non_convexity
    print(f"\nrandom plane: loss {result.loss.min():.4f} to {result.loss.max():.4f}")
    print(f"sharpness: {result.sharpness:.3f} (worst loss within {radius:g} of the weights' norm, relative)")
    print(
        f"|λmin / λmax| of {ratio.numel()} points: mean {ratio.nanmean():.3f}, median {ratio.nanmedian():.3f}, "
        f"above {CLEARLY:g} in {100 * (ratio > CLEARLY).double().mean():.0f} % of them"
    )


def print_line(result: LandscapeResult) -> None:
    """Some points of the line from the first weights (t = 0) to the trained ones (t = 1)."""
    print(f"\nline from the first weights to the trained ones: barrier {result.barrier:.4f}")
    print(f"{'t':>8}{'loss':>12}{'val/loss':>12}{'accuracy':>12}{'val/accuracy':>14}")
    for i in range(0, len(result.xs), max(1, len(result.xs) // 8)):
        print(
            f"{result.xs[i]:8.3f}{result.loss[i]:12.4f}{result.others['val/loss'][i]:12.4f}"
            f"{result.accuracy[i]:12.3f}{result.others['val/accuracy'][i]:14.3f}"
        )


def print_curvature(results: list[CurvatureResult]) -> None:
    """The Hessian over training."""
    print(
        f"\nHessian of the loss of {results[-1].num_examples} examples, {results[-1].num_parameters} parameters "
        "(with the running statistics of batch normalisation, as they were)"
    )
    print(f"{'step':>8}{'loss':>12}{'λmax':>12}{'λmin':>12}{'|λmin/λmax|':>14}{'trace':>12}{'':13}products")
    for result in results:
        largest, smallest = float(result.largest[0]), float(result.smallest[0])
        print(
            f"{result.step:8d}{result.loss:12.4f}{largest:12.4g}{smallest:12.4g}{abs(smallest / largest):14.4f}"
            f"{result.trace:12.4g} ± {result.trace_standard_error:<10.3g}{result.iterations:8d}"
            f"{'' if result.converged else '   not converged'}"
        )


def main() -> None:
    """Train, look around, print what was seen."""
    made = parser(__doc__)
    made.add_argument("--epochs", type=int, default=12)
    made.add_argument(
        "--every", type=int, default=2, help="epochs from one look at the trajectory and the curvature to the next"
    )
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--lr", type=float, default=0.05)
    made.add_argument("--width", type=int, default=8, help="channels of the first convolution")
    made.add_argument("--resolution", type=int, default=21, help="points along each axis of the planes")
    made.add_argument("--curvature-resolution", type=int, default=9, help="likewise, of the map of curvature")
    made.add_argument("--num-examples", type=int, default=256, help="training examples that the loss is measured on")
    arguments = made.parse_args()

    pl.seed_everything(arguments.seed, verbose=False)
    train, validation = load(arguments.data_file)
    shape, classes = train.tensors[0].shape[1:], int(train.tensors[1].max()) + 1
    wandb_logger, report = logs.loggers(arguments, run="landscape", report="landscape")

    on = {"resolution": arguments.resolution, "num_examples": arguments.num_examples, "seed": arguments.seed}
    trajectory = LandscapeCallback("pca", every_n_epochs=arguments.every, name="trajectory", **on)
    plane = LandscapeCallback("random", curvature_resolution=arguments.curvature_resolution, name="random", **on)
    line = LandscapeCallback(landscape.Through("initialization", "current"), second_data="val", name="line", **on)
    curvature = CurvatureCallback(
        num_examples=arguments.num_examples, every_n_epochs=arguments.every, at_start=True, seed=arguments.seed
    )
    trainer(arguments, [wandb_logger, report], [trajectory, plane, line, curvature]).fit(
        Sgd(cnn(shape, classes, arguments.width), arguments.lr, momentum=0.9),
        DataLoader(train, arguments.batch_size, shuffle=True, drop_last=True),
        DataLoader(validation, 1000),
    )

    print_trajectory(trajectory.last_result)
    print_plane(plane.last_result, plane.last_result.settings["radius"])
    print_line(line.last_result)
    print_curvature(curvature.results)
    logs.say_where(arguments, wandb_logger, report)


if __name__ == "__main__":
    main()
