"""Planes along derivatives of the loss: its gradient, its Hessian's leading eigenvectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.curvature.estimator import extreme_pairs
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.operator import HessianOperator, NotFinite
from lightning_dynamics.analyses.landscape import estimator
from lightning_dynamics.analyses.landscape.placement import Placement, SliceContext, around, relative
from lightning_dynamics.core.parameters import flatten

Found = tuple[list[Tensor], dict[str, Any]]


def hessian_plane(at: SliceContext) -> Placement:
    """The eigenvectors of the two largest eigenvalues of the Hessian over all examples, by all processes together."""

    def find(operator: HessianOperator) -> Found:
        found = extreme_pairs(
            operator.matvec, operator.size, k=2, seed=at.seed, dtype=operator.dtype, device=operator.device
        )
        values = found.largest.tolist()
        x, y = (f"Hessian eigenvector {number} (λ = {value:.4g})" for number, value in enumerate(values, 1))
        about = {"x": x, "y": y, "eigenvalues": values, "converged": found.converged}
        return list(found.largest_vectors.cpu()), about

    return _plane(at, find, {"kind": "hessian", "title": "plane of the leading Hessian eigenvectors"})


def gradient_plane(at: SliceContext) -> Placement:
    """The mean gradient over all examples and a random direction.

    Raises:
        ValueError: the gradient is zero.
    """

    def find(operator: HessianOperator) -> Found:
        gradient = operator.gradient().cpu()
        if not gradient.any():
            raise ValueError("the gradient is zero: it has no direction")
        (other,) = estimator.random_directions(at.weights, count=1, seed=at.seed, normalize="none", move_biases=True)
        about = {"x": "gradient", "y": "random direction", "seed": at.seed, "orthogonal": False}
        return [gradient, flatten(other).cpu()], about

    return _plane(at, find, {"kind": "gradient", "title": "plane of the gradient and a random direction"})


def _plane(at: SliceContext, find: Callable[[HessianOperator], Found], about: dict[str, Any]) -> Placement:
    """Two directions at the weights' own norm."""
    ranks = at.context.ranks
    operator = HessianOperator(
        at.context.module,
        at.loss_fn,
        Minibatches.from_context(at.context),
        dict(at.parameters),
        gather=lambda work: ranks.all_reduce(ranks.run_checked(work)),
        num_examples=len(at.context.probe),
    )
    try:
        with torch.no_grad():
            flats, told = operator.run_on_rank_zero(ranks, lambda: find(operator))
    except NotFinite:  # training has diverged: a landscape of NaN, as there is one for random directions
        flats = [torch.full((operator.size,), math.nan)] * 2
        told = {axis: f"{about['kind']} (not finite)" for axis in "xy"}
    finally:
        operator.clear_cache()
    return around(at.weights, relative(at.weights, flats), at.span, at.resolution, about | told)
