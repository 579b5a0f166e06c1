"""Short trainings on random data, and what the layers really put out, seen by hooks of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import CKACallback
from lightning_dynamics.analyses.cka import CKAResult
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.schedule import Never
from tests.house import training


class Task(lightning.LightningModule):
    """Any network, trained to put out little."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        output = self(batch[0])
        while not isinstance(output, Tensor):
            output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
        return output.float().square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watched(CKACallback):
    """Shows the tests the probe, and draws nothing: pictures take longer than these trainings."""

    probe_batches: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shows, self.leaves_out = Never(), frozenset({"similarity_film"})

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.indices = context.probe.batches
        self.probe_batches = [context.probe.batch(number).data for number in range(len(self.indices))]


def vectors(n: int = 64, p: int = 6, seed: int = 1) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, p, generator=generator), torch.arange(n) % 3)


def images(n: int = 48, seed: int = 1) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % 3)


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3))


def trainer(folder: Path, *callbacks: Any, epochs: int = 2, **options: Any) -> lightning.Trainer:
    return training.trainer(folder, callbacks, max_epochs=epochs, **options)


def fit(
    folder: Path, module: lightning.LightningModule, data: Any, *callbacks: Any, batch_size: int = 16, **options: Any
) -> lightning.Trainer:
    """Train in a fixed order from seed 0."""
    torch.manual_seed(0)
    run = trainer(folder, *callbacks, **options)
    run.fit(module, data if isinstance(data, DataLoader) else DataLoader(data, batch_size=batch_size))
    return run


def callback(layers: Any = "*", **options: Any) -> Watched:
    """On 40 examples in minibatches of 16, 16 and 8."""
    return Watched(layers, **{"num_examples": 40, "batch_size": 16, "on_error": "raise"} | options)


def collected(
    module: nn.Module,
    batches: list[Any],
    layers: list[str],
    *,
    run: Callable[[nn.Module, Any], Any] = lambda module, batch: module(batch[0]),
    take: Callable[[Any], Tensor] = lambda output: output,
    train: bool = False,
) -> list[list[Tensor]]:
    """``[batch][layer]`` outputs by name (``name:2`` for a second call), copied before anyone overwrites them."""
    was = module.training
    module.train(train)
    found = []
    for batch in batches:
        seen: dict[str, Tensor] = {}

        def hook(name: str, seen: dict[str, Tensor] = seen) -> Callable[..., None]:
            def keep(_: nn.Module, __: Any, output: Any) -> None:
                count = 1 + sum(key.partition(":")[0] == name for key in seen)
                seen[name if count == 1 else f"{name}:{count}"] = take(output).detach().clone()

            return keep

        wanted = {layer.partition(":")[0] for layer in layers}
        handles = [m.register_forward_hook(hook(name)) for name, m in module.named_modules() if name in wanted]
        with torch.no_grad():
            run(module, batch)
        for handle in handles:
            handle.remove()
        found.append([seen[layer] for layer in layers])
    module.train(was)
    return found


def assert_same_result(a: CKAResult, b: CKAResult, tolerance: float = 0.0) -> None:
    """Every field alike; tensors to an absolute tolerance, NaN where NaN."""
    x, y = a.to_state(), b.to_state()
    assert x.keys() == y.keys()

    def check(p: Any, q: Any, path: str) -> None:
        assert type(p) is type(q), path
        if isinstance(p, Tensor):
            torch.testing.assert_close(p, q, rtol=0, atol=tolerance, equal_nan=True, msg=lambda m: f"{path}: {m}")
        elif isinstance(p, dict):
            assert list(p) == list(q), path
            for key in p:
                check(p[key], q[key], f"{path}.{key}")
        elif isinstance(p, float):
            torch.testing.assert_close(p, q, rtol=0, atol=tolerance, equal_nan=True, msg=lambda m: f"{path}: {m}")
        else:
            assert p == q, path

    check(x, y, "result")
