"""CKA of two networks, and of one with itself: our callback beside torch-cka and pytorch-cka, in one run.

Each way computes the 31 x 31 map between the convolutions of untrained ResNet-32s (CIFAR shape, width 16) on
noise images, forward passes included. Times are taken interleaved in this process; peak memory in a fresh process
each; errors against a float64 computation on the same activations.

    python benchmarks/cka.py            # n = 128 and 256
    python benchmarks/cka.py --quick    # seconds instead of minutes; torch-cka left out
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from lightning_dynamics import CKACallback
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.schedule import Moment


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pad = (width - width_in) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (
            out + nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        ).relu()


class ResNet32(nn.Module):
    """31 convolutions: the stem and three stages of five blocks; shortcuts without parameters."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        widths = [16] * 5 + [32] * 5 + [64] * 5
        before = [16, *widths[:-1]]
        self.blocks = nn.Sequential(*(Block(a, b, 1 + (a != b)) for a, b in zip(before, widths, strict=True)))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


def convolutions(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


class Ours:
    """What an event of CKACallback does: the same code, without a Trainer around it."""

    def __init__(self, a: nn.Module, b: nn.Module, images: Tensor, n: int, components: bool) -> None:
        batches = tuple(tuple(part.tolist()) for part in torch.arange(len(images)).split(n))
        probe = Probe(TensorDataset(images), "noise", batches, default_collate, lambda batch: batch, seed=0)
        self.a, self.b = a, b
        self.callback = CKACallback(layers="Conv2d", batch_size=n, components=components)
        self.context = Context(a, probe, Ranks(), Moment("epoch", 0, 0))
        for _ in self.context.batches():
            pass  # the probe is read once in a training, not once an event
        with isolated(a):
            self.callback.prepare(self.context)

    def __call__(self) -> Tensor:
        if self.b is not self.a:
            with isolated(self.b):
                self.callback._references = [self.callback._look(self.b, self.callback._order, self.context, "other")]
        with isolated(self.a):
            part = self.callback.measure(self.context)
        return self.callback.combine(part, self.context).matrix


def pytorch_cka(a: nn.Module, b: nn.Module, images: Tensor, n: int) -> Callable[[], Tensor]:
    # pytorch-cka's package is called `cka`, as this file is, and Python looks beside the script first.
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
    from cka import compute_cka

    loader = DataLoader(TensorDataset(images), n)
    return lambda: compute_cka(a, b, loader, layers=convolutions(a), progress=False)[0]


def torch_cka(a: nn.Module, b: nn.Module, images: Tensor, n: int) -> Callable[[], Tensor]:
    from torch_cka import CKA

    loader = DataLoader(TensorDataset(images), n)

    def run() -> Tensor:
        # It leaves its hooks on the models, so each run gets copies.
        names = convolutions(a)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            tool = CKA(copy.deepcopy(a), copy.deepcopy(b), model1_layers=names, model2_layers=names)
            tool.compare(loader)
        return tool.hsic_matrix

    return run


def forward_only(a: nn.Module, b: nn.Module, images: Tensor, n: int) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode():
            for batch in images.split(n):
                for model in {a, b}:
                    model.eval()(batch)
        return torch.tensor([])

    return run


WAYS: dict[str, Callable[..., Callable[[], Tensor]]] = {
    "forward passes only": forward_only,
    "lightning-dynamics": lambda *args: Ours(*args, components=False),
    "  with first components": lambda *args: Ours(*args, components=True),
    "pytorch-cka 1.1.3": pytorch_cka,
    "torch-cka 0.21": torch_cka,
}


def exact(a: nn.Module, b: nn.Module, images: Tensor, n: int) -> Tensor:
    """Song's formula in float64 on the float32 activations; equal minibatches."""

    def grams(model: nn.Module, batch: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            x = output.detach().flatten(1).double()
            x = x - x.mean(0)
            kept.append((x @ x.T).fill_diagonal_(0))

        handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Conv2d)]
        with torch.no_grad():
            model.eval()(batch)
        for handle in handles:
            handle.remove()
        return torch.stack(kept)

    def hsic(k: Tensor, m: Tensor) -> Tensor:
        total = k.sum((1, 2))[:, None] * m.sum((1, 2))[None] / ((n - 1) * (n - 2))
        cross = k.flatten(1) @ m.flatten(1).T - 2 / (n - 2) * k.sum(1) @ m.sum(1).T
        return (cross + total) / (n * (n - 3))

    sums = [torch.zeros(())] * 3
    for batch in images.split(n):
        ka, kb = grams(a, batch), grams(b, batch)
        sums = [total + hsic(*pair) for total, pair in zip(sums, ((ka, kb), (ka, ka), (kb, kb)), strict=True)]
    return sums[0] / (sums[1].diagonal()[:, None] * sums[2].diagonal()[None]).sqrt()


def setting(n: int, batches: int, same: bool) -> tuple[nn.Module, nn.Module, Tensor, int]:
    a = ResNet32(0)
    images = torch.randn(n * batches, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return a, a if same else ResNet32(1), images, n


def peak_memory(way: str, n: int, batches: int, same: bool) -> float:
    """MB above the start of the work, in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", way, "--n", str(n), "--batches", str(batches)]
    answer = subprocess.run(command + ["--same"] * same, capture_output=True, text=True, check=True)
    return float(answer.stdout.split()[-1])


def print_peak(way: str, n: int, batches: int, same: bool) -> None:
    arguments = setting(n, batches, same)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = memory("VmRSS")
    WAYS[way](*arguments)()
    print(memory("VmHWM") - before)


def memory(what: str) -> float:
    """MB, from Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what + ":"))


def compare(n: int, batches: int, reps: int, same: bool, skip: set[str]) -> None:
    arguments = setting(n, batches, same)
    ways = {name: make(*arguments) for name, make in WAYS.items() if name not in skip}
    truth = exact(*arguments)
    times: dict[str, list[float]] = {name: [] for name in ways}
    errors: dict[str, str] = {}
    order = random.Random(0)
    for repetition in range(reps):
        # In another order each time: what ran before leaves its memory and caches behind.
        for name, run in order.sample(list(ways.items()), len(ways)):
            if name == "torch-cka 0.21" and repetition > 0:
                continue  # one run is long enough
            start = time.perf_counter()
            found = run()
            times[name].append(time.perf_counter() - start)
            errors[name] = f"{(found.double() - truth).abs().max():.1e}" if found.numel() else "-"
    rival = times["pytorch-cka 1.1.3"]
    what = "one network with itself" if same else "two networks"
    print(
        f"\n{what}, n = {n}, {batches} minibatches, {torch.get_num_threads()} threads, {reps} interleaved repetitions"
    )
    print(f"{'':26}{'best s':>9}{'median s':>10}{'x pytorch-cka':>15}{'peak MB':>9}{'max error':>11}")
    for name, values in times.items():
        # Repetition by repetition: what else the machine does then weighs on both.
        ratio = statistics.median(ours / theirs for ours, theirs in zip(values, rival, strict=False))
        print(
            f"{name:26}{min(values):9.2f}{statistics.median(values):10.2f}{ratio:15.2f}"
            f"{peak_memory(name, n, batches, same):9.0f}{errors[name]:>11}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--same", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments.n[0], arguments.batches, arguments.same)
        return
    batches, reps = (2, 2) if arguments.quick else (arguments.batches, arguments.reps)
    for n in arguments.n:
        for same in (False, True):
            # torch-cka takes minutes; it is measured once, where the field measures it.
            compare(n, batches, reps, same, {"torch-cka 0.21"} if arguments.quick or same else set())


if __name__ == "__main__":
    main()
