"""Searches on functions of a few numbers, without any module."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.critical_points.index import index_at, unknown
from lightning_dynamics.analyses.critical_points.search import _in_the_kernel, _Measured, search
from lightning_dynamics.analyses.critical_points.settings import GradientNorm, Method, NewtonMR, Search
from lightning_dynamics.analyses.curvature.operator import NotFinite

METHODS: list[Method] = [NewtonMR(), GradientNorm()]


class Plain:
    """Any differentiable formula as a surface."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        self.formula = formula
        self.visits = 0

    def at(self, point: Tensor) -> tuple[float, Tensor]:
        self.visits += 1
        with torch.enable_grad():
            self.x = point.detach().clone().requires_grad_()
            value = self.formula(self.x)
            (self.gradient,) = torch.autograd.grad(value, self.x, create_graph=True)
        if not bool(value.isfinite()) or not bool(self.gradient.isfinite().all()):
            raise NotFinite("not finite")
        return float(value.detach()), self.gradient.detach()

    def product(self, vector: Tensor) -> Tensor:
        if not self.gradient.requires_grad:
            return torch.zeros_like(vector)
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self.gradient, self.x, vector, retain_graph=True, allow_unused=True)
        if found is None:
            return torch.zeros_like(vector)
        if not bool(found.isfinite().all()):
            raise NotFinite("not finite")
        return found


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_quadratic_saddle(method: Method) -> None:
    signs = point(1, -2, 3)
    found = search(Plain(lambda x: (signs * x**2).sum() + x.sum()), point(1, 2, -1), Search(method))
    assert (found.status, found.stopped) == ("critical", "converged")
    torch.testing.assert_close(found.point, -0.5 / signs, atol=1e-9, rtol=0)
    assert found.squared[-1] <= 1e-20 < found.squared[0] and len(found.losses) == len(found.squared)
    assert all(later <= earlier for earlier, later in zip(found.squared, found.squared[1:], strict=False))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("start", [0.0, 1e-6, 0.01, 1.0, -2.0, 5.0])
def test_the_cubic_without_a_critical_point_is_gradient_flat_at_zero(method: Method, start: float) -> None:
    """Frye et al. 2021's example: f = x³/3 + x, g = x² + 1, H = 2x."""
    found = search(Plain(lambda x: x[0] ** 3 / 3 + x[0]), point(start), Search(method))
    assert (found.status, found.stopped) == ("gradient-flat", "stalled")
    assert float(found.point.abs()) < 1e-6
    assert found.squared[-1] == pytest.approx(1.0, abs=1e-9)
    assert found.flatness <= 0.01


def test_the_gradient_may_lie_in_the_kernel_of_a_hessian_that_does_not_vanish() -> None:
    """For x² + y³/3 + y at (0, 0): H = diag(2, 0) and g = (0, 1)."""
    found = search(Plain(lambda x: x[0] ** 2 + x[1] ** 3 / 3 + x[1]), point(1.0, 0.5), Search())
    assert found.status == "gradient-flat"
    torch.testing.assert_close(found.point, point(0.0, 0.0), atol=1e-5, rtol=0)
    assert found.flatness <= 0.01


@pytest.mark.parametrize(("slope", "is_flat"), [(0.1, True), (1.0, False)], ids=["mostly", "by half"])
def test_a_gradient_that_lies_mostly_in_the_kernel_counts(slope: float, is_flat: bool) -> None:
    """A small rest along a steep direction dominates Hg; what no Newton step takes away tells better."""
    surface = _Measured(Plain(lambda x: 0.5 * x[0] ** 2 + 0.00005 * x[1] ** 2))
    _, gradient = surface.at(point(slope, 10000.0))
    surface.product(point(1.0, 0.0))  # Λ = 1 has been met
    flatness, residual, answer = _in_the_kernel(surface, gradient, Search())
    assert flatness == pytest.approx(math.hypot(slope, 1e-4) / math.hypot(slope, 1), rel=0.01) and flatness > 0.05
    assert residual == pytest.approx(1 / math.hypot(slope, 1), abs=0.01)
    assert answer is is_flat


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_piecewise_linear_function_has_no_curvature(method: Method) -> None:
    found = search(Plain(lambda x: x.abs().sum()), point(1.0, -2.0), Search(method))
    assert (found.status, found.stopped, found.flatness) == ("gradient-flat", "stalled", 0.0)
    assert found.newton_residual == 1.0 and len(found.squared) == 1
    assert torch.equal(found.point, point(1.0, -2.0))


def test_a_start_at_a_critical_point_is_found_at_once() -> None:
    found = search(Plain(lambda x: x[0] ** 2 - x[1] ** 2), point(0.0, 0.0), Search())
    assert (found.status, len(found.squared)) == ("critical", 1)
    assert math.isnan(found.flatness) and math.isnan(found.newton_residual)


def test_too_few_iterations_are_unfinished() -> None:
    found = search(Plain(lambda x: (x**4).sum()), point(1.0, 2.0), Search(NewtonMR(2)))
    assert (found.status, found.stopped, len(found.squared)) == ("unfinished", "iterations", 3)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_is_not_finite_at_the_start(method: Method) -> None:
    found = search(Plain(lambda x: x.log().sum()), point(-1.0), Search(method))
    assert (found.status, found.stopped) == ("unfinished", "not finite")
    assert math.isnan(found.squared[-1]) and math.isnan(found.losses[-1])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_line_search_steps_back_from_what_is_not_finite(method: Method) -> None:
    """X log x − 3x is undefined left of 0; a full Newton step from 100 goes there, and its minimum is at e²."""
    surface = Plain(lambda x: (x * x.log() - 3 * x).sum())
    found = search(surface, point(100.0), Search(method))
    assert found.status == "critical" and float(found.point) == pytest.approx(math.e**2, abs=1e-6)


def test_products_that_are_not_finite_end_a_search() -> None:
    """|x|^1.5 has a gradient at 0 and no curvature there."""
    found = search(Plain(lambda x: (x.abs() ** 1.5).sum() + x.sum()), point(0.0), Search())
    assert (found.status, found.stopped) == ("unfinished", "not finite")
    assert torch.equal(found.point, point(0.0))


@pytest.mark.parametrize("quartic", [0.0, 0.1])
@pytest.mark.parametrize("decades", [4, 7])
def test_ill_conditioned_functions_are_followed_to_the_end(decades: int, quartic: float) -> None:
    """Curvature of 10⁻⁷ is in the kernel for inexact steps, and not for those that follow when these stall."""
    curvature = torch.logspace(0, -decades, 20, dtype=torch.float64) * torch.tensor([1.0, -1.0]).repeat(10)
    start = torch.randn(20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = search(
        Plain(lambda x: 0.5 * (curvature * x**2).sum() + quartic * (x**4).sum()), start, Search(NewtonMR(200))
    )
    assert found.status == "critical"


def test_it_goes_where_a_dense_newton_method_goes() -> None:
    """On 30 numbers with a dense, indefinite Hessian, near a saddle: NumPy's Newton method ends at the same point."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    a, b = (a + a.T) / 2, torch.randn(30, generator=generator, dtype=torch.float64)
    surface = Plain(lambda x: 0.5 * x @ a @ x + b @ x + 0.01 * (x**3).sum())
    matrix, vector = a.numpy(), b.numpy()
    x = np.linalg.solve(matrix, -vector)
    start = torch.from_numpy(x.copy()) + 0.01 * torch.randn(30, generator=generator, dtype=torch.float64)
    x = start.numpy().copy()
    for _ in range(50):
        x -= np.linalg.solve(matrix + np.diag(0.06 * x), matrix @ x + vector + 0.03 * x**2)
    assert np.abs(matrix @ x + vector + 0.03 * x**2).max() < 1e-10
    found = search(surface, start, Search())
    assert found.status == "critical"
    torch.testing.assert_close(found.point, torch.from_numpy(x), atol=1e-8, rtol=1e-8)
    index = index_at(surface, 30, dense_up_to=30, zero=1e-6, seed=0, like=start)
    truth = np.linalg.eigvalsh(matrix + np.diag(0.06 * x))
    torch.testing.assert_close(index.eigenvalues, torch.from_numpy(truth), atol=1e-7, rtol=1e-7)
    assert index.negative == (truth < 0).sum() and index.share == index.negative / 30 and index.standard_error == 0


def test_searches_advance_once_for_each_step() -> None:
    ticks: list[None] = []
    found = search(Plain(lambda x: (x**4).sum()), point(1.0), Search(), lambda: ticks.append(None))
    assert len(ticks) == len(found.squared) - 1


def test_a_failing_surface_is_not_hidden() -> None:
    class Broken(Plain):
        def product(self, vector: Tensor) -> Tensor:
            raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="broken on purpose"):
        search(Broken(lambda x: (x**2).sum()), point(1.0), Search())


def test_eigenvalues_near_zero_have_no_sign() -> None:
    surface = Plain(lambda x: x[0] ** 2 - x[1] ** 2 - x[2] ** 4 + 1e-9 * x[3] ** 2)
    surface.at(point(0.0, 0.0, 1e-4, 0.0))
    found = index_at(surface, 4, dense_up_to=4, zero=1e-6, seed=0, like=point(0.0))
    assert (found.negative, found.zero, found.share) == (1.0, 2.0, 0.25)
    exact = index_at(surface, 4, dense_up_to=4, zero=0.0, seed=0, like=point(0.0))
    assert (exact.negative, exact.zero) == (2.0, 0.0)


def test_an_estimated_index_is_within_its_error() -> None:
    signs = torch.where(torch.arange(300) % 10 < 3, -1.0, 1.0).double() * torch.linspace(1, 2, 300, dtype=torch.float64)
    surface = Plain(lambda x: 0.5 * (signs * x**2).sum())
    surface.at(torch.ones(300, dtype=torch.float64))
    found = index_at(surface, 300, dense_up_to=299, zero=1e-6, seed=0, like=signs)
    assert abs(found.share - 0.3) <= 4 * found.standard_error < 0.1
    assert math.isnan(found.negative) and math.isnan(found.zero)
    torch.testing.assert_close(found.eigenvalues, torch.stack([signs.min(), signs.max()]), rtol=0.01, atol=0)


def test_an_unknown_index_has_the_shape_of_a_known_one() -> None:
    assert unknown(5, 5).eigenvalues.shape == (5,) and unknown(6, 5).eigenvalues.shape == (2,)
    assert math.isnan(unknown(5, 5).share)
