"""Coordinates of the path: which tensors, where they are, and how they add up to channels and layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.loss_contribution.coordinates import Coordinates, channels_of, layers_of
from tests.analyses.loss_contribution import reference as R


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.first = nn.Linear(3, 4)
        self.tied = nn.Linear(3, 4, bias=False)
        self.tied.weight = self.first.weight
        self.empty = nn.Parameter(torch.zeros(0, 2))
        self.double_ = nn.Parameter(torch.randn(2, dtype=torch.float64))
        self.turned = nn.Parameter(torch.randn(3, 2).t())
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("mask", torch.tensor([True]))
        self.register_buffer("average", torch.tensor([0.5]))


@pytest.mark.parametrize("mode", ["batch", "frozen", "attributed"])
def test_which_tensors(mode: Any) -> None:
    module = Odd()
    found = Coordinates.of(module, mode)
    parameters = [name for name, _ in module.named_parameters()]
    statistics = ["norm.running_mean", "norm.running_var"]
    assert list(found.tensors) == parameters + (statistics if mode == "attributed" else [])
    assert "tied.weight" not in found.tensors
    assert set(found.buffers) == {"average"} | (set(statistics) if mode == "frozen" else set())
    assert found.sizes == [t.numel() for t in found.tensors.values()]


@pytest.mark.parametrize("mode", ["batch", "frozen", "attributed"])
def test_there_and_back(mode: Any) -> None:
    module = Odd()
    coordinates = Coordinates.of(module, mode)
    here, buffers = coordinates.read(), coordinates.read_buffers()
    assert here.dtype == torch.float64 and here.shape == (sum(coordinates.sizes),)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    storages = [t.data_ptr() for t in coordinates.tensors.values()]
    versions = [t._version for t in coordinates.tensors.values()]
    coordinates.move(here + 1)
    coordinates.move_buffers({name: value + 1 for name, value in buffers.items()})
    R.assert_close(coordinates.read(), here + 1, rtol=1e-6)
    R.assert_close(module.turned.detach(), state["turned"] + 1, rtol=1e-6)
    assert torch.equal(coordinates.read_buffers()["average"], torch.tensor([1.5]))
    here_again = here.clone()
    coordinates.move(here), coordinates.move_buffers(buffers)
    assert torch.equal(here, here_again)
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert storages == [t.data_ptr() for t in coordinates.tensors.values()]
    assert versions == [t._version for t in coordinates.tensors.values()], "a live graph must still be walked back"


def test_a_point_is_a_copy() -> None:
    module = nn.Linear(2, 1, bias=False)
    coordinates = Coordinates.of(module, "batch")
    point = coordinates.read()
    kept = point.clone()
    with torch.no_grad():
        module.weight += 1
    assert torch.equal(point, kept)


def test_which_can_contribute() -> None:
    coordinates = Coordinates.of(Odd(), "attributed")
    names = list(coordinates.tensors)
    wanted = dict(zip(names, coordinates.wanting_gradient([False] * len(names)), strict=True))
    assert [name for name, is_wanted in wanted.items() if not is_wanted] == ["frozen"]
    assert all(coordinates.wanting_gradient([True] * len(names)))


LAYERS: dict[str, Any] = {
    "linear": lambda: nn.Linear(3, 4),
    "convolution": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed, grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "transposed, depthwise": lambda: nn.ConvTranspose1d(4, 8, 3, groups=4),
    "transposed, 3 dimensions": lambda: nn.ConvTranspose3d(2, 4, 2, groups=2),
    "batch norm": lambda: nn.BatchNorm2d(4),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "compiled": lambda: torch.compile(nn.ConvTranspose2d(4, 6, 3, groups=2), backend="eager"),
}
INPUTS = {"linear": (2, 3), "transposed, depthwise": (2, 4, 5), "transposed, 3 dimensions": (2, 2, 3, 3, 3)}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_channel_is_what_one_output_depends_on(kind: str) -> None:
    """Channel c sums over exactly those elements that output c has a gradient for."""
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    module = nn.Sequential(layer).train()
    shapes = {name: t.shape for name, t in Coordinates.of(module, "batch").tensors.items()}
    channels = channels_of(module, shapes)
    assert {c.unit for c in channels.values()} == {"0"}, "weight and bias together"
    bare = getattr(layer, "_orig_mod", layer)
    output: Tensor = bare(torch.randn(INPUTS.get(kind, (2, 4, 5, 5))))
    real = dict(bare.named_parameters())
    for number in range(output.shape[1]):
        grads = torch.autograd.grad(output[:, number].square().sum(), list(real.values()), retain_graph=True)
        for (name, _), grad in zip(real.items(), grads, strict=True):
            sums = channels[f"0.{name}"].sums((grad != 0).double())
            assert sums.shape == (output.shape[1],)
            assert sums.nonzero().flatten().tolist() == [number], name
            assert int(sums.sum()) == int((grad != 0).sum())


PARAMETRIZED: dict[str, Any] = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "old weight norm": nn.utils.weight_norm,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("way", PARAMETRIZED)
def test_channels_of_a_parametrized_transposed_convolution(way: str) -> None:
    """What stands for the weight has the channels of the weight; scales of inputs belong to no channel."""
    module = nn.Sequential(PARAMETRIZED[way](nn.ConvTranspose1d(4, 6, 3, groups=2)))
    tensors = {name: p.detach() for name, p in module.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    channels = channels_of(module, {name: p.shape for name, p in tensors.items()})
    name, weight = max(tensors.items(), key=lambda item: item[1].numel())
    by_hand = torch.stack([weight[2 * group : 2 * group + 2, j].sum() for group in range(2) for j in range(3)])
    torch.testing.assert_close(channels[name].sums(weight), by_hand)
    for scale in (name for name in tensors if name.endswith(("original0", "_g"))):
        assert tensors[scale].numel() == 4
        torch.testing.assert_close(channels[scale].sums(tensors[scale]), tensors[scale].sum()[None])
    for kept, buffer in module.named_buffers():
        assert torch.equal(buffer, buffers[kept]), "a power iteration was done"


def test_units() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))
            self.scale = nn.Parameter(torch.zeros(()))
            self.lstm = nn.LSTM(2, 3, bidirectional=True)
            self.attention = nn.MultiheadAttention(4, 2)
            self.embedding = nn.Embedding(7, 3)
            self.pair = nn.Bilinear(2, 3, 4)

    module = Net()
    shapes = {name: p.shape for name, p in module.named_parameters()}
    channels = channels_of(module, shapes)
    units: dict[str, list[str]] = {}
    for name, one in channels.items():
        units.setdefault(one.unit, []).append(name)
        assert one.sums(torch.ones(shapes[name])).sum() == shapes[name].numel()
    assert units["lstm.ih_l0"] == ["lstm.weight_ih_l0", "lstm.bias_ih_l0"]
    assert units["lstm.hh_l0_reverse"] == ["lstm.weight_hh_l0_reverse", "lstm.bias_hh_l0_reverse"]
    assert units["attention.in_proj"] == ["attention.in_proj_weight", "attention.in_proj_bias"]
    assert units["attention.out_proj"] == ["attention.out_proj.weight", "attention.out_proj.bias"]
    assert units["pair"] == ["pair.weight", "pair.bias"]
    assert channels["embedding.weight"].sums(torch.ones(7, 3)).tolist() == [3.0] * 7
    assert channels["scale"].sums(torch.tensor(2.0)).tolist() == [2.0]


def test_tensors_of_other_lengths_are_units_of_their_own() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(3))

    module = nn.Sequential(Layer())
    channels = channels_of(module, {name: p.shape for name, p in module.named_parameters()})
    assert [one.unit for one in channels.values()] == ["0", "0.bias"]


def test_layers() -> None:
    names = ["scale", "conv.weight", "conv.bias", "block.0.weight", "block.0.norm.weight", "block.0.bias"]
    assert layers_of(names) == {
        "scale": ["scale"],
        "conv": ["conv.weight", "conv.bias"],
        "block.0": ["block.0.weight", "block.0.bias"],
        "block.0.norm": ["block.0.norm.weight"],
    }
