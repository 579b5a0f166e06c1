"""Loss change allocation once more, from the mathematics, in float64; and short trainings whose path is recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import LossContributionCallback
from lightning_dynamics.analyses.loss_contribution import Adaptive
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.schedule import Never
from tests.house import training

Point = dict[str, Tensor]
"""Name to float64 tensor."""
Loss = Callable[[Point], Tensor]

GAUSS = tuple((float(x + 1) / 2, float(w) / 2) for x, w in zip(*np.polynomial.legendre.leggauss(40), strict=True))
SIMPSON = ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6))
TRAPEZOID = ((0.0, 0.5), (1.0, 0.5))
LEFT = ((0.0, 1.0),)
Nodes = Sequence[tuple[float, float]]


# ---- the mathematics ---------------------------------------------------------------------------------------


def value(loss: Loss, point: Point) -> float:
    with torch.no_grad():
        return float(loss(point))


def gradient(loss: Loss, point: Point) -> Point:
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in point.items()}
    with torch.enable_grad():
        grads = torch.autograd.grad(loss(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))


def between(start: Point, end: Point, alpha: float) -> Point:
    return {name: (1 - alpha) * start[name] + alpha * end[name] for name in start}


def contributions(loss: Loss, start: Point, end: Point, nodes: Nodes = GAUSS) -> Point:
    """Δᵢ Σ w ∂L/∂θᵢ(θ + αΔ)."""
    total = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    for alpha, weight in nodes:
        for name, grad in gradient(loss, between(start, end, alpha)).items():
            total[name] += weight * grad
    return {name: total[name] * (end[name] - start[name]) for name in start}


def path_contributions(loss: Loss, points: Sequence[Point], nodes: Nodes = GAUSS) -> list[Point]:
    """Of every segment between neighbours."""
    return [contributions(loss, a, b, nodes) for a, b in zip(points, points[1:], strict=False)]


def flat(events: Sequence[Point]) -> NDArray[np.float64]:
    """``(events, P)``."""
    return np.stack([np.concatenate([v.numpy().ravel() for v in event.values()]) for event in events])


def loss_on(
    module: nn.Module,
    batches: Sequence[Any],
    of: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    train: bool = False,
) -> Loss:
    """The mean loss over the probe's examples as a function of named tensors: parameters, or buffers too."""
    twin = copy.deepcopy(module).double().train(train)
    doubled = [[p.double() if p.is_floating_point() else p for p in batch] for batch in batches]
    count = sum(len(batch[0]) for batch in doubled)
    one = of or (lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twin = twin

        def forward(self, batch: Any) -> Tensor:
            return one(self.twin, batch)

    wrapped = Wrapped()

    def loss(point: Point) -> Tensor:
        values = {f"twin.{name}": tensor for name, tensor in point.items()}
        parts = [
            torch.func.functional_call(wrapped, values, ([p.clone() for p in batch],), tie_weights=True)
            * (len(batch[0]) / count)
            for batch in doubled
        ]
        return torch.stack(parts).sum()

    return loss


# ---- trainings ---------------------------------------------------------------------------------------------


class Task(lightning.LightningModule):
    """Any network, trained to tell classes apart."""

    def __init__(self, net: nn.Module, optimizer: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.net = net
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))

    def forward(self, x: Any) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


class Watched(LossContributionCallback):
    """Shows the tests the probe, and draws nothing: pictures take longer than these trainings."""

    probe_batches: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shows, self.leaves_out = Never(), frozenset({"film"})

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        probes = [p for p in (context.probe, context.second_probe) if p is not None]
        self.indices = [index for batch in context.probe.batches for index in batch]
        self.all_batches = [[probe.batch(n).data for n in range(len(probe.batches))] for probe in probes]
        self.probe_batches = self.all_batches[0]


def callback(**options: Any) -> Watched:
    """On 20 examples in minibatches of 8, 8 and 4, after every step."""
    settings = {"num_examples": 20, "batch_size": 8, "every_n_epochs": None, "at_end": True, "on_error": "raise"}
    settings["mode"] = "eval"  # some modules here are others in train mode
    return Watched(**settings | options)


EXACT = {"rule": Adaptive(tolerance=1e-12, max_splits=256)}
"""Options for an integration as good as any."""


class Spy(Callback):
    """Where all parameters (and buffers) were before training and after every step, in float64."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.buffers: list[Point] = []
        self.steps: list[int] = []

    def look(self, trainer: Any, pl_module: Any) -> None:
        self.points.append({name: p.detach().double().clone() for name, p in pl_module.named_parameters()})
        floating = [(name, b) for name, b in pl_module.named_buffers() if b.is_floating_point()]
        self.buffers.append({name: b.detach().double().clone() for name, b in floating})
        self.steps.append(trainer.global_step)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.look(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step != self.steps[-1]:
            self.look(trainer, pl_module)

    @property
    def everything(self) -> list[Point]:
        """Parameters and buffers."""
        return [{**p, **b} for p, b in zip(self.points, self.buffers, strict=True)]


def vectors(n: int = 32, p: int = 5, seed: int = 1, dtype: torch.dtype = torch.float64) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    x = torch.randn(n, p, generator=generator, dtype=dtype) + labels[:, None]
    return TensorDataset(x, labels)


def images(n: int = 32, seed: int = 1, dtype: torch.dtype = torch.float64) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    x = torch.randn(n, 2, 5, 5, generator=generator, dtype=dtype) + labels[:, None, None, None]
    return TensorDataset(x, labels)


def mlp(act: type[nn.Module] = nn.Tanh, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), act(), nn.Linear(6, 4), act(), nn.Linear(4, 3)).double()


def normed(seed: int = 0, **options: Any) -> nn.Sequential:
    """A little convnet with batch normalisation."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, **options), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)
    ).double()


def fit(
    folder: Path, module: Any, data: Any, *callbacks: Any, batch_size: int = 8, epochs: int = 2, **options: Any
) -> Any:
    """Train in a fixed order from seed 0."""
    torch.manual_seed(0)
    run = training.trainer(folder, callbacks, max_epochs=epochs, **options)
    run.fit(module, data if isinstance(data, DataLoader) else DataLoader(data, batch_size=batch_size))
    return run


def assert_close(found: Any, truth: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    as_array = [x.numpy() if isinstance(x, Tensor) else np.asarray(x) for x in (found, truth)]
    np.testing.assert_allclose(*as_array, rtol=rtol, atol=atol)
