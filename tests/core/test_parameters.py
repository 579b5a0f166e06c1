"""Parameters: names, selection, flat views, moving there and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import (
    ChannelAxis,
    assign,
    channel_axes,
    flatten,
    moved,
    plain_name,
    select_parameters,
    unflatten,
)


@pytest.fixture
def net() -> nn.Module:
    net = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 3), "c": nn.PReLU()})
    net["b"].weight = net["a"].weight
    net["scale"] = nn.Module()
    net["scale"].value = nn.Parameter(torch.tensor(2.0))
    return net


def test_names_are_the_same_with_and_without_compile() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1)))
    names = list(select_parameters(net))
    net[1] = torch.compile(net[1], backend="eager")
    assert list(select_parameters(net)) == names
    assert list(select_parameters(torch.compile(net, backend="eager"), "1.*")) == ["1.0.weight", "1.0.bias"]
    assert plain_name("_orig_mod.block._orig_mod.weight") == "block.weight"
    assert plain_name("my_orig_mod.weight") == "my_orig_mod.weight"


def test_selection(net: nn.Module) -> None:
    assert list(select_parameters(net)) == ["a.weight", "a.bias", "b.bias", "c.weight", "scale.value"]
    assert list(select_parameters(net, ["c.*", "*.bias", "a*"])) == ["a.weight", "a.bias", "b.bias", "c.weight"]
    assert select_parameters(net, "a.weight")["a.weight"] is net["a"].weight  # type: ignore[index]


@pytest.mark.parametrize("patterns", ["d.*", ["*", "d.*"], "", "A.*"])
def test_what_matches_nothing_is_named(net: nn.Module, patterns: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"`freeze=.*` matches no parameter; there are: a.weight, a.bias"):
        select_parameters(net, patterns, argument="freeze")


def test_no_patterns_and_no_parameters(net: nn.Module) -> None:
    with pytest.raises(ConfigurationError, match="`parameters` is empty"):
        select_parameters(net, [])
    with pytest.raises(ConfigurationError, match="there are: none"):
        select_parameters(nn.ReLU())


def test_flat_and_back(net: nn.Module) -> None:
    parameters = select_parameters(net)
    flat = flatten(parameters)
    assert flat.shape == (6 + 3 + 3 + 1 + 1,)
    assert not flat.requires_grad
    flat[:6] = 0
    assert net["a"].weight.abs().sum() > 0, "a copy"  # type: ignore[index]
    pieces = unflatten(flat, parameters)
    assert [piece.shape for piece in pieces.values()] == [parameter.shape for parameter in parameters.values()]
    assert pieces["scale.value"].item() == 2
    flat[-1] = 5
    assert pieces["scale.value"].item() == 5, "views"
    with pytest.raises(RuntimeError):
        unflatten(flat[1:], parameters)


def test_a_single_tensor_is_copied_too() -> None:
    tensor = torch.zeros(3)
    flatten({"a": tensor}).add_(1)
    assert tensor.sum() == 0


def test_flatten_keeps_the_wider_type() -> None:
    mixed = {"a": torch.zeros(1, dtype=torch.bfloat16), "b": torch.tensor([1.0 + 2**-30], dtype=torch.float64)}
    assert flatten(mixed)[1] == mixed["b"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fails", [False, True])
def test_moved_gives_the_very_bits_back(net: nn.Module, dtype: torch.dtype, fails: bool) -> None:
    net.to(dtype)
    parameters = select_parameters(net)
    with torch.no_grad():
        net["a"].weight[0, 0] = -0.0  # type: ignore[index]
        net["a"].weight[0, 1] = float("nan")  # type: ignore[index]
    before = {n: (p.data_ptr(), p.detach().view(-1).view(torch.uint8).tolist()) for n, p in parameters.items()}
    try:
        with moved(parameters, {name: torch.full_like(p, 0.1) for name, p in parameters.items()}):
            assert net["b"].weight[0, 0] == torch.tensor(0.1, dtype=dtype), "tied"  # type: ignore[index]
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert {n: (p.data_ptr(), p.detach().view(-1).view(torch.uint8).tolist()) for n, p in parameters.items()} == before


def test_moved_comes_back_when_the_values_do_not_fit(net: nn.Module) -> None:
    parameters = select_parameters(net, "a.*")
    before = flatten(parameters)
    with pytest.raises(KeyError), moved(parameters, {"a.weight": torch.zeros(3, 2)}):
        pass
    assert torch.equal(flatten(parameters), before)


def test_assign_leaves_a_live_graph_alone(net: nn.Module) -> None:
    loss = net["a"](torch.ones(1, 2)).square().sum()  # type: ignore[index]
    assign(parameters := select_parameters(net), {name: p.detach().clone() for name, p in parameters.items()})
    loss.backward()
    assert all(p.requires_grad for p in parameters.values())


def test_axes_of_output_channels() -> None:
    net = nn.ModuleDict(
        {
            "conv": nn.Conv2d(4, 6, 3, groups=2),
            "transposed": nn.ConvTranspose1d(4, 6, 3, groups=2),
            "lstm": nn.LSTM(2, 3, proj_size=2),
            "attention": nn.MultiheadAttention(4, 2, add_bias_kv=True),
            "embedding": nn.Embedding(7, 3),
            "pair": nn.Bilinear(2, 3, 4),
        }
    )
    net["scale"] = nn.ParameterDict({"value": nn.Parameter(torch.tensor(2.0))})
    axes = channel_axes(torch.compile(net, backend="eager"))
    assert axes.keys() == dict(net.named_parameters()).keys()
    assert axes.pop("transposed.weight") == ChannelAxis(1, 2)
    assert axes.pop("scale.value") == ChannelAxis(None)
    assert set(axes.values()) == {ChannelAxis(0)}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_axes_of_weights_that_are_written_otherwise() -> None:
    def transposed(**options: int) -> nn.Module:
        return nn.ConvTranspose2d(4, 6, 3, **options)

    utils, own, grouped, none = nn.utils, ChannelAxis(1), ChannelAxis(1, 2), ChannelAxis(None)
    expected = {
        utils.parametrizations.spectral_norm(transposed(groups=2)): {"original": grouped},
        utils.parametrizations.orthogonal(transposed()): {"original": own},
        utils.parametrizations.weight_norm(transposed()): {"original0": none, "original1": own},
        utils.parametrizations.weight_norm(transposed(groups=2), dim=1): {"original0": own, "original1": grouped},
        utils.parametrizations.weight_norm(transposed(), dim=-1): {"original0": none, "original1": own},
        utils.weight_norm(transposed(groups=2)): {"weight_g": none, "weight_v": grouped},
        utils.spectral_norm(transposed()): {"weight_orig": own},
        utils.prune.random_unstructured(utils.weight_norm(transposed()), "weight_v", 0.5): {
            "weight_g": none,
            "weight_v_orig": own,
        },
        nn.LazyConvTranspose2d(6, 3): {"weight": own},
    }
    for layer, roles in expected.items():
        axes = {name.removeprefix("parametrizations.weight."): axis for name, axis in channel_axes(layer).items()}
        assert axes == {"bias": ChannelAxis(0), **roles}, type(layer)


def test_a_tied_weight_has_the_role_that_each_of_its_names_says() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 3))
    net[1].weight = net[0].weight
    axes = channel_axes(net)
    assert (axes["0.weight"], axes["1.weight"]) == (ChannelAxis(0), ChannelAxis(1))
