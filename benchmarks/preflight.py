"""What it costs to find out what a batch means, in training steps.

Run ``python benchmarks/preflight.py``; with ``--picture docs/images/preflight_cost.png`` it draws them, too. Times are
process CPU seconds of one thread, interleaved, medians: of the experiments that every fit with an analysis makes once
(eval mode), of a whole preflight without callbacks, which sets up a Trainer besides, and of a training step (forward,
backward, SGD) on minibatches of 64 of scikit-learn's digits; an epoch has 23.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curvature import cnn, mlp
from nets import Classifier, resnet20
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import preflight
from lightning_dynamics.core.probe import probe_without_trainer
from lightning_dynamics.core.understanding import understand
from lightning_dynamics.figures.bars import bars
from lightning_dynamics.panels.encode import png

BATCH = 64


def resnet() -> nn.Module:
    """With batch normalisation, whose modes are compared, too."""
    return nn.Sequential(nn.Conv2d(1, 3, 1), resnet20())


def measured(module: Classifier, data: TensorDataset, repeats: int) -> dict[str, float]:
    """Median CPU seconds by name."""
    loader = DataLoader(data, BATCH)
    batch = next(iter(loader))
    optimizer: Any = module.configure_optimizers()

    def step() -> None:
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()

    def experiments() -> None:
        understand(module, probe_without_trainer(module, loader, num_examples=512, batch_size=128, seed=0))

    def whole() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            preflight(module, loader)

    runs: dict[str, Callable[[], None]] = {"step": step, "experiments": experiments, "preflight": whole}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def main() -> None:
    """Measure three networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    digits = load_digits()
    images = torch.tensor(digits.images[:1437], dtype=torch.float32).unsqueeze(1) / 16
    data = TensorDataset(images, torch.tensor(digits.target[:1437]))
    epoch = -(-len(data) // BATCH)
    found = {}
    for name, make in {"MLP": mlp, "CNN": cnn, "ResNet-20": resnet}.items():
        torch.manual_seed(0)
        times = measured(Classifier(make()), data, arguments.repeats)
        steps = {key: times[key] / times["step"] for key in ("experiments", "preflight")}
        found[name] = list(steps.values())
        print(
            f"{name:10} step {1e3 * times['step']:6.2f} ms   "
            + "   ".join(
                f"{key} {1e3 * times[key]:6.0f} ms = {count:5.1f} steps = {count / epoch:.2f} epochs"
                for key, count in steps.items()
            )
        )
    if arguments.picture is not None:
        picture = bars(
            np.array(list(found.values())).T,
            labels=list(found),
            names=["experiments, once per fit", "the whole of preflight"],
            title="Finding out what a batch means",
            footer=f"digits, minibatches of {BATCH}, an epoch has {epoch} steps; medians of CPU time, one thread",
            x_title="training steps",
        )
        arguments.picture.write_bytes(png(picture))


if __name__ == "__main__":
    main()
