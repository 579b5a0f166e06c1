"""What a slice through the loss looks like: a LandscapeResult."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.result import AnalysisResult


def _none() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class LandscapeResult(AnalysisResult):
    """The loss on a plane or a line through the space of weights; float64 on the CPU.

    Args:
        epoch: see :class:`~lightning_dynamics.analyses.result.AnalysisResult`; so ``step`` and ``num_examples``.
        step: see there.
        num_examples: see there.
        xs: ``(X,)`` coordinates along the first direction.
        ys: ``(Y,)`` along the second; ``(0,)`` for a line.
        loss: ``(Y, X)``, row by row of ``ys``; ``(X,)`` for a line. NaN and infinity as they came.
        accuracy: the same shape; None if it was not measured.
        others: further quantities by name, the same shape; ``"val/loss"`` and the like are of the second data.
        directions: how the directions were made: ``kind``, ``x`` and ``y`` (axis titles), ``norms``, ``cosine``,
            ``title`` of the slice, and what else belongs to it: see
            :class:`~lightning_dynamics.analyses.landscape.placement.Placement`.
        settings: ``data``, ``batchnorm``, ``dropout``, ``weight_decay``, ``parameters`` and the like.
        marks: named points ``[name, x, y]``.
        trajectory: ``(T, 2)`` the weights during training, projected on the plane; ``(0, 2)`` without one.
        trajectory_steps: ``(T,)`` when they were taken.
        trajectory_loss: ``(T,)`` their true loss, off the plane as they are.
        trajectory_slice_loss: ``(T,)`` the loss in the plane, where they are projected.
        residual_distance: ``(T,)`` Euclidean distance from the plane.
        explained_variance: ``(2,)`` share of the trajectory's variance along each direction; ``(0,)`` without PCA.
        sharpness: the worst loss within ``settings["radius"]`` of the centre, relative: see
            :func:`~lightning_dynamics.landscape.estimator.sharpness`; NaN where that has no meaning.
        barrier: see :func:`~lightning_dynamics.landscape.estimator.barrier`; NaN but for a line between two points.
        non_convexity: ``(Yc, Xc)`` absolute value of the smallest Hessian eigenvalue over the largest; empty if not
            measured.
        curvature_xs: ``(Xc,)``.
        curvature_ys: ``(Yc,)``.
    """

    xs: Tensor
    ys: Tensor
    loss: Tensor
    accuracy: Tensor | None = None
    others: dict[str, Tensor] = field(default_factory=dict)
    directions: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    marks: list[Any] = field(default_factory=list)
    trajectory: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.float64))
    trajectory_steps: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    trajectory_loss: Tensor = field(default_factory=_none)
    trajectory_slice_loss: Tensor = field(default_factory=_none)
    residual_distance: Tensor = field(default_factory=_none)
    explained_variance: Tensor = field(default_factory=_none)
    sharpness: float = float("nan")
    barrier: float = float("nan")
    non_convexity: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    curvature_xs: Tensor = field(default_factory=_none)
    curvature_ys: Tensor = field(default_factory=_none)

    @property
    def is_plane(self) -> bool:
        """Whether there are two directions."""
        return len(self.ys) > 0

    @property
    def quantities(self) -> dict[str, Tensor]:
        """All of them by name: loss, accuracy, others."""
        own = {"loss": self.loss} | ({} if self.accuracy is None else {"accuracy": self.accuracy})
        return own | self.others

    @property
    def center(self) -> float:
        """The loss of the weights themselves, if they are a point of the grid; else NaN."""
        column = (self.xs == 0).nonzero()
        row = (self.ys == 0).nonzero()
        if not self.directions.get("around_weights") or not len(column):
            return math.nan
        if not self.is_plane:
            return float(self.loss[column[0, 0]])
        return float(self.loss[row[0, 0], column[0, 0]]) if len(row) else math.nan

    def scalars(self) -> dict[str, float]:
        """Sharpness, barrier, loss at the centre, explained variance: those that the slice has."""
        numbers = {"sharpness": self.sharpness, "barrier": self.barrier, "center": self.center}
        if len(self.explained_variance):
            numbers["explained_variance"] = float(self.explained_variance.sum())
        return {name: value for name, value in numbers.items() if math.isfinite(value)}
