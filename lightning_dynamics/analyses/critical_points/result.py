"""What searches for critical points found at one moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_dynamics.analyses.critical_points.point import CriticalPoint
from lightning_dynamics.analyses.critical_points.search import Status, Stopped
from lightning_dynamics.analyses.critical_points.settings import Search
from lightning_dynamics.analyses.result import AnalysisResult

STATUSES: tuple[Status, ...] = get_args(Status)
REASONS: tuple[Stopped, ...] = get_args(Stopped)


@dataclass(frozen=True, eq=False)
class CriticalPointsResult(AnalysisResult):
    """S points, each from a start of its own, of the probe's mean loss as a function of P parameters.

    Tensors are float64 on the CPU. Where something was not finite, its numbers are NaN.

    Args:
        epoch: from 0; when the searches were made.
        step: training batches that had stepped.
        num_examples: of the probe.
        num_parameters: P.
        starts: S names.
        status: S words: see :class:`~lightning_dynamics.critical_points.CriticalPoint`, also for what follows.
        stopped: S words.
        loss: ``(S,)``.
        squared_gradient_norm: ``(S,)``.
        index: ``(S,)`` share of negative eigenvalues.
        index_error: ``(S,)`` its standard error; 0 where all eigenvalues are known.
        negative: ``(S,)`` negative eigenvalues; NaN where not all are known.
        zero: ``(S,)`` eigenvalues that count as 0; likewise.
        start_index: ``(S,)`` index at the start; NaN where it was not asked for.
        flatness: ``(S,)``.
        newton_residual: ``(S,)``.
        iterations: ``(S,)``.
        products: ``(S,)``.
        eigenvalues: ``(S, P)`` rising; ``(S, 2)`` the ends alone, where not all are known.
        losses: ``(S, M)`` L at the start and after every step; NaN beyond the last.
        squared_gradient_norms: ``(S, M)`` likewise ‖g‖².
        points: ``(S, P)`` the parameters; ``(0, P)`` unless they are kept.
        method: ``"newton_mr"`` or ``"gradient_norm"``.
        tolerance: largest ‖g‖² of a critical point.
        flatness_tolerance: ε of the gradient-flat ones.
        zero_tolerance: share of the largest |λ| up to which an eigenvalue counts as 0.
        data: what the examples were taken from.
        parameters: the patterns that chose the parameters, in words for a caption.
        estimator: how the index was determined, in words for a caption.
    """

    num_parameters: int
    starts: list[str]
    status: list[str]
    stopped: list[str]
    loss: Tensor
    squared_gradient_norm: Tensor
    index: Tensor
    index_error: Tensor
    negative: Tensor
    zero: Tensor
    start_index: Tensor
    flatness: Tensor
    newton_residual: Tensor
    iterations: Tensor
    products: Tensor
    eigenvalues: Tensor
    losses: Tensor
    squared_gradient_norms: Tensor
    points: Tensor
    method: str
    tolerance: float
    flatness_tolerance: float
    zero_tolerance: float
    data: str = ""
    parameters: str = ""
    estimator: str = ""

    def scalars(self) -> dict[str, float]:
        """How many points have each status, the lowest critical loss, the lowest log₁₀ ‖g‖²."""
        numbers = {
            "critical": float(self.count("critical")),
            "gradient_flat": float(self.count("gradient-flat")),
            "unfinished": float(self.count("unfinished")),
        }
        losses = [loss for loss, status in zip(self.loss.tolist(), self.status, strict=True) if status == "critical"]
        if losses:
            numbers["lowest_loss"] = min(losses)
        known = [value for value in self.squared_gradient_norm.tolist() if value > 0]
        if known:
            numbers["lowest_gradient"] = math.log10(min(known))
        return numbers

    def condensed(self) -> CriticalPointsResult:
        """Without the points and their eigenvalues."""
        return replace(self, points=self.points[:0], eigenvalues=self.eigenvalues[:, :0])

    def count(self, status: Status) -> int:
        """How many points have this status."""
        return self.status.count(status)


@dataclass(frozen=True, eq=False)
class Rows:
    """Points as numbers of fixed shapes, so that processes can add up what each of them has found.

    Args:
        numbers: ``(S, 13)``.
        eigenvalues: ``(S, E)``.
        courses: ``(2, S, M)``: losses and ‖g‖².
        points: ``(S, P)``, or ``(0, P)``.
    """

    numbers: Tensor
    eigenvalues: Tensor
    courses: Tensor
    points: Tensor

    @classmethod
    def of(
        cls, found: Sequence[CriticalPoint | None], how: Search, num_parameters: int, *, keep_points: bool = False
    ) -> Rows:
        """Zeros for points that another process has found."""
        count = num_parameters if num_parameters <= how.dense_up_to else 2
        rows = cls(
            torch.zeros(len(found), 13, dtype=torch.float64),
            torch.zeros(len(found), count, dtype=torch.float64),
            torch.zeros(2, len(found), how.method.max_iterations + 1, dtype=torch.float64),
            torch.zeros(len(found) if keep_points else 0, num_parameters, dtype=torch.float64),
        )
        for place, point in enumerate(found):
            if point is not None:
                rows._fill(place, point)
        return rows

    def _fill(self, place: int, point: CriticalPoint) -> None:
        numbers = [
            STATUSES.index(point.status),
            REASONS.index(point.stopped),
            point.loss,
            point.squared_gradient_norm,
            point.index.share,
            point.index.standard_error,
            point.index.negative,
            point.index.zero,
            math.nan if point.start_index is None else point.start_index.share,
            point.flatness,
            point.newton_residual,
            point.iterations,
            point.products,
        ]
        self.numbers[place] = torch.tensor(numbers, dtype=torch.float64)
        self.eigenvalues[place] = point.index.eigenvalues
        self.courses[:, place] = math.nan
        self.courses[0, place, : len(point.losses)] = point.losses
        self.courses[1, place, : len(point.losses)] = point.squared_gradient_norms
        if len(self.points):
            self.points[place] = point.point

    def result(self, names: Sequence[str], how: Search, **settings: Any) -> CriticalPointsResult:
        """All of them, with the settings that the result tells."""
        status, stopped, *columns = self.numbers.T.contiguous().unbind()
        longest = int(columns[9].max()) + 1
        return CriticalPointsResult(
            num_parameters=self.points.shape[1],
            starts=list(names),
            status=[STATUSES[int(code)] for code in status],
            stopped=[REASONS[int(code)] for code in stopped],
            loss=columns[0],
            squared_gradient_norm=columns[1],
            index=columns[2],
            index_error=columns[3],
            negative=columns[4],
            zero=columns[5],
            start_index=columns[6],
            flatness=columns[7],
            newton_residual=columns[8],
            iterations=columns[9],
            products=columns[10],
            eigenvalues=self.eigenvalues,
            losses=self.courses[0, :, :longest].clone(),
            squared_gradient_norms=self.courses[1, :, :longest].clone(),
            points=self.points,
            method=how.method.name,
            tolerance=how.tolerance,
            flatness_tolerance=how.flatness_tolerance,
            zero_tolerance=how.zero_tolerance,
            **settings,
        )
