"""What training in a random subspace costs, beside direct training of the same network in the same run.

    python benchmarks/subspace.py                 # D = 199,210 and about 1,000,000
    python benchmarks/subspace.py --batch-size 32

A step is forward, backward, Adam; in a subspace also P^T times the gradient and P times theta_d, by the callback
itself. Times are process CPU seconds; steps of all kinds alternate, so that what else the machine does hits all of
them; ratios are of medians. Published for D = 1 million: dense 6.7, sparse 1.7, fastfood 8.4 times direct training
(Li et al. 2018, supplement).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lightning_dynamics import RandomSubspaceCallback

KINDS = ("dense", "sparse", "fastfood")


def network(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def direct(hidden: int, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    torch.manual_seed(0)
    net = network(hidden)
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(batch[0]), batch[1]).backward()
        optimizer.step()

    return step


def in_subspace(
    hidden: int, batch: tuple[torch.Tensor, torch.Tensor], kind: Any, dim: int
) -> tuple[Callable[[], None], RandomSubspaceCallback, float]:
    torch.manual_seed(0)
    net = network(hidden)
    optimizer = torch.optim.Adam(net.parameters())
    callback = RandomSubspaceCallback(dim, kind, announce=False)
    module = SimpleNamespace(automatic_optimization=False)
    trainer: Any = SimpleNamespace(
        optimizers=[optimizer],
        lightning_module=module,
        model=None,
        ckpt_path=None,
        is_global_zero=True,
        progress_bar_callback=None,
    )
    begun = time.process_time()
    callback.on_fit_start(trainer, net)  # type: ignore[arg-type]
    took = time.process_time() - begun

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(batch[0]), batch[1]).backward()
        callback.on_after_backward(trainer, net)  # type: ignore[arg-type]
        optimizer.step()

    return step, callback, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--reps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dense-limit", type=float, default=2.0, help="GiB of P beyond which dense is left out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch_size, 784, generator=generator)
    batch = images, torch.randint(10, (arguments.batch_size,), generator=generator)
    print(f"batches of {arguments.batch_size}, {arguments.threads} thread(s), {arguments.reps} steps of each kind\n")
    for hidden, dim in ((200, 750), (680, 1000)):
        size = sum(parameter.numel() for parameter in network(hidden).parameters())
        steps = {"direct": direct(hidden, batch)}
        notes = {"direct": ""}
        for kind in KINDS:
            if kind == "dense" and 4 * size * dim > arguments.dense_limit * 2**30:
                notes[kind] = f"left out: P would take {4 * size * dim / 2**30:.1f} GiB (--dense-limit)"
                continue
            steps[kind], callback, took = in_subspace(hidden, batch, kind, dim)
            stored = sum(value.numel() for value in callback.state_dict().values() if isinstance(value, torch.Tensor))
            held = callback.matrix.bytes()
            notes[kind] = (
                f"P held in {held / 2**20:.1f} MiB = {held / (4 * size):.1f} x the weights; {stored:,} numbers in a "
                f"checkpoint; made in {took:.1f} s"
            )
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for rep in range(arguments.reps + 3):
            for name, step in steps.items():
                begun = time.process_time()
                step()
                if rep >= 3:  # the first ones allocate
                    seconds[name].append((time.process_time() - begun) / arguments.threads)
        base = statistics.median(seconds["direct"])
        print(f"D = {size:,}, d = {dim}")
        for name in notes:
            if name in seconds:
                median = statistics.median(seconds[name])
                print(f"  {name:9} {1000 * median:7.2f} ms   {median / base:5.2f} x direct   {notes[name]}")
            else:
                print(f"  {name:9} {notes[name]}")


if __name__ == "__main__":
    main()
