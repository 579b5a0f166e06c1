"""Which layers of a network represent the data alike, and when do they become so? CKA over a training.

    python examples/01_cka.py                         # digits, a small residual network
    python examples/01_cka.py --width 32 --epochs 20  # wider, longer
    python examples/01_cka.py --data-file mnist.npz   # any .npz; see examples/data.py

Two callbacks watch one training. The first compares all layers with each other: a map, and how much of each layer's
variance its first principal component holds. Nguyen et al. (2021) found that large networks have blocks of layers that
are alike because they share one dominant direction; the map without first principal components tells whether this is
so here. The second compares each layer with itself before training: what has moved, and how far.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as pl
import logs
import torch
from common import parser, trainer
from data import load, shape_and_classes
from nets import AlongACosine, resnet
from torch.utils.data import DataLoader

from lightning_dynamics import CKACallback, CKAResult


def parse() -> argparse.Namespace:
    """What to train."""
    made = parser(__doc__)
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--lr", type=float, default=0.1)
    made.add_argument("--width", type=int, default=16, help="channels of the first stage")
    made.add_argument("--num-examples", type=int, default=360, help="validation examples that layers are compared on")
    return made.parse_args()


def print_layers(own: CKAResult, change: CKAResult) -> None:
    """One line per layer."""
    print(f"\n{'layer':24}{'like the next':>16}{'like at start':>16}{'first component':>18}")
    to_next = [*own.matrix.diagonal(1).tolist(), float("nan")]
    before = dict(zip(change.layers_x, change.matrix.diagonal().tolist(), strict=True))
    for layer, similarity, share in zip(own.layers_x, to_next, own.first_pc_variance.tolist(), strict=True):
        print(f"{layer:24}{similarity:16.3f}{before[layer]:16.3f}{100 * share:16.1f} %")


def print_training(own: list[CKAResult], change: list[CKAResult]) -> None:
    """One line per event: how alike all layers are, with and without their first components, and the change so far."""
    print(f"\n{'epoch':>8}{'step':>8}{'mean CKA':>12}{'without 1st':>14}{'like at start':>16}")
    for one, other in zip(own, change, strict=True):
        pairs = ~torch.eye(len(one.matrix), dtype=torch.bool)
        values = one.matrix[pairs].nanmean(), one.matrix_without_first_pc[pairs].nanmean()
        print(f"{one.epoch:8d}{one.step:8d}{values[0]:12.3f}{values[1]:14.3f}{other.matrix.diagonal().nanmean():16.3f}")


def main() -> None:
    """Train, compare, print what was seen."""
    arguments = parse()
    pl.seed_everything(arguments.seed, verbose=False)
    train, validation = load(arguments.data_file)
    on = {"data": "val", "num_examples": arguments.num_examples, "at_start": True, "seed": arguments.seed}
    own = CKACallback(**on)
    change = CKACallback(compare_to="initialization", name="change", **on)
    loggers = logs.loggers(arguments, run="cka", report="cka")
    trainer(arguments, loggers, [own, change]).fit(
        AlongACosine(resnet(*shape_and_classes(train), arguments.width), arguments.lr),
        DataLoader(train, arguments.batch_size, shuffle=True),
        DataLoader(validation, 1000),
    )

    last = own.last_result
    print(f"\n{last.num_examples} examples of {last.data}, {last.estimator}")
    print_training(own.results, change.results)
    print_layers(last, change.last_result)
    blocks = [f"{last.layers_x[start]} to {last.layers_x[stop - 1]}" for start, stop in last.blocks]
    print(f"\nblocks of layers that are all alike: {'; '.join(blocks) or 'none'}")
    logs.say_where(arguments, *loggers)


if __name__ == "__main__":
    main()
