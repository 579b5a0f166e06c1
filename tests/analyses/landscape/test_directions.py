"""Random directions of modules: a filter is what makes one output, however its weight is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lightning_dynamics.analyses.landscape import filter_normalize, random_directions
from lightning_dynamics.analyses.landscape.directions import normalization_parameters, roles_in

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def pruned(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(layer, "weight", amount=0.25)


class Own(nn.ConvTranspose2d):
    """A user's subclass."""


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda layer: layer,
    "spectral norm": parametrizations.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "weight norm of outputs": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "orthogonal": parametrizations.orthogonal,
    "old spectral norm": nn.utils.spectral_norm,
    "old weight norm": nn.utils.weight_norm,
    "pruned": pruned,
    "compiled": lambda layer: torch.compile(layer, backend="eager"),
}
TRANSPOSED: dict[str, Callable[[], nn.Module]] = {
    "1 dimension": lambda: nn.ConvTranspose1d(3, 5, 4),
    "2 dimensions": lambda: Own(3, 5, 2),
    "3 dimensions": lambda: nn.ConvTranspose3d(3, 5, 2),
}


def stand_in(module: nn.Module) -> str:
    """The parameter of the weight's own shape."""
    return max(dict(module.named_parameters()).items(), key=lambda item: item[1].numel())[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", TRANSPOSED)
def test_filters_of_a_transposed_convolution_lie_along_dimension_one(kind: str, way: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(WAYS[way](TRANSPOSED[kind]()))
    buffers = copy.deepcopy(dict(module.named_buffers()))
    name = stand_in(module)
    weight, direction = dict(module.named_parameters())[name], random_directions(module, count=1)[0][name]
    assert weight.shape[:2] == (3, 5)
    for output in range(5):
        torch.testing.assert_close(direction[:, output].norm(), weight.detach()[:, output].norm())
    for buffer, before in buffers.items():
        assert torch.equal(dict(module.named_buffers())[buffer], before), "a power iteration was done"


@pytest.mark.parametrize("way", ["plain", "spectral norm", "pruned"])
def test_a_grouped_transposed_convolution_has_a_filter_for_every_output(way: str) -> None:
    """Output j of group g is made by the slice j of the g-th part of the inputs: found by its own gradient."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    output = layer(torch.randn(2, 4, 5, 5))
    filters = [torch.autograd.grad(output[:, c].sum(), layer.weight, retain_graph=True)[0] != 0 for c in range(6)]
    module = nn.Sequential(WAYS[way](layer))
    name = stand_in(module)
    weight, direction = dict(module.named_parameters())[name].detach(), random_directions(module, count=1)[0][name]
    for one in filters:
        assert int(one.sum()) == 2 * 9
        torch.testing.assert_close(direction[one].norm(), weight[one].norm())


def test_scales_of_weight_norm() -> None:
    """A scale for each input is one filter with the others; a scale for each output is one of its own."""
    torch.manual_seed(0)
    for dim, count in ((0, 1), (1, 5)):
        module = parametrizations.weight_norm(nn.ConvTranspose2d(3, 5, 2), dim=dim)
        (direction,) = random_directions(module, count=1)
        scale = dict(module.named_parameters())["parametrizations.weight.original0"].detach()
        factors = direction["parametrizations.weight.original0"].abs() / scale.abs()
        assert scale.numel() == (3, 5)[dim]
        assert torch.allclose(factors, torch.ones(())) == (count == 5)
        torch.testing.assert_close((factors * scale).norm(), scale.norm())


@pytest.mark.parametrize("way", WAYS)
def test_filters_of_other_layers_are_their_first_dimension(way: str) -> None:
    torch.manual_seed(0)
    for layer in (nn.Conv2d(3, 5, 2), nn.Linear(3, 5)):
        module = nn.Sequential(WAYS[way](layer))
        name = stand_in(module)
        weight, direction = dict(module.named_parameters())[name].detach(), random_directions(module, count=1)[0][name]
        torch.testing.assert_close(direction.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))


def test_normalisation_layers_of_any_shape_stay() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm([2, 4]))
    assert normalization_parameters(module) == ["1.weight", "1.bias"]
    assert not random_directions(module, count=1)[0]["1.weight"].any()
    nn.utils.parametrize.register_parametrization(module[1], "weight", nn.Identity())
    (direction,) = random_directions(module, count=1)
    assert direction["0.weight"].any() and not direction["1.parametrizations.weight.original"].any()


def test_what_a_module_tells_can_be_told() -> None:
    module = torch.compile(
        nn.Sequential(nn.ConvTranspose2d(4, 2, 3, groups=2), nn.LayerNorm([2, 3, 3])), backend="eager"
    )
    (mine,) = random_directions(module, count=1, seed=5)
    plain: dict[str, Tensor] = {name.removeprefix("_orig_mod."): p.detach() for name, p in module.named_parameters()}
    (theirs,) = random_directions(plain, count=1, seed=5, **roles_in(module))
    assert all(torch.equal(mine[f"_orig_mod.{name}"], theirs[name]) for name in plain)
    assert not theirs["1.weight"].any() and theirs["0.weight"].any() and not theirs["0.weight"].requires_grad
    (given,) = random_directions(module, count=1, seed=5, output_dims={})
    first = filter_normalize(given, plain | given)["_orig_mod.0.weight"]
    torch.testing.assert_close(given["_orig_mod.0.weight"], first, msg="what is given is not overruled")
