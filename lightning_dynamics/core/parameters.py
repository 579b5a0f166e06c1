"""Parameters: their names, a choice of them, one flat view, moving them and putting them back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_dynamics.core.lightning import ConfigurationError


def plain_name(name: str) -> str:
    """A parameter's or module's name without what ``torch.compile`` puts into it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def select_parameters(
    module: nn.Module, patterns: str | Sequence[str] = "*", *, argument: str = "parameters"
) -> dict[str, nn.Parameter]:
    """Parameters whose name matches one of the globs, in the module's order, tied ones once.

    Raises:
        ConfigurationError: no pattern, or one that matches nothing, naming ``argument``.
    """
    named = {plain_name(name): parameter for name, parameter in module.named_parameters()}
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    if not wanted:
        raise ConfigurationError(f"`{argument}` is empty: give at least one pattern, e.g. '*'")
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ConfigurationError(
                f"`{argument}={pattern!r}` matches no parameter; there are: {', '.join(named) or 'none'}"
            )
    return {
        name: parameter for name, parameter in named.items() if any(fnmatchcase(name, pattern) for pattern in wanted)
    }


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """One ``(P,)`` copy of all the tensors, in their order."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of a ``(P,)`` tensor in the shapes of ``like``, without a copy."""
    pieces = flat.split([tensor.numel() for tensor in like.values()])
    return {name: piece.view(tensor.shape) for (name, tensor), piece in zip(like.items(), pieces, strict=True)}


@torch.no_grad()
def copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values as they are now."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def assign(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write values into parameters in place; storage and identity stay."""
    for name, parameter in parameters.items():
        parameter.data.copy_(values[name])


@contextmanager
def moved(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Parameters at other values inside; their very bits back afterwards, not old ± difference."""
    saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        assign(parameters, values)
        yield
    finally:
        assign(parameters, saved)


@dataclass(frozen=True)
class ChannelAxis:
    """Where the output channels of a parameter lie.

    Args:
        dim: the dimension that counts them; None if none does: the parameter belongs to all of them together.
        groups: dimension 0 is in so many equal parts, and each has channels of its own along ``dim``: 1 but for grouped
            transposed convolutions.
    """

    dim: int | None
    groups: int = 1


def channel_axes(module: nn.Module) -> dict[str, ChannelAxis]:
    """Where the output channels of every parameter lie, by its role in its layer and so also where it is parametrized.

    It is the first dimension (rows of linear and recurrent layers, kernels of a convolution, vectors of an embedding),
    but for transposed convolutions. Their weight is ``(in, out / groups, …)``: output channel ``j`` of group ``g`` is
    made by the slice ``j`` along dimension 1 of the ``g``-th part of dimension 0. This holds for whatever stands for
    the weight: ``original…`` of :mod:`torch.nn.utils.parametrizations`, ``weight_orig`` of spectral norm and pruning,
    ``weight_g`` and ``weight_v`` of weight norm. Where such a tensor has a scale for each input only, ``dim`` is None.

    Returns:
        By plain name; of tied parameters under each of their names, by the role that each of them has.
    """
    axes = {
        plain_name(name): ChannelAxis(0 if is_lazy(parameter) or parameter.ndim else None)
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }
    for prefix, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            for name, parameter in _stand_ins(layer, "weight").items():
                axes[plain_name(f"{prefix}.{name}" if prefix else name)] = _of_transposed(layer, parameter)
    return axes


def _stand_ins(layer: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters that a layer computes this tensor from, or the tensor itself, by name."""
    # The tensor itself is not asked for: spectral norm takes a step of its power iteration each time.
    form = re.compile(rf"{name}(_orig|_g|_v)*|parametrizations\.{name}\.original\d*")
    return {key: parameter for key, parameter in layer.named_parameters(remove_duplicate=False) if form.fullmatch(key)}


def _of_transposed(layer: nn.modules.conv._ConvTransposeNd, parameter: nn.Parameter) -> ChannelAxis:
    if is_lazy(parameter):
        return ChannelAxis(1)
    per_group = layer.out_channels // layer.groups
    if parameter.ndim < 2 or parameter.shape[1] != per_group:
        return ChannelAxis(None)
    # Weight norm with `dim=1` scales the channels of all groups alike.
    return ChannelAxis(1, layer.groups if len(parameter) == layer.in_channels else 1)
