"""Curvature of any module's loss: pure functions that leave the module bit for bit as it was.

In all of them ``loss_fn(module, batch)`` is the mean over the batch's examples, ``batches`` any iterable of batches:
tensors, or tuples, lists or mappings of tensors, of any sizes. They are read once and held in memory; a batch of n
examples (rows of its first tensor) counts with n. Curvature is that of the mean over all examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.curvature import estimator
from lightning_dynamics.analyses.curvature.checks import check_count, check_function, check_parameters, check_search
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.operator import HessianOperator
from lightning_dynamics.analyses.curvature.quantities import (
    GradientFlatness,
    condition_number,
    flatness_of,
    non_convexity,
)
from lightning_dynamics.analyses.curvature.spectrum import SpectralDensity, density_of
from lightning_dynamics.core.isolation import Mode, isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, silenced
from lightning_dynamics.core.parameters import select_parameters, unflatten

Direction = dict[str, Tensor]
"""Parameter name to a tensor of its shape."""


def hessian_vector_product(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    vector: Mapping[str, Tensor],
    *,
    parameters: str | Sequence[str] = "*",
    mode: Mode = "eval",
    seed: int = 0,
) -> Direction:
    """H v, where H = ∂²L/∂θ² and L is the mean loss over all examples (Pearlmutter 1994).

    Cost: two training passes (forward and backward) over the batches; memory: one batch's graph twice, P in float64.

    Args:
        module: any module, in float32 or float64; left as it was, also on errors.
        loss_fn: ``(module, batch) -> scalar``, the mean over the batch's examples.
        batches: see :mod:`lightning_dynamics.curvature.functions`.
        vector: parameter name to a tensor of its shape; what is missing is zero.
        parameters: globs: the coordinates of H, tied ones once, whether they are frozen or not.
        mode: ``"eval"`` or ``"train"``: the flag every submodule has.
        seed: of whatever is random in the module: batch i is run with ``seed + i`` every time.

    Returns:
        Parameter name to a tensor of its shape and dtype; zeros for parameters the loss does not depend on.

    Raises:
        ConfigurationError: no such parameters, no batches, no scalar loss.
        NotFinite: the loss or the product is NaN or infinite.
    """
    with _operator(module, loss_fn, batches, parameters, mode, seed, keep_graphs=False) as (operator, chosen):
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
        return _direction(operator.matvec(flat), chosen)


@dataclass(frozen=True, eq=False)
class ExtremeEigenvalues:
    """Both ends of the Hessian's spectrum.

    Args:
        largest: scalar for k = 1, else ``(k,)``, falling; float64, in units of loss / parameter².
        smallest: likewise, rising: by value, so that negative curvature comes first.
        largest_vectors: k directions of unit length.
        smallest_vectors: likewise.
        converged: every residual is within the tolerance, and no end is a crowd behind which an eigenvalue may hide;
            see :func:`~lightning_dynamics.curvature.estimator.extreme_pairs`.
        largest_residuals: ‖Hv − λv‖, shaped as ``largest``: an eigenvalue lies within this distance.
        smallest_residuals: likewise.
        overlooked: with a confidence of 95 %, no eigenvalue lies further out than this share of λmax − λmin; 0 if all
            are known.
        iterations: Hessian-vector products taken.
        num_parameters: P.
        condition_number: max|λ| / min|λ|; infinite for a singular Hessian; NaN where it is not known, which is
            wherever only the ends of the spectrum are. To have it, give ``tolerance=0`` and ``max_iterations`` ≥ P.
    """

    largest: Tensor
    smallest: Tensor
    largest_vectors: list[Direction]
    smallest_vectors: list[Direction]
    converged: bool
    largest_residuals: Tensor
    smallest_residuals: Tensor
    overlooked: float
    iterations: int
    num_parameters: int
    condition_number: float

    @property
    def non_convexity(self) -> float:
        """|λmin / λmax|: see :func:`~lightning_dynamics.curvature.quantities.non_convexity`."""
        return non_convexity(float(self.smallest.reshape(-1)[0]), float(self.largest.reshape(-1)[0]))


def extreme_eigenvalues(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    *,
    k: int = 1,
    parameters: str | Sequence[str] = "*",
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    mode: Mode = "eval",
    seed: int = 0,
    keep_graphs: bool | None = None,
) -> ExtremeEigenvalues:
    """The k largest and the k smallest eigenvalues of the Hessian, and their vectors.

    Lanczos with full reorthogonalisation, on the module's device; when converged, how often an eigenvalue occurs, and
    what is guaranteed: see :func:`~lightning_dynamics.curvature.estimator.extreme_pairs`. Exact once the Krylov space
    is exhausted, at the latest after P products.

    Cost: one training pass (forward and backward) over the batches per product where graphs are kept, else two; 30 to
    200 products are usual. Memory: (products + k) × P numbers of the parameters' dtype, and the graphs.

    Args:
        module: as for :func:`hessian_vector_product`, and so are the next two.
        loss_fn: likewise.
        batches: likewise.
        k: eigenvalues at each end, at most P.
        parameters: globs: the coordinates of H.
        tolerance: largest residual, as a share of the largest |λ|.
        max_iterations: products at most; what has not converged then is returned with ``converged=False``.
        mode: ``"eval"`` or ``"train"``.
        seed: of the start vectors, and as above.
        keep_graphs: keep the gradient's graph of every batch in memory (True), of none (False), of as many as fit
            into 1 GiB (None).

    Raises:
        ConfigurationError: as for :func:`hessian_vector_product`, or k, tolerance or max_iterations cannot work.
        NotFinite: the loss, or a product, is NaN or infinite.
    """
    with _operator(module, loss_fn, batches, parameters, mode, seed, keep_graphs) as (operator, chosen):
        check_search(k, tolerance, max_iterations, operator.size)
        found = _extremes(operator, k=k, tolerance=tolerance, max_iterations=max_iterations, seed=seed)
    shape: tuple[int, ...] = () if k == 1 else (k,)
    return ExtremeEigenvalues(
        found.largest.reshape(shape),
        found.smallest.reshape(shape),
        [_direction(row, chosen) for row in found.largest_vectors],
        [_direction(row, chosen) for row in found.smallest_vectors],
        found.converged,
        found.largest_residuals.reshape(shape),
        found.smallest_residuals.reshape(shape),
        found.overlooked,
        found.products,
        operator.size,
        condition_number(found),
    )


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
) -> TraceEstimate:
    """The trace of the Hessian, by Hutchinson's estimator with probes of ±1 (Commun. Stat. 19, 1990).

    Unbiased; the variance of one probe is 2 Σ_{i≠j} H²_{ij}. The probes depend on ``seed`` and P alone.
    Cost and further arguments: as :func:`extreme_eigenvalues`, with ``num_samples`` products; no basis is kept.
    """
    check_count("num_samples", num_samples)
    with _operator(module, loss_fn, batches, parameters, mode, seed, keep_graphs) as (operator, _):
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
    """
    check_count("num_samples", num_samples)
    check_count("num_iterations", num_iterations)
    if sigma is not None and not (sigma > 0 and math.isfinite(sigma)):
        raise ConfigurationError(f"`sigma` must be positive, or None; got {sigma!r}")
    with _operator(module, loss_fn, batches, parameters, mode, seed, keep_graphs) as (operator, _):
        nodes, weights = estimator.quadrature(
            operator.matvec,
            operator.size,
            num_samples=num_samples,
            num_iterations=num_iterations,
            seed=seed,
            dtype=operator.dtype,
            device=operator.device,
        )
    return density_of(nodes, weights, sigma)


def gradient_flatness(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    *,
    k: int = 1,
    parameters: str | Sequence[str] = "*",
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    mode: Mode = "eval",
    seed: int = 0,
    keep_graphs: bool | None = None,
) -> GradientFlatness:
    """How far the gradient is from the kernel of the Hessian.

    Frye et al. ("Numerically recovering the critical points of a deep linear autoencoder", 2019; "Critical
    point-finding methods reveal gradient-flat regions of deep network losses", Neural Computation 33, 2021): where g
    is not 0 but Hg nearly is, methods that look for critical points stop although there is none. At a critical point
    itself nothing is defined but ‖g‖; near one, all of it depends on rounding.

    Cost and arguments: as :func:`extreme_eigenvalues`, which it calls, and one product and one gradient more.
    """
    with _operator(module, loss_fn, batches, parameters, mode, seed, keep_graphs) as (operator, _):
        check_search(k, tolerance, max_iterations, operator.size)
        found = _extremes(operator, k=k, tolerance=tolerance, max_iterations=max_iterations, seed=seed)
        return flatness_of(operator, found)


def _extremes(
    operator: HessianOperator, *, k: int, tolerance: float, max_iterations: int, seed: int
) -> estimator.ExtremePairs:
    """:func:`~lightning_dynamics.curvature.estimator.extreme_pairs` of an operator."""
    return estimator.extreme_pairs(
        operator.matvec,
        operator.size,
        k=k,
        tolerance=tolerance,
        max_iterations=max_iterations,
        seed=seed,
        dtype=operator.dtype,
        device=operator.device,
    )


def _direction(flat: Tensor, like: Mapping[str, nn.Parameter]) -> Direction:
    return {name: piece.to(like[name], copy=True) for name, piece in unflatten(flat, like).items()}


@contextmanager
def _operator(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    parameters: str | Sequence[str],
    mode: Mode,
    seed: int,
    keep_graphs: bool | None,
) -> Iterator[tuple[HessianOperator, dict[str, nn.Parameter]]]:
    check_function(loss_fn, mode)
    chosen = select_parameters(module, parameters)
    check_parameters(chosen)
    with isolated(module, mode=mode, seed=seed) as streams, silenced(module):
        held = Minibatches.held(batches, seed=seed, streams=streams)
        operator = HessianOperator(module, loss_fn, held, chosen, keep_graphs=keep_graphs)
        try:
            yield operator, chosen
        finally:
            operator.forget()
