"""What a Hessian-vector product costs by four ways, and what the eigenvalues of small networks take.

Run ``python benchmarks/curvature.py``. Times are process CPU seconds of one thread, interleaved, medians, relative to
one training pass (forward and backward) on the same minibatch; the networks learn scikit-learn's digits for 300 steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from lightning_dynamics import curvature


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)
    )


def cnn() -> nn.Sequential:
    layers = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def ways(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Any]]:
    named = dict(net.named_parameters())
    tensors = list(named.values())
    v = {name: torch.randn_like(p) for name, p in named.items()}
    values = {name: p.detach() for name, p in named.items()}

    def gradient() -> Any:
        return torch.autograd.grad(cross_entropy(net, (x, y)), tensors, create_graph=True)

    kept = gradient()

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, parameters, (x,)), y)

    return {
        "training pass": lambda: torch.autograd.grad(cross_entropy(net, (x, y)), tensors),
        "double backward": lambda: torch.autograd.grad(gradient(), tensors, list(v.values())),
        "graph kept": lambda: torch.autograd.grad(kept, tensors, list(v.values()), retain_graph=True),
        "torch.func, forward over reverse": lambda: jvp(grad(loss), (values,), (v,)),
    }


def main() -> None:
    torch.set_num_threads(1)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    for make in (mlp, cnn):
        torch.manual_seed(0)
        net = make()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for _ in range(300):
            chosen = torch.randint(0, len(labels), (64,))
            optimizer.zero_grad()
            cross_entropy(net, (images[chosen], labels[chosen])).backward()
            optimizer.step()
        optimizer.zero_grad()
        size = sum(p.numel() for p in net.parameters())
        print(f"{make.__name__}, {size:,} parameters, minibatches of 128")
        x, y = images[:128], labels[:128]
        times: dict[str, list[float]] = {}
        for _ in range(12):
            for name, run in ways(net, x, y).items():
                start = time.process_time()
                run()
                times.setdefault(name, []).append(time.process_time() - start)
        base = statistics.median(times["training pass"])
        for name, seconds in times.items():
            median = statistics.median(seconds)
            print(f"  {name:34s} {1e3 * median:8.2f} ms   x {median / base:.2f}")
        batches = [(images[i : i + 128], labels[i : i + 128]) for i in (0, 128)]
        for k in (1, 5):
            start = time.process_time()
            found = curvature.extreme_eigenvalues(net, cross_entropy, batches, k=k)
            seconds = time.process_time() - start
            print(
                f"  k = {k}: {found.iterations} products, {seconds:.1f} s = {seconds / base / 2:.0f} training passes "
                f"over 256 examples; converged: {found.converged}; largest {found.largest.reshape(-1)[0]:.4g}, "
                f"smallest {found.smallest.reshape(-1)[0]:.4g}; overlooked at most {found.overlooked:.2g}"
            )
        trace = curvature.hutchinson_trace(net, cross_entropy, batches, num_samples=16)
        print(f"  trace {trace.trace:.4g} +- {trace.standard_error:.2g} from 16 probes")


if __name__ == "__main__":
    main()
