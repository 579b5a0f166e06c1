"""Multiplying by one: flow, limits, basins and distances against fine integration and search."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from scipy.integrate import solve_ivp

from lightning_dynamics import ConfigurationError
from lightning_dynamics.data.problems import DeepLinear, mode_strength
from lightning_dynamics.data.problems.estimator import split

NOW = torch.tensor(1.3, dtype=torch.float64)
ONE, TWO, FIVE = (DeepLinear.multiply_by_one(depth=depth) for depth in (1, 2, 5))


def integrated(problem, theta, time):
    """Gradient flow by an eighth-order Runge-Kutta method with a controlled error, from the gradient's definition."""
    shape = theta.shape
    x, y = problem.dataset.tensors

    def downhill(_, flat):
        weights = [w.requires_grad_() for w in split(torch.from_numpy(flat).reshape(shape), problem.sizes)]
        out = x.T
        for weight in weights:
            out = weight @ out
        loss = (out - y.T).square().sum() / (2 * len(x))
        return -torch.cat([it.flatten(-2) for it in torch.autograd.grad(loss, weights)], -1).flatten().numpy()

    found = solve_ivp(downhill, (0.0, time), theta.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-13)
    assert found.success
    return torch.from_numpy(found.y[:, -1].copy()).reshape(shape)


def starts(count, depth, seed=0):
    return torch.randn(count, depth, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("problem", [ONE, TWO], ids=["one weight", "two"])
def test_the_flow_is_the_one_that_is_integrated(problem):
    theta = 1.5 * starts(40, len(problem.sizes) - 1)
    if problem is TWO:
        # Balanced, on the line to the saddle, on a solution, on an axis, and at the saddle.
        more = [[0.3, 0.3], [-0.2, -0.2], [1.1, -1.1], [2.0, 0.5], [0.0, 1.7], [0.0, 0.0], [-3.0, 2.9]]
        theta = torch.cat([theta, torch.tensor(more, dtype=torch.float64)])
    for time in (0.0, 0.1, 1.0, 3.0):
        reached = integrated(problem, theta, time)
        torch.testing.assert_close(problem.flow(theta, time), reached, rtol=1e-9, atol=1e-9)


def test_the_flow_goes_on_from_where_it_is_and_comes_to_its_limit():
    theta = starts(60, 2)
    times = torch.linspace(0.1, 2.0, 60, dtype=torch.float64)  # one for each point
    there = TWO.flow(theta, times)
    torch.testing.assert_close(TWO.flow(there, 0.7), TWO.flow(theta, times + 0.7), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(TWO.flow(theta, 1e4), TWO.flow_limit(theta), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(TWO.conserved_at(there), TWO.conserved_at(theta), rtol=1e-10, atol=1e-12)
    tied = torch.tensor([[1.3, -1.3], [0.0, 0.0]], dtype=torch.float64)
    for time in (1.0, 1e4):
        moved = TWO.flow(tied, time)
        assert torch.equal(moved[:, 0], -moved[:, 1]) and torch.isfinite(moved).all()  # never leaves the line


def test_the_flow_from_very_near_the_saddle():
    """(a + b)' = (1 − ab)(a + b) ≈ a + b there, which e-folds from 1e-100 for a hundred times log 10."""
    theta = torch.tensor([1e-100, 0.0], dtype=torch.float64)
    assert TWO.flow(theta, 200.0).sum() == pytest.approx(1e-100 * math.exp(200), rel=1e-12)
    torch.testing.assert_close(TWO.flow(theta, 300.0), torch.ones(2, dtype=torch.float64))


def test_the_limit_of_two_weights_in_closed_form():
    theta = 2 * starts(200, 2)
    a, b = theta.unbind(-1)
    c = a**2 - b**2
    expected = (a + b).sign() * ((c + (c**2 + 4).sqrt()) / 2).sqrt()
    torch.testing.assert_close(TWO.flow_limit(theta)[:, 0], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(TWO.basins(theta), (a + b).sign().to(torch.int8)[:, None].expand(-1, 2))
    assert TWO.basins([[1.0, -1.0], [0.0, 0.0], [0.0, -1e-300]]).tolist() == [[0, 0], [0, 0], [-1, -1]]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_limits_are_those_that_the_flow_reaches(depth):
    problem = DeepLinear.multiply_by_one(depth=depth)
    theta = 1.2 * starts(40, depth, seed=depth)
    if depth > 1:
        theta[0, 0] = 0.0  # a zero, alone
    limit = problem.flow_limit(theta)
    assert torch.equal(limit.sign().to(torch.int8), problem.basins(theta)) and (limit.prod(-1) > 0).all()
    torch.testing.assert_close(limit.prod(-1), torch.ones(40, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(problem.conserved_at(limit), problem.conserved_at(theta), rtol=1e-9, atol=1e-11)
    slow = theta.abs().sort(-1).values  # those whose smallest weights nearly tie pass the saddle slowly
    clear = (slow[:, 1] - slow[:, 0] > 0.05) if depth > 1 else slow[:, 0] > -1
    reached = integrated(problem, theta[clear], 40.0)
    assert clear.sum() > 25
    done = problem.loss_at(reached) < 1e-20
    assert done.sum() > 0.9 * len(done)
    torch.testing.assert_close(reached[done], limit[clear][done], rtol=1e-8, atol=1e-8)


def test_starts_whose_smallest_weights_tie_reach_a_saddle():
    theta = torch.tensor([[0.5, -0.5, 1.0, 2.0, 1.0], [-0.3, 0.3, 0.3, 0.3, 0.3], [0.0, 0.0, 2.0, -1.0, 3.0]])
    theta = theta.double()
    limit = FIVE.flow_limit(theta)
    assert FIVE.basins(theta).tolist() == [[0, 0, 1, 1, 1], [0] * 5, [0, 0, 1, -1, 1]]
    assert torch.equal(limit[2], theta[2])  # a critical point stays
    assert float(FIVE.gradient_at(limit).abs().max()) == 0.0 and FIVE.loss_at(limit).tolist() == [0.5] * 3
    torch.testing.assert_close(limit[0], torch.tensor([0, 0, 0.75**0.5, 3.75**0.5, 0.75**0.5], dtype=torch.float64))
    near = integrated(FIVE, theta[:1], 9.0)
    torch.testing.assert_close(near, limit[:1], rtol=1e-5, atol=1e-5)
    tied_but_positive = torch.tensor([0.5, 0.5, 1.0, 2.0, 1.0])
    assert FIVE.basins(tied_but_positive).tolist() == [1] * 5


def test_limits_of_extreme_starts():
    theta = torch.tensor([[1e8, 1e8], [1e-200, 1e-200], [1e6, -1e-6], [1e5, 0.0]], dtype=torch.float64)
    limit = TWO.flow_limit(theta)
    torch.testing.assert_close(limit.prod(-1), torch.ones(4, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(limit[2:, 0], torch.tensor([1e6, 1e5], dtype=torch.float64), rtol=1e-12, atol=0)
    assert FIVE.flow_limit(torch.full((5,), 1e-30)).tolist() == pytest.approx([1.0] * 5)


def test_a_mode_is_learnt_along_the_sigmoid_of_saxe():
    time = torch.linspace(0, 12, 25, dtype=torch.float64)
    balanced = TWO.flow(torch.full((2,), 0.1, dtype=torch.float64), time)
    torch.testing.assert_close(balanced.prod(-1), mode_strength(time, 1.0, 0.01), rtol=1e-10, atol=1e-12)
    # As the paper writes it, and its half-way time, τ / 2s · log(s/u0 − 1).
    s, u, tau = 3.0, 0.01, 2.0
    grown = torch.exp(2 * s * time / tau)
    torch.testing.assert_close(mode_strength(time, s, u, tau), s * grown / (grown - 1 + s / u))
    half = torch.tensor(tau / (2 * s) * math.log(s / u - 1), dtype=torch.float64)
    assert float(mode_strength(half, s, u, tau)) == pytest.approx(s / 2)
    assert float(mode_strength(torch.tensor(1e6), s, u)) == s


def test_the_modes_of_an_autoencoder_are_learnt_one_by_one():
    """Weights along the eigenvectors: each mode by itself, as fast as its eigenvalue."""
    problem = DeepLinear.autoencoder((3.0, 1.0), hidden=2)
    start = 0.1 * torch.eye(2, dtype=torch.float64).flatten().repeat(2)
    reached = integrated(problem, start, 1.3)
    first, second = reached[:4].view(2, 2), reached[4:].view(2, 2)
    u = [mode_strength(NOW, 1.0, 0.01, tau=1 / eigenvalue) for eigenvalue in (3.0, 1.0)]
    torch.testing.assert_close(second @ first, torch.stack(u).diag(), rtol=1e-9, atol=1e-12)
    whitened = DeepLinear([2, 2, 2], None, [[3.0, 0.0], [0.0, 1.0]])  # the paper's case: correlations of white inputs
    reached = integrated(whitened, start, 1.3)
    u = [mode_strength(NOW, s, 0.01) for s in (3.0, 1.0)]
    torch.testing.assert_close(
        reached[4:].view(2, 2) @ reached[:4].view(2, 2), torch.stack(u).diag(), rtol=1e-9, atol=1e-12
    )


def test_solutions_and_the_distance_from_them():
    theta = TWO.solution([[0.25], [-3.0]])
    assert theta.tolist() == [[0.25, 4.0], [-3.0, 1 / -3.0]]
    assert float(TWO.loss_at(theta).max()) < 1e-30 and float(TWO.distance_to_solutions(theta).max()) < 1e-12
    assert FIVE.loss_at(FIVE.solution([2.0, -1.0, 0.5, 3.0])) == pytest.approx(0, abs=1e-30)
    with pytest.raises(ConfigurationError, match="`free` holds a 0"):
        TWO.solution([0.0])
    # By search over a fine net of both branches.
    t = torch.logspace(-2.5, 2.5, 400_001, dtype=torch.float64)
    for point in ([0.0, 0.0], [1.0, 1.0], [3.0, 3.0], [-1.0, 2.0], [0.1, -0.2], [2.0, -2.0], [-4.0, -0.1]):
        a, b = point
        searched = min(float(torch.hypot(sign * t - a, sign / t - b).min()) for sign in (1, -1))
        assert float(TWO.distance_to_solutions(point)) == pytest.approx(searched, abs=2e-5)
    assert float(TWO.distance_to_solutions([0.0, 0.0])) == pytest.approx(2**0.5)
    assert ONE.distance_to_solutions([[3.0], [1.0]]).tolist() == [2.0, 0.0]


def test_every_branch_is_reached():
    for signs in product((1.0, -1.0), repeat=5):
        theta = torch.tensor(signs, dtype=torch.float64) * torch.tensor([0.2, 0.5, 0.6, 0.7, 0.8])
        expected = list(signs) if math.prod(signs) > 0 else [-signs[0], *signs[1:]]
        assert FIVE.basins(theta).tolist() == expected


def test_questions_without_a_closed_form():
    with pytest.raises(ConfigurationError, match="gradient flow of 5 weights has no closed form in time"):
        FIVE.flow([1.0] * 5, 1.0)
    with pytest.raises(ConfigurationError, match="distance from the solutions of 5 weights has no closed form"):
        FIVE.distance_to_solutions([1.0] * 5)
    for name in ("basins", "flow_limit"):
        with pytest.raises(ConfigurationError, match="must start at finite weights"):
            getattr(TWO, name)([[1.0, float("nan")]])
