"""Planes and lines against closed forms, and against a module that is moved by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.analyses.landscape import difference, evaluate_line, evaluate_plane, random_directions
from lightning_dynamics.analyses.landscape.minibatches import channels_last
from lightning_dynamics.core.lightning import ConfigurationError


class Point(nn.Module):
    """Weights without a network."""

    def __init__(self, *values: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=dtype))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6 * 16, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(n, 1, 6, 6, generator=generator), torch.arange(n) % 3) for n in sizes]


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def state(module: nn.Module) -> list[Any]:
    tensors = [*module.parameters(), *module.buffers()]
    return [
        [t.detach().clone() for t in tensors],
        [t.data_ptr() for t in tensors],
        [t.stride() for t in tensors],
        [p.requires_grad for p in module.parameters()],
        [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        [sub.training for sub in module.modules()],
        [set(vars(sub)) for sub in module.modules()],
        torch.get_rng_state(),
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list) else a == b


@pytest.mark.parametrize("shape", [(3, 5), (4, 2), (1, 6)])
def test_a_quadratic_exactly(shape: tuple[int, int]) -> None:
    module = Point(1.0, -2.0, 0.5)
    hessian = torch.tensor([[2.0, 1.0, 0.0], [1.0, -3.0, 0.5], [0.0, 0.5, 4.0]], dtype=torch.float64)
    d1, d2 = torch.tensor([1.0, 0.0, 2.0]).double(), torch.tensor([0.0, -1.0, 1.0]).double()
    xs = torch.linspace(-2, 1, shape[1]).double()
    ys = torch.linspace(0, 3, shape[0]).double()

    def loss(m: Any, batch: Tensor) -> Tensor:
        return 0.5 * m.w @ hessian @ m.w + batch.mean()

    found = evaluate_plane(module, loss, [torch.zeros(4)], ({"w": d1}, {"w": d2}), xs, ys)
    for row, y in enumerate(ys):
        for column, x in enumerate(xs):
            w = module.w.detach() + x * d1 + y * d2
            assert found.loss[row, column].item() == pytest.approx(float(0.5 * w @ hessian @ w), abs=1e-12)
    assert found.loss.shape == (shape[0], shape[1]) and found.accuracy is None


def test_multiply_by_one() -> None:
    """(ab − 1)²: the valley ab = 1 is flat, the origin is a saddle of height 1."""
    module = Point(0.0, 0.0)
    loss = lambda m, batch: (m.w[0] * m.w[1] - 1) ** 2  # noqa: E731
    axes = ({"w": torch.tensor([1.0, 0.0]).double()}, {"w": torch.tensor([0.0, 1.0]).double()})
    found = evaluate_plane(module, loss, [torch.zeros(1)], axes, [0.5, 1.0, 2.0], [2.0, 1.0, 0.5])
    expected = [[(a * b - 1) ** 2 for a in (0.5, 1.0, 2.0)] for b in (2.0, 1.0, 0.5)]
    assert found.loss.tolist() == expected
    assert [found.loss[i, i].item() for i in range(3)] == [0, 0, 0]


def test_rows_are_ys_and_columns_are_xs(network: Network) -> None:
    directions = random_directions(dict(network.named_parameters()))
    xs, ys = [-0.3, 0.2, 0.9, 1.0], [0.0, 0.5]
    data = batches(8, 5)
    found = evaluate_plane(network, cross_entropy, data, directions, xs, ys, batchnorm="frozen")
    by_hand = copy.deepcopy(network).eval()
    for row, y in enumerate(ys):
        for column, x in enumerate(xs):
            with torch.no_grad():
                for name, p in by_hand.named_parameters():
                    centre = dict(network.named_parameters())[name]
                    p.copy_(centre + x * directions[0][name] + y * directions[1][name])
                logits = [by_hand(b[0]) for b in data]
                losses = [F.cross_entropy(out, b[1]).item() for out, b in zip(logits, data, strict=True)]
                right = sum(int((out.argmax(1) == b[1]).sum()) for out, b in zip(logits, data, strict=True))
            assert found.loss[row, column].item() == pytest.approx((8 * losses[0] + 5 * losses[1]) / 13, rel=2e-5)
            assert found.accuracy is not None and found.accuracy[row, column].item() == pytest.approx(right / 13)


@pytest.mark.parametrize("resolution", [(5, 3), (7, 7), (21, 9)])
def test_the_centre_is_the_trained_loss_bit_for_bit(network: Network, resolution: tuple[int, int]) -> None:
    xs = torch.linspace(-1, 1, resolution[0])
    ys = torch.linspace(-1, 1, resolution[1])
    xs[resolution[0] // 2] = ys[resolution[1] // 2] = 0
    data = batches(16)
    directions = random_directions(dict(network.named_parameters()))
    found = evaluate_plane(network, cross_entropy, data, directions, xs, ys, batchnorm="frozen")
    with torch.no_grad():
        expected = cross_entropy(network.eval(), data[0]).item()
    assert found.loss[resolution[1] // 2, resolution[0] // 2].item() == expected


def test_nothing_drifts_over_the_grid(network: Network) -> None:
    """A point has the same value in a large grid and alone."""
    directions = random_directions(dict(network.named_parameters()))
    xs = ys = torch.linspace(-1, 1, 9)
    large = evaluate_plane(network, cross_entropy, batches(8), directions, xs, ys)
    alone = evaluate_plane(network, cross_entropy, batches(8), directions, xs[6:7], ys[7:8])
    assert large.loss[7, 6] == alone.loss[0, 0]


def test_a_line_is_a_row_of_the_plane(network: Network) -> None:
    directions = random_directions(dict(network.named_parameters()))
    ts = [-1.0, 0.0, 0.25, 2.0]
    line = evaluate_line(network, cross_entropy, batches(8, 3), directions[0], ts)
    plane = evaluate_plane(network, cross_entropy, batches(8, 3), directions, ts, [0.0])
    assert line.loss.shape == (4,) and torch.equal(line.loss, plane.loss[0]) and len(line.ys) == 0


def test_a_line_between_two_networks_ends_at_them(network: Network) -> None:
    other = copy.deepcopy(network)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    data = batches(8)
    direction = difference(dict(other.named_parameters()), dict(network.named_parameters()))
    line = evaluate_line(network, cross_entropy, data, direction, [0.0, 1.0], batchnorm="frozen")
    with torch.no_grad():
        ends = [cross_entropy(m.eval(), data[0]).item() for m in (network, other)]
    assert line.loss.tolist() == pytest.approx(ends, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batchnorm", ["reestimate", "frozen", "batch"])
def test_the_module_is_left_alone(network: Network, batchnorm: Any, training: bool) -> None:
    network.train(training)
    network.head.weight.requires_grad_(False)
    network.conv.weight.grad = torch.ones_like(network.conv.weight)
    network.to(memory_format=torch.channels_last)
    before = state(network)
    directions = random_directions(dict(network.named_parameters()))
    evaluate_plane(
        network, cross_entropy, batches(8), directions, [0, 1], [0, 1], batchnorm=batchnorm, dropout="fixed", seed=4
    )
    assert same(before, state(network))


def test_the_module_is_left_alone_after_a_failure_in_mid_grid(network: Network) -> None:
    calls = 0

    def failing(module: Any, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise KeyError("no such luck")
        return cross_entropy(module, batch)

    before = state(network)
    directions = random_directions(dict(network.named_parameters()))
    with pytest.raises(KeyError, match="luck"):
        evaluate_plane(network, failing, batches(8), directions, torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5))
    assert same(before, state(network))


def test_nan_stays_nan(network: Network) -> None:
    def broken(module: Any, batch: Any) -> Tensor:
        loss = cross_entropy(module, batch)
        return loss * math.nan if module.head.weight[0, 0] > weight else loss

    weight = network.head.weight[0, 0].item()
    directions = [{"head.weight": torch.ones_like(network.head.weight)}, {"head.bias": torch.ones(3)}]
    found = evaluate_plane(network, broken, batches(8), directions, [-1.0, 0.0, 1.0], [0.0, 1.0])
    assert found.loss.isnan().tolist() == [[False, False, True]] * 2
    huge = evaluate_plane(network, lambda m, b: m.head.bias.exp().sum(), batches(4), directions, [0.0], [0.0, 1e4])
    assert huge.loss[1, 0] == math.inf


def test_scale_invariance_of_filter_normalised_slices() -> None:
    """Filters of one layer times c, of the next over c: the same ReLU network, so the same picture."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)).double()
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        scaled[0].weight.mul_(10)
        scaled[2].weight.div_(10)
    data = [(torch.randn(9, 5).double(), torch.arange(9) % 3)]
    grid = torch.linspace(-1, 1, 5)
    slices = [
        evaluate_plane(m, cross_entropy, data, random_directions(dict(m.named_parameters())), grid, grid)
        for m in (net, scaled)
    ]
    assert torch.allclose(slices[0].loss, slices[1].loss, rtol=1e-10)
    plain = [
        evaluate_plane(
            m, cross_entropy, data, random_directions(dict(m.named_parameters()), normalize="none"), grid, grid
        )
        for m in (net, scaled)
    ]
    assert not torch.allclose(plain[0].loss, plain[1].loss, rtol=1e-2)


def test_the_radial_line_of_normalised_weights_is_flat_when_statistics_are_measured_anew() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, eps=1e-30), nn.ReLU(), nn.Linear(6, 3)).double()
    radial = {"0.weight": net[0].weight.detach().clone()}
    data = [(torch.randn(32, 4).double(), torch.arange(32) % 3), (torch.randn(7, 4).double(), torch.arange(7) % 3)]
    ts = [0.0, 0.5, 1.0, 4.0]
    flat, stale = (
        evaluate_line(net, cross_entropy, data, radial, ts, batchnorm=mode).loss for mode in ("reestimate", "frozen")
    )
    assert torch.allclose(flat, flat[0].expand(4), rtol=1e-9)
    assert float((stale - stale[0]).abs().max()) > 0.05
    by_minibatch = evaluate_line(net, cross_entropy, data, radial, ts, batchnorm="batch").loss
    assert torch.allclose(by_minibatch, by_minibatch[0].expand(4), rtol=1e-9) and not torch.allclose(by_minibatch, flat)


def test_reestimated_statistics_are_those_of_the_examples() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    data = [(torch.randn(n, 4).double() * n, torch.arange(n) % 3) for n in (8, 8, 3)]
    by_hand = copy.deepcopy(net).eval()
    hidden = [by_hand[0](x).detach() for x, _ in data]
    sizes = torch.tensor([8.0, 8.0, 3.0]).double()
    by_hand[1].running_mean = (torch.stack([h.mean(0) for h in hidden]) * sizes[:, None]).sum(0) / 19
    by_hand[1].running_var = (torch.stack([h.var(0) for h in hidden]) * sizes[:, None]).sum(0) / 19
    with torch.no_grad():
        expected = sum(len(x) * F.cross_entropy(by_hand(x), y) for x, y in data) / 19
    found = evaluate_line(net, cross_entropy, data, {"0.weight": torch.zeros(6, 4).double()}, [0.0])
    assert found.loss.item() == pytest.approx(float(expected), rel=1e-12)


def test_dropout_off_and_with_one_mask(network: Network) -> None:
    still = [{"conv.bias": torch.zeros(6)}, {"head.bias": torch.zeros(3)}]
    grid = [0.0, 1.0, 2.0]
    off, fixed, other = (
        evaluate_plane(
            network, cross_entropy, batches(8), still, grid, grid, batchnorm="frozen", dropout=mode, seed=seed
        )
        for mode, seed in (("off", 0), ("fixed", 0), ("fixed", 1))
    )
    for found in (off, fixed, other):
        assert (found.loss == found.loss[0, 0]).all()
    assert len({float(found.loss[0, 0]) for found in (off, fixed, other)}) == 3


def test_noise_of_the_module_is_the_same_at_every_point(network: Network) -> None:
    def noisy(module: Any, batch: Any) -> Tensor:
        return cross_entropy(module, (batch[0] + torch.randn_like(batch[0]), batch[1]))

    still = [{"conv.bias": torch.zeros(6)}, {"head.bias": torch.zeros(3)}]
    found = evaluate_plane(network, noisy, batches(8, 8), still, [0.0, 1.0], [0.0, 1.0])
    assert (found.loss == found.loss[0, 0]).all()


def test_loss_and_accuracy_come_from_one_forward_pass(network: Network) -> None:
    directions = random_directions(dict(network.named_parameters()))
    calls = [0]
    original = Network.forward

    def counting(self: Network, x: Tensor) -> Tensor:
        calls[0] += 1
        return original(self, x)

    Network.forward = counting  # type: ignore[method-assign]
    try:
        evaluate_plane(
            network, cross_entropy, batches(8), directions, [0.0], torch.linspace(0, 1, 3), batchnorm="frozen"
        )
        few = calls[0]
        evaluate_plane(
            network, cross_entropy, batches(8), directions, [0.0], torch.linspace(0, 1, 23), batchnorm="frozen"
        )
    finally:
        Network.forward = original  # type: ignore[method-assign]
    assert calls[0] - 2 * few == 20


def test_predictions_are_not_shared_with_a_loss_that_changes_them(network: Network) -> None:
    def spoiling(module: Any, batch: Any) -> Tensor:
        logits = module(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        logits.neg_()
        return loss

    directions = random_directions(dict(network.named_parameters()))
    pair = [evaluate_plane(network, fn, batches(16), directions, [0.0, 0.5], [0.0]) for fn in (cross_entropy, spoiling)]
    assert torch.equal(pair[0].accuracy, pair[1].accuracy) and torch.equal(pair[0].loss, pair[1].loss)


def test_dropout_has_one_mask_for_loss_and_accuracy(network: Network) -> None:
    """With the head's dropout at 0.5 and one pass for both, a loss that is the error rate agrees with the accuracy."""

    def error_rate(module: Any, batch: Any) -> Tensor:
        return (module(batch[0]).argmax(1) != batch[1]).float().mean()

    found = evaluate_line(
        network,
        error_rate,
        batches(64),
        {"head.weight": torch.randn(3, 96)},
        [0.0, 0.1, 0.2],
        predict_fn=lambda module, batch: (module(batch[0]), batch[1]),
        dropout="fixed",
    )
    assert found.accuracy is not None and torch.allclose(found.loss, 1 - found.accuracy)


def test_metrics_of_the_user(network: Network) -> None:
    def confidence(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.softmax(1).amax(1).mean()

    directions = random_directions(dict(network.named_parameters()))
    found = evaluate_plane(
        network,
        cross_entropy,
        batches(8, 4),
        directions,
        [0.0],
        [0.0],
        quantities=["accuracy", confidence],
        batchnorm="frozen",
    )
    with torch.no_grad():
        network.eval()
        expected = sum(len(x) * confidence(network(x), y) for x, y in batches(8, 4)) / 12
    assert found.others["confidence"].item() == pytest.approx(float(expected), rel=1e-6)
    assert found.accuracy is not None
    only = evaluate_plane(network, cross_entropy, batches(8), directions, [0.0], [0.0], quantities=[])
    assert only.accuracy is None


def test_weight_decay_is_half_lambda_times_the_squared_norm(network: Network) -> None:
    directions = random_directions(dict(network.named_parameters()))
    plain, decayed = (
        evaluate_plane(network, cross_entropy, batches(8), directions, [0.0, 1.0], [0.0], weight_decay=decay)
        for decay in (0.0, 0.2)
    )
    squared = sum(float(p.detach().double().square().sum()) for p in network.parameters())
    assert float(decayed.loss[0, 0] - plain.loss[0, 0]) == pytest.approx(0.1 * squared, rel=1e-6)


def test_batches_cut_to_size_and_channels_last_give_the_same(network: Network) -> None:
    directions = random_directions(dict(network.named_parameters()))
    grid = [-0.5, 0.0, 0.5]
    whole = evaluate_plane(network, cross_entropy, batches(50, 9), directions, grid, grid, batchnorm="frozen")
    for settings in ({"batch_size": 16}, {"batch_size": "auto"}, {"channels_last": True}):
        other = evaluate_plane(
            network, cross_entropy, batches(50, 9), directions, grid, grid, batchnorm="frozen", **settings
        )
        assert torch.allclose(other.loss, whole.loss, rtol=1e-5) and torch.equal(other.accuracy, whole.accuracy)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_innermost(channels: int) -> None:
    """Of one channel, too: ``contiguous`` leaves such a tensor as it is, and convolutions then take the slow way."""
    x, y = channels_last((torch.randn(2, channels, 5, 4), torch.arange(2)))
    assert x.stride() == (20 * channels, 1, 4 * channels, channels) and y.stride() == (1,)


def test_a_loss_that_takes_gradients_of_its_own(network: Network) -> None:
    def penalised(module: Any, batch: Any) -> Tensor:
        with torch.enable_grad():
            x = batch[0].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(module(x).sum(), x)
        return gradient.square().mean()

    def careless(module: Any, batch: Any) -> Tensor:
        x = batch[0].clone().requires_grad_()
        return torch.autograd.grad(module(x).sum(), x)[0].square().mean()

    directions = random_directions(dict(network.named_parameters()))
    found = [
        evaluate_plane(network, fn, batches(8), directions, [0.0, 1.0], [0.0], quantities=[]).loss
        for fn in (penalised, careless)
    ]
    assert torch.equal(found[0], found[1]) and (found[0] > 0).all()


def test_a_compiled_module_names_its_parameters_otherwise(network: Network) -> None:
    compiled = torch.compile(network, backend="eager")
    directions = random_directions(compiled)
    assert "_orig_mod.head.weight" in directions[0]
    found = evaluate_plane(compiled, cross_entropy, batches(8), directions, [0.0, 0.5], [0.0])
    plain = evaluate_plane(network, cross_entropy, batches(8), random_directions(network), [0.0, 0.5], [0.0])
    assert torch.equal(found.loss, plain.loss)


def test_tied_parameters_and_mixed_precision() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    net[1].bias.data = net[1].bias.data.to(torch.bfloat16)
    loss = lambda m, b: (b @ m[0].weight).square().mean() + m[1].bias.float().sum()  # noqa: E731
    step = {"0.weight": torch.ones(4, 4), "1.bias": torch.full((4,), 2**-6)}
    centre = net[1].bias.detach().clone()
    found = evaluate_line(net, loss, [torch.eye(4)], step, [0.0, 1.0, 1000.0])
    for t, value in zip((0.0, 1.0, 1000.0), found.loss.tolist(), strict=True):
        bias = (centre.float() + t * 2**-6).to(torch.bfloat16).float().sum()
        assert value == pytest.approx(float((net[0].weight.detach() + t).square().mean() + bias), rel=1e-5)
    assert torch.equal(centre, net[1].bias)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"directions": [{"w": torch.ones(2).double()}]}, "directions"),
        ({"directions": [{"v": torch.ones(2).double()}] * 2}, "directions"),
        ({"directions": [{"w": torch.ones(3).double()}] * 2}, "directions"),
        ({"directions": [{}, {}]}, "directions"),
        ({"xs": []}, "xs"),
        ({"ys": [0.0, math.nan]}, "ys"),
        ({"batches": []}, "batches"),
        ({"batches": ["text"]}, "batches"),
        ({"batchnorm": "off"}, "batchnorm"),
        ({"dropout": "on"}, "dropout"),
        ({"quantities": ["accuracy"]}, "quantities"),
        ({"quantities": "accuracy"}, "quantities"),
        ({"quantities": [3]}, "quantities"),
    ],
)
def test_complaints(change: dict[str, Any], word: str) -> None:
    module = Point(1.0, 2.0)
    arguments: dict[str, Any] = {
        "batches": [torch.ones(3)],
        "directions": [{"w": torch.ones(2).double()}] * 2,
        "xs": [0.0],
        "ys": [0.0],
    } | change
    positional = [arguments.pop(name) for name in ("batches", "directions", "xs", "ys")]
    before = state(module)
    with pytest.raises(ConfigurationError, match=word):
        evaluate_plane(module, lambda m, b: m.w.sum(), *positional, **arguments)
    assert same(before, state(module))
