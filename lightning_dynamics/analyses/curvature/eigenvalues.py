"""Extreme eigenvalues of any module's Hessian, and what they say of the gradient, without a Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_dynamics.analyses.curvature import estimator
from lightning_dynamics.analyses.curvature.checks import check_search
from lightning_dynamics.analyses.curvature.local_operator import Direction, direction, local_operator
from lightning_dynamics.analyses.curvature.operator import HessianOperator
from lightning_dynamics.analyses.curvature.quantities import (
    GradientFlatness,
    condition_number,
    flatness_of,
    non_convexity,
)
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.objective import LossFn


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
    weights: Sequence[float] | None = None,
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
        weights: as for :func:`hessian_vector_product`.

    Raises:
        ConfigurationError: as for :func:`hessian_vector_product`, or k, tolerance or max_iterations cannot work.
        NotFinite: the loss, or a product, is NaN or infinite.
    """
    with local_operator(module, loss_fn, batches, parameters, mode, seed, weights, keep_graphs) as (operator, chosen):
        found = _extremes(operator, k, tolerance, max_iterations, seed)
    shape: tuple[int, ...] = () if k == 1 else (k,)
    return ExtremeEigenvalues(
        found.largest.reshape(shape),
        found.smallest.reshape(shape),
        [direction(row, chosen) for row in found.largest_vectors],
        [direction(row, chosen) for row in found.smallest_vectors],
        found.converged,
        found.largest_residuals.reshape(shape),
        found.smallest_residuals.reshape(shape),
        found.overlooked,
        found.products,
        operator.size,
        condition_number(found),
    )


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
    weights: Sequence[float] | None = None,
) -> GradientFlatness:
    """How far the gradient is from the kernel of the Hessian.

    Frye et al. ("Numerically recovering the critical points of a deep linear autoencoder", 2019; "Critical
    point-finding methods reveal gradient-flat regions of deep network losses", Neural Computation 33, 2021): where g
    is not 0 but Hg nearly is, methods that look for critical points stop although there is none. At a critical point
    itself nothing is defined but ‖g‖; near one, all of it depends on rounding.

    Cost and arguments: as :func:`extreme_eigenvalues`, which it calls, and one product and one gradient more.
    """
    with local_operator(module, loss_fn, batches, parameters, mode, seed, weights, keep_graphs) as (operator, _):
        return flatness_of(operator, _extremes(operator, k, tolerance, max_iterations, seed))


def _extremes(
    operator: HessianOperator, k: int, tolerance: float, max_iterations: int, seed: int
) -> estimator.ExtremePairs:
    check_search(k, tolerance, max_iterations, operator.size)
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
