"""How many directions of a point lead down: the signs of the Hessian's eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynamics.analyses.critical_points.search import Surface
from lightning_dynamics.analyses.curvature.estimator import quadrature

SAMPLES, ITERATIONS = 4, 80
"""Start vectors, and products from each, where the spectrum is estimated."""


@dataclass(frozen=True, eq=False)
class Index:
    """Signs of the eigenvalues.

    Args:
        share: of the P eigenvalues that are negative: the index, as Dauphin et al. 2014 define it.
        standard_error: of the share; 0 where all eigenvalues are known.
        negative: how many are; NaN where they are not all known.
        zero: how many count as 0, likewise.
        eigenvalues: ``(P,)`` float64, rising; ``(2,)``, the smallest and the largest Ritz value, where not all are
            known.
    """

    share: float
    standard_error: float
    negative: float
    zero: float
    eigenvalues: Tensor


def index_at(surface: Surface, size: int, *, dense_up_to: int, zero: float, seed: int, like: Tensor) -> Index:
    """The index where ``surface`` was last gone to.

    Up to P = ``dense_up_to`` all eigenvalues, from P products. Beyond that the share of negative ones by stochastic
    Lanczos quadrature (see :func:`~lightning_dynamics.curvature.estimator.quadrature`), 4 × 80 products, with its
    standard error over the start vectors; eigenvalues near 0 are not told apart then, so the share is a rough one.

    Args:
        surface: the function.
        size: P.
        dense_up_to: see above.
        zero: |λ| up to this share of the largest count as 0.
        seed: of the start vectors.
        like: a vector of the surface's dtype and device.
    """
    if size <= dense_up_to:
        hessian = torch.stack([surface.product(row) for row in torch.eye(size, dtype=like.dtype, device=like.device)])
        values = torch.linalg.eigvalsh((hessian + hessian.T).double().cpu() / 2)
        limit = zero * float(values.abs().max())
        negative = int((values < -limit).sum())
        return Index(negative / size, 0.0, float(negative), float((values.abs() <= limit).sum()), values)
    nodes, weights = quadrature(
        surface.product,
        size,
        num_samples=SAMPLES,
        num_iterations=ITERATIONS,
        seed=seed,
        dtype=like.dtype,
        device=like.device,
    )
    below = torch.where(nodes < -zero * nodes.abs().max(), weights, 0.0).sum(1)
    ends = torch.stack([nodes.min(), nodes.max()])
    return Index(float(below.mean()), float(below.std()) / math.sqrt(SAMPLES), math.nan, math.nan, ends)


def unknown(size: int, dense_up_to: int) -> Index:
    """Where nothing is finite."""
    count = size if size <= dense_up_to else 2
    eigenvalues = torch.full((count,), math.nan, dtype=torch.float64)
    return Index(math.nan, math.nan, math.nan, math.nan, eigenvalues)
