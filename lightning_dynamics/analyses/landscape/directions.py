"""Random directions through the weights of a module, whose layers say what a filter is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from torch import Tensor, nn

from lightning_dynamics.analyses.landscape import estimator
from lightning_dynamics.analyses.landscape.estimator import Direction, Normalization
from lightning_dynamics.core.parameters import channel_axes, plain_name


class Roles(TypedDict):
    """What a module's layers tell :func:`~lightning_dynamics.landscape.filter_normalize`."""

    output_dims: dict[str, int | None]
    groups: dict[str, int]
    unmoved: list[str]


def roles_in(module: nn.Module) -> Roles:
    """Of every parameter, by plain name: where its outputs lie, and whether it is one of a normalisation layer's."""
    axes = channel_axes(module)
    return {
        "output_dims": {name: axis.dim for name, axis in axes.items()},
        "groups": {name: axis.groups for name, axis in axes.items()},
        "unmoved": normalization_parameters(module),
    }


def normalization_parameters(module: nn.Module) -> list[str]:
    """Plain names of normalisation layers' parameters: of any shape, they are scales and shifts."""
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return [
        plain_name(f"{prefix}.{name}" if prefix else name)
        for prefix, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, kinds)
        for name, _ in layer.named_parameters(remove_duplicate=False)
        if "." not in name or name.startswith("parametrizations.")
    ]


def random_directions(
    parameters: Mapping[str, Tensor] | nn.Module,
    *,
    count: int = 2,
    seed: int = 0,
    normalize: Normalization = "filter",
    move_biases: bool = False,
    output_dims: Mapping[str, int | None] | None = None,
    groups: Mapping[str, int] | None = None,
    unmoved: Sequence[str] = (),
) -> tuple[Direction, ...]:
    """Gaussian directions, normalised by :func:`filter_normalize`: the same on every device and in every process.

    Args:
        parameters: the weights; directions have their names, shapes, dtypes and devices. Of a module, all of them, and
            ``output_dims``, ``groups`` and ``unmoved`` are known unless they are given.
        count: how many.
        seed: of the CPU generator that draws them; the k-th direction does not depend on ``count``.
        normalize: ``"filter"``, ``"layer"`` or ``"none"``.
        move_biases: see :func:`filter_normalize`; so the rest.
        output_dims: see there.
        groups: see there.
        unmoved: see there.

    Returns:
        ``count`` directions. In high dimension they are nearly orthogonal: see :func:`cosine`.

    Raises:
        ValueError: nothing would move.
    """
    if isinstance(parameters, nn.Module):
        roles, module = roles_in(parameters), parameters
        parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
        plain = {name: plain_name(name) for name in parameters}
        if output_dims is None:
            output_dims = {name: roles["output_dims"][plain[name]] for name in parameters}
            groups = {name: roles["groups"][plain[name]] for name in parameters} if groups is None else groups
        unmoved = unmoved or [name for name in parameters if plain[name] in roles["unmoved"]]
    return estimator.random_directions(
        parameters,
        count=count,
        seed=seed,
        normalize=normalize,
        move_biases=move_biases,
        output_dims=output_dims,
        groups=groups,
        unmoved=unmoved,
    )
