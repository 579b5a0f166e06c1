"""``attribute``, the pure function: against closed forms and 40-point Gauss, node by node."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution import Adaptive, attribute
from tests.analyses.loss_contribution import reference as R

RULES = ["left", "trapezoid", "simpson", "adaptive"]


def counted(loss: R.Loss) -> tuple[Callable[..., Any], list[R.Point]]:
    """What ``attribute`` wants, and the points that it has asked for."""
    asked: list[R.Point] = []

    def loss_and_grad(point: R.Point) -> tuple[float, R.Point]:
        asked.append({name: tensor.detach().clone() for name, tensor in point.items()})
        return R.value(loss, point), R.gradient(loss, point)

    return loss_and_grad, asked


def random_points(seed: int = 0, size: float = 1.0) -> tuple[R.Point, R.Point]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 2), "b": (), "c": (4,), "none": (0,)}
    start = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    end = {n: x + size * torch.randn(x.shape, generator=generator, dtype=torch.float64) for n, x in start.items()}
    return start, end


def stacked(point: R.Point) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in point.values()])


HESSIAN = torch.randn(11, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
HESSIAN = HESSIAN @ HESSIAN.T
LINEAR = torch.randn(11, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def quadratic(point: R.Point) -> Tensor:
    x = stacked(point)
    return 0.5 * x @ HESSIAN @ x + LINEAR @ x + 2


def wavy(point: R.Point) -> Tensor:
    x = stacked(point)
    return torch.tanh(HESSIAN @ x / 4).sum() + torch.sin(LINEAR @ x)


# ---- exactness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["trapezoid", "simpson", "adaptive"])
def test_a_quadratic_loss_is_split_exactly(rule: Any) -> None:
    """Aᵢ = Δᵢ (g(θ₀) + g(θ₁))ᵢ / 2, in closed form."""
    start, end = random_points()
    found = attribute(counted(quadratic)[0], start, end, rule=rule)
    x, y = stacked(start).numpy(), stacked(end).numpy()
    truth = (y - x) * (HESSIAN.numpy() @ (x + y) / 2 + LINEAR.numpy())
    R.assert_close(stacked(found.contributions), truth, rtol=1e-13, atol=1e-13)
    assert {n: t.shape for n, t in found.contributions.items()} == {n: t.shape for n, t in start.items()}
    assert abs(found.residual) < 1e-12 and found.resolved and found.is_finite
    assert found.loss_start == R.value(quadratic, start) and found.loss_end == R.value(quadratic, end)


def test_left_misses_half_the_curvature() -> None:
    start, end = random_points()
    found = attribute(counted(quadratic)[0], start, end, rule="left")
    x, delta = stacked(start), stacked(end) - stacked(start)
    R.assert_close(stacked(found.contributions), delta * (HESSIAN @ x + LINEAR))
    assert found.residual == pytest.approx(float(0.5 * delta @ HESSIAN @ delta), rel=1e-12)


def test_simpson_is_exact_up_to_cubic_integrands() -> None:
    """L = Σ xᵢ⁴: a cubic gradient along the line."""
    start, end = random_points()
    found = attribute(counted(lambda p: (stacked(p) ** 4).sum())[0], start, end)
    R.assert_close(stacked(found.contributions), stacked(end) ** 4 - stacked(start) ** 4, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("rule", "order"), [("left", 2), ("trapezoid", 3), ("simpson", 5)])
def test_order_of_convergence(rule: Any, order: int) -> None:
    """Halving the step divides the error of the contributions by 2^order."""
    start, far = random_points(1, 0.5)
    errors = []
    for size in (0.02, 0.01, 0.005):
        end = R.between(start, far, size)
        found = attribute(counted(wavy)[0], start, end, rule=rule)
        truth = R.contributions(wavy, start, end)
        errors.append(float((stacked(found.contributions) - stacked(truth)).norm()))
        assert found.residual == pytest.approx(
            R.value(wavy, end) - R.value(wavy, start) - float(stacked(found.contributions).sum()), abs=1e-14
        )
    rates = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (abs(rates - order) < 0.3).all(), rates


@pytest.mark.parametrize("act", [torch.tanh, torch.nn.functional.softplus])
def test_against_gauss_on_a_network(act: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    y = torch.arange(12) % 3
    start = {
        "w": torch.randn(5, 4, generator=generator, dtype=torch.float64),
        "b": torch.randn(5, generator=generator, dtype=torch.float64),
        "v": torch.randn(3, 5, generator=generator, dtype=torch.float64),
    }
    end = {n: t + 0.3 * torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in start.items()}

    def loss(p: R.Point) -> Tensor:
        return torch.nn.functional.cross_entropy(act(x @ p["w"].T + p["b"]) @ p["v"].T, y)

    truth = R.contributions(loss, start, end)
    assert float(stacked(truth).sum()) == pytest.approx(R.value(loss, end) - R.value(loss, start), abs=1e-13)
    found = attribute(counted(loss)[0], start, end, rule=Adaptive(1e-12, 1024))
    assert found.resolved and abs(found.residual) <= 1e-12
    R.assert_close(stacked(found.contributions), stacked(truth), rtol=1e-8, atol=1e-10)
    once = attribute(counted(loss)[0], start, end)
    truth_once = R.contributions(loss, start, end, R.SIMPSON)
    R.assert_close(stacked(once.contributions), stacked(truth_once), rtol=1e-12, atol=1e-14)


# ---- adaptive ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [2, 4, 8, 32])
def test_nodes_are_used_again_and_splits_respected(splits: int) -> None:
    start, end = random_points(2, 2.0)
    loss_and_grad, asked = counted(wavy)
    known = (R.value(wavy, start), R.gradient(wavy, start))
    found = attribute(loss_and_grad, start, end, rule=Adaptive(1e-300, splits), at_start=known)
    assert not found.resolved and found.is_finite and abs(found.residual) > 0
    assert len(asked) == splits, "every node once, and the start not at all"
    alphas = [alpha for alpha, _ in found.nodes]
    assert sorted(alphas) == [i / splits for i in range(splits + 1)]
    assert len(found.nodes) == splits + 1
    for alpha, point in zip(alphas[1:], asked, strict=True):
        R.assert_close(stacked(point), stacked(R.between(start, end, alpha)), rtol=1e-13, atol=1e-13)
    weights = dict(found.nodes)
    half = splits // 2
    for i in range(splits + 1):
        factor = 1 if i in (0, splits) else 4 if i % 2 else 2
        assert weights[i / splits] == pytest.approx(factor / (6 * half), rel=1e-14)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-14)
    truth = R.contributions(wavy, start, end, list(found.nodes))
    R.assert_close(stacked(found.contributions), stacked(truth), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_weights_sum_to_one_and_make_the_contributions(rule: Any) -> None:
    start, end = random_points(3, 0.3)
    loss_and_grad, asked = counted(wavy)
    found = attribute(loss_and_grad, start, end, rule=Adaptive(1e-9) if rule == "adaptive" else rule)
    assert sum(w for _, w in found.nodes) == pytest.approx(1, abs=1e-14)
    assert len(asked) == len(found.nodes)
    truth = R.contributions(wavy, start, end, list(found.nodes))
    R.assert_close(stacked(found.contributions), stacked(truth), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_it_stops_as_soon_as_the_tolerance_is_reached(tolerance: float) -> None:
    start, end = random_points(4, 0.6)
    found = attribute(counted(wavy)[0], start, end, rule=Adaptive(tolerance, 1024))
    assert found.resolved and abs(found.residual) <= tolerance
    used = len(found.nodes) - 1
    if used > 2:
        before = attribute(counted(wavy)[0], start, end, rule=Adaptive(tolerance, used // 2))
        assert not before.resolved and abs(before.residual) > tolerance


# ---- what is not finite ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("where", ["start", "end", "middle"])
def test_a_loss_that_is_not_finite(rule: Any, bad: float, where: str) -> None:
    start, end = random_points(5)
    loss_and_grad, _ = counted(wavy)
    distance = stacked(end)[0] - stacked(start)[0]

    def broken(point: R.Point) -> tuple[float, R.Point]:
        alpha = float((stacked(point)[0] - stacked(start)[0]) / distance)
        loss, grad = loss_and_grad(point)
        near = {"start": alpha < 0.1, "end": alpha > 0.9, "middle": 0.1 < alpha < 0.9}[where]
        return (bad, {n: g * bad for n, g in grad.items()}) if near else (loss, grad)

    found = attribute(broken, start, end, rule=Adaptive(1e-9) if rule == "adaptive" else rule)
    if where == "middle" and rule in ("left", "trapezoid"):
        assert found.is_finite and torch.isfinite(stacked(found.contributions)).all()
        return
    assert not found.is_finite and math.isnan(found.residual) or math.isinf(found.residual)
    assert not torch.isfinite(stacked(found.contributions)).all()
    assert (found.gradient_end is None) == (where != "middle")
    if rule == "adaptive":
        assert not found.resolved


def test_known_values_that_are_not_finite() -> None:
    start, end = random_points()
    found = attribute(counted(wavy)[0], start, end, at_start=(torch.tensor(math.nan), R.gradient(wavy, start)))
    assert not found.is_finite and math.isnan(found.loss_start)


# ---- inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_the_known_start_is_used_and_nothing_else(rule: Any) -> None:
    start, end = random_points()
    loss_and_grad, asked = counted(wavy)
    known = (torch.tensor(R.value(wavy, start), dtype=torch.float64), R.gradient(wavy, start))
    kept = {n: t.clone() for n, t in known[1].items()}
    a = attribute(loss_and_grad, start, end, rule=rule, at_start=known)
    assert all(not torch.equal(stacked(p), stacked(start)) for p in asked)
    assert all(torch.equal(known[1][n], kept[n]) for n in kept)
    b = attribute(counted(wavy)[0], start, end, rule=rule)
    assert torch.equal(stacked(a.contributions), stacked(b.contributions)) and a.residual == b.residual


def test_the_end_is_the_next_start() -> None:
    start, middle = random_points(0, 0.2)
    _, end = random_points(7, 0.2)
    first = attribute(counted(wavy)[0], start, middle)
    assert first.gradient_end is not None
    loss_and_grad, asked = counted(wavy)
    second = attribute(loss_and_grad, middle, end, at_start=(first.loss_end, first.gradient_end))
    assert len(asked) == 2
    total = sum(float(stacked(x.contributions).sum()) + x.residual for x in (first, second))
    assert total == pytest.approx(R.value(wavy, end) - R.value(wavy, start), abs=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_float32_points_give_float64_contributions(rule: Any) -> None:
    start, end = ({n: t.float() for n, t in p.items()} for p in random_points(6, 1e-3))

    def loss_and_grad(point: R.Point) -> tuple[Tensor, R.Point]:
        assert all(t.dtype == torch.float32 for t in point.values())
        double = {n: t.double() for n, t in point.items()}
        return wavy(double), {n: g.float() for n, g in R.gradient(wavy, double).items()}

    found = attribute(loss_and_grad, start, end, rule=rule)
    assert {t.dtype for t in found.contributions.values()} == {torch.float64}
    nodes = {"left": R.LEFT, "trapezoid": R.TRAPEZOID}.get(rule, R.SIMPSON)
    truth = R.contributions(wavy, *({n: t.double() for n, t in p.items()} for p in (start, end)), nodes)
    R.assert_close(stacked(found.contributions), stacked(truth), rtol=1e-6, atol=1e-9)


def test_nothing_given_is_changed() -> None:
    start, end = random_points()
    copies = [{n: t.clone() for n, t in p.items()} for p in (start, end)]

    def greedy(point: R.Point) -> tuple[float, R.Point]:
        value, grad = R.value(quadratic, point), R.gradient(quadratic, point)
        point.clear()
        return value, grad

    attribute(greedy, start, end, rule="adaptive")
    for given, kept in zip((start, end), copies, strict=True):
        assert list(given) == list(kept) and all(torch.equal(given[n], kept[n]) for n in kept)


@pytest.mark.parametrize(
    "end",
    [
        {"a": torch.zeros(2)},
        {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)},
        {"a": torch.zeros(2), "b": torch.zeros(4)},
        {"a": torch.zeros(2), "B": torch.zeros(3)},
    ],
    ids=["missing", "more", "other shape", "other name"],
)
def test_points_that_do_not_fit(end: Any) -> None:
    with pytest.raises(ValueError, match="same names and shapes"):
        attribute(counted(quadratic)[0], {"a": torch.zeros(2), "b": torch.zeros(3)}, end)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rule": "midpoint"}, "rule"),
        ({"rule": None}, "rule"),
        ({"rule": Adaptive(tolerance=0.0)}, "tolerance"),
        ({"rule": Adaptive(tolerance=math.nan)}, "tolerance"),
        ({"rule": Adaptive(tolerance=-1)}, "tolerance"),
        *[({"rule": Adaptive(max_splits=n)}, "max_splits") for n in (0, 1, 3, 12, 2.0, True, -4)],
    ],
)
def test_bad_arguments_are_named(options: Any, word: str) -> None:
    start, end = random_points()
    with pytest.raises(ValueError, match=f"`{word}` must be"):
        attribute(counted(quadratic)[0], start, end, **options)


def test_no_movement_is_no_contribution() -> None:
    start, _ = random_points()
    for rule in RULES:
        found = attribute(counted(wavy)[0], start, dict(start), rule=rule)  # type: ignore[arg-type]
        assert not stacked(found.contributions).any() and found.residual == 0 and found.resolved


def test_parameters_leave_no_graph_behind() -> None:
    """``dict(module.named_parameters())`` is what a user has at hand."""
    start, end = ({n: torch.nn.Parameter(t) for n, t in p.items()} for p in random_points())
    found = attribute(counted(quadratic)[0], start, end)
    assert not any(t.requires_grad for t in found.contributions.values())


def test_a_callable_that_makes_leaves_of_what_it_gets() -> None:
    start, end = random_points()

    def loss_and_grad(point: R.Point) -> tuple[Tensor, R.Point]:
        leaves = {n: t.requires_grad_() for n, t in point.items()}
        loss = quadratic(leaves)
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return loss.detach(), dict(zip(leaves, grads, strict=True))

    found = attribute(loss_and_grad, start, end)
    assert not any(t.requires_grad for t in found.contributions.values())
    assert not any(t.requires_grad for t in (*start.values(), *end.values()))


def test_a_gradient_of_another_shape_is_refused() -> None:
    start, end = {"a": torch.zeros(3)}, {"a": torch.ones(3)}
    with pytest.raises((ValueError, RuntimeError)):
        attribute(lambda point: (0.0, {"a": torch.ones(1)}), start, end, rule="trapezoid")


@pytest.mark.filterwarnings("ignore:.*discards the imaginary part")
def test_complex_parameters_are_refused() -> None:
    z = {"a": torch.tensor([1 + 1j])}
    with pytest.raises(ValueError, match="complex|floating"):
        attribute(lambda p: (0.0, p), z, {"a": 2 * z["a"]})
