"""What a search for critical points costs, and MINRES beside SciPy's.

Run ``python benchmarks/critical_points.py``. The first table solves A x = b, of size 200, by ``estimator.minres`` and
by ``scipy.sparse.linalg.minres``: products with A, residual ‖b − A x‖ / ‖b‖, and distance to NumPy's pseudo-inverse
solution, relative to its length. The second follows Newton-MR from points of a training on scikit-learn's digits:
counts of one step, and process CPU seconds of one thread, relative to one training pass in float32 on the same batch.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, minres
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_dynamics import critical_points
from lightning_dynamics.analyses.critical_points.estimator import minres as ours

SIZE = 200


def spectra() -> dict[str, np.ndarray]:
    half = SIZE // 2
    signs = np.where(np.arange(SIZE) % 2, -1.0, 1.0)
    network = np.concatenate([np.logspace(1, -1, 10), signs[: half - 10] * np.logspace(-2, -6, half - 10)])
    return {
        "indefinite, condition 10": signs * np.linspace(1, 10, SIZE),
        "indefinite, condition 1e6": signs * np.logspace(0, -6, SIZE),
        "half of it kernel": np.concatenate([signs[:half] * np.linspace(1, 10, half), np.zeros(half)]),
        "like a network's, half kernel": np.concatenate([network, np.zeros(half)]),
    }


def solvers() -> None:
    print(f"{'':32}{'':14}{'products':>10}{'residual':>12}{'from A+ b':>12}")
    for name, values in spectra().items():
        generator = np.random.default_rng(0)
        turn, _ = np.linalg.qr(generator.normal(size=(SIZE, SIZE)))
        a = (turn * values) @ turn.T
        a = (a + a.T) / 2
        for kind in ("compatible", "incompatible"):
            if kind == "incompatible" and values.all():
                continue
            b = generator.normal(size=SIZE)
            b = a @ b if kind == "compatible" else b
            truth = np.linalg.pinv(a, rcond=1e-11) @ b
            matrix, counted = torch.from_numpy(a), [0]
            found = ours(lambda v, matrix=matrix: matrix @ v, torch.from_numpy(b), tolerance=1e-10)

            def product(v: np.ndarray, a: np.ndarray = a, counted: list[int] = counted) -> np.ndarray:
                counted[0] += 1
                return a @ v

            theirs, _ = minres(LinearOperator(a.shape, product, dtype=float), b, rtol=1e-10, maxiter=5 * SIZE)
            for who, x, count in (("ours", found.x.numpy(), found.iterations), ("SciPy", theirs, counted[0])):
                residual = np.linalg.norm(b - a @ x) / np.linalg.norm(b)
                distance = np.linalg.norm(x - truth) / np.linalg.norm(truth)
                print(
                    f"{f'{name}, {kind}' if who == 'ours' else '':46}{who:>8}{count:6d}{residual:12.1e}{distance:12.1e}"
                )


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def searches() -> None:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    batch = images[:256], labels[:256]
    for hidden, pooled in ((8, 4), (8, 8)):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(pooled**2, hidden), nn.Tanh(), nn.Linear(hidden, 10)
        )
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
        starts = {}
        for step in range(31):
            if step in (0, 30):
                starts[f"step {step}"] = {name: value.clone() for name, value in net.state_dict().items()}
            chosen = torch.randint(0, len(labels), (64,))
            optimizer.zero_grad()
            cross_entropy(net, (images[chosen], labels[chosen])).backward()
            optimizer.step()
        tensors, passes = list(net.parameters()), []
        for _ in range(50):
            began = time.process_time()
            torch.autograd.grad(cross_entropy(net, batch), tensors)
            passes.append(time.process_time() - began)
        one_pass, size = statistics.median(passes), sum(p.numel() for p in tensors)
        print(f"\n{size} parameters, 256 examples, one training pass {1e3 * one_pass:.2f} ms")
        for name, start in starts.items():
            began = time.process_time()
            method = critical_points.NewtonMR(max_iterations=30)
            (point,) = critical_points.find(
                net, cross_entropy, [batch], starts={name: start}, method=method, dense_up_to=0, description=None
            )
            seconds = time.process_time() - began
            extra = 320  # products of the estimated index
            share = point.products / (point.products + extra)
            steps = point.iterations
            print(
                f"  {name}: {steps} steps, {point.products / steps:.0f} products and {point.gradients / steps:.1f} "
                f"gradients a step, {share * seconds / steps / one_pass:.0f} training passes a step, "
                f"{seconds / (point.products + extra) / one_pass:.2f} a product; "
                f"|g|^2 {point.squared_gradient_norms[0]:.0e} -> {point.squared_gradient_norm:.0e}, {point.status}"
            )


def main() -> None:
    torch.set_num_threads(1)
    solvers()
    searches()


if __name__ == "__main__":
    main()
