"""Products, trace and spectral density of any module's Hessian, without a Trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.curvature import estimator
from lightning_dynamics.analyses.curvature.local_operator import Direction, direction, local_operator
from lightning_dynamics.analyses.curvature.spectrum import SpectralDensity, density_of
from lightning_dynamics.core.checks import check_count
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn
from lightning_dynamics.core.parameters import unflatten


def hessian_vector_product(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    vector: Mapping[str, Tensor],
    *,
    parameters: str | Sequence[str] = "*",
    mode: Mode = "eval",
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> Direction:
    """H v, where H = ∂²L/∂θ² and L is the mean loss over all examples (Pearlmutter 1994).

    Cost: two training passes (forward and backward) over the batches, and about six over the smallest of them, to find
    out whether the products can be right; memory: one batch's graph twice, P in float64.

    Args:
        module: any module, in float32 or float64; left as it was, also on errors.
        loss_fn: ``(module, batch) -> scalar``, a mean over the batch's examples, or over other terms.
        batches: see :mod:`lightning_dynamics.curvature`.
        vector: parameter name to a tensor of its shape; what is missing is zero.
        parameters: globs: the coordinates of H, tied ones once, whether they are frozen or not.
        mode: ``"eval"`` or ``"train"``: the flag every submodule has.
        seed: of whatever is random in the module: batch i is run with ``seed + i`` every time.
        weights: terms of each batch's mean: tokens that count, or the sum of its targets' class weights, say; by
            default its examples.

    Returns:
        Parameter name to a tensor of its shape and dtype; zeros for parameters the loss does not depend on.

    Raises:
        ConfigurationError: no such parameters, no batches, no scalar loss, a loss that changes by itself, an operation
            whose second derivative is missing or wrong.
        NotFinite: the loss or the product is NaN or infinite.
    """
    with local_operator(module, loss_fn, batches, parameters, mode, seed, weights, keep_graphs=False) as (
        operator,
        chosen,
    ):
        flat = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
        pieces = unflatten(flat, chosen)
        for name, value in vector.items():
            if name not in chosen:
                raise ConfigurationError(
                    f"`vector` has {name!r}, which is none of the parameters selected; there are: {', '.join(chosen)}"
                )
            if value.shape != chosen[name].shape:
                raise ConfigurationError(
                    f"`vector[{name!r}]` must have its parameter's shape {tuple(chosen[name].shape)}, got "
                    f"{tuple(value.shape)}"
                )
            pieces[name].copy_(value)
        return direction(operator.matvec(flat), chosen)


@dataclass(frozen=True, eq=False)
class TraceEstimate:
    """Hutchinson's estimate of the Hessian's trace.

    Args:
        trace: mean over the probes; the mean eigenvalue is ``trace / num_parameters``.
        standard_error: of the trace; NaN for one probe.
        num_samples: probes.
        num_parameters: P.
    """

    trace: float
    standard_error: float
    num_samples: int
    num_parameters: int


def hutchinson_trace(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    *,
    num_samples: int = 32,
    parameters: str | Sequence[str] = "*",
    mode: Mode = "eval",
    seed: int = 0,
    keep_graphs: bool | None = None,
    weights: Sequence[float] | None = None,
) -> TraceEstimate:
    """The trace of the Hessian, by Hutchinson's estimator with probes of ±1 (Commun. Stat. 19, 1990).

    Unbiased; the variance of one probe is 2 Σ_{i≠j} H²_{ij}. The probes depend on ``seed`` and P alone.
    Cost and further arguments: as :func:`extreme_eigenvalues`, with ``num_samples`` products; no basis is kept.
    """
    check_count("num_samples", num_samples)
    with local_operator(module, loss_fn, batches, parameters, mode, seed, weights, keep_graphs) as (operator, _):
        found = estimator.trace_estimate(
            operator.matvec,
            operator.size,
            num_samples=num_samples,
            seed=seed,
            dtype=operator.dtype,
            device=operator.device,
        )
    return TraceEstimate(found.trace, found.standard_error, num_samples, operator.size)


def spectral_density(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    *,
    num_samples: int = 4,
    num_iterations: int = 80,
    sigma: float | None = None,
    parameters: str | Sequence[str] = "*",
    mode: Mode = "eval",
    seed: int = 0,
    keep_graphs: bool | None = None,
    weights: Sequence[float] | None = None,
) -> SpectralDensity:
    """How the Hessian's eigenvalues are distributed, by stochastic Lanczos quadrature.

    Lin, Saad, Yang, "Approximating spectral densities of large matrices" (SIAM Review 58, 2016); for networks Papyan
    2018 and Ghorbani, Krishnan, Xiao (ICML 2019), who take 90 products from each of 10 vectors.

    Cost and further arguments: as :func:`extreme_eigenvalues`, with ``num_samples`` × ``num_iterations`` products at
    most; memory for one start vector's basis, ``num_iterations`` × P numbers.

    Args:
        module: as above.
        loss_fn: likewise.
        batches: likewise.
        num_samples: random start vectors.
        num_iterations: products from each: nodes of the quadrature.
        sigma: standard deviation of the Gaussian that each node is broadened to; by default 1 % of the spread of all
            nodes.
        parameters: globs.
        mode: ``"eval"`` or ``"train"``.
        seed: of the start vectors, and as above.
        keep_graphs: as above.
        weights: as above.
    """
    check_count("num_samples", num_samples)
    check_count("num_iterations", num_iterations)
    if sigma is not None and not (sigma > 0 and math.isfinite(sigma)):
        raise ConfigurationError(f"`sigma` must be positive, or None; got {sigma!r}")
    with local_operator(module, loss_fn, batches, parameters, mode, seed, weights, keep_graphs) as (operator, _):
        nodes, shares = estimator.quadrature(
            operator.matvec,
            operator.size,
            num_samples=num_samples,
            num_iterations=num_iterations,
            seed=seed,
            dtype=operator.dtype,
            device=operator.device,
        )
    return density_of(nodes, shares, sigma)
