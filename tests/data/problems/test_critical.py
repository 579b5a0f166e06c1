"""Critical points: where the gradient is 0, with the loss and the signs of the Hessian that were promised."""

from __future__ import annotations

import pytest
import torch

from lightning_dynamics import ConfigurationError
from lightning_dynamics.data.problems import DeepLinear
from lightning_dynamics.data.problems.estimator import split


def turned(eigenvalues, seed=0):
    """A covariance with these eigenvalues, in general position."""
    size = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return (q * torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


def regression(hidden, seed=0):
    """y = A x + noise with A and E xxᵀ in general position."""
    inner = turned([2.0, 1.0, 0.3], seed)
    a = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return DeepLinear([3, hidden, 3], inner, a @ inner, a @ inner @ a.T + turned([0.5, 0.2, 0.1], seed))


PROBLEMS = {
    "3, 1 by one": DeepLinear.autoencoder(),
    "3, 1 by three": DeepLinear.autoencoder(hidden=3),
    "five by two": DeepLinear.autoencoder((5.0, 4.0, 2.0, 1.0, 0.5), hidden=2),
    "turned": DeepLinear([3, 2, 3], turned([4.0, 2.0, 1.0])),
    "regression": regression(2),
    "wide regression": regression(4),
    "one, width 1": DeepLinear.multiply_by_one(),
    "one, width 3": DeepLinear.multiply_by_one(width=3),
    "one, depth 3": DeepLinear.multiply_by_one(depth=3),
    "one, depth 5": DeepLinear.multiply_by_one(depth=5),
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())


def signs(problem, theta):
    values = torch.linalg.eigvalsh(problem.hessian_at(theta))
    rounding = 1e-9 * float(values.abs().max().clamp(min=1.0))
    return int((values < -rounding).sum()), int((values.abs() <= rounding).sum())


@every_problem
def test_points_are_critical_with_the_stated_loss_and_signs(problem):
    points = problem.critical_points()
    assert len({point.modes for point in points}) == len(points)
    for point in points:
        assert float(problem.gradient_at(point.theta).norm()) < 1e-12
        assert float(problem.loss_at(point.theta)) == pytest.approx(point.loss, abs=1e-12)
        assert signs(problem, point.theta) == (point.index, point.nullity)
    least = min(point.loss for point in points)
    assert least == pytest.approx(problem.minimum_loss, abs=1e-12)
    # No local minimum but the global ones (Baldi & Hornik 1989).
    strict = [p for p in points if len(problem.sizes) == 3]
    assert all((point.index == 0) == (point.loss == pytest.approx(least, abs=1e-12)) for point in strict)


def test_the_known_case():
    points = PROBLEMS["3, 1 by one"].critical_points()
    assert [(p.loss, p.index, p.modes) for p in points] == [
        (2.0, 2, ()),
        (pytest.approx(0.5), 0, (0,)),
        (pytest.approx(1.5), 1, (1,)),
    ]
    counts = len(PROBLEMS["five by two"].critical_points())
    assert counts == 1 + 5 + 10


@pytest.mark.parametrize("name", ["3, 1 by three", "five by two", "wide regression"])
def test_the_signs_are_those_of_the_whole_family(name):
    problem = PROBLEMS[name]
    generator = torch.Generator().manual_seed(3)
    for point in problem.critical_points():
        first, second = split(point.theta, problem.sizes)
        mixed = torch.randn(len(first), len(first), generator=generator, dtype=torch.float64)
        mixed += 2 * torch.eye(len(first))
        theta = torch.cat([(mixed @ first).flatten(), (second @ torch.linalg.inv(mixed)).flatten()])
        assert float(problem.gradient_at(theta).norm()) < 1e-11
        assert signs(problem, theta) == (point.index, point.nullity)


@pytest.mark.parametrize("name", ["3, 1 by one", "turned", "regression"])
def test_there_are_no_others(name):
    """Newton's method from 300 random points on ‖g‖: wherever g is 0 in the end, the loss is one of the list."""
    problem = PROBLEMS[name]
    known = torch.tensor([point.loss for point in problem.critical_points()], dtype=torch.float64)
    count = problem.theta.numel()
    theta = 0.8 * torch.randn(300, count, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for _ in range(200):
        hessian, gradient = problem.hessian_at(theta), problem.gradient_at(theta)
        # Levenberg and Marquardt's step on ½ ‖g‖², damped by ‖g‖.
        damping = (gradient.norm(dim=-1)[:, None, None] + 1e-12) * torch.eye(count)
        step = torch.linalg.solve(hessian @ hessian + damping, (hessian @ gradient[..., None])[..., 0])
        theta = theta - step
    found = problem.loss_at(theta)[problem.gradient_at(theta).norm(dim=-1) < 1e-12]
    assert len(found) > 100
    assert float((found[:, None] - known).abs().amin(1).max()) < 1e-9
    assert set((found[:, None] - known).abs().argmin(1).tolist()) == set(range(len(known)))  # and all were found


@pytest.mark.parametrize("depth", [3, 5])
def test_critical_points_of_a_product_with_any_other_weights(depth):
    problem = DeepLinear.multiply_by_one(depth=depth)
    for zeros in range(depth + 1):
        theta = torch.linspace(-1.5, 2.0, depth, dtype=torch.float64)
        theta[:zeros] = 0
        critical = float(problem.gradient_at(theta).norm()) == 0
        assert critical == (zeros >= 2)
        if critical:
            point = next(p for p in problem.critical_points() if len(p.modes) == depth - zeros)
            assert signs(problem, theta) == (point.index, point.nullity) and problem.loss_at(theta) == point.loss


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (DeepLinear.autoencoder((2.0, 2.0)), "positive and distinct; these are 1.41421, 1.41421"),
        (DeepLinear([2, 2, 2], None, [[1.0, 0.0], [0.0, 0.0]]), "positive and distinct; these are 1, 0"),
        (DeepLinear([2, 2, 2], [[1.0, 0.0], [0.0, 0.0]]), "E xxᵀ is singular"),
        (DeepLinear([2, 2, 1], None, [[1.0, 0.0]]), r"known for sizes \(d, hidden, d\).*not for \(2, 2, 1\)"),
        (DeepLinear.multiply_by_one(depth=3, width=2), r"not for \(1, 2, 2, 1\)"),
        (DeepLinear.multiply_by_one(depth=1), r"not for \(1, 1\)"),
        (DeepLinear.autoencoder([float(i) for i in range(1, 21)], hidden=10), "616,666 families .* than 10,000"),
    ],
    ids=["tie", "rank", "singular", "sizes", "deep and wide", "one layer", "many"],
)
def test_networks_whose_critical_points_are_not_listed(problem, text):
    with pytest.raises(ConfigurationError, match=text):
        problem.critical_points()
