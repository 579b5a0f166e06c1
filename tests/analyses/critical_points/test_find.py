"""``find`` on modules whose critical points are known, and that it leaves every module as it was."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.critical_points import CriticalPoint, GradientNorm, NewtonMR, find
from lightning_dynamics.analyses.critical_points.functions import merged
from lightning_dynamics.analyses.critical_points.settings import MethodName, Search
from lightning_dynamics.core.lightning import ConfigurationError
from tests.analyses.critical_points import problems as P
from tests.analyses.curvature.reference import cnn, cross_entropy, data, exact_hessian, mlp, ragged, snapshot
from tests.house.training import assert_identical


def normal(*scales: float, size: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(size, generator=generator, dtype=torch.float64) for scale in scales]


def descent(module: nn.Module, batch: Tensor, start: Tensor, rate: float, steps: int, every: int) -> list[Tensor]:
    """Points along gradient descent from a start."""
    tensors = list(module.parameters())
    nn.utils.vector_to_parameters(start, tensors)
    course = []
    for step in range(steps):
        if step % every == 0:
            course.append(nn.utils.parameters_to_vector(tensors).detach().clone())
        gradients = torch.autograd.grad(P.reconstruction(module, batch), tensors)
        with torch.no_grad():
            for tensor, gradient in zip(tensors, gradients, strict=True):
                tensor -= rate * gradient
    return course


# ---- the truth ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton_mr", "gradient_norm"])
def test_the_linear_autoencoder(method: MethodName) -> None:
    """Σ = diag(3, 1), one hidden unit: (2, index 2), (1.5, index 1), (0.5, index 0), and no other."""
    along = descent(P.Linear(), P.whitened(), normal(0.05, size=4)[0], rate=0.05, steps=120, every=20)
    starts = along + (normal(0.1, 0.3, 1.0, 1.0, 1.0, 1.0, 1.5, 2.0, 2.0, 3.0, size=4) if method == "newton_mr" else [])
    if method == "gradient_norm":
        starts = [starts[0], *normal(1.0, 1.0, size=4, seed=2), torch.tensor([0.1, 1.2, 0.1, 0.8], dtype=torch.float64)]
    found = find(P.Linear(), P.reconstruction, [P.whitened()], starts=starts, method=method, description=None)
    assert [point.status for point in found] == ["critical"] * len(starts)
    for point in found:
        assert point.squared_gradient_norm <= 1e-20
        loss = min(P.LINEAR_TRUTH, key=lambda truth: abs(truth - point.loss))
        assert point.loss == pytest.approx(loss, abs=1e-9)
        assert point.index.negative == P.LINEAR_TRUTH[loss] and point.index.share == point.index.negative / 4
        assert point.index.zero == (0 if loss == 2.0 else 1), "scaling one layer up and the other down is free"
    assert {round(point.loss, 6) for point in found} == set(P.LINEAR_TRUTH)


def test_himmelblaus_nine() -> None:
    grid = [torch.tensor([float(i), float(j)]) for i in range(-5, 6, 2) for j in range(-5, 6, 2)]
    found = find(
        P.Free(0.0, 0.0), P.function(P.himmelblau), P.NOTHING, starts=grid, merge_within=1e-6, description=None
    )
    assert {point.status for point in found} == {"critical"} and len(found) == 9
    truth = {place: index for place, index in P.HIMMELBLAU_TRUTH.items()}
    for point in found:
        place = min(truth, key=lambda one: float((point.point - torch.tensor(one, dtype=torch.float64)).norm()))
        torch.testing.assert_close(point.point, torch.tensor(place, dtype=torch.float64), atol=1e-6, rtol=0)
        assert point.index.negative == truth.pop(place)
    assert sum(len(point.found_from) for point in found) == len(grid)


@pytest.mark.parametrize("method", ["newton_mr", "gradient_norm"])
def test_the_cubic_is_gradient_flat(method: MethodName) -> None:
    starts = {"near": torch.tensor([0.01]), "far": torch.tensor([3.0]), "beyond": torch.tensor([-2.0])}
    for point in find(P.Free(1.0), P.function(P.cubic), P.NOTHING, starts=starts, method=method, description=None):
        assert point.status == "gradient-flat" and abs(float(point.point)) < 1e-6, point.start


def test_a_network_in_float32_on_ragged_batches() -> None:
    """What it finds is a critical point by the gradient and ``torch.func``'s Hessian of one float64 batch, too."""
    net = mlp(torch.float32)
    x, y = data(4, dtype=torch.float32)
    (point,) = find(net, cross_entropy, ragged(x, y, 8, 8, 4), parameters="4.*", method=NewtonMR(50), description=None)
    assert point.status == "critical" and point.index.negative == 0, "a convex problem: the last layer alone"
    double = copy.deepcopy(net).double()
    with torch.no_grad():
        for name, value in point.parameters.items():
            double.get_parameter(name).copy_(value)
    gradients = torch.autograd.grad(cross_entropy(double, (x.double(), y)), list(double[4].parameters()))
    assert float(sum(g.square().sum() for g in gradients)) < 1e-19
    hessian = exact_hessian(double, x, y, names=["4.weight", "4.bias"])
    torch.testing.assert_close(point.index.eigenvalues, torch.linalg.eigvalsh(hessian), atol=1e-9, rtol=1e-9)
    assert point.index.zero == 6, "softmax does not see what all classes gain"


def test_a_flat_saddle_has_zero_eigenvalues() -> None:
    found = find(
        P.Free(0.3, 0.2, 0.1),
        P.function(lambda x: x[0] ** 2 - x[1] ** 2 + 0 * x[2]),
        P.NOTHING,
        description=None,
    )
    assert [(point.status, point.index.negative, point.index.zero) for point in found] == [("critical", 1.0, 1.0)]


def test_a_piecewise_linear_loss_is_gradient_flat() -> None:
    (point,) = find(P.Free(1.0, -2.0), P.function(lambda x: x.abs().sum()), P.NOTHING, description=None)
    assert (point.status, point.flatness, point.iterations, point.index.zero) == ("gradient-flat", 0.0, 0, 2.0)


def test_a_loss_of_nan_is_one_unfinished_point_among_others() -> None:
    starts = {"bad": torch.tensor([-1.0]), "good": torch.tensor([1.0])}
    bad, good = find(
        P.Free(1.0), P.function(lambda x: (x.log() ** 2).sum()), P.NOTHING, starts=starts, description=None
    )
    assert (bad.start, bad.status, bad.stopped) == ("bad", "unfinished", "not finite")
    assert bad.loss != bad.loss and bad.index.share != bad.index.share
    assert good.status == "critical" and float(good.point) == pytest.approx(1.0)


# ---- settings ----------------------------------------------------------------------------------------------


def test_the_index_of_a_larger_network_is_estimated() -> None:
    net, (x, y) = mlp(), data(4)
    exact, estimated = (
        find(net, cross_entropy, [(x, y)], dense_up_to=limit, method=NewtonMR(1), description=None)[0].index
        for limit in (1000, 10)
    )
    assert exact.eigenvalues.shape == (83,) and exact.standard_error == 0.0
    assert estimated.eigenvalues.shape == (2,) and estimated.negative != estimated.negative
    torch.testing.assert_close(estimated.eigenvalues, exact.eigenvalues[[0, -1]], rtol=1e-6, atol=1e-9)


def test_the_index_of_starts_is_that_of_the_start() -> None:
    at_minimum, at_maximum = find(
        P.Free(0.0),
        P.function(lambda x: -torch.cos(x[0])),
        P.NOTHING,
        starts=[torch.tensor([0.1]), torch.tensor([3.0])],
        index_of_starts=True,
        description=None,
    )
    assert at_minimum.start_index is not None and at_maximum.start_index is not None
    assert (at_minimum.start_index.negative, at_maximum.start_index.negative) == (0.0, 1.0)


def test_the_counts_are_those_of_the_loss() -> None:
    runs = []

    def loss(module: nn.Module, batch: Any) -> Tensor:
        runs.append(1)
        return P.himmelblau(module.x)  # type: ignore[arg-type]

    (point,) = find(P.Free(1.0, 1.0), loss, P.NOTHING, keep_graphs=True, description=None)
    assert len(point.losses) == len(point.squared_gradient_norms) == point.iterations + 1
    assert len(runs) == 3 + point.gradients, "three runs to try the loss, then one for each gradient"
    assert point.products >= point.iterations and point.losses[-1] == point.loss


@pytest.mark.parametrize("kind", ["vector", "state", "checkpoint", "name to vector"])
def test_starts_may_be_given_in_several_ways(kind: str, tmp_path: Path) -> None:
    elsewhere = P.Free(2.9, 2.1)
    torch.save({"state_dict": elsewhere.state_dict()}, tmp_path / "there.ckpt")
    starts: Any = {
        "vector": [elsewhere.x.detach()],
        "state": [elsewhere.state_dict()],
        "checkpoint": [tmp_path / "there.ckpt"],
        "name to vector": {"there": elsewhere.x.detach()},
    }[kind]
    (point,) = find(P.Free(0.0, 0.0), P.function(P.himmelblau), P.NOTHING, starts=starts, description=None)
    assert point.start == ("there" if kind in ("checkpoint", "name to vector") else "start 0")
    assert point.losses[0] == pytest.approx(float(P.himmelblau(elsewhere.x.detach())))
    torch.testing.assert_close(point.point, torch.tensor([3.0, 2.0], dtype=torch.float64))


def test_a_checkpoint_brings_its_buffers_and_the_next_start_has_the_modules_own(tmp_path: Path) -> None:
    net, (x, y) = cnn(torch.float32), data(1, 6, 6, dtype=torch.float32)
    other = copy.deepcopy(net)
    other[1].running_mean += 1.0
    torch.save({"state_dict": other.state_dict()}, tmp_path / "other.ckpt")
    settings: dict[str, Any] = {"parameters": "7.*", "method": NewtonMR(1), "description": None}
    starts = {"other": tmp_path / "other.ckpt", "own": net.state_dict()}
    found = find(net, cross_entropy, [(x, y)], starts=starts, **settings)
    with torch.no_grad():
        truth = [float(cross_entropy(copy.deepcopy(one).double().eval(), (x.double(), y))) for one in (other, net)]
    assert [float(point.losses[0]) for point in found] == pytest.approx(truth, rel=1e-12) and truth[0] != truth[1]


def test_the_same_twice() -> None:
    net, (x, y) = mlp(torch.float32), data(4, dtype=torch.float32)
    one, two = (find(net, cross_entropy, [(x, y)], method=NewtonMR(4), description=None)[0] for _ in range(2))
    assert torch.equal(one.point, two.point) and torch.equal(one.index.eigenvalues, two.index.eigenvalues)


# ---- do no harm --------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """What can be disturbed: buffers, a recurrent layer, tied weights, a tensor and a list as plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.memory = nn.LSTM(4, 3, batch_first=True)
        self.scale = torch.tensor([0.5, 1.0, 2.0])
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        hidden = self.norm(self.tied(torch.tanh(self.first(x))))
        return self.memory(hidden[:, None])[0][:, 0] * self.scale + torch.zeros(3)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fails", [False, True], ids=["in the end", "on an error"])
def test_a_float32_module_is_left_bit_for_bit_as_it_was(mode: Any, fails: bool) -> None:
    torch.manual_seed(0)
    net, (x, y) = Everything(), data(4, dtype=torch.float32)
    cross_entropy(net, (x, y)).backward()
    net.first.weight.requires_grad_(False)
    before, seen = snapshot(net), list(net.seen)
    identities = [id(tensor) for tensor in (*net.parameters(), *net.buffers(), *net.memory._flat_weights, net.scale)]
    runs = []

    def loss(module: Any, batch: Any) -> Tensor:
        assert batch[0].dtype is torch.float64 and all(p.dtype is torch.float64 for p in module.parameters())
        runs.append(1)
        if fails and len(runs) == 4:
            raise RuntimeError("broken on purpose")
        return cross_entropy(module, batch)

    search = {"method": NewtonMR(2, inner_iterations=5), "dense_up_to": 0, "description": None, "mode": mode}
    if fails:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            find(net, loss, [(x, y)], **search)
    else:
        (point,) = find(net, loss, [(x, y)], **search)
        assert len(point.point) == sum(p.numel() for p in net.parameters()), "tied weights are one"
        assert point.losses[-1] != point.losses[0]
    assert_identical(snapshot(net), before)
    now = [id(tensor) for tensor in (*net.parameters(), *net.buffers(), *net.memory._flat_weights, net.scale)]
    assert now == identities and net.seen == seen and torch.get_default_dtype() is torch.float32
    assert x.dtype is torch.float32


def test_gradient_accumulators_survive() -> None:
    """DDP hangs its hooks on them; converting a parameter where it is would make autograd forget them."""
    net, (x, y) = mlp(torch.float32), data(4, dtype=torch.float32)
    weight = next(net.parameters())
    accumulator = weight.view_as(weight).grad_fn.next_functions[0][0]
    called = []
    accumulator.register_hook(lambda *_: called.append(1))
    find(net, cross_entropy, [(x, y)], method=NewtonMR(1), dense_up_to=0, description=None)
    assert not called
    cross_entropy(net, (x, y)).backward()
    assert called == [1]


def test_a_scripted_module_is_refused() -> None:
    with pytest.warns(DeprecationWarning):
        net = torch.jit.script(nn.Linear(4, 3))
    x, y = data(4, dtype=torch.float32)
    with pytest.raises(ConfigurationError, match="TorchScript"):
        find(nn.Sequential(net), cross_entropy, [(x, y)], description=None)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": "newton"}, "method"),
    ({"tolerance": 0.0}, "tolerance"),
    ({"tolerance": float("nan")}, "tolerance"),
    ({"flatness_tolerance": 1.0}, "flatness_tolerance"),
    ({"zero_tolerance": -0.1}, "zero_tolerance"),
    ({"method": NewtonMR}, "method"),
    ({"dense_up_to": -1}, "dense_up_to"),
    ({"merge_within": -1.0}, "merge_within"),
    ({"mode": "evaluation"}, "mode"),
    ({"parameters": "nothing.*"}, "parameters"),
    ({"starts": []}, "starts"),
    ({"starts": torch.zeros(2)}, "list"),
    ({"starts": "some.ckpt"}, "list"),
    ({"starts": {"x": torch.zeros(2)}}, "list"),
    ({"starts": 3}, "starts"),
    ({"starts": [torch.zeros(3)]}, "2 parameters"),
    ({"starts": [{"y": torch.zeros(2)}]}, "'y'"),
    ({"starts": [{"x": torch.zeros(3)}]}, "shape"),
    ({"starts": [3.0]}, "float"),
    ({"starts": ["no_such.ckpt"]}, "no_such.ckpt"),
    ({"batches": torch.zeros(2, 2)}, "batches"),
    ({"batches": []}, "batches"),
    ({"loss_fn": "mse"}, "loss_fn"),
    ({"loss_fn": lambda module, batch: torch.zeros(())}, "does not depend"),
    ({"loss_fn": lambda module, batch: module.x}, "scalar"),
]


@pytest.mark.parametrize(
    ("arguments", "word"), REFUSED, ids=[f"{number}-{next(iter(case[0]))}" for number, case in enumerate(REFUSED)]
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], word: str) -> None:
    settings = {"loss_fn": P.function(P.himmelblau), "batches": P.NOTHING, "description": None} | arguments
    with pytest.raises(ConfigurationError, match=word):
        find(P.Free(1.0, 2.0), **settings)


@pytest.mark.parametrize("method", [NewtonMR, GradientNorm])
@pytest.mark.parametrize("argument", ["max_iterations", "inner_iterations"])
def test_a_method_without_iterations_is_refused(method: type[NewtonMR | GradientNorm], argument: str) -> None:
    for value in (0, True, 1.5):
        with pytest.raises(ConfigurationError, match=f"`{argument}`"):
            method(**{argument: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["newton_mr", "gradient_norm"])
def test_a_name_stands_for_the_value_with_its_defaults(method: MethodName) -> None:
    value = {"newton_mr": NewtonMR(100, 200), "gradient_norm": GradientNorm(2000, 200)}[method]
    assert Search.of({**vars(Search()), "method": method, "more": 1}) == Search(value)


def test_half_precision_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="half precision"):
        find(P.Free(1.0, dtype=torch.bfloat16), P.function(P.cubic), P.NOTHING, description=None)


def test_merging_keeps_the_better_and_tells_statuses_apart() -> None:
    (one,) = find(P.Free(2.9, 2.1), P.function(P.himmelblau), P.NOTHING, description=None)

    def variant(name: str, **changes: Any) -> CriticalPoint:
        return replace(one, start=name, found_from=(name,), **changes)

    a = variant("a", squared_gradient_norm=1e-21)
    b = variant("b", squared_gradient_norm=1e-25, point=one.point + 1e-8)
    c, d = variant("c", status="unfinished"), variant("d", point=one.point + 1.0)
    found = merged([a, b, c, d], 1e-6)
    assert [(point.start, point.found_from) for point in found] == [("b", ("a", "b")), ("c", ("c",)), ("d", ("d",))]
