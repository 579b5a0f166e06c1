"""Planes of the loss: what they cost, beside the bare forward passes and beside loss-landscapes, and whether exact.

The roofline is the forward pass and the loss in inference mode, and nothing else. A machine that other jobs use changes
its speed from second to second, so each way is interrupted at every third point for one pass of the roofline, at three
batch sizes in turn (the best of seven), of which the quickest counts: all meet the same seconds. Ways take turns in
random order, in one process of one thread; times are the process's own CPU seconds. A call is measured whole: trying
the quantities, moving the weights, restoring them. Ratios are per point. With fewer points what happens once weighs
more, and the quickest of three is more often so by luck: both to our disadvantage.

Each network has a process of its own: what loss-landscapes takes for 2,000 images at once depends on whether the memory
allocator gives 100 MB back after every layer, as in a fresh process (twice the roofline), or has come to hold as much
before (measured once, after a ResNet-20: 1.2 times).

    python benchmarks/landscape.py                     # 21 x 21 points, 2,000 examples: an hour
    python benchmarks/landscape.py --resolution 9      # the ratios in a few minutes
    python benchmarks/landscape.py --quick             # a first impression

Noise images and labels. Afterwards: two processes beside one (LandscapeCallback in a Trainer; wall clock), and what
re-estimating batch normalisation costs.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from nets import resnet20
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import LandscapeCallback, landscape
from lightning_dynamics.analyses.landscape.minibatches import comfortable_size
from lightning_dynamics.core.isolation import isolated

SIZES = (32, 64, 128, 256, 512, 1000, 2000)
"""Batch sizes of which the roofline gets the quickest."""
ROOFLINE_TARGET, RIVAL_TARGET = 1.05, {"MLP": 1.0, "CNN": 2.0}


# ---- networks ----------------------------------------------------------------------------------------------


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn(normalised: bool = False) -> nn.Module:
    def stage(a: int, b: int) -> list[nn.Module]:
        norm: list[nn.Module] = [nn.BatchNorm2d(b)] if normalised else []
        return [nn.Conv2d(a, b, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*stage(1, 16), *stage(16, 32), *head)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (mlp, (1, 28, 28)),
    "CNN": (cnn, (1, 28, 28)),
    "ResNet-20": (resnet20, (3, 32, 32)),
}


def cross_entropy(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


# ---- ways --------------------------------------------------------------------------------------------------


class Setting:
    """A network, its examples, and the plane."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], examples: int, resolution: int) -> None:
        self.module = module.eval()
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(examples, *shape, generator=generator)
        self.y = torch.randint(10, (examples,), generator=generator)
        self.resolution = resolution
        self.axis = torch.linspace(-1, 1, resolution, dtype=torch.float64)
        self.directions = landscape.random_directions(dict(module.named_parameters()))

    @classmethod
    def of(cls, net: str, examples: int, resolution: int) -> Setting:
        torch.manual_seed(0)
        make, shape = NETS[net]
        return cls(make(), shape, examples, resolution)

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.x.split(size), self.y.split(size), strict=True))

    def forward_passes(self, size: int) -> Callable[[], None]:
        """One over all examples, with its loss."""
        module, batches = copy.deepcopy(self.module), self.batches(size)

        def run() -> None:
            with torch.inference_mode():
                for batch in batches:
                    cross_entropy(module, batch)

        return run

    def ours(self, **options: Any) -> Way:
        options = {"batch_size": "auto", "quantities": []} | options

        def run(pauses: Pauses) -> Tensor:
            def loss(module: Any, batch: Any) -> Tensor:
                pauses.count(len(batch[1]))
                return cross_entropy(module, batch)

            return landscape.evaluate_plane(
                self.module, loss, [(self.x, self.y)], self.directions, self.axis, self.axis, **options
            ).loss

        return run

    def rival(self, size: int | None = None) -> Way:
        """loss-landscapes with its own Loss on all examples, as its README has it; or cut, by a metric of one's own."""
        import loss_landscapes
        from loss_landscapes.metrics import Loss

        module = copy.deepcopy(self.module)  # it leaves a model moved
        batches = self.batches(size or len(self.x))

        class Cut(Loss):  # type: ignore[misc]
            def __call__(self, wrapper: Any) -> float:
                found = (len(x) * self.loss_fn(wrapper.forward(x), y).item() for x, y in batches)
                return sum(found) / len(self.inputs)

        def run(pauses: Pauses) -> Any:
            def loss(logits: Tensor, targets: Tensor) -> Tensor:
                pauses.count(len(targets))
                return F.cross_entropy(logits, targets)

            metric = (Loss if size is None else Cut)(loss, self.x, self.y)
            return loss_landscapes.random_plane(module, metric, 1, self.resolution, "filter", deepcopy_model=True)

        return run

    def by_hand(self) -> Tensor:
        """A plain loop: a copy, whose weights are set anew at every point."""
        module = copy.deepcopy(self.module)
        own = {name: p.detach().clone() for name, p in module.named_parameters()}
        d1, d2 = self.directions
        rows = []
        with torch.no_grad():
            for y in self.axis.tolist():
                rows.append([])
                for x in self.axis.tolist():
                    for name, p in module.named_parameters():
                        p.copy_(own[name] + x * d1[name] + y * d2[name])
                    rows[-1].append(cross_entropy(module, (self.x, self.y)).item())
        return torch.tensor(rows, dtype=torch.float64)


class Pauses:
    """Runs forward passes now and then while something else is measured, and knows how long they took.

    Args:
        forward_passes: of several kinds, in turn.
        every: examples between two of them.
    """

    def __init__(self, forward_passes: Sequence[Callable[[], Any]] = (), every: float = math.inf) -> None:
        self.forward_passes, self.every, self.seen = forward_passes, every, 0
        self.seconds: list[list[float]] = [[] for _ in forward_passes]
        self.next = itertools.cycle(range(len(forward_passes)))

    def count(self, examples: int) -> None:
        self.seen += examples
        if self.seen >= self.every:
            kind = next(self.next)
            start = time.process_time()
            self.forward_passes[kind]()
            self.seconds[kind].append(time.process_time() - start)
            self.seen = 0

    @property
    def roofline(self) -> float:
        """Seconds of the quickest kind."""
        return min(map(statistics.mean, filter(None, self.seconds)))


Way = Callable[[Pauses], Any]


def measured(
    ways: dict[str, Way], setting: Setting, sizes: Sequence[int], reps: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Of every way, in every repetition: milliseconds per point, and how many times the roofline's."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    points, order = setting.resolution**2, random.Random(0)
    forward_passes = [setting.forward_passes(size) for size in sizes]
    for _ in range(reps):
        for name, run in order.sample(list(ways.items()), len(ways)):
            pauses = Pauses(forward_passes, 3 * len(setting.x))
            start = time.process_time()
            run(pauses)
            own = (time.process_time() - start - sum(map(sum, pauses.seconds))) / points
            found[name][0].append(1000 * own)
            found[name][1].append(own / pauses.roofline)
    return found


def best_sizes(setting: Setting, reps: int) -> tuple[list[int], dict[int, float]]:
    """The three quickest batch sizes, and milliseconds per pass of each."""
    ways = {size: setting.forward_passes(size) for size in SIZES if size <= len(setting.x)}
    times: dict[int, list[float]] = {size: [] for size in ways}
    order = random.Random(0)
    for _ in range(reps + 1):
        for size, run in order.sample(list(ways.items()), len(ways)):
            start = time.process_time()
            run()
            times[size].append(1000 * (time.process_time() - start))
    found = {size: statistics.median(values[1:]) for size, values in times.items()}
    return sorted(found, key=lambda size: found[size])[:3], found


def auto_size(setting: Setting) -> int:
    with isolated(setting.module):
        batch = (setting.x[:32], setting.y[:32])
        return comfortable_size(setting.module, (batch, 32), lambda b: cross_entropy(setting.module, b))


# ---- what is printed ---------------------------------------------------------------------------------------


def sizes_of(net: str, examples: int, reps: int) -> list[int]:
    setting = Setting.of(net, examples, 1)
    setting.ours()(Pauses())
    best, found = best_sizes(setting, reps)
    own = auto_size(setting)
    listed = ", ".join(f"{size}: {ms:.1f}{' (best)' if size == best[0] else ''}" for size, ms in found.items())
    print(f"- {net}: {listed}; 'auto' cuts to at most {own}", flush=True)
    return best


def table(net: str, examples: int, resolution: int, sizes: Sequence[int], reps: int) -> list[str]:
    setting = Setting.of(net, examples, resolution)
    own = min(auto_size(setting), examples)
    ours, rival = "evaluate_plane, loss", "loss-landscapes 3.0.6"
    ways = {
        ours: setting.ours(),
        "evaluate_plane, loss and accuracy": setting.ours(quantities=["accuracy"]),
        rival: setting.rival(),
        f"  with a metric of one's own that cuts to {own}": setting.rival(own),
    }
    if net == "CNN":
        ways["evaluate_plane, loss, `channels_last=True`"] = setting.ours(channels_last=True)
    found = measured(ways, setting, sizes, reps)
    ratios = {name: statistics.median(values) for name, (_, values) in found.items()}
    cut = ", ".join(map(str, sorted(sizes)))
    print(f"\n| {net}, roofline cut to {cut} | ms per point | × roofline | (from - to) | faster than loss-landscapes |")
    print("|---|---|---|---|---|")
    for name, (ms, values) in found.items():
        spread = f"{min(values):.3f} - {max(values):.3f}"
        faster = f"{ratios[rival] / ratios[name]:.2f} ×"
        print(f"| {name} | {statistics.median(ms):.2f} | {ratios[name]:.3f} | {spread} | {faster} |", flush=True)
    exact = setting.by_hand()
    for words, options in {"": {}, ", channels last": {"channels_last": True}}.items():
        off = float(((setting.ours(**options)(Pauses()) - exact).abs() / exact).max())
        print(f"Largest relative difference from a plain loop{words}: {off:.1e}")
    to_roofline, to_rival = ratios[ours], ratios[rival] / ratios[ours]
    verdict = {True: "met", False: "MISSED"}
    return [
        f"{net}: {to_roofline:.3f} × roofline (to reach: {ROOFLINE_TARGET}): {verdict[to_roofline <= ROOFLINE_TARGET]}",
        f"{net}: {to_rival:.2f} × as fast as loss-landscapes (to reach: {RIVAL_TARGET[net]:g}): "
        f"{verdict[to_rival >= RIVAL_TARGET[net]]}",
    ]


def batchnorm(examples: int, resolution: int, reps: int) -> None:
    setting = Setting(cnn(normalised=True), (1, 28, 28), examples, resolution)
    modes = ("frozen", "batch", "reestimate")
    ways = {mode: setting.ours(batchnorm=mode, batch_size=128) for mode in modes}
    found = {mode: statistics.median(values) for mode, (_, values) in measured(ways, setting, [128], reps).items()}
    print(
        f"\nBatch normalisation (CNN with two), × forward passes: frozen {found['frozen']:.2f}, by the minibatch "
        f"{found['batch']:.2f}, re-estimated {found['reestimate']:.2f}. Documented: one pass, or two."
    )


# ---- two processes -----------------------------------------------------------------------------------------


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Timed(LandscapeCallback):
    """An event's seconds: from its first point to everybody's result."""

    folder = Path()

    def measure(self, context: Any) -> Any:
        self.start = time.perf_counter()
        return super().measure(context)

    def combine(self, part: Any, context: Any) -> Any:
        result = super().combine(part, context)
        found = {"seconds": time.perf_counter() - self.start, "loss": result.loss}
        torch.save(found, self.folder / f"{context.ranks.size}-{context.ranks.rank}.pt")
        return result


def train(processes: int, folder: str, examples: int, resolution: int) -> None:
    """In a process of its own: a training that does nothing, with a landscape at its end."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(examples, 1, 28, 28), torch.randint(10, (examples,)))
    callback = Timed(resolution=resolution, num_examples=examples, explorer=False, on_error="raise")
    callback.folder = Path(folder)
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"} if processes == 2 else {"devices": 1}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", callbacks=[callback], default_root_dir=folder, **quiet, **options
    )
    trainer.fit(Classifier(), DataLoader(data, 32))


def two_processes(examples: int, resolution: int, reps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[int, list[float]] = {1: [], 2: []}
        same = True
        for _ in range(reps):
            for count, values in seconds.items():
                command = [sys.executable, __file__, "--processes", str(count), "--folder", folder]
                command += ["--examples", str(examples), "--resolution", str(resolution)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                found = [torch.load(Path(folder) / f"{count}-{rank}.pt") for rank in range(count)]
                values.append(max(one["seconds"] for one in found))
            one, *two = (torch.load(Path(folder) / name)["loss"] for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
            same &= all(torch.equal(one, other) for other in two)
        quicker = statistics.median(a / b for a, b in zip(seconds[1], seconds[2], strict=True))
        print(
            f"\nLandscapeCallback on the CNN, {resolution} x {resolution} points, wall clock: 1 process "
            f"{min(seconds[1]):.1f} s, 2 processes (ddp_fork, a thread each) {min(seconds[2]):.1f} s at best; "
            f"{quicker:.2f} × as fast in the median; values {'bit-identical' if same else 'NOT THE SAME'}. Where other "
            "jobs want the cores, this says little."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 x 5 points, 3 repetitions")
    parser.add_argument("--resolution", type=int, help="points along each axis; 21")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--reps", type=int, help="in turns; 5 (three times as many for the MLP)")
    parser.add_argument("--net", choices=list(RIVAL_TARGET), help="only this one, in this process")
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    resolution = arguments.resolution or (5 if arguments.quick else 21)
    reps, examples = arguments.reps or (3 if arguments.quick else 5), arguments.examples
    if arguments.processes:
        train(arguments.processes, arguments.folder, examples, resolution)
        return
    torch.set_num_threads(1)
    print(
        f"{examples} noise examples, {resolution} x {resolution} points, {reps} repetitions in turns (MLP: "
        f"{3 * reps}), one thread, process CPU time, torch {torch.__version__}."
    )
    print("\nMilliseconds per forward pass over all examples (ResNet-20: 512), by batch size, medians:", flush=True)
    if arguments.net:
        net, turns = arguments.net, 3 * reps if arguments.net == "MLP" else reps
        verdicts = table(net, examples, resolution, sizes_of(net, examples, 5 * turns if net == "MLP" else reps), turns)
        print("\nTargets:", *verdicts, sep="\n- ")
        return
    sizes_of("ResNet-20", min(512, examples), reps)
    for net in RIVAL_TARGET:
        print(f"\n# {net}\n", flush=True)
        given = {"examples": examples, "resolution": resolution, "reps": reps, "net": net}
        options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        subprocess.run([sys.executable, __file__, *options], check=True)
    batchnorm(min(512, examples), min(7, resolution), reps)
    two_processes(min(512, examples), min(15, 2 * resolution), min(3, reps))


if __name__ == "__main__":
    main()
