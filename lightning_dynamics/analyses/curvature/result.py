"""What CurvatureCallback finds at one moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lightning_dynamics.analyses.curvature.quantities import non_convexity
from lightning_dynamics.analyses.result import AnalysisResult


def _none() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class CurvatureResult(AnalysisResult):
    """The Hessian of the probe's mean loss with respect to P parameters, at one moment of training.

    Tensors are float64 on the CPU. Eigenvalues are in units of loss / parameter². Where the loss or a derivative was
    not finite, every number is NaN and ``converged`` is False.

    Args:
        epoch: from 0.
        step: training batches that had stepped.
        num_examples: of the probe, over all processes.
        num_parameters: P.
        loss: L, the mean over the examples.
        largest: ``(k,)`` eigenvalues, falling.
        smallest: ``(k,)`` eigenvalues, rising.
        largest_residuals: ``(k,)``: ‖Hv − λv‖; an eigenvalue lies within this distance.
        smallest_residuals: ``(k,)``.
        converged: whether both ends have; see :func:`~lightning_dynamics.curvature.estimator.extreme_pairs`.
        overlooked: with a confidence of 95 %, no eigenvalue lies further out than this share of λmax − λmin.
        iterations: Hessian-vector products that the eigenvalues took.
        condition_number: NaN unless all eigenvalues are known.
        trace: NaN with ``trace_samples=0``.
        trace_standard_error: NaN for fewer than two samples.
        gradient_norm: ‖g‖.
        flatness: ‖Hg‖ / ‖g‖.
        relative_flatness: the same / max|λ|.
        outside_share: share of ‖g‖² outside of the 2k extreme eigenvectors.
        grid: ``(G,)`` eigenvalues; empty with ``density_samples=0``, as the next two.
        density: ``(G,)``: how the P eigenvalues are distributed; integrates to 1.
        density_standard_error: ``(G,)``; NaN for one start vector.
        sigma: standard deviation of the Gaussians that make up ``density``.
        data: what the examples were taken from.
        parameters: the patterns that chose the parameters, in words for a caption.
        estimator: how, in words for a caption.
        course_steps: ``(T,)`` int64: steps of the events so far, this one last. Empty in a condensed result, and so
            are the next three.
        course_largest: ``(T, k)``: ``largest`` of each.
        course_smallest: ``(T, k)``: ``smallest`` of each.
        course_converged: ``(T,)`` bool: whether each had converged.
    """

    num_parameters: int
    loss: float
    largest: Tensor
    smallest: Tensor
    largest_residuals: Tensor
    smallest_residuals: Tensor
    converged: bool
    overlooked: float
    iterations: int
    condition_number: float
    trace: float
    trace_standard_error: float
    gradient_norm: float
    flatness: float
    relative_flatness: float
    outside_share: float
    grid: Tensor
    density: Tensor
    density_standard_error: Tensor
    sigma: float
    data: str = ""
    parameters: str = ""
    estimator: str = ""
    course_steps: Tensor = field(default_factory=_none)
    course_largest: Tensor = field(default_factory=_none)
    course_smallest: Tensor = field(default_factory=_none)
    course_converged: Tensor = field(default_factory=_none)

    def scalars(self) -> dict[str, float]:
        """Extreme eigenvalues and what follows from them, trace, gradient, loss; what is not finite is left out."""
        numbers = {
            "loss": self.loss,
            "largest": float(self.largest[0]),
            "smallest": float(self.smallest[0]),
            "non_convexity": non_convexity(float(self.smallest[0]), float(self.largest[0])),
            "condition_number": self.condition_number,
            "trace": self.trace,
            "trace_standard_error": self.trace_standard_error,
            "gradient_norm": self.gradient_norm,
            "flatness": self.flatness,
            "relative_flatness": self.relative_flatness,
            "gradient_outside": self.outside_share,
            "converged": float(self.converged),
        }
        for place in range(1, len(self.largest)):
            numbers[f"largest_{place + 1}"] = float(self.largest[place])
            numbers[f"smallest_{place + 1}"] = float(self.smallest[place])
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def condensed(self) -> CurvatureResult:
        """Without the events before it."""
        return replace(
            self, course_steps=_none(), course_largest=_none(), course_smallest=_none(), course_converged=_none()
        )

    def after(self, earlier: Sequence[CurvatureResult]) -> CurvatureResult:
        """With the eigenvalues of earlier events, as far as there are as many of them."""
        events = [one for one in earlier if one.step < self.step and len(one.largest) == len(self.largest)]
        events.append(self)
        return replace(
            self,
            course_steps=torch.tensor([one.step for one in events]),
            course_largest=torch.stack([one.largest for one in events]),
            course_smallest=torch.stack([one.smallest for one in events]),
            course_converged=torch.tensor([one.converged for one in events]),
        )
