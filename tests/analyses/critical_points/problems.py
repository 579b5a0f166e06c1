"""Losses whose critical points are known, as modules; and what of a module must not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NOTHING = [torch.zeros(1, 1)]
"""A batch for functions that take no data."""


class Linear(nn.Module):
    """A linear autoencoder x → W₂ W₁ x with one hidden unit."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.encoder = nn.Parameter(torch.tensor([[0.4, -0.3]], dtype=dtype))
        self.decoder = nn.Parameter(torch.tensor([[0.2], [0.5]], dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.encoder.T @ self.decoder.T


def reconstruction(module: nn.Module, x: Tensor) -> Tensor:
    """½ E‖x − W₂ W₁ x‖²."""
    return 0.5 * (x - module(x)).square().sum(1).mean()


def whitened() -> Tensor:
    """Four points whose second moment is exactly diag(3, 1)."""
    a, b = 6.0**0.5, 2.0**0.5
    return torch.tensor([[a, 0.0], [-a, 0.0], [0.0, b], [0.0, -b]], dtype=torch.float64)


LINEAR_TRUTH = {2.0: 2, 1.5: 1, 0.5: 0}
"""Loss of each kind of critical point of the linear autoencoder, and its negative eigenvalues (Baldi, Hornik 1989)."""


class Free(nn.Module):
    """P numbers."""

    def __init__(self, *values: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(values, dtype=dtype))


def function(formula: Callable[[Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    """As a loss, of the numbers in a :class:`Free`."""
    return lambda module, batch: formula(module.x)


def himmelblau(x: Tensor) -> Tensor:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


HIMMELBLAU_TRUTH = {
    (3.0, 2.0): 0,
    (-2.805118, 3.131313): 0,
    (-3.779310, -3.283186): 0,
    (3.584428, -1.848127): 0,
    (-0.270845, -0.923039): 2,
    (-0.127961, -1.953715): 1,
    (-3.073026, -0.081353): 1,
    (0.086678, 2.884255): 1,
    (3.385154, 0.073852): 1,
}
"""Its nine critical points to six digits, and the negative eigenvalues of each."""


def cubic(x: Tensor) -> Tensor:
    """x³/3 + x: no critical point; at 0 the Hessian is 0 and the gradient 1."""
    return x[0] ** 3 / 3 + x[0]
