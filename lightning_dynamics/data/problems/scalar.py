r"""Multiplying by one: L = ½ (w_1 ⋯ w_L − 1)², its solutions and where gradient flow takes every start, exactly.

Gradient flow is w' = −∂L/∂w: w_l' = (1 − p) ∏_(m≠l) w_m with p = w_1 ⋯ w_L. Then d(w_l²)/dt = 2 (1 − p) p is the same
for every l: all squares move by one common shift, and the differences w_l² − w_m² are conserved. So a start determines
its end:

- p > 0: no weight changes its sign; the end is the solution with the signs of the start.
- p < 0: the squares fall together. If the smallest weight is alone, it goes through 0 and changes its sign, and p > 0
  from then on. If several tie, they take forever to reach 0, and the end is a saddle.
- One weight is 0, alone: it takes the sign that makes p positive. Two or more: a critical point, where nothing moves.

For two weights: a' = (1 − ab) b, b' = (1 − ab) a, and so (a + b)' = (1 − ab)(a + b). The sign of a + b stays, and
decides between the two branches of the hyperbola ab = 1; the line a + b = 0 flows to the saddle at 0.

Points are ``(…, L)``, one weight each; results are float64. What ties is taken bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_dynamics.core.lightning import ConfigurationError

_ITERATIONS = 60  # of Newton's method, which converges from above; a handful is enough except near saddles


def flow_limit(start: Tensor) -> Tensor:
    """Where gradient flow from ``(…, L)`` ends: ``(…, L)``, on a solution or at a saddle. See this module's docstring.

    The common shift of the squares is the root of ∑ log w_l², found by Newton's method to rounding.

    Raises:
        ConfigurationError: for points that are not finite.
    """
    w = start.to(torch.float64)
    if not torch.isfinite(w).all():
        raise ConfigurationError("gradient flow must start at finite weights")
    size, signs = w.abs(), w.sign()
    least, place = size.min(-1, keepdim=True)
    alone = (size == least).sum(-1, keepdim=True) == 1
    turned = signs.scatter(-1, place, 1.0)
    turned = turned.scatter(-1, place, turned.prod(-1, keepdim=True))
    positive = signs.prod(-1, keepdim=True) > 0
    # w_l² minus the least of them: conserved.
    above = (size - least) * (size + least)
    solution = torch.where(positive, signs, turned) * (above + _least_square(above)).sqrt()
    return torch.where(positive | alone, solution, signs * above.sqrt())


def basins(start: Tensor) -> Tensor:
    """Signs of :func:`flow_limit`, ``(…, L)`` int8: the branch of the solutions, or a saddle if there is a 0."""
    return flow_limit(start).sign().to(torch.int8)


def flow(start: Tensor, time: Tensor | float) -> Tensor:
    """The point that gradient flow has reached from ``(…, L)`` at a time t ≥ 0; for one weight or two.

    For two: with the conserved c = a² − b², κ = √(4 + c²) and e = exp(−κt), y = (a + b)² obeys y' = 2y − (y² − c²)/2,
    and y(t)/y(0) = (κ + 2 + (κ − 2) e + (a − b)² (1 − e)) / ((a + b)² (1 − e) + κ − 2 + (κ + 2) e), all at t = 0 on
    the right; a + b grows by its root, and a − b falls by it. On the balanced line a = b this is
    :func:`~lightning_dynamics.problems.estimator.mode_strength` with s = 1; Saxe et al. (2014, supplement) solve the
    unbalanced case in hyperbolic coordinates, which are singular where c = 0.

    Args:
        start: points; for two weights, |a + b| must be 0 or not below 1e-150.
        time: one, or one per point, ``(…)``.

    Returns:
        ``(…, L)`` float64, in the shape that the points and the times broadcast to. The error of each weight is the
        rounding of the largest.

    Raises:
        ConfigurationError: for more weights, where the time is no elementary function.
    """
    w, t = start.to(torch.float64), torch.as_tensor(time, dtype=torch.float64, device=start.device)[..., None]
    if w.shape[-1] == 1:
        return 1 + (w - 1) * torch.exp(-t)
    if w.shape[-1] != 2:
        raise ConfigurationError(
            f"gradient flow of {w.shape[-1]} weights has no closed form in time: use depth 1 or 2, or `flow_limit`"
        )
    a, b = w[..., :1], w[..., 1:]
    total, apart = a + b, a - b
    c = total * apart
    kappa = (4 + c**2).sqrt()
    small = c**2 / (kappa + 2)  # κ − 2
    fading = torch.exp(-kappa * t)
    gone = -torch.expm1(-kappa * t)
    above = kappa + 2 + small * fading + apart**2 * gone
    below = total**2 * gone + small + (kappa + 2) * fading
    total = torch.where(total == 0, 0.0, total * (above / below).sqrt())
    apart = apart * (below / above).sqrt()
    return torch.cat([total + apart, total - apart], dim=-1) / 2


def solution(free: Tensor) -> Tensor:
    """The solution ``(…, L)`` whose first L − 1 weights are these ``(…, L − 1)``: the last is one over their product.

    Every solution is met once, so that this is a chart of the whole set: 2^(L−1) branches, by the signs.

    Raises:
        ConfigurationError: if one of them is 0, where there is no solution.
    """
    free = free.to(torch.float64)
    if (free == 0).any():
        raise ConfigurationError("`free` holds a 0: no product with it is 1")
    return torch.cat([free, 1 / free.prod(-1, keepdim=True)], dim=-1)


def distance_to_solutions(points: Tensor) -> Tensor:
    """Euclidean distance ``(…)`` of ``(…, L)`` from the nearest solution, for one weight or two.

    For two, the nearest (x, 1/x) to (a, b) solves x⁴ − a x³ + b x − 1 = 0; its roots are eigenvalues of the companion
    matrix.

    Raises:
        ConfigurationError: for more weights; test ``loss_at`` instead.
    """
    points = points.to(torch.float64)
    if points.shape[-1] == 1:
        return (points[..., 0] - 1).abs()
    if points.shape[-1] != 2:
        raise ConfigurationError(
            f"the distance from the solutions of {points.shape[-1]} weights has no closed form: use depth 1 or 2, "
            "or see whether `loss_at` is 0"
        )
    a, b = points[..., 0], points[..., 1]
    companion = torch.zeros(*a.shape, 4, 4, dtype=torch.float64, device=points.device)
    companion[..., 0, 0], companion[..., 0, 2], companion[..., 0, 3] = a, -b, 1.0
    companion[..., 1, 0] = companion[..., 2, 1] = companion[..., 3, 2] = 1.0
    # Real parts of complex roots are no nearest points, but points of the hyperbola all the same: they do no harm.
    x = torch.linalg.eigvals(companion).real
    x = torch.where(x == 0, 1.0, x)
    return torch.hypot(x - a[..., None], 1 / x - b[..., None]).amin(-1)


def _least_square(above: Tensor) -> Tensor:
    """The v ``(…, 1)`` in (0, 1] with ∏ (v + above) = 1; ``above`` ≥ 0, and the least of it is 0.

    In y = log v, ∑ log(e^y + above) rises and is convex, and is not negative at y = 0: Newton's method comes down to
    the root without passing it.
    """
    y = torch.zeros_like(above[..., :1])
    for _ in range(_ITERATIONS):
        squares = y.exp() + above
        y = y - squares.log().sum(-1, keepdim=True) / (y.exp() / squares).sum(-1, keepdim=True)
    return y.exp()
