"""A density of eigenvalues, from quadrature nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynamics.analyses.curvature.estimator import broadened

_BROAD = 0.01  # of the spread
_MARGIN = 5  # standard deviations beyond the outermost nodes
_POINTS = 1025


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """How eigenvalues are distributed: Gaussians of width ``sigma`` around the nodes of a quadrature.

    Features narrower than ``sigma`` are not resolved: a single eigenvalue of P is a peak of height
    1 / (P ``sigma`` √(2π)).

    Args:
        grid: ``(G,)`` float64: eigenvalues, evenly spaced, from 5 ``sigma`` below the least node to 5 above the last.
        density: ``(G,)`` float64: mean over the start vectors; integrates to 1.
        standard_error: ``(G,)`` float64: of that mean; NaN for a single start vector.
        nodes: ``(R, m)`` float64: Ritz values of each of R start vectors.
        weights: ``(R, m)`` float64: each row adds up to 1.
        sigma: standard deviation of the Gaussians.
    """

    grid: Tensor
    density: Tensor
    standard_error: Tensor
    nodes: Tensor
    weights: Tensor
    sigma: float


def density_of(nodes: Tensor, weights: Tensor, sigma: float | None = None) -> SpectralDensity:
    """Broaden nodes ``(R, m)`` with weights ``(R, m)`` to a density.

    Args:
        nodes: eigenvalues.
        weights: rows that add up to 1.
        sigma: by default 1 % of the spread of the nodes; where they all are one, 1 % of its magnitude (1 if that is 0).
    """
    low, high = float(nodes.min()), float(nodes.max())
    top = max(abs(low), abs(high))
    if sigma is None:
        spread = high - low if high - low > 1e-6 * top else top
        sigma = _BROAD * (spread or 1.0)
    low, high = low - _MARGIN * sigma, high + _MARGIN * sigma
    # At least four points to a standard deviation, so that the sum over the grid is the integral.
    points = min(max(_POINTS, math.ceil(4 * (high - low) / sigma)), 100 * _POINTS)
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    curves = broadened(nodes, weights, grid, sigma)
    count = len(curves)
    error = curves.std(0) / math.sqrt(count) if count > 1 else torch.full_like(grid, math.nan)
    return SpectralDensity(grid, curves.mean(0), error, nodes, weights, sigma)
