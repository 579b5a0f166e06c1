"""What CurvatureCallback finds at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_dynamics.figures.result import Result


@dataclass(frozen=True, eq=False)
class CurvatureResult(Result):
    """The Hessian of the probe's mean loss with respect to P parameters, where training stood.

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
