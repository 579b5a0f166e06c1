"""Loss change allocation: the change of a loss along a straight step, split exactly over parameters.

J. Lan, R. Liu, H. Zhou, J. Yosinski, "LCA: Loss Change Allocation for Neural Network Training", NeurIPS 2019.
For a step from θ₀ to θ₁ = θ₀ + Δ (their eq. 2-4)::

    L(θ₁) - L(θ₀) = Σᵢ Aᵢ,    Aᵢ = Δᵢ ∫₀¹ ∂L/∂θᵢ(θ₀ + αΔ) dα

The integral is taken numerically. The paper names the Runge-Kutta method of order 4; on a fixed straight segment
that is Simpson's rule, which is what its code computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

RuleName = Literal["left", "trapezoid", "simpson", "adaptive"]

Gradient = Mapping[str, Tensor]
LossAndGrad = Callable[[dict[str, Tensor]], "tuple[float | Tensor, Gradient]"]


@dataclass(frozen=True)
class Adaptive:
    """Composite Simpson's rule on 2, 4, 8, … intervals, until the residual is small enough.

    Every earlier gradient is used again, as in the paper's code; unlike that code, it says when ``max_splits`` was not
    enough.

    Args:
        tolerance: largest residual of a step, absolute, in units of the loss; the paper's code has 1e-3.
        max_splits: at most this many gradients per step beside that at the start, a power of 2 from 2 up; the paper's
            code has 32.
    """

    tolerance: float = 1e-3
    max_splits: int = 32


Rule: TypeAlias = Literal["left", "trapezoid", "simpson"] | Adaptive


@dataclass(frozen=True, eq=False)
class Attribution:
    """The loss change of one step, split.

    Args:
        contributions: name to float64 tensor of the parameter's shape, on its device; negative helps, positive
            hurts. NaN where a loss or a gradient on the way was not finite.
        loss_start: the loss at the start.
        loss_end: the loss at the end.
        gradient_end: the gradient at the end: the next step's start, see ``at_start``; None if ``loss_end`` or
            ``loss_start`` is not finite.
        residual: ``loss_end - loss_start`` minus the sum of all contributions: the error of the rule.
        nodes: ``(α, weight)`` of every point at which the gradient was taken, in the order in which it was.
        resolved: whether ``|residual| <= tolerance``; without a tolerance, whether it is finite.
    """

    contributions: dict[str, Tensor]
    loss_start: float
    loss_end: float
    gradient_end: Gradient | None
    residual: float
    nodes: tuple[tuple[float, float], ...]
    resolved: bool

    @property
    def is_finite(self) -> bool:
        """Whether everything on the way was finite."""
        return math.isfinite(self.residual)


def attribute(
    loss_and_grad: LossAndGrad,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    *,
    rule: RuleName | Adaptive = "simpson",
    at_start: tuple[float | Tensor, Gradient] | None = None,
) -> Attribution:
    r"""Split ``L(end) - L(start)`` over the elements of ``end - start``.

    ==============  ==============================================  ==========================================
    rule            weights                                         gradients beside the start's
    ==============  ==============================================  ==========================================
    ``left``        ``g(0)``                                        1 (for the residual; the next start)
    ``trapezoid``   ``(g(0) + g(1)) / 2``                           1
    ``simpson``     ``(g(0) + 4 g(½) + g(1)) / 6``, error O(Δ⁵)     2
    ``adaptive``    composite Simpson on 2, 4, 8, … intervals       2 to ``max_splits``
    ==============  ==============================================  ==========================================

    ``adaptive`` is short for ``Adaptive()``; see there.

    Args:
        loss_and_grad: point (name to tensor) -> loss, and gradient by the same names, in tensors that later calls
            do not write to.
        start: name to tensor; floating point.
        end: the same names, shapes and dtypes.
        rule: of integration: a name from the table, or ``Adaptive(tolerance=1e-3, max_splits=32)``.
        at_start: loss and gradient at ``start`` if they are known, as they are from the step before.

    Returns:
        Contributions in float64, with the true residual.

    Raises:
        ValueError: names or shapes that do not fit, complex tensors, an unknown rule, ``max_splits`` not a power
            of 2.

    Cost: as in the table, each one a full forward and backward pass of the caller's loss; memory: three copies
    of the parameters in float64 beside the caller's.
    """
    rule = rule_named(rule)
    if {name: tensor.shape for name, tensor in start.items()} != {name: tensor.shape for name, tensor in end.items()}:
        raise ValueError("`start` and `end` must have the same names and shapes")
    if any(tensor.is_complex() for tensor in start.values()):
        raise ValueError("complex parameters are not supported: give their real and imaginary parts")
    start, end = [{name: tensor.detach() for name, tensor in point.items()} for point in (start, end)]

    def evaluate(point: Mapping[str, Tensor]) -> tuple[float, Gradient]:
        """With tensors of its own, which may be made to require gradients."""
        loss, gradient = loss_and_grad({name: tensor.detach() for name, tensor in point.items()})
        return float(loss), {name: value.detach() for name, value in gradient.items()}

    loss_start, gradient = evaluate(start) if at_start is None else (float(at_start[0]), at_start[1])
    loss_end, gradient_end = evaluate(end)
    delta = {name: end[name].double() - tensor.double() for name, tensor in start.items()}
    if not (math.isfinite(loss_start) and math.isfinite(loss_end)):
        undefined = {name: torch.full_like(change, math.nan) for name, change in delta.items()}
        return Attribution(undefined, loss_start, loss_end, None, math.nan, ((0.0, 1.0), (1.0, 0.0)), False)

    def split(weights: Sequence[float], gradients: Sequence[Gradient]) -> tuple[dict[str, Tensor], float]:
        """Δ times the weighted sum of the gradients; and the residual."""
        parts = {}
        for name, change in delta.items():
            total = gradients[0][name].double() * weights[0]
            for weight, values in zip(weights[1:], gradients[1:], strict=True):
                if weight and values:
                    total.add_(values[name], alpha=weight)
            parts[name] = total.mul_(change)
        return parts, loss_end - loss_start - sum(float(part.sum()) for part in parts.values())

    if rule in ("left", "trapezoid"):
        ends = (1.0, 0.0) if rule == "left" else (0.5, 0.5)
        parts, residual = split(ends, (gradient, gradient_end))
        nodes = tuple(zip((0.0, 1.0), ends, strict=True))
        return Attribution(parts, loss_start, loss_end, gradient_end, residual, nodes, math.isfinite(residual))

    # Simpson's rule is the adaptive one that is content with one interval.
    limits = rule if isinstance(rule, Adaptive) else Adaptive(tolerance=math.inf, max_splits=2)
    # Composite Simpson: (ends + 4 · midpoints of the intervals + 2 · points between them) / (6 · intervals).
    intervals = 1
    between: dict[str, Tensor] = {}
    alphas: list[float] = []
    while True:
        midpoints: dict[str, Tensor] = {}
        for number in range(intervals):
            alphas.append((number + 0.5) / intervals)
            _add(midpoints, evaluate({name: torch.lerp(start[name], end[name], alphas[-1]) for name in start})[1])
        unit = 1 / (6 * intervals)
        parts, residual = split((unit, unit, 4 * unit, 2 * unit), (gradient, gradient_end, midpoints, between))
        resolved = math.isfinite(residual) and abs(residual) <= limits.tolerance
        if resolved or 2 * intervals >= limits.max_splits or not math.isfinite(residual):
            break
        _add(between, midpoints)
        intervals *= 2
    weights = [unit, unit] + [2 * unit] * (intervals - 1) + [4 * unit] * intervals
    nodes = tuple(zip((0.0, 1.0, *alphas), weights, strict=True))
    return Attribution(parts, loss_start, loss_end, gradient_end, residual, nodes, resolved)


def _add(total: dict[str, Tensor], gradient: Gradient) -> None:
    """In float64; an empty total is zero. Not in place: the caller may still own the first tensors."""
    for name, value in gradient.items():
        total[name] = total[name] + value if name in total else value.double()


def rule_named(given: Any) -> Rule:
    """A rule, given as itself or by its name.

    Raises:
        ValueError: there is no such rule, or its settings cannot work.
    """
    if isinstance(given, str) and given in get_args(RuleName):
        return Adaptive() if given == "adaptive" else given  # type: ignore[return-value]
    if not isinstance(given, Adaptive):
        raise ValueError(
            f"`rule` must be one of {', '.join(map(repr, get_args(RuleName)))}, or a value such as "
            f"`lightning_dynamics.loss_contribution.Adaptive(tolerance=1e-3)`; got {given!r}"
        )
    if not given.tolerance > 0:
        raise ValueError(f"`rule={given!r}`: `tolerance` must be positive")
    splits = given.max_splits
    if not isinstance(splits, int) or splits < 2 or splits & (splits - 1):
        raise ValueError(f"`rule={given!r}`: `max_splits` must be a power of 2 from 2 up")
    return given
