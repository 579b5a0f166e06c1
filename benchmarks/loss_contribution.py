"""LossContributionCallback: what an event costs, and how exact it is.

Cost: an event beside its roofline (the bare gradient passes over the probe that its rule needs, nothing else) and
beside a training step, interleaved in random order in this process; peak memory in a fresh process each; and the
official recipe's cost for the same network, from the measured time of a pass over its data.
Exactness: the relative residual of whole runs, with small steps and at the edge of stability.

    python benchmarks/loss_contribution.py              # everything, some minutes
    python benchmarks/loss_contribution.py --quick      # fewer repetitions
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from nets import Classifier, mlp, resnet20
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from lightning_dynamics import LossContributionCallback, loss_contribution
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.quiet import logging_disabled
from lightning_dynamics.core.schedule import Moment

PROBE = 1000
BATCH = 500
"""Of the probe; ours and the roofline's."""
TRAINING_BATCH = 250
OFFICIAL = {"MLP": 55_000 + 5_000, "ResNet-20": 45_000 + 5_000}
"""Examples of the paper's code: the whole training and validation set, two gradients each and step at least."""


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (mlp, (1, 28, 28)),
    "ResNet-20": (resnet20, (3, 32, 32)),
}


class Setting:
    """One network on noise images, without a Trainer around it."""

    def __init__(self, net: str) -> None:
        torch.manual_seed(0)
        make, shape = NETS[net]
        self.module = Classifier(make())
        self.parameters = list(self.module.parameters())
        self.images, self.labels = torch.randn(PROBE, *shape), torch.randint(10, (PROBE,))
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=1e-3)

    def training_step(self) -> None:
        loss = F.cross_entropy(self.module(self.images[:TRAINING_BATCH]), self.labels[:TRAINING_BATCH])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def roofline(self, passes: int) -> Callable[[], None]:
        batches = list(zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True))

        def run() -> None:
            for _ in range(passes):
                for x, y in batches:
                    torch.autograd.grad(F.cross_entropy(self.module(x), y), self.parameters)

        return run

    def ours(self, **options: Any) -> Callable[[], None]:
        """An event, as :class:`AnalysisCallback` runs it."""
        callback = LossContributionCallback(num_examples=PROBE, batch_size=BATCH, **options)
        batches = tuple(tuple(part.tolist()) for part in torch.arange(PROBE).split(BATCH))
        probe = Probe(TensorDataset(self.images, self.labels), "noise", batches, default_collate, lambda b: b, seed=0)
        steps = iter(range(10**9))

        def run() -> None:
            context = Context(self.module, probe, Ranks(), Moment("step", 0, step := next(steps)))
            with isolated(self.module, mode="eval", seed=0), logging_disabled(self.module):
                part = callback.measure(context)
            callback._history.settle()
            callback._history.add(callback.combine(part, context), step)

        with isolated(self.module, mode="eval", seed=0), logging_disabled(self.module):
            callback.prepare(Context(self.module, probe, Ranks(), Moment("start", 0, 0)))
        run()
        # As late in a training: of a thousand events, one becomes a result that is kept.
        callback._history._every = 1024
        return run


WAYS: dict[str, tuple[Callable[[Setting], Callable[[], None]], str]] = {
    "training step": (lambda s: s.training_step, ""),
    "roofline, 1 pass": (lambda s: s.roofline(1), ""),
    "roofline, 2 passes": (lambda s: s.roofline(2), ""),
    "trapezoid": (lambda s: s.ours(rule="trapezoid"), "roofline, 1 pass"),
    "simpson": (lambda s: s.ours(), "roofline, 2 passes"),
    "  without per_parameter": (lambda s: s.ours(per_parameter=False), "roofline, 2 passes"),
}


def compare(net: str, reps: int) -> None:
    setting = Setting(net)
    ways = {name: make(setting) for name, (make, _) in WAYS.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(reps + 2):
        setting.training_step()  # the events need something that has moved
        for name, run in order.sample(list(ways.items()), len(ways)):
            if name not in ("training step", "roofline, 1 pass", "roofline, 2 passes"):
                setting.training_step()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    times = {name: values[2:] for name, values in times.items()}
    size = sum(parameter.numel() for parameter in setting.parameters)
    print(
        f"\n{net}, {size:,} parameters, probe of {PROBE} in minibatches of {BATCH}, training minibatches of "
        f"{TRAINING_BATCH}, {torch.get_num_threads()} threads, {reps} interleaved repetitions"
    )
    print(f"{'':26}{'best ms':>9}{'median ms':>11}{'x roofline':>12}{'x training step':>17}{'peak MB':>9}")

    def ratio(name: str, other: str) -> float:
        # Repetition by repetition: what else the machine does then weighs on both.
        return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))

    for name, values in times.items():
        roofline = WAYS[name][1]
        against = f"{ratio(name, roofline):12.3f}" if roofline else " " * 12
        print(
            f"{name:26}{1000 * min(values):9.2f}{1000 * statistics.median(values):11.2f}{against}"
            f"{ratio(name, 'training step'):17.2f}{peak_memory(net, name):9.0f}",
            flush=True,
        )
    passes = 2 * OFFICIAL[net] / PROBE
    step = statistics.median(times["roofline, 1 pass"]) * passes
    print(
        f"{'official recipe, computed':26}{'':9}{1000 * step:11.0f}{'':12}"
        f"{step / statistics.median(times['training step']):17.0f}   (two gradients of {OFFICIAL[net]:,} examples)"
    )


def peak_memory(net: str, way: str) -> float:
    """MB above the start of the work, in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", way, "--net", net]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(answer.stdout.split()[-1])


def print_peak(net: str, way: str) -> None:
    setting = Setting(net)
    run = WAYS[way][0](setting)
    setting.training_step()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = memory("VmRSS")
    run()
    print(memory("VmHWM") - before)


def memory(what: str) -> float:
    """MB, from Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what + ":"))


def residuals(epochs: int) -> None:
    """Whole runs on scikit-learn's digits."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))

    def net(activation: type[nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 100), activation(), nn.Linear(100, 50), activation(), nn.Linear(50, 10))

    runs: list[tuple[str, type[nn.Module], float, float, dict[str, Any]]] = [
        ("tanh, lr 0.1", nn.Tanh, 0.1, 0.0, {"rule": "simpson"}),
        ("ReLU, lr 0.1", nn.ReLU, 0.1, 0.0, {"rule": "simpson"}),
        ("ReLU, lr 0.1", nn.ReLU, 0.1, 0.0, {"rule": "trapezoid"}),
        ("ReLU, lr 0.1", nn.ReLU, 0.1, 0.0, {"rule": "left"}),
        ("ReLU, lr 0.1, momentum 0.9", nn.ReLU, 0.1, 0.9, {"rule": "simpson"}),
        ("ReLU, lr 0.1, momentum 0.9", nn.ReLU, 0.1, 0.9, {"rule": "adaptive"}),
        ("ReLU, lr 0.2, momentum 0.9", nn.ReLU, 0.2, 0.9, {"rule": "simpson"}),
        ("ReLU, lr 0.2, momentum 0.9", nn.ReLU, 0.2, 0.9, {"rule": "adaptive"}),
        ("ReLU, lr 0.2, momentum 0.9", nn.ReLU, 0.2, 0.9, {"rule": loss_contribution.Adaptive(tolerance=1e-4)}),
    ]
    print(f"\nWhole runs: 64-100-50-10 on digits, minibatches of 64, {epochs} epochs, probe of {PROBE}")
    print(f"{'':30}{'rule':>22}{'loss':>18}{'residual %':>12}{'mean |r|/|dL| %':>17}{'unresolved':>14}")
    for name, activation, lr, momentum, options in runs:
        pl.seed_everything(0, verbose=False)
        callback = LossContributionCallback(num_examples=PROBE, batch_size=BATCH, on_error="raise", **options)
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            callbacks=[callback],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(net(activation), lr, momentum), DataLoader(data, 64, shuffle=True))
        result = callback.last_result
        own = options["rule"]
        rule = own if isinstance(own, str) else f"adaptive {own.tolerance}"
        print(
            f"{name:30}{rule:>22}{result.initial_loss:9.3f} -> {result.loss:5.3f}"
            f"{100 * result.relative_residual:12.4f}{100 * result.absolute_residual / result.absolute_change:17.3f}"
            f"{result.unresolved:6d} of {int(result.events.sum()):4d}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["cost", "residuals"])
    parser.add_argument("--net", choices=list(NETS), help=argparse.SUPPRESS)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    warnings.simplefilter("ignore")
    for package in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(package).setLevel(logging.ERROR)
    if arguments.peak_of:
        print_peak(arguments.net, arguments.peak_of)
        return
    if arguments.only != "residuals":
        for net in [arguments.net] if arguments.net else NETS:
            compare(net, {"MLP": 60, "ResNet-20": 5}[net] // (5 if arguments.quick else 1))
    if arguments.only != "cost":
        residuals(2 if arguments.quick else 10)


if __name__ == "__main__":
    main()
