"""Directions from derivatives of the loss: its gradient, its Hessian's leading eigenvectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.curvature.estimator import extreme_pairs
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.operator import HessianOperator, NotFinite
from lightning_dynamics.analyses.landscape import estimator
from lightning_dynamics.analyses.landscape.estimator import Direction
from lightning_dynamics.analyses.landscape.slices import Weights, relative
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.objective import LossFn
from lightning_dynamics.core.parameters import flatten


def downhill(
    context: Context,
    parameters: Mapping[str, nn.Parameter],
    now: Weights,
    *,
    kind: str,
    loss_fn: LossFn | None,
    seed: int,
) -> tuple[tuple[Direction, ...], dict[str, Any]]:
    """Two directions at the weights' own norm, taken by all processes together, and what to say of them.

    Args:
        context: isolated.
        parameters: those that move.
        now: their values.
        kind: ``"hessian"``: the eigenvectors of the two largest eigenvalues; ``"gradient"``: the mean gradient over
            all examples, and a random direction.
        loss_fn: None for ``training_step``.
        seed: of the random direction, and of Lanczos' start.

    Raises:
        ValueError: the gradient is zero.
    """
    ranks = context.ranks
    operator = HessianOperator(
        context.module,
        loss_fn,
        Minibatches.of(context),
        dict(parameters),
        gather=lambda work: ranks.all_reduce(ranks.run_checked(work)),
        num_examples=len(context.probe),
    )

    def drive() -> tuple[list[Tensor], dict[str, Any]]:
        if kind == "gradient":
            gradient = operator.gradient().cpu()
            if not gradient.any():
                raise ValueError("the gradient is zero: it has no direction")
            (other,) = estimator.random_directions(now, count=1, seed=seed, normalize="none", move_biases=True)
            about = {"kind": kind, "x": "gradient", "y": "random direction", "seed": seed}
            return [gradient, flatten(other).cpu()], about
        found = extreme_pairs(
            operator.matvec, operator.size, k=2, seed=seed, dtype=operator.dtype, device=operator.device
        )
        values = found.largest.tolist()
        x, y = (f"Hessian eigenvector {number} (λ = {value:.4g})" for number, value in enumerate(values, 1))
        about = {"kind": kind, "x": x, "y": y, "eigenvalues": values, "converged": found.converged}
        return list(found.largest_vectors.cpu()), about

    try:
        with torch.no_grad():
            flats, about = operator.led(ranks, drive)
    except NotFinite:  # training has diverged: a landscape of NaN, as there is one for random directions
        flats = [torch.full((operator.size,), math.nan)] * 2
        about = {"kind": kind, "x": f"{kind} (not finite)", "y": f"{kind} (not finite)"}
    finally:
        operator.forget()
    return relative(now, flats), about
