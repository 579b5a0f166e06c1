"""The pure functions against closed forms and ``torch.func.hessian``, and that they leave no trace."""

from __future__ import annotations

import math
from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics.analyses.curvature import (
    NotFinite,
    extreme_eigenvalues,
    gradient_flatness,
    hessian_vector_product,
    hutchinson_trace,
    spectral_density,
)
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import flatten
from tests.analyses.curvature import reference as R
from tests.house.training import assert_identical

DTYPES = [torch.float64, torch.float32]


class Product(nn.Module):
    """(ab - 1)²."""

    def __init__(self, a: float = 0.0, b: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=dtype))
        self.b = nn.Parameter(torch.tensor(b, dtype=dtype))


def squared(module: Any, batch: Any) -> Tensor:
    return (module.a * module.b - 1) ** 2


ONE = [torch.zeros(1)]


# ---- closed forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_saddle_at_the_origin(dtype: torch.dtype) -> None:
    module = Product(dtype=dtype)
    found = extreme_eigenvalues(module, squared, ONE)
    assert found.largest.shape == () and found.largest.dtype == torch.float64
    assert float(found.largest) == pytest.approx(2, abs=1e-8) and float(found.smallest) == pytest.approx(-2, abs=1e-8)
    assert found.converged and found.non_convexity == pytest.approx(1) and found.condition_number == pytest.approx(1)
    vector = found.smallest_vectors[0]
    assert vector["a"].shape == () and vector["a"].dtype == dtype
    assert float(vector["a"]) == pytest.approx(float(vector["b"])) and abs(float(vector["a"])) == pytest.approx(
        0.5**0.5
    )
    flat = gradient_flatness(module, squared, ONE)
    assert flat.gradient_norm == 0 and math.isnan(flat.flatness) and flat.loss == 1
    product = hessian_vector_product(module, squared, ONE, {"a": torch.tensor(3.0)})
    assert (float(product["a"]), float(product["b"])) == (0, -6)


@pytest.mark.parametrize("c", [0.3, 0.5, 0.9, 1.5])
def test_the_ratio_along_the_diagonal(c: float) -> None:
    """At a = b = c: H = [[2c², 4c² - 2], …], eigenvalues 6c² - 2 and 2 - 2c²."""
    found = extreme_eigenvalues(Product(c, c), squared, ONE)
    ends = sorted([6 * c * c - 2, 2 - 2 * c * c])
    assert [float(found.smallest), float(found.largest)] == pytest.approx(ends, abs=1e-12)
    assert found.non_convexity == pytest.approx(abs(ends[0] / ends[1]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_regression_at_zero(dtype: torch.dtype) -> None:
    """H = mean(xxᵀ) ⊗ (I/K - 11ᵀ/K²): loss ln K, D zero eigenvalues, trace mean‖x‖² (K - 1) / K."""
    features, classes = 5, 4
    x, _ = R.data(features, n=37, dtype=dtype)
    y = torch.arange(37) % classes
    net = nn.Linear(features, classes, bias=False).to(dtype)
    nn.init.zeros_(net.weight)
    batches = R.ragged(x, y, 16, 16, 5)
    second = (x.double().T @ x.double()) / 37
    truth = torch.linalg.eigvalsh(torch.kron(torch.eye(classes).double() / classes - 1 / classes**2, second))
    found = extreme_eigenvalues(net, R.cross_entropy, batches, k=6, tolerance=0)
    atol = 1e-6 if dtype is torch.float32 else 1e-12
    assert found.converged
    np.testing.assert_allclose(found.largest, truth.flip(0)[:6], atol=atol)
    np.testing.assert_allclose(found.smallest, truth[:6], atol=atol)
    assert int((found.smallest.abs() < 10 * atol).sum()) == features
    expected = float(x.double().square().sum(1).mean()) * (classes - 1) / classes
    assert float(truth.sum()) == pytest.approx(expected)
    trace = hutchinson_trace(net, R.cross_entropy, batches, num_samples=300)
    assert abs(trace.trace - expected) < 4 * trace.standard_error < 0.1 * expected
    assert gradient_flatness(net, R.cross_entropy, batches).loss == pytest.approx(math.log(classes), rel=1e-6)


def test_critical_points_of_a_linear_autoencoder() -> None:
    """W₂W₁ the projection on some eigenvectors of the covariance: critical, the loss the sum of the other eigenvalues.

    The best one (the largest eigenvectors) is a minimum, λmin = 0 for the ways to rewrite W₂W₁; any other is a saddle
    (Baldi, Hornik 1989).
    """
    scales = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64).sqrt()
    x = torch.diag(scales) * math.sqrt(3)  # covariance diag(3, 2, 1)

    def loss(module: Any, batch: Any) -> Tensor:
        return (module(batch) - batch).square().sum(1).mean()

    for kept, left in (((0, 1), 1.0), ((0, 2), 2.0), ((1, 2), 3.0)):
        net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)).double()
        rows = torch.eye(3, dtype=torch.float64)[list(kept)]
        with torch.no_grad():
            net[0].weight.copy_(rows)
            net[1].weight.copy_(rows.T)
        flat = gradient_flatness(net, loss, [x[:1], x[1:]])
        assert flat.gradient_norm < 1e-12 and flat.loss == pytest.approx(left)
        found = extreme_eigenvalues(net, loss, [x[:1], x[1:]], tolerance=0)
        truth = torch.linalg.eigvalsh(R.exact_hessian(net, x, x, lambda a, b: (a - b).square().sum(1).mean()))
        assert float(found.smallest) == pytest.approx(float(truth[0]), abs=1e-10)
        assert float(found.largest) == pytest.approx(float(truth[-1]), abs=1e-10)
        assert (float(found.smallest) < -0.1) == (kept != (0, 1))
        assert found.condition_number == math.inf


class Quadratic(nn.Module):
    """½ Σ hᵢ (wᵢ - w*ᵢ)²."""

    def __init__(self, curvatures: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.register_buffer("h", curvatures.to(dtype))
        self.w = nn.Parameter(torch.ones(len(curvatures), dtype=dtype))


def quadratic(module: Any, batch: Tensor) -> Tensor:
    return 0.5 * (batch.mean() * module.h * module.w**2).sum()


@pytest.mark.parametrize("dtype", DTYPES)
def test_quadratic(dtype: torch.dtype) -> None:
    h = torch.tensor([4.0, 4.0, 2.0, 0.5, 0.5, 0.25], dtype=torch.float64)
    batches = [torch.full((3,), 1.0, dtype=dtype), torch.full((1,), 5.0, dtype=dtype)]  # mean 2, not 3
    module = Quadratic(h, dtype)
    found = extreme_eigenvalues(module, quadratic, batches, k=2, tolerance=0)
    np.testing.assert_allclose(found.largest, [8, 8], atol=1e-5)
    np.testing.assert_allclose(found.smallest, [0.5, 1], atol=1e-5)
    trace = hutchinson_trace(module, quadratic, batches, num_samples=3)
    assert trace.trace == pytest.approx(22.5, rel=1e-6) and trace.standard_error == pytest.approx(0, abs=1e-5)
    flat = gradient_flatness(module, quadratic, batches)
    g = 2 * h
    assert flat.gradient_norm == pytest.approx(float(g.norm()), rel=1e-6)
    assert flat.flatness == pytest.approx(float((2 * h * g).norm() / g.norm()), rel=1e-6)
    assert flat.relative_flatness == pytest.approx(flat.flatness / 8, rel=1e-6)


def test_gradient_in_the_flat_directions() -> None:
    """0.5 λ a² + ε b: the gradient at a = 0 is flat; at a ≠ 0 it leans to the curved direction."""

    def loss(module: Any, batch: Any) -> Tensor:
        return 0.5 * 7.0 * module.a**2 + 0.1 * module.b

    flat = gradient_flatness(Product(0.0, 3.0), loss, ONE)
    assert flat.gradient_norm == pytest.approx(0.1) and flat.flatness == 0 and flat.relative_flatness == 0
    leaning = gradient_flatness(Product(0.1, 3.0), loss, ONE, k=1)
    assert leaning.flatness == pytest.approx(7 * 0.7 / math.hypot(0.7, 0.1))
    three = nn.Module()
    three.w = nn.Parameter(torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))
    h = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    found = gradient_flatness(three, lambda m, b: 0.5 * (h * m.w**2).sum(), ONE, tolerance=0)
    g = h * three.w.detach()
    assert found.outside_share == pytest.approx(float(g[2] ** 2 / g.square().sum()), abs=1e-12)


# ---- against torch.func.hessian ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep_graphs", [True, False, None])
@pytest.mark.parametrize(("make", "shape"), [(R.mlp, (4,)), (R.cnn, (1, 6, 6))])
def test_networks(make: Any, shape: tuple[int, ...], dtype: torch.dtype, keep_graphs: bool | None) -> None:
    net = make(dtype)
    x, y = R.data(*shape, dtype=dtype)
    batches = R.ragged(x, y, 9, 9, 2)
    matrix = R.exact_hessian(net, x, y)
    truth = torch.linalg.eigvalsh(matrix)
    found = extreme_eigenvalues(net, R.cross_entropy, batches, k=3, tolerance=1e-5, keep_graphs=keep_graphs)
    assert found.converged and found.num_parameters == len(truth)
    allowed = 2e-5 * float(truth.abs().max())
    np.testing.assert_allclose(found.largest, truth.flip(0)[:3], atol=allowed)
    np.testing.assert_allclose(found.smallest, truth[:3], atol=allowed)
    for value, vector in zip(found.largest, found.largest_vectors, strict=True):
        v = flatten(vector).double()
        assert (matrix @ v - value * v).norm() < allowed
    trace = hutchinson_trace(net, R.cross_entropy, batches, num_samples=30, keep_graphs=keep_graphs)
    assert abs(trace.trace - float(truth.sum())) < 4 * trace.standard_error


def test_hessian_vector_products() -> None:
    net = R.mlp()
    x, y = R.data(4)
    matrix = R.exact_hessian(net, x, y)
    vector = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    product = hessian_vector_product(net, R.cross_entropy, R.ragged(x, y, 11, 9), vector)
    torch.testing.assert_close(flatten(product), matrix @ flatten(vector))
    assert {name: value.shape for name, value in product.items()} == {n: p.shape for n, p in net.named_parameters()}
    part = {"2.bias": vector["2.bias"]}
    whole = {name: torch.zeros_like(p) for name, p in net.named_parameters()} | part
    product = hessian_vector_product(net, R.cross_entropy, R.ragged(x, y, 11, 9), part)
    torch.testing.assert_close(flatten(product), matrix @ flatten(whole))


def test_a_density_against_all_eigenvalues() -> None:
    net = R.mlp()
    x, y = R.data(4)
    truth = torch.linalg.eigvalsh(R.exact_hessian(net, x, y))
    found = spectral_density(net, R.cross_entropy, [(x, y)], num_samples=20, num_iterations=30, sigma=0.02)
    exact = torch.exp(-0.5 * ((found.grid - truth[:, None]) / 0.02) ** 2).mean(0) / (0.02 * math.sqrt(2 * math.pi))
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=1e-5)
    off = (found.density - exact).abs()
    assert (off < 6 * found.standard_error + 1e-3 * float(exact.max())).all()
    mean = float((found.nodes * found.weights).sum(1).mean())
    assert mean == pytest.approx(float(truth.mean()), abs=0.02)


def test_a_subset_of_the_parameters() -> None:
    net = R.mlp()
    x, y = R.data(4)
    matrix = R.exact_hessian(net, x, y, names=["2.weight", "4.bias"])
    found = extreme_eigenvalues(net, R.cross_entropy, [(x, y)], parameters=["2.weight", "4.b*"], tolerance=0)
    truth = torch.linalg.eigvalsh(matrix)
    assert found.num_parameters == len(truth) == 33
    assert [float(found.smallest), float(found.largest)] == pytest.approx(
        [float(truth[0]), float(truth[-1])], abs=1e-10
    )
    assert list(found.largest_vectors[0]) == ["2.weight", "4.bias"]


def test_frozen_parameters_count_if_they_are_chosen() -> None:
    net = R.mlp()
    x, y = R.data(4)
    free = extreme_eigenvalues(net, R.cross_entropy, [(x, y)], parameters="0.*")
    net.requires_grad_(False)
    frozen = extreme_eigenvalues(net, R.cross_entropy, [(x, y)], parameters="0.*")
    assert torch.equal(free.largest, frozen.largest) and free.num_parameters == frozen.num_parameters == 30
    assert not any(p.requires_grad for p in net.parameters())


def test_tied_parameters_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3, bias=False).double()
            self.two = nn.Linear(3, 3, bias=False).double()
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(x)))

    net = Tied()
    x, y = R.data(3)
    truth = torch.linalg.eigvalsh(R.exact_hessian(net, x, y))
    found = extreme_eigenvalues(net, R.cross_entropy, [(x, y)], tolerance=0)
    assert found.num_parameters == 9
    assert [float(found.smallest), float(found.largest)] == pytest.approx(
        [float(truth[0]), float(truth[-1])], abs=1e-10
    )


def test_what_the_loss_does_not_depend_on_is_zero() -> None:
    module = Product(0.5, 0.5)
    module.c = nn.Parameter(torch.ones(2, dtype=torch.float64))
    product = hessian_vector_product(module, squared, ONE, {"a": torch.tensor(1.0), "c": torch.ones(2)})
    assert torch.equal(product["c"], torch.zeros(2)) and float(product["a"]) == pytest.approx(0.5)
    found = extreme_eigenvalues(module, squared, ONE, parameters="c", k=2)
    assert found.largest.tolist() == found.smallest.tolist() == [0, 0] and math.isnan(found.non_convexity)


def test_a_piecewise_linear_loss_has_no_curvature() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    x, _ = R.data(4)
    mean = extreme_eigenvalues(net[2:], lambda m, b: m(b[:, :1].expand(-1, 5)).abs().mean(), [x])
    assert float(mean.largest) == float(mean.smallest) == 0 and mean.converged
    assert hutchinson_trace(net[2:], lambda m, b: m(b[:, :1].expand(-1, 5)).mean(), [x]).trace == 0


# ---- layers without a second derivative of their own -------------------------------------------------------


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, R.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.scaled_dot_product_attention(self.layer(x), x, x)
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 3, batch_first=True)
        self.head = nn.Linear(3, R.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3, sparse=True)
        self.head = nn.Linear(3, R.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(x)).mean(1))


@pytest.mark.parametrize("make", [Attention, Recurrent, Embedded])
def test_layers_that_need_another_formula(make: Any) -> None:
    """The Hessian by differences of gradients: some of these layers do not work in ``torch.func``."""
    torch.manual_seed(0)
    net = make().double()
    x = torch.arange(60).reshape(20, 3) * 5 % 7 if make is Embedded else R.data(3, 4)[0]
    y = R.data(1)[1]
    parameters = dict(net.named_parameters())
    sparse = [m for m in net.modules() if isinstance(m, nn.Embedding)]
    vector = {name: torch.randn_like(p) for name, p in parameters.items()}

    def gradient(step: float) -> Tensor:
        net.eval()
        with torch.no_grad():
            for name, p in parameters.items():
                p.add_(vector[name], alpha=step)
        found = torch.autograd.grad(R.cross_entropy(net, (x, y)), list(parameters.values()))
        with torch.no_grad():
            for name, p in parameters.items():
                p.sub_(vector[name], alpha=step)
        return torch.cat([(g.to_dense() if g.is_sparse else g).reshape(-1) for g in found])

    differences = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    product = hessian_vector_product(net, R.cross_entropy, R.ragged(x, y, 13, 7), vector)
    torch.testing.assert_close(flatten(product), differences, atol=1e-7, rtol=1e-6)
    assert all(m.sparse for m in sparse)


# ---- batches -----------------------------------------------------------------------------------------------


def test_ragged_batches_weigh_what_they_hold() -> None:
    net = R.mlp()
    x, y = R.data(4)
    one = extreme_eigenvalues(net, R.cross_entropy, [(x, y)])
    many = extreme_eigenvalues(net, R.cross_entropy, R.ragged(x, y, 1, 12, 7))
    assert float(many.largest) == pytest.approx(float(one.largest), rel=1e-10)
    unweighted = sum(float(hutchinson_trace(net, R.cross_entropy, [b]).trace) for b in R.ragged(x, y, 1, 12, 7)) / 3
    assert abs(unweighted - hutchinson_trace(net, R.cross_entropy, [(x, y)]).trace) > 1e-2  # the test could fail


def test_all_kinds_of_batches() -> None:
    net = R.mlp(torch.float32)
    x, y = R.data(4, dtype=torch.float32)
    pairs = R.ragged(x, y, 8, 12)
    expected = extreme_eigenvalues(net, R.cross_entropy, pairs)

    def by_key(module: Any, batch: Any) -> Tensor:
        labels = batch.pop("y")
        return F.cross_entropy(module(batch["x"]), labels)

    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    kinds: list[tuple[Any, Any]] = [
        (R.cross_entropy, iter(pairs)),
        (R.cross_entropy, (pair for pair in pairs)),
        (R.cross_entropy, [list(pair) for pair in pairs]),
        (by_key, [{"x": a, "y": b} for a, b in pairs]),
        (by_key, [UserDict({"x": a, "y": b}) for a, b in pairs]),
        (R.cross_entropy, [*pairs, (x[:0], y[:0])]),
        (R.cross_entropy, loader),
    ]
    for loss_fn, batches in kinds:
        found = extreme_eigenvalues(net, loss_fn, batches)
        assert float(found.largest) == pytest.approx(float(expected.largest), rel=1e-5)
        assert float(found.smallest) == pytest.approx(float(expected.smallest), rel=1e-5)


def test_a_loss_that_changes_its_batch_does_not_change_ours() -> None:
    net = R.mlp()
    x, y = R.data(4)

    def in_place(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0].mul_(2)), batch[1])

    before = x.clone()
    found = extreme_eigenvalues(net, in_place, [(x, y)], keep_graphs=False)
    assert torch.equal(x, before)
    expected = extreme_eigenvalues(net, R.cross_entropy, [(2 * x, y)])
    assert float(found.largest) == pytest.approx(float(expected.largest), rel=1e-10)


# ---- no harm -----------------------------------------------------------------------------------------------

CALLS: dict[str, Any] = {
    "product": lambda net, loss, batches, **o: hessian_vector_product(net, loss, batches, {}, **o),
    "eigenvalues": lambda net, loss, batches, **o: extreme_eigenvalues(net, loss, batches, max_iterations=5, **o),
    "trace": lambda net, loss, batches, **o: hutchinson_trace(net, loss, batches, num_samples=2, **o),
    "density": lambda net, loss, batches, **o: spectral_density(net, loss, batches, num_iterations=4, **o),
    "flatness": lambda net, loss, batches, **o: gradient_flatness(net, loss, batches, max_iterations=5, **o),
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("call", CALLS)
def test_the_module_is_left_bit_for_bit(call: str, mode: str) -> None:
    net = R.cnn(torch.float32)
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    x, y = R.data(1, 6, 6, dtype=torch.float32)
    R.cross_entropy(net, (x, y)).backward()
    before = R.snapshot(net)
    CALLS[call](net, R.cross_entropy, DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True), mode=mode)
    assert_identical(before, R.snapshot(net))

    calls = 0

    def fails(module: Any, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        torch.rand(3)
        module[0].weight.data.add_(1)
        if calls == 2:
            raise RuntimeError("in mid-measurement")
        return R.cross_entropy(module, batch)

    with pytest.raises(RuntimeError, match="in mid-measurement"):
        CALLS[call](net, fails, R.ragged(x, y, 8, 12), mode=mode)
    assert_identical(before, R.snapshot(net))


@pytest.mark.parametrize("keep_graphs", [True, False])
def test_dropout_is_a_fixed_function(keep_graphs: bool) -> None:
    """The operator is symmetric and linear, whatever graphs are kept: every product sees the same masks."""
    net = R.cnn(torch.float64)
    x, y = R.data(1, 6, 6)
    found = [
        extreme_eigenvalues(net, R.cross_entropy, R.ragged(x, y, 12, 8), mode="train", keep_graphs=keep, seed=5)
        for keep in (keep_graphs, True)
    ]
    assert found[0].converged and float(found[0].largest) == pytest.approx(float(found[1].largest), rel=1e-9)
    v = found[0].largest_vectors[0]
    hv = hessian_vector_product(net, R.cross_entropy, R.ragged(x, y, 12, 8), v, mode="train", seed=5)
    residual = flatten(hv) - float(found[0].largest) * flatten(v)
    assert residual.norm() < 2e-4 * float(found[0].largest)
    other = hessian_vector_product(net, R.cross_entropy, R.ragged(x, y, 12, 8), v, mode="train", seed=6)
    assert (flatten(other) - flatten(hv)).norm() > 1e-2


# ---- complaints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_says_where(call: str, value: float) -> None:
    net = R.mlp()
    x, y = R.data(4)
    batches = R.ragged(x, y, 8, 8, 4)
    batches[1][0][0, 0] = value if math.isnan(value) else 0.0

    def loss(module: Any, batch: Any) -> Tensor:
        found = R.cross_entropy(module, batch)
        return found + (math.inf if math.isinf(value) and len(batch[0]) == 8 and torch.equal(*two(batch)) else 0)

    def two(batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], batches[1][0]

    with pytest.raises(NotFinite, match="the loss is (nan|inf) on minibatch 1"):
        CALLS[call](net, loss, batches)
    assert issubclass(NotFinite, ValueError)


def test_a_derivative_that_is_not_finite_says_so() -> None:
    with pytest.raises(NotFinite, match="no derivative at this point"):
        extreme_eigenvalues(Product(0.0, 1.0), lambda m, b: m.a.abs().sqrt() + m.b**2, ONE)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"k": 0}, "`k"),
        ({"k": True}, "`k"),
        ({"k": 84}, "only 83"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": math.nan}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"k": 3, "max_iterations": 2}, "max_iterations"),
        ({"parameters": "no.such"}, "parameters"),
        ({"parameters": []}, "parameters"),
        ({"mode": "test"}, "mode"),
        ({"keep_graphs": "some"}, "keep_graphs"),
    ],
    ids=str,
)
def test_bad_arguments(options: dict[str, Any], word: str) -> None:
    net = R.mlp()
    assert sum(p.numel() for p in net.parameters()) == 83
    with pytest.raises(ConfigurationError, match=word):
        extreme_eigenvalues(net, R.cross_entropy, [R.data(4)], **options)


def test_bad_batches_and_losses() -> None:
    net = R.mlp()
    x, y = R.data(4)
    used = iter([(x, y)])
    list(used)
    for batches, word in (
        ([], "no example"),
        (used, "used up"),
        ((x, y)[0], "list"),
        ({"x": x}, "list"),
        (None, "list"),
        ([3.0], "examples"),
        ([torch.tensor(3.0)], "one row per example"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            extreme_eigenvalues(net, R.cross_entropy, batches)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="scalar"):
        extreme_eigenvalues(net, lambda m, b: m(b[0]), [(x, y)])
    with pytest.raises(ConfigurationError, match="loss_fn"):
        extreme_eigenvalues(net, None, [(x, y)])  # type: ignore[arg-type]
    for vector, word in (({"9.weight": x}, "9.weight"), ({"0.bias": torch.ones(3)}, "shape")):
        with pytest.raises(ConfigurationError, match=word):
            hessian_vector_product(net, R.cross_entropy, [(x, y)], vector)
    with pytest.raises(ConfigurationError, match="half precision"):
        extreme_eigenvalues(R.mlp(torch.bfloat16), R.cross_entropy, [(x.bfloat16(), y)])
    with pytest.raises(ConfigurationError, match="num_samples"):
        hutchinson_trace(net, R.cross_entropy, [(x, y)], num_samples=0)
    with pytest.raises(ConfigurationError, match="num_iterations"):
        spectral_density(net, R.cross_entropy, [(x, y)], num_iterations=0)
    with pytest.raises(ConfigurationError, match="sigma"):
        spectral_density(net, R.cross_entropy, [(x, y)], sigma=0.0)
