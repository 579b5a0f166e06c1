"""One point that a search has led to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynamics.analyses.critical_points.index import Index
from lightning_dynamics.analyses.critical_points.search import Status, Stopped


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """Where the search from one start ended.

    Args:
        start: name of the start.
        status: ``"critical"``, ``"gradient-flat"`` or ``"unfinished"``; see
            :class:`~lightning_dynamics.critical_points.search.SearchPath`.
        stopped: why the search ended: ``"converged"``, ``"stalled"``, ``"iterations"`` or ``"not finite"``.
        loss: L at the point.
        squared_gradient_norm: ‖g‖² at the point.
        index: eigenvalues of the Hessian there: their signs, and they themselves.
        flatness: ‖Hg‖ / (‖g‖ Λ), 0 to 1; Λ is the largest curvature that the search has met. NaN at a critical point.
        newton_residual: ‖Hp + g‖ / ‖g‖ of a Newton step from the point, 0 to 1: near 1 where g lies in the kernel of H.
            NaN at a critical point.
        iterations: steps of the search.
        products: Hessian-vector products of the search, the Hessian's eigenvalues not counted.
        gradients: gradients of the search.
        losses: ``(iterations + 1,)`` float64: L at the start and after every step.
        squared_gradient_norms: ``(iterations + 1,)`` float64: ‖g‖² likewise.
        point: ``(P,)`` float64 on the CPU: the parameters searched, flat.
        parameters: name to a view of ``point`` in the parameter's shape.
        start_index: the index at the start, where it was asked for.
        found_from: names of all starts that ended here, where points were merged; else of the one.
    """

    start: str
    status: Status
    stopped: Stopped
    loss: float
    squared_gradient_norm: float
    index: Index
    flatness: float
    newton_residual: float
    iterations: int
    products: int
    gradients: int
    losses: Tensor
    squared_gradient_norms: Tensor
    point: Tensor
    parameters: dict[str, Tensor]
    start_index: Index | None = None
    found_from: tuple[str, ...] = ()


def distance(one: CriticalPoint, other: CriticalPoint) -> float:
    """‖θ − θ'‖ / max(1, ‖θ‖, ‖θ'‖)."""
    scale = max(1.0, float(one.point.norm()), float(other.point.norm()))
    return float(torch.linalg.vector_norm(one.point - other.point)) / scale
