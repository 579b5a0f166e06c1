from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_dynamics import ConfigurationError
from lightning_dynamics.nn import CoordConv2d, CoordConvTranspose2d, convert


class Own(nn.Conv2d):
    """A subclass, whose forward nobody knows."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            norm=nn.BatchNorm2d(8),
            body=nn.Sequential(
                nn.Conv2d(8, 8, 3, padding="same", groups=4, padding_mode="circular"), nn.ReLU(), nn.Conv2d(8, 4, 1)
            ),
            up=nn.ConvTranspose2d(4, 2, 3, 2, 1, 1),
        )
    )


X = torch.randn(3, 3, 9, 14)


@pytest.mark.parametrize("radius", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_it_starts_as_the_same_function_to_the_bit(dtype: torch.dtype, radius: bool) -> None:
    net = network().to(dtype)
    before = copy.deepcopy(net)
    assert convert(net, radius=radius) is net
    kinds = [type(part).__name__ for part in net.modules() if not isinstance(part, nn.Sequential)]
    assert kinds == ["CoordConv2d", "BatchNorm2d", "CoordConv2d", "ReLU", "CoordConv2d", "CoordConvTranspose2d"]
    x = X.to(dtype)
    assert torch.equal(net(x), before(x))
    net.zero_grad()
    net(x).square().sum().backward()
    before(x).square().sum().backward()
    for name, parameter in before.named_parameters():
        assert torch.equal(net.get_parameter(name).grad, parameter.grad), name
    for part in net.modules():
        if isinstance(part, CoordConv2d | CoordConvTranspose2d):
            assert part.radius == radius and part.coordinate_weight.grad.abs().max() > 0
            assert part.coordinate_weight.dtype == dtype


def test_it_equals_a_coordconv_built_with_these_weights() -> None:
    for plain, ours in ((nn.Conv2d, CoordConv2d), (nn.ConvTranspose2d, CoordConvTranspose2d)):
        converted = convert(plain(4, 6, 3, 2, 1, groups=2), radius=True)
        built = ours(4, 6, 3, 2, 1, groups=2, radius=True)
        nn.init.normal_(converted.coordinate_weight)
        built.load_state_dict(converted.state_dict())
        x = torch.randn(2, 4, 5, 8)
        assert torch.equal(converted(x), built(x)) and repr(converted) == repr(built)


def test_only_what_the_pattern_names() -> None:
    assert names(convert(network(), "body.*")) == ["body.0", "body.2"]
    assert names(convert(network(), ["stem", "u*"])) == ["stem", "up"]
    assert names(convert(network(), ("*",))) == ["stem", "body.0", "body.2", "up"]


def names(net: nn.Module) -> list[str]:
    return [name for name, part in net.named_modules() if isinstance(part, CoordConv2d | CoordConvTranspose2d)]


def test_objects_names_flags_and_hooks_stay() -> None:
    net = network().eval()
    net.body.train()
    net.stem.weight.requires_grad_(False)
    seen: list[str] = []
    net.body[0].register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    modules, parameters = dict(net.named_modules()), dict(net.named_parameters())
    flags = [part.training for part in net.modules()]
    convert(net)
    assert dict(net.named_modules()) == modules and [part.training for part in net.modules()] == flags
    assert all(net.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert all(any(p is q for q in net.parameters()) for group in optimizer.param_groups for p in group["params"])
    assert not net.stem.coordinate_weight.requires_grad and net.up.coordinate_weight.requires_grad
    net(X)
    assert seen == ["CoordConv2d"]


def test_a_layer_used_twice_stays_one() -> None:
    shared = nn.Conv2d(2, 2, 3, padding=1)
    net = nn.ModuleDict({"first": shared, "second": shared, "other": nn.Conv2d(2, 2, 1)})
    convert(net, "second")
    assert net["first"] is net["second"] and type(shared) is CoordConv2d and type(net["other"]) is nn.Conv2d
    assert len(list(net.parameters())) == 5


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1))
    net[1].weight = net[0].weight
    convert(net)
    assert net[1].weight is net[0].weight
    assert net[1].coordinate_weight is not net[0].coordinate_weight


def test_a_single_convolution() -> None:
    layer = nn.Conv2d(3, 4, 3)
    assert convert(layer) is layer and type(layer) is CoordConv2d
    assert convert(nn.Conv2d(3, 4, 3), "").coordinate_weight.shape == (4, 2, 3, 3)


def test_converting_again_changes_nothing() -> None:
    net = convert(network(), "stem")
    nn.init.ones_(net.stem.coordinate_weight)
    convert(convert(net, "stem", radius=True))
    assert not net.stem.radius and net.stem.coordinate_weight.eq(1).all()
    assert type(net.up) is CoordConvTranspose2d


def test_subclasses_are_left_alone() -> None:
    net = nn.ModuleDict(
        {
            "own": Own(2, 2, 3),
            "lazy": nn.LazyConv2d(2, 3),
            "normed": parametrizations.weight_norm(nn.Conv2d(2, 2, 3)),
            "plain": nn.Conv2d(2, 2, 3),
        }
    )
    kinds = {name: type(part) for name, part in net.items()}
    convert(net)
    assert {name: type(part) for name, part in net.items()} == kinds | {"plain": CoordConv2d}
    with pytest.raises(ConfigurationError, match="subclasses are not converted: .*'own' \\(Own\\)"):
        convert(net, "own")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("head.*", "`pattern='head.\\*'` matches no convolution; there are: 'stem', 'body.0', 'body.2', 'up'"),
        (["stem", "norm"], "`pattern='norm'` matches no convolution"),
        ([], "`pattern` is empty"),
    ],
    ids=["nothing", "one of two", "empty"],
)
def test_a_pattern_that_matches_nothing_changes_nothing(pattern: Any, text: str) -> None:
    net = network()
    with pytest.raises(ConfigurationError, match=text):
        convert(net, pattern)
    assert not names(net) and "coordinate_weight" not in str(net.state_dict().keys())


def test_a_model_without_convolutions() -> None:
    with pytest.raises(ConfigurationError, match="there are: none"):
        convert(nn.Linear(2, 2))


def test_not_after_ddp(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        net = nn.parallel.DistributedDataParallel(network())
        with pytest.raises(ConfigurationError, match="before it is wrapped"):
            convert(net)
        assert not names(net)
        # Once converted, DDP takes it: every weight has its gradient in every step.
        net = nn.parallel.DistributedDataParallel(convert(network(), radius=True))
        for _ in range(2):
            net(X).sum().backward()
        assert all(parameter.grad is not None for parameter in net.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_a_compiled_model_is_compiled_anew() -> None:
    torch.compiler.reset()
    net = torch.compile(network(), backend="eager")
    before = net(X)
    convert(net, "body.*")
    assert names(net._orig_mod) == ["body.0", "body.2"]
    torch.testing.assert_close(net(X), before, rtol=0, atol=1e-6)
    nn.init.ones_(net.body[0].coordinate_weight)
    assert (net(X) - before).abs().max() > 0.1
    torch.testing.assert_close(net(X), net._orig_mod(X), rtol=0, atol=1e-6)


def test_what_was_converted_learns_where_things_are() -> None:
    """A 1 x 1 convolution cannot give x; converted, it can."""
    torch.manual_seed(0)
    net = convert(nn.Sequential(nn.Conv2d(1, 1, 1)))
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=50)
    x = torch.randn(4, 1, 6, 8)
    target = torch.linspace(-1, 1, 8).expand(4, 1, 6, 8)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.mse_loss(net(x), target)
        value.backward()
        return value

    assert loss() > 0.1
    optimizer.step(loss)
    assert loss() < 1e-8
