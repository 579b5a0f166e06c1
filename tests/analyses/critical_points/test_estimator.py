"""MINRES and the solution of minimum length, against NumPy's pseudo-inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.critical_points.estimator import minres

SPECTRA = {
    "positive": [1.0, 2.0, 3.0, 4.0, 5.0],
    "indefinite": [-3.0, -1.0, 0.5, 2.0, 4.0, 7.0],
    "singular": [0.0, 0.0, 1.0, -2.0, 3.0, 5.0],
    "many times the same": [1.0, 1.0, 1.0, -1.0, -1.0, 0.0, 0.0],
    "one number": [2.0],
    "symmetric about zero": [-2.0, -1.0, 1.0, 2.0],
    "scales": [1e-8, 1e-9, -1e-9, 0.0],
}


def matrix(values: list[float], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    product = turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T
    return (product + product.T) / 2


def vector(size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("is_compatible", [True, False], ids=["compatible", "incompatible"])
@pytest.mark.parametrize("name", SPECTRA)
def test_it_is_the_pseudo_inverse_solution(name: str, is_compatible: bool) -> None:
    a = matrix(SPECTRA[name])
    b = vector(len(a))
    b = a @ b if is_compatible else b
    found = minres(lambda v: a @ v, b, tolerance=1e-13)
    expected = torch.from_numpy(np.linalg.pinv(a.numpy(), rcond=1e-12)) @ b
    torch.testing.assert_close(found.x, expected, rtol=1e-9, atol=1e-9 * float(expected.norm()))
    torch.testing.assert_close(found.residual, b - a @ found.x, rtol=1e-9, atol=1e-9 * float(b.norm()))
    assert found.relative_residual == pytest.approx(float((b - a @ found.x).norm() / b.norm()), abs=1e-9)
    torch.testing.assert_close(found.first_product, a @ b)
    singular = 0.0 in SPECTRA[name] and not is_compatible
    assert found.outcome == ("least squares" if singular else "solved")
    assert found.iterations <= len(a)


def test_a_large_kernel_is_noticed_in_time() -> None:
    """One iteration too many would divide by a pivot that is rounding error."""
    a = matrix([*torch.linspace(1, 10, 50).tolist(), *torch.linspace(-10, -1, 50).tolist(), *[0.0] * 100])
    b = vector(200)
    found = minres(lambda v: a @ v, b, tolerance=1e-10)
    expected = torch.from_numpy(np.linalg.pinv(a.numpy(), rcond=1e-11)) @ b
    assert found.outcome == "least squares"
    torch.testing.assert_close(found.x, expected, rtol=0, atol=1e-6 * float(expected.norm()))
    torch.testing.assert_close(found.residual, b - a @ found.x, rtol=0, atol=1e-6 * float(b.norm()))


def test_every_iterate_has_the_least_residual_in_its_krylov_space() -> None:
    a, b = matrix([float(i) for i in range(-7, 8)]), vector(15)
    basis = torch.stack([torch.linalg.matrix_power(a, k) @ b for k in range(6)], 1)
    for iterations in range(1, 7):
        space = torch.linalg.qr(basis[:, :iterations])[0]
        least = torch.linalg.lstsq(a @ space, b[:, None]).solution
        found = minres(lambda v: a @ v, b, max_iterations=iterations, tolerance=0.0)
        torch.testing.assert_close(found.x, (space @ least)[:, 0], rtol=1e-7, atol=1e-9)
        assert found.outcome == "iterations" and found.iterations == iterations


@pytest.mark.parametrize("kept", [None, 2])
def test_an_ill_conditioned_system_is_solved(kept: int | None) -> None:
    a = matrix([10.0 ** (-k / 4) * (-1) ** k for k in range(24)])
    b = a @ vector(24)
    found = minres(lambda v: a @ v, b, tolerance=1e-10, kept=kept)
    if kept is None:
        assert found.outcome == "solved" and found.iterations <= 24
        torch.testing.assert_close(a @ found.x, b, rtol=0, atol=1e-9 * float(b.norm()))
    else:  # the three-term recurrence alone loses orthogonality, and P iterations no longer do
        assert 1e-10 < found.relative_residual < 1e-2


def test_what_counts_as_kernel_is_left_alone() -> None:
    a = torch.diag(torch.tensor([4.0, 1e-4, 1e-5], dtype=torch.float64))
    b = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64)
    found = minres(lambda v: a @ v, b, zero=1e-2, tolerance=1e-10)
    assert found.outcome == "least squares"
    assert float(found.x[0]) == pytest.approx(1.0, abs=1e-3)
    assert float(found.x[1:].abs().max()) < 1.0, "1e4 and 1e5 in the exact solution"


def test_nothing_to_solve() -> None:
    a = matrix([1.0, 2.0])
    found = minres(lambda v: a @ v, torch.zeros(2, dtype=torch.float64))
    assert found.outcome == "solved" and not found.x.any() and found.iterations == 0
    found = minres(lambda v: 0 * v, torch.ones(3, dtype=torch.float64))
    assert found.outcome == "least squares" and not found.x.any() and found.relative_residual == 1.0
    found = minres(lambda v: a @ v, torch.ones(2, dtype=torch.float64), max_iterations=0)
    assert found.outcome == "iterations" and not found.x.any() and found.relative_residual == 1.0


def test_products_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        minres(lambda v: v * float("nan"), torch.ones(2, dtype=torch.float64))
