"""What eigenvalues, eigenvectors and the gradient say together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lightning_dynamics.analyses.curvature.estimator import ExtremePairs
from lightning_dynamics.analyses.curvature.operator import HessianOperator


@dataclass(frozen=True, eq=False)
class GradientFlatness:
    """Whether the gradient lies where the Hessian is flat.

    Args:
        gradient_norm: ‖g‖.
        flatness: ‖Hg‖ / ‖g‖, between 0 and max|λ|: 0 if g is in the kernel of H. NaN where g is 0.
        relative_flatness: the same divided by max|λ|, 0 to 1, so that scaling the loss changes nothing.
        outside_share: 1 − Σ cos²(g, vᵢ) over the 2k extreme eigenvectors: the share of ‖g‖² that lies outside of the
            leading directions of curvature, 0 to 1. Its root is the cosine of the angle between g and the space that
            they leave, of small |λ| as far as the extreme ones are those of large |λ|.
        loss: L.
    """

    gradient_norm: float
    flatness: float
    relative_flatness: float
    outside_share: float
    loss: float


def flatness_of(operator: HessianOperator, found: ExtremePairs) -> GradientFlatness:
    """See :func:`~lightning_dynamics.curvature.gradient_flatness`."""
    gradient = operator.gradient()
    norm = float(gradient.norm(dtype=torch.float64))
    if norm == 0:
        return GradientFlatness(0.0, math.nan, math.nan, math.nan, operator.loss)
    direction = gradient / norm
    ratio = float(operator.matvec(direction).norm(dtype=torch.float64))
    # The two ends share vectors where 2k comes near P: the projection on what they span, by their Gram matrix.
    vectors = torch.cat([found.largest_vectors, found.smallest_vectors])
    gram, cosines = (vectors @ vectors.T).double().cpu(), (vectors @ direction).double().cpu()
    inside = float(cosines @ torch.linalg.pinv(gram, rtol=1e-3, hermitian=True) @ cosines)
    top = float(found.values.abs().max())
    return GradientFlatness(norm, ratio, ratio / top if top > 0 else math.nan, max(0.0, 1 - inside), operator.loss)


def non_convexity(smallest: float, largest: float) -> float:
    """|λmin / λmax|, mapped in Li et al. (NeurIPS 2018, sec. 6): near 0 where the loss is almost convex.

    It is a magnitude: where all eigenvalues are positive it is one over the condition number. NaN for 0 / 0.
    """
    if largest == 0:
        return math.nan if smallest == 0 else math.inf
    return abs(smallest / largest)


def condition_number(found: ExtremePairs) -> float:
    """max|λ| / min|λ| where all eigenvalues are known, else NaN; infinite if one is 0 up to rounding."""
    if not found.complete:
        return math.nan
    magnitudes = found.values.abs()
    top, bottom = float(magnitudes.max()), float(magnitudes.min())
    rounding = 10 * torch.finfo(found.largest_vectors.dtype).eps * top
    return math.inf if bottom <= rounding else top / bottom
