"""The operator that other analyses use: shares of the work, kept graphs, points that move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.curvature import HessianOperator, NotFinite
from lightning_dynamics.analyses.curvature import operator as operator_module
from lightning_dynamics.analyses.curvature.estimator import extreme_pairs
from lightning_dynamics.analyses.curvature.graphs import graph_bytes
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.parameters import flatten, select_parameters, unflatten
from tests.analyses.curvature import reference as R


def part_of(net: Any, batches: list[Any], **options: Any) -> HessianOperator:
    held = Minibatches.from_batches(batches) if batches else Minibatches((), (), lambda place: None)
    return HessianOperator(net, R.cross_entropy, held, select_parameters(net), **options)


def test_value_gradient_and_product() -> None:
    net = R.mlp()
    x, y = R.data(4)
    matrix = R.exact_hessian(net, x, y)
    loss = R.cross_entropy(net, (x, y))
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(net.parameters()))])
    with isolated(net):
        operator = part_of(net, R.ragged(x, y, 13, 7))
        assert operator.size == len(matrix) and operator.num_examples == 20 and operator.dtype == torch.float64
        assert operator.loss == pytest.approx(loss.item(), rel=1e-12)
        torch.testing.assert_close(operator.gradient(), gradient)
        v = torch.randn(operator.size, dtype=torch.float64)
        torch.testing.assert_close(operator.matvec(v), matrix @ v)
        assert operator.products == 1
        operator.gradient().zero_()
        torch.testing.assert_close(operator.gradient(), gradient)  # nobody else's memory


def test_shares_add_up_bit_for_bit() -> None:
    """float32 products of two processes are the same bits as those of one; one of three processes has nothing."""
    net = R.cnn(torch.float32)
    x, y = R.data(1, 6, 6, dtype=torch.float32)
    batches = R.ragged(x, y, 6, 6, 6, 2)
    v = torch.randn(sum(p.numel() for p in net.parameters()))
    with isolated(net):
        whole = part_of(net, batches)
        shares = [part_of(net, share, num_examples=20) for share in (batches[::2], batches[1::2], [])]

        def together(work: Callable[[], Tensor]) -> Tensor:
            return work() + sum(other._own(directions) for other in shares[1:])

        directions: list[Tensor] | None = None
        shares[0]._gather = together
        assert torch.equal(shares[0].gradient(), whole.gradient()) and shares[0].loss == whole.loss
        directions = list(unflatten(v, select_parameters(net)).values())
        assert torch.equal(shares[0].matvec(v), whole.matvec(v))
        assert torch.equal(shares[2]._own(directions), torch.zeros(len(v) + 2, dtype=torch.float64))


def test_terms_are_added_up_over_processes() -> None:
    net = R.mlp()
    with isolated(net):
        operator = part_of(net, [R.data(4)], gather=lambda work: 3 * work(), num_examples=60)
        assert operator.num_examples == 60
        assert operator.loss == pytest.approx(R.cross_entropy(net, R.data(4)).item())


def test_a_minibatch_without_a_term_counts_nothing() -> None:
    """Its mean is that of nothing: NaN."""
    net = R.mlp()
    x, y = R.data(4)
    batches = [(x[:12], y[:12]), (x[12:], torch.full_like(y[12:], -100))]
    held = Minibatches((12, 8), (0, 1), lambda place: batches[place], lambda place: (12.0, 0.0)[place])
    with isolated(net):
        operator = HessianOperator(net, R.cross_entropy, held, select_parameters(net))
        assert operator.loss == pytest.approx(R.cross_entropy(net, batches[0]).item())
        v = torch.randn(operator.size, dtype=torch.float64)
        torch.testing.assert_close(operator.matvec(v), R.exact_hessian(net, x[:12], y[:12]) @ v)
        none = Minibatches((8,), (0,), lambda place: batches[1], lambda place: 0.0)
        with pytest.raises(NotFinite, match="no minibatch has a term"):
            HessianOperator(net, R.cross_entropy, none, select_parameters(net)).gradient()


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8, 1.5])
def test_graphs_are_kept_as_long_as_there_is_room(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    net = R.cnn()
    x, y = R.data(1, 6, 6)
    batches = R.ragged(x, y, 5, 5, 5, 5)
    calls = 0

    def counted(module: Any, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return R.cross_entropy(module, batch)

    with isolated(net):
        with torch.enable_grad():
            found = torch.autograd.grad(R.cross_entropy(net, batches[0]), list(net.parameters()), create_graph=True)
        size = graph_bytes(found, net.parameters())
        activations = 5 * 3 * 36 * 8
        assert 4 * activations < size < 60 * activations
        monkeypatch.setattr(operator_module, "KEPT_GRAPHS", int(share * 4 * size))
        operator = HessianOperator(net, counted, batches, select_parameters(net))
        v = torch.randn(operator.size, dtype=torch.float64)
        first = operator.matvec(v)
        assert calls == 4 and len(operator._graphs) == min(4, int(4 * share))
        assert torch.equal(operator.matvec(v), first)
        assert calls == 8 - len(operator._graphs)
        operator.clear_cache()
        assert not operator._graphs and torch.equal(operator.matvec(v), first)


def test_forget_when_the_parameters_move() -> None:
    net = R.mlp()
    x, y = R.data(4)
    with isolated(net):
        operator = part_of(net, [(x, y)])
        operator.gradient()
        for parameter in net.parameters():
            parameter.data.mul_(1.5)
        operator.clear_cache()
        matrix = R.exact_hessian(net, x, y)
        v = torch.randn(operator.size, dtype=torch.float64)
        torch.testing.assert_close(operator.matvec(v), matrix @ v)
        assert operator.loss == pytest.approx(R.cross_entropy(net, (x, y)).item())


def test_it_serves_the_pure_functions() -> None:
    net = R.mlp()
    x, y = R.data(4)
    truth = torch.linalg.eigvalsh(R.exact_hessian(net, x, y))
    with isolated(net):
        operator = part_of(net, [(x, y)])
        pairs = extreme_pairs(operator.matvec, operator.size, k=2, dtype=operator.dtype, device=operator.device)
    assert pairs.largest.tolist() == pytest.approx(truth.flip(0)[:2].tolist(), abs=1e-4)


def test_a_loss_that_is_not_finite_elsewhere_is_known_here() -> None:
    net = R.mlp()
    bad = torch.full((sum(p.numel() for p in net.parameters()) + 2,), float("nan"), dtype=torch.float64)
    with isolated(net):
        operator = part_of(net, [R.data(4)], num_examples=40, gather=lambda work: work() + bad)
        with pytest.raises(NotFinite, match="of another process"):
            operator.matvec(torch.ones(operator.size))


def test_mixed_precision_parameters() -> None:
    net = R.mlp(torch.float32)
    net[4].double()
    x, y = R.data(4, dtype=torch.float32)

    def loss(module: Any, batch: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(module[4](module[:4](batch[0]).double()), batch[1])

    with isolated(net):
        operator = HessianOperator(net, loss, [(x, y)], select_parameters(net))
        assert operator.dtype == torch.float64
        v = torch.randn(operator.size, dtype=torch.float64)
        product = operator.matvec(v)
    matrix = R.exact_hessian(net.double(), x, y)
    torch.testing.assert_close(product, matrix @ v, atol=1e-5, rtol=1e-4)
    assert flatten(dict(net.named_parameters())).dtype == torch.float64
