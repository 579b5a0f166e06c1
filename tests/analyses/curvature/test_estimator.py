"""The linear algebra against matrices whose spectrum is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.curvature import estimator as E
from lightning_dynamics.analyses.curvature.spectrum import density_of


def diagonal(values: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: values.to(v) * v


def rotated(values: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed)).double())[
        0
    ]
    return (q * values.double()) @ q.T


def pairs(values: Tensor, **options: object) -> E.ExtremePairs:
    return E.extreme_pairs(diagonal(values), len(values), **{"dtype": torch.float64} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("k", [1, 4])
def test_eigenpairs_of_a_dense_matrix(k: int, dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 5, 150, dtype=torch.float64).pow(3)
    matrix = rotated(values)
    found = E.extreme_pairs(lambda v: (matrix @ v.double()).to(v), 150, k=k, dtype=dtype)
    assert found.converged
    tolerance = 1e-4 * 125
    np.testing.assert_allclose(found.largest, values.flip(0)[:k], atol=tolerance)
    np.testing.assert_allclose(found.smallest, values[:k], atol=tolerance)
    for lambdas, vectors, residuals in (
        (found.largest, found.largest_vectors, found.largest_residuals),
        (found.smallest, found.smallest_vectors, found.smallest_residuals),
    ):
        assert vectors.shape == (k, 150) and vectors.dtype == dtype
        true = (matrix @ vectors.double().T - vectors.double().T * lambdas).norm(dim=0)
        np.testing.assert_allclose(true, residuals, atol=2e-4 if dtype is torch.float32 else 1e-9)
        assert (true <= tolerance).all()
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(k, dtype=dtype), atol=1e-5, rtol=0)


SPECTRA = [[3.0], [0.0], [-2.0, 2.0], [2.0] * 3, [0.0] * 5, [5.0, 5.0, 5.0, 1.0, -1.0, -1.0], [2.0] * 40 + [-1.0] * 30]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("values", "k"), [(v, k) for v in SPECTRA for k in (1, 2, 3) if k <= len(v)], ids=str)
def test_small_and_repeated(values: list[float], k: int, dtype: torch.dtype) -> None:
    """An eigenvalue that occurs several times is found several times, and tiny matrices are no special case."""
    found = pairs(torch.tensor(values, dtype=torch.float64), k=k, dtype=dtype)
    assert found.converged
    if dtype is torch.float64:  # in float32 rounding may look like one more direction
        assert found.complete and found.overlooked == 0 and found.products <= k * len(set(values))
    atol = 1e-6 if dtype is torch.float32 else 1e-13
    np.testing.assert_allclose(found.largest, sorted(values, reverse=True)[:k], atol=atol)
    np.testing.assert_allclose(found.smallest, sorted(values)[:k], atol=atol)


def test_a_crowd_at_zero_hides_nothing() -> None:
    """After four products everything looks converged (the smallest at 0); the isolated -0.05 has not come forward."""
    values = torch.zeros(20_000, dtype=torch.float64)
    values[:60] = torch.linspace(0.05, 10, 60)
    values[60] = -0.05
    space = E.lanczos(diagonal(values), E.random_start(len(values), 1, 0, torch.float64, "cpu"), 12)
    early = space.ritz()
    assert early.residuals[0] < 1e-3 * early.values[-1] and early.values[0] > -1e-3  # so the test tests something
    found = pairs(values, tolerance=1e-3)
    assert found.converged
    assert float(found.smallest) == pytest.approx(-0.05, abs=1e-2)
    assert float(found.smallest) < -0.04


def test_a_crowd_is_accepted_after_long_enough() -> None:
    values = torch.linspace(0, 10, 3000, dtype=torch.float64).clamp(min=3)
    found = pairs(values)
    assert found.converged and not found.complete
    assert float(found.smallest) == pytest.approx(3, abs=1e-3)
    assert found.overlooked <= 1e-3
    shorter = pairs(values, max_iterations=found.products // 2)
    assert not shorter.converged and shorter.overlooked > 1e-3


def test_what_has_not_converged_says_so() -> None:
    values = torch.linspace(-1, 1, 2000, dtype=torch.float64)
    found = pairs(values, max_iterations=10)
    assert not found.converged and not found.complete and found.products == 10
    assert float(found.largest_residuals) > 1e-4 and abs(float(found.largest) - 1) > 1e-4
    assert float(found.largest) <= 1 and 1 - float(found.largest) <= float(found.largest_residuals)  # the bound holds


def test_tolerance_zero_goes_to_the_end() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pairs(values, tolerance=0)
    assert found.complete and found.converged and found.products == 60
    np.testing.assert_allclose(found.values, values.sort().values, atol=1e-12)


def test_the_bound_on_what_is_overlooked() -> None:
    """Over many starts it fails in far fewer than 5 %, for a matrix made to be hard."""
    values = torch.zeros(400, dtype=torch.float64)
    values[0] = 1.0
    values[1:200] = torch.linspace(0, 0.98, 199)
    misses = 0
    for seed in range(60):
        start = E.random_start(400, 1, seed, torch.float64, "cpu")
        top = float(E.lanczos(diagonal(values), start, 12).ritz().values[-1])
        misses += 1 - top > E.overlooked(12, 400)
    assert misses <= 3
    assert E.overlooked(12, 400) < 0.2 and E.overlooked(1, 400) == 1
    assert E.overlooked(12, 400, k=4) == E.overlooked(3, 400)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"k": 0}, "`k`"), ({"k": 4}, "`k`"), ({"max_iterations": 0}, "max_iterations"), ({"tolerance": -1}, "tolerance")],
    ids=str,
)
def test_what_cannot_work_is_refused(options: dict[str, int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        pairs(torch.ones(3), **options)


def test_a_product_that_is_not_finite_ends_it() -> None:
    with pytest.raises(ValueError, match="not finite"):
        pairs(torch.tensor([1.0, math.nan]))


def test_the_same_seed_gives_the_same_bits() -> None:
    values = torch.linspace(-1, 4, 500, dtype=torch.float64)
    first, second, other = (pairs(values, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.largest_vectors, second.largest_vectors) and torch.equal(first.values, second.values)
    assert not torch.equal(first.values, other.values)


def test_trace_of_a_diagonal_matrix_is_exact() -> None:
    values = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = E.trace_estimate(diagonal(values), 300, num_samples=5, dtype=torch.float64)
    np.testing.assert_allclose(found.samples, float(values.sum()), rtol=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    assert math.isnan(E.trace_estimate(diagonal(values), 300, num_samples=1).standard_error)


def test_trace_and_its_error() -> None:
    """Unbiased, and the standard error is that of a variance of 2 Σ_{i≠j} H²."""
    matrix = rotated(torch.linspace(-1, 3, 80, dtype=torch.float64))
    found = E.trace_estimate(lambda v: matrix @ v, 80, num_samples=4000, dtype=torch.float64)
    theory = math.sqrt(2 * float((matrix - matrix.diag().diag()).square().sum()) / 4000)
    assert found.standard_error == pytest.approx(theory, rel=0.05)
    assert abs(found.trace - 80) < 4 * theory


def test_quadrature_is_exact_for_polynomials() -> None:
    values = torch.linspace(-1, 2, 50, dtype=torch.float64)
    start = E.random_start(50, 1, 0, torch.float64, "cpu")[0]
    nodes, weights = E.quadrature(diagonal(values), 50, num_samples=2, num_iterations=6, dtype=torch.float64)
    assert nodes.shape == weights.shape == (2, 6)
    for degree in range(12):
        own = float((start.square() * values**degree).sum() / start.square().sum())
        assert float((weights[0] * nodes[0] ** degree).sum()) == pytest.approx(own, rel=1e-10)
    own = float((start.square() * values**13).sum() / start.square().sum())
    assert float((weights[0] * nodes[0] ** 13).sum()) != pytest.approx(own, rel=1e-10)


def test_density_of_a_known_spectrum() -> None:
    values = torch.cat([torch.full((600,), -1.0), torch.full((300,), 0.5), torch.full((100,), 2.0)]).double()
    found = density_of(*E.quadrature(diagonal(values), 1000, num_samples=20, num_iterations=10, dtype=torch.float64))
    assert found.nodes.shape == (20, 3)  # exhausted
    step = float(found.grid[1] - found.grid[0])
    assert float(found.density.sum()) * step == pytest.approx(1, abs=1e-6)
    for middle, share in ((-1.0, 0.6), (0.5, 0.3), (2.0, 0.1)):
        near = (found.grid - middle).abs() < 5 * found.sigma
        error = 4 * math.sqrt(2 * share * (1 - share) / 1000 / 20)
        assert float(found.density[near].sum()) * step == pytest.approx(share, abs=error)
    assert (found.standard_error[found.density > 0.1] > 0).all()


@pytest.mark.parametrize("values", [[0.0, 0.0], [4.0, 4.0], [1e-9, -1e-9]], ids=str)
def test_density_where_there_is_no_spread(values: list[float]) -> None:
    found = density_of(*E.quadrature(diagonal(torch.tensor(values)), 2, num_samples=1, num_iterations=5))
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=1e-6)
    assert found.standard_error.isnan().all()


@pytest.mark.parametrize("sigma", [1e-3, 0.3])
def test_density_of_a_width_of_ones_own(sigma: float) -> None:
    values = torch.linspace(-1, 1, 100, dtype=torch.float64)
    nodes, weights = E.quadrature(diagonal(values), 100, num_samples=2, num_iterations=20)
    found = density_of(nodes, weights, sigma)
    assert found.sigma == sigma
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=1e-6)
