"""Hessians by another way: ``torch.func.hessian`` in float64, over all examples at once; and modules to try."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian

from lightning_dynamics.core.parameters import flatten, unflatten

CLASSES = 3


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def exact_hessian(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    names: Sequence[str] | None = None,
) -> Tensor:
    """``(P, P)`` float64 of the mean loss, by parameters in order."""
    was = module.training
    module.eval()
    everything = {name: p.detach().double() for name, p in module.named_parameters()}
    rest = {name: b.double() if b.is_floating_point() else b for name, b in module.named_buffers()}
    chosen = {name: value for name, value in everything.items() if names is None or name in names}

    def f(flat: Tensor) -> Tensor:
        values = everything | unflatten(flat, chosen)
        inputs = x.double() if x.is_floating_point() else x
        return loss(functional_call(module, values | rest, (inputs,)), y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of TorchScript
        found = hessian(f)(flatten(chosen))
    module.train(was)
    return found


def mlp(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES)).to(dtype)


def cnn(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    """With running statistics, which evaluation mode takes as they are."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4, CLASSES),
    )
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2.0)
    return net.to(dtype)


def data(*shape: int, n: int = 20, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator, dtype=dtype), torch.arange(n) % CLASSES


def ragged(x: Tensor, y: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything of a module, and of the random streams, that an analysis must leave alone."""
    return {
        "state": {name: value.clone() for name, value in module.state_dict().items()},
        "storage": [tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())],
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "training": [m.training for m in module.modules()],
        "torch": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "cudnn": torch.backends.cudnn.enabled,
    }
