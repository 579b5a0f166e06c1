r"""Deep linear networks W_L ⋯ W_1: loss, gradient and Hessian in closed form, for any number of points at once.

The loss is L(θ) = ½ E‖y − W_L ⋯ W_1 x‖². It depends on the data by the second moments alone, which are given here as
factors: X with X Xᵀ = E xxᵀ and Y with Y Xᵀ = E yxᵀ, Y Yᵀ = E yyᵀ (columns: examples / √n). Then L = ½ ‖W X − Y‖²,
which is exact near 0, where tr(W Σ Wᵀ) − 2 tr(…) + tr(…) is not.

θ is the weights one after the other, W_1 first, each row by row, as in ``nn.Module.parameters()``. Leading axes of θ
are a batch of points. Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def num_parameters(sizes: Sequence[int]) -> int:
    """P, the number of weights of a network of these layer sizes, input first."""
    return sum(a * b for a, b in pairwise(sizes))


def split(theta: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """``(…, P)`` as the L weights ``(…, d_l, d_(l-1))``, float64."""
    shapes = [(after, before) for before, after in pairwise(sizes)]
    pieces = theta.to(torch.float64).split([math.prod(shape) for shape in shapes], dim=-1)
    return [piece.unflatten(-1, shape) for piece, shape in zip(pieces, shapes, strict=True)]


def loss(weights: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """L ``(…)`` at weights ``(…, d_l, d_(l-1))``, for the factors ``(d_0, n)`` and ``(d_L, n)``."""
    return (_residual(weights, inputs, targets) ** 2).sum((-2, -1)) / 2


def gradient(weights: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """∂L/∂θ ``(…, P)``: ∂L/∂W_l = (W_L ⋯ W_(l+1))ᵀ (W X − Y) Xᵀ (W_(l-1) ⋯ W_1)ᵀ (Saxe et al. 2014, sec. 1)."""
    error = _residual(weights, inputs, targets) @ inputs.T
    before, after = _before(weights), _after(weights)
    parts = [b.mT @ error @ a.mT for a, b in zip(before, after, strict=True)]
    return torch.cat([part.flatten(-2) for part in parts], dim=-1)


def hessian(weights: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """∂²L/∂θ² ``(…, P, P)``. Memory: (2 P² + P d_L n) numbers a point.

    With the Jacobian J of W X, H = JᵀJ + Σ r ∂²(WX): J_l = (W_L ⋯ W_(l+1)) ⊗ (W_(l-1) ⋯ W_1 X)ᵀ, and the second part,
    for l < m, is G ⊗ C in the indices (row of W_m, column of W_l), (column of W_m, row of W_l), with
    G = (W_L ⋯ W_(m+1))ᵀ (WX − Y) Xᵀ (W_(l-1) ⋯ W_1)ᵀ and C = W_(m-1) ⋯ W_(l+1).
    """
    error = _residual(weights, inputs, targets) @ inputs.T
    before, after = _before(weights), _after(weights)
    jacobian = torch.cat([_kron(b, (a @ inputs).mT) for a, b in zip(before, after, strict=True)], dim=-1)
    result = jacobian.mT @ jacobian
    ends = [0]
    for weight in weights:
        ends.append(ends[-1] + weight.shape[-1] * weight.shape[-2])
    for low in range(len(weights)):
        between = _identity_like(weights[low].shape[-2], weights[low])
        for high in range(low + 1, len(weights)):
            outer = after[high].mT @ error @ before[low].mT
            block = torch.einsum("...aq,...bp->...abpq", outer, between).flatten(-4, -3).flatten(-2)
            result[..., ends[high] : ends[high + 1], ends[low] : ends[low + 1]] += block
            result[..., ends[low] : ends[low + 1], ends[high] : ends[high + 1]] += block.mT
            between = weights[high] @ between
    return result


def imbalances(weights: Sequence[Tensor]) -> list[Tensor]:
    """W_(l+1)ᵀ W_(l+1) − W_l W_lᵀ ``(…, d_l, d_l)`` for l = 1 … L − 1: what gradient flow conserves.

    Saxe et al. 2014, supplement; Arora, Cohen, Hazan 2018, theorem 1: d/dt of both products is the same, whatever the
    data. All 0: the network is balanced.
    """
    return [after.mT @ after - before @ before.mT for before, after in pairwise(weights)]


def mode_strength(time: Tensor, singular_value: Tensor | float, start: Tensor | float, tau: float = 1.0) -> Tensor:
    """u(t) = s e^(2st/τ) / (e^(2st/τ) − 1 + s/u(0)): how one mode is learnt (Saxe et al. 2014, sec. 1.3).

    The strength u = ab of one mode of a network of two layers under gradient flow τ u' = 2u (s − u), from balanced
    weights (a = b) along the singular vectors of the input-output correlation; inputs are white.

    Args:
        time: t, any shape; negative ones go back, as long as there was a past.
        singular_value: s > 0, of the correlation: where the mode ends.
        start: u(0) > 0.
        tau: one over the learning rate (per step, with the time in steps).

    Returns:
        u, float64, in the shape that the arguments broadcast to.
    """
    time, s, u = (torch.as_tensor(value, dtype=torch.float64) for value in (time, singular_value, start))
    # Divided by e^(2st/τ), so that nothing overflows.
    fading = torch.exp(-2 * s * time / tau)
    return s / (1 + (s / u - 1) * fading)


def _residual(weights: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    out = inputs
    for weight in weights:
        out = weight @ out
    return out - targets


def _before(weights: Sequence[Tensor]) -> list[Tensor]:
    """W_(l-1) ⋯ W_1 for every l; the first is I."""
    products = [_identity_like(weights[0].shape[-1], weights[0])]
    for weight in weights[:-1]:
        products.append(weight @ products[-1])
    return products


def _after(weights: Sequence[Tensor]) -> list[Tensor]:
    """W_L ⋯ W_(l+1) for every l; the last is I."""
    products = [_identity_like(weights[-1].shape[-2], weights[-1])]
    for weight in reversed(weights[1:]):
        products.append(products[-1] @ weight)
    return products[::-1]


def _identity_like(size: int, like: Tensor) -> Tensor:
    """``(…, size, size)``, for the points of ``like``."""
    return torch.eye(size, dtype=like.dtype, device=like.device).expand(*like.shape[:-2], size, size)


def _kron(left: Tensor, right: Tensor) -> Tensor:
    """The Kronecker product of ``(…, a, b)`` and ``(…, c, d)``: ``(…, ac, bd)``."""
    return torch.einsum("...ab,...cd->...acbd", left, right).flatten(-4, -3).flatten(-2)
